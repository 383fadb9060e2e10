"""Certainties and sets of labels: isotonic regression and conformal sets, checked by hand and by other batches."""

from dataclasses import replace

import numpy as np
import pytest
from refmap.identity.certainty import conformal_limit, fit_curve, label_sets, learn_certainty
from refmap.identity.gene_view import HeldOut
from refmap.transfer.calibration import calibration_error
from sklearn.isotonic import IsotonicRegression


def drawn(n: int, seed: int, n_parts: int = 3, n_labels: int = 4, worse: int | None = None) -> HeldOut:
    """Votes of 15 neighbours that are for the right label with a chance of the cell's own; in part `worse` with half of it."""
    rng = np.random.default_rng(seed)
    labels, part = rng.integers(0, n_labels, n), rng.integers(0, n_parts, n)
    chance = rng.uniform(0.2, 1, n) * np.where(part == worse, 0.5, 1)
    votes = np.zeros((n, n_labels))
    for cell in range(n):
        right = rng.binomial(15, chance[cell])
        np.add.at(votes[cell], rng.integers(0, n_labels, 15 - right), 1)
        votes[cell, labels[cell]] += right
    latent = np.where(rng.random(n) < 0.7, labels, rng.integers(0, n_labels, n))
    return HeldOut(votes / 15, labels, latent, part, np.zeros(n, dtype=bool), "batches")


def test_the_curve_is_isotonic_regression():
    rng = np.random.default_rng(0)
    shares = rng.integers(0, 16, 300) / 15
    right = rng.random(300) < shares**2
    curve = fit_curve(shares, right)
    known = IsotonicRegression(out_of_bounds="clip", y_min=0, y_max=1).fit(shares, right)
    asked = np.linspace(-0.2, 1.2, 50)
    np.testing.assert_allclose(curve(asked), known.predict(asked))
    assert (np.diff(curve(np.linspace(0, 1, 50))) >= 0).all()
    assert (fit_curve(np.array([0.5, 1.0]), np.array([True, True]))(asked) == 1).all()


def test_the_limit_is_the_conformal_quantile():
    votes = np.eye(2)[np.zeros(19, dtype=int)] * np.linspace(0.05, 0.95, 19)[:, None]
    # ceil(20 * 0.9) = 18 of 19 cells must have their label in the set: all but the one with the fewest votes.
    assert conformal_limit(votes, np.zeros(19, dtype=int)) == pytest.approx(0.1)
    assert conformal_limit(votes[:9], np.zeros(9, dtype=int)) == pytest.approx(0.05)
    assert conformal_limit(votes[1:9], np.zeros(8, dtype=int)) == 0  # too few for 90 %
    assert conformal_limit(votes, np.ones(19, dtype=int)) == 0
    assert label_sets(np.array([[0.1, 0.2], [0.0, 0.05]]), 0.1).tolist() == [[True, True], [False, False]]


def test_sets_hold_the_right_label_in_nine_of_ten_cells():
    learned = learn_certainty(drawn(2000, 0))
    new = drawn(4000, 1)
    sets = label_sets(new.votes, learned.limit)
    covered = sets[np.arange(4000), new.labels].mean()
    assert covered == pytest.approx(0.9, abs=0.06) and covered >= 0.88
    assert learned.figures["coverage"] == pytest.approx(covered, abs=0.03)
    assert learned.figures["set_size"] == pytest.approx(sets.sum(axis=1).mean(), abs=0.1)
    assert learned.figures["target"] == 0.9


def test_certainties_are_how_often_labels_are_right():
    learned = learn_certainty(drawn(3000, 0))
    new = drawn(6000, 1)
    best, share = new.votes.argmax(axis=1), new.votes.max(axis=1)
    assert calibration_error(learned.own(share), best == new.labels) < 0.03
    of_latent = learned.of_any(new.votes[np.arange(6000), new.latent])
    assert calibration_error(of_latent, new.latent == new.labels) < 0.08
    assert learned.figures["accuracy"] == pytest.approx((best == new.labels).mean(), abs=0.03)
    assert learned.figures["latent_accuracy"] == pytest.approx((new.latent == new.labels).mean(), abs=0.03)
    assert learned.figures["ece"] < learned.figures["ece_raw"]
    assert learned.figures["n"] == 3000 and learned.figures["n_parts"] == 3 and learned.figures["by"] == "batches"


def test_how_often_the_latent_is_right_is_told_by_labels_that_it_has_not_seen():
    held = drawn(1500, 0)
    hidden = np.random.default_rng(1).random(1500) < 0.2
    held = replace(held, latent=np.where(hidden, held.latent, held.labels), hidden=hidden)
    figures = learn_certainty(held).figures
    assert (
        figures["latent_accuracy"] == pytest.approx((held.latent == held.labels)[hidden].mean())
        and figures["latent_accuracy"] < 0.85
    )
    assert figures["latent_hidden"] is True and figures["latent_n"] == hidden.sum() and figures["n"] == 1500
    # Their labels teach as much as those of the others, and a hundred of them must be there.
    assert figures["accuracy"] == learn_certainty(drawn(1500, 0)).figures["accuracy"]
    few = learn_certainty(replace(held, hidden=hidden & (hidden.cumsum() < 100))).figures
    assert few["latent_accuracy"] == pytest.approx((held.latent == held.labels).mean()) and few["latent_hidden"] is False


def test_figures_are_those_of_parts_that_were_not_learned_from():
    """A part that is worse than the others is told by them: in-sample figures would look better."""
    held = drawn(1500, 0, worse=1)
    learned = learn_certainty(held)
    own, of_latent, covered, size = [], [], [], []
    for part in range(3):
        here = held.part == part
        others = HeldOut(*(getattr(held, name)[~here] for name in ("votes", "labels", "latent", "part", "hidden")), "batches")
        best = others.votes.argmax(axis=1)
        curve = fit_curve(others.votes.max(axis=1), best == others.labels)
        pairs = fit_curve(others.votes.ravel(), (others.labels[:, None] == np.arange(4)).ravel())
        limit = conformal_limit(others.votes, others.labels)
        own.append((curve(held.votes[here].max(axis=1)), held.votes[here].argmax(axis=1) == held.labels[here]))
        chosen = held.votes[here, held.latent[here]]
        of_latent.append((pairs(chosen), held.latent[here] == held.labels[here]))
        sets = label_sets(held.votes[here], limit)
        covered += sets[np.arange(here.sum()), held.labels[here]].tolist()
        size += sets.sum(axis=1).tolist()
    ece = calibration_error(*(np.concatenate(columns) for columns in zip(*own)))
    latent_ece = calibration_error(*(np.concatenate(columns) for columns in zip(*of_latent)))
    assert learned.figures["ece"] == pytest.approx(ece) and learned.figures["latent_ece"] == pytest.approx(latent_ece)
    assert learned.figures["coverage"] == pytest.approx(np.mean(covered))
    assert learned.figures["set_size"] == pytest.approx(np.mean(size))
    in_sample = learned.own(held.votes.max(axis=1))
    assert calibration_error(in_sample, held.votes.argmax(axis=1) == held.labels) < learned.figures["ece"]


def test_one_part_teaches_nothing_that_could_be_checked():
    assert learn_certainty(drawn(100, 0, n_parts=1)) is None
    empty = np.empty(0, dtype=int)
    assert learn_certainty(HeldOut(np.empty((0, 3)), empty, empty, empty, empty.astype(bool), "batches")) is None
