"""The picture of a hierarchy."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from PIL import Image
from refmap.report.results import tree as drawing


def node(name: str, *children: dict, new: bool = False, also: str | None = None, **counts: int) -> dict:
    labels = [{"dataset": "reference", "name": name}] * (name != "root") + [{"dataset": "q", "name": also}] * (also is not None)
    return (
        {"name": name, "labels": labels, "new": new, "cells": 10, "query_cells": 0, "predicted": 0}
        | counts
        | {"children": list(children)}
    )


def tree(root: dict, updated: bool = True, **rejected: int) -> dict:
    reasons = {"Rejection (dist)": 0, "Rejected (RE)": 0}
    return {
        "labels_key": "cell_type",
        "query": "q",
        "updated": updated,
        "cells": 30,
        "rejected": reasons | rejected,
        "tree": root,
    }


ROOT = node(
    "root",
    node("B", also="B cell", predicted=12),
    node("T", node("CD4", new=True, query_cells=7), node("$CD8^", new=True, query_cells=3), predicted=9),
    node("NK"),
    predicted=2,
)


def test_rows_run_from_top_to_bottom_below_their_parents():
    rows = list(drawing.rows_of(ROOT))
    assert [(row.node["name"], row.depth, row.parent) for row in rows] == [
        ("root", 0, None),
        ("B", 1, 0),
        ("T", 1, 0),
        ("CD4", 2, 2),
        ("$CD8^", 2, 2),
        ("NK", 1, 0),
    ]


def test_labels_that_mean_the_same_are_named():
    assert drawing.label_of(node("B", also="B cell")) == "B (= B cell)"
    assert drawing.label_of(node("B", also="B")) == "B"
    assert drawing.label_of(node("NK (lung~d1)") | {"labels": [{"dataset": "lung~d1", "name": "NK"}]}) == "NK (lung~d1)"
    assert drawing.label_of(node("root") | {"labels": [{"dataset": "q", "name": "blood"}]}) == "root (= blood)"
    assert drawing.label_of(node("root") | {"labels": []}) == "root"


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        (
            tree(ROOT, **{"Rejected (RE)": 7}),
            "30 cells of the query: 7 Rejected (RE); 2 stay at the root\ncell types: 2 new, in orange",
        ),
        (
            tree(node("root", node("B")), updated=False),
            "30 cells of the query: none rejected\ncell types: unchanged: the query gave no labels to add",
        ),
    ],
)
def test_the_caption_counts_what_was_not_predicted(tree, words):
    assert drawing.caption(tree) == words


@pytest.mark.parametrize("width", [1, 30, 400])
def test_a_picture_is_drawn_whatever_the_size(tmp_path, width):
    root = node("root", *(node(f"type {i} " + "x" * i, predicted=i) for i in range(width)))
    results, output = tmp_path / "results", tmp_path / "output"
    results.mkdir()
    output.mkdir()
    (results / "tree.json").write_text(json.dumps(tree(root)))
    drawing.draw_tree(SimpleNamespace(results=results, output=output, name="lung/donor_1"))
    with Image.open(output / "tree.png") as picture:
        assert picture.width == pytest.approx(110 * drawing.WIDTH, abs=2)
        assert picture.height == pytest.approx(110 * (1.3 + drawing.ROW_HEIGHT * min(width + 1, drawing.MOST_ROWS)), abs=2)


def test_the_picture_shows_new_types_in_orange(tmp_path):
    drawing.draw(tree(ROOT), "lung/donor_1", tmp_path / "tree.png")
    with Image.open(tmp_path / "tree.png") as picture:
        colors = {color for _, color in picture.convert("RGB").getcolors(1 << 24)}
    orange = tuple(int(drawing.NEW[i : i + 2], 16) for i in (1, 3, 5))
    assert min(sum(abs(a - b) for a, b in zip(color, orange)) for color in colors) < 30
