"""The picture of a query's prototypes without labels: how far each lies from the labels that a scPoli knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from ..plots import FEW_COLORS, GREY, save_png

if TYPE_CHECKING:
    from .mapped import Mapped

TABLE, PICTURE = "prototypes.csv", "prototypes.png"
# Prototypes that lie nearest to a label are left out beyond these.
MOST = 40


def draw_prototypes(mapped: Mapped) -> None:
    """Draw ``prototypes.png`` from ``prototypes.csv``: the distance of each unlabeled prototype from the nearest label.

    It is drawn in units of how far that label's own cells spread around their prototype, a panel a label column, the farthest
    on top: a long bar with many cells may be a cell type that the reference does not know. Nothing is drawn without any.
    """
    table = pd.read_csv(mapped.results / TABLE, dtype={"label": str, "labels_key": str}, keep_default_na=False, na_values=[""])
    # A label that was named from prototypes has no spread of its own.
    table = table[(table["set"] == "unlabeled") & table["relative_distance"].notna()]
    panels = [(key, farthest(rows)) for key, rows in table.groupby("labels_key", sort=False)]
    if not panels:
        return
    import matplotlib
    from matplotlib.figure import Figure

    height = 1.2 + 0.22 * max(len(rows) for _, rows in panels)
    # Names of labels are text, also where they hold a $.
    with matplotlib.rc_context({"text.parse_math": False, "font.size": 8}):
        figure = Figure(figsize=(6.4 * len(panels), height), layout="constrained")
        for axis, (key, rows) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
            _draw_panel(axis, key, rows)
        figure.suptitle(f"{mapped.name}: prototypes without labels", fontsize=9, fontweight="bold")
        save_png(figure, mapped.output / PICTURE)


def farthest(rows: pd.DataFrame) -> pd.DataFrame:
    """The prototypes in the order in which they are drawn, from below."""
    return rows.sort_values("relative_distance", kind="stable").tail(MOST)


def _draw_panel(axis, key: str, rows: pd.DataFrame) -> None:
    names = [f"{row.prototype}: near {row.label}, {row.n_cells:,} cells" for row in rows.itertuples()]
    beyond = rows["relative_distance"] > 1
    axis.barh(range(len(rows)), rows["relative_distance"], color=[FEW_COLORS[5] if far else GREY for far in beyond])
    axis.set_yticks(range(len(rows)), names)
    axis.axvline(1, color="#404040", linewidth=0.8, linestyle=":")
    axis.set_xlabel("distance from the nearest label, in spreads of its own cells")
    axis.set_title(key, fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
