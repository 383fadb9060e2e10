"""Labels from the reference's cells in what a run publishes, against a computation of their own, and how far to trust a mapping."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from runs import Run, task_name
from sklearn.neighbors import NearestNeighbors

MAPPINGS = ["pbmc/donor_1", "pbmc/donor_2", "clinic/patient_1"]
KEY = "bulk_labels"
THRESHOLD = 0.2


def work_folder(run: Run, process: str) -> Path:
    """Where the only task of a process ran."""
    with open(run.out / "pipeline_info" / "trace.txt") as stream:
        rows = csv.DictReader(stream, delimiter="\t")
        (short,) = [row["hash"] for row in rows if task_name(row["name"]).split(" ")[0] == process]
    (folder,) = run.folder.glob(f"work/{short}*")
    return folder


@pytest.fixture(scope="module")
def reference(demo) -> ad.AnnData:
    """The cells of the demo's reference, with their latent."""
    return ad.read_zarr(work_folder(demo, "CALIBRATE_REFERENCE") / "reference" / "cells.zarr")


def published(run: Run, name: str) -> ad.AnnData:
    return ad.read_zarr(run.out / run.index()[name]["embedding"])


def qc(run: Run, name: str) -> Path:
    return run.out / run.index()[name]["qc"]


def brute_force(latent: np.ndarray, of: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances and rows of the k nearest cells."""
    return NearestNeighbors(n_neighbors=k, algorithm="brute").fit(latent.astype(float)).kneighbors(of.astype(float))


def is_unknown(obs, uncertainty: np.ndarray) -> np.ndarray:
    """Which labels are `Unknown`: by their calibrated certainty, and by the neighbours' uncertainty where that is not known."""
    certainty = obs[f"{KEY}_certainty"].to_numpy(dtype=float)
    return np.where(np.isnan(certainty), uncertainty > THRESHOLD, certainty < 0.8)


@pytest.mark.parametrize("name", MAPPINGS)
def test_the_reference_cells_are_those_of_the_atlas_and_the_labels_are_one_a_cell(demo, reference, name):
    assert reference.shape == (401, 0) and reference.obsm["X_emb"].shape == (401, 10)
    obs = published(demo, name).obs
    labels = set(reference.obs[KEY].cat.categories)
    assert set(obs[f"{KEY}_transferred"]) <= labels | {"Unknown"}
    assert list(obs[f"{KEY}_transferred"] == "Unknown") == list(is_unknown(obs, obs[f"{KEY}_uncertainty"].to_numpy()))
    # The model's own word is another, and stays
    assert set(obs[f"{KEY}_predicted"]) <= labels and f"{KEY}_predicted_uncertainty" in obs
    for column in (f"{KEY}_uncertainty", "reference_distance", "novelty_pvalue", "reference_separation", "separation_pvalue"):
        assert obs[column].dtype == np.float32 and np.isfinite(obs[column]).all()
    assert obs[f"{KEY}_uncertainty"].between(0, 1).all() and obs["novelty_pvalue"].between(1 / 402, 1).all()
    assert obs["separation_pvalue"].between(1 / 402, 1).all()
    # The query's cells lie among those of the reference: they are not much farther than each other.
    assert 0.7 < obs["reference_separation"].median() < 1.6


@pytest.mark.parametrize("name", MAPPINGS)
def test_the_labels_are_those_of_the_nearest_reference_cells_by_the_kernel_of_scarches(demo, reference, name):
    mapped = published(demo, name)
    distances, rows = brute_force(reference.obsm["X_emb"], mapped.obsm["X_emb"], 50)
    weights = np.exp(-distances / (2 / distances.std(axis=1, keepdims=True)) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)
    names = reference.obs[KEY].to_numpy(dtype=str)[rows]
    classes = np.unique(names)
    probabilities = np.stack([np.where(names == label, weights, 0).sum(axis=1) for label in classes], axis=1)

    uncertainty = 1 - probabilities.max(axis=1)
    np.testing.assert_allclose(mapped.obs[f"{KEY}_uncertainty"], uncertainty, atol=1e-4)
    expected = np.where(is_unknown(mapped.obs, uncertainty), "Unknown", classes[probabilities.argmax(axis=1)])
    clear = abs(uncertainty - THRESHOLD) > 1e-3
    assert clear.mean() > 0.9 and 0 < (expected == "Unknown").sum() < len(expected)
    assert list(mapped.obs[f"{KEY}_transferred"].astype(str)[clear]) == list(expected[clear])


@pytest.mark.parametrize("name", MAPPINGS)
def test_the_distance_is_judged_by_those_of_reference_cells_to_other_batches(demo, reference, name):
    mapped = published(demo, name)
    batches, latent = reference.obs["batch"].to_numpy(dtype=str), reference.obsm["X_emb"]
    own = np.concatenate([
        brute_force(latent[batches != batch], latent[batches == batch], 5)[0].mean(axis=1) for batch in np.unique(batches)
    ])  # fmt: skip
    distance = brute_force(latent, mapped.obsm["X_emb"], 5)[0].mean(axis=1)
    np.testing.assert_allclose(mapped.obs["reference_distance"], distance, rtol=1e-4)
    p_values = (1 + (own[None, :] >= distance[:, None]).sum(axis=1)) / (1 + len(own))
    # A distance that is all but that of a reference cell may count as lower or higher
    np.testing.assert_allclose(mapped.obs["novelty_pvalue"], p_values, atol=1.5 / 402)


@pytest.mark.parametrize("name", MAPPINGS)
def test_a_mapping_is_judged_and_drawn_beside_its_reference(demo, reference, name):
    record = json.loads((qc(demo, name) / "mapping.json").read_text())
    for part in ("labels", "embedding"):
        assert record["trust"][part]["light"] in {"green", "amber", "red"} and record["trust"][part]["reasons"]
    transferred = published(demo, name).obs[f"{KEY}_transferred"]
    about = record["transfer"]
    assert (about["n_cells"], about["neighbors"], about["threshold"]) == (reference.n_obs, 50, THRESHOLD)
    assert about["labels"][KEY]["counts"] == transferred.value_counts().loc[lambda counts: counts > 0].to_dict()
    assert about["labels"][KEY]["unknown"] == pytest.approx((transferred == "Unknown").mean())
    files = {path.name: path.stat().st_size for path in qc(demo, name).iterdir()}
    assert {"joint.png", "joint.pdf", "explore.html", "confusion_transferred.csv", "calibration.png"} <= set(files)
    assert all(files.values())


@pytest.mark.parametrize("name", MAPPINGS)
def test_a_cell_is_placed_among_the_reference_cells_around_it(demo, reference, name):
    mapped = published(demo, name)
    _, rows = brute_force(reference.obsm["X_emb"], mapped.obsm["X_emb"], 15)
    around = reference.obsm["X_umap"][rows]
    place = mapped.obsm["X_umap_reference"]
    assert place.shape == (mapped.n_obs, 2) and np.isfinite(place).all()
    assert ((around.min(axis=1) - 1e-4 <= place) & (place <= around.max(axis=1) + 1e-4)).all()


def test_a_next_run_transfers_the_same_labels_without_the_atlas(demo, tmp_path):
    (query,) = work_folder(demo, "MAKE_DEMO").glob("**/donor_1.h5ad")
    head = "dataset,file_id,query,model,batch_key,layer,truth_key"
    model = demo.out / "reference_model"
    (tmp_path / "sheet.csv").write_text(f"{head}\npbmc,donor_1,{query},{model},donor,layers/counts,cell_type\n")
    run = Run(tmp_path, "-profile", "test", "--demo", "false", "--input", "sheet.csv")
    assert run.status == 0, run.printed
    assert not any(name.startswith(("TRAIN_REFERENCE", "EMBED_REFERENCE")) for name in run.tasks())
    before, after = published(demo, MAPPINGS[0]), published(run, MAPPINGS[0])
    assert list(after.obs[f"{KEY}_transferred"]) == list(before.obs[f"{KEY}_transferred"])
    for name in (f"{KEY}_uncertainty", "reference_distance", "novelty_pvalue", "reference_separation", "separation_pvalue"):
        np.testing.assert_array_equal(after.obs[name], before.obs[name])
    for name in ("X_emb", "X_umap_reference"):
        np.testing.assert_array_equal(after.obsm[name], before.obsm[name])
    one, other = (json.loads((qc(which, MAPPINGS[0]) / "mapping.json").read_text()) for which in (demo, run))
    assert one["trust"] == other["trust"] and one["model_sha256"] == other["model_sha256"]
    assert other["transfer"]["reference"] == f"{model}/refmap/cells.zarr" and other["warnings"] == one["warnings"]
