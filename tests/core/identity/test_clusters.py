"""The query's own clusters: Leiden on shared neighbours, small ones joined, components of many cells."""

import igraph
import numpy as np
import pytest
from refmap.common.leiden import seeded
from refmap.identity import clusters
from refmap.identity.cells import Cells
from refmap.identity.clusters import Clustering, clustering, components, join_small, leiden, own_clusterings
from refmap.identity.expression import log_normalize
from sklearn.metrics import adjusted_rand_score, pairwise_distances


@pytest.fixture(scope="module")
def blobs():
    rng = np.random.default_rng(0)
    types = np.repeat([0, 1, 2], [60, 40, 12])
    return (rng.normal(size=(3, 5))[types] * 8 + rng.normal(size=(112, 5))).astype(np.float32), types


def nearest(points: np.ndarray) -> np.ndarray:
    """The ten nearest others of each point, by a sort of all distances."""
    distances = pairwise_distances(points)
    np.fill_diagonal(distances, np.inf)
    return np.argsort(distances, axis=1)[:, :10]


def test_clusters_are_those_of_the_graph_of_shared_neighbours(blobs):
    """The graph is made here by sets, edge by edge."""
    points, _ = blobs
    near = [set(row[row != i][:10].tolist()) for i, row in enumerate(np.argsort(pairwise_distances(points), axis=1))]
    edges, weights = [], []
    for i in range(len(points)):
        for j in range(i + 1, len(points)):
            if j in near[i] or i in near[j]:
                edges.append((i, j))
                weights.append(len(near[i] & near[j]) / len(near[i] | near[j]) + 1e-3)
    found = leiden(nearest(points), 1.0, 0)
    graph = igraph.Graph(len(points), edges)
    with seeded(0):
        again = graph.community_leiden("modularity", weights=weights, resolution=1.0, n_iterations=5)
    assert found.tolist() == again.membership


def test_clusters_part_what_is_apart_and_more_finely_at_a_higher_resolution(blobs):
    points, types = blobs
    near = nearest(points)
    coarse, fine = leiden(near, 0.3, 0), leiden(near, 3.0, 0)
    assert adjusted_rand_score(types, coarse) == 1
    assert fine.max() > coarse.max()
    assert all(len(set(types[fine == cluster])) == 1 for cluster in set(fine))
    assert (leiden(near, 3.0, 0) == fine).all()
    assert (clustering(points, 3.0, 0).clusters == join_small(points, fine)).all()


def test_small_clusters_join_the_nearest():
    points = np.r_[np.zeros((10, 2)), np.full((9, 2), 5.0), np.full((3, 2), 4.0), np.full((2, 2), 1.0)].astype(np.float32)
    given = np.repeat([4, 9, 0, 2], [10, 9, 3, 2])
    assert join_small(points, given).tolist() == [0] * 10 + [1] * 12 + [0] * 2
    assert join_small(points[:3], np.array([0, 1, 1])).tolist() == [0, 0, 0]


def test_neighbourhoods_start_with_the_cell_itself(blobs):
    points, _ = blobs
    found = clustering(points, 1.0, 0)
    distances = pairwise_distances(points)
    assert found.neighborhoods.shape == (112, 20)
    assert (found.neighborhoods[:, 0] == np.arange(112)).all()
    for cell in (0, 50, 111):
        assert set(found.neighborhoods[cell]) == set(np.argsort(distances[cell])[:20])
    assert clustering(points[:9], 1.0, 0).neighborhoods.shape == (9, 9)


def test_scores_are_smoothed_over_neighbourhood_and_cluster():
    found = Clustering(np.array([0, 0, 1]), np.array([[0, 1], [1, 2], [2, 1]]))
    assert found.n_clusters == 2
    np.testing.assert_allclose(found.smooth(np.array([1.0, 3.0, 7.0])), [(2 + 2) / 2, (5 + 2) / 2, (5 + 7) / 2])


@pytest.mark.parametrize("scaled", [True, False])
def test_components_are_those_of_the_whole_matrix(query, scaled):
    """By singular values of a dense matrix; the randomised ones agree in what they span."""
    cells = query.cells()
    shifts = np.random.default_rng(0).normal(size=(2, 120))
    values = cells.values.toarray().astype(float) - shifts[cells.batches]
    values -= values.mean(axis=0)
    if scaled:
        values = (values / values.std(axis=0)).clip(-10, 10)
        values -= values.mean(axis=0)
    u, s, _ = np.linalg.svd(values, full_matrices=False)
    found = components(cells, shifts, scaled, 0)
    assert found.shape == (240, 20)
    for i in range(4):
        assert abs(np.corrcoef(found[:, i], u[:, i])[0, 1]) > 0.999
        assert np.linalg.norm(found[:, i]) == pytest.approx(s[i], rel=1e-3)


def test_components_of_more_cells_than_are_fitted_tell_the_same(query, monkeypatch):
    cells = query.cells()
    shifts = np.zeros((2, 120))
    whole = components(cells, shifts, True, 0)
    monkeypatch.setattr(clusters, "MOST_FITTED", 120 * 150)
    some = components(cells, shifts, True, 0)
    assert some.shape == whole.shape and not np.allclose(some, whole)
    for i in range(3):
        assert abs(np.corrcoef(some[:, i], whole[:, i])[0, 1]) > 0.9


def test_ten_cells_and_genes_that_do_not_vary():
    counts = np.random.default_rng(0).poisson(3, (10, 15))
    counts[:, 4:] = 2  # after them the totals alone differ
    cells = Cells(log_normalize(np.asarray(counts)), np.zeros((10, 2), np.float32), np.zeros(10, dtype=int))
    for found in own_clusterings(cells, np.zeros((1, 15)), 0):
        assert found.clusters.shape == (10,) and found.neighborhoods.shape == (10, 10)
        assert np.isfinite(found.smooth(np.ones(10))).all()
