"""Pictures of cells. matplotlib, scikit-learn and umap-learn are imported where they are used: each takes its time."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

N_NEIGHBORS = 15
# Below this a neighbourhood is the whole dataset.
FEWEST_FOR_UMAP = N_NEIGHBORS + 1
# UMAP's own for a minimal distance of 0.5 and a spread of 1, as scanpy draws it.
MIN_DISTANCE, SPREAD = 0.5, 1.0
N_EPOCHS = 200

# Okabe & Ito's colours, told apart by all eyes: https://jfly.uni-koeln.de/color/
FEW_COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#000000")
# Paul Tol's discrete rainbow, made for colour-blind readers where there must be many: https://personal.sron.nl/~pault/
MANY_COLORS = [
    "#e8ecfb",
    "#d9cce3",
    "#caaccb",
    "#ba8db4",
    "#aa6f9e",
    "#994f88",
    "#882e72",
    "#1965b0",
    "#437dbf",
    "#6195cf",
    "#7bafde",
    "#4eb265",
    "#90c987",
    "#cae0ab",
    "#f7f056",
    "#f7cb45",
    "#f4a736",
    "#ee8026",
    "#e65518",
    "#dc050c",
    "#a5170e",
    "#72190e",
    "#42150a",
][4:]
GREY = "#c8c8c8"
LONGEST_NAME = 26


def umap(latent: np.ndarray, seed: int) -> np.ndarray:
    """Lay cells out in two dimensions (cells x 2) by UMAP, from the two dimensions that vary most.

    McInnes, Healy & Melville 2018, arXiv:1802.03426. The layout is umap-learn's; the weights of the neighbours are
    computed here, because umap-learn compiles its own anew in each process, at 4 s of CPU whatever the number of cells.
    """
    from umap.umap_ import find_ab_params, simplicial_set_embedding

    rng = np.random.RandomState(seed)
    start = first_two(latent)
    start = start + rng.normal(scale=1e-4 * (np.ptp(start) or 1), size=start.shape)
    a, b = find_ab_params(SPREAD, MIN_DISTANCE)
    position, _ = simplicial_set_embedding(
        latent,
        neighbor_weights(latent),
        n_components=2,
        initial_alpha=1.0,
        a=a,
        b=b,
        gamma=1.0,
        negative_sample_rate=5,
        n_epochs=N_EPOCHS,
        init=start,
        random_state=rng,
        metric="euclidean",
        metric_kwds={},
        densmap=False,
        densmap_kwds={},
        output_dens=False,
    )
    return position


def neighbor_weights(latent: np.ndarray):
    """Return UMAP's weights of the cells' nearest neighbours: symmetric COO float32, cells x cells.

    Algorithms 2 and 3 of arXiv:1802.03426: exp(-(d - rho) / sigma), where rho is the distance of the nearest neighbour
    that lies elsewhere, and sigma is such that the weights of a cell add up to log2 of the number of neighbours, itself
    counted; then joined as the probability of either direction.
    """
    from scipy.sparse import csr_matrix
    from sklearn.neighbors import NearestNeighbors

    n, k = len(latent), N_NEIGHBORS - 1
    distance, neighbor = NearestNeighbors(n_neighbors=k).fit(latent).kneighbors()
    nearest = np.where(distance > 0, distance, np.inf).min(axis=1, keepdims=True)
    beyond = np.maximum(distance - np.where(np.isfinite(nearest), nearest, 0), 0)
    sigma = _bandwidth(beyond, np.log2(N_NEIGHBORS))
    # Where many neighbours are equally near no bandwidth fits: UMAP's floor, relative to the distances.
    sigma = np.maximum(sigma, 1e-3 * (distance.mean() or 1))
    weight = np.exp(-beyond / sigma)
    one_way = csr_matrix((weight.ravel(), neighbor.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))
    return (one_way + one_way.T - one_way.multiply(one_way.T)).tocoo().astype(np.float32)


def _bandwidth(beyond: np.ndarray, target: float) -> np.ndarray:
    """Bisect, for each row, the sigma with which exp(-beyond / sigma) adds up to the target; returns rows x 1."""
    low = np.zeros((len(beyond), 1))
    high = np.full_like(low, np.inf)
    sigma = np.ones_like(low)
    for _ in range(64):
        too_wide = np.exp(-beyond / sigma).sum(axis=1, keepdims=True) > target
        high = np.where(too_wide, sigma, high)
        low = np.where(too_wide, low, sigma)
        sigma = np.where(np.isinf(high), sigma * 2, (low + high) / 2)
        sigma = np.maximum(sigma, np.finfo(float).tiny)
    return sigma


def first_two(latent: np.ndarray) -> np.ndarray:
    """Return the two latent dimensions that vary most (cells x 2): a model's dimensions have no order of their own."""
    order = np.argsort(-latent.var(axis=0), kind="stable")[:2]
    chosen = latent[:, order].astype(np.float64)
    return np.pad(chosen, ((0, 0), (0, 2 - chosen.shape[1])))


