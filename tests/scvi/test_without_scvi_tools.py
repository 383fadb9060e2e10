"""What the engine does from the model's file to that of the grown model imports no scvi-tools; what it does not know does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mapping import map_cells, prepare, training_of
from refmap.common.cli import write_json
from refmap.families import by_name
from refmap.families.base import Settings
from refmap.families.scvi.engine.registry import Unserved
from refmap.families.scvi.engine.surgery import EngineSurgery
from refmap.families.scvi.loading import read_saved
from refmap.families.scvi.surgery import Surgery
from refmap.mapping.trial import made_up_query
from refmap.reference.inspection import inspect_model
from rows import ROW
from runs import ROOT
from small_models import save_model

DATA = Path("/work/shared/data/models")
# What scvi-tools brings; of torch, its compiler
HEAVY = ("scvi", "lightning", "torch._dynamo", "scanpy", "scipy.signal", "mudata", "pyro")
WATCHED = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("IMPORTED", *(name for name in {heavy} if name in sys.modules))
"""
COVARIATES = {"categorical_covariate_keys": ["chemistry"], "continuous_covariate_keys": ["age"]}


@pytest.fixture(scope="module")
def scanvi_covariates_model(cells, tmp_path_factory) -> Path:
    return save_model("SCANVI", cells, tmp_path_factory.mktemp("models") / "scanvi_covariates", COVARIATES)


def imported_by(command: str, **options: object) -> list[str]:
    """The heavy modules that a command imports, from Python's start to its end."""
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    code = WATCHED.format(heavy=HEAVY)
    told = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "bin" / command), *words],
        env=os.environ | {"PYTHONPATH": str(ROOT / "bin")},
        text=True,
        capture_output=True,
        timeout=300,
        check=True,
    )
    [line] = [line for line in told.stdout.splitlines() if line.startswith("IMPORTED")]
    return line.split()[1:]


@pytest.mark.parametrize("name", ["scvi_model", "scanvi_covariates_model"])
def test_a_mapping_by_the_engine_imports_no_scvi_tools(name, request, query, tmp_path):
    model = request.getfixturevalue(name)
    row = ROW | (COVARIATES if "covariates" in name else {})
    card, prepared = prepare(query, model, tmp_path / "prepared", row)
    write_json(tmp_path / "card.json", card)
    write_json(tmp_path / "training.json", training_of(row))
    of = {"model": model, "card": tmp_path / "card.json"}
    files = of | {"plan": prepared.plan, "prepared": prepared.folder, "training": tmp_path / "training.json"}
    assert imported_by("train_surgery.py", **files, output=tmp_path / "mapped", updated_model=tmp_path / "updated") == []
    train = json.loads((tmp_path / "mapped" / "mapping.json").read_text())["train"]
    assert (train["engine"], train["engine_reason"]) == ("refmap", None)
    assert imported_by("try_model.py", **of, output=tmp_path / "tried.json") == []
    assert json.loads((tmp_path / "tried.json").read_text())["fault"] is None


def test_cells_of_a_reference_are_embedded_without_scvi_tools(scanvi_model, cells, tmp_path):
    import scvi

    write_json(tmp_path / "card.json", inspect_model(scanvi_model, "atlas").to_json())
    aligned = cells.copy()
    aligned.var["found"] = True
    aligned.write_zarr(tmp_path / "aligned.zarr")
    files = {"aligned": tmp_path / "aligned.zarr", "model": scanvi_model, "card": tmp_path / "card.json"}
    assert imported_by("embed_reference.py", **files, output=tmp_path / "latent.npz") == []
    expected = scvi.model.SCANVI.load(str(scanvi_model), adata=cells.copy()).get_latent_representation()
    np.testing.assert_allclose(np.load(tmp_path / "latent.npz")["X_emb"], expected, atol=1e-5)


@pytest.mark.parametrize("engine", ["auto", "scvi"])
def test_the_next_mapping_stands_on_the_last_by_either_engine(engine, scanvi_covariates_model, query, cells, tmp_path):
    import scvi

    options = COVARIATES | {"labels_keys": ["bulk_labels"]}
    first = map_cells(query, scanvi_covariates_model, tmp_path / "first", **options)
    other = query.copy()
    other.obs["donor"], other.obs["chemistry"] = "d3", "v4"
    second = map_cells(other, first.model, tmp_path / "second", engine=engine, **options)
    assert [mapped.record["train"]["engine"] for mapped in (first, second)] == [
        "refmap",
        "refmap" if engine == "auto" else "scvi-tools",
    ]
    assert inspect_model(second.model).batches == ["ref_a", "ref_b", "d1", "d2", "d3"]
    latents = [
        scvi.model.SCANVI.load(str(model), adata=cells.copy()).get_latent_representation()
        for model in (scanvi_covariates_model, second.model)
    ]
    np.testing.assert_allclose(*latents, atol=2e-6)


