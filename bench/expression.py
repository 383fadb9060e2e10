#!/usr/bin/env python
"""Time and memory of the steps that look at a reference's cells and at a query beside them: CALIBRATE_REFERENCE, SAVE_REFERENCE,
TRANSFER_LABELS and COMPARE_EXPRESSION, without the pipeline and without a model.

The cells are real ones, drawn again and again, each with a part of its counts, by batch and gene. Their latent is made of principal
components, with a shift of each batch and noise; their labels are five levels of clusters. Run with the core environment:

    python bench/expression.py --reference 500000 --query 100000 [--cells counts.h5ad]
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import click
import numpy as np
import pandas as pd
import zarr
from anndata.io import sparse_dataset, write_elem
from overhead import ROOT, run
from scipy import sparse
from scipy.cluster.hierarchy import fcluster, linkage

sys.path.insert(0, str(ROOT / "bin"))

from refmap.common.folders import MappedFolder, PreparedFolder, ReferenceFolder  # noqa: E402
from refmap.common.storage import write_zarr  # noqa: E402
from refmap.models.card import ModelCard  # noqa: E402

GENES, DIMENSIONS, BLOCK, GB = 2_000, 30, 10_000, 1 << 30
LEVELS = {f"level_{i}": n for i, n in enumerate((4, 8, 15, 30, 60), 1)}
# What PREPARE_REFERENCE records
RECORD = {
    "reference": "atlas.h5ad", "source": "counts", "origin": None, "fault": None, "warnings": [], "map": "computed",
    "batch_key": "donor", "keys": list(LEVELS), "seen_labels": [], "latent_names": None, "input": "counts",
}  # fmt: skip


@dataclass
class Source:
    """Real cells: counts (CSR, cells x genes), latent (cells x dimensions) and labels by level."""

    counts: sparse.csr_matrix
    genes: list[str]
    latent: np.ndarray
    labels: pd.DataFrame

    @classmethod
    def read(cls, path: Path | None) -> Source:
        import scanpy as sc
        from refmap.sheet.demo import pbmc_counts
        from sklearn.cluster import KMeans

        cells = ad.read_h5ad(path) if path else pbmc_counts()
        counts = sparse.csr_matrix(cells.X).astype(np.float32)
        most = np.sort(np.argsort(-np.asarray(counts.sum(axis=0)).ravel(), kind="stable")[:GENES])
        counts = counts[:, most]
        logged = ad.AnnData(counts.copy())
        sc.pp.normalize_total(logged, target_sum=1e4)
        sc.pp.log1p(logged)
        sc.pp.pca(logged, n_comps=DIMENSIONS)
        latent = logged.obsm["X_pca"] / logged.obsm["X_pca"].std()
        found = KMeans(max(LEVELS.values()), n_init=1, random_state=0).fit(latent)
        tree = linkage(found.cluster_centers_, "ward")
        labels = {key: fcluster(tree, n, "maxclust")[found.labels_] for key, n in LEVELS.items()}
        return cls(counts, [str(name) for name in cells.var_names[most]], latent, pd.DataFrame(labels))

    def write(self, n: int, n_batches: int, seed: int, aligned: Path) -> tuple[pd.DataFrame, np.ndarray]:
        """Write counts of `n` cells as an aligned zarr, block by block; return their obs and their latent (float32)."""
        rng = np.random.default_rng(seed)
        rows, batch = rng.integers(0, self.counts.shape[0], n), rng.integers(0, n_batches, n)
        shares = rng.uniform(0.4, 0.9, (n_batches, len(self.genes)))
        shifts = 0.3 * rng.normal(size=(n_batches, DIMENSIONS))
        latent = (self.latent[rows] + shifts[batch] + 0.3 * rng.normal(size=(n, DIMENSIONS))).astype(np.float32)
        obs = pd.DataFrame({key: pd.Categorical([f"{key} {i}" for i in self.labels[key].to_numpy()[rows]]) for key in LEVELS})
        obs.index = [f"cell {i}" for i in range(n)]
        obs["donor"] = pd.Categorical.from_codes(batch, categories=[f"{seed} donor {i}" for i in range(n_batches)])
        root = zarr.open_group(aligned, mode="w", zarr_format=2)
        root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        write_elem(root, "obs", obs[["donor"]])
        write_elem(root, "var", pd.DataFrame({"found": np.ones(len(self.genes), dtype=bool)}, index=self.genes))
        for start in range(0, n, BLOCK):
            here = slice(start, min(start + BLOCK, n))
            block = self.counts[rows[here]]
            of_value = np.repeat(batch[here], np.diff(block.indptr))
            block.data = rng.binomial(block.data.astype(np.int64), shares[of_value, block.indices]).astype(np.float32)
            block.eliminate_zeros()
            if start == 0:
                block.indptr = block.indptr.astype(np.int64)
                write_elem(root, "X", block)
            else:
                sparse_dataset(root["X"]).append(block)
        return obs, latent


def make_reference(source: Source, n: int) -> None:
    """What PREPARE_REFERENCE and EMBED_REFERENCE leave, and a model's folder and card."""
    prepared = ReferenceFolder(Path("prepared"))
    prepared.folder.mkdir()
    obs, latent = source.write(n, 20, 1, prepared.aligned)
    write_zarr(ad.AnnData(obs=obs), prepared.cells)
    prepared.record.write_text(json.dumps(RECORD | {"n_cells": n}))
    np.savez("latent.npz", X_emb=latent)
    Path("model").mkdir()
    Path("model/model.pt").write_bytes(b"")
    card = ModelCard("model", class_name="SCANVI", sha256="made", genes=source.genes).to_json()
    Path("card.json").write_text(json.dumps(card))