def draw_cells(
    position: np.ndarray,
    panels: dict[str, pd.Series],
    alike: Collection[str],
    shares: Collection[str],
    title: str,
    path: Path,
) -> None:
    """Draw the cells once a panel, coloured by its values, to `path`.png and `path`.pdf.

    Numbers get a colour bar; anything else a legend, the most frequent first, numbered in the picture where colours
    alone would not tell so many apart. Panels named in `alike` share their categories, and so number and colour them alike;
    those named in `shares` are coloured from 0 to 1 (or further, if they go there), so that mappings can be compared.
    """
    import matplotlib
    from matplotlib.figure import Figure

    together = ranked(pd.concat([panels[name] for name in alike])).index if alike else None
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    # Names of cell types are text, also where they hold a $; PDF text stays text.
    with matplotlib.rc_context({"text.parse_math": False, "pdf.fonttype": 42, "font.size": 8}):
        figure = Figure(figsize=(5.9 * columns, 3.3 * rows + 0.4), layout="constrained")
        axes = figure.subplots(rows, 2 * columns, width_ratios=[3.3, 2.6] * columns, squeeze=False).reshape(-1, 2)
        for axis in axes.flat:
            axis.set_axis_off()
        for (axis, side), (name, values) in zip(axes, panels.items(), strict=False):
            _draw_frame(axis, name)
            # Smaller with more cells, and flat: thousands of vector points would choke the PDF.
            dots = {"s": float(np.clip(6000 / len(position), 1.5, 30)), "linewidths": 0, "rasterized": True}
            if pd.api.types.is_numeric_dtype(values.dtype):
                numbers = values.to_numpy(float, na_value=np.nan)
                limits = (0, max(1, np.nanmax(numbers, initial=0))) if name in shares else (None, None)
                _draw_numbers(axis, side, position, numbers, limits, dots)
            else:
                order = together if name in alike else ranked(values).index
                _draw_categories(axis, side, position, values, list(order), dots)
        figure.suptitle(title, fontsize=10, fontweight="bold")
        save_png(figure, path.with_suffix(".png"))
        figure.savefig(path.with_suffix(".pdf"), dpi=200)


def ranked(values: pd.Series) -> pd.Series:
    """Count values, the most frequent first and those of the same count by name."""
    return values.value_counts().sort_index().sort_values(ascending=False, kind="stable")


def _draw_frame(axis, name: str) -> None:
    axis.set_axis_on()
    axis.set_title(_short(name, 60), loc="left", fontsize=9)
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set_color(GREY)


def _draw_numbers(axis, side, position: np.ndarray, values: np.ndarray, limits: tuple, dots: dict) -> None:
    known = np.isfinite(values)
    axis.scatter(*position[~known].T, color=GREY, **dots)
    if known.any():
        points = axis.scatter(*position[known].T, c=values[known], cmap="viridis", vmin=limits[0], vmax=limits[1], **dots)
        axis.figure.colorbar(points, cax=side.inset_axes((0.02, 0.05, 0.05, 0.9)))


