"""Counts that are left on disk: read as they are in memory, and embedded and trained on to the same end."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
import zarr
from mapping import map_cells, prepare
from refmap.common import stored_rows
from refmap.common.storage import read_zarr, write_zarr
from refmap.common.stored_rows import StoredRows
from refmap.families.base import Settings
from refmap.families.scvi import card as scvi_card
from refmap.families.scvi import surgery as scvi_surgery
from refmap.families.scvi.engine import surgery as engine_surgery
from refmap.families.scvi.engine.cells import Cells
from refmap.query import align
from rows import ROW

SHORT = {"max_epochs": 3, "early_stopping": True, "batch_size": 16}


@pytest.fixture
def tiny(monkeypatch):
    """Chunks, windows, runs and blocks of a few cells; everything is left on disk."""
    monkeypatch.setattr(align, "CHUNK_VALUES", 300)
    monkeypatch.setattr(stored_rows, "WINDOW", 700)
    monkeypatch.setattr(stored_rows, "RUN", 2_000)
    monkeypatch.setattr(stored_rows, "TOGETHER", 4)
    monkeypatch.setattr(scvi_card, "MOST_IN_MEMORY", 0)
    monkeypatch.setattr(scvi_surgery, "BLOCK", 128)
    monkeypatch.setattr(engine_surgery, "BLOCK", 64)


@pytest.fixture
def matrix(tmp_path, monkeypatch):
    """Counts of 50 cells x 7 genes, some without any, in memory and in chunks of 16 values on disk."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.8, (50, 7)).astype(np.float32)
    counts[[0, 13, 14, 49]] = 0
    monkeypatch.setattr(align, "CHUNK_VALUES", 16)
    monkeypatch.setattr(stored_rows, "WINDOW", 20)
    group = zarr.open_group(tmp_path / "m.zarr", mode="w", zarr_format=2).create_group("X")
    writer = align.CsrWriter(group, counts.shape, counts.size)
    writer.append(sp.csr_matrix(counts))
    writer.close()
    return counts, StoredRows(group)


def test_rows_are_those_in_memory_in_any_order(matrix):
    counts, stored = matrix
    rng = np.random.default_rng(1)
    mask = rng.random(50) < 0.3
    for rows in ([3], [49], [14, 13], list(range(20, 28)), [5, 5, 2], rng.permutation(50), slice(10, 30), slice(None), mask, []):
        np.testing.assert_array_equal(stored[rows].toarray(), counts[rows if len(np.atleast_1d(rows)) else slice(0)])
        np.testing.assert_array_equal(stored[rows, 2:5].toarray(), counts[rows if len(np.atleast_1d(rows)) else slice(0), 2:5])
    assert stored.nnz == np.count_nonzero(counts)


def test_rows_that_are_held_or_follow_each_other_are_read_once(matrix, monkeypatch):
    counts, stored = matrix
    read = []
    monkeypatch.setattr(StoredRows, "_read", lambda self, rows, own=StoredRows._read: read.append(rows) or own(self, rows))
    held = np.array([1, 4, 30, 48])
    stored.hold(held)
    np.testing.assert_array_equal(stored[[48, 1]].toarray(), counts[[48, 1]])
    np.testing.assert_array_equal(stored[[4, 30, 30]].toarray(), counts[[4, 30, 30]])
    assert [list(rows) for rows in read] == [list(held)]
    read.clear()
    for start in range(0, 50, 2):
        np.testing.assert_array_equal(stored[[start, start + 1]].toarray(), counts[start : start + 2])
    assert len(read) < 15 and max(map(len, read)) < 50


def places_of(cells, n, size, seed):
    torch.manual_seed(seed)
    order = cells.shuffled(np.arange(n), size)
    return order, list(cells.runs(order, size))


