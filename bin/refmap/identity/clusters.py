"""A query's own fine clusters and neighbourhoods, by its expression alone."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from ..common.leiden import seeded
from ..transfer.neighbors import Index
from .cells import Cells
from .expression import MOST_FITTED, blocks, dense, drawn_rows, grouping

COMPONENTS = 20
# Of genes on one scale, no cell is farther from the mean than so many standard deviations.
FARTHEST = 10
# What rounding leaves of a gene that does not vary.
LEAST_DEVIATION = 1e-6
# Cells of a neighbourhood, itself among them.
NEIGHBORHOOD = 20
# Neighbours that make the graph that is clustered, and its resolution where genes are on one scale and where they are as they are.
NEIGHBORS, SCALED_RESOLUTION, RAW_RESOLUTION = 10, 3.0, 6.0
ITERATIONS = 5
# Smaller clusters go to the nearest other one.
FEWEST = 8
# What neighbours share that have no neighbour in common.
LEAST_SHARED = 1e-3


class Clustering:
    """One way to part a query's cells.

    clusters         int, the cluster of each cell: 0, 1, …
    neighborhoods    int, cells x k: rows of the query, each cell and its nearest, nearest first
    """

    def __init__(self, clusters: np.ndarray, neighborhoods: np.ndarray):
        self.clusters, self.neighborhoods = clusters, neighborhoods
        self.n_clusters = int(clusters.max()) + 1

    def smooth(self, scores: np.ndarray) -> np.ndarray:
        """Return half the mean over a cell's neighbourhood and half that over its cluster: float64, cells."""
        of_clusters = grouping(self.clusters, self.n_clusters) @ scores
        return (scores[self.neighborhoods].mean(axis=1) + of_clusters[self.clusters]) / 2


def own_clusterings(query: Cells, shifts: np.ndarray, seed: int) -> list[Clustering]:
    """Cluster the query's cells, less the `shifts` of their batches (batches x genes), in two ways.

    By principal components of genes on one scale (Leiden resolution 3), which finds types that few genes tell, and by those of
    genes as they are (6), in which strong ones count for more.
    """
    return [
        clustering(components(query, shifts, scaled, seed), resolution, seed)
        for scaled, resolution in ((True, SCALED_RESOLUTION), (False, RAW_RESOLUTION))
    ]


def clustering(points: np.ndarray, resolution: float, seed: int) -> Clustering:
    """Cluster points (float32, cells x dimensions), and find the neighbourhood of each."""
    others = Index(points).search_own(NEIGHBORHOOD - 1).indices
    clusters = join_small(points, leiden(others[:, :NEIGHBORS], resolution, seed))
    return Clustering(clusters, np.column_stack([np.arange(len(points)), others]))


def components(query: Cells, shifts: np.ndarray, scaled: bool, seed: int) -> np.ndarray:
    """Return at most 20 principal components of the query's cells, less the shifts of their batches: float32, cells x components.

    They are fitted to as many cells as are dense in 160 MB, drawn at random where there are more; all are projected. If `scaled`,
    each gene has a standard deviation of 1 and no value beyond ten of these.
    """
    from sklearn.decomposition import PCA

    n, n_genes = query.values.shape
    fitted = dense(query, drawn_rows(n, n_genes, MOST_FITTED, np.random.default_rng(seed)), shifts)
    mean = fitted.mean(axis=0, dtype=np.float64)
    # Block by block: of all at once numpy would hold a copy in float64.
    deviation = np.sqrt(sum(((fitted[rows] - mean) ** 2).sum(axis=0) for rows in blocks(len(fitted))) / len(fitted))
    scale = np.where(deviation > LEAST_DEVIATION, deviation, 1) if scaled else np.ones(n_genes)
    limit = FARTHEST if scaled else np.inf

    def prepared(values: np.ndarray) -> np.ndarray:
        values -= mean.astype(np.float32)
        values /= scale.astype(np.float32)
        return np.clip(values, -limit, limit, out=values)

    k = min(COMPONENTS, n_genes - 1, len(fitted) - 1)
    found = PCA(k, svd_solver="randomized", random_state=seed, copy=False).fit(prepared(fitted))
    del fitted
    points = np.empty((n, k), dtype=np.float32)
    for rows in blocks(n):
        points[rows] = found.transform(prepared(dense(query, rows, shifts)))
    return points


def leiden(indices: np.ndarray, resolution: float, seed: int) -> np.ndarray:
    """Return the cluster of each point (int): Leiden, modularity, on the graph of shared neighbours.

    `indices` are the nearest others of each point, int, points x k. An edge weighs the share of the neighbours of either that both
    have (Jaccard's index, as PhenoGraph's: Levine et al. 2015, doi:10.1016/j.cell.2015.05.047). Traag, Waltman & van Eck 2019,
    doi:10.1038/s41598-019-41695-z.
    """
    import igraph

    n = len(indices)
    k = indices.shape[1]
    near = sparse.csr_matrix((np.ones(indices.size), indices.ravel(), np.arange(0, indices.size + 1, k)), shape=(n, n))
    joined = ((near + near.T) > 0).astype(np.float64)
    shared = joined.multiply(near @ near.T).tocsr()
    shared.data /= 2 * k - shared.data
    upper = sparse.triu(shared + LEAST_SHARED * joined, 1).tocoo()
    graph = igraph.Graph(n, np.column_stack([upper.row, upper.col]))
    with seeded(seed):
        found = graph.community_leiden("modularity", weights=upper.data, resolution=resolution, n_iterations=ITERATIONS)
    return np.array(found.membership)


def join_small(points: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Put clusters of fewer than eight cells into the nearest other, by their means, the smallest first: int, 0, 1, …"""
    clusters = np.unique(clusters, return_inverse=True)[1]
    while (sizes := np.bincount(clusters)).min() < FEWEST and len(sizes) > 1:
        means = grouping(clusters, len(sizes)) @ points
        smallest = sizes.argmin()
        far = np.linalg.norm(means - means[smallest], axis=1)
        far[smallest] = np.inf
        clusters[clusters == smallest] = far.argmin()
        clusters = np.unique(clusters, return_inverse=True)[1]
    return clusters
