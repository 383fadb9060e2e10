"""The curves of training."""

from __future__ import annotations

import csv
from html import escape
from pathlib import Path

from ..outcomes import Outcome

# The curves that are shown of those that a family has, best known first.
CURVES = (
    "elbo_train",
    "elbo_validation",
    "reconstruction_loss_validation",
    "kl_local_validation",
    "validation_accuracy",
    "train_loss_epoch",
    "validation_loss",
)
MOST_CURVES = 5


def training(mapped: list[Outcome]) -> dict | None:
    """Show the curves of training, one line a mapping and one plot a curve."""
    histories = {outcome.name: read_history(outcome.folder / "history.csv") for outcome in mapped}
    there = {curve for history in histories.values() for curve, points in history.items() if points}
    known = [curve for curve in CURVES if curve in there]
    shown = (known or sorted(there))[:MOST_CURVES]
    if not shown:
        return None
    return {
        "section_name": "Training",
        "description": "One line a mapping; the lower an ELBO loss, the better. A curve that still falls at its end wants "
        "more epochs; a validation curve that rises wants fewer.",
        "plot_type": "linegraph",
        "pconfig": {
            "id": "refmap_training_plot",
            "title": "Training",
            "xlab": "epoch",
            "ylab": escape(shown[0]),
            "data_labels": [{"name": escape(curve), "xlab": "epoch", "ylab": escape(curve)} for curve in shown],
        },
        "data": [{name: history[curve] for name, history in histories.items() if history.get(curve)} for curve in shown],
    }


def read_history(path: Path) -> dict[str, list[list[float]]]:
    """Return the curves of a history.csv: name -> [[epoch, value], ...], without the epochs that have no value."""
    curves: dict[str, list[list[float]]] = {}
    with path.open(newline="") as file:
        for line in csv.DictReader(file):
            epoch = float(line.pop("epoch"))
            line.pop("batch", None)  # of several surgeries, whose epochs are counted on
            for name, value in line.items():
                points = curves.setdefault(name, [])
                if value and (number := float(value)) == number and abs(number) != float("inf"):
                    points.append([epoch, number])
    return curves
