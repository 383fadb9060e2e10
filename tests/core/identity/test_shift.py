"""The shift of each of the query's batches, against loops over labels, and against what was put in."""

import numpy as np
import pytest
from refmap.identity.cells import Cells
from refmap.identity.shift import batch_shifts, center, label_votes
from refmap.transfer.neighbors import Index


def shift_by_hand(values, reference_values, neighbors, labels) -> np.ndarray:
    """The median over labels, by loops."""
    best = []
    for row in neighbors:
        votes = [int((labels[row] == label).sum()) for label in range(labels.max() + 1)]
        best.append(votes.index(max(votes)))
    differences = []
    for label in sorted(set(best)):
        rows = [i for i, other in enumerate(best) if other == label]
        if len(rows) >= 5:
            matched = np.concatenate([reference_values[neighbors[i]] for i in rows])
            differences.append(values[rows].mean(axis=0) - matched.mean(axis=0))
    return np.median(differences, axis=0) if len(differences) > 2 else np.mean(differences, axis=0)


@pytest.fixture(scope="module")
def both(reference, query):
    neighbors = Index(reference.latent).search(query.latent, 15).indices
    return query.cells(), reference.labelled(), neighbors


def test_votes_are_shares_of_neighbours():
    found = label_votes(np.array([[0, 1, 2], [2, 2, 3]]), np.array([0, 1, 1, 2]), 3)
    np.testing.assert_allclose(found, [[1 / 3, 2 / 3, 0], [0, 2 / 3, 1 / 3]])


def test_each_batch_has_the_median_over_labels(both):
    query, reference, neighbors = both
    found = batch_shifts(query, reference, neighbors)
    values, of_reference = query.values.toarray().astype(float), reference.values.toarray().astype(float)
    assert found.shape == (2, 120)
    for batch in (0, 1):
        rows = query.batches == batch
        wanted = shift_by_hand(values[rows], of_reference, neighbors[rows], reference.labels)
        np.testing.assert_allclose(found[batch], wanted, atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 0.5


def test_a_small_batch_is_off_as_the_whole_query_is(both):
    query, reference, neighbors = both
    batches = np.where(np.arange(len(query)) < 29, 1, 0)
    found = batch_shifts(Cells(query.values, query.latent, batches), reference, neighbors)
    values, of_reference = query.values.toarray().astype(float), reference.values.toarray().astype(float)
    np.testing.assert_allclose(found[1], shift_by_hand(values, of_reference, neighbors, reference.labels), atol=1e-5)
    rows = batches == 0
    np.testing.assert_allclose(found[0], shift_by_hand(values[rows], of_reference, neighbors[rows], reference.labels), atol=1e-5)


def test_a_shift_that_is_put_in_comes_out(reference):
    cells = reference.labelled()
    off = np.random.default_rng(0).normal(size=120).astype(np.float32)
    moved = cells.values.toarray() + off
    query = Cells(type(cells.values)(moved), cells.latent, np.zeros(len(cells), dtype=int))
    found = batch_shifts(query, cells, np.arange(len(cells))[:, None])  # each beside itself
    np.testing.assert_allclose(found[0], off, atol=1e-5)


def test_where_no_label_has_five_cells_nothing_is_taken_off(both):
    query, reference, neighbors = both
    few = Cells(query.values[:4], query.latent[:4], np.zeros(4, dtype=int))
    assert not batch_shifts(few, reference, neighbors[:4]).any()


def test_the_median_needs_three():
    assert center(np.array([[0.0], [1.0]])).tolist() == [0.5]
    assert center(np.array([[0.0], [1.0], [9.0]])).tolist() == [1.0]
