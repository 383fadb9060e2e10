"""Geneformer: its card, and cells embedded by its transformer as it is, compared with its formulas in numpy."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
from foundation_models import files_of, save_geneformer
from mapping import embed_cells, map_cells
from refmap.mapping.trial import try_model
from refmap.reference.inspection import inspect_model

SPECIAL = {"first release": False, "second release": True}


@pytest.fixture(scope="module")
def ids(cells) -> dict[str, str]:
    """Made-up Ensembl ids of the cells' genes."""
    return {gene: f"ENSG{number:011}" for number, gene in enumerate(cells.var_names)}


@pytest.fixture(scope="module", params=SPECIAL.values(), ids=SPECIAL)
def model(request, ids, tmp_path_factory) -> Path:
    genes = [*list(ids.values())[:110], "ENSG00000099999"]
    return save_geneformer(tmp_path_factory.mktemp("models") / "geneformer", genes, special=request.param, longest=32)


@pytest.fixture(scope="module")
def donors(query, ids):
    """The query's cells, the last of them without a gene that the model has; genes by their ids, with versions."""
    donors = query[:40].copy()
    donors.var_names = [f"{ids[gene]}.{number % 7 + 1}" for number, gene in enumerate(donors.var_names)]
    counts = donors.X.tolil()
    known = [gene.partition(".")[0] in list(ids.values())[:110] for gene in donors.var_names]
    counts[39, np.flatnonzero(known)] = 0
    counts[39, np.flatnonzero(~np.array(known))[0]] = 3
    donors.X = counts.tocsr()
    return donors


@pytest.fixture(scope="module")
def mapped(donors, model, tmp_path_factory):
    return map_cells(donors, model, tmp_path_factory.mktemp("mapped") / "first")


def tensors(folder: Path) -> dict[str, np.ndarray]:
    data = (folder / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    entries = {name: entry for name, entry in json.loads(data[8:start]).items() if name != "__metadata__"}
    return {
        name: np.frombuffer(data[start:], "<f4", math.prod(entry["shape"]), entry["data_offsets"][0])
        .reshape(entry["shape"])
        .astype(float)
        for name, entry in entries.items()
    }


def embedded(adata, model: Path) -> np.ndarray:
    """By the formulas of BERT, cell by cell: the states before the last layer, of <cls> or the mean of all genes."""
    weights, config = tensors(model), json.loads((model / "config.json").read_text())
    tokens = pickle.loads((model / "token_dictionary_gc104M.pkl").read_bytes())
    medians = pickle.loads((model / "gene_median_dictionary_gc104M.pkl").read_bytes())
    genes = [gene.partition(".")[0] for gene in adata.var_names]

    def linear(name, x):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name, x):
        centred = x - x.mean(axis=1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(axis=1, keepdims=True)) * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    gelu = np.vectorize(lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2)
    found, special = [], "<cls>" in tokens
    for cell in adata.X.toarray().astype(float):
        scaled = {
            gene: count / cell.sum() * 1e4 / medians[gene] for gene, count in zip(genes, cell) if count > 0 and gene in medians
        }
        # Of equals the lesser token: a relative 1e-12 for rounding
        ranked = sorted(scaled, key=lambda gene: (-round(scaled[gene], 9), tokens[gene]))
        read = [tokens[gene] for gene in ranked[: config["max_position_embeddings"] - 2 * special]]
        if not read:
            found.append(np.full(config["hidden_size"], np.nan))
            continue
        read = [tokens["<cls>"], *read, tokens["<eos>"]] if special else read
        x = (
            weights["bert.embeddings.word_embeddings.weight"][read]
            + weights["bert.embeddings.position_embeddings.weight"][: len(read)]
        )
        x = norm("bert.embeddings.LayerNorm", x + weights["bert.embeddings.token_type_embeddings.weight"][0])
        for number in range(config["num_hidden_layers"] - 1):
            layer, heads = f"bert.encoder.layer.{number}", []
            q, k, v = (linear(f"{layer}.attention.self.{name}", x) for name in ("query", "key", "value"))
            width = config["hidden_size"] // config["num_attention_heads"]
            for start in range(0, config["hidden_size"], width):
                part = slice(start, start + width)
                scores = np.exp(q[:, part] @ k[:, part].T / math.sqrt(width))
                heads.append(scores / scores.sum(axis=1, keepdims=True) @ v[:, part])
            x = norm(f"{layer}.attention.output.LayerNorm", x + linear(f"{layer}.attention.output.dense", np.hstack(heads)))
            wide = linear(f"{layer}.intermediate.dense", x)
            wide = gelu(wide) if config["hidden_act"] == "gelu" else np.maximum(wide, 0)
            x = norm(f"{layer}.output.LayerNorm", x + linear(f"{layer}.output.dense", wide))
        found.append(x[0] if special else x.mean(axis=0))
    return np.array(found)


