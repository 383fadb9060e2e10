"""When a query that surgery cannot move is moved in the latent space, and what is said of it."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from refmap.common.folders import MappedFolder, PreparedFolder, ReferenceFolder
from refmap.common.storage import write_zarr
from refmap.trust.correction import UNCORRECTED, correct_mapping

PLACES = 4 * np.eye(4, dtype=np.float32)
APART = np.float32([1, -1, 1, -2])  # what sets a batch apart


def around(n, seed):
    rng = np.random.default_rng(seed)
    return (PLACES[np.arange(n) % 3] + rng.normal(0, 0.5, (n, 4))).astype(np.float32)


@pytest.fixture
def space(tmp_path):
    """Write a mapping onto a reference of 600 cells; return what is corrected of it, as a function of how it is wanted."""

    def write(latent, batches=None, moves=False, names=(), column="refmap_batch"):
        folders = MappedFolder(tmp_path / "m"), PreparedFolder(tmp_path / "p"), ReferenceFolder(tmp_path / "r")
        mapped, prepared, reference = folders
        for folder in folders:
            folder.folder.mkdir()
        obs = pd.DataFrame(index=[f"q{i}" for i in range(len(latent))])
        write_zarr(ad.AnnData(obs=obs, obsm={"X_emb": latent}, uns={"refmap": {}}), mapped.embedding)
        mapped.record.write_text(json.dumps({"surgery_moves": moves, "seed": 0, "id": "a~b"}))
        mapped.history.write_text("epoch\n")
        write_zarr(ad.AnnData(obs=obs if batches is None else obs.assign(**{column: batches})), prepared.aligned)
        prepared.plan.write_text(json.dumps({"batch_column": None if batches is None else column}))
        cells = pd.DataFrame({"study": np.arange(600) // 3 % 2}, index=[f"r{i}" for i in range(600)]).astype(str)
        write_zarr(ad.AnnData(obs=cells, obsm={"X_emb": around(600, 0)}), reference.cells)
        scale = {"reference": "atlas.h5ad", "n_latent": 4, "latent_names": list(names), "batch_key": "study"}
        reference.record.write_text(json.dumps(scale))

        def correct(wanted):
            found = correct_mapping(mapped, prepared, reference, wanted, MappedFolder(tmp_path / "out"))
            embedding = ad.read_zarr(found.embedding)
            return found, embedding, json.loads(found.record.read_text())

        return correct

    return write


def test_a_query_that_lies_apart_is_moved_and_it_is_kept_as_it_was(space, tmp_path):
    latent = around(300, 1) + APART
    correct, before = space(latent), (tmp_path / "r").rglob("*")
    stored = {path: path.read_bytes() for path in before if path.is_file()}
    found, embedding, record = correct("auto")
    assert found.folder == tmp_path / "out" and record["id"] == "a~b" and found.history.read_text() == "epoch\n"
    np.testing.assert_array_equal(embedding.obsm[UNCORRECTED], latent)
    assert np.linalg.norm(embedding.obsm["X_emb"] - (latent - APART), axis=1).mean() < 0.3
    told = record["correction"]
    assert (told["wanted"], told["method"], told["clusters"]) == ("auto", "symphony", 20)
    assert told["reason"] == "Apart from the reference: all cells."
    assert told["before"]["value"] < 0.1 < 0.4 < told["after"]["value"] < 0.6
    assert told["before"]["batches"] == {"all cells": told["before"]["value"]}
    assert {path: path.read_bytes() for path in stored} == stored  # the reference has not moved by one bit


def test_one_batch_that_lies_apart_is_enough_and_the_other_hardly_moves(space):
    batches = np.where(np.arange(300) < 200, "here", "a/part")
    latent = around(300, 1) + np.where(batches == "here", 0, 1)[:, None] * APART
    _, embedding, record = space(latent, batches)("auto")
    told, moved = record["correction"], np.linalg.norm(embedding.obsm["X_emb"] - latent, axis=1)
    assert told["reason"] == "Apart from the reference: a/part." and set(told["after"]["batches"]) == {"here", "a/part"}
    assert told["after"]["batches"]["a/part"] > 0.35 > 0.1 > told["before"]["batches"]["a/part"]
    assert moved[batches == "here"].mean() < 0.3 < 2 < moved[batches == "a/part"].mean()


@pytest.mark.parametrize(
    ("wanted", "changes"),
    [("none", {}), ("auto", {"moves": True}), ("auto", {"names": ["a", "b", "c", "d"]})],
    ids=["not wanted", "surgery moves it", "dimensions with a meaning"],
)
def test_what_is_not_to_be_moved_is_left_as_it_is(space, tmp_path, wanted, changes):
    found, embedding, record = space(around(300, 1) + APART, **changes)(wanted)
    assert found.folder == tmp_path / "m" and not (tmp_path / "out").exists()
    assert UNCORRECTED not in embedding.obsm and "correction" not in record


@pytest.mark.parametrize(
    ("latent", "reason"),
    [
        (around(300, 1), "No batch of the query lies apart from the reference."),
        (around(12, 1) + APART, "The query has too few cells to tell."),
    ],
    ids=["among the reference", "few"],
)
def test_where_nothing_lies_apart_nothing_is_moved_unless_it_is_asked_for(space, tmp_path, latent, reason):
    correct = space(latent)
    _, embedding, record = correct("auto")
    assert record["correction"]["reason"] == reason and record["correction"]["method"] is None
    np.testing.assert_array_equal(embedding.obsm["X_emb"], latent)
    assert UNCORRECTED not in embedding.obsm and record["correction"]["after"] is None


def test_a_correction_that_is_asked_for_is_done_whatever_the_model(space):
    latent = around(300, 1) + APART
    _, embedding, record = space(latent, moves=True)("symphony")
    assert (record["correction"]["method"], record["correction"]["reason"]) == ("symphony", "It was asked for.")
    np.testing.assert_array_equal(embedding.obsm[UNCORRECTED], latent)


def test_one_that_brings_the_query_no_nearer_is_left(space, monkeypatch):
    monkeypatch.setattr("refmap.trust.correction.correct", lambda latent, batches, reference: latent - 9)
    latent = around(300, 1) + APART
    _, embedding, record = space(latent)("auto")
    assert record["correction"]["reason"] == "The correction brought the query no nearer to the reference, and was left."
    np.testing.assert_array_equal(embedding.obsm["X_emb"], latent)


def test_cells_without_an_embedding_and_dimensions_beyond_the_reference_s_stay(space):
    latent = np.column_stack([around(300, 1) + APART, np.arange(300)]).astype(np.float32)
    latent[::10] = np.nan
    _, embedding, _ = space(latent)("auto")
    found = embedding.obsm["X_emb"]
    assert np.isnan(found[::10]).all() and np.isfinite(np.delete(found, np.s_[::10], axis=0)).all()
    np.testing.assert_array_equal(found[:, 4], latent[:, 4])
