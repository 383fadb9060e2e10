"""A model is tried before any query is looked at: what would fail every mapping onto it is told in one sentence."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import scvi
import torch
from mapping import prepare
from refmap.common.exhaustion import NO_MEMORY, Exhausted, MachineFault
from refmap.families.scvi import surgery
from refmap.families.scvi.engine import surgery as engine
from refmap.mapping.trial import made_up_query, try_model
from refmap.reference.inspection import inspect_model
from rows import ROW


def tried(model, spoil=lambda saved: None, folder=None) -> str | None:
    """The fault of a model, after what `spoil` did to a copy of it in `folder`."""
    if folder:
        saved = torch.load(model / "model.pt", map_location="cpu", weights_only=False)
        spoil(saved)
        folder.mkdir()
        torch.save(saved, folder / "model.pt")
    card = inspect_model(folder or model, "atlas").to_json()
    assert card["fault"] is None
    answer = try_model(folder or model, card)
    assert answer == card | {"fault": answer["fault"]}
    return answer["fault"]


MODELS = ("scvi_model", "scvi_covariates_model", "scvi_no_covariates_model", "scanvi_model", "totalvi_model", "legacy_model")


@pytest.mark.parametrize("name", MODELS)
def test_a_sound_model_has_no_fault(name, request):
    assert tried(request.getfixturevalue(name)) is None


@pytest.mark.parametrize("name", ["scvi_covariates_model", "totalvi_model"])
def test_made_up_cells_are_of_the_form_of_an_aligned_query(name, query, tmp_path, request):
    keys = {"categorical_covariate_keys": ["chemistry"], "continuous_covariate_keys": ["age"]}
    row = ROW | (keys if name == "scvi_covariates_model" else {"protein_key": "protein_expression"})
    card, prepared = prepare(query, request.getfixturevalue(name), tmp_path / "prepared", row)
    aligned, made_up = ad.read_zarr(prepared.aligned), made_up_query(card)
    assert list(made_up.var_names) == list(aligned.var_names)
    assert (
        made_up.obs.dtypes.map(lambda dtype: dtype.kind).to_dict() == aligned.obs.dtypes.map(lambda dtype: dtype.kind).to_dict()
    )
    assert (type(made_up.X), made_up.X.dtype) == (type(aligned.X), aligned.X.dtype)
    assert {key: list(values) for key, values in made_up.obsm.items()} == {
        key: list(values) for key, values in aligned.obsm.items()
    }
    assert set(made_up.uns) == set(aligned.uns)


def test_weights_that_are_missing_are_the_models_fault(scvi_model, tmp_path):
    fault = tried(scvi_model, lambda saved: saved["model_state_dict"].pop("z_encoder.mean_encoder.weight"), tmp_path / "model")
    assert fault.startswith("scvi-tools could not load the SCVI 'atlas'") and "z_encoder.mean_encoder.weight" in fault


def test_what_a_library_raises_is_told_with_the_versions(totalvi_model, monkeypatch):
    monkeypatch.setattr(scvi.model.TOTALVI, "get_latent_representation", lambda _model: np.linalg.inv(np.zeros((2, 2))))
    fault = tried(totalvi_model)
    assert fault.startswith(
        "The TOTALVI 'atlas' cannot be mapped onto: tried with 8 made-up cells, it ended with LinAlgError: Singular matrix"
    )
    assert f"It was saved by version {scvi.__version__} and is read here by scvi-tools {scvi.__version__}" in fault


def test_what_refmap_raises_is_a_defect_of_refmap(scvi_model, monkeypatch):
    monkeypatch.setattr(engine, "growth_of", engine.category_sizes)
    assert "This is a defect of refmap" in tried(scvi_model)


def test_a_model_that_is_another_once_saved_is_told(scvi_model, monkeypatch):
    save = engine.EngineSurgery.save

    def forgetful(self, folder):
        with torch.no_grad():
            self.model.module.z_encoder.mean_encoder.bias += 1
        save(self, folder)

    monkeypatch.setattr(engine.EngineSurgery, "save", forgetful)
    assert "embeds cells elsewhere once it was saved" in tried(scvi_model)


def test_a_machine_that_cannot_train_is_told_and_one_without_memory_tried_again(totalvi_model, monkeypatch):
    def ended(error):
        def check():
            raise error

        return check

    monkeypatch.setattr(surgery, "check_machine", ended(MachineFault("No training in this job.")))
    assert tried(totalvi_model) == "No training in this job."
    monkeypatch.setattr(surgery, "check_machine", ended(Exhausted("Too little memory.", NO_MEMORY)))
    with pytest.raises(Exhausted, match="Too little memory"):
        tried(totalvi_model)


def test_memory_that_runs_out_within_a_library_is_no_fault_of_the_model(totalvi_model, monkeypatch):
    def allocate(_model):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")

    monkeypatch.setattr(scvi.model.TOTALVI, "get_latent_representation", allocate)
    with pytest.raises(Exhausted) as raised:
        tried(totalvi_model)
    assert raised.value.status == NO_MEMORY
