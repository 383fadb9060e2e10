"""scGPT: its card, and cells embedded by its transformer as it is, compared with its formulas in numpy."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from foundation_models import files_of, save_scgpt
from mapping import embed_cells, map_cells
from refmap.families.scgpt.surgery import ScgptSurgery, binned
from refmap.mapping.trial import try_model
from refmap.models.folder import ModelFolder
from refmap.reference.inspection import inspect_model


@pytest.fixture(scope="module")
def model(cells, tmp_path_factory) -> Path:
    """Its layers have the names of flash attention, as those that are published."""
    return save_scgpt(tmp_path_factory.mktemp("models") / "scgpt", [*sorted(cells.var_names)[:100], "LACKING"], flash=True)


@pytest.fixture(scope="module")
def donors(query, model):
    """Cells whose counts are all different, so that nothing is drawn; the last of them has no gene of the model."""
    donors = query[:30].copy()
    counts = donors.X.toarray()
    for cell in counts:
        held = np.flatnonzero(cell)
        cell[held] = 3 * np.random.default_rng(0).permutation(len(held)) + 2
    counts[29, np.isin(donors.var_names, inspect_model(model).genes)] = 0
    donors.X = type(donors.X)(counts)
    return donors


@pytest.fixture(scope="module")
def mapped(donors, model, tmp_path_factory):
    return map_cells(donors, model, tmp_path_factory.mktemp("mapped") / "first")


def embedded(adata, model: Path) -> np.ndarray:
    """By its formulas, cell by cell: the state of <cls>, of length 1."""
    held = torch.load(model / "best_model.pt")
    weights = {name.replace("Wqkv.", "in_proj_"): tensor.numpy().astype(float) for name, tensor in held.items()}
    vocabulary, settings = (json.loads((model / name).read_text()) for name in ("vocab.json", "args.json"))
    size, n_heads = settings["embsize"], settings["nheads"]

    def linear(name, x, sign="."):
        return x @ weights[f"{name}{sign}weight"].T + weights[f"{name}{sign}bias"]

    def norm(name, x):
        centred = x - x.mean(axis=1, keepdims=True)
        return (
            centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5) * weights[f"{name}.weight"]
            + weights[f"{name}.bias"]
        )

    found = []
    for cell in adata.X.toarray():
        read = [place for place, gene in enumerate(adata.var_names) if cell[place] > 0 and gene in vocabulary]
        if not read:
            found.append(np.full(size, np.nan))
            continue
        edges = np.quantile(cell[read], np.linspace(0, 1, 50))
        bins = [sum(edge <= count for edge in edges) for count in cell[read]]
        tokens = [vocabulary["<cls>"], *(vocabulary[adata.var_names[place]] for place in read)]
        values = np.maximum(linear("value_encoder.linear1", np.array([[-2.0], *([float(b)] for b in bins)])), 0)
        x = norm("encoder.enc_norm", weights["encoder.embedding.weight"][tokens])
        x = x + norm("value_encoder.norm", linear("value_encoder.linear2", values))
        for number in range(settings["nlayers"]):
            layer, heads = f"transformer_encoder.layers.{number}", []
            q, k, v = np.split(linear(f"{layer}.self_attn.in_proj", x, "_"), 3, axis=1)
            for part in np.split(np.arange(size), n_heads):
                scores = np.exp(q[:, part] @ k[:, part].T / math.sqrt(size // n_heads))
                heads.append(scores / scores.sum(axis=1, keepdims=True) @ v[:, part])
            x = norm(f"{layer}.norm1", x + linear(f"{layer}.self_attn.out_proj", np.hstack(heads)))
            x = norm(f"{layer}.norm2", x + linear(f"{layer}.linear2", np.maximum(linear(f"{layer}.linear1", x), 0)))
        found.append(x[0] / np.linalg.norm(x[0]))
    return np.array(found)


def test_the_card_says_what_the_files_say(model):
    card = inspect_model(model)
    assert (card.fault, card.family, card.class_name, card.env) == (None, "scgpt", "scGPT", "scvi")
    assert (len(card.genes), card.genes[-1], card.n_latent, card.input) == (101, "LACKING", 16, "counts")
    assert (card.batch_key, card.labels, card.surgery_ready) == (None, {}, False)
    assert card.warnings[0].startswith("scGPT has no surgery: nothing is trained")
    assert try_model(model, card.to_json())["fault"] is None


def test_the_embedding_is_the_transformers(mapped, donors, model):
    expected = embedded(donors, model)
    assert mapped.latent.dtype == np.float32 and np.isnan(expected[29]).all() and not np.isnan(expected[:29]).any()
    np.testing.assert_allclose(mapped.latent, expected, atol=1e-4)
    assert mapped.record["parameters_trainable"] == 0
    assert mapped.record["frozen_sha256_before"] == mapped.record["frozen_sha256_after"]


def test_layers_of_any_attention_are_the_same(tmp_path):
    one, other = (
        ScgptSurgery.read(ModelFolder(save_scgpt(tmp_path / str(flash), ["A"], flash=flash))) for flash in (True, False)
    )
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_reference_cells_are_embedded_as_the_query(donors, model, tmp_path):
    cells = donors[:10].copy()
    cells.write_h5ad(tmp_path / "cells.h5ad")
    np.testing.assert_allclose(
        embed_cells(tmp_path / "cells.h5ad", model, tmp_path / "prepared"), embedded(cells, model), atol=1e-4
    )


def test_the_updated_model_is_the_reference(mapped, model):
    assert files_of(mapped.model) == files_of(model)


def test_what_is_drawn_hangs_on_the_seed_and_the_cell_alone(query, model, tmp_path, monkeypatch):
    monkeypatch.setattr("refmap.families.scgpt.surgery.ScgptSurgery.longest", 12)
    few = query[:20].copy()
    once = map_cells(few, model, tmp_path / "once").latent
    turned = map_cells(few[::-1].copy(), model, tmp_path / "turned").latent
    np.testing.assert_allclose(turned[::-1], once, atol=2e-6)
    assert np.abs(map_cells(few, model, tmp_path / "other", seed=1).latent - once).max() > 1e-3


def test_equal_counts_fill_the_bins_that_they_bound_evenly():
    counts = np.repeat([1.0, 2.0, 5.0], [5000, 4000, 1000]).astype(np.float32)
    bins = binned(counts, np.random.default_rng(0))
    for count, first, last in ((1, 1, 25), (2, 26, 45), (5, 46, 50)):  # of 50 edges, 25 are 1, 20 are 2
        found, n = np.unique(bins[counts == count], return_counts=True)
        assert list(found) == list(range(first, last + 1)) and n.std() / n.mean() < 0.2


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("best_model.pt", None, "lacks best_model.pt, without which no scGPT can be loaded"),
        ("best_model.pt", b"PK\x03\x04", "best_model.pt is truncated"),
        ("vocab.json", b'{"A": 9000}', "holds no tokens of 16 numbers for a vocabulary of 4"),
        ("vocab.json", b'{"A": "x"}', "is no dictionary of tokens by gene"),
        ("args.json", b"{", "args.json is no JSON"),
        ("args.json", b'{"input_emb_style": "scaling"}', "reads values by 'scaling'"),
    ],
    ids=["missing", "truncated", "another's", "no tokens", "no json", "scaling"],
)
def test_a_damaged_model_has_a_fault(file, content, message, tmp_path):
    folder = save_scgpt(tmp_path / "model", ["A", "B"])
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content)
    fault = inspect_model(folder).fault
    assert message in fault and "\n" not in fault
