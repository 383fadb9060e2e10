"""What models of scArches expect of a query's counts is what their own decoders say, and the encoder is given what is said here."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from mapping import map_cells, train
from refmap.families import by_name
from refmap.families.base import Settings
from refmap.families.options import defaults
from refmap.families.scarches.loading import quietly
from refmap.mapping.decoded import SCALE, Decoded
from refmap.mapping.trial import made_up_query
from refmap.reference.inspection import inspect_model

TRAIN = {"max_epochs": 2, "early_stopping": False, "check_val_every_n_epoch": 1, "learning_rate": 0.01}


def with_chemistry(adata):
    adata = adata.copy()
    adata.obs["chemistry"] = pd.Categorical(["v2" if i % 3 else "v3" for i in range(adata.n_obs)])
    return adata


@pytest.fixture(scope="module")
def models(cells, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    gmt = folder / "programs.gmt"
    gmt.write_text("".join(f"P{k}\tmade up\t" + "\t".join(cells.var_names[50 * k : 50 * k + 60]) + "\n" for k in range(3)))
    two = {"reference_categorical_covariate_keys": "chemistry", "reference_options": "embedding_dim=3;n_hidden=16"}
    return {
        "trvae": train("trvae", cells, folder / "trvae"),
        "mse": train("trvae", cells, folder / "mse", reference_options="recon_loss=mse;use_mmd=false"),
        "expimap": train("expimap", cells, folder / "expimap", gmt=gmt),
        "scpoli": train("scpoli", with_chemistry(cells), folder / "scpoli", **two),
    }


def library_model(folder, adata):
    """The model as the library itself loads it, its network in evaluation."""
    from scarches import models

    kind = {"trvae": "TRVAE", "expimap": "EXPIMAP", "scpoli": "scPoli"}[inspect_model(folder).family]
    with quietly():
        model = getattr(models, kind).load(str(folder), adata=adata.copy(), map_location="cpu")
    model.model.eval()
    return model


def expected_by_library(folder, aligned, latent) -> np.ndarray:
    """What the library's decoder says of a latent, each cell in its own batch: cells x genes."""
    model, z = library_model(folder, aligned), torch.tensor(latent)
    network = model.model
    with torch.no_grad():
        if hasattr(network, "embeddings"):
            given = []
            for key, embedding in zip(model.condition_keys_, network.embeddings):
                codes = [model.conditions_[key].index(value) for value in aligned.obs[key]]
                given.append(embedding.weight[codes])
            return network.decoder(z, torch.cat(given, dim=1))[0].numpy()
        codes = [model.conditions_.index(value) for value in aligned.obs[model.condition_key_]]
        return network.decoder(z, torch.tensor(codes))[0].numpy()


@pytest.mark.parametrize("name", ["trvae", "expimap", "scpoli"])
def test_proportions_are_those_of_the_library(name, models, query, tmp_path):
    row = {"categorical_covariate_keys": ["chemistry"]} if name == "scpoli" else {}
    mapped = map_cells(with_chemistry(query), models[name], tmp_path / "m", train=TRAIN, **row)
    decoded, aligned = Decoded.read(mapped.folder.decoded), ad.read_zarr(mapped.aligned)
    found = aligned.var["found"].to_numpy()
    assert (decoded.cells == np.arange(query.n_obs)).all() and (decoded.genes == np.flatnonzero(found)).all()
    assert 0 < found.sum() < len(found) and 0 < mapped.record["hshare"] < 1
    wanted = expected_by_library(mapped.model, aligned, mapped.latent)
    wanted = SCALE * wanted / wanted.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(decoded.proportions, wanted[:, found], rtol=2e-3, atol=1e-5)


def test_a_model_of_log_normalised_values_expects_no_counts(models, query, tmp_path):
    mapped = map_cells(query, models["mse"], tmp_path / "m", train=None)
    assert mapped.record["hshare"] is None and not mapped.folder.decoded.exists()


@pytest.mark.parametrize("name", ["trvae", "expimap", "scpoli"])
def test_the_encoders_first_layer_and_the_references_batches(name, models):
    card = inspect_model(models[name], "atlas").to_json()
    settings = Settings(options=defaults(card["options"]), seed=0)
    surgery = by_name(card["family"]).surgery().prepare(models[name], made_up_query(card, cells=20), card, settings)
    decoder, network = surgery.decoder(surgery.embed()), surgery.model.model
    assert decoder.weights.shape[1] == len(card["genes"]) and decoder.n_batches == 2
    given = []
    handle = network.encoder.FC.L0.register_forward_hook(lambda _layer, _given, units: given.append(units.detach().numpy()))
    surgery.query.X = surgery.query.X * 3
    with quietly():
        surgery.model.get_latent(surgery.query, mean=True) if name == "scpoli" else surgery.model.get_latent(mean=True)
    handle.remove()
    counts = surgery.model.adata.X if name != "scpoli" else surgery.query.X
    units = decoder.enters(counts.toarray()) @ decoder.weights.T
    # But for the bias and what the cells' one batch adds.
    np.testing.assert_allclose(units - units.mean(axis=0), given[0] - given[0].mean(axis=0), rtol=1e-3, atol=1e-4)

    chosen, batches = np.array([3, 3, 7]), np.array([1, 0, 1])
    shares, dispersion = decoder.decode(chosen, batches)
    assert shares.shape == (3, len(card["genes"])) and np.abs(shares[0] - shares[1]).max() > 1e-6
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
    theta = torch.load(models[name] / "model_params.pt", weights_only=True)["theta"].numpy()
    if name == "scpoli":
        np.testing.assert_allclose(dispersion, np.exp(theta.mean(axis=1)), rtol=1e-5)
    else:
        np.testing.assert_allclose(dispersion, np.exp(theta[:, batches].T), rtol=1e-5)
