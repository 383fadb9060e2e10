"""The card of a model that scvi-tools saved says what the model itself says once it is loaded."""

import pickle

import numpy as np
import pytest
from refmap.families.scvi.card import CLASSES
from refmap.models.pickles import Tensor, read_torch
from refmap.reference.inspection import inspect_model
from small_models import RECIPES, input_of, model_class, new_model, save_model


@pytest.fixture(scope="session")
def saved(cells, tmp_path_factory):
    """The folder of a small model of a class, trained once."""
    folders = {}

    def save(name):
        if name not in folders:
            folders[name] = save_model(name, cells, tmp_path_factory.mktemp("cards") / name)
        return folders[name]

    return save


def test_every_class_that_can_be_mapped_onto_has_a_recipe():
    several = {"MULTIVI", "METHYLVI", "METHYLANVI"}  # see test_multimodal.py
    assert {name for name, kind in CLASSES.items() if not kind.unfit} <= set(RECIPES) | several


def test_every_class_with_surgery_is_in_the_table():
    """And none that scvi-tools does not have."""
    import scvi

    there = {
        name
        for module in (scvi.model, scvi.external)
        for name in module.__all__
        if hasattr(getattr(module, name), "load_query_data")
    }
    assert there == set(CLASSES)


@pytest.mark.parametrize("name", RECIPES)
def test_the_card_says_what_the_loaded_model_says(saved, cells, name):
    card = inspect_model(saved(name), name)
    model = model_class(name).load(str(saved(name)), adata=input_of(name, registered(cells)))

    assert (card.family, card.class_name, card.version) == ("scvi", name, model.registry_["scvi_version"])
    assert card.genes == list(model.get_var_names()) == list(cells.var_names)
    assert (card.batch_key, card.batches) == ("batch", ["ref_a", "ref_b"])
    assert card.n_latent == model.get_latent_representation().shape[1]
    assert card.surgery_ready == (getattr(model.module, "encode_covariates", None) is True)
    assert bool(card.fault) == bool(CLASSES[name].unfit)
    assert [warning.split(":")[0] for warning in card.warnings] == [
        "SysVI is a SysVI, which takes no new batches, and without categorical covariates"
    ] * (name == "SysVI")
    minified = getattr(model, "_LATENT_QZM_KEY", None)
    assert card.minified_as == (minified and minified.removesuffix("_latent_qzm"))
    if card.predicts:
        assert card.labels == {"bulk_labels": list(model.predict(soft=True).columns)}
        assert card.unlabeled_category == model.unlabeled_category_
    else:
        assert (card.labels, card.unlabeled_category) == ({}, None)
    if "protein_expression_obsm_key" in RECIPES[name][0]:
        assert card.protein_key == "protein_expression"
        assert card.proteins == list(cells.obsm["protein_expression"].columns)
    else:
        assert (card.protein_key, card.proteins) == (None, [])


def registered(cells):
    """MRVI wants the index of each cell where data is not set up anew."""
    cells = cells.copy()
    cells.obs["_indices"] = np.arange(cells.n_obs)
    return cells


@pytest.mark.parametrize("name", RECIPES)
def test_nothing_of_a_real_model_is_refused_and_its_weights_have_their_shapes(saved, name):
    import torch

    contents = read_torch(saved(name) / "model.pt")
    assert contents.refused == []
    weights = torch.load(saved(name) / "model.pt", map_location="cpu", weights_only=False)["model_state_dict"]
    shapes = {key: tuple(weight.shape) for key, weight in weights.items() if isinstance(weight, torch.Tensor)}
    inert = contents.value["model_state_dict"]
    assert {key: weight.shape for key, weight in inert.items() if isinstance(weight, Tensor)} == shapes
    assert len(shapes) > 5


@pytest.mark.parametrize("zipped", [True, False])
def test_both_formats_of_torch(tmp_path, zipped):
    import torch

    value = {"w": torch.zeros(3, 4), "b": torch.nn.Parameter(torch.ones(2)), "i": torch.arange(5), "of": torch.float32}
    torch.save(value, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    contents = read_torch(tmp_path / "x.pt")
    assert contents.refused == []
    assert [contents.value[key] for key in "wbi"] == [Tensor("Float", (3, 4)), Tensor("Float", (2,)), Tensor("Long", (5,))]
    assert str(contents.value["of"]) == "torch.float32"


def test_tensors_pickled_by_pickle_itself_are_described(tmp_path):
    """It writes a tensor's storage as bytes that are unpickled in their turn, and looked into here."""
    import torch

    (tmp_path / "x.pt").write_bytes(pickle.dumps(torch.zeros(2)))
    contents = read_torch(tmp_path / "x.pt")
    assert (contents.refused, contents.value) == ([], Tensor("Float", (2,)))


def test_covariates(scvi_covariates_model):
    card = inspect_model(scvi_covariates_model)
    assert card.categorical_covariates == {"chemistry": ["v2", "v3"]}
    assert card.continuous_covariates == ["age"]
    assert card.surgery_ready and card.fault is None


def test_a_reference_whose_encoder_never_saw_the_batch(scvi_no_covariates_model):
    card = inspect_model(scvi_no_covariates_model, "atlas")
    assert not card.surgery_ready
    assert "atlas was trained without encode_covariates=True" in card.warnings[0]


def test_the_old_three_files_say_the_same(legacy_model, scvi_model):
    old, new = inspect_model(legacy_model), inspect_model(scvi_model)
    assert old.fault is None
    ignored = {"model", "sha256", "globals"}
    assert {k: v for k, v in old.to_json().items() if k not in ignored} == {
        k: v for k, v in new.to_json().items() if k not in ignored
    }


def test_layers_size_factors_and_labels_without_an_unlabeled_one(cells, tmp_path):
    adata = cells.copy()
    adata.layers["counts"] = adata.X.copy()
    adata.obs["size"] = np.asarray(adata.X.sum(axis=1)).ravel()
    setup = {"layer": "counts", "size_factor_key": "size", "labels_key": "bulk_labels"}
    card = inspect_model(save_model("SCVI", adata, tmp_path / "m", setup))
    assert (card.layer, card.size_factor_key, list(card.labels)) == ("counts", "size", ["bulk_labels"])
    assert card.unlabeled_category is None and "Unknown" in card.labels["bulk_labels"] and len(card.labels["bulk_labels"]) == 11


def test_a_model_saved_with_its_minified_data(cells, tmp_path):
    model = new_model("SCVI", cells)
    mean, variance = model.get_latent_representation(return_dist=True)
    model.adata.obsm.update({"X_latent_qzm": mean, "X_latent_qzv": variance})
    model.minify_adata()
    model.save(str(tmp_path / "m"), save_anndata=True)
    assert (tmp_path / "m" / "adata.h5ad").exists()
    card = inspect_model(tmp_path / "m")
    assert (card.fault, card.genes, card.surgery_ready) == (None, list(cells.var_names), True)


def test_an_scanvi_made_from_an_scvi(cells, tmp_path):
    import scvi

    unlabeled = {"unlabeled_category": "Unknown", "labels_key": "bulk_labels"}
    model = scvi.model.SCANVI.from_scvi_model(new_model("SCVI", cells), **unlabeled)
    model.save(str(tmp_path / "m"))
    card = inspect_model(tmp_path / "m")
    assert (card.class_name, card.predicts, card.surgery_ready, card.n_latent) == ("SCANVI", True, True, 5)
    assert len(card.labels["bulk_labels"]) == 10 and card.unlabeled_category == "Unknown"
