#!/usr/bin/env python
"""Peak memory and throughput of the alignment, for a query and one ten times as long, beside doing it in memory.

Run with the core environment; `--cells` sets the size of the shorter query. Where scvi-tools can be imported, the
comparison calls the padding inside its `prepare_query_anndata`; elsewhere the same steps with anndata.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import anndata
import click
import h5py
import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem, sparse_dataset, write_elem
from scipy import sparse

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bin"))

GENES = 30_000
VALUES_PER_CELL = 1_500
BLOCK = 5_000
# The model has 4,000 genes, of which the query has nine in ten, in another order.
MODEL = [f"g{i}" for i in np.random.default_rng(7).permutation(GENES)[:3_600]] + [f"absent{i}" for i in range(400)]
ROW = {
    "dataset": "bench", "file_id": "query", "query": "query", "layer": "X", "var_key": None, "id_table": None, "modality": None,
    "batch_key": "donor", "labels_keys": [], "protein_key": None, "categorical_covariate_keys": [],
    "continuous_covariate_keys": [], "size_factor_key": None, "one_batch": False, "round_counts": False, "gene_prefix": None, "orthologs": False, "query_embedding": None, "min_gene_overlap": 0.1, "warn_gene_overlap": 0.5,
}  # fmt: skip
PLAN = {"counted": True, "batches": {name: {"cells": 0, "name": name} for name in ("d1", "d2")}}


def counts(cells: int, seed: int, genes: int = GENES) -> sparse.csr_matrix:
    """Sparse counts (cells x genes), about VALUES_PER_CELL of them in each cell, or a quarter of few genes."""
    rng = np.random.default_rng(seed)
    values = min(VALUES_PER_CELL, genes // 4)
    gaps = rng.integers(1, 2 * genes // values, (cells, values), dtype=np.int32)
    columns = np.cumsum(gaps, axis=1)
    kept = columns < genes
    indptr = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
    data = rng.geometric(0.6, indptr[-1]).astype(np.float32)
    return sparse.csr_matrix((data, columns[kept], indptr), shape=(cells, genes))


def make_query(path: Path, cells: int, genes: int = GENES, form: str = "h5ad") -> None:
    """Write a query block by block, so that making it needs little memory either; `form` is h5ad, zarr or dense (an .h5ad)."""
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {
            "donor": pd.Categorical(rng.choice(["d1", "d2"], cells)),
            "cell_type": pd.Categorical(rng.choice([f"type {i}" for i in range(10)], cells)),
            "total_counts": rng.random(cells),
        },
        index=[f"AAACCTGAGAAACCAT-{i:08d}" for i in range(cells)],
    )
    with nullcontext(zarr.open_group(path, mode="w", zarr_format=2)) if form == "zarr" else h5py.File(path, "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        write_elem(file, "obs", obs)
        write_elem(file, "var", pd.DataFrame(index=[f"g{i}" for i in range(genes)]))
        for start in range(0, cells, BLOCK):
            block = counts(min(BLOCK, cells - start), start, genes)
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


def by_chunks(query: Path, out: Path) -> None:
    """What refmap does."""
    from refmap.models.card import ModelCard
    from refmap.query.align import align
    from refmap.query.matrix import return_freed_memory
    from refmap.query.query import Query

    return_freed_memory()
    card = ModelCard("bench", genes=MODEL, batch_key="donor").to_json()
    with Query(query) as opened:
        align(opened, ROW, card, PLAN, out)


def in_memory(query: Path, out: Path) -> None:
    """What one does without it: read, pad, order, write."""
    adata = anndata.read_h5ad(query)
    genes = pd.Index(MODEL)
    try:
        from scvi.model.base._archesmixin import (
            _pad_and_sort_query_anndata as pad_and_sort,
        )
    except ImportError:
        absent = genes.difference(adata.var_names)
        padding = anndata.AnnData(
            sparse.csr_matrix(np.zeros((adata.n_obs, len(absent)))),
            obs=pd.DataFrame(index=adata.obs_names),
            var=pd.DataFrame(index=absent),
        )
        adata = anndata.concat([adata, padding], axis=1, join="outer", merge="unique")[:, genes].copy()
    else:
        adata = pad_and_sort(adata, genes, inplace=False)
    adata.write_zarr(out)


WAYS = {"chunks": by_chunks, "memory": in_memory}


def measure(way: str, query: Path, out: Path) -> dict:
    """Run one way in a process of its own: its peak memory in MB, and seconds."""
    command = [sys.executable, __file__, "--run", way, str(query), str(out)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": "ignore"})
    return json.loads(done.stdout.splitlines()[-1])


def peak_mb() -> float:
    """The most memory this process has held. (Linux; getrusage would count the parent's from before the exec, too.)"""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def same(one: Path, other: Path) -> bool:
    """Whether two stores hold the same X."""
    matrices = [read_elem(zarr.open_group(path, mode="r")["X"]) for path in (one, other)]
    return (matrices[0] != matrices[1]).nnz == 0


@click.command(context_settings={"show_default": True})
@click.option("--cells", default=20_000, help="Cells of the shorter query; the other has ten times as many.")
@click.option("--run", nargs=3, hidden=True, help="Run one way: name, query, output.")
def bench(cells: int, run: tuple[str, str, str] | None) -> None:
    """Print the peak memory of aligning a query and one ten times as long, the throughput, and those of doing it in memory."""
    if run:
        way, query, out = run
        begin = time.perf_counter()
        WAYS[way](Path(query), Path(out))
        print(json.dumps({"mb": peak_mb(), "seconds": time.perf_counter() - begin}))
        return
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        sizes = {"short": cells, "long": 10 * cells}
        for name, size in sizes.items():
            make_query(folder / name, size)
        figures = {name: measure("chunks", folder / name, folder / f"{name}.zarr") for name in sizes}
        figures["memory"] = measure("memory", folder / "short", folder / "memory.zarr")
        agree = same(folder / "short.zarr", folder / "memory.zarr")
    short, long, memory = figures["short"], figures["long"], figures["memory"]
    print(f"query: {GENES:,} genes, {VALUES_PER_CELL:,} counts a cell; model: {len(MODEL):,} genes")
    for name, size in sizes.items():
        found = figures[name]
        print(f"{size:>9,} cells: peak {found['mb']:,.0f} MB, {found['seconds']:.1f} s, {size / found['seconds']:,.0f} cells/s")
    print(f"ten times the cells: {long['mb'] / short['mb']:.2f} times the peak memory (aim: at most 1.20)")
    print(
        f"in memory, {cells:,} cells: peak {memory['mb']:,.0f} MB, {memory['seconds']:.1f} s, that is "
        f"{memory['mb'] / short['mb']:.1f} times the memory and {memory['seconds'] / short['seconds']:.1f} times the time; "
        f"the result is {'the same' if agree else 'NOT the same'}"
    )
    sys.exit(0 if agree and long["mb"] <= 1.2 * short["mb"] else 1)


if __name__ == "__main__":
    bench()
