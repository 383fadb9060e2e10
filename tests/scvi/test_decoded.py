"""What models of scvi-tools expect of a query's cells is what scvi-tools says of them, and the encoder is given what is said here."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import torch
from mapping import map_cells
from refmap.common.folders import MappedFolder
from refmap.families.base import Settings
from refmap.families.scvi.surgery import Surgery
from refmap.mapping.decoded import SCALE, Decoded
from refmap.mapping.trial import made_up_query
from refmap.reference.inspection import inspect_model
from scipy import sparse
from small_models import model_class, save_model

TRAIN = {"max_epochs": 2, "early_stopping": False, "check_val_every_n_epoch": 1}


def mapped_without_some_genes(model, query, folder, **row):
    """A mapping of a query that lacks a third of the genes, what was decoded of it, and which genes it has."""
    mapped = map_cells(query[:, query.n_vars // 3 :].copy(), model, folder, train=TRAIN, **row)
    return mapped, Decoded.read(MappedFolder(folder / "mapped").decoded), ad.read_zarr(mapped.aligned).var["found"].to_numpy()


@pytest.fixture(scope="module")
def scanvi(scanvi_model, query, tmp_path_factory):
    return mapped_without_some_genes(scanvi_model, query, tmp_path_factory.mktemp("scanvi") / "m")


def certain(model) -> None:
    """Let the posterior of every cell have no spread, so that scvi-tools' samples of it are its mean."""
    state = model.module.z_encoder.var_encoder
    with torch.no_grad():
        state.weight.zero_()
        state.bias.fill_(-60)
    model.module.z_encoder.var_eps = 0.0


def test_proportions_are_those_of_scvi_tools(scanvi, query):
    mapped, decoded, found = scanvi
    assert (decoded.cells == np.arange(query.n_obs)).all() and (decoded.genes == np.flatnonzero(found)).all()
    assert decoded.proportions.dtype == np.float16 and len(decoded.genes) == 80
    loaded = model_class("SCANVI").load(str(mapped.model), adata=ad.read_zarr(mapped.aligned))
    certain(loaded)
    wanted = loaded.get_normalized_expression(library_size=SCALE, return_numpy=True)
    np.testing.assert_allclose(decoded.proportions, wanted[:, found], rtol=2e-3, atol=1e-6)


def test_what_the_genes_carry_is_recorded(scanvi, scanvi_model, query, tmp_path):
    mapped, _, _ = scanvi
    assert 0.2 < mapped.record["hshare"] < 0.95
    whole = map_cells(query, scanvi_model, tmp_path / "whole", train=None)
    assert whole.record["hshare"] == 1


def prepared(model, engine: str = "auto") -> tuple[Surgery, dict]:
    """A surgery on 20 made-up cells, of which the first has no counts."""
    card = inspect_model(model, "atlas").to_json()
    query = made_up_query(card, cells=20)
    query.X = sparse.csr_matrix(query.X.toarray() * (np.arange(20) > 0)[:, None])
    return Surgery.prepare(model, query, card, Settings(options={}, seed=0, engine=engine)), card


@pytest.mark.parametrize("name", ["SCVI", "TOTALVI"])
def test_the_encoders_first_layer_is_given_what_the_decoder_says(name, request):
    surgery, card = prepared(request.getfixturevalue(f"{name.lower()}_model"), "scvi")
    decoder, module = surgery.decoder(surgery.embed()), surgery.model.module
    assert decoder.weights.shape[1] == len(card["genes"]) and decoder.n_batches == len(card["batches"]) == 2
    layer = next(part for part in module.modules() if isinstance(part, torch.nn.Linear))
    given = []
    handle = layer.register_forward_hook(lambda _layer, _given, units: given.append(units.detach().numpy()))
    tensors = next(iter(surgery.model._make_data_loader(adata=surgery.model.adata, batch_size=20)))
    if name == "TOTALVI":  # whose proteins come into the same layer
        tensors["proteins"] = torch.zeros_like(tensors["proteins"])
    counts = np.random.default_rng(0).negative_binomial(2, 0.2, size=tensors["X"].shape).astype(np.float32)
    tensors["X"] = torch.tensor(counts)
    with torch.no_grad():
        module.inference(**module._get_inference_input(tensors))
    handle.remove()
    units = decoder.enters(counts) @ decoder.weights.T
    # But for the bias and what the cells' one batch adds.
    np.testing.assert_allclose(units - units.mean(axis=0), given[0] - given[0].mean(axis=0), rtol=1e-3, atol=1e-4)


