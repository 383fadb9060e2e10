"""How often transferred labels are right, by how certain they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from .labels import Given, Transfer

BINS = 10


@dataclass(frozen=True)
class CertainLabels:
    """Labels with a certainty of their own.

    classes        the labels that there are
    best           object array of str, the label of each cell
    uncertainty    float, 1 less how often such a label is right; 1 where that is not known
    """

    classes: list[str]
    best: np.ndarray
    uncertainty: np.ndarray


def calibrate(truth: pd.Series, transfer: Transfer | Given | CertainLabels, threshold: float) -> dict | None:
    """Compare transferred labels with true ones (missing where unknown); None where there is none to compare with.

    Cells whose true label is none of the transfer's classes cannot be right: they are counted (`n_foreign`), and not scored.

    Returns
    -------
    n, n_foreign
        Cells that are scored, and those that cannot be.
    accuracy
        The share of right labels, whatever their uncertainty.
    unknown_share, accuracy_kept, accuracy_unknown
        The share of cells above the `threshold` of uncertainty; the share of right labels at or below it, and above it (None where
        there is no such cell).
    ece
        The expected calibration error: the mean over cells of how far the share of right labels in their bin is from the mean of
        1 - uncertainty there (Guo et al. 2017, arXiv:1706.04599), ten bins of equal width.
    bins
        Of each bin that holds cells: `low` and `high`, `n`, `confidence` (the mean of 1 - uncertainty) and `accuracy`.
    """
    truth = truth.astype(object).to_numpy()
    known = pd.Series(truth).notna().to_numpy()
    scored = np.isin(truth, np.array(transfer.classes, dtype=object)) & known
    if not scored.any():
        return None
    right = (transfer.best == truth)[scored]
    uncertainty = transfer.uncertainty[scored].astype(np.float64)
    kept = uncertainty <= threshold
    bins = _bins(1 - uncertainty, right)
    return {
        "n": int(scored.sum()),
        "n_foreign": int((known & ~scored).sum()),
        "threshold": threshold,
        "accuracy": float(right.mean()),
        "unknown_share": float(1 - kept.mean()),
        "accuracy_kept": float(right[kept].mean()) if kept.any() else None,
        "accuracy_unknown": float(right[~kept].mean()) if not kept.all() else None,
        "ece": _error(bins),
        "bins": bins,
    }


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Return the expected calibration error, as :func:`calibrate` has it, of confidences (float, 0 to 1) beside what was right (bool)."""
    return _error(_bins(confidence, right))


def _error(bins: list[dict]) -> float:
    return sum(part["n"] * abs(part["accuracy"] - part["confidence"]) for part in bins) / sum(part["n"] for part in bins)


def _bins(confidence: np.ndarray, right: np.ndarray) -> list[dict]:
    number = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return [
        {
            "low": code / BINS,
            "high": (code + 1) / BINS,
            "n": int((number == code).sum()),
            "confidence": float(confidence[number == code].mean()),
            "accuracy": float(right[number == code].mean()),
        }
        for code in np.unique(number).tolist()
    ]
