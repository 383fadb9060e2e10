#!/usr/bin/env python
"""Alignment of a query to a model's genes and the export of its embedding beside what anndata and scvi-tools offer for them.

By turns in one run, each way in a process of its own: CPU seconds without the imports, and all the memory of the process. The model
has 4,000 genes, of which the query has nine in ten, in another order.

    python bench/files.py [--cells 20000 --cells 200000] [--rounds 3]
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import anndata as ad
import click
import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem
from lib.made import GENES, write_cells
from lib.measuring import OURS, ROOT, alternate, part, run
from lib.steps import mapping_steps, prepare
from scipy import sparse

sys.path.insert(0, str(ROOT / "bin"))

MODEL = [f"g{i}" for i in np.random.default_rng(7).permutation(GENES)[:3_600]] + [f"absent{i}" for i in range(400)]
QUERY, EMBEDDING = Path("query.h5ad"), Path("embedding.zarr")


def write_embedding() -> None:
    """What surgery gives of the query."""
    from refmap.common.storage import write_zarr

    names = ad.read_h5ad(QUERY, backed="r").obs_names
    rng = np.random.default_rng(0)
    types = [f"type {i}" for i in range(20)]
    probabilities = rng.dirichlet(np.ones(len(types)), len(names)).astype(np.float32)
    latent = rng.normal(size=(len(names), 10)).astype(np.float32)
    best = pd.Categorical.from_codes(probabilities.argmax(axis=1), categories=types)
    obs = pd.DataFrame(
        {"cell_type_predicted": best, "cell_type_predicted_uncertainty": 1 - probabilities.max(axis=1)}, index=names
    )
    obsm = {"X_emb": latent, "cell_type_probabilities": probabilities}
    uns = {"cell_type_classes": np.array(types, dtype=object)}
    uns["refmap"] = {"family": "scvi", "class_name": "SCANVI", "model_sha256": "0" * 64}
    write_zarr(ad.AnnData(obs=obs, obsm=obsm, uns=uns), EMBEDDING)


def align_by_refmap(out: Path) -> None:
    """By blocks of cells."""
    from refmap.common.cli import read_json
    from refmap.query.align import align
    from refmap.query.matrix import return_freed_memory
    from refmap.query.query import Query

    return_freed_memory()
    plan, card = read_json(Path("plan.json")), read_json(Path("card.json"))
    with part("alignment"), Query(QUERY) as opened:
        align(opened, plan["row"], card, plan, out)


def align_by_anndata(out: Path) -> None:
    """Read all, join what is absent on, put into order, write."""
    with part("alignment"):
        cells, genes = ad.read_h5ad(QUERY), pd.Index(MODEL)
        absent = pd.DataFrame(index=genes.difference(cells.var_names))
        padding = ad.AnnData(sparse.csr_matrix((cells.n_obs, len(absent)), dtype=np.float32), obs=cells.obs[[]], var=absent)
        ad.concat([cells, padding], axis=1, join="outer", merge="first")[:, genes].copy().write_zarr(out)


def align_by_scvi(out: Path) -> None:
    """Read all, let `prepare_query_anndata` do it, write."""
    from scvi.model import SCVI

    with part("alignment"):
        cells = ad.read_h5ad(QUERY)
        SCVI.prepare_query_anndata(cells, "model")
        cells.write_zarr(out)


def export_by_refmap(out: Path) -> None:
    """The query's file copied by blocks, the columns added."""
    from refmap.common.cli import read_json
    from refmap.mapping.export import export
    from refmap.query.matrix import return_freed_memory
    from refmap.query.query import Query

    return_freed_memory()
    row = read_json(Path("plan.json"))["row"]
    with part("export"), Query(QUERY) as opened:
        export(opened, row, EMBEDDING, out)


def export_by_anndata(out: Path) -> None:
    """Read both, put one into the other, write."""
    with part("export"):
        cells, embedded = ad.read_h5ad(QUERY), ad.read_zarr(EMBEDDING)
        cells.obs[list(embedded.obs)] = embedded.obs
        cells.obsm.update(embedded.obsm)
        cells.uns.update(embedded.uns)
        cells.write_zarr(out)


def make_model() -> None:
    """A model of scvi-tools whose genes are these, for the part of it that looks at them."""
    from scvi.model import SCVI

    cells = ad.AnnData(sparse.csr_matrix(np.ones((4, len(MODEL)), dtype=np.float32)), var=pd.DataFrame(index=MODEL))
    cells.obs["donor"] = "d0"
    SCVI.setup_anndata(cells, batch_key="donor")
    model = SCVI(cells, n_hidden=8, encode_covariates=True)
    model.is_trained = True
    model.save("model")


WAYS = {
    "align": {OURS: ("core", align_by_refmap), "anndata": ("core", align_by_anndata), "scvi-tools": ("scvi", align_by_scvi)},
    "export": {OURS: ("core", export_by_refmap), "anndata": ("core", export_by_anndata)},
}


def matrix(path: Path) -> sparse.csr_matrix:
    return sparse.csr_matrix(read_elem(zarr.open_group(path, mode="r")["X"]))


@click.command(context_settings={"show_default": True})
@click.option("--cells", "sizes", multiple=True, type=int, default=[20_000], help="Of the query; may be given again.")
@click.option("--rounds", default=3, help="How often each way is taken.")
@click.option("--run-one", nargs=2, hidden=True)
def bench(sizes: tuple[int, ...], rounds: int, run_one: tuple[str, str] | None) -> None:
    """Print what each way takes; fail if they do not come to the same."""
    if run_one:
        task, way = run_one
        return make_model() if task == "model" else WAYS[task][way][1](Path(f"{task}_{way}.zarr"))
    agree = True
    for cells in sizes:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            write_cells(QUERY, cells, depth=800)
            write_embedding()
            run("scvi", "../bench/files.py --run-one model model")
            prepare(str(QUERY), batch_key="donor", layer="X")
            run(*mapping_steps(str(QUERY), "scvi")["ALIGN_GENES"])
            for task, ways in WAYS.items():
                commands = {way: (env, f"../bench/files.py --run-one {task} {way}") for way, (env, _work) in ways.items()}
                alternate(task, cells, commands, rounds)
                made = [matrix(path) for way in ways if (path := Path(f"{task}_{way}.zarr")).exists()]
                agree &= all((made[0] != other).nnz == 0 for other in made[1:])
            os.chdir("/")
    print("all come to the same" if agree else "they do NOT come to the same")
    sys.exit(not agree)


if __name__ == "__main__":
    bench()
