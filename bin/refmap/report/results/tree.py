"""The picture of a hierarchy of cell types: what it predicts of a query's cells, and what the query added to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...common.cli import read_json
from ...hierarchy.tree import ROOT

if TYPE_CHECKING:
    from .mapped import Mapped

NEW, KNOWN, LINE = "#d55e00", "#0072b2", "#8c8c8c"
ROW_HEIGHT, WIDTH, INDENT = 0.24, 8.2, 0.028
# A picture of 110 dots an inch with more rows is longer than a browser shows.
MOST_ROWS = 250
LONGEST_TEXT = 80


@dataclass
class Row:
    """A node of the tree where it is drawn: a row of its own, indented below its parent's."""

    node: dict
    depth: int
    parent: int | None


def draw_tree(mapped: Mapped) -> None:
    """Draw `tree.json` as tree.png: new types marked, the query's cells counted, those counted apart that no type was predicted for."""
    draw(read_json(mapped.results / "tree.json"), mapped.name, mapped.output / "tree.png")


def draw(tree: dict, name: str, path: Path) -> None:
    """Draw the tree of one mapping, as `hierarchy.update` describes it, to a PNG."""
    import matplotlib
    from matplotlib.figure import Figure

    from ..plots import save_png

    rows = list(rows_of(tree["tree"]))
    drawn = rows[:MOST_ROWS]
    # Names of cell types are text, also where they hold a $.
    with matplotlib.rc_context({"text.parse_math": False, "font.size": 8}):
        figure = Figure(figsize=(WIDTH, 1.3 + ROW_HEIGHT * len(drawn)), layout="constrained")
        axis, bars = figure.subplots(1, 2, width_ratios=[3, 1], sharey=True)
        axis.set(ylim=(len(drawn) - 0.5, -0.5), xlim=(0, 1))
        axis.set_axis_off()
        for at, row in enumerate(drawn):
            _draw_row(axis, at, row)
        _draw_bars(bars, drawn, tree)
        axis.set_title(caption(tree, len(rows) - len(drawn)), loc="left", fontsize=8)
        figure.suptitle(f"{name}: cell types by '{tree['labels_key']}'", fontsize=10, fontweight="bold")
        save_png(figure, path)


def rows_of(node: dict, depth: int = 0, parent: int | None = None, start: int = 0) -> Iterator[Row]:
    """The rows of a tree from top to bottom, each node right above its children."""
    yield Row(node, depth, parent)
    at = start + 1
    for child in node["children"]:
        below = list(rows_of(child, depth + 1, start, at))
        yield from below
        at += len(below)


def caption(tree: dict, hidden: int = 0) -> str:
    """What became of the query's cells, in two lines."""
    root = tree["tree"]["predicted"]
    rejected = [f"{n:,} {why}" for why, n in tree["rejected"].items() if n]
    others = "; ".join([*rejected, *([f"{root:,} stay at the root"] if root else [])]) or "none rejected"
    new = sum(row.node["new"] for row in rows_of(tree["tree"]))
    added = f"{new} new, in orange" if tree["updated"] else "unchanged: the query gave no labels to add"
    more = f"; {hidden} more rows are left out" if hidden else ""
    return f"{tree['cells']:,} cells of the query: {others}\ncell types: {added}{more}"


def label_of(node: dict) -> str:
    """A node's name, and in parentheses the further labels that mean the same."""
    names = [label["name"] for label in node["labels"]]
    # The root has no label of its own; any other node is named by its first.
    own, others = ("", names) if node["name"] == ROOT else (names[0], names[1:])
    others = [name for name in dict.fromkeys(others) if name != own]
    return node["name"] + (f" (= {', '.join(others)})" if others else "")


def _draw_row(axis, at: int, row: Row) -> None:
    x = INDENT * row.depth
    if row.parent is not None:
        axis.plot([x - INDENT / 2, x - INDENT / 2, x], [row.parent + 0.3, at, at], color=LINE, linewidth=0.8)
    color = NEW if row.node["new"] else "black"
    weight = "bold" if row.node["new"] else "normal"
    text = label_of(row.node)
    text = text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"
    axis.text(x + 0.006, at, text, va="center", color=color, fontweight=weight)


def _draw_bars(axis, rows: list[Row], tree: dict) -> None:
    """The cells predicted to be each type and, of types that were not there to be predicted, those that the query labels so."""
    values = [row.node["query_cells"] if row.node["new"] else row.node["predicted"] for row in rows]
    axis.barh(
        range(len(rows)),
        values,
        height=0.6,
        color=[NEW if row.node["new"] else LINE if row.parent is None else KNOWN for row in rows],
    )
    most = max([*values, 1])
    for at, value in enumerate(values):
        if value:
            axis.text(value + 0.02 * most, at, f"{value:,}", va="center", fontsize=7)
    axis.set(xlim=(0, 1.25 * most), xticks=[], yticks=[])
    axis.set_title("cells predicted; of new types, labelled", loc="left", fontsize=8)
    for side in ("top", "right", "bottom"):
        axis.spines[side].set_visible(False)
