"""What became of each label of a query when it was matched to a tree."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from .tree import Label, Node

COLUMNS = ["reference_label", "query_label", "match", "cells", "share", "share_of_reference"]
# What can become of a label, and what it means.
KINDS = {
    "equal": "means the same as a type of the reference",
    "split": "is a part of a type of the reference",
    "merged": "holds several types of the reference, one row each",
    "new": "is a type that the reference lacks",
    "unplaced": "was predicted as so many types that scHPL could not place it",
    "too few": "has too few cells to be matched",
}


def match_table(
    before: Node,
    after: Node,
    names: dict[Label, str],
    of_query: tuple[list[Label | None], np.ndarray],
    of_reference: tuple[list[Label], list[Label | None]],
    few: dict[Label, int],
) -> pd.DataFrame:
    """Say what each label of a query was matched to, by the trees before and after it.

    Parameters
    ----------
    before, after
        The trees.
    names
        Of the nodes of the tree `after`.
    of_query
        The labels of the query's cells (None: none), and the node of `before` that each was predicted to be (None: rejected).
    of_reference
        The labels of the cells that `before` was learned from, and the query's label that each was predicted to be (None: none).
    few
        The labels that were left out, with their cells.

    Returns
    -------
    A row a match, with `COLUMNS`: `match` is one of `KINDS`, `cells` those of the query's label, and `share` the part of them
    that the reference predicts as `reference_label` or what is below it; of a new type, the part that it knows no type for.
    `share_of_reference` is the part of the cells of `reference_label`, or of what is below it, that the query's labels predict
    as `query_label`.
    """
    (labels, answers), (reference_labels, seen) = of_query, of_reference
    old = {node.labels[0] if node.labels else None: node for node in before.walk()}
    place = {label: (node, above) for node, above in _with_ancestors(after) for label in node.labels}

    def row(label: Label, kind: str, node: Node | None = None) -> dict:
        cells = np.array([given == label for given in labels])
        share = share_of_reference = np.nan
        if node is not None:
            start = old[node.labels[0]] if node.labels and node.labels[0] in old else before
            nodes = set(start.walk())
            share = np.mean([answer in nodes for answer in answers[cells]])
            inside = {label for one in nodes for label in one.labels}
            share_of_reference = np.mean([as_ == label for given, as_ in zip(reference_labels, seen) if given in inside])
        elif kind == "new":
            share = np.mean([answer is None or answer is before for answer in answers[cells]])
        name = node.name(names) if node is not None else ""
        return dict(zip(COLUMNS, (name, label.name, kind, int(cells.sum()), share, share_of_reference)))

    rows = []
    for label in sorted({label for label in labels if label is not None}):
        if label in few:
            rows.append(row(label, "too few"))
        elif label not in place:
            rows.append(row(label, "unplaced"))
        else:
            rows += [row(label, kind, node) for kind, node in _kinds(label, *place[label], old)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _kinds(label: Label, node: Node, above: list[Node], old: dict) -> Iterator[tuple[str, Node | None]]:
    """What a placed label was matched to: the kind of match, and the node of the reference."""

    def is_old(other: Node) -> bool:
        return bool(other.labels) and other.labels[0] in old

    if is_old(node) or not above:
        yield "equal", node
    elif children := [child for child in node.children if is_old(child)]:
        yield from (("merged", child) for child in children)
    elif parents := [parent for parent in above[1:] if is_old(parent)]:
        yield "split", parents[-1]
    else:
        yield "new", None


def _with_ancestors(node: Node, above: tuple[Node, ...] = ()) -> Iterator[tuple[Node, tuple[Node, ...]]]:
    """Each node of a tree with the nodes above it, the root first."""
    yield node, above
    for child in node.children:
        yield from _with_ancestors(child, (*above, node))
