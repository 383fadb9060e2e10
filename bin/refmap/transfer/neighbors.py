"""The nearest cells of a reference in a latent space, exactly, and what each of them weighs. faiss and numba are imported where they are used."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .lists import Lists

# The Human Lung Cell Atlas's number of neighbours (Sikkema et al. 2023, doi:10.1038/s41591-023-02327-2).
NEIGHBORS = 50
# Up to as many cells, the neighbours of each among all are found exactly: beyond, work that grows with their square is hours.
MOST_EXACT = 50_000
# Of an inverted file: cells that its lists are learned from, for each list, and the lists that are looked through.
CELLS_PER_LIST, LISTS_SEARCHED = 40, 16
# Lists pay for so many pairs of cells, and so many of a reference's. For fewer pairs they do less than it takes to compile their search,
# as is done once a process where numba can keep nothing.
FEWEST_PAIRS, FEWEST_LISTED = 20_000_000, 100
# Cells compared with all at once: their distances to the whole reference are never all in memory.
BLOCK = 4096
# Cells of a query whose neighbours are held at once.
HELD = 65_536


@dataclass(frozen=True)
class Neighbors:
    """The nearest reference cells of some cells, nearest first.

    indices      int64, cells x k: rows of the reference
    distances    float64, cells x k: Euclidean
    """

    indices: np.ndarray
    distances: np.ndarray

    @cached_property
    def weights(self) -> np.ndarray:
        """What each neighbour weighs: float64, cells x k, each row sums to 1.

        The kernel of scArches' label transfer: exp(-d s² / 4), where s is the standard deviation of a cell's distances
        (Lotfollahi et al. 2022, doi:10.1038/s41587-021-01001-7; Sikkema et al. 2023). The library divides by (2 / s)², which is
        the same but where all distances are equal: there it divides by zero, and all weigh alike.
        """
        if not self.distances.size:
            return np.empty(self.distances.shape)
        spread = self.distances.std(axis=1, keepdims=True)
        # Less the nearest's own: a factor that the sum takes out again, and without which far cells come to 0 / 0.
        weight = np.exp(-(self.distances - self.distances[:, :1]) * (spread / 2) ** 2)
        return weight / weight.sum(axis=1, keepdims=True)


class Index:
    """An exact index over the latent of reference cells (cells x dimensions).

    Approximate indices err in a few percent of the neighbours. Few cells are compared with all, by faiss (Douze et al. 2024,
    arXiv:2401.08281) in float32; the distances that it finds are computed again, as its own lose digits between near cells. Of many,
    those are left out that cannot be among the nearest (:class:`refmap.transfer.lists.Lists`).
    """

    def __init__(self, latent: np.ndarray):
        self.latent = np.ascontiguousarray(latent, dtype=np.float32)

    @cached_property
    def _flat(self):
        import faiss

        index = faiss.IndexFlatL2(self.latent.shape[1])
        index.add(self.latent)
        return index

    @cached_property
    def _lists(self) -> Lists:
        from .lists import Lists

        return Lists(self.latent)

    def __len__(self) -> int:
        return len(self.latent)

    def search(self, latent: np.ndarray, k: int = NEIGHBORS, apart: tuple[np.ndarray, np.ndarray] | None = None) -> Neighbors:
        """Find the `k` nearest reference cells of each cell, fewer where there are not as many.

        `apart` are whole numbers of the cells and of the reference's, such as those of their batches: none of the reference's cells
        with a cell's own number is among its neighbours.
        """
        latent = np.ascontiguousarray(latent, dtype=np.float32)
        if apart is not None and len(latent):
            k = min(k, *(int((apart[1] != number).sum()) for number in np.unique(apart[0])))
        k = min(k, len(self))
        if len(self) >= FEWEST_LISTED and len(self) * len(latent) >= FEWEST_PAIRS:
            return Neighbors(*self._lists.search(latent, k, apart))
        if apart is None:
            return self._compare(latent, k)
        indices, distances = np.empty((len(latent), k), dtype=np.int64), np.empty((len(latent), k))
        for number in np.unique(apart[0]):
            rows, others = apart[0] == number, np.flatnonzero(apart[1] != number)
            found = Index(self.latent[others])._compare(latent[rows], k)
            indices[rows], distances[rows] = others[found.indices], found.distances
        return Neighbors(indices, distances)

    def _compare(self, latent: np.ndarray, k: int) -> Neighbors:
        """The nearest of all, with each of which each cell is compared."""
        indices, distances = np.empty((len(latent), k), dtype=np.int64), np.empty((len(latent), k))
        for start in range(0, len(latent), BLOCK):
            block = latent[start : start + BLOCK]
            found = self._flat.search(block, k)[1]
            exact = np.linalg.norm(self.latent[found].astype(np.float64) - block[:, None, :], axis=2)
            order = np.argsort(exact, axis=1, kind="stable")
            rows = slice(start, start + len(block))
            indices[rows] = np.take_along_axis(found, order, axis=1)
            distances[rows] = np.take_along_axis(exact, order, axis=1)
        return Neighbors(indices, distances)

    def search_own(self, k: int = NEIGHBORS, rows: np.ndarray | None = None) -> Neighbors:
        """Find the nearest of the reference's cells to those in some of its `rows`, by default all, each of these itself left out."""
        rows = np.arange(len(self)) if rows is None else rows
        return self.search_others(self.latent[rows], rows, k)

    def search_others(self, latent: np.ndarray, itself: np.ndarray, k: int) -> Neighbors:
        """Find the nearest reference cells of each cell but the cell itself, which is in row `itself` (int64, -1: in none)."""
        k = min(k, len(self) - 1)
        found = self.search(latent, k + 1)
        return _without(itself, found.indices, found.distances)