@pytest.mark.parametrize("name", ["scvi_model", "scanvi_model"])
def test_both_ways_draw_the_same_random_numbers(name, request, query, tmp_path):
    """Of a mapping that trains nothing all is the same to rounding; the numbers that are drawn next are the same."""
    model, drawn, latents = request.getfixturevalue(name), [], []
    card = inspect_model(model, "atlas").to_json()
    for engine in ("auto", "scvi"):
        Surgery.seed(3)
        surgery = Surgery.prepare(model, made_up_query(card), card, Settings(seed=3, engine=engine))
        drawn.append(torch.rand(4))
        latents.append(surgery.embed())
    assert torch.equal(*drawn)
    np.testing.assert_allclose(*latents, atol=1e-6)


@pytest.mark.parametrize("folder", ["pancreas_scanvi_0.16", "heart_scvi_0.16"])
def test_published_models_of_old_versions_are_grown_as_by_scvi_tools(folder, tmp_path):
    if not (DATA / folder).exists():
        pytest.skip(f"{DATA / folder} is not here")
    card = inspect_model(DATA / folder, "atlas").to_json()
    found = {}
    for engine in ("auto", "scvi"):
        Surgery.seed(0)
        surgery = Surgery.prepare(DATA / folder, made_up_query(card, cells=30), card, Settings(engine=engine))
        assert isinstance(surgery, EngineSurgery) == (engine == "auto")
        latent = surgery.embed()
        found[engine] = latent, surgery.predict(), surgery.decoder(latent).decode(np.arange(9), None)[0]
        surgery.save(tmp_path / engine)
    (latent, labels, shares), (expected, expected_labels, expected_shares) = found.values()
    np.testing.assert_allclose(latent, expected, atol=1e-5)
    np.testing.assert_allclose(shares, expected_shares, atol=1e-6)
    assert list(labels) == list(expected_labels)
    for key, prediction in labels.items():
        assert prediction.classes == expected_labels[key].classes
        np.testing.assert_allclose(prediction.probabilities, expected_labels[key].probabilities, atol=1e-5)
    ours, theirs = (torch.load(tmp_path / engine / "model.pt", weights_only=False) for engine in found)
    assert list(ours["model_state_dict"]) == list(theirs["model_state_dict"])
    assert {name: of["attr_dict"]["registry_"].pop("_scvi_uuid") for name, of in (("ours", ours), ("theirs", theirs))}
    for name, values in theirs["model_state_dict"].items():
        assert name == "pyro_param_store" or torch.equal(ours["model_state_dict"][name], values)
    assert list(ours["attr_dict"]) == list(theirs["attr_dict"])
    assert repr(ours["attr_dict"]["registry_"]) == repr(theirs["attr_dict"]["registry_"])
    assert ours["attr_dict"]["init_params_"] == theirs["attr_dict"]["init_params_"]


def meddled(saved: dict, how: str) -> None:
    """Make an odd model of one."""
    registry, state = saved["attr_dict"]["registry_"], saved["model_state_dict"]
    if how == "setup":
        registry["setup_args"]["spatial_key"] = "spatial"
    elif how == "constructor":
        saved["attr_dict"]["init_params_"]["kwargs"]["kwargs"]["wings"] = 2
    elif how == "weights":
        state["z_encoder.mean_encoder.weight"] = state["z_encoder.mean_encoder.weight"][:, :-1]
    elif how == "version":
        registry["scvi_version"] = "none"
    elif how == "genes":
        saved["var_names"] = saved["var_names"][::-1].copy()


ODD = {
    "setup": "data set up with spatial_key",
    "constructor": "a model made with wings",
    "weights": "weights other than its settings tell",
    "version": "ValueError: ",
    "genes": "other genes than the query's",
}


@pytest.mark.parametrize(("how", "reason"), ODD.items(), ids=ODD)
def test_odd_models_are_left_to_scvi_tools(how, reason, scvi_model):
    card = inspect_model(scvi_model, "atlas").to_json()
    saved = read_saved(scvi_model, "SCVI", False)
    meddled(saved, how)
    with pytest.raises(Unserved, match=reason):
        EngineSurgery.of(saved, made_up_query(card), card, Settings())


def test_a_gpu_is_left_to_scvi_tools(scvi_model, monkeypatch):
    card = inspect_model(scvi_model, "atlas").to_json()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(Unserved, match="a GPU"):
        EngineSurgery.of(read_saved(scvi_model, "SCVI", False), made_up_query(card), card, Settings())


def test_a_model_of_before_0_15_is_grown_by_the_engine(legacy_model):
    card = inspect_model(legacy_model, "atlas").to_json()
    assert isinstance(Surgery.prepare(legacy_model, made_up_query(card), card, Settings()), EngineSurgery)


def test_what_a_task_of_several_mappings_imports_once(scvi_model, totalvi_model):
    scvi, totalvi = (inspect_model(model, "atlas").to_json() for model in (scvi_model, totalvi_model))
    training = training_of(ROW)
    imports = by_name("scvi").libraries
    assert imports(scvi, training) == imports(scvi, training | {"train": None}) == ["refmap.families.scvi.engine.surgery"]
    for card, settings in (
        (totalvi, training),
        (scvi | {"input": "any"}, training),
        (scvi, training | {"engine": "scvi"}),
        (scvi, training | {"train": {"max_epochs": 3, "plan_kwargs": {"optimizer": "AdamW"}}}),
    ):
        assert imports(card, settings) == ["scvi.external"]
