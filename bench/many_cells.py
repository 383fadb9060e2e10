#!/usr/bin/env python
"""Memory and time of each step by the number of cells, of a query and of a reference: real cells, thinned to as many as are wanted.

Each made cell is one of the source's, drawn with putting back, of which every count is kept with the same chance. It is written
block by block, under the source's genes and made-up ones without counts, 30,000 in all. The model is a scANVI of the source's cells.
Every step is run by its own command. Run with the core environment:

    python bench/many_cells.py --source FILE.h5ad --batch donor --labels cell_type --cells 10000 --cells 100000
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import anndata as ad
import click
import h5py
import numpy as np
import pandas as pd
from anndata.io import sparse_dataset, write_elem
from overhead import REFERENCE, mapping_steps, prepare, reference_steps, run
from scipy import sparse

GENES = 30_000
BLOCK = 50_000
GB = 1 << 30
# The steps of a query that has reference cells, and those of these cells: environments and commands.
LABELS = {
    "TRANSFER_LABELS": (
        "core",
        "transfer_labels.py --plan plan.json --prepared prepared --mapped mapped --reference reference --correction none"
        " --threshold 0.2 --output labelled",
    ),
    "COMPARE_EXPRESSION": (
        "core",
        "compare_expression.py --plan plan.json --prepared prepared --mapped labelled --reference reference"
        " --unknown-by certainty --certainty 0.5 --threshold 0.2 --output compared",
    ),
}
CELLS = {
    "PREPARE_REFERENCE": (
        "core",
        "prepare_reference.py --request request.json --cells {cells} --model model --card card.json --output found",
    ),
    "EMBED_REFERENCE": (
        "scvi",
        "embed_reference.py --aligned found/aligned.zarr --model model --card card.json --output latent.npz",
    ),
    "CALIBRATE_REFERENCE": (
        "core",
        "calibrate_reference.py --prepared found --latent latent.npz --threshold 0.2 --output reference",
    ),
    "SAVE_REFERENCE": (
        "core",
        "save_reference.py --model model --card card.json --prepared found --latent latent.npz --reference reference --output saved",
    ),
}


def thinned(source: ad.AnnData, cells: int, values: int, path: Path) -> None:
    """Write an .h5ad of so many cells, with about so many values each."""
    rng = np.random.default_rng(0)
    counts = sparse.csr_matrix(source.X)
    kept = _chance(counts, values)
    rows = rng.integers(0, source.n_obs, cells)
    names = pd.Index([f"{name}-{number}" for number, name in enumerate(source.obs_names[rows])])
    genes = [*source.var_names, *(f"made-up-{n}" for n in range(GENES - source.n_vars))]
    with h5py.File(path, "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        with ad.settings.override(allow_write_nullable_strings=False):
            write_elem(file, "obs", source.obs.iloc[rows].set_index(names.astype(object)))
            write_elem(file, "var", pd.DataFrame(index=pd.Index(genes, dtype=object)))
        for start in range(0, cells, BLOCK):
            block = counts[rows[start : start + BLOCK]]
            block.data = rng.binomial(block.data.astype(np.int64), kept).astype(np.float32)
            block.eliminate_zeros()
            block.resize(block.shape[0], GENES)
            if start:
                sparse_dataset(file["X"]).append(block)
            else:
                block.indptr = block.indptr.astype(np.int64)
                write_elem(file, "X", block, dataset_kwargs={"compression": "lzf"})


def _chance(counts: sparse.csr_matrix, values: int) -> float:
    """That of a count to be kept, so that a cell has about so many values."""
    low, high = 0.0, 1.0
    for _ in range(30):
        chance = (low + high) / 2
        expected = -np.expm1(counts.data * np.log1p(-chance)).sum() / counts.shape[0]
        low, high = (chance, high) if expected < values else (low, chance)
    return high


def report(step: str, cells: int, spent, found: dict) -> None:
    print(f"{step:<21}{cells:>10,}{spent.peak / GB:>8.2f} GB{spent.cpu:>9.1f} s of CPU", flush=True)
    found[f"{step} {cells}"] = vars(spent)


def measure(steps: dict[str, tuple[str, str]], cells: int, found: dict, only: tuple[str, ...]) -> None:
    for step, (env, command) in steps.items():
        if only and step not in only:
            continue
        for option in ("--output", "--updated-model"):
            if option in command.split():
                path = Path(command.split()[command.split().index(option) + 1])
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        report(step, cells, run(env, command), found)


@click.command(context_settings={"show_default": True})
@click.option("--source", type=click.Path(path_type=Path, exists=True), required=True, help="Real cells with counts in X: .h5ad.")
@click.option("--batch", default="batch", help="The column of their batches.")
@click.option("--labels", default="cell_type", help="The column of their labels.")
@click.option("--cells", multiple=True, type=int, default=[10_000], help="Of the query; may be given again.")
@click.option("--values", default=150, help="A cell.")
@click.option("--epochs", default=1, help="Of surgery.")
@click.option("--only", multiple=True, help="Steps that are run; all of them if none is named.")
@click.option("--reference/--no-reference", "of_reference", default=True, help="Whether the same cells are a reference, too.")
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Where to work, and leave what was made; left out: in a temporary one."
)
def bench(
    source: Path, batch: str, labels: str, cells: tuple[int, ...], values: int, epochs: int, only: tuple[str, ...],
    of_reference: bool, folder: Path | None,
) -> None:  # fmt: skip
    """Print the most memory and the CPU seconds of each step."""
    source = source.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        folder = folder or Path(scratch)
        folder.mkdir(exist_ok=True)
        os.chdir(folder)
        found: dict = {}
        real = ad.read_h5ad(source)
        if not Path("model").exists():
            real.write_h5ad("atlas.h5ad")
            parameters = {
                "reference_batch_key": batch,
                "reference_labels_key": labels,
                "reference_max_epochs": 2,
                "reference_n_top_genes": 500,
            }
            Path("reference.json").write_text(json.dumps(REFERENCE | parameters))
            for env, command in reference_steps("scvi").values():
                run(env, command)
        for n in cells:
            query = f"cells_{n}.h5ad"
            if not Path(query).exists():
                thinned(real, n, values, Path(query))
            prepare(query, batch_key=batch, truth_key=labels, max_epochs=str(epochs))
            if of_reference:
                request = dict.fromkeys(("embedding", "layer", "var_key", "protein_key", "airr", "origin", "batch_key"))
                request |= {"trained": False, "reference": query, "transfer_keys": [labels], "columns": []}
                Path("request.json").write_text(json.dumps(request))
                measure({step: (env, command.format(cells=query)) for step, (env, command) in CELLS.items()}, n, found, only)
            steps = mapping_steps(query, "scvi")
            last = {name: steps.pop(name) for name in ("EXPORT_EMBEDDING", "QC_MAPPING")}
            if Path("reference").exists():
                steps |= LABELS
                last = {step: (env, command.replace("mapped", "compared")) for step, (env, command) in last.items()}
                last["QC_MAPPING"] = ("core", last["QC_MAPPING"][1] + " --reference reference")
            measure(steps | last, n, found, only)
        Path("found.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    bench()
