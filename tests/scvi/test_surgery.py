"""Surgery on real models of scvi-tools: what moves, what may not, and what comes out."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from mapping import map_cells, prepare, training_of
from refmap.common.errors import RefmapError
from refmap.common.folders import MappedFolder
from refmap.mapping.mapping import map_query
from refmap.mapping.trial import try_model
from refmap.query.checks import check
from refmap.reference.inspection import inspect_model
from refmap.reference.training import train_reference
from rows import ROW
from small_models import input_of, model_class, save_model


def latent_of(name: str, model: Path, adata) -> np.ndarray:
    """What scvi-tools itself says of these cells, loading the model afresh."""
    return np.asarray(model_class(name).load(str(model), adata=adata.copy()).get_latent_representation())


def reconstruction_of(name: str, model: Path, adata) -> float:
    """How well the model reproduces these cells: moves with any weight of the decoder, which the latent does not see."""
    import scvi

    loaded = model_class(name).load(str(model), adata=adata.copy())
    scvi.settings.seed = 0
    return {key: float(value) for key, value in loaded.get_reconstruction_error().items()}


def assert_unmoved(name: str, model: Path, updated: Path, adata) -> None:
    """The cells of the reference have the same latent and are reproduced the same by both models."""
    np.testing.assert_allclose(latent_of(name, updated, adata), latent_of(name, model, adata), atol=2e-6)
    before, after = (reconstruction_of(name, folder, adata) for folder in (model, updated))
    assert after == pytest.approx(before, rel=1e-5)


SHORT = {"max_epochs": 3, "early_stopping": False, "check_val_every_n_epoch": 1}
CLASSES = ["SCVI", "SCANVI", "TOTALVI"]
MORE_CLASSES = ["TOTALANVI", "PEAKVI", "POISSONVI", "DRVI", "JointEmbeddingSCVI", "CYTOVI"]


@pytest.mark.parametrize("name", [*CLASSES, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE_CLASSES)])
def test_the_reference_stays_and_the_query_moves(name, cells, query, tmp_path):
    model = save_model(name, cells, tmp_path / "model")
    card = inspect_model(model, "atlas").to_json()
    assert try_model(model, card) == card
    options = {"protein_key": "protein_expression"} if name.startswith("TOTAL") else {}
    settings = {"max_epochs": 3, "early_stopping": False, "check_val_every_n_epoch": 1, "learning_rate": 0.01}

    untrained = map_cells(input_of(name, query), model, tmp_path / "untrained", train=None, **options)
    first = map_cells(input_of(name, query), model, tmp_path / "first", train=settings, **options)
    assert first.latent.shape == (query.n_obs, 5)
    assert list(first.embedding.obs_names) == list(query.obs_names)
    assert np.abs(first.latent - untrained.latent).max() > 1e-4
    assert_unmoved(name, model, first.model, input_of(name, cells))
    assert first.record["frozen_sha256_before"] == first.record["frozen_sha256_after"]
    assert 0 < first.record["parameters_trainable"] < 0.05 * first.record["parameters_total"]

    # The updated model is a reference for the next mapping, and gives the same embedding when loaded afresh.
    np.testing.assert_allclose(latent_of(name, first.model, ad.read_zarr(first.aligned)), first.latent, atol=2e-6)
    second = map_cells(input_of(name, query), first.model, tmp_path / "second", train=settings, **options)
    assert second.record["batches"]["renamed"] == {"d1": "d1@lung.donor_1", "d2": "d2@lung.donor_1"}
    assert_unmoved(name, model, second.model, input_of(name, cells))


def test_no_weight_of_the_reference_moves(scvi_model, query, tmp_path):
    """Told apart without the hashes: tensor by tensor of the two files."""
    import torch

    mapped = map_cells(query, scvi_model, tmp_path / "m")
    old, new = (_tensors(folder) for folder in (scvi_model, mapped.model))
    weights = {name for name in old if old[name].shape != new[name].shape and not name.startswith("l_encoder")}
    # Two new batches: two columns more wherever the batch goes in, and nothing else.
    assert weights == {"z_encoder.encoder.fc_layers.Layer 0.0.weight", "decoder.px_decoder.fc_layers.Layer 0.0.weight"}
    assert all(new[name].shape == (128, old[name].shape[1] + 2) for name in weights)
    for name, tensor in old.items():
        assert torch.equal(new[name][tuple(slice(0, n) for n in tensor.shape)], tensor), name
    assert mapped.record["parameters_trainable"] == 2 * 2 * 128


def _tensors(folder: Path) -> dict:
    import torch

    state = torch.load(folder / "model.pt", weights_only=False)["model_state_dict"]
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


@pytest.mark.parametrize("known", [True, False], ids=["known level", "new level"])
def test_covariates_beside_the_batch_do_not_move_the_reference(known, scvi_covariates_model, cells, query, tmp_path):
    """scvi-tools alone shifts the covariates' columns here."""
    adata = query.copy()
    adata.obs["chemistry"] = "v2" if known else "v4"
    mapped = map_cells(
        adata,
        scvi_covariates_model,
        tmp_path / "m",
        categorical_covariate_keys=["chemistry"],
        continuous_covariate_keys=["age"],
        train={"max_epochs": 3, "early_stopping": False, "check_val_every_n_epoch": 1, "learning_rate": 0.05},
    )
    assert_unmoved("SCVI", scvi_covariates_model, mapped.model, cells)
    assert mapped.record["parameters_trainable"] == (2 if known else 3) * (128 + 128)


