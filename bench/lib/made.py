"""Cells that are made, as many as one likes, of cell types or of real cells that are drawn again and thinned; and files of them."""

from __future__ import annotations

import zlib
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import anndata as ad
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


@dataclass(frozen=True)
class Source:
    """Real cells: counts (CSR, cells x genes), the genes' names, and the batch and the label of each cell."""

    counts: sparse.csr_matrix
    genes: list[str]
    batches: np.ndarray
    labels: np.ndarray

    @classmethod
    def read(cls, path: Path, batch: str, labels: str) -> Source:
        """Read an .h5ad with counts in X, and two columns of obs."""
        cells = ad.read_h5ad(path)
        columns = (cells.obs[key].astype(str).to_numpy() for key in (batch, labels))
        return cls(sparse.csr_matrix(cells.X), [str(name) for name in cells.var_names], *columns)

    def thinned(self, rows: np.ndarray, genes: int, depth: int, rng: np.random.Generator) -> sparse.csr_matrix:
        """Counts (CSR float32) of cells, of which each is kept by the same chance, to `depth` a cell on average; of all genes, the
        source's come first."""
        block = self.counts[rows]
        kept = min(1.0, depth * self.counts.shape[0] / self.counts.sum())
        block.data = rng.binomial(block.data.astype(np.int64), kept).astype(np.float32)
        block.eliminate_zeros()
        block.resize(len(rows), genes)
        return block


def write_cells(
    path: Path,
    cells: int,
    genes: int = GENES,
    depth: int = 1_500,
    batches: tuple[str, ...] = ("d1", "d2"),
    form: str = "h5ad",
    source: Source | None = None,
) -> None:
    """Write cells block by block, so that making them needs little memory: obs `donor` and `cell_type`, genes g0, g1, …

    `form` is h5ad, zarr or dense (an .h5ad). Cells of a `source` have its genes, and others without counts; their batches are its
    own, called after the first of `batches` too.
    """
    rng = np.random.default_rng(zlib.crc32("".join(batches).encode()))
    names = [f"g{i}" for i in range(genes)]
    if source:
        drawn = rng.integers(len(source.labels), size=cells)
        donors, labels = [f"{batches[0]} {batch}" for batch in source.batches[drawn]], source.labels[drawn]
        genes = max(genes, len(source.genes))
        names = source.genes + names[: genes - len(source.genes)]
    else:
        drawn, donors = rng.integers(TYPES, size=cells), np.array(batches)[rng.integers(len(batches), size=cells)]
        labels = [f"type {kind}" for kind in drawn]
    columns = {"donor": pd.Categorical(donors), "cell_type": pd.Categorical(labels), "total_counts": rng.random(cells)}
    obs = pd.DataFrame(columns, index=[f"AAACCTGAGAAACCAT-{i:08d}" for i in range(cells)])
    with nullcontext(zarr.open_group(path, mode="w", zarr_format=2)) if form == "zarr" else h5py.File(path, "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        write_elem(file, "obs", obs)
        write_elem(file, "var", pd.DataFrame(index=names))
        for start in range(0, cells, BLOCK):
            here = slice(start, start + BLOCK)
            if source:
                block = source.thinned(drawn[here], genes, depth, rng)
            else:
                block = counts(drawn[here], donors[here], genes, depth, rng)
            if form == "dense":
                if start == 0:
                    X = file.create_dataset("X", (cells, genes), np.float32, chunks=(min(256, cells), genes), compression="lzf")
                    X.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
                X[start : start + BLOCK] = block.toarray()
            elif start == 0:
                block.indptr = block.indptr.astype(np.int64)
                write_elem(file, "X", block, dataset_kwargs={} if form == "zarr" else {"compression": "lzf"})
            else:
                sparse_dataset(file["X"]).append(block)