@pytest.mark.parametrize("n", [1, 5, 16, 203])
def test_every_cell_is_seen_once_an_epoch_in_an_order_of_the_seed(n, tiny, tmp_path):
    group = zarr.open_group(tmp_path / "m.zarr", mode="w", zarr_format=2).create_group("X")
    writer = align.CsrWriter(group, (n, 40), n * 40)
    writer.append(sp.csr_matrix(np.ones((n, 40), dtype=np.float32)))
    writer.close()
    cells = Cells(StoredRows(group), {}, None)
    order, runs = places_of(cells, n, 16, seed=0)
    np.testing.assert_array_equal(np.sort(order), np.arange(n))
    np.testing.assert_array_equal(np.concatenate(runs), order)
    # 2,000 values are 50 cells, or three minibatches of 16; their blocks are of 12 cells
    assert [len(run) for run in runs] == [48] * (n // 48) + [n % 48]
    for run in runs:
        assert len(np.unique(run // 12)) <= 2 * 5
        np.testing.assert_array_equal(cells.counts[run].toarray(), 1)
    np.testing.assert_array_equal(order, places_of(cells, n, 16, seed=0)[0])
    if n > 16:
        assert not np.array_equal(order, places_of(cells, n, 16, seed=1)[0])
        assert not np.array_equal(order, np.sort(order))


@pytest.mark.parametrize("engine", ["auto", "scvi"])
def test_inference_from_disk_is_that_in_memory(engine, query, scanvi_model, tmp_path, monkeypatch, tiny):
    found = map_cells(query, scanvi_model, tmp_path / "disk", train=None, engine=engine)
    monkeypatch.undo()
    expected = map_cells(query, scanvi_model, tmp_path / "memory", train=None, engine=engine)
    tolerance = {"rtol": 0, "atol": 1e-6 if engine == "auto" else 0}  # other cells go through a layer together
    np.testing.assert_allclose(found.latent, expected.latent, **tolerance)
    for key in expected.embedding.obsm:
        np.testing.assert_allclose(found.embedding.obsm[key], expected.embedding.obsm[key], **tolerance)
    pd.testing.assert_frame_equal(found.embedding.obs, expected.embedding.obs, **tolerance)
    assert list(found.embedding.obs_names) == list(query.obs_names)
    decoded = [np.load(tmp_path / name / "mapped" / "decoded.npz") for name in ("disk", "memory")]
    for name in decoded[0].files:
        np.testing.assert_allclose(decoded[0][name], decoded[1][name], rtol=2e-3 if engine == "auto" else 0)  # half precision


def test_minibatches_from_disk_are_those_in_memory(query, scanvi_model, tmp_path, tiny):
    card, prepared = prepare(query, scanvi_model, tmp_path / "prepared", ROW)
    both = [scvi_surgery.Surgery.prepare(scanvi_model, read_zarr(prepared.aligned, most), card, Settings()) for most in (0, None)]
    assert [surgery.cells.are_stored for surgery in both] == [True, False]
    stored, held = (surgery.cells for surgery in both)
    # Of all cells no code takes more than a byte, and of the minibatch all are as indices have to be
    assert {stored.rest[name].dtype for name in ("batches", "labels", "covariates")} == {torch.int8}
    rows = np.random.default_rng(0).permutation(query.n_obs)[:20]
    assert {getattr(stored[rows], name).dtype for name in ("batches", "labels", "covariates", "categories")} == {torch.int64}
    found, expected = vars(stored[rows]), vars(held[rows])
    for name, values in vars(expected.pop("counts")).items():
        assert torch.equal(vars(found["counts"])[name], values)
    assert found.pop("counts") and found.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values)


def test_training_from_disk_leads_where_that_in_memory_does(query, scvi_model, tmp_path, monkeypatch, tiny):
    found = map_cells(query, scvi_model, tmp_path / "disk", train=SHORT)
    assert found.record["train"]["engine"] == "refmap"
    monkeypatch.undo()
    expected = map_cells(query, scvi_model, tmp_path / "memory", train=SHORT)
    assert list(found.history) == list(expected.history) and len(found.history) == SHORT["max_epochs"]
    elbos = ["elbo_train", "elbo_validation"]
    np.testing.assert_allclose(found.history[elbos], expected.history[elbos], rtol=0.02)
    assert not np.array_equal(found.latent, expected.latent)  # as cells come in another order
    np.testing.assert_allclose(found.latent, expected.latent, atol=0.05)


def test_scvi_tools_own_trainer_reads_each_cell_once_an_epoch(query, scvi_model, tmp_path, monkeypatch, tiny):
    seen = []

    def runs(self, *given, own=StoredRows.runs):
        for run in own(self, *given):
            seen.append(run)
            yield run

    monkeypatch.setattr(StoredRows, "runs", runs)
    found = map_cells(query, scvi_model, tmp_path / "disk", train=SHORT, engine="scvi")
    assert found.record["train"]["engine"] == "scvi-tools"
    np.testing.assert_array_equal(np.bincount(np.concatenate(seen)), SHORT["max_epochs"])
    monkeypatch.undo()
    expected = map_cells(query, scvi_model, tmp_path / "memory", train=SHORT, engine="scvi")
    np.testing.assert_allclose(found.history["elbo_validation"], expected.history["elbo_validation"], rtol=0.02)


def test_names_with_slashes_are_read_beside_what_is_left_on_disk(tmp_path):
    cells = ad.AnnData(sp.csr_matrix(np.eye(3, dtype=np.float32)), obsm={"a/b": np.ones((3, 1))})
    cells.obs["donor/id"] = ["x", "y", "z"]
    write_zarr(cells, tmp_path / "c.zarr")
    # Three values, and 64 more a cell
    found, whole = read_zarr(tmp_path / "c.zarr", 194), read_zarr(tmp_path / "c.zarr", 195)
    assert isinstance(found.X, StoredRows) and not isinstance(whole.X, StoredRows)
    assert list(found.obs) == ["donor/id"] and list(found.obsm) == ["a/b"]
    np.testing.assert_array_equal(found.X[:].toarray(), np.eye(3))