def test_a_reference_of_one_batch_stays(cells, query, tmp_path):
    """scvi-tools alone gives its only batch a column of random numbers here."""
    cells = cells.copy()
    cells.obs["batch"] = "only"
    model = save_model("SCVI", cells, tmp_path / "model", settings={"n_layers": 2})
    mapped = map_cells(query, model, tmp_path / "m")
    assert_unmoved("SCVI", model, mapped.model, cells)


def test_a_batch_named_as_one_of_the_reference_is_told_from_it(scvi_model, cells, query, tmp_path):
    adata = query.copy()
    adata.obs["donor"] = "ref_a"
    mapped = map_cells(adata, scvi_model, tmp_path / "m")
    assert mapped.record["batches"] == {
        "reference": 2,
        "query": 1,
        "new": ["ref_a@lung.donor_1"],
        "renamed": {"ref_a": "ref_a@lung.donor_1"},
    }
    assert_unmoved("SCVI", scvi_model, mapped.model, cells)


def test_one_batch_makes_one_of_all_donors(scvi_model, query, tmp_path):
    mapped = map_cells(query, scvi_model, tmp_path / "m", one_batch=True)
    assert mapped.record["batches"]["new"] == ["lung.donor_1"]
    assert mapped.record["parameters_trainable"] == 128 + 128


def test_an_encoder_that_never_saw_the_batch_cannot_move_the_query(scvi_no_covariates_model, query, tmp_path):
    untrained = map_cells(query, scvi_no_covariates_model, tmp_path / "a", train=None)
    trained = map_cells(query, scvi_no_covariates_model, tmp_path / "b")
    np.testing.assert_allclose(trained.latent, untrained.latent, atol=2e-6)
    assert any("encode_covariates" in sentence for sentence in trained.record["warnings"])


def test_padding_is_what_scvi_tools_would_have_done(scvi_model, query, tmp_path):
    """A query with half the genes, shuffled: the same latent as the library's own preparation, before any training."""
    half = query[:, query.var_names[::2]].copy()
    mapped = map_cells(half, scvi_model, tmp_path / "m", train=None, seed=3)
    theirs = half.copy()
    theirs.obs["batch"] = theirs.obs["donor"]
    model_class("SCVI").prepare_query_anndata(theirs, str(scvi_model))
    # The batch's columns start at random: compare through the model that holds them.
    model = model_class("SCVI").load(str(mapped.model), adata=theirs)
    np.testing.assert_allclose(model.get_latent_representation(), mapped.latent, atol=2e-6)


