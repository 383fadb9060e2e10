"""Pictures of cells. matplotlib is imported where it is used, as that takes its time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ..transfer.labels import UNKNOWN

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
GREY, BACKDROP, UNKNOWN_COLOR = "#c8c8c8", "#e6e6e6", "#6e6e6e"
LONGEST_NAME = 26
# Of more cells the dots are pixels in a PDF, as thousands of vector points would choke it.
MOST_VECTOR_DOTS = 2_000
# Of pictures of cells, in inches: from one panel to the next, the frame of each, and the room above all
PITCH, FRAME, HEADING = (5.9, 3.3), (3.2, 3.05), 0.4
# Names of cell types are text, also where they hold a $; PDF text stays text. By the type of PostScript's fonts matplotlib also parts
# those of a PDF: by its default the … is a font of its own, cut from the whole one anew.
# Images lie far from each other: as one they would be nearly as large as the page.
STYLE = {
    "text.parse_math": False,
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "font.size": 8,
    "image.composite_image": False,
}
# What a font knows of laying out text: glyphs in a PDF have their places, and to cut this down took half of the time of a font
LAYOUT_TABLES = ("GDEF", "GPOS", "GSUB")


@dataclass
class Panel:
    """One picture of cells.

    name         what stands above it
    values       what its cells are coloured by: numbers get a colour bar, anything else a legend
    position     where they are, cells x 2
    order        the categories in the order of their colours; by default the most frequent first
    limits       the ends of the colour bar; by default those of the values
    backdrop     other cells, drawn grey below these, cells x 2
    """

    name: str
    values: pd.Series
    position: np.ndarray
    order: list[str] | None = None
    limits: tuple[float | None, float | None] = (None, None)
    backdrop: np.ndarray | None = None

    @property
    def is_number(self) -> bool:
        return pd.api.types.is_numeric_dtype(self.values.dtype)


def color_alike(panels: list[Panel]) -> None:
    """Give panels of the same labels the same colours and numbers: the most frequent first, of all of them together."""
    if panels:
        together = list(ranked(pd.concat([panel.values.astype(object) for panel in panels])).index)
        for panel in panels:
            panel.order = together


def share_limits(panel: Panel) -> None:
    """Colour from 0 to 1, or further if the values go there, so that mappings can be compared."""
    panel.limits = (0, max(1, np.nanmax(panel.values.to_numpy(float, na_value=np.nan), initial=0)))


def draw_cells(panels: list[Panel], title: str, path: Path) -> None:
    """Draw cells, a picture a panel, to `path`.png and `path`.pdf.

    Where colours alone would not tell so many categories apart, they are numbered in the picture.
    """
    import matplotlib

    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    with matplotlib.rc_context(STYLE):
        page = Page(PITCH[0] * columns, PITCH[1] * rows + HEADING)
        page.write(page.width / 2, 0.2, title, ha="center", fontsize=10, fontweight="bold")
        for number, panel in enumerate(panels):
            left, top = PITCH[0] * (number % columns) + 0.05, PITCH[1] * (number // columns) + HEADING + 0.15
            page.write(left, top - 0.06, short(panel.name, 60), fontsize=9)
            page.frame(left, top, *FRAME, color=GREY)
            everywhere = [panel.position] if panel.backdrop is None else [panel.position, panel.backdrop]
            inches = _fitted(np.concatenate(everywhere), left, top)
            at = inches[: len(panel.position)]
            if panel.backdrop is not None:
                page.dot(inches[len(at) :], BACKDROP, _size(len(panel.backdrop)))
            if panel.is_number:
                _draw_numbers(page, at, panel.values.to_numpy(float, na_value=np.nan), panel.limits, left + FRAME[0] + 0.2, top)
            else:
                order = list(ranked(panel.values).index) if panel.order is None else panel.order
                _draw_categories(page, at, panel.values, order, left + FRAME[0] + 0.2, top)
        save_picture(page.finish(), path)


class Page:
    """A figure whose places are inches from its upper left corner, with all dots in one collection.

    Axes of matplotlib take 0.1 s each to be made, laid out and drawn twice, most of which is for ticks that pictures of cells have none of.
    """

    def __init__(self, width: float, height: float):
        from matplotlib.figure import Figure

        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height))
        self.axis = self.figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), autoscale_on=False)
        self.axis.set_axis_off()
        self._dots: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._lines: list[tuple[np.ndarray, str]] = []

    def write(self, x: float, y: float, text: object, **how) -> None:
        """Write a line of text that stands on `y`."""
        self.axis.text(x, y, text, **how)

    def line(self, points: list[tuple[float, float]], color: str) -> None:
        self._lines.append((np.array(points), color))

    def frame(self, left: float, top: float, width: float, height: float, color: str) -> None:
        right, bottom = left + width, top + height
        self.line([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)], color)

    def dot(self, at: np.ndarray, colors: object, size: float) -> None:
        """Add dots (n x 2), of one colour or one each, of so many square points. Those without a place are left out."""
        from matplotlib.colors import to_rgba_array

        known = np.isfinite(at).all(axis=1)
        self._dots.append((at[known], np.broadcast_to(to_rgba_array(colors), (len(at), 4))[known], np.full(known.sum(), size)))

    def finish(self):
        """Return the figure with all that was added."""
        from matplotlib.collections import LineCollection

        from .dots import Dots

        if self._lines:
            lines, colors = zip(*self._lines, strict=True)
            self.axis.add_collection(LineCollection(lines, colors=colors, linewidths=0.8, zorder=2.5), autolim=False)
        rasterized = any(len(at) > MOST_VECTOR_DOTS for at, _, _ in self._dots)
        self.axis.add_collection(Dots(self.axis, *map(np.concatenate, zip(*self._dots, strict=True)), rasterized), autolim=False)
        return self.figure


def _size(n: int) -> float:
    """How large each of `n` cells is drawn, in square points: smaller with more."""
    return float(np.clip(6000 / max(n, 1), 1.5, 30))


def _fitted(position: np.ndarray, left: float, top: float) -> np.ndarray:
    """Places of cells in the frame of a panel, in inches, with a margin around them."""
    low, high = np.nanmin(position, axis=0), np.nanmax(position, axis=0)
    share = 0.5 + 0.9 * (position - (low + high) / 2) / np.where(high > low, high - low, 1)
    return np.column_stack([left + FRAME[0] * share[:, 0], top + FRAME[1] * (1 - share[:, 1])])


def ranked(values: pd.Series) -> pd.Series:
    """Count values, the most frequent first and those of the same count by name."""
    return values.value_counts().sort_index().sort_values(ascending=False, kind="stable")


def _draw_numbers(page: Page, at: np.ndarray, values: np.ndarray, limits: tuple, left: float, top: float) -> None:
    """Colour cells by numbers, and draw the bar of colours at the right of their frame."""
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator
    from matplotlib.transforms import nonsingular

    known = np.isfinite(values)
    page.dot(at[~known], GREY, _size(len(at)))
    if not known.any():
        return
    low, high = (given if given is not None else end(values[known]) for given, end in zip(limits, (np.min, np.max), strict=True))
    low, high = nonsingular(low, high, expander=0.1)
    colors = colormaps["viridis"]((values[known] - low) / (high - low))
    page.dot(at[known], colors, _size(len(at)))
    top, width, height = top + 0.15, 0.12, FRAME[1] - 0.3
    page.axis.imshow(
        np.linspace(1, 0, 256)[:, None],
        cmap="viridis",
        vmin=0,
        vmax=1,
        aspect="auto",
        extent=(left, left + width, top + height, top),
        interpolation="nearest",
    )
    page.frame(left, top, width, height, color="black")
    for tick in MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high):
        if low <= tick <= high:
            y = top + height * (high - tick) / (high - low)
            page.line([(left + width, y), (left + width + 0.05, y)], "black")
            page.write(left + width + 0.1, y + 0.04, f"{tick:g}")


def _draw_categories(page: Page, at: np.ndarray, values: pd.Series, ranked: list[str], left: float, top: float) -> None:
    """Colour cells by categories, and tell these at the right of their frame."""
    ranked = [label for label in ranked if label != UNKNOWN]
    numbered = len(ranked) > len(FEW_COLORS)
    colors = spread(MANY_COLORS, len(ranked)) if numbered else FEW_COLORS
    shown = dict(zip(ranked, colors, strict=False)) | {UNKNOWN: UNKNOWN_COLOR}
    # All at once, in the cells' random order: no category lies on top of another.
    page.dot(at, values.astype(object).map(shown).fillna(GREY).tolist(), _size(len(at)))
    counts = values.value_counts()
    entries = []
    for number, (label, color) in enumerate(shown.items(), start=1):
        if label not in counts:
            continue
        told = numbered and label != UNKNOWN
        entries.append((f"{number}  " * told + f"{short(label)} ({counts[label]:,})", color))
        if told:
            _write_number(page, np.median(at[(values == label).to_numpy()], axis=0), number)
    others = counts[~counts.index.isin(list(shown))]
    if len(others):
        entries.append((f"{len(others)} others ({others.sum():,})", GREY))
    if values.isna().any():
        entries.append((f"missing ({values.isna().sum():,})", GREY))
    size, pitch = (8, 0.2) if len(entries) <= 14 else (6.5, 0.13)
    heights = top + 0.1 + pitch * np.arange(len(entries))
    page.dot(np.column_stack([np.full(len(entries), left), heights]), [color for _, color in entries], size=25)
    for (text, _), height in zip(entries, heights, strict=True):
        page.write(left + 0.1, height + size / 200, text, fontsize=size)


def spread(colors: list[str], n: int) -> list[str]:
    """Take n of the colours, as far apart as they come."""
    return [colors[i] for i in np.linspace(0, len(colors) - 1, min(n, len(colors))).round().astype(int)]


def _write_number(page: Page, at: np.ndarray, number: int) -> None:
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=2, foreground="white")]
    page.write(*at, number, ha="center", va="center", fontsize=8, fontweight="bold", path_effects=halo)


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


def draw_confusion(table: pd.DataFrame, name: str, path: Path, what: str = "predicted") -> None:
    """Draw true labels (rows) x predicted or transferred ones (columns), shaded by the share of the row, to `path`.png and .pdf."""
    import matplotlib
    from matplotlib.figure import Figure

    share = table.to_numpy() / np.maximum(table.to_numpy().sum(axis=1, keepdims=True), 1)
    size = 2.6 + 0.38 * np.array(table.shape[::-1])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=np.clip(size, 3.5, 16), layout="constrained")
        axis = figure.subplots()
        axis.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axis.set_xticks(range(table.shape[1]), [short(label) for label in table.columns], rotation=45, ha="right")
        axis.set_yticks(range(table.shape[0]), [short(label) for label in table.index])
        axis.set(xlabel=f"{what} label", ylabel="true label")
        axis.set_title(f"{name}: cells by true and {what} label", fontsize=9, fontweight="bold")
        if max(table.shape) <= 30:
            for (i, j), count in np.ndenumerate(table.to_numpy()):
                if count:
                    axis.text(j, i, count, ha="center", va="center", fontsize=7, color="white" if share[i, j] > 0.5 else "black")
        save_picture(figure, path)


def draw_composition(counts: pd.DataFrame, name: str, path: Path) -> None:
    """Draw bars of the share of each label (columns) in the cells of each group (rows), to `path`.png and .pdf."""
    import matplotlib
    from matplotlib.figure import Figure

    share = counts.div(counts.sum(axis=1).clip(lower=1), axis=0)
    colors = FEW_COLORS if len(share.columns) <= len(FEW_COLORS) else spread(MANY_COLORS, len(share.columns))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, float(np.clip(1.4 + 0.35 * len(share), 2.4, 16))), layout="constrained")
        axis, side = figure.subplots(1, 2, width_ratios=[3.3, 1.6])
        side.set_axis_off()
        start = np.zeros(len(share))
        entries = []
        for number, label in enumerate(share.columns):
            color = colors[number] if number < len(colors) else GREY
            axis.barh(range(len(share)), share[label], left=start, color=color, height=0.8)
            start += share[label].to_numpy()
            entries.append((short(label), color))
        axis.set_yticks(range(len(share)), [f"{short(group)} ({total:,})" for group, total in counts.sum(axis=1).items()])
        axis.invert_yaxis()
        axis.set(xlim=(0, 1), xlabel="share of cells")
        axis.spines[["top", "right", "left"]].set_visible(False)
        _draw_legend(side, entries)
        figure.suptitle(name, fontsize=9, fontweight="bold")
        save_picture(figure, path)


def draw_history(curves: dict[str, list[list[float]]], name: str, path: Path) -> None:
    """Draw the curves of a training, name -> [[epoch, value], …], a panel each, to `path`.png and .pdf."""
    import matplotlib
    from matplotlib.figure import Figure

    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    with matplotlib.rc_context(STYLE):
        # Places by hand, as the labels of eight panels' ticks take long to be measured: room at the left of each for seven digits
        width, height = 3.6 * columns, 2.5 * rows + 0.3
        figure = Figure(figsize=(width, height))
        places = {"left": 0.65 / width, "right": 1 - 0.1 / width, "bottom": 0.45 / height, "top": 1 - 0.55 / height}
        axes = figure.subplots(rows, columns, squeeze=False, gridspec_kw=places | {"wspace": 0.26, "hspace": 0.42}).ravel()
        for axis in axes:
            axis.set_axis_off()
        for axis, (curve, points) in zip(axes, curves.items(), strict=False):
            axis.set_axis_on()
            axis.plot(*np.array(points).T, color=FEW_COLORS[0], linewidth=1.2, marker="." if len(points) < 25 else None)
            axis.set_title(curve, loc="left", fontsize=8)
            axis.set_xlabel("epoch")
            axis.spines[["top", "right"]].set_visible(False)
        figure.suptitle(f"{name}: training", fontsize=9, fontweight="bold")
        save_picture(figure, path)


def draw_calibration(calibrations: dict[str, dict], name: str, path: Path) -> None:
    """Draw the reliability of labels, a line a column of labels: the share of right ones by how certain they are.

    `calibrations` are those of :func:`refmap.transfer.calibration.calibrate`, by what their line is called.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.6), layout="constrained")
        axis, side = figure.subplots(1, 2, width_ratios=[2, 1.6])
        side.set_axis_off()
        axis.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--")
        entries = []
        for number, (key, found) in enumerate(calibrations.items()):
            color = FEW_COLORS[number % len(FEW_COLORS)]
            points = np.array([[part["confidence"], part["accuracy"], part["n"]] for part in found["bins"]])
            axis.plot(points[:, 0], points[:, 1], color=color, linewidth=1)
            axis.scatter(points[:, 0], points[:, 1], s=12 + 90 * points[:, 2] / points[:, 2].sum(), color=color, linewidths=0)
            entries.append((f"{short(key)}: ECE {found['ece']:.3f}", color))
        threshold = next(iter(calibrations.values()))["threshold"]
        axis.axvline(1 - threshold, color="black", linewidth=0.8, linestyle=":")
        entries += [(f"below {1 - threshold:g}: Unknown", "black"), ("as right as certain", GREY)]
        axis.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="1 - uncertainty", ylabel="share of right labels", aspect="equal")
        axis.spines[["top", "right"]].set_visible(False)
        _draw_legend(side, entries)
        figure.suptitle(name, fontsize=9, fontweight="bold")
        save_picture(figure, path)


