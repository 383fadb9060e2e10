"""SCimilarity: its card, and cells embedded by its encoder as it is, compared with the encoder's formulas in numpy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from foundation_models import save_scimilarity
from mapping import embed_cells, map_cells
from refmap.mapping.trial import try_model
from refmap.reference.inspection import inspect_model


@pytest.fixture(scope="module")
def genes(cells) -> list[str]:
    """The cells' genes in another order, and some that they lack."""
    return [*sorted(cells.var_names)[:100], "LACKING1", "LACKING2"]


@pytest.fixture(scope="module")
def model(genes, tmp_path_factory) -> Path:
    return save_scimilarity(tmp_path_factory.mktemp("models") / "scimilarity", genes)


@pytest.fixture(scope="module")
def mapped(query, model, tmp_path_factory):
    return map_cells(query, model, tmp_path_factory.mktemp("mapped") / "first")


def embedded(adata, model: Path) -> np.ndarray:
    """By the encoder's formulas: log1p of counts per 10,000 of the model's genes; layers; a length of one."""
    weights = {name: tensor.numpy() for name, tensor in torch.load(model / "encoder.ckpt")["state_dict"].items()}
    genes = (model / "gene_order.tsv").read_text().split("\n")
    counts = np.zeros((adata.n_obs, len(genes)))
    places = [genes.index(gene) if gene in genes else -1 for gene in adata.var_names]
    for column, place in enumerate(places):
        if place >= 0:
            counts[:, place] = adata.X[:, [column]].toarray().ravel()
    totals = counts.sum(axis=1, keepdims=True)
    values = np.log1p(1e4 * counts / np.where(totals > 0, totals, 1))
    for number in (0, 1):
        held = {name.removeprefix(f"network.{number}."): value for name, value in weights.items()}
        values = values @ held["1.weight"].T + held["1.bias"]
        values = (values - held["2.running_mean"]) / np.sqrt(held["2.running_var"] + 1e-5) * held["2.weight"] + held["2.bias"]
        values = np.where(values > 0, values, held["3.weight"] * values)
    values = values @ weights["network.2.weight"].T + weights["network.2.bias"]
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_the_card_says_what_the_files_say(model, genes):
    card = inspect_model(model)
    assert (card.fault, card.family, card.class_name, card.env) == (None, "scimilarity", "SCimilarity", "scvi")
    assert (card.genes, card.n_latent, card.input) == (genes, 8, "lognorm")
    assert card.normalization == {"target_sum": 1e4, "genes": "model"}
    assert (card.batch_key, card.labels, card.predicts, card.surgery_ready) == (None, {}, False, False)
    assert card.warnings == [
        "SCimilarity has no surgery: nothing is trained, the query is embedded as it is, and a batch effect that sets it apart from "
        "the reference stays."
    ]
    assert try_model(model, card.to_json())["fault"] is None


def test_the_embedding_is_the_encoders(mapped, query, model):
    assert mapped.latent.dtype == np.float32 and mapped.latent.shape == (query.n_obs, 8)
    np.testing.assert_allclose(mapped.latent, embedded(query, model), atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(mapped.latent, axis=1), 1, atol=1e-6)
    assert mapped.record["parameters_trainable"] == 0 and mapped.record["train"] is None
    assert mapped.record["frozen_sha256_before"] == mapped.record["frozen_sha256_after"]
    assert not any("Nothing was trained" in warning for warning in mapped.record["warnings"])


def test_reference_cells_are_embedded_as_the_query(cells, model, tmp_path):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    np.testing.assert_allclose(
        embed_cells(tmp_path / "cells.h5ad", model, tmp_path / "prepared"), embedded(cells, model), atol=2e-6
    )


def test_cells_of_any_study_are_a_reference_though_they_lack_many_genes(cells, model, tmp_path):
    few = cells[:, :40].copy()
    few.write_h5ad(tmp_path / "few.h5ad")
    np.testing.assert_allclose(embed_cells(tmp_path / "few.h5ad", model, tmp_path / "prepared"), embedded(few, model), atol=2e-6)


def test_the_updated_model_is_the_reference_and_maps_a_single_cell(mapped, query, model, tmp_path):
    for name in ("encoder.ckpt", "gene_order.tsv", "layer_sizes.json", "label_ints.csv"):
        assert (mapped.model / name).read_bytes() == (model / name).read_bytes()
    one = map_cells(query[:1].copy(), mapped.model, tmp_path / "one").latent
    np.testing.assert_allclose(one, mapped.latent[:1], atol=1e-6)


def test_what_searches_look_through_is_none_of_the_model(model, genes, tmp_path):
    """A release has the cells of its searches below the model, and may lie in a folder of its own."""
    release = tmp_path / "release" / "model_v1"
    shutil.copytree(model, release)
    before = inspect_model(release)
    (release / "annotation").mkdir()
    (release / "annotation/labelled_kNN.bin").write_bytes(b"many cells")
    card = inspect_model(tmp_path / "release")
    assert (card.fault, card.genes, card.sha256) == (None, genes, before.sha256)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda folder: (folder / "gene_order.tsv").unlink(),
            "lacks gene_order.tsv, without which no SCimilarity model can be read",
        ),
        (lambda folder: (folder / "layer_sizes.json").unlink(), "lacks layer_sizes.json"),
        (lambda folder: (folder / "gene_order.tsv").write_text("A\nB\n"), "names 2 genes, but the encoder takes 102"),
        (lambda folder: (folder / "gene_order.tsv").write_bytes(b"\xff\xfe"), "gene_order.tsv is no text"),
        (lambda folder: (folder / "layer_sizes.json").write_text("{"), "layer_sizes.json is no JSON"),
        (lambda folder: (folder / "layer_sizes.json").write_text("{}"), "has other sizes than encoder.ckpt"),
        (lambda folder: torch.save({"state_dict": {}}, folder / "encoder.ckpt"), "holds no encoder of SCimilarity"),
        (lambda folder: (folder / "encoder.ckpt").write_bytes(b"PK\x03\x04"), "encoder.ckpt is truncated"),
        (
            lambda folder: torch.save({"state_dict": {}, "evil": Evil(folder)}, folder / "encoder.ckpt"),
            "encoder.ckpt is not safe to load",
        ),
    ],
    ids=["no genes", "no sizes", "genes", "no text", "no json", "other sizes", "no layers", "truncated", "evil"],
)
def test_a_damaged_model_has_a_fault_and_runs_nothing(change, message, model, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    change(folder)
    fault = inspect_model(folder).fault
    assert message in fault and "\n" not in fault and not (folder / "run").exists()


class Evil:
    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return Path.touch, (self.folder / "run",)


def test_layers_that_pass_their_input_on_are_refused(model, tmp_path):
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "model/hyperparameters.json").write_text(json.dumps({"residual": True}))
    assert "residual" in inspect_model(tmp_path / "model").fault
