"""The nearest of many cells among many others, exactly, by comparing as few pairs as must be. faiss is imported where it is used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from itertools import pairwise

import numba
import numpy as np

# Lists for the root of the number of cells; cells that each's centre is learned from, in so many rounds.
LISTS_PER_ROOT, CELLS_PER_CENTER, ROUNDS = 0.7, 25, 4
# Cells whose nearest centre is looked for at once; cells of one list that are searched together, and cells that these are compared
# with at once, whose products stay in a processor's cache.
BLOCK, TOGETHER, COMPARED = 4_096, 128, 512


class Lists:
    """Reference cells in lists, each around a centre, of which those alone are looked through that may hold a neighbour.

    Cells around the same centre are searched together, through the lists from the nearest on. Once it is known how far k cells are at
    most, a list is left out if all of its cells lie farther, by either of two bounds, so that nothing is missed:

    - no cell of a list is nearer than its centre less its radius (Fukunaga & Narendra 1975, doi:10.1109/T-C.1975.224297);
    - nor than the gap between them along the line through both centres. Where dimensions are many the radius is long in all of them
      together and short along any one line, so that this one tells more.

    The others are compared with the list by one product of matrices in float32: |x|² - 2xy + |y|², about the mean of the reference.
    The lengths are lessened by more than rounding can make of such a sum (`slack` of them), so that none comes out too large; what
    may be among the nearest is measured again, in float64, and takes its place among the k nearest so far.

    Parameters
    ----------
    latent
        float32, cells x dimensions.

    Attributes
    ----------
    compared
        The pairs of cells that were compared so far.
    """

    def __init__(self, latent: np.ndarray):
        import faiss

        self.compared = 0
        n, dimensions = latent.shape
        self._slack = 2 * (dimensions + 4) * float(np.finfo(np.float32).eps)
        self._mean = latent.mean(axis=0, dtype=np.float64).astype(np.float32)
        n_lists = int(LISTS_PER_ROOT * np.sqrt(n))
        fitted = faiss.Kmeans(dimensions, n_lists, niter=ROUNDS, min_points_per_centroid=1)
        # Every so many cells: that many are learned from, and no more.
        fitted.train(self._centered(latent[:: max(1, n // (CELLS_PER_CENTER * n_lists))]))
        self._centers = fitted.centroids
        belongs = self._nearest(latent)
        self._radii = np.zeros(n_lists, dtype=np.float32)
        for rows in _blocks(n):
            far = np.linalg.norm(self._centered(latent[rows]).astype(np.float64) - self._centers[belongs[rows]], axis=1)
            np.maximum.at(self._radii, belongs[rows], far * (1 + self._slack))
        self._order = np.argsort(belongs, kind="stable")
        self._starts = np.searchsorted(belongs[self._order], np.arange(n_lists + 1))
        self._cells = latent[self._order]
        # A place, and behind it the square of its length
        self._places = np.empty((n, dimensions + 1), dtype=np.float32)
        self._places[:, :-1] = self._centered(self._cells)
        self._places[:, -1] = self._lessened(self._places[:, :-1])

    def search(
        self, latent: np.ndarray, k: int, apart: tuple[np.ndarray, np.ndarray] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the `k` nearest of each cell (float32, cells x dimensions), of which there are as many, nearest first.

        `apart` are as for :meth:`refmap.transfer.neighbors.Index.search`.

        Returns their rows, int64, and distances, float64: both cells x k.
        """
        indices, distances = np.empty((len(latent), k), dtype=np.int64), np.empty((len(latent), k))
        # Without numbers all are others: no cell has -1
        own, others = (
            np.asarray(numbers, dtype=np.int64) for numbers in apart or (np.zeros(len(latent)), np.full(len(self._order), -1))
        )
        others = others[self._order]
        nearest = self._nearest(latent)
        order = np.argsort(nearest, kind="stable")
        for number, start, end in _runs(nearest[order]):
            outwards = np.argsort(np.linalg.norm(self._centers - self._centers[number], axis=1), kind="stable")
            for rows in np.split(order[start:end], range(TOGETHER, end - start, TOGETHER)):
                places = self._centered(latent[rows])
                some = latent[rows], places, self._lessened(places), own[rows]
                lists = outwards, self._starts, self._least(number, places)
                found, squared, compared = _search(some, (self._cells, self._places, others), lists, self._slack, k)
                indices[rows], distances[rows] = self._order[found], np.sqrt(squared)
                self.compared += compared
        return indices, distances

    def _least(self, number: int, places: np.ndarray) -> np.ndarray:
        """How far the cells of each list are at least from some around a centre: float32, lists x cells."""
        gaps = self._lines(number) @ places.T
        gaps -= 2 * np.float32(self._slack) * np.linalg.norm(places, axis=1)
        gaps -= self._ends[number, :, None]
        return np.maximum(gaps, self._distances(places).T - self._radii[:, None])

    @cached_property
    def _ends(self) -> np.ndarray:
        """Where on the line to each centre the cells of each list end: float32, centres x lists."""
        ends = np.empty((len(self._centers), len(self._centers)), dtype=np.float32)
        for number, (start, end) in enumerate(pairwise(self._starts)):
            places = self._places[start:end, :-1]
            at = places @ -self._lines(number).T
            ends[:, number] = at.max(axis=0, initial=-np.inf)
            ends[:, number] += 2 * self._slack * np.sqrt(self._places[start:end, -1].max(initial=0))
        return ends

    def _lines(self, number: int) -> np.ndarray:
        """The directions from each centre to one of them: float32, centres x dimensions; 0 where both are the same."""
        lines = self._centers[number] - self._centers
        lengths = np.linalg.norm(lines, axis=1, keepdims=True)
        return np.divide(lines, lengths, out=np.zeros_like(lines), where=lengths > 0)

    def _centered(self, latent: np.ndarray) -> np.ndarray:
        return latent - self._mean

    def _lessened(self, places: np.ndarray) -> np.ndarray:
        return np.einsum("ij,ij->i", places, places, dtype=np.float64) * (1 - self._slack)

    def _distances(self, places: np.ndarray) -> np.ndarray:
        """How far the centres are from some cells at least: float32, cells x centres."""
        squared = (-2 * places) @ self._centers.T
        squared += self._lessened(places).astype(np.float32)[:, None]
        squared += self._lessened(self._centers).astype(np.float32)
        return np.sqrt(squared.clip(0, out=squared), out=squared)

    def _nearest(self, latent: np.ndarray) -> np.ndarray:
        """The centre that each cell is nearest to, as far as float32 tells: int64."""
        return np.concatenate([self._distances(self._centered(latent[rows])).argmin(axis=1) for rows in _blocks(len(latent))])