def _draw_categories(axis, side, position: np.ndarray, values: pd.Series, ranked: list[str], dots: dict) -> None:
    numbered = len(ranked) > len(FEW_COLORS)
    colors = _spread(MANY_COLORS, len(ranked)) if numbered else FEW_COLORS
    shown = dict(zip(ranked, colors, strict=False))
    # One call for all, in the cells' random order: no category lies on top of another.
    axis.scatter(*position.T, c=values.map(shown).fillna(GREY).tolist(), **dots)
    counts = values.value_counts()
    entries = []
    for number, (label, color) in enumerate(shown.items(), start=1):
        if label not in counts:
            continue
        entries.append((f"{number}  " * numbered + f"{_short(label)} ({counts[label]:,})", color))
        if numbered:
            _write_number(axis, np.median(position[(values == label).to_numpy()], axis=0), number)
    others = counts[~counts.index.isin(list(shown))]
    if len(others):
        entries.append((f"{len(others)} others ({others.sum():,})", GREY))
    if values.isna().any():
        entries.append((f"missing ({values.isna().sum():,})", GREY))
    _draw_legend(side, entries)


def _spread(colors: list[str], n: int) -> list[str]:
    """Take n of the colours, as far apart as they come."""
    return [colors[i] for i in np.linspace(0, len(colors) - 1, min(n, len(colors))).round().astype(int)]


def _write_number(axis, at: np.ndarray, number: int) -> None:
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=2, foreground="white")]
    axis.text(*at, number, ha="center", va="center", fontsize=8, fontweight="bold", path_effects=halo)


def _draw_legend(side, entries: list[tuple[str, str]]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], marker="o", linestyle="", markersize=5, color=color, label=text) for text, color in entries]
    legend = side.legend(
        handles=handles,
        loc="upper left",
        borderaxespad=0,
        frameon=False,
        handletextpad=0.1,
        fontsize=8 if len(entries) <= 14 else 6.5,
        labelspacing=0.4 if len(entries) <= 14 else 0.2,
    )
    # A long legend must not squeeze the picture beside it.
    legend.set_in_layout(False)


def draw_confusion(table: pd.DataFrame, name: str, path: Path) -> None:
    """Draw true labels (rows) x predicted ones (columns), shaded by the share of the row, with the cells written in."""
    import matplotlib
    from matplotlib.figure import Figure

    share = table.to_numpy() / np.maximum(table.to_numpy().sum(axis=1, keepdims=True), 1)
    size = 2.6 + 0.38 * np.array(table.shape[::-1])
    with matplotlib.rc_context({"text.parse_math": False, "font.size": 8}):
        figure = Figure(figsize=np.clip(size, 3.5, 16), layout="constrained")
        axis = figure.subplots()
        axis.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axis.set_xticks(range(table.shape[1]), [_short(label) for label in table.columns], rotation=45, ha="right")
        axis.set_yticks(range(table.shape[0]), [_short(label) for label in table.index])
        axis.set(xlabel="predicted label", ylabel="true label")
        axis.set_title(f"{name}: cells by true and predicted label", fontsize=9, fontweight="bold")
        if max(table.shape) <= 30:
            for (i, j), count in np.ndenumerate(table.to_numpy()):
                if count:
                    axis.text(j, i, count, ha="center", va="center", fontsize=7, color="white" if share[i, j] > 0.5 else "black")
        save_png(figure, path)


def save_png(figure, path: Path) -> None:
    """Save at 110 dots an inch in 256 colours: a report of 200 mappings carries 200 of these."""
    from io import BytesIO

    from PIL import Image

    buffer = BytesIO()
    figure.savefig(buffer, dpi=110)
    Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def _short(text: object, most: int = LONGEST_NAME) -> str:
    text = str(text)
    return text if len(text) <= most else text[: most - 1] + "…"
