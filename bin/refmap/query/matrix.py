"""A matrix on disk, cells x genes, read in blocks of rows: memory does not follow the number of cells."""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import h5py
import numpy as np
import zarr
from anndata.abc import CSCDataset, CSRDataset
from scipy import sparse

from .elements import Source

# What is held at once: 8 M values are 32 MB as float32 and 100 MB as (value, row, column).
BLOCK_VALUES = 1 << 23
SPILL_VALUES = 1 << 20


def return_freed_memory() -> None:
    """Make glibc give large blocks back to the system when they are freed; elsewhere do nothing.

    By itself it raises its threshold for that with every block freed, and a process that reads block after block grows
    by fragmentation: measured, 580 MB where 415 MB are needed.
    """
    mmap_threshold = -3  # M_MMAP_THRESHOLD of mallopt(3)
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(mmap_threshold, 1 << 20)


@dataclass
class Matrix:
    """A matrix on disk, cells x genes, whatever its storage: CSR, CSC or dense."""

    elem: CSRDataset | CSCDataset | h5py.Dataset | zarr.Array
    name: str
    query: Source

    @property
    def shape(self) -> tuple[int, int]:
        return tuple(int(size) for size in self.elem.shape)

    @property
    def dtype(self) -> np.dtype:
        return self.elem.dtype

    @property
    def format(self) -> str:
        return getattr(self.elem, "format", "dense")

    @property
    def most_values(self) -> int:
        """An upper bound of the number of values that are not zero."""
        if self.format == "dense":
            return self.shape[0] * self.shape[1]
        return int(self.elem.group["data"].shape[0])

    def chunks(self, rows: int) -> Iterator[tuple[int, sparse.csr_matrix]]:
        """Yield (first row, CSR of at most `rows` rows) over all cells, in order.

        Raises RefmapError where the file cannot be read.
        """
        read = {"csr": self._csr_chunks, "csc": self._csc_chunks, "dense": self._dense_chunks}[self.format]
        pieces = read(rows)
        while True:
            with self.query.reading(self.name):
                piece = next(pieces, None)
                if piece is None:
                    return
                columns = piece[1].indices
                if len(columns) and not 0 <= columns.min() <= columns.max() < self.shape[1]:
                    raise ValueError("a column index is out of range")
            yield piece

    def sample(self, values: int = 10_000) -> np.ndarray:
        """Some of the first values, zeros perhaps among them: enough to see what kind of numbers these are."""
        with self.query.reading(self.name):
            if self.format == "dense":
                rows = max(1, values // max(1, self.shape[1]))
                return np.asarray(self.elem[:rows]).ravel()
            return np.asarray(self.elem.group["data"][:values])

    def _csr_chunks(self, rows: int) -> Iterator[tuple[int, sparse.csr_matrix]]:
        for start, stop in spans(self.shape[0], rows):
            yield start, sparse.csr_matrix(self.elem[start:stop])

    def _dense_chunks(self, rows: int) -> Iterator[tuple[int, sparse.csr_matrix]]:
        step = max(1, BLOCK_VALUES // max(1, self.shape[1]))
        for start, stop in spans(self.shape[0], rows):
            # scipy knows no float16.
            dtype = np.float32 if self.dtype == np.float16 else self.dtype
            blocks = [sparse.csr_matrix(self.elem[at : min(at + step, stop)], dtype=dtype) for at in range(start, stop, step)]
            yield start, sparse.vstack(blocks, format="csr")

    def _csc_chunks(self, rows: int) -> Iterator[tuple[int, sparse.csr_matrix]]:
        """Transpose in two passes: one counts the values of each row, one sorts them into bands of rows in a temporary file."""
        indices = self.elem.group["indices"]
        counts = np.zeros(self.shape[0], dtype=np.int64)
        for start, stop in spans(indices.shape[0], SPILL_VALUES):
            counts += np.bincount(indices[start:stop], minlength=self.shape[0])
        bands = list(_bands(counts, rows, BLOCK_VALUES))
        sizes = [int(counts[first:last].sum()) for first, last in bands]
        with tempfile.TemporaryFile() as file:
            entry = self._spill(file, bands, sizes)
            file.seek(0)
            for (first, last), size in zip(bands, sizes, strict=True):
                found = np.frombuffer(file.read(size * entry.itemsize), dtype=entry)
                where = (found["row"] - first, found["column"])
                band = sparse.coo_matrix((found["value"], where), shape=(last - first, self.shape[1])).tocsr()
                for start in range(first, last, rows):
                    yield start, band[start - first : min(start + rows, last) - first]

    def _spill(self, file, bands: list[tuple[int, int]], sizes: list[int]) -> np.dtype:
        """Write (row, column, value) of every value of a CSC matrix to `file`, band after band; return that type."""
        group = self.elem.group
        indptr = group["indptr"][...].astype(np.int64)
        entry = np.dtype([("row", np.int32), ("column", np.int32), ("value", self.dtype)])
        band_of_row = np.repeat(np.arange(len(bands), dtype=np.int16), [last - first for first, last in bands])
        ends = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        for start, stop in spans(int(indptr[-1]), SPILL_VALUES):
            entries = np.empty(stop - start, dtype=entry)
            entries["row"] = group["indices"][start:stop]
            entries["column"] = np.repeat(np.arange(self.shape[1]), np.diff(np.clip(indptr, start, stop)))
            entries["value"] = group["data"][start:stop]
            band = band_of_row[entries["row"]]
            entries = entries[np.argsort(band, kind="stable")]
            at = 0
            for number, count in enumerate(np.bincount(band, minlength=len(bands))):
                file.seek(int(ends[number]) * entry.itemsize)
                file.write(entries[at : at + count].tobytes())
                at, ends[number] = at + count, ends[number] + count
        return entry


def spans(size: int, step: int) -> Iterator[tuple[int, int]]:
    """Cut 0..size into runs of `step`, the last one shorter."""
    for start in range(0, size, step):
        yield start, min(start + step, size)


def _bands(counts: np.ndarray, rows: int, most: int) -> Iterator[tuple[int, int]]:
    """Cut rows into runs of whole chunks of `rows` rows whose values number at most `most` (or one chunk, if that has more)."""
    first, held = 0, 0
    for start in range(0, len(counts), rows):
        chunk = int(counts[start : start + rows].sum())
        if start > first and held + chunk > most:
            yield first, start
            first, held = start, 0
        held += chunk
    if len(counts):
        yield first, len(counts)