def test_cells_are_decoded_in_the_references_batches_by_their_numbers(scvi_model, cells):
    surgery, card = prepared(scvi_model)
    decoder, latent = surgery.decoder(surgery.embed()), torch.tensor(surgery.embed())
    chosen, batches = np.array([3, 3, 7, 0]), np.array([1, 0, 1, 0])
    shares, dispersion = decoder.decode(chosen, batches)
    reference = model_class("SCVI").load(str(scvi_model), adata=cells.copy()).module
    with torch.no_grad():
        wanted = reference.generative(latent[chosen], torch.zeros(4, 1), torch.tensor(batches).reshape(-1, 1))["px"]
    np.testing.assert_allclose(shares, wanted.scale.numpy(), rtol=1e-4)
    np.testing.assert_allclose(np.broadcast_to(dispersion, shares.shape), wanted.theta.numpy(), rtol=1e-5)
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
    assert np.abs(shares[0] - shares[1]).max() > 1e-5


def test_totalvi_expects_the_counts_of_genes(totalvi_model, query, tmp_path):
    mapped, decoded, found = mapped_without_some_genes(totalvi_model, query, tmp_path / "m", protein_key="protein_expression")
    loaded = model_class("TOTALVI").load(str(mapped.model), adata=ad.read_zarr(mapped.aligned))
    # The very latent, of which the library's own table takes samples.
    tensors = next(iter(loaded._make_data_loader(adata=loaded.adata, batch_size=query.n_obs)))
    with torch.no_grad():
        inferred = loaded.module.inference(**loaded.module._get_inference_input(tensors))
        inferred["z"] = torch.tensor(mapped.latent)
        wanted = loaded.module.generative(**loaded.module._get_generative_input(tensors, inferred))["px_"]["scale"].numpy()
    np.testing.assert_allclose(decoded.proportions, SCALE * wanted[:, found], rtol=2e-3, atol=1e-6)
    assert 0 < mapped.record["hshare"] < 1


def test_several_surgeries_decode_each_batch_by_its_own(scvi_model, query, tmp_path):
    mapped = map_cells(query, scvi_model, tmp_path / "m", train=TRAIN, strategy="per_batch")
    decoded = Decoded.read(MappedFolder(tmp_path / "m/mapped").decoded)
    assert (decoded.cells == np.arange(query.n_obs)).all() and mapped.record["hshare"] == 1
    assert [facts["hshare"] for facts in mapped.record["surgeries"]] == [1, 1]
    aligned = ad.read_zarr(mapped.aligned)
    first = (query.obs["donor"] == query.obs["donor"].value_counts().index[0]).to_numpy()
    loaded = model_class("SCVI").load(str(mapped.model / "batch_1"), adata=aligned[first].copy())
    certain(loaded)
    wanted = loaded.get_normalized_expression(library_size=SCALE, return_numpy=True)
    np.testing.assert_allclose(decoded.proportions[first], wanted, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["PEAKVI", pytest.param("POISSONVI", marks=pytest.mark.slow)])
def test_a_model_of_peaks_expects_no_genes(name, cells, query, tmp_path):
    mapped = map_cells(query, save_model(name, cells, tmp_path / "model"), tmp_path / "m", train=None)
    assert mapped.record["hshare"] is None and not MappedFolder(tmp_path / "m/mapped").decoded.exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["DRVI", "JointEmbeddingSCVI", "TOTALANVI", "CYTOVI"])
def test_other_classes(name, cells, tmp_path):
    surgery, card = prepared(save_model(name, cells, tmp_path / "model"))
    decoder = surgery.decoder(surgery.embed())
    if name == "CYTOVI":
        assert decoder is None
        return
    shares, dispersion = decoder.decode(np.arange(5), np.array([0, 1, 0, 1, 0]))
    assert shares.shape == (5, len(card["genes"])) and (shares > 0).all() and (dispersion > 0).all()
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
    assert decoder.weights.shape[1] == len(card["genes"])
