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
    folder.mkdir(exist_ok=True)
    reference.write_h5ad(folder / "reference.h5ad")
    with open(folder / "sheet.csv", "w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["dataset", "file_id", "query", "batch_key", "options"])
        for name, query in queries.items():
            query.obs["sample"] = name
            query.write_h5ad(folder / f"{name}.h5ad")
            table.writerow(["bench", name, f"{name}.h5ad", "sample", options])
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
    out = folder / "out/reference_mapping"
    return {
        name: (
            ad.read_zarr(out / f"dataset~bench/file_id~{name}.zarr"),
            json.loads((out / f"qc/dataset~bench/file_id~{name}/mapping.json").read_text()),
        )
        for name in queries
    }