def make_query(source: Source, n: int) -> None:
    """What ALIGN_GENES and TRAIN_SURGERY leave."""
    prepared, mapped = PreparedFolder(Path("query")), MappedFolder(Path("mapped"))
    prepared.folder.mkdir()
    mapped.results.mkdir(parents=True)
    obs, latent = source.write(n, 4, 2, prepared.aligned)
    write_zarr(ad.AnnData(obs=pd.DataFrame(index=obs.index), obsm={"X_emb": latent}), mapped.embedding)
    mapped.record.write_text(json.dumps({"seed": 0}))
    mapped.history.write_text("epoch\n")
    Path("plan.json").write_text(json.dumps({"row": {}}))


STEPS = {
    "CALIBRATE_REFERENCE": "calibrate_reference.py --prepared prepared --latent latent.npz --threshold 0.2 --output scale",
    "SAVE_REFERENCE": "save_reference.py --model model --card card.json --prepared prepared --latent latent.npz --reference scale "
    "--output saved",
    "TRANSFER_LABELS": "transfer_labels.py --plan plan.json --prepared query --mapped mapped --reference scale --correction none "
    "--threshold 0.2 --output labelled",
    "COMPARE_EXPRESSION": "compare_expression.py --plan plan.json --prepared query --mapped labelled --reference scale "
    "--unknown-by certainty --certainty 0.8 --threshold 0.2 --output compared",
}


@click.command(context_settings={"show_default": True})
@click.option("--reference", default=20_000, help="Cells of the reference.")
@click.option("--query", default=10_000, help="Cells of the query; 0: none.")
@click.option(
    "--cells", type=click.Path(exists=True, path_type=Path), help="Counts (.h5ad) that cells are drawn from; none: 700 PBMCs."
)
@click.option(
    "--keep", type=click.Path(path_type=Path), help="A folder that keeps what was made; what it holds is not made again."
)
def bench(reference: int, query: int, cells: Path | None, keep: Path | None) -> None:
    """Print CPU seconds, seconds and the most memory of each step."""
    cells = cells and cells.resolve()
    with tempfile.TemporaryDirectory() as folder:
        place = keep or Path(folder)
        place.mkdir(exist_ok=True)
        os.chdir(place)
        source = None if Path("prepared").exists() else Source.read(cells)
        if source:
            make_reference(source, reference)
            if query:
                make_query(source, query)
        for step, command in STEPS.items():
            if Path(command.split()[-1]).exists() or (not query and "mapped" in command):
                continue
            spent = run("core", command)
            print(f"{step:<20}{spent.cpu:>8.0f} s of CPU{spent.wall:>8.0f} s{spent.peak / GB:>7.2f} GB", flush=True)
        os.chdir("/")


if __name__ == "__main__":
    bench()
