"""A matrix on disk, cells x genes, read in blocks of rows: memory does not follow the number of cells."""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Iterator
from contextlib import suppress

import h5py
import numpy as np
import zarr
from scipy import sparse

from .elements import Source, check_claim, is_group, sparse_format

# What is held at once: 8 M values are 32 MB as float32 and 100 MB as (value, row, column).
BLOCK_VALUES = 1 << 23
SPILL_VALUES = 1 << 20
# Rows that are read at once where some are wanted.
TAKEN_ROWS = 4096
# What is read of a matrix to see whether it can be.
TRIED = 1 << 16


def return_freed_memory() -> None:
    """Make glibc give large blocks back to the system when they are freed; elsewhere do nothing.

    By itself it raises its threshold for that with every block freed, and a process that reads block after block grows
    by fragmentation: measured, 580 MB where 415 MB are needed. Arrow, which holds text, is made to ask glibc for its memory: what its
    own allocator kept of the names of 2,000,000 cells, which are 63 MB, was 100 MB more.
    """
    mmap_threshold = -3  # M_MMAP_THRESHOLD of mallopt(3)
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(mmap_threshold, 1 << 20)
    with suppress(ImportError):
        import pyarrow

        pyarrow.set_memory_pool(pyarrow.system_memory_pool())


# What scipy's sparse matrices do not know, and what it is read as.
READ_AS = {"float16": np.float32, "float128": np.float64, "float96": np.float64}


