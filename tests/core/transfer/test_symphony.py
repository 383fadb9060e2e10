"""A query's batches taken out of its latent: by the definition, and of cells whose place is known."""

import numpy as np
import pytest
from refmap.transfer import symphony
from refmap.transfer.neighbors import Index
from refmap.transfer.symphony import PENALTY, SIGMA, compress, correct, move, regress

TYPES = 4 * np.eye(5)[:4]  # where the cells of four types lie


def cells_of(types, seed, places=TYPES):
    """Cells around the places of their types: cells x 5, float32."""
    return (places[types] + np.random.default_rng(seed).normal(0, 0.5, (len(types), 5))).astype(np.float32)


@pytest.fixture(scope="module")
def reference():
    types = np.arange(800) % 4
    return cells_of(types, 0), types


def nearest_types(latent, reference):
    cells, types = reference
    return types[Index(cells).search(latent, 1).indices[:, 0]]


def by_definition(latent, batches, reference, compressed):
    """A weighted ridge regression in each cluster with every cell of reference and query in it, solved as it is written."""
    mean, centers = compressed.mean, compressed.centers

    def memberships(cells):
        directions = (cells - mean) / np.linalg.norm(cells - mean, axis=1, keepdims=True)
        weights = np.exp(-((directions[:, None] - centers) ** 2).sum(axis=2) / SIGMA)
        return weights / weights.sum(axis=1, keepdims=True)

    names = sorted(set(batches))
    design = np.zeros((len(reference) + len(latent), 1 + len(names)))
    design[:, 0] = 1
    for column, name in enumerate(names, 1):
        design[len(reference) :, column] = np.array(batches) == name
    both = np.concatenate([reference, latent]).astype(float)
    weights, corrected = memberships(both), both.copy()
    ridge = PENALTY * np.diag([0] + [1] * len(names))
    for cluster in range(len(centers)):
        weighted = design * weights[:, [cluster]]
        effects = np.linalg.solve(weighted.T @ design + ridge, weighted.T @ (both - mean))
        effects[0] = 0  # the intercept stays
        corrected -= weights[:, [cluster]] * (design @ effects)
    return corrected


def symphony_alone(latent, batches, compressed):
    """The published method, without what the clusters agree on."""
    names, codes = np.unique(batches, return_inverse=True)
    nothing = np.zeros((len(names), latent.shape[1]))
    _, effects = regress(latent, codes, nothing, compressed)
    return move(latent, codes, nothing, effects, compressed)


def test_symphony_is_the_regression_of_all_cells(reference):
    cells, _ = reference
    rng = np.random.default_rng(3)
    query, batches = cells_of(rng.integers(0, 4, 150), 4) + 1, rng.choice(["a", "b", "c"], 150)
    compressed = compress(cells, 0)
    expected = by_definition(query, batches, cells, compressed)
    found = symphony_alone(query, batches, compressed)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected[len(cells) :], atol=1e-5)
    np.testing.assert_allclose(expected[: len(cells)], cells, atol=1e-6)  # of the reference the regression moves nothing


def test_a_reference_is_compressed_to_soft_clusters_and_their_moments(reference):
    cells, _ = reference
    before = cells.tobytes()
    compressed = compress(cells, 0)
    assert len(compressed.sizes) == 800 // symphony.CELLS_A_CLUSTER and cells.tobytes() == before
    np.testing.assert_allclose(np.linalg.norm(compressed.centers, axis=1), 1)
    assert compressed.sizes.sum() == pytest.approx(800)
    np.testing.assert_allclose(compressed.sums.sum(axis=0), 0, atol=1e-3)  # positions about their mean
    again = compress(cells, 0)
    assert all(np.array_equal(getattr(compressed, part), getattr(again, part)) for part in ("mean", "centers", "sizes", "sums"))


def test_a_made_batch_effect_is_taken_out(reference):
    """One of its own for each type and batch."""
    types = np.arange(400) % 4
    batches = np.where(np.arange(400) < 200, "a", "b")
    plain = cells_of(types, 1)
    effects = np.random.default_rng(2).normal(0, 0.5, (2, 4, 5)) + np.array([1.2, 0, -1, 0.6, 1.5])
    query = (plain + effects[(batches == "b").astype(int), types]).astype(np.float32)
    found = correct(query, batches, compress(reference[0], 0))
    off = [np.linalg.norm(latent - plain, axis=1).mean() for latent in (query, found)]
    assert off[0] > 2.4 and off[1] < 0.75
    assert (nearest_types(found, reference) == types).mean() > 0.99


def test_a_query_that_lies_where_it_should_hardly_moves(reference):
    plain = cells_of(np.arange(400) % 4, 5)
    found = correct(plain, np.full(400, "a"), compress(reference[0], 0))
    assert np.linalg.norm(found - plain, axis=1).mean() < 0.25