def test_predictions_are_the_models_own(scanvi_model, query, tmp_path):
    mapped = map_cells(query, scanvi_model, tmp_path / "m")
    model = model_class("SCANVI").load(str(mapped.model), adata=ad.read_zarr(mapped.aligned))
    expected = model.predict(soft=True)
    obs, classes = mapped.embedding.obs, list(mapped.embedding.uns["bulk_labels_classes"])
    assert classes == list(expected.columns) and "Unknown" not in classes
    np.testing.assert_allclose(mapped.embedding.obsm["bulk_labels_probabilities"], expected, atol=1e-5)
    assert list(obs["bulk_labels_predicted"]) == list(expected.idxmax(axis=1))
    np.testing.assert_allclose(obs["bulk_labels_predicted_probability"], expected.max(axis=1), atol=1e-5)
    np.testing.assert_allclose(obs["bulk_labels_predicted_uncertainty"], 1 - expected.max(axis=1), atol=1e-5)
    assert sum(mapped.record["predictions"]["bulk_labels"]["counts"].values()) == query.n_obs


def test_labels_that_the_model_does_not_know_add_no_class(scanvi_model, query, tmp_path):
    adata = query.copy()
    adata.obs["type"] = ["Dendritic" if i % 2 else "Martian" for i in range(adata.n_obs)]
    mapped = map_cells(adata, scanvi_model, tmp_path / "m", labels_keys=["type"])
    assert "Martian" not in mapped.embedding.uns["bulk_labels_classes"]
    assert any("Martian" in sentence for sentence in mapped.record["warnings"])


def test_missing_proteins_are_masked_and_not_zero(totalvi_model, query, tmp_path):
    adata = query.copy()
    proteins = adata.obsm["protein_expression"]
    adata.obsm["protein_expression"] = proteins.iloc[:, ::-1].drop(columns=proteins.columns[:2])
    mapped = map_cells(adata, totalvi_model, tmp_path / "m", protein_key="protein_expression")
    model = model_class("TOTALVI").load(str(mapped.model), adata=ad.read_zarr(mapped.aligned))
    masks = model.adata_manager.get_state_registry("proteins")["protein_batch_mask"]
    query_batches = sorted(masks)[-2:]
    for batch in query_batches:
        assert list(masks[batch][:2]) == [False, False] and masks[batch][2:].all()
    assert any(proteins.columns[0] in sentence for sentence in mapped.record["warnings"])


def test_a_totalvi_set_up_from_a_mudata(cells, query, tmp_path):
    """The way its tutorial recommends; the query is an AnnData all the same."""
    from mudata import MuData
    from scvi.model import TOTALVI

    genes = ad.AnnData(cells.X, obs=cells.obs[["batch"]], var=cells.var[[]])
    proteins = cells.obsm["protein_expression"]
    proteins = ad.AnnData(proteins.to_numpy(), obs=cells.obs[["batch"]], var=pd.DataFrame(index=proteins.columns))
    reference = MuData({"rna": genes, "adt": proteins})
    modalities = {"rna_layer": "rna", "protein_layer": "adt", "batch_key": "rna"}
    TOTALVI.setup_mudata(reference, rna_layer=None, protein_layer=None, batch_key="batch", modalities=modalities)
    model = TOTALVI(reference, n_latent=5, use_layer_norm="both", use_batch_norm="none")
    model.train(max_epochs=1, enable_progress_bar=False)
    model.save(str(tmp_path / "model"))
    before = model.get_latent_representation()

    card = inspect_model(tmp_path / "model")
    assert (card.fault, card.batch_key, card.protein_key) == (None, "batch", "adt")
    assert card.genes == list(cells.var_names) and card.proteins == list(proteins.var_names)
    first = map_cells(query, tmp_path / "model", tmp_path / "first", protein_key="protein_expression")
    assert first.latent.shape == (query.n_obs, 5)
    np.testing.assert_allclose(latent_of("TOTALVI", first.model, reference), before, atol=2e-6)
    second = map_cells(query, first.model, tmp_path / "second", protein_key="protein_expression")
    np.testing.assert_allclose(latent_of("TOTALVI", second.model, reference), before, atol=2e-6)


