#!/usr/bin/env python
"""One whole mapping, from the query's file to figures and files, beside the notebook way: the same with scvi-tools and scanpy.

By turns in one run: CPU seconds and memory of all processes, from the start of Python to the end. Either reads the query, maps it
onto a scANVI model with the same number of epochs and the same early stopping, takes labels from the 15 nearest of the reference's
cells, draws a UMAP and writes query, model and pictures. refmap does more beside (how far to trust the labels, what the reference
lacks, the page to look around in), and looks at its reference once for all queries, which is told apart. The cells are the 700
PBMCs that scanpy ships, or made ones.

    python bench/mapping.py [--cells 10000] [--rounds 3]
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import anndata as ad
import click
from lib.made import write_cells
from lib.measuring import GB, OURS, ROOT, Failed, Row, Spent, compare, record, run
from lib.steps import Steps, ask_for_reference, cells_steps, mapping_steps, prepare, reference_steps

sys.path.insert(0, str(ROOT / "bin"))

NOTEBOOK = "scvi-tools, scanpy"
ATLAS, QUERY = "atlas.h5ad", "query.h5ad"


def make_cells(cells: int) -> None:
    """Write an atlas and a query: obs `donor` and `cell_type`."""
    if cells:
        for name, batches in ((ATLAS, ("d1", "d2")), (QUERY, ("q1", "q2"))):
            write_cells(Path(name), cells, batches=batches, depth=800)
        return
    from refmap.sheet.demo import pbmc_counts

    found = pbmc_counts()
    found.obs["cell_type"] = found.obs["bulk_labels"]
    for name, side in ((ATLAS, "reference"), (QUERY, "query")):
        found.obs["donor"] = [f"{side} {batch}" for batch in found.obs["batch"]]
        found.write_h5ad(name)


def notebook() -> None:
    """What one does without refmap."""
    import matplotlib.pyplot as plt
    import scanpy as sc
    import scvi
    from sklearn.neighbors import KNeighborsClassifier

    scvi.settings.seed = 0
    query, reference = ad.read_h5ad(QUERY), ad.read_h5ad("atlas.zarr.h5ad")
    whole = query.copy()
    scvi.model.SCANVI.prepare_query_anndata(query, "model")
    query.obs["cell_type"] = "Unknown"
    model = scvi.model.SCANVI.load_query_data(query, "model")
    train = json.loads(Path("training.json").read_text())["train"]
    train.pop("free")  # that nothing was chosen is for refmap's engine alone
    model.train(**train, plan_kwargs={"weight_decay": 0.0}, enable_progress_bar=False)
    whole.obsm["X_emb"], whole.obs["predicted"] = model.get_latent_representation(), model.predict()
    known = scvi.model.SCANVI.load("model", adata=reference).get_latent_representation()
    nearest = KNeighborsClassifier(15, weights="distance").fit(known, reference.obs["cell_type"].astype(str))
    weights = nearest.predict_proba(whole.obsm["X_emb"])
    whole.obs["transferred"], whole.obs["uncertainty"] = nearest.classes_[weights.argmax(axis=1)], 1 - weights.max(axis=1)
    parts = {"reference": ad.AnnData(obs=reference.obs[["cell_type"]], obsm={"X_emb": known})}
    parts["query"] = ad.AnnData(obs=whole.obs[["transferred"]], obsm={"X_emb": whole.obsm["X_emb"]})
    both = ad.concat(parts, label="side", index_unique="-", join="outer")
    # Its choice for many cells, pynndescent, hands scanpy 1.12 a matrix of a kind that it cannot read
    sc.pp.neighbors(both, use_rep="X_emb", transformer="sklearn")
    sc.tl.umap(both)
    for color in ("side", "cell_type", "transferred"):
        sc.pl.umap(both, color=color, show=False)
        plt.savefig(f"{color}.png")
    whole.write_zarr("notebook.zarr")
    model.save("notebook_model", overwrite=True)


def run_steps(steps: Steps) -> Spent:
    """What steps took in all, and the most that one of them held; each is printed."""
    found = {}
    for step, (env, command) in steps.items():
        found[step] = run(env, command)
        print(f"  {step:<20}{found[step].cpu:>8.1f} s of CPU{found[step].peak / GB:>7.2f} GB", flush=True)
    sums = [sum(getattr(spent, name) for spent in found.values()) for name in ("cpu", "wall")]
    return Spent(*sums, max(spent.peak for spent in found.values()))


@click.command(context_settings={"show_default": True})
@click.option("--cells", default=0, help="Made ones x 30,000 genes, in the reference and in the query each; 0: the 700 PBMCs.")
@click.option("--rounds", default=2, help="How often each is done.")
@click.option("--run-notebook", is_flag=True, hidden=True)
def main(cells: int, rounds: int, run_notebook: bool) -> None:
    """Print what a mapping takes, step by step, and what the notebook way takes."""
    if run_notebook:
        return notebook()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        make_cells(cells)
        ask_for_reference(reference_max_epochs=20)
        run_steps(reference_steps("scvi"))
        reference = ad.read_zarr("atlas.zarr")
        reference.write_h5ad("atlas.zarr.h5ad")
        cells = reference.n_obs
        prepare(QUERY, batch_key="donor", truth_key="cell_type", reference=ATLAS)
        print("once for a reference:")
        once = run_steps(cells_steps(ATLAS, "scvi"))
        record(Row("a reference's cells, once", OURS, cells, cpu=once.cpu, peak=once.peak))
        ways = {
            OURS: lambda: run_steps(mapping_steps(QUERY, "scvi", scale=True)),
            NOTEBOOK: lambda: run("scvi", "../bench/mapping.py --run-notebook"),
        }
        for number in range(rounds):
            for way, work in list(ways.items())[:: -1 if number % 2 else 1]:
                print(f"{way}:")
                try:
                    spent = work()
                except Failed as error:
                    print(error)
                    rows.append(record(Row("a whole mapping", way, cells, number, note=str(error).splitlines()[-1])))
                    continue
                print(f"  in all {spent.cpu:.1f} s of CPU, {spent.wall:.1f} s", flush=True)
                rows.append(record(Row("a whole mapping", way, cells, number, spent.cpu, spent.peak)))
        os.chdir("/")
    print(*compare(rows), sep="\n")


if __name__ == "__main__":
    main()
