"""How often labels are right, by how certain they are: in words and numbers, and as a diagram."""

from __future__ import annotations

from html import escape

from ..outcomes import Outcome
from .html import GREY, folded, table

# What is to be said of held-out cells by whether the model saw their labels; nothing if it learns from none.
_ABOUT = {
    "hidden": " The model did not see the labels of these cells.",
    "seen": " The model has seen the labels of these cells, so this is optimistic: those of a query are right less often.",
    "unseen": "",
}


def _of_references(references: list[dict]) -> dict[tuple[str, str], dict]:
    """How the labels of held-out reference cells agree with their own: (reference, column) -> what calibrate says."""
    return {
        (reference["name"], key): of for reference in references for key, of in reference["calibration"].items() if of is not None
    }


def _of_mappings(mapped: list[Outcome], made: str) -> dict[tuple[str, str], dict]:
    """How predicted or transferred labels agree with the true ones: (mapping, column) -> what calibrate says."""
    return {
        (outcome.name, key.removesuffix(made)): of
        for outcome in mapped
        for key, of in outcome.calibrations.items()
        if key.endswith(made)
    }


def _calibrated(mapped: list[Outcome], references: list[dict]) -> dict[str, dict[tuple[str, str], dict]]:
    """All that is known of how often labels are right: of which labels -> (whose, column) -> what calibrate says."""
    found = {
        "held-out reference cells": _of_references(references),
        "transferred labels": _of_mappings(mapped, "_transferred"),
        "predicted labels": _of_mappings(mapped, "_predicted"),
    }
    return {name: those for name, those in found.items() if those}


def calibration(mapped: list[Outcome], references: list[dict]) -> dict | None:
    """Say in numbers how often labels are right, and what the threshold of uncertainty makes of that."""
    found = _calibrated(mapped, references)
    if not found:
        return None
    sentences = [f"<li>{_at_threshold(name, key, of)}</li>" for (name, key), of in _of_references(references).items()]
    rows = [_calibration_row(name, key, labels, of) for labels, those in found.items() for (name, key), of in those.items()]
    columns = ("", "Column", "Labels", "Cells", "Right", "Unknown", "Right of the kept", "Right of the Unknown", "ECE")
    return {
        "section_name": "Calibration",
        "description": "How often labels are right, by how certain they are: of reference cells that were held out, and of the "
        "queries whose true labels are known. A transferred label whose uncertainty is above the threshold becomes Unknown; of "
        "predicted labels, which never do, the same columns tell what it would do to them. ECE, the expected calibration error, "
        "is how far certainty and accuracy lie apart; 0 is best.",
        "plot_type": "html",
        "data": folded(f"<ul>{''.join(sentences)}</ul>" if sentences else "", len(sentences), "reference")
        + folded(table(columns, rows), len(rows), "row"),
    }


def _at_threshold(name: str, key: str, of: dict) -> str:
    """What the threshold does to the labels of the reference's own cells, in a sentence."""
    whose = "the cells of other batches" if of["by"] == "batch" else "the other cells"
    kept = _in_percent(1 - of["unknown_share"])
    if of["accuracy_kept"] is None:
        told = "none of them keeps its label: coarser labels, or a higher --unknown_threshold, would leave some."
    elif of["accuracy_unknown"] is None:
        told = f"all keep their labels, and {_in_percent(of['accuracy_kept'])} of these are right."
    else:
        told = (
            f"{kept} keep their labels, of which {_in_percent(of['accuracy_kept'])} are right; of those that become Unknown "
            f"{_in_percent(of['accuracy_unknown'])} would have been."
        )
    return (
        f"Of {of['n']:,} cells of <strong>{escape(name)}</strong> that got their label by <strong>{escape(key)}</strong> from "
        f"{whose}, {_in_percent(of['accuracy'])} got the right one. At the threshold of {of['threshold']:g}, {told}"
        f"{_ABOUT[of['calibrated_on']]}"
    )


def _in_percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _calibration_row(name: str, key: str, labels: str, of: dict) -> list[str]:
    shares = (of["accuracy"], of["unknown_share"], of["accuracy_kept"], of["accuracy_unknown"])
    return [escape(name), escape(key), labels, f"{of['n']:,}", *map(_in_percent, shares), f"{of['ece']:.3f}"]


def reliability(mapped: list[Outcome], references: list[dict]) -> dict | None:
    """Show how often labels are right, by how certain they are: a line a column of labels, and a plot for whose they are."""
    found = _calibrated(mapped, references)
    if not found:
        return None
    axes = {"xlab": "certainty (1 - uncertainty)", "ylab": "share of right labels"}
    diagonal = {"name": "as right as certain", "pairs": [[0, 0], [1, 1]], "color": GREY, "dash": "dash", "width": 1}
    return {
        "section_name": "Reliability diagram",
        "description": "Labels on the dashed line are right as often as their certainty says; those above it are right more often, "
        "and those below it less. A point stands for all cells of a tenth of the axis.",
        "plot_type": "linegraph",
        "pconfig": {
            "id": "refmap_reliability_plot",
            "title": "Reliability diagram",
            **axes,
            "xmin": 0,
            "xmax": 1,
            "ymin": 0,
            "ymax": 1,
            "style": "lines+markers",
            "extra_series": [diagonal],
            "data_labels": [{"name": labels, **axes} for labels in found],
        },
        "data": [
            {
                escape(f"{name}: {key}"): [[part["confidence"], part["accuracy"]] for part in of["bins"]]
                for (name, key), of in those.items()
            }
            for those in found.values()
        ],
    }