class Matrix:
    """A matrix on disk, cells x genes, whatever its storage: CSR, CSC or dense.

    `expected` is the shape that a sparse group has which does not say its own, as some writers leave it, and `stored` whether it
    is by the row ('csr') or by the column ('csc').
    """

    def __init__(
        self,
        elem: h5py.Group | h5py.Dataset | zarr.Group | zarr.Array,
        name: str,
        query: Source,
        expected: tuple[int, int],
        stored: str = "",
    ):
        self.elem, self.name, self.query = elem, name, query
        self.format = sparse_format(elem) or stored if is_group(elem) else "dense"
        if is_group(elem):
            missing = [part for part in ("data", "indices", "indptr") if part not in elem]
            if missing:
                raise KeyError(f"it has no {' and no '.join(missing)}")
            self.format = self.format or _format_of(len(elem["indptr"]), expected)
            self.values = elem["data"]
            said = next((elem.attrs[name] for name in ("shape", "h5sparse_shape") if name in elem.attrs), expected)
        else:
            self.values, said = elem, elem.shape
        self.shape: tuple[int, ...] = tuple(int(size) for size in said)
        if self.values.dtype.kind not in "biuf":
            raise TypeError(f"values of type {self.values.dtype}")
        check_claim(elem, by_chunk=True)
        if is_group(elem):
            self._check_indptr()

    def _check_indptr(self) -> None:
        check_claim(self.elem["indptr"])
        indptr = self.indptr = np.asarray(self.elem["indptr"][...]).astype(np.int64)
        lines = self.shape[0 if self.format == "csr" else 1]
        sizes = {self.elem[part].shape[0] for part in ("data", "indices")}
        if len(indptr) != lines + 1 or indptr[0] != 0 or (np.diff(indptr) < 0).any() or sizes != {int(indptr[-1])}:
            raise ValueError("its data, indices and indptr disagree")

    @property
    def dtype(self) -> np.dtype:
        """The type in which its values are read."""
        return np.dtype(READ_AS.get(self.values.dtype.name, self.values.dtype))

    @property
    def most_values(self) -> int:
        """An upper bound of the number of values that are not zero."""
        return int(np.prod(self.values.shape, dtype=np.int64))

    def chunks(self, rows: int) -> Iterator[tuple[int, sparse.csr_matrix]]:
        """Yield (first row, CSR of at most `rows` rows) over all cells, in order.

        Raises RefmapError where the file cannot be read.
        """
        read = self._csc_chunks if self.format == "csc" else self._row_chunks
        pieces = read(rows)
        while True:
            with self.query.reading(self.name):
                piece = next(pieces, None)
                if piece is None:
                    return
            yield piece

    def take(self, rows: np.ndarray, columns: np.ndarray | None = None) -> sparse.csr_matrix:
        """Read some rows (ascending), and of them some columns, in one pass by blocks: CSR."""
        parts = [sparse.csr_matrix((0, self.shape[1] if columns is None else len(columns)), dtype=self.dtype)]
        for start, chunk in self.chunks(TAKEN_ROWS):
            chunk = chunk[rows[slice(*np.searchsorted(rows, [start, start + chunk.shape[0]]))] - start]
            parts.append(chunk if columns is None else chunk[:, columns])
        return sparse.vstack(parts, format="csr")

    def sample(self, values: int = 10_000) -> np.ndarray:
        """Some of the first values, zeros perhaps among them: enough to see what kind of numbers these are."""
        with self.query.reading(self.name):
            if self.format == "dense":
                rows = max(1, values // max(1, self.shape[1]))
                return np.asarray(self.elem[:rows]).ravel().astype(self.dtype, copy=False)
            return np.asarray(self.values[:values]).astype(self.dtype, copy=False)

    def try_block(self) -> None:
        """Read the first and the last values, and where they lie, so that what cannot be read is known.

        Raises RefmapError if they cannot be read.
        """
        with self.query.reading(self.name):
            for part in ("data", "indices") if is_group(self.elem) else ("",):
                array = self.elem[part] if part else self.elem
                step = TRIED if part else max(1, TRIED // max(1, self.shape[1]))
                for start in {0, max(0, array.shape[0] - step)}:
                    block = array[start : start + step]
                    if part == "indices":
                        self.check_indices(block)

    def check_indices(self, indices: np.ndarray) -> None:
        """Raises ValueError if some of them lead out of a sparse matrix."""
        across = self.shape[1 if self.format == "csr" else 0]
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < across:
            raise ValueError("an index is out of range")

    def rows(self, start: int, stop: int) -> sparse.csr_matrix:
        """Read rows of a matrix that is stored by the row; what is too much for one type of scipy's is cast."""
        if self.format == "dense":
            step = max(1, BLOCK_VALUES // max(1, self.shape[1]))
            blocks = [
                sparse.csr_matrix(np.asarray(self.elem[first:last]).astype(self.dtype, copy=False))
                for first, last in ((start + one, start + other) for one, other in spans(stop - start, step))
            ]
            return sparse.vstack(blocks, format="csr") if blocks else sparse.csr_matrix((0, self.shape[1]), dtype=self.dtype)
        first, last = int(self.indptr[start]), int(self.indptr[stop])
        indices = np.asarray(self.elem["indices"][first:last])
        self.check_indices(indices)
        values = np.asarray(self.values[first:last]).astype(self.dtype, copy=False)
        return sparse.csr_matrix((values, indices, self.indptr[start : stop + 1] - first), shape=(stop - start, self.shape[1]))

    def _row_chunks(self, rows: int) -> Iterator[tuple[int, sparse.csr_matrix]]:
        for start, stop in spans(self.shape[0], rows):
            yield start, self.rows(start, stop)

    def _csc_chunks(self, rows: int) -> Iterator[tuple[int, sparse.csr_matrix]]:
        """Transpose in two passes: one counts the values of each row, one sorts them into bands of rows in a temporary file."""
        indices = self.elem["indices"]
        counts = np.zeros(self.shape[0], dtype=np.int64)
        for start, stop in spans(indices.shape[0], SPILL_VALUES):
            block = indices[start:stop]
            self.check_indices(block)
            counts += np.bincount(block, minlength=self.shape[0])
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
        indptr = self.indptr
        entry = np.dtype([("row", np.int32), ("column", np.int32), ("value", self.dtype)])
        band_of_row = np.repeat(np.arange(len(bands), dtype=np.int16), [last - first for first, last in bands])
        ends = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        for start, stop in spans(int(indptr[-1]), SPILL_VALUES):
            entries = np.empty(stop - start, dtype=entry)
            entries["row"] = self.elem["indices"][start:stop]
            entries["column"] = np.repeat(np.arange(self.shape[1]), np.diff(np.clip(indptr, start, stop)))
            entries["value"] = self.values[start:stop]
            band = band_of_row[entries["row"]]
            entries = entries[np.argsort(band, kind="stable")]
            at = 0
            for number, count in enumerate(np.bincount(band, minlength=len(bands))):
                file.seek(int(ends[number]) * entry.itemsize)
                file.write(entries[at : at + count].tobytes())
                at, ends[number] = at + count, ends[number] + count
        return entry


def _format_of(lines: int, expected: tuple[int, int]) -> str:
    """Whether a sparse group that does not say so is stored by the row or by the column, by the length of its indptr."""
    if expected[0] != expected[1] and lines - 1 in expected:
        return "csr" if lines - 1 == expected[0] else "csc"
    raise KeyError("it does not say whether it is stored by the row or by the column (encoding-type)")


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