def save_picture(figure, path: Path) -> None:
    """Save a figure as `path`.png and `path`.pdf."""
    from fontTools.subset import Options
    from matplotlib.backends.backend_pdf import FigureCanvasPdf

    # matplotlib makes these options itself, and has no way to be told
    Options._drop_tables_default = list(dict.fromkeys([*Options._drop_tables_default, *LAYOUT_TABLES]))
    save_png(figure, path.with_suffix(".png"))
    figure.set_layout_engine("none")  # all have their places by then
    figure.set_dpi(200)
    FigureCanvasPdf(figure).print_pdf(path.with_suffix(".pdf"))


def save_png(figure, path: Path) -> None:
    """Save at 110 dots an inch in 256 colours: a report of 200 mappings carries 200 of these.

    `Figure.savefig` is not asked, here and for the PDF, as it goes through all that is drawn once more before it draws.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure.set_dpi(110)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())[..., :3]
    # The paper is most of a picture: its colour is the last of the 256, and the others are chosen of what is drawn
    inked = (drawn < 255).any(axis=2)
    colors = np.full(inked.shape, 255, dtype=np.uint8)
    palette = []
    if inked.any():
        ink = Image.fromarray(drawn[inked][None]).quantize(255, dither=Image.Dither.NONE)
        colors[inked] = np.asarray(ink)[0]
        palette = ink.getpalette()[: 3 * 255]
    picture = Image.fromarray(colors)
    picture.putpalette(palette + [255] * (3 * 256 - len(palette)))
    picture.save(path)


def short(text: object, most: int = LONGEST_NAME) -> str:
    """The text, or its beginning where it is long."""
    text = str(text)
    return text if len(text) <= most else text[: most - 1] + "…"
