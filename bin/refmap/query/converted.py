"""What other formats are read as: an AnnData in an HDF5 file of its own, which is gone once it is closed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
from anndata.io import write_elem
from scipy import sparse

# How many values are put on disk together.
STORED_TOGETHER = 1 << 16


def converted(write: Callable[[h5py.File], None]) -> h5py.File:
    """The file that `write` fills, open for reading: it has no name any more, and its space is free when it is closed."""
    with tempfile.TemporaryDirectory(prefix="refmap-") as folder:
        path = Path(folder) / "query.h5"
        with h5py.File(path, "w") as file, anndata.settings.override(allow_write_nullable_strings=False):
            write(file)
        return h5py.File(path, "r", locking=False)


def write_tables(group: h5py.Group, obs: pd.DataFrame, var: pd.DataFrame) -> None:
    """Make `group` an AnnData of these cells and genes, which still lacks its matrix."""
    group.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    write_elem(group, "obs", obs)
    write_elem(group, "var", var)


def mark_sparse(group: h5py.Group, kind: str, shape: tuple[int, int]) -> None:
    """Say of a group with data, indices and indptr that it is a matrix of cells x genes: 'csr' or 'csc'."""
    group.attrs.update({"encoding-type": f"{kind}_matrix", "encoding-version": "0.1.0", "shape": list(shape)})


def growing(group: h5py.Group, name: str, dtype: np.dtype | type) -> h5py.Dataset:
    """A dataset of one dimension that is still empty."""
    return group.create_dataset(name, (0,), dtype, maxshape=(None,), chunks=(STORED_TOGETHER,), compression="lzf")


def append(dataset: h5py.Dataset, values: np.ndarray) -> None:
    held = dataset.shape[0]
    dataset.resize((held + len(values),))
    dataset[held:] = values


class CsrFile:
    """A matrix of cells x genes in an HDF5 group, which grows by chunks of cells."""

    def __init__(self, group: h5py.Group, n_genes: int, dtype: np.dtype):
        self.group, self.n_genes = group, n_genes
        self.data, self.indices = growing(group, "data", dtype), growing(group, "indices", np.int32)
        self.lengths = [np.zeros(1, dtype=np.int64)]

    def append(self, chunk: sparse.csr_matrix) -> None:
        append(self.data, chunk.data)
        append(self.indices, chunk.indices)
        self.lengths.append(np.diff(chunk.indptr))

    def close(self) -> None:
        indptr = np.cumsum(np.concatenate(self.lengths))
        self.group["indptr"] = indptr
        mark_sparse(self.group, "csr", (len(indptr) - 1, self.n_genes))
