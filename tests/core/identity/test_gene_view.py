"""The gene view's votes, against a search by hand in components of the whole matrix, and what held-out batches show."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_cells import make
from refmap.identity import gene_view
from refmap.identity.cells import Cells
from refmap.identity.expression import identity_weights
from refmap.identity.gene_view import gene_votes, hold_out_votes, latent_labels
from refmap.identity.shift import batch_shifts
from refmap.transfer.labels import transfer_labels
from refmap.transfer.neighbors import Index
from sklearn.metrics import pairwise_distances


@pytest.fixture(scope="module")
def labelled(reference):
    return reference.labelled()


@pytest.fixture(scope="module")
def weights(labelled):
    return identity_weights(labelled)


def test_votes_are_those_of_the_nearest_in_components_of_weighted_genes(query, labelled, weights, monkeypatch):
    """With few components those of randomised and whole decompositions are the same."""
    monkeypatch.setattr(gene_view, "COMPONENTS", 4)
    cells = query.cells()
    shifts = batch_shifts(cells, labelled, Index(labelled.latent).search(cells.latent, 15).indices)
    reference = labelled.values.toarray().astype(float)
    values = cells.values.toarray().astype(float) - shifts[cells.batches]
    mean, deviation = reference.mean(axis=0), reference.std(axis=0)
    scale = np.where(deviation > 0.05, np.sqrt(weights) / deviation, 0)
    both = np.r_[(reference - mean) * scale, (values - mean) * scale].clip(-10, 10)
    both -= both.mean(axis=0)
    _, _, axes = np.linalg.svd(both, full_matrices=False)
    points = both @ axes[:4].T
    nearest = np.argsort(pairwise_distances(points[360:], points[:360]), axis=1)[:, :15]
    wanted = np.stack([(labelled.labels[nearest] == label).mean(axis=1) for label in range(4)], axis=1)
    found = gene_votes(cells, labelled, weights, 0)
    assert found.shape == (240, 4)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert np.abs(found - wanted).max() <= 1 / 15 + 1e-9 and np.isclose(found, wanted).mean() > 0.95


def test_it_is_right_where_the_latent_is_not(labelled, weights):
    wrong = make({"type 0": 60, "type 1": 50, "type 2": 50, "type 3": 40}, 2, 5, 0.5, {"type 3": "type 1"})
    votes = gene_votes(wrong.cells(), labelled, weights, 0)
    assert (labelled.names[votes.argmax(axis=1)] == wrong.types).mean() > 0.98
    of_latent = latent_labels(wrong.latent, labelled, labelled.names)
    assert (labelled.names[of_latent] == wrong.types).mean() == pytest.approx(0.8, abs=0.02)


def test_more_cells_than_components_are_fitted_to_get_the_same_labels(query, labelled, weights, monkeypatch):
    whole = gene_votes(query.cells(), labelled, weights, 0)
    monkeypatch.setattr(gene_view, "MOST_FITTED", 120 * 200)
    assert gene_view._most([(labelled, 0), (query.cells(), 0)]) == [12_000, 12_000]
    some = gene_votes(query.cells(), labelled, weights, 0)
    assert (some.argmax(axis=1) == whole.argmax(axis=1)).mean() > 0.95 and not (some == whole).all()


def test_a_small_side_leaves_its_share_to_the_other(query, labelled, monkeypatch):
    monkeypatch.setattr(gene_view, "MOST_FITTED", 120 * 500)
    assert gene_view._most([(labelled, 0), (query.cells(), 0)]) == [120 * 260, 120 * 250]


def test_one_cell_is_looked_at(query, labelled, weights):
    cells = query.cells()
    one = Cells(cells.values[:1], cells.latent[:1], np.zeros(1, dtype=int))
    assert gene_votes(one, labelled, weights, 0).shape == (1, 4)


def test_batches_are_held_out_without_their_say_in_the_weights(labelled):
    found = hold_out_votes(labelled, 0)
    assert found.by == "batches" and found.votes.shape == (360, 4)
    largest = np.bincount(labelled.batches).argmax()
    held = labelled.batches == largest
    rest = labelled.part(~held)
    wanted = gene_votes(labelled.as_query(held), rest, identity_weights(rest), 0)
    np.testing.assert_array_equal(found.votes[found.part == 0], wanted)
    assert (found.labels[found.part == 0] == labelled.labels[held]).all()
    assert (found.votes.argmax(axis=1) == found.labels).mean() > 0.98
    transfer = transfer_labels(pd.Series(rest.names[rest.labels]), Index(rest.latent).search(labelled.latent[held]))
    assert (labelled.names[found.latent[found.part == 0]] == transfer.best).all()


def test_without_two_batches_random_thirds_are(labelled):
    one = labelled.part(labelled.batches == 0)
    found = hold_out_votes(one, 0)
    assert found.by == "random cells" and len(found.labels) == len(one)
    assert np.bincount(found.part).shape == (3,) and np.bincount(found.part).min() > len(one) / 5


def test_labels_that_one_batch_alone_has_are_not_asked_of_the_others(labelled):
    part = labelled.part((labelled.labels != 2) | (labelled.batches == 0))
    found = hold_out_votes(part, 0)
    alone = (part.names[part.labels] == "type 2").sum()
    assert len(found.labels) == len(part) - alone and 2 not in found.labels
    assert (found.votes[:, 2] > 0).any()  # it still has votes of others, where it is not held out


def test_hidden_cells_are_known_by_what_is_held_out(reference):
    """Through the steps that leave cells out: of one without counts, of those without a label, and of what batches lack."""
    counts, labels = reference.counts.tolil(), reference.types.astype(object)
    counts[4] = 0
    labels[7] = None
    hidden = reference.types == "type 1"
    sampled = replace(reference.counted(), counts=counts.tocsr(), hidden=hidden)
    cells = sampled.on(np.arange(counts.shape[1])).labelled(labels)
    found = hold_out_votes(cells, 0)
    assert len(found.labels) == len(cells) == len(labels) - 2
    assert (found.hidden == (found.labels == 1)).all() and found.hidden.any()
    assert not hold_out_votes(replace(cells, hidden=None), 0).hidden.any()


def test_nothing_is_held_out_of_one_label(labelled):
    found = hold_out_votes(labelled.part(labelled.labels == 0), 0)
    assert not len(found.labels) and found.votes.shape == (0, 1)
