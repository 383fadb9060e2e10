#!/usr/bin/env python
"""Memory and time of the parts of EXPORT_EMBEDDING by the cells of a query, each in a process of its own (docs/scale.md).

Made cells of 20 types and 20 batches, 60 genes and 10 dimensions, beside 20,000 reference cells with five columns of labels, four of
them levels of one annotation. Run with the core environment; 5,000,000 cells are some 3 GB of files:

    python bench/export_memory.py [--cells 100000] [--cells 1000000] [--part labels] [--folder FOLDER]
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import anndata as ad
import click
import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem, write_elem
from lib.made import TYPES, write_cells
from lib.measuring import GB, ROOT, run

GENES, DEPTH, DIMENSIONS, REFERENCE = 60, 40, 10, 20_000
SCALE = Path("../reference/scale")
BATCHES = tuple(f"donor {i}" for i in range(20))
# The columns of the reference's labels, and how many types each label of theirs holds; of the last other ones than of the levels
KEYS = {"level_1": 10, "level_2": 5, "level_3": 2, "level_4": 1, "tissue": 3}
ROW = {
    **{"dataset": "made", "file_id": "query", "query": "query.h5ad", "model": "model", "modality": None, "obs_table": None},
    **{"batch_key": "donor", "labels_keys": [], "truth_key": "cell_type", "umap_colors": []},
    **dict.fromkeys(("mapqc_sample_key", "mapqc_study_key", "mapqc_control_key", "mapqc_control")),
}


def _latent(kinds: np.ndarray, batches: np.ndarray) -> np.ndarray:
    """Places of cells around those of their types and batches: float32, cells x dimensions."""
    places, rng = np.random.default_rng(0), np.random.default_rng(len(kinds))
    types, shifts = (places.normal(size=(n, DIMENSIONS)) * far for n, far in ((TYPES, 2), (len(BATCHES), 0.3)))
    latent = rng.normal(size=(len(kinds), DIMENSIONS))
    latent += types[kinds]
    latent += shifts[batches]
    return latent.astype(np.float32)


def _aligned(path: Path, cells: int, batches: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray, pd.Index]:
    """Write cells as a model takes them; the types, batches and names of them."""
    write_cells(path, cells, GENES, DEPTH, batches, "zarr")
    root = zarr.open_group(path, use_consolidated=False)
    var = read_elem(root["var"])
    obs = read_elem(root["obs"])
    with ad.settings.override(allow_write_nullable_strings=False):  # as what passes between steps is written
        write_elem(root, "var", var.assign(found=True))
        write_elem(root, "obs", obs)
    kinds = obs["cell_type"].str.removeprefix("type ").astype(int).to_numpy()
    return kinds, obs["donor"].cat.codes.to_numpy(), obs.index


def make_reference() -> None:
    """Write the folder `scale`: what CALIBRATE_REFERENCE leaves."""
    from refmap.common.folders import ReferenceFolder
    from refmap.common.storage import write_zarr
    from refmap.identity.measuring import measure_reference
    from refmap.reference.sample import write_sample
    from refmap.transfer.calibrate import calibrate_reference

    prepared, scale = ReferenceFolder(Path("found")), ReferenceFolder(SCALE)
    prepared.folder.mkdir()
    kinds, batches, names = _aligned(prepared.aligned, REFERENCE, BATCHES)
    obs = pd.DataFrame(
        {
            key: pd.Categorical([f"{key} {kind // width}" for kind in (kinds if key != "tissue" else kinds[::-1])])
            for key, width in KEYS.items()
        },
        index=names,
    )
    obs["donor"] = pd.Categorical.from_codes(batches, sorted(BATCHES))
    write_zarr(ad.AnnData(obs=obs), prepared.cells)
    of_cells = {"reference": "atlas.h5ad", "source": "counts", "origin": None, "fault": None, "warnings": [], "map": "computed"}
    of_cells |= {"batch_key": "donor", "keys": list(KEYS), "seen_labels": [], "latent_names": None, "input": "counts"}
    prepared.record.write_text(json.dumps(of_cells))
    np.savez("latent.npz", X_emb=_latent(kinds, batches))
    calibrate_reference(prepared, Path("latent.npz"), 0, 0.2, 50, scale)
    write_sample(prepared, Path("latent.npz"), scale, 0)
    measure_reference(scale, 0)


def make_query(cells: int) -> None:
    """Write `query.h5ad`, and the folders `prepared` and `mapped` of it."""
    from refmap.common.folders import MappedFolder, PreparedFolder
    from refmap.common.storage import write_zarr

    prepared, mapped = PreparedFolder(Path("prepared")), MappedFolder(Path("mapped"))
    prepared.folder.mkdir()
    mapped.results.mkdir(parents=True)
    # The same cells in either form
    write_cells(Path("query.h5ad"), cells, GENES, DEPTH, BATCHES[::-1])
    kinds, batches, names = _aligned(prepared.aligned, cells, BATCHES[::-1])
    prepared.alignment.write_text(json.dumps({"matched": GENES, "n_model_genes": GENES}))
    plan = {"row": ROW, "options": {}, "counted": True, "batch_column": "donor"}
    prepared.plan.write_text(json.dumps(plan))
    embedding = ad.AnnData(
        obs=pd.DataFrame(index=names), obsm={"X_emb": _latent(kinds, batches)}, uns={"refmap": {"family": "scvi"}}
    )
    write_zarr(embedding, mapped.embedding)
    record = {"predictions": {}, "warnings": [], "n_cells": cells, "seed": 0, "hshare": None, "surgery_moves": True}
    mapped.record.write_text(json.dumps(record))
    mapped.history.write_text("epoch,elbo_train\n1,2.5\n2,2.0\n")


def labels() -> None:
    """The labels of the nearest reference cells, from the latent."""
    from export_embedding import correct_mapping, transfer
    from refmap.common.folders import MappedFolder, PreparedFolder, ReferenceFolder

    found = MappedFolder(Path("mapped")), PreparedFolder(Path("prepared")), ReferenceFolder(SCALE)
    transfer(
        correct_mapping(*found, "auto", MappedFolder(Path("corrected"))), found[2], 0.2, False, MappedFolder(Path("transferred"))
    )


def comparison() -> None:
    """What the expression of the cells says of them."""
    from export_embedding import UnknownRule, compare_mapping
    from refmap.common.folders import MappedFolder, PreparedFolder, ReferenceFolder

    of_query = PreparedFolder(Path("prepared")), MappedFolder(Path("transferred"))
    compare_mapping(*of_query, ReferenceFolder(SCALE), UnknownRule("certainty", 0.8, 0.2), MappedFolder(Path("labelled")))


def export() -> None:
    """The query with its embedding."""
    from export_embedding import Query
    from export_embedding import export as write
    from refmap.common.folders import MappedFolder

    with Query(Path("query.h5ad"), "query.h5ad") as opened:
        write(opened, ROW, MappedFolder(Path("labelled")).embedding, Path("out.zarr"))


def figures() -> None:
    """Figures and pictures: QC_MAPPING."""
    from export_embedding import describe_mapping
    from refmap.common.folders import MappedFolder, PreparedFolder, ReferenceFolder

    of_mapping = PreparedFolder(Path("prepared")), MappedFolder(Path("labelled")), ReferenceFolder(SCALE)
    plan = json.loads(of_mapping[0].plan.read_text())
    describe_mapping(plan, Path("query.h5ad"), *of_mapping, 0.2, Path("qc"))


PARTS = {part.__name__: part for part in (labels, comparison, export, figures)}
OUTPUTS = {"labels": ("corrected", "transferred"), "comparison": ("labelled",), "export": ("out.zarr",), "figures": ("qc",)}


def in_folder(folder: Path, make: Callable, *arguments) -> None:
    """Go to a folder, which is made with what belongs there, unless it is there."""
    is_made = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    if not is_made:
        make(*arguments)


@click.command(context_settings={"show_default": True})
@click.option("--cells", "sizes", multiple=True, type=int, default=[100_000, 1_000_000], help="Cells of the query.")
@click.option("--part", "parts", multiple=True, type=click.Choice(list(PARTS)), help="Only these; by default all.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where the files go, and stay; by default nowhere.")
@click.option("--run-one", hidden=True)
def bench(sizes: tuple[int, ...], parts: tuple[str, ...], folder: Path | None, run_one: str | None) -> None:
    """Print what each part holds at most, and its seconds of CPU."""
    sys.path.insert(0, str(ROOT / "bin"))
    if run_one:
        from export_embedding import return_freed_memory

        return_freed_memory()
        PARTS[run_one]()
        return
    with nullcontext(folder) if folder else tempfile.TemporaryDirectory() as name:
        whole = Path(name).resolve()
        in_folder(whole / "reference", make_reference)
        for cells in sizes:
            in_folder(whole / str(cells), make_query, cells)
            for part in parts or PARTS:
                for output in OUTPUTS[part]:
                    shutil.rmtree(output, ignore_errors=True)
                spent = run("core", f"../bench/export_memory.py --run-one {part}")
                print(f"{part:<12}{cells:>12,} cells{spent.peak / GB:>8.2f} GB{spent.cpu:>8.1f} s of CPU", flush=True)
        os.chdir("/")


if __name__ == "__main__":
    bench()
