"""Cells that lie apart from a reference, however near: with sets whose answer is known, and computed another way."""

import numpy as np
import pandas as pd
import pytest
from refmap.transfer.novelty import p_values
from refmap.transfer.separation import MOST_SEARCHED, held_out_separation, separation
from sklearn.neighbors import NearestNeighbors


def normal(n: int, seed: int, at: float = 0.0, d: int = 5) -> np.ndarray:
    """Cells of one type, its centre `at` that far along the first dimension."""
    cells = np.random.default_rng(seed).normal(size=(n, d))
    cells[:, 0] += at
    return cells.astype(np.float32)


def test_it_is_the_ratio_of_mean_distances_by_brute_force_where_all_cells_are_drawn():
    # Fewer than 100 reference cells are one region, and equal numbers of both are all.
    query, reference = normal(60, 1, at=2), normal(60, 2)
    far = NearestNeighbors(n_neighbors=6, algorithm="brute").fit(reference).kneighbors(query)[0].mean(axis=1)
    near = NearestNeighbors(n_neighbors=7, algorithm="brute").fit(query).kneighbors(query)[0][:, 1:].mean(axis=1)
    found = separation(query, reference, 0)
    np.testing.assert_allclose(found, far / near, rtol=1e-3)
    np.testing.assert_array_equal(separation(query, reference, 0, rows=np.array([7, 3])), found[[7, 3]])


@pytest.mark.parametrize(("n", "m"), [(200, 3000), (3000, 200), (2000, 2000)])
def test_cells_of_the_same_kind_are_intermixed_whatever_their_numbers(n, m):
    assert np.median(separation(normal(n, 1), normal(m, 2), 0)) == pytest.approx(1, abs=0.06)


def test_a_query_of_one_of_its_types_alone_is_not_apart():
    reference = np.concatenate([normal(1900, 1), normal(50, 2, at=12), normal(50, 3, at=-12)])
    assert np.median(separation(normal(500, 4, at=12), reference, 0)) == pytest.approx(1, abs=0.15)


def test_a_type_that_was_mapped_beside_another_is_apart_and_the_others_are_not():
    reference = np.concatenate([normal(400, 1), normal(400, 2, at=12)])
    query = np.concatenate([normal(200, 3), normal(200, 4, at=12), 0.5 * normal(100, 5) + np.float32(1.1)])
    scale = held_out_separation(reference, pd.Series(np.tile(["a", "b"], 400)), 0)
    apart = p_values(separation(query, reference, 0), scale) < 0.05
    assert apart[400:].mean() > 0.9 and apart[200:400].mean() < 0.15
    # It is no farther from the reference than others: its own distances would not tell.
    distance = NearestNeighbors(n_neighbors=5).fit(reference).kneighbors(query)[0].mean(axis=1)
    assert (distance[400:] > np.quantile(distance[:400], 0.95)).mean() < 0.25


def test_the_scale_is_that_of_the_references_batches():
    mixed = normal(600, 1)
    same, batches = pd.Series(np.tile(["a", "b", "c"], 200)), pd.Series(np.repeat(["a", "b", "c"], 200))
    shifted = mixed + np.repeat([0, 4, 8], 200)[:, None].astype(np.float32)
    own = held_out_separation(mixed, same, 0)
    assert len(own) == 600 and (np.diff(own) >= 0).all() and np.median(own) == pytest.approx(1, abs=0.06)
    assert np.median(held_out_separation(shifted, batches, 0)) > 3
    # Five random halves, where there are no batches or only small ones.
    for none in (None, pd.Series([f"batch {i}" for i in range(600)])):
        found = held_out_separation(mixed, none, 0)
        assert len(found) == pytest.approx(1500, abs=100) and np.median(found) == pytest.approx(1, abs=0.06)
    assert len(held_out_separation(normal(12_000, 1), None, 0)) == 5_000


def test_more_cells_than_are_searched_all_have_a_value():
    found = separation(normal(MOST_SEARCHED + 3_000, 1, d=2), normal(MOST_SEARCHED + 1_000, 2, d=2), 0)
    assert len(found) == MOST_SEARCHED + 3_000 and np.median(found) == pytest.approx(1, abs=0.03)


def test_too_few_cells_and_cells_on_one_spot():
    few, many = normal(19, 1), normal(100, 2)
    assert np.isnan(separation(few, many, 0)).all() and np.isnan(separation(many, few, 0)).all()
    assert len(held_out_separation(normal(39, 1), None, 0)) == 0
    spot = np.zeros((50, 3), np.float32)
    np.testing.assert_allclose(separation(spot, spot, 0), 1)
    assert np.isfinite(separation(spot, spot + 1, 0)).all()
    assert np.isnan(p_values(np.array([np.nan, 1.0]), np.array([0.5, 2.0])))[0]
