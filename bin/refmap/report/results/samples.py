"""The picture of the samples: where a scPoli that learns an embedding of each sees those of the query among the reference's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..plots import FEW_COLORS, GREY, save_png

if TYPE_CHECKING:
    from .mapped import Mapped

TABLE, PICTURE = "samples.csv", "samples.png"
# The most samples of a kind that are named in the picture: beyond, names would cover the dots.
MOST_NAMED = 30


def draw_samples(mapped: Mapped) -> None:
    """Draw ``samples.png`` from ``samples.csv``: the principal components of the samples' embeddings, a panel a condition column.

    Nothing is drawn of a model with fewer than three samples, which have no plane of their own.
    """
    table = pd.read_csv(mapped.results / TABLE, dtype={"sample": str, "condition_key": str}, keep_default_na=False)
    panels = [(key, rows) for key, rows in table.groupby("condition_key", sort=False) if len(rows) > 2]
    if not panels:
        return
    import matplotlib
    from matplotlib.figure import Figure

    # Names of samples are text, also where they hold a $.
    with matplotlib.rc_context({"text.parse_math": False, "font.size": 8}):
        figure = Figure(figsize=(5.2 * len(panels), 4.5), layout="constrained")
        for axis, (key, rows) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
            _draw_panel(axis, key, rows)
        figure.suptitle(f"{mapped.name}: embeddings of the samples", fontsize=9, fontweight="bold")
        save_png(figure, mapped.output / PICTURE)


def principal_components(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first two principal components (samples x 2), and the share of the variance that each holds.

    Each component's largest loading is positive, so that the picture does not flip between runs.
    """
    centred = values - values.mean(axis=0)
    _, size, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2] * np.sign(np.take_along_axis(axes[:2], np.abs(axes[:2]).argmax(axis=1)[:, None], axis=1))
    position = np.pad(centred @ axes.T, ((0, 0), (0, 2 - len(axes))))
    share = size**2 / max((size**2).sum(), np.finfo(float).tiny)
    return position, np.pad(share[:2], (0, 2 - len(axes)))


def embeddings(rows: pd.DataFrame) -> np.ndarray:
    """The embeddings of the samples of one condition column, samples x its dimensions."""
    columns = [column for column in rows if column.startswith("embedding_")]
    # Another column's embeddings may have more dimensions: those stand empty here.
    values = rows[columns].apply(pd.to_numeric, errors="coerce")
    return values.dropna(axis=1, how="all").to_numpy(float)


def _draw_panel(axis, key: str, rows: pd.DataFrame) -> None:
    position, share = principal_components(embeddings(rows))
    query = rows["is_query"].astype(str).eq("True").to_numpy()
    for mine, color, label in ((~query, GREY, "reference"), (query, FEW_COLORS[0], "query")):
        axis.scatter(*position[mine].T, s=36, color=color, label=f"{label} ({mine.sum()})", zorder=2 + int(label == "query"))
        if mine.sum() <= MOST_NAMED:
            for name, at in zip(rows["sample"][mine], position[mine]):
                axis.annotate(name, at, xytext=(4, 3), textcoords="offset points", fontsize=7, color="#404040")
    axis.set_title(key, fontsize=9)
    axis.set_xlabel(f"PC1 ({share[0]:.0%} of the variance)")
    axis.set_ylabel(f"PC2 ({share[1]:.0%} of the variance)")
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(0.15)
    axis.legend(fontsize=7, frameon=False, loc="best")