def test_a_query_without_a_type_does_not_get_it(reference):
    types = np.arange(300) % 3  # the fourth is missing
    query = cells_of(types, 6) + np.float32([0.5, 0.5, 0.5, 1.5, 0.5])  # and the effect points to it
    found = correct(query, np.full(300, "a"), compress(reference[0], 0))
    given = nearest_types(found, reference)
    assert not (given == 3).any() and (given == types).mean() > 0.99


def test_a_type_that_the_reference_lacks_stays_apart(reference):
    """And its cells do not set others astray."""
    places = np.concatenate([TYPES, [[0, 0, 0, 0, 6]]])
    types = np.where(np.arange(400) % 10 == 0, 4, np.arange(400) % 4)
    query = cells_of(types, 7, places) + np.float32([1, 0.5, 0.5, 1, 0])
    found = correct(query, np.full(400, "a"), compress(reference[0], 0))
    away = Index(reference[0]).search(found, 10).distances.mean(axis=1)
    novel = types == 4
    assert np.quantile(away[novel], 0.1) > np.quantile(away[~novel], 0.9)
    assert (nearest_types(found[~novel], reference) == types[~novel]).mean() > 0.97


def test_a_type_that_the_reference_lacks_beside_one_that_it_has_keeps_its_distance(reference):
    """Where most of a cluster's cells are of such a type, Symphony takes its difference for the batch's."""
    beside = TYPES[0] + [0, 0, 0, 0, 3.0]
    types = np.where(np.arange(400) % 4 == 0, 4, np.arange(400) % 3)
    query, effect = cells_of(types, 10, np.concatenate([TYPES, [beside]])), np.float32([0.8, 0.5, -0.8, 0.5, -0.5])
    batches, compressed = np.full(400, "a"), compress(reference[0], 0)
    found, alone = (method(query + effect, batches, compressed) for method in (correct, symphony_alone))
    off = [np.linalg.norm((latent - query)[types == 4], axis=1).mean() for latent in (found, alone)]
    away = [np.linalg.norm(latent[types == 4].mean(axis=0) - TYPES[0]) for latent in (found, alone)]
    assert off[0] < 1.05 < 1.3 < off[1]
    assert away[0] > 1.95 > 1.7 > away[1]
    assert np.linalg.norm((found - query)[types != 4], axis=1).mean() < 0.5


def test_a_batch_that_lies_far_off_comes_to_its_own_clusters(reference):
    types = np.arange(400) % 4
    query, batches = cells_of(types, 11) + np.float32([5, -1, -1, -1, 3]), np.full(400, "a")
    compressed = compress(reference[0], 0)
    right = [
        (nearest_types(latent, reference) == types).mean()
        for latent in (correct(query, batches, compressed), symphony_alone(query, batches, compressed))
    ]
    assert right[0] > 0.99 > 0.8 > right[1]


def test_a_batch_of_one_type_is_not_spread_over_the_others(reference):
    query = cells_of(np.zeros(200, dtype=int), 12) + np.float32([0.5, 0.5, 0, -0.5, 0.5])
    found = correct(query, np.full(200, "a"), compress(reference[0], 0))
    assert (nearest_types(found, reference) == 0).all()
    assert np.linalg.norm(found.mean(axis=0) - TYPES[0]) < 0.5 < np.linalg.norm(query.mean(axis=0) - TYPES[0])


def test_few_cells_of_a_batch_move_little(reference):
    compressed = compress(reference[0], 0)
    shift = np.float32([0, 0, 0, 0, 3])
    one, many = cells_of(np.zeros(1, dtype=int), 8) + shift, cells_of(np.zeros(100, dtype=int), 8) + shift
    moved = [np.linalg.norm(correct(query, np.full(len(query), "a"), compressed) - query, axis=1).mean() for query in (one, many)]
    assert moved[0] < 1.9 < 2.4 < moved[1]


def test_blocks_and_the_order_of_cells_and_batches_are_of_no_account(reference, monkeypatch):
    rng = np.random.default_rng(9)
    query, batches = cells_of(rng.integers(0, 4, 200), 9) + 1, rng.choice(["b", "a"], 200)
    found = correct(query, batches, compress(reference[0], 0))
    monkeypatch.setattr(symphony, "BLOCK", 37)
    order = rng.permutation(200)
    again = correct(query[order], np.where(batches == "a", "z", "c")[order], compress(reference[0], 0))
    np.testing.assert_allclose(again, found[order], atol=1e-5)


@pytest.mark.parametrize("cells", [np.ones((1, 3)), np.ones((100, 3))])
def test_a_reference_at_one_place_is_one(cells):
    compressed = compress(cells.astype(np.float32), 0)
    found = correct(np.float32([[1, 2, 3], [1, 1, 1]]), np.array(["a", "a"]), compressed)
    assert len(compressed.sizes) == 1 and np.isfinite(found).all()
