"""A sparse matrix that is left on disk, of which some rows are held at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import zarr

# What `sparse_dataset` gives and AnnData takes as X, which has no public name of its own
from anndata._core.sparse_dataset import _CSRDataset
from scipy import sparse

# Of the place of a cell where those of all of them are held.
PLACE = np.int32
# Values that are held where rows are read in their order: 8 bytes each.
WINDOW = 1 << 22
# Where they are read in a random order: how many, and out of how many places of the file.
RUN, TOGETHER = 1 << 23, 64


class StoredRows(_CSRDataset):
    """A CSR matrix in a zarr group of anndata's: what is taken of it, by rows, is in memory.

    The values of a chunk are decompressed together, so that rows are best taken a chunk or more at a time. That is what `hold` is
    for: rows that are held, in whatever order they are then asked for, are not read again. Rows that are asked for in their order
    are read ahead and held by themselves.
    """

    def __init__(self, group: zarr.Group):
        super().__init__(group)
        self._rows, self._held = np.empty(0, dtype=np.int64), None

    @property
    def nnz(self) -> int:
        """The number of stored values."""
        return self._data.shape[0]

    def hold(self, rows: np.ndarray) -> None:
        """Read rows (ascending, each once), and forget those that were held."""
        self._held = None
        rows = rows.astype(np.int64)
        self._rows, self._held = rows, self._read(rows)

    def runs(self, places: np.ndarray, size: int) -> Iterator[np.ndarray]:
        """Hold rows in their order, as many at a time as go into memory, whole minibatches of `size`; gives the places of each."""
        step = self._run(size)
        for start in range(0, len(places), step):
            run = places[start : start + step]
            self.hold(np.sort(run))
            yield run

    def shuffled(self, places: np.ndarray, size: int, permutation: Callable[[int], np.ndarray]) -> np.ndarray:
        """Places in a random order in which each of their `runs` lies in a few blocks.

        Places that follow each other are a block, which begin elsewhere each time; blocks are shuffled, and then the cells of each
        run. Where like cells follow each other in a query, `TOGETHER` blocks are what is left of the mixture in a run.
        `permutation` gives the numbers below another in random order.
        """
        run = self._run(size)
        block = max(1, run // TOGETHER)
        turned = np.roll(np.sort(places), permutation(len(places))[0])
        blocks = [turned[start : start + block] for start in range(0, len(turned), block)]
        order = np.concatenate([blocks[number] for number in permutation(len(blocks))])
        for start in range(0, len(order), run):
            part = order[start : start + run]
            part[:] = part[permutation(len(part))]
        return order

    def _run(self, size: int) -> int:
        """How many rows are held at once: whole minibatches, one at least, with `RUN` values in all."""
        mean = max(1, self.nnz // max(1, self.shape[0]))
        return max(1, RUN // mean // size) * size

    def __getitem__(self, index: object) -> sparse.csr_matrix:
        """Rows by their places, as a slice or in any order; of them, some columns."""
        rows, columns = index if isinstance(index, tuple) else (index, slice(None))
        rows = np.arange(*rows.indices(self.shape[0])) if isinstance(rows, slice) else np.asarray(rows)
        rows = np.atleast_1d(np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64))
        taken = self._take(rows)
        return taken if isinstance(columns, slice) and columns == slice(None) else taken[:, columns]

    def _take(self, rows: np.ndarray) -> sparse.csr_matrix:
        if len(rows) == 0:
            return sparse.csr_matrix((0, self.shape[1]), dtype=self.dtype)
        places = self._places(rows)
        if places is None:
            first, ahead = rows[0], int(np.searchsorted(self._indptr, self._indptr[rows[0]] + WINDOW))
            if not first <= rows.min() <= rows.max() < ahead:
                asked, places = np.unique(rows, return_inverse=True)
                return self._read(asked)[places]
            self.hold(np.arange(first, min(ahead, self.shape[0])))
            places = rows - first
        return self._held[places]

    def _places(self, rows: np.ndarray) -> np.ndarray | None:
        """Where these rows are among those that are held; None unless all of them are."""
        places = np.searchsorted(self._rows, rows)
        found = len(self._rows) > 0 and (self._rows[np.minimum(places, len(self._rows) - 1)] == rows).all()
        return places if found else None

    def _read(self, rows: np.ndarray) -> sparse.csr_matrix:
        """Rows, ascending, from disk: those that begin in the same chunk together."""
        starts, stops = (self._indptr[rows + after].astype(np.int64) for after in (0, 1))
        lengths = stops - starts
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        values, indices = (np.empty(indptr[-1], dtype=array.dtype) for array in (self._data, self._indices))
        cuts = np.flatnonzero(np.diff(starts // self._data.chunks[0])) + 1
        for one, other in pairwise([0, *cuts, len(rows)]):
            begin, end, into = starts[one], stops[other - 1], slice(indptr[one], indptr[other])
            # From where the row of each value is to where it belongs
            shift = np.repeat(starts[one:other] - begin - (indptr[one:other] - indptr[one]), lengths[one:other])
            taken = shift + np.arange(into.stop - into.start)
            for target, array in ((values, self._data), (indices, self._indices)):
                target[into] = array[begin:end][taken]
        return sparse.csr_matrix((values, indices, indptr), shape=(len(rows), self.shape[1]))
