"""Runs of the demo on a cluster, and the comparison of what two runs gave."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
from cluster import Cluster
from runs import Head, Published

QUICK = """
executor {
    pollInterval      = '2 sec'
    queueStatInterval = '4 sec'
    exitReadTimeout   = '30 sec'
}
"""
MAPPINGS = ("dataset~pbmc/file_id~donor_1.zarr", "dataset~pbmc/file_id~donor_2.zarr", "dataset~clinic/file_id~patient_1.zarr")


def start(cluster: Cluster, folder: Path, *more: str, profile: str = "test,slurm,gpu") -> Head:
    """The demo as jobs of a cluster; run it again in the same folder with -resume among `more`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "quick.config").write_text(QUICK)
    queues = ("--slurm_queue", "cpu", "--slurm_gpu_queue", "gpu")
    return Head(folder, "-profile", profile, *queues, *more, options=("-c", "quick.config"), environment=cluster.environment)


def assert_same_results(one: Published, other: Published) -> None:
    """The same mappings, and the same embeddings: the same lock, seed and machine."""
    assert one.index().keys() == other.index().keys()
    assert {row["status"] for row in one.index().values()} == {"mapped"}
    for path in MAPPINGS:
        ours, theirs = (ad.read_zarr(run.out / "reference_mapping" / path) for run in (one, other))
        assert list(ours.obs_names) == list(theirs.obs_names)
        np.testing.assert_allclose(ours.obsm["X_emb"], theirs.obsm["X_emb"], atol=1e-5)
        assert list(ours.obs["bulk_labels_predicted"]) == list(theirs.obs["bulk_labels_predicted"])