def test_sysvi_keeps_its_systems_and_learns_new_covariates(cells, query, tmp_path):
    model = save_model("SysVI", cells, tmp_path / "model", setup={"categorical_covariate_keys": ["chemistry"]})
    cells = input_of("SysVI", cells)
    before = latent_of("SysVI", model, cells)
    adata = input_of("SysVI", query)
    adata.obs["system"] = adata.obs["batch"]
    adata.obs["chemistry"] = ["v2" if i % 2 else "v4" for i in range(adata.n_obs)]
    options = {"batch_key": "system", "categorical_covariate_keys": ["chemistry"]}
    mapped = map_cells(adata, model, tmp_path / "m", **options)
    assert mapped.record["batches"]["new"] == [] and mapped.record["batches"]["renamed"] == {}
    assert mapped.record["parameters_trainable"] > 0
    np.testing.assert_allclose(latent_of("SysVI", mapped.model, cells), before, atol=2e-6)

    row = ROW | options | {"batch_key": "donor"}
    faults = check(tmp_path / "m" / "prepared.h5ad", row, inspect_model(model, "atlas").to_json())["faults"]
    assert len(faults) == 1 and "'d1', 'd2' in batch column 'donor'" in faults[0] and "'ref_a', 'ref_b'" in faults[0]


@pytest.mark.parametrize("column", ["batch", "chemistry", "bulk_labels"])
def test_categories_that_are_numbers(column, cells, query, tmp_path):
    """Batches 1, 2, 3 are numbers in the model's registry and text in a query."""
    numbered, adata = cells.copy(), query.copy()
    codes = {value: number for number, value in enumerate(sorted(set(cells.obs[column]) - {"Unknown"}))}
    numbered.obs[column] = numbered.obs[column].astype(str).map(codes).fillna(-1).astype(int)
    adata.obs[column] = adata.obs[column].astype(str).map(codes).fillna(-1).astype(int)
    setup = {"categorical_covariate_keys": ["chemistry"]}
    model = save_model(
        "SCANVI", numbered, tmp_path / "model", setup | {"unlabeled_category": -1 if column == "bulk_labels" else "Unknown"}
    )
    options = {"categorical_covariate_keys": ["chemistry"], "batch_key": "batch", "labels_keys": ["bulk_labels"]}
    mapped = map_cells(adata, model, tmp_path / "m", **options)
    assert mapped.latent.shape == (query.n_obs, 5)
    text = numbered.copy()
    text.obs[column] = text.obs[column].astype(str)
    np.testing.assert_allclose(latent_of("SCANVI", mapped.model, text), latent_of("SCANVI", model, numbered), atol=2e-6)


def test_a_model_in_the_old_files_maps_as_the_new_one(legacy_model, scvi_model, query, tmp_path):
    old = map_cells(query, legacy_model, tmp_path / "old")
    new = map_cells(query, scvi_model, tmp_path / "new")
    np.testing.assert_allclose(old.latent, new.latent, atol=2e-6)


def test_a_totalvi_from_before_the_batch_efficiency_maps(totalvi_model, query, tmp_path):
    import torch

    saved = torch.load(totalvi_model / "model.pt", weights_only=False)
    del saved["model_state_dict"]["log_per_batch_efficiency"]
    (tmp_path / "model").mkdir()
    torch.save(saved, tmp_path / "model" / "model.pt")
    mapped = map_cells(query, tmp_path / "model", tmp_path / "m", protein_key="protein_expression")
    assert np.isfinite(mapped.latent).all()


def resaved(model: Path, folder: Path, version: str) -> Path:
    """The same model as if that version of scvi-tools had saved it."""
    import torch

    saved = torch.load(model / "model.pt", weights_only=False)
    saved["attr_dict"]["registry_"]["scvi_version"] = version
    folder.mkdir()
    torch.save(saved, folder / "model.pt")
    return folder


