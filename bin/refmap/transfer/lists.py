"""The nearest of many cells among many others, exactly, by comparing as few pairs as must be. faiss is imported where it is used."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

# Lists for the root of the number of cells; cells that each's centre is learned from, in so many rounds; parts of a list.
LISTS_PER_ROOT, CELLS_PER_CENTER, ROUNDS, SHELLS = 1.4, 25, 4, 4
# Cells around a list's centre that tell at first how far neighbours may be.
FEWEST_SEEDS = 1024
# Cells searched at once, those of them compared with a part of a list at once (in a processor's cache), pairs measured at once,
# and pairs that are kept before the nearest are picked from them.
BLOCK, COMPARED, MEASURED, MOST_KEPT = 32_768, 4_096, 1 << 13, 1 << 24


class Lists:
    """Reference cells in lists, each around a centre, of which those parts alone are looked through that may hold a neighbour.

    A list is parted into shells by how far its cells are from its centre. No cell of a shell is nearer than the centre less the
    shell's radius, by the triangle inequality; so once it is known how far k cells are at most, shells beyond are left out, and
    nothing is missed (Fukunaga & Narendra 1975, doi:10.1109/T-C.1975.224297). All cells that a shell may matter to are compared with
    it by one product of matrices in float32: |x|² - 2xy + |y|², about the mean of the reference. The lengths are lessened by more
    than rounding can make of such a sum (`slack` of them), so that none comes out too large; what may be among the nearest is
    measured again, in float64.

    Parameters
    ----------
    latent
        float32, cells x dimensions.
    """

    def __init__(self, latent: np.ndarray):
        import faiss

        self.latent = latent
        n, dimensions = latent.shape
        self._slack = 2 * (dimensions + 4) * float(np.finfo(np.float32).eps)
        self._mean = latent.mean(axis=0, dtype=np.float64)
        places = (latent - self._mean).astype(np.float32)
        n_lists = int(LISTS_PER_ROOT * np.sqrt(n))
        fitted = faiss.Kmeans(dimensions, n_lists, niter=ROUNDS, min_points_per_centroid=1)
        # Every so many cells: that many are learned from, and no more.
        fitted.train(places[:: max(1, n // (CELLS_PER_CENTER * n_lists))])
        self._centers = fitted.centroids
        belongs, far = np.empty(n, dtype=np.int64), np.empty(n)
        for rows, distances in self._distances(places):
            belongs[rows] = distances.argmin(axis=1)
            far[rows] = np.linalg.norm(places[rows].astype(np.float64) - self._centers[belongs[rows]], axis=1)
        # List by list, each from its centre outwards
        self._order = np.lexsort((far, belongs))
        self._starts = np.searchsorted(belongs[self._order], np.arange(n_lists + 1))
        self._far = far[self._order]
        places = places[self._order]
        self._places = np.column_stack([places, self._lessened(places)]).astype(np.float32)

    def search(
        self, latent: np.ndarray, k: int, apart: tuple[np.ndarray, np.ndarray] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the `k` nearest of each cell (float32, cells x dimensions), of which there are as many, nearest first.

        `apart` are as for :meth:`refmap.transfer.neighbors.Index.search`.

        Returns their rows, int64, and distances, float64: both cells x k.
        """
        shape = len(latent), k
        indices, distances = np.empty(shape, dtype=np.int64), np.empty(shape)
        for start in range(0, len(latent), BLOCK):
            rows = slice(start, start + BLOCK)
            own = None if apart is None else (apart[0][rows], apart[1][self._order])
            indices[rows], distances[rows] = self._search(latent[rows], k, own)
        return indices, distances

    def _search(self, latent: np.ndarray, k: int, apart: tuple[np.ndarray, np.ndarray] | None) -> tuple[np.ndarray, np.ndarray]:
        places = (latent - self._mean).astype(np.float32)
        lengths = self._lessened(places)
        wanted = np.column_stack([-2 * places, np.ones(len(places), dtype=np.float32)])
        far, nearest = np.empty((len(self._centers), len(places)), dtype=np.float32), np.empty(len(places), dtype=np.int64)
        for rows, distances in self._distances(places):
            far[:, rows], nearest[rows] = distances.T, distances.argmin(axis=1)
        # What a product may be at most, and a distance
        limits = self._limits(wanted, nearest, k, apart) + 2 * self._slack * lengths
        reach = np.sqrt((limits + lengths).clip(0)).astype(np.float32) * np.float32(1 + self._slack)
        limits = limits.astype(np.float32)
        found, kept = [_nothing()], 0
        for number, first, end in self._shells():
            near = np.flatnonzero(far[number] <= reach + np.float32(self._far[end - 1] * (1 + self._slack)))
            for start in range(0, len(near), COMPARED):
                rows = near[start : start + COMPARED]
                hits = np.flatnonzero(wanted[rows] @ self._places[first:end].T <= limits[rows, None])
                row, column = np.divmod(hits, end - first)
                row, column = rows[row], first + column
                if apart is not None:
                    others = apart[0][row] != apart[1][column]
                    row, column = row[others], column[others]
                found.append((row.astype(np.uint16), self._order[column]))
                kept += len(row)
            if kept > max(MOST_KEPT, 4 * k * len(latent)):
                found = [self._nearest(latent, found, k)[:2]]
                kept = len(found[0][0])
        _, indices, distances = self._nearest(latent, found, k)
        return indices.reshape(-1, k), distances.reshape(-1, k)

    def _lessened(self, places: np.ndarray) -> np.ndarray:
        return np.einsum("ij,ij->i", places, places, dtype=np.float64) * (1 - self._slack)

    def _distances(self, places: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """How far the centres are at least, of some cells after the others: float32, cells x centres."""
        lengths, of_centers = self._lessened(places).astype(np.float32), self._lessened(self._centers).astype(np.float32)
        for start in range(0, len(places), COMPARED):
            rows = slice(start, start + COMPARED)
            squared = (-2 * places[rows]) @ self._centers.T
            squared += lengths[rows, None]
            squared += of_centers
            yield rows, np.sqrt(squared.clip(0, out=squared), out=squared)

    def _limits(self, wanted: np.ndarray, nearest: np.ndarray, k: int, apart: tuple[np.ndarray, np.ndarray] | None) -> np.ndarray:
        """What the k-th least product of each cell with the reference's is at most, but for the slack of its own length."""
        limits = np.empty(len(wanted))
        order = np.argsort(nearest, kind="stable")
        sizes = np.diff(self._starts)
        for number, start, end in _runs(nearest[order]):
            rows = order[start:end]
            around = np.argsort(np.linalg.norm(self._centers - self._centers[number], axis=1), kind="stable")
            lists = around[: np.searchsorted(np.cumsum(sizes[around]), max(FEWEST_SEEDS, k)) + 1]
            seeds = np.concatenate([np.arange(*self._starts[i : i + 2]) for i in lists])
            products = wanted[rows] @ self._places[seeds].T
            if apart is not None:
                products[apart[0][rows, None] == apart[1][seeds]] = np.inf
            limits[rows] = np.partition(products, k - 1, axis=1)[:, k - 1] + 2 * self._slack * self._places[seeds, -1].max()
        return limits

    def _shells(self) -> Iterator[tuple[int, int, int]]:
        """The list, the first cell, and that after the last, of all parts of lists, in their order."""
        for number, (start, end) in enumerate(zip(self._starts[:-1], self._starts[1:], strict=True)):
            bounds = np.unique(np.linspace(start, end, SHELLS + 1).astype(int))
            yield from ((number, first, last) for first, last in zip(bounds[:-1], bounds[1:], strict=True))

    def _nearest(self, latent: np.ndarray, found: list[tuple[np.ndarray, np.ndarray]], k: int) -> tuple[np.ndarray, ...]:
        """Of pairs of a cell and a reference cell the `k` nearest of each cell, or as many as there are, with their distances."""
        rows, columns = (np.concatenate(part) for part in zip(*found, strict=True))
        distances = np.empty(len(rows))
        for start in range(0, len(rows), MEASURED):
            some = slice(start, start + MEASURED)
            apart = np.subtract(self.latent[columns[some]], latent[rows[some]], dtype=np.float64)
            distances[some] = np.sqrt(np.einsum("ij,ij->i", apart, apart))
        order = np.lexsort((distances, rows))
        rows = rows[order]
        place = np.arange(len(rows)) - np.searchsorted(rows, np.arange(len(latent)))[rows]
        order = order[place < k]
        return rows[place < k], columns[order], distances[order]


def _nothing() -> tuple[np.ndarray, np.ndarray]:
    return np.empty(0, dtype=np.uint16), np.empty(0, dtype=np.int64)


def _runs(values: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Each value of a sorted array, where it starts, and where it ends."""
    starts = np.flatnonzero(np.diff(values, prepend=-1))
    return zip(values[starts].tolist(), starts.tolist(), [*starts[1:].tolist(), len(values)], strict=True)
