"""How often labels are right, by what the genes say: learned from held-out cells of a reference, and checked on others of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..transfer.calibration import calibration_error
from .gene_view import HeldOut

# The share of cells whose set of labels is to hold the right one.
COVERAGE = 0.9
# Of so many held-out cells whose labels the model has not seen it is told how often the latent is right, and of these alone.
FEWEST_HIDDEN = 100
# What rounding makes of equal scores.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Curve:
    """A share of votes -> how often the label is right, from straight lines between points.

    shares, right    float64, points: both ascending
    """

    shares: np.ndarray
    right: np.ndarray

    def __call__(self, shares: np.ndarray) -> np.ndarray:
        return np.interp(shares, self.shares, self.right)


def fit_curve(shares: np.ndarray, right: np.ndarray) -> Curve:
    """Fit isotonic regression (Zadrozny & Elkan 2002, doi:10.1145/775047.775151) of `right` (bool) on shares of votes."""
    from sklearn.isotonic import IsotonicRegression

    found = IsotonicRegression(y_min=0, y_max=1).fit(shares, right)
    return Curve(np.asarray(found.X_thresholds_, dtype=np.float64), np.asarray(found.y_thresholds_, dtype=np.float64))


def conformal_limit(votes: np.ndarray, labels: np.ndarray) -> float:
    """Return the least share of votes with which a label is in a cell's set, so that 90 % of sets hold the right label.

    The sets of Sadinle, Lei & Wasserman 2019 (doi:10.1080/01621459.2017.1395341), split conformal. `votes` (cells x labels) and
    `labels` (int, the right ones) are those of held-out cells. 0: any label is in the set, as one in ten cells has no vote for
    its own, or there are fewer than nine.
    """
    n = len(labels)
    number = int(np.ceil((n + 1) * COVERAGE))
    return float(np.sort(votes[np.arange(n), labels])[n - number]) if number <= n else 0.0


def label_sets(votes: np.ndarray, limit: float) -> np.ndarray:
    """Return which labels are in the set of each cell: bool, cells x labels."""
    return votes >= limit - ROUNDING


@dataclass(frozen=True)
class Certainty:
    """From votes to certainties and sets of labels.

    own        how often the label with the most votes is right, by its share of them
    of_any     how often a label is right, by its share of votes, whoever gave it
    limit      the least share with which a label is in a cell's set
    figures    what held-out cells showed (:func:`learn_certainty`)
    """

    own: Curve
    of_any: Curve
    limit: float
    figures: dict


def _learn(votes: np.ndarray, labels: np.ndarray) -> tuple[Curve, Curve, float]:
    best = votes.argmax(axis=1)
    pairs = labels[:, None] == np.arange(votes.shape[1])
    return (
        fit_curve(votes.max(axis=1), best == labels),
        fit_curve(votes.ravel(), pairs.ravel()),
        conformal_limit(votes, labels),
    )


def learn_certainty(held_out: HeldOut) -> Certainty | None:
    """Learn from held-out cells; None where there are not two parts of them, one of which checks what the others teach.

    The figures are those of cells whose part (batch) was left out as curves and limit were learned:

    n, n_parts, by
        Held-out cells, their parts, and what these are.
    accuracy, ece, ece_raw
        Of the gene view's label: the share that is right, and the expected calibration error of its certainty, and of its bare
        share of votes.
    latent_accuracy, latent_ece
        The same of the label that the latent gives; its certainty is what the genes say of that label. Of cells whose labels were
        hidden from the model, and of these alone, where there are a hundred: those of the others it has put where their label
        belongs.
    latent_n, latent_hidden
        Of how many cells that is, and whether they are hidden ones.
    target, coverage, set_size
        The share of sets that is to hold the right label, the share that does, and the mean number of labels in a set.
    """
    n_parts = int(held_out.part.max(initial=-1)) + 1
    if n_parts < 2:
        return None
    votes, labels, rows = held_out.votes, held_out.labels, np.arange(len(held_out.labels))
    best = votes.argmax(axis=1)
    own, of_latent, covered, size = (np.empty(len(labels)) for _ in range(4))
    for part in range(n_parts):
        here = held_out.part == part
        curve, of_any, limit = _learn(votes[~here], labels[~here])
        sets = label_sets(votes[here], limit)
        own[here] = curve(votes[here].max(axis=1))
        of_latent[here] = of_any(votes[rows[here], held_out.latent[here]])
        covered[here], size[here] = sets[np.arange(here.sum()), labels[here]], sets.sum(axis=1)
    hidden_alone = bool(held_out.hidden.sum() >= FEWEST_HIDDEN)
    told = held_out.hidden if hidden_alone else np.ones(len(labels), dtype=bool)
    figures = {
        "n": len(labels),
        "n_parts": n_parts,
        "by": held_out.by,
        "accuracy": float((best == labels).mean()),
        "ece": calibration_error(own, best == labels),
        "ece_raw": calibration_error(votes.max(axis=1), best == labels),
        "latent_accuracy": float((held_out.latent == labels)[told].mean()),
        "latent_ece": calibration_error(of_latent[told], (held_out.latent == labels)[told]),
        "latent_n": int(told.sum()),
        "latent_hidden": hidden_alone,
        "target": COVERAGE,
        "coverage": float(covered.mean()),
        "set_size": float(size.mean()),
    }
    return Certainty(*_learn(votes, labels), figures)