@pytest.mark.parametrize(("name", "version"), [("TOTALVI", "1.1.5"), ("SCANVI", "1.0.4")])
def test_what_the_library_mends_of_older_models_as_it_loads_them_is_mended(name, version, cells, query, tmp_path, request):
    """Before 1.2 totalVI had another background of proteins, and before 1.1 scANVI another loss."""
    recent = request.getfixturevalue(f"{name.lower()}_model")
    model = resaved(recent, tmp_path / "model", version)
    options = {"protein_key": "protein_expression"} if name == "TOTALVI" else {}
    first = map_cells(query, model, tmp_path / "first", **options)
    assert_unmoved(name, model, first.model, cells)
    assert inspect_model(first.model).version == version  # so that the next to load it mends it, too
    second = map_cells(query, first.model, tmp_path / "second", **options)
    assert_unmoved(name, model, second.model, cells)
    changed, same = (reconstruction_of(name, folder, cells) for folder in (recent, model))
    assert (changed != same) == (name == "TOTALVI")
    classifier = getattr(model_class(name).load(str(second.model), adata=cells.copy()).module, "classifier", None)
    assert name == "TOTALVI" or not classifier.logits


@pytest.mark.parametrize("named", [True, False])
def test_proteins_of_an_array(named, cells, query, tmp_path):
    """Their names lie in uns, or they have none but their numbers: an array in the model's registry either way."""
    reference, adata = cells.copy(), query.copy()
    proteins = reference.obsm["protein_expression"]
    if named:
        reference.uns["names"] = np.array(proteins.columns, dtype=object)
    else:
        adata.obsm["protein_expression"].columns = [str(number) for number in range(proteins.shape[1])]
    reference.obsm["protein_expression"] = proteins.to_numpy()
    model = save_model("TOTALVI", reference, tmp_path / "model", {"protein_names_uns_key": "names"} if named else {})
    assert inspect_model(model).proteins == list(adata.obsm["protein_expression"].columns)
    mapped = map_cells(adata, model, tmp_path / "m", protein_key="protein_expression")
    assert_unmoved("TOTALVI", model, mapped.model, reference)
    again = map_cells(adata, mapped.model, tmp_path / "again", protein_key="protein_expression")
    assert np.isfinite(again.latent).all()


def test_the_seed_decides(scvi_model, query, tmp_path):
    one, same, other = (
        map_cells(query, scvi_model, tmp_path / name, seed=seed) for name, seed in zip("abc", (5, 5, 6), strict=True)
    )
    np.testing.assert_array_equal(one.latent, same.latent)
    assert np.abs(one.latent - other.latent).max() > 1e-5


def test_inference_only_trains_nothing(scvi_model, query, tmp_path):
    mapped = map_cells(query, scvi_model, tmp_path / "m", train=None)
    assert mapped.record["train"] is None
    assert len(mapped.history) == 0
    # New batches start as the mean of the reference's: no random number has a say.
    other = map_cells(query, scvi_model, tmp_path / "other", train=None, seed=1)
    np.testing.assert_array_equal(other.latent, mapped.latent)


def test_one_line_an_epoch_and_the_device(scvi_model, query, tmp_path, capsys):
    mapped = map_cells(query, scvi_model, tmp_path / "m")
    lines = capsys.readouterr().out.splitlines()
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert [line.split()[1] for line in epochs] == ["1/3", "2/3", "3/3"]
    assert all("elbo_train" in line for line in epochs)
    assert any(line.startswith(f"SCVI on {mapped.record['device']}: {query.n_obs} cells") for line in lines)
    # The history is the surgery's own and not the reference's with the surgery's behind it.
    assert list(mapped.history.index) == [1, 2, 3]
    assert mapped.history["elbo_validation"].notna().all()


def test_early_stopping_stops(scvi_model, query, tmp_path):
    settings = {"max_epochs": 50, "early_stopping": True, "check_val_every_n_epoch": 1}
    settings |= {"early_stopping_patience": 1, "early_stopping_min_delta": 1e6}
    mapped = map_cells(query, scvi_model, tmp_path / "m", train=settings)
    assert mapped.record["train"]["stopped_early"] and mapped.record["train"]["epochs"] < 5


@pytest.mark.parametrize("n_cells", [1, 10])
def test_a_handful_of_cells(n_cells, scanvi_model, query, tmp_path):
    mapped = map_cells(query[:n_cells].copy(), scanvi_model, tmp_path / "m")
    assert mapped.latent.shape == (n_cells, 5)
    assert mapped.record["train"]["epochs"] == 3
    assert any("no validation set" in sentence for sentence in mapped.record["warnings"])


