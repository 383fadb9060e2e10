"""True labels beside those that cells got, and ribbons of cells from the ones to the others: a Sankey diagram."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd

from ..transfer.labels import UNKNOWN
from .plots import GREY, MANY_COLORS, STYLE, UNKNOWN_COLOR, save_picture, short, spread

# Labels of a column that are drawn by themselves, those of most cells; the others are put together.
MOST_LABELS = 40
OTHERS = "all others"
TRUE = "true"
BAR = 0.06  # the width of a bar, where columns are 1 apart
STEPS = np.linspace(0, 1, 40)
CURVE = STEPS**2 * (3 - 2 * STEPS)


def draw_sankey(confusions: dict[str, pd.DataFrame], name: str, path: Path) -> None:
    """Draw cells from their true labels to those that they got, to `path`.png and .pdf.

    `confusions` are counts of cells, true labels x labels, by how the labels were made: one, or two, and then the true labels
    stand in the middle. A ribbon has the colour of its true label, and so has the bar of the same name on the other side.
    """
    import matplotlib
    from matplotlib.figure import Figure

    tables = {made: _folded(table) for made, table in confusions.items()}
    columns = columns_of(tables)
    colors = dict(zip(columns[TRUE].index, cycle(spread(MANY_COLORS, len(columns[TRUE])))))
    colors |= {OTHERS: GREY, UNKNOWN: UNKNOWN_COLOR}
    # Half of the height is room for the names.
    most = max(map(len, columns.values()))
    gap = columns[TRUE].sum() / most
    places = {made: place for place, made in enumerate(columns)}
    starts = {made: totals.cumsum() - totals + gap * np.arange(len(totals)) for made, totals in columns.items()}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3 * len(columns), float(np.clip(1.2 + 0.24 * most, 2.8, 16))), layout="constrained")
        axis = figure.subplots()
        axis.set_axis_off()
        for made, totals in columns.items():
            place, side = places[made], 1 if places[made] else -1
            axis.bar(place, totals, BAR, starts[made], color=[colors.get(label, GREY) for label in totals.index])
            for label, height in (starts[made] + totals / 2).items():
                text = f"{short(label)} ({totals[label]:,})"
                axis.text(place + side * BAR, height, text, ha="right" if side < 0 else "left", va="center", fontsize=7)
            axis.annotate(made, (place, 0), (0, 6), textcoords="offset points", ha="center", va="bottom", fontweight="bold")
        for made, table in tables.items():
            inward = BAR / 2 if places[made] > places[TRUE] else -BAR / 2
            x = places[TRUE] + inward + (places[made] - places[TRUE] - 2 * inward) * STEPS
            for true, start, end, n in ribbons(table, starts[TRUE], starts[made]):
                y = start + (end - start) * CURVE
                axis.fill_between(x, y, y + n, color=colors[true], alpha=0.45, linewidth=0)
        axis.invert_yaxis()
        axis.set_xlim(-0.7, len(columns) - 0.3)
        figure.suptitle(f"{name}: true labels and those that cells got", fontsize=9, fontweight="bold")
        save_picture(figure, path)


def columns_of(tables: dict[str, pd.DataFrame]) -> dict[str, pd.Series]:
    """Return the cells of each label, by column from left to right: the true labels first, or between two that cells got."""
    by_true = pd.concat([table.sum(axis=1) for table in tables.values()], axis=1).max(axis=1).astype(int)
    got = [(made, table.sum(axis=0)) for made, table in tables.items()]
    return dict([*got[:-1], (TRUE, by_true), *got[-1:]])


def ribbons(table: pd.DataFrame, true: pd.Series, got: pd.Series) -> list[tuple[str, float, float, int]]:
    """Return the true label of each ribbon, where it starts and ends, and its cells; `true` and `got` are where the bars start."""
    left, right, found = true.to_dict(), got.to_dict(), []
    for (label, other), n in table.stack().items():
        if n:
            found.append((label, left[label], right[other], n))
            left[label] += n
            right[other] += n
    return found


def _folded(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the labels of fewest cells put together, true ones and others; these and what is no label come last."""
    last = (OTHERS, UNKNOWN)
    for _ in range(2):
        kept = table.sum(axis=1).nlargest(MOST_LABELS).index
        table = table.groupby(table.index.where(table.index.isin(kept), OTHERS), sort=False).sum()
        table = table.loc[sorted(table.index, key=lambda label: last.index(label) if label in last else -1)].T
    return table
