"""Cells that are made, as many as one likes: counts of cell types, and files of them."""

from __future__ import annotations

import zlib
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import zarr
from anndata.io import sparse_dataset, write_elem
from scipy import sparse

TYPES, GENES, BLOCK = 20, 30_000, 5_000


@cache
def _cumulated(genes: int, batch: str) -> np.ndarray:
    """Of each type in a batch the share of counts of the genes up to each: types x genes. Those that come first have most."""
    means = np.random.default_rng(0).gamma(0.3, 1, (TYPES, genes)) * np.exp(-6 * np.arange(genes) / genes)
    means *= np.random.default_rng(zlib.crc32(batch.encode())).lognormal(0, 0.3, genes)
    shares = np.cumsum(means, axis=1)
    return shares / shares[:, -1:]


def counts(kinds: np.ndarray, batches: np.ndarray, genes: int, depth: int, rng: np.random.Generator) -> sparse.csr_matrix:
    """Counts (CSR float32, cells x genes) of cells of these types and batches, `depth` a cell on average."""
    sizes = rng.poisson(depth * rng.lognormal(0, 0.3, len(kinds)))
    drawn, cell = np.empty(sizes.sum(), dtype=np.int32), np.repeat(np.arange(len(kinds), dtype=np.int32), sizes)
    for batch in np.unique(batches):
        for kind in range(TYPES):
            here = ((kinds == kind) & (batches == batch))[cell]
            drawn[here] = np.searchsorted(_cumulated(genes, batch)[kind], rng.random(here.sum()))
    matrix = sparse.coo_matrix((np.ones(len(drawn), dtype=np.float32), (cell, drawn)), shape=(len(kinds), genes)).tocsr()
    matrix.sum_duplicates()
    return matrix


def write_cells(
    path: Path, cells: int, genes: int = GENES, depth: int = 1_500, batches: tuple[str, ...] = ("d1", "d2"), form: str = "h5ad"
) -> None:
    """Write cells block by block, so that making them needs little memory: obs `donor` and `cell_type`, genes g0, g1, …

    `form` is h5ad, zarr or dense (an .h5ad).
    """
    rng = np.random.default_rng(zlib.crc32("".join(batches).encode()))
    kinds, donors = rng.integers(TYPES, size=cells), np.array(batches)[rng.integers(len(batches), size=cells)]
    obs = pd.DataFrame(
        {
            "donor": pd.Categorical(donors),
            "cell_type": pd.Categorical([f"type {kind}" for kind in kinds]),
            "total_counts": rng.random(cells),
        },
        index=[f"AAACCTGAGAAACCAT-{i:08d}" for i in range(cells)],
    )
    with nullcontext(zarr.open_group(path, mode="w", zarr_format=2)) if form == "zarr" else h5py.File(path, "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        write_elem(file, "obs", obs)
        write_elem(file, "var", pd.DataFrame(index=[f"g{i}" for i in range(genes)]))
        for start in range(0, cells, BLOCK):
            here = slice(start, start + BLOCK)
            block = counts(kinds[here], donors[here], genes, depth, rng)
            if form == "dense":
                if start == 0:
                    X = file.create_dataset("X", (cells, genes), np.float32, chunks=(256, genes), compression="lzf")
                    X.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
                X[start : start + BLOCK] = block.toarray()
            elif start == 0:
                block.indptr = block.indptr.astype(np.int64)
                write_elem(file, "X", block, dataset_kwargs={} if form == "zarr" else {"compression": "lzf"})
            else:
                sparse_dataset(file["X"]).append(block)
