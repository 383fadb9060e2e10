"""Runs of the demo on a cluster, runs onto its reference, and the comparison of what two runs gave."""

from __future__ import annotations

import csv
from pathlib import Path

import anndata as ad
import numpy as np
from cluster import Cluster
from runs import Head, Published

QUICK = """
executor {
    pollInterval      = '1 sec'
    queueStatInterval = '2 sec'
    exitReadTimeout   = '10 sec'
}
"""
# The steps that run in the environment of the model's family, on a GPU where one is asked for
BY_THE_MODEL = ("TRAIN_REFERENCE", "EMBED_REFERENCE", "TRY_MODEL", "TRAIN_SURGERY")
# The mappings of the demo as rows of a CSV, without their paths
ROWS = {
    "pbmc/donor_1": {"query": "donor_1.h5ad", "batch_key": "donor", "layer": "counts"},
    "pbmc/donor_2": {"query": "donor_2.zarr", "batch_key": "donor", "layer": "counts"},
    "clinic/patient_1": {"query": "patient_1.h5ad", "batch_key": "sample", "var_key": "gene_id", "id_table": "gene_ids.csv"},
}


def by_a_job(folder: Path) -> tuple[str, ...]:
    """The command that starts another as a job of four tasks; job.txt has what it prints, first of all their number."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.sh").write_text('#!/bin/bash\necho "tasks: $SLURM_NTASKS"\n"$@"\n')
    return ("sbatch", "--wait", "--ntasks=4", "--mem=6G", "--output=job.txt", "job.sh")


def start(
    cluster: Cluster,
    folder: Path,
    *more: str,
    config: str = "",
    profile: str = "test,slurm,gpu",
    together: int = 1,
    by: tuple[str, ...] = (),
) -> Head:
    """The demo as jobs of a cluster, so many mappings a job; run it again in the same folder with -resume among `more`. `by`: see
    `Head`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "quick.config").write_text(QUICK + config)
    given = ("--slurm_queue", "cpu", "--slurm_gpu_queue", "gpu", "--mappings_per_task", str(together), *more)
    return Head(folder, "-profile", profile, *given, options=("-c", "quick.config"), environment=cluster.environment, by=by)


def onto_reference(folder: Path, reference: Published, data: Path, *names: str, **other: Path) -> tuple[str, ...]:
    """The arguments of a run that maps some of the demo's queries onto the reference that the demo has trained.

    `other` are more queries, each like donor_2, by the names that they get in the dataset pbmc.
    """
    rows = {name: ROWS[name] | {"query": data / ROWS[name]["query"]} for name in names}
    rows |= {f"pbmc/{name}": ROWS["pbmc/donor_2"] | {"query": path} for name, path in other.items()}
    columns = ("dataset", "file_id", "model", "query", "batch_key", "layer", "var_key", "id_table")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "sheet.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        for name, row in rows.items():
            dataset, file_id = name.split("/")
            table = {"id_table": data / row["id_table"]} if "id_table" in row else {}
            writer.writerow({"dataset": dataset, "file_id": file_id, "model": reference.out / "reference_model"} | row | table)
    return ("--demo", "false", "--input", "sheet.csv")


def assert_same_results(one: Published, other: Published, *names: str) -> None:
    """The same embeddings and labels, of all mappings or of those named: the same lock, seed and machine.

    Labels from the reference's cells are compared where both runs had these.
    """
    names = names or tuple(ROWS)
    for run in (one, other):
        assert {name: run.index()[name]["status"] for name in names} == dict.fromkeys(names, "mapped")
    for name in names:
        dataset, file_id = name.split("/")
        path = f"reference_mapping/dataset~{dataset}/file_id~{file_id}.zarr"
        ours, theirs = (ad.read_zarr(run.out / path) for run in (one, other))
        assert list(ours.obs_names) == list(theirs.obs_names)
        np.testing.assert_allclose(ours.obsm["X_emb"], theirs.obsm["X_emb"], atol=1e-5)
        assert list(ours.obs["bulk_labels_predicted"]) == list(theirs.obs["bulk_labels_predicted"])
        for column in {"bulk_labels_transferred"} & set(ours.obs) & set(theirs.obs):
            assert list(ours.obs[column]) == list(theirs.obs[column])
