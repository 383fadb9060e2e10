"""A query moved into its reference's latent space by a linear model of its batches in each region of that space: Symphony.

Kang et al. 2021, doi:10.1038/s41467-021-25957-x. The reference is compressed to soft clusters and their first moments, and stays
as it is; in each cluster a ridge regression, in which the reference's cells take part by these moments, tells what of the query's
position is its batches'. The clusters are Harmony's (Korsunsky et al. 2019, doi:10.1038/s41592-019-0619-0), without its penalty on
batches: an atlas model has made its reference's cells alike already.

The paper's space is that of principal components, which are centred. A model's latent need not be, and cells that all lie on one
side of the origin have all but the same direction: so all is done about the mean of the reference.

Two things are refmap's own. Clusters are those of the cells once they are moved by what the clusters agree on of their batch: a batch
that lies far off would fall in the wrong ones. And what a cluster says beyond that counts less, and soon nothing, where the batch has
a larger share of its cells there than the reference has: such a cluster may hold a cell type which the reference lacks, and its
difference is no batch effect.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .regions import sample

# Harmony's and Symphony's: the width of the clusters, how many there are at most, cells of the reference for each, and what the
# ridge adds to each batch's cells.
SIGMA, MOST_CLUSTERS, CELLS_A_CLUSTER, PENALTY = 0.1, 100, 30, 1.0
# The power of the reference's share of cells in a cluster over the batch's by which a fuller cluster counts: chosen on the data of
# bench/correction.py, where the first power brings a missing type nearer, and more than the fourth wins nothing.
FULLER = 4
# Rounds in which what the clusters agree on is sought, at most, and the least change of it that is one, as a share.
AGREEING, AT_REST = 10, 1e-3
# Cells that the clusters are learned from, rounds of that at most, and the least move of a centre that is one.
MOST_FITTED, ROUNDS, STILL = 20_000, 25, 1e-4
# Cells whose memberships are held at once.
BLOCK = 16_384


@dataclass(frozen=True)
class Compressed:
    """What a correction needs of a reference: its clusters k.

    mean       float64, dimensions: that of the reference's cells
    centers    float64, clusters x dimensions: directions from the mean, of unit length
    sizes      float64, clusters: the memberships of the reference's cells in each, summed (N_r of the paper)
    sums       float64, clusters x dimensions: their positions about the mean, weighted by these (C of the paper)
    """

    mean: np.ndarray
    centers: np.ndarray
    sizes: np.ndarray
    sums: np.ndarray

    def memberships(self, positions: np.ndarray) -> np.ndarray:
        """How much each of some cells (cells x dimensions, about the mean) belongs to each cluster: rows that sum to 1."""
        return _memberships(_directions(positions), self.centers)


def compress(latent: np.ndarray, seed: int) -> Compressed:
    """Compress a reference's latent (cells x dimensions); of large ones the clusters are learned on 20,000 cells."""
    from sklearn.cluster import KMeans

    rng = np.random.default_rng(seed)
    mean = latent.mean(axis=0, dtype=np.float64)
    fitted = _directions(latent[sample(len(latent), MOST_FITTED, rng)] - mean)
    n_clusters = min(int(np.clip(len(latent) // CELLS_A_CLUSTER, 1, MOST_CLUSTERS)), len(np.unique(fitted, axis=0)))
    start = KMeans(n_clusters, init="k-means++", n_init=1, max_iter=25, random_state=int(rng.integers(2**31)))
    centers = _directions(start.fit(fitted).cluster_centers_)
    for _ in range(ROUNDS):
        before, centers = centers, _directions(_memberships(fitted, centers).T @ fitted)
        if np.abs(centers - before).max() < STILL:
            break
    sizes, sums = np.zeros(n_clusters), np.zeros(centers.shape)
    for _rows, positions in _blocks(latent, mean):
        belongs = _memberships(_directions(positions), centers)
        sizes += belongs.sum(axis=0)
        sums += belongs.T @ positions
    return Compressed(mean, centers, sizes, sums)


def correct(latent: np.ndarray, batches: np.ndarray, reference: Compressed) -> np.ndarray:
    """Take from a query's latent what is its batches'.

    Parameters
    ----------
    latent
        float, cells x the reference's dimensions.
    batches
        The batch of each cell.
    reference
        What it is moved into.

    Returns
    -------
    float32, cells x dimensions. All is linear in the cells; memberships of 16,384 are held at once.
    """
    names, codes = np.unique(batches, return_inverse=True)
    agreed = np.zeros((len(names), latent.shape[1]))
    for _ in range(AGREEING):
        before = agreed
        sizes, effects = regress(latent, codes, before, reference)
        both = np.minimum(_shares(sizes), _shares(reference.sizes))
        agreed = np.einsum("bk,bkd->bd", _shares(both), effects)
        if (np.linalg.norm(agreed - before, axis=1) <= AT_REST * np.linalg.norm(agreed, axis=1)).all():
            break
    borne = np.minimum(1, np.divide(_shares(reference.sizes), _shares(sizes), out=np.ones_like(sizes), where=sizes > 0)) ** FULLER
    common = agreed[:, None, :]
    return move(latent, codes, before, common + borne[:, :, None] * (effects - common), reference)


def regress(latent: np.ndarray, codes: np.ndarray, shifts: np.ndarray, reference: Compressed) -> tuple[np.ndarray, np.ndarray]:
    """Symphony's regression of cells (cells x dimensions) on their batches, which `codes` number.

    A cell belongs to clusters by where it lies less the shift of its batch (batches x dimensions; zero in Symphony itself).

    Returns
    -------
    The memberships of each batch's cells, summed: batches x clusters; and the batch's effect in each cluster: batches x clusters x
    dimensions.
    """
    n_clusters, n_dimensions = reference.centers.shape
    # Of each batch in each cluster what `Compressed` has of the reference
    sizes, sums = np.zeros((len(shifts), n_clusters)), np.zeros((len(shifts), n_clusters, n_dimensions))
    for rows, positions in _blocks(latent, reference.mean):
        belongs = reference.memberships(positions - shifts[codes[rows]])
        for batch in np.unique(codes[rows]):
            of_batch = codes[rows] == batch
            sizes[batch] += belongs[of_batch].sum(axis=0)
            sums[batch] += belongs[of_batch].T @ positions[of_batch]
    return sizes, _effects(sizes, sums, reference)


def move(latent: np.ndarray, codes: np.ndarray, shifts: np.ndarray, effects: np.ndarray, reference: Compressed) -> np.ndarray:
    """Take from cells the effects of their batches in their clusters, to which they belong as in :func:`regress`: float32."""
    corrected = np.empty(latent.shape, dtype=np.float32)
    for rows, positions in _blocks(latent, reference.mean):
        belongs = reference.memberships(positions - shifts[codes[rows]])
        for batch in np.unique(codes[rows]):
            of_batch = codes[rows] == batch
            positions[of_batch] -= belongs[of_batch] @ effects[batch]
        corrected[rows] = positions + reference.mean
    return corrected


def _shares(sizes: np.ndarray) -> np.ndarray:
    """Sizes of clusters (… x clusters) as shares of all."""
    return sizes / sizes.sum(axis=-1, keepdims=True)


def _effects(sizes: np.ndarray, sums: np.ndarray, reference: Compressed) -> np.ndarray:
    """The ridge regression of positions on batches in each cluster: batches x clusters x dimensions.

    An intercept without a penalty, which the reference's cells alone have, and a term a batch. The normal equations of a cluster
    join no two batches, only each with the intercept, and so are solved one after the other.
    """
    shrunk = sizes / (sizes + PENALTY)
    left = reference.sizes + sizes.sum(axis=0) - (sizes * shrunk).sum(axis=0)
    intercept = reference.sums + sums.sum(axis=0) - (sums * shrunk[:, :, None]).sum(axis=0)
    intercept = np.divide(intercept, left[:, None], out=np.zeros_like(intercept), where=left[:, None] > 0)
    return (sums - sizes[:, :, None] * intercept) / (sizes + PENALTY)[:, :, None]


def _blocks(latent: np.ndarray, mean: np.ndarray):
    """Rows, and the positions of their cells about the mean: float64."""
    for start in range(0, len(latent), BLOCK):
        rows = slice(start, start + BLOCK)
        yield rows, latent[rows] - mean


def _directions(positions: np.ndarray) -> np.ndarray:
    """Positions at unit length; those at the mean have no direction and stay there."""
    length = np.linalg.norm(positions, axis=1, keepdims=True)
    return np.divide(positions, length, out=np.zeros(positions.shape), where=length > 0)


def _memberships(directions: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """exp(-|z - y|² / sigma) of unit lengths, scaled to rows that sum to 1."""
    nearness = 2 / SIGMA * (directions @ centers.T)
    belongs = np.exp(nearness - nearness.max(axis=1, keepdims=True))
    return belongs / belongs.sum(axis=1, keepdims=True)