@numba.njit(fastmath={"reassoc", "contract"})
def _search(some, reference, lists, slack, k):
    """Find the nearest of some cells around the same centre: rows, squared distances (int64, float64: cells x k), pairs compared.

    Parameters
    ----------
    some
        Their latent and places (about the mean), float32 cells x dimensions; the squares of their lengths, lessened; their numbers.
    reference
        The same of the reference's cells, list by list; the lengths are the last column of their places.
    lists
        The lists from the nearest of the centre's on; the first cell of each; how far its cells are from each cell at least, float32
        lists x cells.
    """
    (latent, places, lengths, own), (cells, others_places, others), (outwards, starts, least) = some, reference, lists
    n, dimensions = places.shape
    indices, squared, compared = np.empty((n, k), np.int64), np.full((n, k), np.inf), 0
    # How far the k nearest so far are, and what a product with one that is as near may be
    reach, limits = np.full(n, np.inf, np.float32), np.full(n, np.inf, np.float32)
    near, wanted = np.empty(n, np.int64), np.ones((n, dimensions + 1), np.float32)
    for number in outwards:
        n_near = 0
        for row in range(n):
            if least[number, row] <= reach[row]:
                near[n_near] = row
                n_near += 1
        first, end = starts[number], starts[number + 1]
        for place in range(n_near):
            wanted[place, :dimensions] = -2 * places[near[place]]
        for start in range(first, end if n_near else first, COMPARED):
            products = np.dot(wanted[:n_near], others_places[start : min(start + COMPARED, end)].T)
            compared += products.size
            for place in range(n_near):
                row = near[place]
                for column in range(products.shape[1]):
                    if products[place, column] > limits[row]:
                        continue
                    cell = start + column
                    if own[row] == others[cell]:
                        continue
                    distance = 0.0
                    for dimension in range(dimensions):
                        between = np.float64(cells[cell, dimension]) - np.float64(latent[row, dimension])
                        distance += between * between
                    if distance >= squared[row, k - 1]:
                        continue
                    at = k - 1
                    while at > 0 and squared[row, at - 1] > distance:
                        squared[row, at], indices[row, at] = squared[row, at - 1], indices[row, at - 1]
                        at -= 1
                    squared[row, at], indices[row, at] = distance, cell
                    farthest = squared[row, k - 1] * (1 + slack)
                    reach[row] = np.sqrt(farthest)
                    limits[row] = farthest - lengths[row] + 2 * slack * lengths[row]
    return indices, squared, compared


# Compiled once an environment and not once a process: 3 s of CPU
with suppress(RuntimeError):  # where there is no folder that numba can write to
    _search.enable_caching()


def _blocks(n: int) -> Iterator[slice]:
    return (slice(start, start + BLOCK) for start in range(0, n, BLOCK))


def _runs(values: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Each value of a sorted array, where it starts, and where it ends."""
    starts = np.flatnonzero(np.diff(values, prepend=-1))
    return zip(values[starts].tolist(), starts.tolist(), [*starts[1:].tolist(), len(values)], strict=True)
