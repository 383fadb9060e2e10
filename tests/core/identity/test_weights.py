"""Expression on one scale: log-normalisation in blocks, means, and how much a gene tells labels apart."""

import numpy as np
import pytest
from refmap.identity import expression
from refmap.identity.cells import LabelledCells, codes_of, parts
from refmap.identity.expression import (
    averaging,
    dense,
    drawn_rows,
    group_means,
    grouping,
    identity_weights,
    log_normalize,
    moments,
)
from scipy import sparse


def by_hand(counts: np.ndarray) -> np.ndarray:
    totals = counts.sum(axis=1, keepdims=True)
    return np.log1p(np.divide(counts * 1e4, totals, out=np.zeros(counts.shape), where=totals > 0))


@pytest.mark.parametrize("block", [2048, 7])
def test_counts_are_logarithms_per_10_000(pbmc, block, monkeypatch):
    monkeypatch.setattr(expression, "BLOCK", block)
    counts = pbmc.X.toarray()
    counts[3] = 0
    found = log_normalize(sparse.csr_matrix(counts))
    assert found.dtype == np.float32 and not found[3].nnz
    np.testing.assert_allclose(found.toarray(), by_hand(counts), rtol=1e-5)


def test_counts_are_left_as_they_are(reference):
    before = reference.counts.data.copy()
    log_normalize(reference.counts)
    assert (reference.counts.data == before).all()


def test_averages():
    indices = np.array([[0, 2], [1, 1], [3, 0]])
    values = np.arange(8.0).reshape(4, 2)
    found = averaging(indices, 4)
    assert found.shape == (3, 4) and found.nnz == 5
    np.testing.assert_allclose(found @ values, values[indices].mean(axis=1))


def test_means_of_groups_and_of_an_empty_one():
    values = sparse.csr_matrix(np.arange(10.0).reshape(5, 2))
    found = group_means(values, np.array([2, 0, 2, 0, 0]), 3)
    np.testing.assert_allclose(found, [[(2 + 6 + 8) / 3, (3 + 7 + 9) / 3], [0, 0], [2, 3]])
    assert grouping(np.array([1, 1]), 3).sum() == pytest.approx(1)


def weight_by_hand(values: np.ndarray, labels: np.ndarray, batches: np.ndarray) -> float:
    """Of one gene: 1 less the share of the batch-centred variance that lies within labels."""
    centred = [value - np.mean(values[batches == batch]) for value, batch in zip(values, batches)]
    total = sum((value - np.mean(centred)) ** 2 for value in centred)
    within = 0.0
    for label in set(labels):
        own = [value for value, other in zip(centred, labels) if other == label]
        within += sum((value - np.mean(own)) ** 2 for value in own)
    return 1 - within / total


def test_identity_weights_are_shares_of_variance_between_labels(reference):
    cells = reference.labelled()
    found = identity_weights(cells)
    values = cells.values.toarray().astype(np.float64)
    assert found.shape == (120,) and found.min() >= 0 and found.max() <= 1
    for gene in (0, 5, 17, 45, 119):
        assert found[gene] == pytest.approx(weight_by_hand(values[:, gene], cells.labels, cells.batches), abs=1e-6)
    assert found[:40].min() > found[40:].max()  # the genes of the four types


def test_what_batches_differ_by_weighs_nothing():
    batches = np.repeat([0, 1], 20)
    labels = np.tile([0, 1], 20)
    values = np.column_stack([batches * 3.0, labels * 2.0, np.ones(40), labels * 2.0 + batches])
    cells = LabelledCells(
        sparse.csr_matrix(values.astype(np.float32)), np.zeros((40, 2), np.float32), batches, labels, np.array(["a", "b"])
    )
    np.testing.assert_allclose(identity_weights(cells), [0, 1, 0, 1], atol=1e-9)


def test_moments(reference):
    cells = reference.labelled()
    mean, deviation = moments(cells.values)
    values = cells.values.toarray().astype(np.float64)
    np.testing.assert_allclose(mean, values.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(deviation, values.std(axis=0), rtol=1e-5)
    assert moments(sparse.csr_matrix(np.full((9, 1), 0.1, np.float32)))[1] == 0


def test_dense_rows_lack_the_shift_of_their_batch(query):
    cells = query.cells()
    shifts = np.arange(240.0).reshape(2, 120)
    rows = np.array([4, 0, 9])
    wanted = [cells.values[[row]].toarray()[0] - shifts[cells.batches[row]] for row in rows]
    np.testing.assert_allclose(dense(cells, rows, shifts), wanted, rtol=1e-5, atol=1e-5)


def test_rows_are_drawn_where_all_are_too_many():
    rng = np.random.default_rng(0)
    assert (drawn_rows(10, 5, 50, rng) == np.arange(10)).all()
    assert len(drawn_rows(11, 5, 50, rng)) == 10
    assert len(drawn_rows(3, 100, 50, rng)) == 1


def test_batches_that_are_missing_are_one():
    assert codes_of(None, 3).tolist() == [0, 0, 0]
    assert codes_of(np.array(["b", None, "a", None, "b"], dtype=object), 5).tolist() == [0, 1, 2, 1, 0]


def test_the_largest_batches_are_held_out():
    batches = np.repeat([0, 1, 2, 3], [5, 30, 20, 25])
    assert [int(batches[mask][0]) for mask in parts(batches, 10, 10)] == [1, 3, 2]
    assert [int(mask.sum()) for mask in parts(batches, 10, 2)] == [30, 25]
    assert not parts(np.zeros(50, dtype=int), 10, 5)
    assert not parts(np.repeat([0, 1], [45, 5]), 10, 5)  # it leaves too few


def test_a_part_keeps_the_labels_and_batches_that_it_has(reference):
    cells = reference.labelled()
    members = (cells.labels != 1) & (cells.batches != 0)
    part = cells.part(members)
    assert part.names.tolist() == ["type 0", "type 2", "type 3"] and part.n_batches == 2
    assert (part.names[part.labels] == reference.types[members]).all()
    assert cells.as_query(members).n_batches == 1 and len(part) == members.sum()
