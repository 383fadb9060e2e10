"""The mappings by label: how many cells have each, how many of these are right, and how far they lie from the reference."""

from __future__ import annotations

import csv
from html import escape
from pathlib import Path

from ...common.cli import read_json
from ..outcomes import Outcome

ALL_CELLS = "all cells"


def separation(mapped: list[Outcome]) -> dict | None:
    """Show, of each mapping and transferred label, how far apart the query's cells and the reference's lie."""
    found = {
        outcome.name: {ALL_CELLS: of["value"], **{label: those["value"] for label, those in of["labels"].items()}}
        for outcome in mapped
        if (of := outcome.figure("separation")).get("value") is not None
    }
    if not found:
        return None
    return {
        "section_name": "Separation by label",
        "description": "How many times farther from a query's cells the reference's are than the query's own, of equal numbers of "
        "both: 1 where they are intermixed; the median of the cells of each transferred label that 20 cells or more have. A label "
        "that stands out among those of its query may be that of a cell type which the reference lacks and which was mapped beside "
        "another: look at its marker genes. Where all stand out, surgery did not make up for the query's protocol.",
        **heatmap("separation", "Separation by label", "transferred label", found),
    }


def labels(mapped: list[Outcome]) -> dict | None:
    """Show each query's composition by the labels that it got or, where it got none, by its own."""
    totals = {outcome.name: read_json(outcome.folder / "composition.json")["total"] for outcome in mapped}
    data = {name: {escape(label): n for label, n in total.items()} for name, total in totals.items() if total}
    if not data:
        return None
    return {
        "section_name": "Label composition",
        "description": "Cells of each query by predicted label; by transferred label where the model predicts none, and by the "
        "query's own where there is neither.",
        "plot_type": "bargraph",
        "pconfig": {
            "id": "refmap_labels_plot",
            "title": "Label composition",
            "ylab": "cells",
            "cpswitch_c_active": False,
            "sort_samples": False,
        },
        "data": [data],
    }


def accuracy(mapped: list[Outcome]) -> dict | None:
    """Show, of each mapping and true label, the share of cells that got the right one, by the model and from reference cells."""
    found = {}
    for outcome in mapped:
        found[f"{outcome.name}: predicted"] = recall(outcome.folder / "confusion.csv")
        found[f"{outcome.name}: transferred"] = recall(outcome.folder / "confusion_transferred.csv")
    found = {name: shares for name, shares in found.items() if shares}
    if not found:
        return None
    return {
        "section_name": "Accuracy by label",
        "description": "Share of the cells of each true label that the model predicted right, or that got it from the reference's "
        "cells; Unknown is not right.",
        **heatmap("accuracy", "Accuracy by label", "true label", found, min=0, max=1),
    }


def heatmap(name: str, title: str, labels: str, found: dict[str, dict[str, float]], **limits: float) -> dict:
    """A number of each mapping, a row, and label, a column."""
    known = list(dict.fromkeys(label for row in found.values() for label in row))
    return {
        "plot_type": "heatmap",
        "xcats": [escape(label) for label in known],
        "ycats": list(found),
        "pconfig": {
            "id": f"refmap_{name}_plot",
            "title": title,
            "xlab": labels,
            "ylab": "mapping",
            **limits,
            "square": False,
            "xcats_samples": False,
            "cluster_rows": False,
            "cluster_cols": False,
            "display_values": True,
            "tt_decimals": 2,
            "colstops": [[0, "#f7fbff"], [1, "#08519c"]],
        },
        "data": [[row.get(label) for label in known] for row in found.values()],
    }


def recall(path: Path) -> dict[str, float]:
    """Return the share predicted right by true label, from a confusion.csv; nothing where there is none."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        _corner, *predicted = next(table := csv.reader(file))
        counts = {label: dict(zip(predicted, map(int, row), strict=True)) for label, *row in table}
    return {label: row.get(label, 0) / sum(row.values()) for label, row in counts.items()}