def test_training_that_diverges_is_said(scvi_model, query, tmp_path):
    settings = {"max_epochs": 5, "early_stopping": False, "check_val_every_n_epoch": 1, "learning_rate": 1e30}
    with pytest.raises(RefmapError, match="Training diverged in epoch [1-5]: .* Lower learning_rate"):
        map_cells(query, scvi_model, tmp_path / "m", train=settings)
    assert not (tmp_path / "m" / "mapped").exists()


def test_a_model_that_changed_since_inspection_is_not_loaded(scvi_model, query, tmp_path):
    card, prepared = prepare(query, scvi_model, tmp_path / "prepared", ROW)
    changed = card | {"sha256": "0" * 64}
    with pytest.raises(RefmapError, match="'atlas' changed after it was inspected"):
        map_query(prepared, training_of(ROW), changed, scvi_model, MappedFolder(tmp_path / "mapped"), tmp_path / "updated")


@pytest.mark.parametrize("family", ["scvi", "scanvi", "totalvi"])
def test_a_trained_reference_is_ready_for_surgery(family, cells, query, tmp_path):
    settings = {
        "family": family,
        "seed": 0,
        "batch_key": "batch",
        "labels_keys": ["bulk_labels"] if family == "scanvi" else [],
        "unlabeled_category": "Unknown",
        "categorical_covariate_keys": ["chemistry"],
        "continuous_covariate_keys": [],
        "protein_key": "protein_expression" if family == "totalvi" else None,
        "n_latent": 4,
        "n_layers": 1,
        "max_epochs": 2,
        "hidden_labels": 0,
    }
    cells.write_zarr(tmp_path / "cells.zarr")
    train_reference(settings, tmp_path / "cells.zarr", tmp_path / "model", log=lambda line: None)
    card = inspect_model(tmp_path / "model", "model")
    assert (card.class_name, card.n_latent, card.surgery_ready, card.fault) == (family.upper(), 4, True, None)
    assert card.genes == list(cells.var_names) and card.predicts == (family == "scanvi")
    assert card.batches == ["ref_a", "ref_b"] and card.categorical_covariates == {"chemistry": ["v2", "v3"]}
    options = {"protein_key": settings["protein_key"], "categorical_covariate_keys": ["chemistry"]}
    mapped = map_cells(query, tmp_path / "model", tmp_path / "m", **options)
    assert mapped.latent.shape == (query.n_obs, 4)


def test_dropout_that_is_not_frozen_is_on_in_training_alone(cells, query, tmp_path):
    model = save_model("SCVI", cells, tmp_path / "model", settings={"dropout_rate": 0.5})
    frozen = map_cells(query, model, tmp_path / "frozen", train=SHORT)
    free = map_cells(query, model, tmp_path / "free", train=SHORT, freeze_dropout=False)
    assert (free.history["elbo_train"] > frozen.history["elbo_train"]).all()
    untrained = [
        map_cells(query, model, tmp_path / name, train=None, freeze_dropout=name == "off").latent for name in ("on", "off")
    ]
    np.testing.assert_array_equal(*untrained)


@pytest.mark.parametrize("name", ["SCVI", "SCANVI"])
def test_batch_norm_keeps_the_references_statistics_with_dropout_on(name, cells, query, tmp_path):
    settings = {"use_batch_norm": "both", "use_layer_norm": "none", "dropout_rate": 0.5}
    model = save_model(name, cells, tmp_path / "model", settings=settings)
    # The last minibatch holds a lone cell, which has no statistics of its own
    train = SHORT | {"train_size": 1.0, "batch_size": query.n_obs - 1}
    mapped = map_cells(query, model, tmp_path / "mapped", train=train, freeze_dropout=False)
    assert mapped.record["frozen_sha256_before"] == mapped.record["frozen_sha256_after"]
    before, after = (torch.load(folder / "model.pt", map_location="cpu", weights_only=False) for folder in (model, mapped.model))
    statistics = [key for key in before["model_state_dict"] if "running_" in key]
    assert len(statistics) > 2
    for key in statistics:
        torch.testing.assert_close(before["model_state_dict"][key], after["model_state_dict"][key], rtol=0, atol=0)