def _inverted(latent: np.ndarray, n_lists: int, learned: np.ndarray):
    """faiss' inverted file of cells in so many lists, whose centres are learned from some rows."""
    import faiss

    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(latent.shape[1]), latent.shape[1], n_lists)
    index.train(latent[learned])
    index.add(latent)
    return index


def _without(itself: np.ndarray, indices: np.ndarray, distances: np.ndarray) -> Neighbors:
    """Of one neighbour more than is wanted leave each cell itself out: the row `itself` of those searched, -1 for none."""
    left_out = indices == itself[:, None]
    # The last goes of cells that are not there, and where more than k lie on one spot, so that a cell is not among its nearest.
    left_out[~left_out.any(axis=1), -1] = True
    shape = len(indices), indices.shape[1] - 1
    return Neighbors(indices[~left_out].reshape(shape), distances[~left_out].reshape(shape))


def nearest_among(latent: np.ndarray, k: int, seed: int) -> Neighbors:
    """Find the `k` nearest others of each cell among all of them (cells x dimensions): beyond MOST_EXACT cells by an inverted file.

    Which misses up to a few percent of the neighbours (faiss' IVF, Douze et al. 2024), where true ones are hardly nearer: good
    enough for a graph of neighbours, and not for labels.
    """
    if len(latent) <= MOST_EXACT:
        return Index(latent).search_own(k)
    latent = np.ascontiguousarray(latent, dtype=np.float32)
    n_lists = int(2 * np.sqrt(len(latent)))
    learned = np.random.default_rng(seed).permutation(len(latent))[: CELLS_PER_LIST * n_lists]
    index = _inverted(latent, n_lists, np.sort(learned))
    index.nprobe = LISTS_SEARCHED
    indices = np.empty((len(latent), k), dtype=np.int32)
    distances = np.empty((len(latent), k), dtype=np.float32)
    for start in range(0, len(latent), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(latent)))
        squared, found = index.search(latent[rows], k + 1)
        near = _without(rows, found, np.sqrt(squared.clip(0)))
        # Where the lists held too few, the cell stands for what is missing.
        indices[rows] = np.where(near.indices < 0, rows[:, None], near.indices)
        distances[rows] = np.where(near.indices < 0, 0, near.distances)
    return Neighbors(indices, distances)
