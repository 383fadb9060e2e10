#!/usr/bin/env python
"""Whether queries that belong on no reference are found: a table of docs/trust.md.

A part of the 700 PBMCs that scanpy ships is the reference, and the others are mapped onto it, as they are and with shuffled genes;
so are random counts, and whatever `--other FILE` names (.h5ad with counts, genes by symbol, such as another tissue's). All by the
pipeline itself, with its defaults. What is seen of cell types that a reference lacks: bench/trust.py. Run it in the environment `scvi`:

    (. containers/activate scvi && python bench/novelty.py [--other muscle.h5ad])
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import anndata as ad
import click
import numpy as np
import scipy.sparse as sp
from lib.pipeline import map_onto

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bin"))

from refmap.sheet.demo import REFERENCE_SHARE, pbmc_counts, stratified  # noqa: E402

LABELS, EPOCHS, ALPHA = "bulk_labels", 100, 0.05


def run(folder: Path, reference: ad.AnnData, queries: dict[str, ad.AnnData]) -> dict[str, tuple[ad.AnnData, dict]]:
    """Train a scANVI reference and map queries onto it; of each, its cells as published and its record."""
    keys = {"reference_batch_key": "batch", "reference_labels_key": LABELS}
    return map_onto(folder, reference, queries, **keys, reference_max_epochs=EPOCHS)


def flagged(mapped: ad.AnnData) -> tuple[np.ndarray, np.ndarray]:
    """Which cells lie far from the reference, and which apart from it."""
    return tuple((mapped.obs[name] < ALPHA).to_numpy() for name in ("novelty_pvalue", "separation_pvalue"))


def counts_like(query: ad.AnnData, counts: np.ndarray) -> ad.AnnData:
    return ad.AnnData(sp.csr_matrix(counts.astype(np.float32)), obs=query.obs.copy(), var=query.var.copy())


def controls(query: ad.AnnData, others: tuple[Path, ...]) -> dict[str, ad.AnnData]:
    """The query, and what belongs on no reference of such cells."""
    rng = np.random.default_rng(0)
    dense = query.X.toarray()
    made = {
        "as_it_is": query.copy(),
        "shuffled_genes": counts_like(query, dense[:, rng.permutation(query.n_vars)]),
        "random_counts": counts_like(query, rng.poisson(dense.mean(), size=dense.shape)),
        "random_about_the_genes_means": counts_like(query, rng.poisson(np.broadcast_to(dense.mean(axis=0), dense.shape))),
    }
    return made | {path.stem: ad.read_h5ad(path) for path in others}


def _row(*cells: str, head: bool = False) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)
    if head:
        print("|" + " --- |" * len(cells), flush=True)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


@click.command()
@click.option(
    "--other", multiple=True, type=click.Path(exists=True, path_type=Path), help="A query of another tissue; may be given again."
)
def main(other: tuple[Path, ...]) -> None:
    cells = pbmc_counts()
    inside = stratified(cells.obs[LABELS], REFERENCE_SHARE, np.random.default_rng(0))
    query = cells[~inside].copy()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _row(
            "query",
            "cells",
            "novel",
            "apart",
            "Unknown",
            "neighbours from the reference / expected",
            "labels",
            "embedding",
            head=True,
        )
        for name, (mapped, record) in run(folder / "controls", cells[inside].copy(), controls(query, other)).items():
            figures = record["trust"]["figures"]
            novel, apart = flagged(mapped)
            unknown = (mapped.obs[f"{LABELS}_transferred"] == "Unknown").mean()
            mixing = figures["mixing"].get("relative")
            _row(
                name.replace("_", " "),
                str(mapped.n_obs),
                _share(novel.mean()),
                _share(apart.mean()),
                _share(unknown),
                _share(mixing),
                record["trust"]["labels"]["light"],
                record["trust"]["embedding"]["light"],
            )


if __name__ == "__main__":
    main()
