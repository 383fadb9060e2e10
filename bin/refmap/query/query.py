"""A query dataset on disk: .h5ad, .zarr (format 2 and 3) or .h5mu, told apart by content and read piece by piece.

Metadata are read when asked for; a matrix is only ever read in blocks of rows, so memory does not follow the number of cells.
"""

from __future__ import annotations

import ctypes
import errno
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import zarr
from anndata.abc import CSCDataset, CSRDataset
from anndata.io import read_elem, sparse_dataset
from scipy import sparse

from ..common.errors import RefmapError, nearest

# What is held at once: 8 M values are 32 MB as float32 and 100 MB as (value, row, column).
BLOCK_VALUES = 1 << 23
SPILL_VALUES = 1 << 20
MODERN_FRAME = "0.2.0"


def return_freed_memory() -> None:
    """Make glibc give large blocks back to the system when they are freed; elsewhere do nothing.

    By itself it raises its threshold for that with every block freed, and a process that reads block after block grows
    by fragmentation: measured, 580 MB where 415 MB are needed.
    """
    mmap_threshold = -3  # M_MMAP_THRESHOLD of mallopt(3)
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(mmap_threshold, 1 << 20)


def text(value: object) -> str:
    """An attribute, which old files hold as bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)


def encoding(elem) -> str:
    """The anndata encoding of a stored element; empty where none is written."""
    return text(elem.attrs.get("encoding-type", ""))


def is_group(elem) -> bool:
    return isinstance(elem, (h5py.Group, zarr.Group))


def listed(names, most: int = 10) -> str:
    """Names for a sentence: quoted, the first `most` of them, and how many more there are."""
    names = [str(name) for name in names]
    if not names:
        return "none"
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(f"'{name}'" for name in names[:most]) + more


class Frame:
    """`obs` or `var`: a table whose columns are read one at a time."""

    def __init__(self, elem, query: Query):
        self._elem, self._query = elem, query

    @cached_property
    def _whole(self) -> pd.DataFrame | None:
        """The table of a file too old to be read by the column (before anndata 0.8); else None."""
        if isinstance(self._elem, pd.DataFrame):
            return self._elem
        if text(self._elem.attrs.get("encoding-version", "")) == MODERN_FRAME:
            return None
        return read_elem(self._elem)

    @cached_property
    def columns(self) -> list[str]:
        with self._query.reading("the columns of obs and var"):
            if self._whole is not None:
                return [str(column) for column in self._whole.columns]
            return [text(column) for column in self._elem.attrs["column-order"]]

    @cached_property
    def index(self) -> np.ndarray:
        """The row names: an object array of str."""
        with self._query.reading("the names of its cells and genes"):
            if self._whole is not None:
                names = self._whole.index
            else:
                names = read_elem(self._elem[text(self._elem.attrs["_index"])])
            return _strings(names)

    def __contains__(self, column: str) -> bool:
        return column in self.columns

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, column: str) -> pd.Series:
        with self._query.reading(f"column '{column}'"):
            values = self._elem[column] if self._whole is None else self._whole[column].array
            return pd.Series(read_elem(values) if self._whole is None else values)


@dataclass
class Matrix:
    """A matrix on disk, cells x genes, whatever its storage: CSR, CSC or dense."""

    elem: CSRDataset | CSCDataset | h5py.Dataset | zarr.Array
    name: str
    query: Query

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


@dataclass
class Proteins:
    """Protein counts of a query: their names, and `rows(start, stop)` -> float array (cells x proteins)."""

    name: str
    names: list[str]
    n_obs: int
    rows: Callable[[int, int], np.ndarray]


class Query:
    """A query dataset, open for reading.

    `shown_as` is the path as the user wrote it, for messages: a workflow may have staged the file under another name. `called` is
    what messages call it.
    """

    def __init__(self, path: Path, shown_as: str | None = None, modality: str | None = None, called: str = "query"):
        self.called = called
        self.path = Path(path)
        self.shown_as = shown_as or str(path)
        self.container, self.format = self._open()
        self.root = self._choose(modality)

    def fault(self, found: str) -> RefmapError:
        return RefmapError(f"{self.called} '{self.shown_as}' {found}")

    @contextmanager
    def reading(self, what: str):
        """Turn whatever the file libraries raise on a damaged file into one sentence."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", anndata.OldFormatWarning)
                yield
        except (RefmapError, MemoryError):
            raise
        except Exception as error:  # h5py, zarr, numcodecs and anndata share no base class
            if getattr(error, "errno", None) == errno.ENOSPC:
                raise
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise self.fault(
                f"cannot be read at {what} ({reason}): the file seems damaged, so copy it again or write it anew with anndata."
            ) from error

    def _open(self) -> tuple[h5py.Group | zarr.Group, str]:
        path = self.path
        if not path.exists():
            raise RefmapError(f"{self.called} file '{self.shown_as}' does not exist.")
        if path.is_dir():
            if not any((path / name).is_file() for name in (".zgroup", "zarr.json")):
                raise self.fault("is a folder but no zarr store (no .zgroup or zarr.json in it): give an .h5ad, .zarr or .h5mu.")
            with self.reading("its top group"):
                return zarr.open_group(path, mode="r"), "zarr"
        if path.stat().st_size == 0:
            raise self.fault("is empty (0 bytes): copy it again.")
        if not h5py.is_hdf5(path):
            raise self.fault("is neither an HDF5 file (.h5ad, .h5mu) nor a zarr store: give a file that anndata can read.")
        with self.reading("its top group"):
            file = h5py.File(path, "r")
            return file, "h5mu" if "mod" in file and "obs" in file else "h5ad"

    def _choose(self, modality: str | None) -> h5py.Group | zarr.Group:
        """The group of the AnnData that holds the counts: the file itself or, of several modalities, the one asked for."""
        root = self.container
        if self.multimodal:
            wanted = modality or "rna"
            if wanted not in root["mod"]:
                raise self.fault(
                    f"has no modality '{wanted}': set modality to one of {listed(root['mod'])}.{nearest(wanted, root['mod'])}"
                )
            root = root["mod"][wanted]
        if "obs" not in root or "var" not in root:
            hint = " It looks like a Cell Ranger .h5: convert it with scanpy.read_10x_h5 first." if "matrix" in root else ""
            raise self.fault(f"holds no AnnData (no obs or no var in it).{hint}")
        return root

    @property
    def multimodal(self) -> bool:
        return "mod" in self.container and "obs" in self.container

    def close(self) -> None:
        if isinstance(self.container, h5py.File):
            self.container.close()

    def __enter__(self) -> Query:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    # Tables

    @property
    def prehistoric(self) -> bool:
        """Written before anndata 0.7: tables are compound arrays, and categories lie in `uns`."""
        return not is_group(self.root["obs"])

    @cached_property
    def _backed(self) -> anndata.AnnData:
        with self.reading("obs and var"):
            if self.format == "zarr":
                return anndata.read_zarr(self.path)
            return anndata.read_h5ad(self.path, backed="r")

    def _frame(self, key: str) -> Frame:
        return Frame(getattr(self._backed, key) if self.prehistoric else self.root[key], self)

    @cached_property
    def obs(self) -> Frame:
        return self._frame("obs")

    @cached_property
    def var(self) -> Frame:
        return self._frame("var")

    @property
    def obs_names(self) -> np.ndarray:
        return self.obs.index

    @property
    def n_obs(self) -> int:
        return len(self.obs)

    @cached_property
    def _shared_obs(self) -> Frame | None:
        """Of several modalities: the table of all cells."""
        return Frame(self.container["obs"], self) if self.multimodal else None

    @cached_property
    def obs_columns(self) -> list[str]:
        shared = self._shared_obs.columns if self._shared_obs else []
        return list(dict.fromkeys([*self.obs.columns, *shared]))

    def obs_column(self, column: str) -> pd.Series:
        """A column of obs, in the order of the cells; for .h5mu, of the modality's obs or else of the one they share.

        Raises RefmapError naming the nearest column if there is none.
        """
        if column in self.obs:
            return self.obs[column]
        if column not in self.obs_columns:
            raise self.missing_column(column)
        shared = pd.Series(self._shared_obs[column].array, index=self._shared_obs.index)
        return shared.reindex(self.obs_names).reset_index(drop=True)

    def missing_column(self, column: str) -> RefmapError:
        return self.fault(
            f"has no obs column '{column}': its columns are {listed(self.obs_columns)}.{nearest(column, self.obs_columns)}"
        )

    # Matrices

    @cached_property
    def _raw(self):
        """(X, var) of raw as stored elements, or None."""
        if "raw" in self.root and is_group(self.root["raw"]) and "X" in self.root["raw"]:
            return self.root["raw"]["X"], self.root["raw"]["var"]
        if "raw.X" in self.root:
            return self.root["raw.X"], self.root["raw.var"]
        return None

    @cached_property
    def layers(self) -> list[str]:
        """What can be asked of :meth:`matrix`: 'X', the layers, 'raw'."""
        names = ["X"] if "X" in self.root and encoding(self.root["X"]) != "null" else []
        names += list(self.root["layers"]) if "layers" in self.root else []
        return names + (["raw"] if self._raw else [])

    def check_layer(self, layer: str) -> None:
        """Raises RefmapError listing what there is if the layer is not."""
        if layer not in self.layers:
            what = "no X" if layer == "X" else "no raw.X" if layer == "raw" else f"no layer '{layer}'"
            raise self.fault(f"has {what}: set layer to one of {listed(self.layers)}.{nearest(layer, self.layers)}")

    def matrix(self, layer: str = "X") -> Matrix:
        """The matrix of a layer: 'X', the name of a layer, or 'raw'.

        Raises RefmapError if it is not there, or not of one row a cell and one column a gene.
        """
        self.check_layer(layer)
        elem = self._raw[0] if layer == "raw" else self.root["X"] if layer == "X" else self.root["layers"][layer]
        with self.reading(layer_name(layer)):
            matrix = Matrix(sparse_dataset(elem) if is_group(elem) else elem, layer_name(layer), self)
            if is_group(elem) and int(elem["indptr"][-1]) != elem["data"].shape[0]:
                raise ValueError("its indptr and data disagree")
        shape = (self.n_obs, len(self.gene_frame(layer)))
        if matrix.shape != shape:
            raise self.fault(
                f"is damaged: {matrix.name} is {matrix.shape} but obs and var have {shape} rows: write it anew with anndata."
            )
        return matrix

    def gene_frame(self, layer: str = "X") -> Frame:
        """The `var` that goes with a layer: `raw` has its own."""
        if layer != "raw":
            return self.var
        if not self.prehistoric:
            return Frame(self._raw[1], self)
        return Frame(self._backed.raw.var, self)

    def gene_ids(self, layer: str = "X", var_key: str | None = None) -> np.ndarray:
        """The ids of the genes as an object array of str: the var index, or column `var_key` of var ('' where missing).

        Raises RefmapError naming the nearest column if there is none.
        """
        frame = self.gene_frame(layer)
        if var_key is None:
            return frame.index
        if var_key not in frame:
            where = "raw.var" if layer == "raw" else "var"
            raise self.fault(
                f"has no {where} column '{var_key}' (var_key): its columns are {listed(frame.columns)}.{nearest(var_key, frame.columns)}"
            )
        ids = frame[var_key]
        if pd.api.types.is_float_dtype(ids.dtype) and (ids.dropna() % 1 == 0).all():
            ids = ids.astype("Int64")  # whole numbers become floats where one is missing
        return as_text(ids)

    # Proteins

    def proteins(self, key: str) -> Proteins:
        """Protein counts: `key` is a modality of an .h5mu, or an obsm key holding a table, or an array whose names lie in uns.

        Raises RefmapError if there are none, or no names for them.
        """
        if self.multimodal and key in self.container["mod"]:
            return self._protein_modality(key)
        found = list(self.root["obsm"]) if "obsm" in self.root else []
        if key not in found:
            known = [*found, *(self.container["mod"] if self.multimodal else [])]
            raise self.fault(
                f"has no protein data '{key}' (protein_key): its obsm keys and modalities are {listed(known)}.{nearest(key, known)}"
            )
        elem = self.root["obsm"][key]
        if encoding(elem) == "dataframe":
            return self._protein_frame(key, Frame(elem, self), elem)
        stored = read_elem(elem) if is_group(elem) else elem
        return Proteins(f"obsm '{key}'", self._protein_names(key, stored.shape[1]), self.n_obs, lambda a, b: _dense(stored[a:b]))

    def _protein_frame(self, key: str, frame: Frame, elem) -> Proteins:
        if frame._whole is not None:
            whole = frame._whole
            return Proteins(f"obsm '{key}'", frame.columns, self.n_obs, lambda a, b: whole.iloc[a:b].to_numpy(float))

        def rows(start: int, stop: int) -> np.ndarray:
            return np.column_stack([np.asarray(elem[name][start:stop], dtype=float) for name in frame.columns])

        return Proteins(f"obsm '{key}'", frame.columns, self.n_obs, rows)

    def _protein_names(self, key: str, width: int) -> list[str]:
        """Names of the columns of an obsm array, from the uns entries that tools write them to."""
        for name in (f"{key}_names", "protein_names", f"{key}_columns"):
            if "uns" in self.root and name in self.root["uns"]:
                names = np.asarray(read_elem(self.root["uns"][name]), dtype=object).ravel()
                if len(names) == width:
                    return [text(value) for value in names]
        raise self.fault(
            f"has no names for the {width} proteins of obsm '{key}': store it as a DataFrame, or put the names in uns['{key}_names']."
        )

    def _protein_modality(self, key: str) -> Proteins:
        """A modality's X in the order of the query's cells; cells that it lacks are all zero."""
        other = Query(self.path, self.shown_as, key)
        matrix = other.matrix("X")
        order = pd.Index(other.obs_names).get_indexer(self.obs_names)
        in_order = np.array_equal(order, np.arange(self.n_obs))
        # Only a modality stored by the column, or in another order than the counts, must be held whole.
        whole = (
            None
            if in_order and matrix.format != "csc"
            else sparse.vstack([chunk for _, chunk in matrix.chunks(4096)], format="csr")
        )

        def rows(start: int, stop: int) -> np.ndarray:
            if whole is None:
                return _dense(matrix.elem[start:stop])
            taken = order[start:stop]
            values = np.asarray(whole[np.maximum(taken, 0)].toarray(), dtype=float)
            values[taken < 0] = 0
            return values

        return Proteins(f"modality '{key}'", list(other.gene_ids()), self.n_obs, rows)


def _dense(block) -> np.ndarray:
    return np.asarray(block.toarray() if sparse.issparse(block) else block, dtype=float)


def layer_name(layer: str) -> str:
    """How a layer is called in messages."""
    return {"X": "X", "raw": "raw.X"}.get(layer, f"layers/{layer}")


def _strings(values) -> np.ndarray:
    return np.array([str(value) for value in values], dtype=object)


def as_text(values: pd.Series) -> np.ndarray:
    """Values as an object array of str, '' where missing."""
    result = _strings(values)
    result[values.isna().to_numpy()] = ""
    return result
