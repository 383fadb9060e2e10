"""A run of the pipeline on cells in memory, for benchmarks that measure what it gives."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import anndata as ad

ROOT = Path(__file__).resolve().parents[2]


def map_onto(
    folder: Path, reference: ad.AnnData, queries: dict[str, ad.AnnData], options: str = "", **parameters
) -> dict[str, tuple[ad.AnnData, dict]]:
    """Train a reference and map queries onto it; of each, its cells as published and its record.

    Parameters
    ----------
    folder
        Of the run; it is made if it is not there.
    reference, queries
        Cells with counts. The cells of a query are of one batch, called as it is, in obs `sample`.
    options
        Those of the queries' rows: `name=value;name=value`.
    parameters
        Of the pipeline.
    """
    for name, query in queries.items():
        query.obs["sample"] = name
    out = launch(folder, reference, queries, {"batch_key": "sample", "options": options}, **parameters)
    return {
        name: (
            ad.read_zarr(out / f"dataset~bench/file_id~{name}.zarr"),
            json.loads((qc_folder(out, name) / "mapping.json").read_text()),
        )
        for name in queries
    }


def launch(folder: Path, reference: ad.AnnData, queries: dict[str, ad.AnnData], columns: dict[str, str], **parameters) -> Path:
    """Train a reference and map queries onto it; return the folder `reference_mapping` of what came of it.

    `columns` are those of each query's row in the sheet, beside its name and file; the rest as in :func:`map_onto`.
    """
    folder.mkdir(exist_ok=True)
    reference.write_h5ad(folder / "reference.h5ad")
    with open(folder / "sheet.csv", "w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["dataset", "file_id", "query", *columns])
        for name, query in queries.items():
            query.write_h5ad(folder / f"{name}.h5ad")
            table.writerow(["bench", name, f"{name}.h5ad", *columns.values()])
    given = {"input": "sheet.csv", "outdir": "out", "reference": "reference.h5ad"} | parameters
    words = [word for key, value in given.items() for word in (f"--{key}", str(value))]
    ended = subprocess.run(
        ["nextflow", "-q", "run", str(ROOT), *words],
        cwd=folder,
        env=os.environ | {"PATH": f"{os.environ['PATH']}:{ROOT}/.tools/bin"},
        capture_output=True,
        text=True,
    )
    if ended.returncode:
        sys.exit(ended.stdout + ended.stderr)
    return folder / "out/reference_mapping"


def qc_folder(out: Path, name: str) -> Path:
    """The folder of a mapping's figures below what :func:`launch` returned."""
    return out / f"qc/dataset~bench/file_id~{name}"