def test_the_card_says_what_the_files_say(model):
    card = inspect_model(model)
    assert (card.fault, card.family, card.class_name, card.env) == (None, "geneformer", "Geneformer", "scvi")
    assert (len(card.genes), card.genes[-1], card.n_latent, card.input) == (111, "ENSG00000099999", 16, "counts")
    assert (card.version, card.batch_key, card.labels, card.surgery_ready) == ("4.37.2", None, {}, False)
    assert card.warnings[0].startswith("Geneformer has no surgery: nothing is trained")
    assert try_model(model, card.to_json())["fault"] is None


def test_the_embedding_is_the_transformers(mapped, donors, model):
    expected = embedded(donors, model)
    assert mapped.latent.dtype == np.float32 and np.isnan(expected[39]).all() and not np.isnan(expected[:39]).any()
    np.testing.assert_allclose(mapped.latent, expected, atol=2e-5)
    assert "1 of 40 cells have none of the model's genes, and so no embedding." in mapped.record["warnings"]
    assert mapped.record["parameters_trainable"] == 0 and mapped.record["train"] is None
    assert mapped.record["frozen_sha256_before"] == mapped.record["frozen_sha256_after"]


def test_a_cell_is_embedded_alike_beside_any_others(mapped, donors, model, tmp_path, monkeypatch):
    monkeypatch.setattr("refmap.families.sequences.TOKENS", 100)
    by_blocks = map_cells(donors[::-1].copy(), model, tmp_path / "blocks").latent
    np.testing.assert_allclose(by_blocks[::-1], mapped.latent, atol=2e-6)


def test_reference_cells_are_embedded_as_the_query(donors, model, tmp_path):
    cells = donors[:20].copy()
    cells.write_h5ad(tmp_path / "cells.h5ad")
    np.testing.assert_allclose(
        embed_cells(tmp_path / "cells.h5ad", model, tmp_path / "prepared"), embedded(cells, model), atol=2e-5
    )


def test_the_updated_model_is_the_reference(mapped, model):
    assert files_of(mapped.model) == files_of(model)


class Evil:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("token_dictionary_gc104M.pkl", None, "lacks token_dictionary*.pkl, and a Geneformer is read by one: copy the one"),
        ("token_dictionary.pkl", pickle.dumps({}), "holds 2 of token_dictionary*.pkl"),
        ("gene_median_dictionary_gc104M.pkl", pickle.dumps({"TP53": 1.0}), "have no gene in common"),
        ("token_dictionary_gc104M.pkl", pickle.dumps(["a"]), "is no dictionary of numbers by gene"),
        ("token_dictionary_gc104M.pkl", pickle.dumps({"ENSG00000000001": 900}), "its dictionary goes up to 900"),
        ("gene_median_dictionary_gc104M.pkl", pickle.dumps({"ENSG00000000001": 1.0, "x": Evil()}), "is not safe to load"),
        ("model.safetensors", b"\x08", "model.safetensors is truncated"),
        ("config.json", b'{"model_type": "bert"}', "is built as no Geneformer is"),
    ],
    ids=["no dictionary", "two", "no gene", "no numbers", "another's", "evil", "truncated", "config"],
)
def test_a_damaged_model_has_a_fault_and_runs_nothing(file, content, message, ids, tmp_path):
    folder = save_geneformer(tmp_path / "model", list(ids.values())[:5])
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content)
    fault = inspect_model(folder).fault
    assert message in fault and "\n" not in fault


def test_a_bert_that_lacks_weights_is_told_when_it_is_tried(ids, tmp_path):
    folder = save_geneformer(tmp_path / "model", list(ids.values())[:5])
    config = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": 5}
    (folder / "config.json").write_text(json.dumps(config))
    fault = try_model(folder, inspect_model(folder).to_json())["fault"]
    assert "lacks the weights 'encoder.layer.3" in fault
