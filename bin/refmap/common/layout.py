"""Cells laid out in two dimensions: UMAP. scikit-learn and umap-learn are imported where they are used: each takes its time."""

from __future__ import annotations

from contextlib import suppress

import numpy as np

N_NEIGHBORS = 15
# Below this a neighbourhood is the whole dataset.
FEWEST_FOR_UMAP = N_NEIGHBORS + 1
# UMAP's own for a minimal distance of 0.5 and a spread of 1, as scanpy draws it.
MIN_DISTANCE, SPREAD = 0.5, 1.0
N_EPOCHS = 200
# Cells whose neighbours are weighed at once.
BLOCK = 1 << 16

Nearest = tuple[np.ndarray, np.ndarray]


def umap(latent: np.ndarray, seed: int, nearest: Nearest | None = None) -> np.ndarray:
    """Lay cells out in two dimensions (cells x 2) by UMAP, from the two dimensions that vary most.

    McInnes, Healy & Melville 2018, arXiv:1802.03426. The layout is umap-learn's; the weights of the neighbours are
    computed here, because umap-learn compiles its own anew in each process, at 4 s of CPU whatever the number of cells.
    `nearest` are distances and indices of each cell's nearest neighbours, itself left out, where they are known already.
    """
    from umap import layouts
    from umap.umap_ import find_ab_params, simplicial_set_embedding

    # Compiled once an environment and not once a process, as umap-learn has it: 3 s of CPU
    with suppress(RuntimeError):  # where there is no folder that numba can write to
        layouts._nb_optimize_layout_euclidean_single_epoch.enable_caching()
    rng = np.random.RandomState(seed)
    start = first_two(latent)
    start = start + rng.normal(scale=1e-4 * (np.ptp(start) or 1), size=start.shape)
    a, b = find_ab_params(SPREAD, MIN_DISTANCE)
    position, _ = simplicial_set_embedding(
        latent,
        neighbor_weights(latent, nearest),
        n_components=2,
        initial_alpha=1.0,
        a=a,
        b=b,
        gamma=1.0,
        negative_sample_rate=5,
        n_epochs=N_EPOCHS,
        init=start,
        random_state=rng,
        metric="euclidean",
        metric_kwds={},
        densmap=False,
        densmap_kwds={},
        output_dens=False,
    )
    return position


def neighbor_weights(latent: np.ndarray, nearest: Nearest | None = None):
    """Return UMAP's weights of the cells' nearest neighbours: symmetric CSR float32, cells x cells.

    Algorithms 2 and 3 of arXiv:1802.03426: exp(-(d - rho) / sigma), where rho is the distance of the nearest neighbour
    that lies elsewhere, and sigma is such that the weights of a cell add up to log2 of the number of neighbours, itself
    counted; then joined as the probability of either direction.
    """
    from scipy.sparse import csr_matrix
    from sklearn.neighbors import NearestNeighbors

    n, k = len(latent), N_NEIGHBORS - 1
    distance, neighbor = nearest or NearestNeighbors(n_neighbors=k).fit(latent).kneighbors()
    # Where many neighbours are equally near no bandwidth fits: UMAP's floor, relative to the distances.
    floor = 1e-3 * (distance.mean(dtype=np.float64) or 1)
    weight = np.empty((n, k), dtype=np.float32)
    for start in range(0, n, BLOCK):
        rows = slice(start, start + BLOCK)
        weight[rows] = _weights(distance[rows].astype(np.float64), floor)
    one_way = csr_matrix((weight.ravel(), neighbor.ravel().astype(np.int32), np.arange(0, n * k + 1, k)), shape=(n, n))
    other_way = one_way.T.tocsr()
    return (one_way + other_way - one_way.multiply(other_way)).tocsr()


def _weights(distance: np.ndarray, floor: float) -> np.ndarray:
    """The weights of cells' nearest neighbours before they are joined, by their distances (cells x k)."""
    closest = np.where(distance > 0, distance, np.inf).min(axis=1, keepdims=True)
    beyond = np.maximum(distance - np.where(np.isfinite(closest), closest, 0), 0)
    return np.exp(-beyond / np.maximum(_bandwidth(beyond, np.log2(N_NEIGHBORS)), floor))


def _bandwidth(beyond: np.ndarray, target: float) -> np.ndarray:
    """Bisect, for each row, the sigma with which exp(-beyond / sigma) adds up to the target; returns rows x 1."""
    low = np.zeros((len(beyond), 1))
    high = np.full_like(low, np.inf)
    sigma = np.ones_like(low)
    for _ in range(64):
        too_wide = np.exp(-beyond / sigma).sum(axis=1, keepdims=True) > target
        high = np.where(too_wide, sigma, high)
        low = np.where(too_wide, low, sigma)
        sigma = np.where(np.isinf(high), sigma * 2, (low + high) / 2)
        sigma = np.maximum(sigma, np.finfo(float).tiny)
    return sigma


def first_two(latent: np.ndarray) -> np.ndarray:
    """Return the two latent dimensions that vary most (cells x 2): a model's dimensions have no order of their own."""
    order = np.argsort(-latent.var(axis=0), kind="stable")[:2]
    chosen = latent[:, order].astype(np.float64)
    return np.pad(chosen, ((0, 0), (0, 2 - chosen.shape[1])))
