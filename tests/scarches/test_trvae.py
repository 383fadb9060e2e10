"""trVAE: its card, and surgery that moves the query's new batches and nothing else."""

from __future__ import annotations

import pickle
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from mapping import in_a_fresh_process, inspect_and_check, map_cells, train
from refmap.common.errors import RefmapError
from refmap.families.scarches.loading import read_saved
from refmap.reference.inspection import inspect_model

QUICK = {"max_epochs": 3, "early_stopping": False, "check_val_every_n_epoch": 1, "learning_rate": 0.01}


@pytest.fixture(scope="session")
def trvae_model(cells, tmp_path_factory) -> Path:
    return train("trvae", cells, tmp_path_factory.mktemp("models") / "trvae")


@pytest.fixture(scope="session")
def mse_model(cells, tmp_path_factory) -> Path:
    """A reference of log-normalised values."""
    return train("trvae", cells, tmp_path_factory.mktemp("models") / "mse", reference_options="recon_loss=mse;use_mmd=false")


@pytest.fixture(scope="session")
def batch_norm_model(cells, tmp_path_factory) -> Path:
    """A reference that the library trained by itself, with batch norm."""
    folder = tmp_path_factory.mktemp("models") / "batch_norm"
    model = library().TRVAE(cells.copy(), "batch", hidden_layer_sizes=[32, 16], latent_dim=5, use_bn=True, use_ln=False)
    model.train(n_epochs=2, seed=0, monitor=False)
    model.save(str(folder))
    return folder


@pytest.fixture(scope="session")
def mapped(query, trvae_model, tmp_path_factory):
    return map_cells(query, trvae_model, tmp_path_factory.mktemp("mapped") / "first", train=QUICK)


def library():
    from scarches import models

    return models


def load(folder: Path, adata: ad.AnnData):
    """The model as the library itself loads it."""
    return library().TRVAE.load(str(folder), adata=adata.copy(), map_location="cpu")


def latent_of(folder: Path, adata: ad.AnnData) -> np.ndarray:
    return load(folder, adata).get_latent(mean=True)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "model_params.pt", weights_only=True)


def test_the_card_says_what_the_loaded_model_says(trvae_model, cells):
    card, model = inspect_model(trvae_model), load(trvae_model, cells)
    assert (card.fault, card.family, card.class_name, card.env) == (None, "trvae", "trVAE", "scarches")
    assert card.genes == list(cells.var_names) and len(card.genes) == model.input_dim_ == 200
    assert (card.batch_key, card.batches) == ("batch", ["ref_a", "ref_b"]) == (model.condition_key_, model.conditions_)
    assert (card.n_latent, card.input, card.normalization) == (model.latent_dim_, "counts", None) and card.n_latent == 5
    assert card.surgery_ready and not card.predicts and card.labels == {}
    assert model.hidden_layer_sizes_ == [128] and model.recon_loss_ == "nb" and model.use_mmd_


def test_a_model_of_log_normalised_values_says_so(mse_model):
    card = inspect_model(mse_model)
    assert (card.input, card.normalization) == ("lognorm", {"target_sum": 1e4, "genes": "model"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "var_names.csv").unlink(), "lacks var_names.csv, without which no trVAE model can be loaded"),
        (lambda folder: (folder / "var_names.csv").write_text("A\nB\n"), "names 2 genes, but the model has 200"),
        (lambda folder: (folder / "refmap.yaml").write_text("genes: [A, B]"), "refmap.yaml lists 2 genes, but the model has 200"),
        (lambda folder: (folder / "model_params.pt").write_bytes(b"PK\x03\x04"), "is truncated"),
    ],
    ids=["missing", "genes", "facts", "truncated"],
)
def test_a_damaged_model_has_a_fault(change, message, trvae_model, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for path in trvae_model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    change(folder)
    fault = inspect_model(folder).fault
    assert message in fault and "\n" not in fault


def test_a_pickle_that_would_run_something_is_refused(trvae_model, tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "run",)

    folder = tmp_path / "model"
    folder.mkdir()
    for path in trvae_model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    attributes = pickle.loads((folder / "attr.pkl").read_bytes())
    (folder / "attr.pkl").write_bytes(pickle.dumps(attributes | {"extra_": Evil()}))
    assert "attr.pkl is not safe to load" in inspect_model(folder).fault and not (tmp_path / "run").exists()
    with pytest.raises(pickle.UnpicklingError, match="which it did not when it was inspected"):
        read_saved(folder, trusted=False)
    assert not (tmp_path / "run").exists()


def test_gene_names_with_a_hash_are_read_whole(trvae_model, tmp_path):
    """The library's reader takes what follows a # for a comment (scarches 0.6.1)."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in trvae_model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    names = (folder / "var_names.csv").read_text().splitlines()
    names[3] = "HLA#3"
    (folder / "var_names.csv").write_text("\n".join(names) + "\n")
    assert inspect_model(folder).genes == names
    assert np.genfromtxt(folder / "var_names.csv", delimiter=",", dtype=str)[3] == "HLA"


def test_the_reference_stays_and_the_query_moves(trvae_model, mapped, cells, query, tmp_path):
    untrained = map_cells(query, trvae_model, tmp_path / "untrained", train=None)
    assert untrained.record["train"] is None and untrained.history.empty
    assert mapped.latent.shape == (200, 5) and mapped.latent.dtype == np.float32
    assert list(mapped.embedding.obs_names) == list(query.obs_names)
    assert np.abs(mapped.latent - untrained.latent).max() > 1e-3
    before = latent_of(trvae_model, cells)
    np.testing.assert_array_equal(latent_of(mapped.model, cells), before)
    assert mapped.record["frozen_sha256_before"] == mapped.record["frozen_sha256_after"]

    # The updated model is a reference for the next mapping.
    second = map_cells(query, mapped.model, tmp_path / "second", train=QUICK)
    assert second.record["batches"]["renamed"] == {"d1": "d1@lung.donor_1", "d2": "d2@lung.donor_1"}
    np.testing.assert_array_equal(latent_of(second.model, cells), before)
    np.testing.assert_array_equal(latent_of(second.model, ad.read_zarr(mapped.aligned)), mapped.latent)
    assert inspect_model(second.model).batches == ["ref_a", "ref_b", "d2", "d1", "d2@lung.donor_1", "d1@lung.donor_1"]


def test_only_the_columns_of_the_new_batches_differ(trvae_model, mapped):
    old, new = weights_of(trvae_model), weights_of(mapped.model)
    assert old.keys() == new.keys()
    grown = {name for name in old if old[name].shape != new[name].shape}
    assert grown == {"theta", "encoder.FC.L0.cond_L.weight", "decoder.FirstL.L0.cond_L.weight"}
    for name, tensor in old.items():
        assert torch.equal(new[name][tuple(slice(0, n) for n in tensor.shape)], tensor), name
    assert all(new[name].shape[1] == old[name].shape[1] + 2 for name in grown)
    assert mapped.record["parameters_trainable"] == 2 * (200 + 128 + 128)


def test_a_new_batch_starts_as_the_mean_of_the_reference(trvae_model, query, tmp_path):
    untrained = map_cells(query, trvae_model, tmp_path / "m", train=None, seed=7)
    old, new = (weights_of(folder)["encoder.FC.L0.cond_L.weight"] for folder in (trvae_model, untrained.model))
    assert torch.equal(new[:, 2:], old.mean(dim=1, keepdim=True).expand(-1, 2))


def test_a_fresh_process_gives_the_same_embedding(mapped):
    code = (
        "import sys, anndata, numpy\nfrom scarches.models import TRVAE\n"
        "model = TRVAE.load(sys.argv[2], adata=anndata.read_zarr(sys.argv[3]))\n"
        "numpy.save(sys.argv[1], model.get_latent(mean=True))"
    )
    np.testing.assert_array_equal(in_a_fresh_process(code, mapped.model, mapped.aligned), mapped.latent)


def test_the_history_has_a_row_an_epoch(mapped):
    assert list(mapped.history.index) == [1, 2, 3]
    assert {"elbo_train", "reconstruction_loss_train", "kl_local_train", "mmd_loss_train"} <= set(mapped.history)
    assert mapped.record["train"] == {"epochs": 3, "max_epochs": 3, "stopped_early": False, "batch_size": 128} | {
        "seconds": mapped.record["train"]["seconds"]
    }
    assert mapped.history.notna().all(axis=None)


def test_validation_every_other_epoch_and_early_stopping(trvae_model, query, tmp_path, capsys):
    settings = QUICK | {"early_stopping": True, "check_val_every_n_epoch": 2, "early_stopping_patience": 2, "max_epochs": 12}
    settings |= {"early_stopping_min_delta": 1e6}
    mapped = map_cells(query, trvae_model, tmp_path / "m", train=settings)
    # The first validation is the best so far, the two after it are no progress: epochs 2, 4, 6.
    assert mapped.record["train"]["epochs"] == 6 and mapped.record["train"]["stopped_early"]
    assert list(mapped.history.index[mapped.history["elbo_validation"].notna()]) == [2, 4, 6]
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("epoch ") for line in lines) == 6 and len(lines) == 7  # and the line that says what is mapped


def test_the_same_seed_gives_the_same_embedding(trvae_model, mapped, query, tmp_path):
    again, other = (map_cells(query, trvae_model, tmp_path / str(seed), train=QUICK, seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(again.latent, mapped.latent)
    assert np.abs(other.latent - mapped.latent).max() > 1e-5


def test_training_is_the_librarys_own(trvae_model, query, tmp_path):
    """The same minibatches, losses and steps as its trainer makes cell by cell, from the same grown model."""
    from refmap.families.scarches.training import run_trainer, trainer_arguments
    from scarches.trainers import trVAETrainer

    adata = ad.read_zarr(map_cells(query, trvae_model, tmp_path / "m", train=None).aligned)
    networks, validation = [], []
    for ours in (False, True):
        torch.manual_seed(0)
        model = library().TRVAE.load_query_data(adata, str(trvae_model))
        arguments = trainer_arguments(QUICK | {"batch_size": 89}, adata.obs["batch"], 0, [])  # 180 = 2 * 89 + 2 cells
        trainer = trVAETrainer(model.model, adata, condition_key="batch", **arguments)
        if ours:
            history, _ = run_trainer(trainer, QUICK, log=lambda line: None)
            validation.append(list(history["elbo_validation"]))
        else:
            trainer.train(3, 0.01, 0.01)
            validation.append(trainer.logs["val_unweighted_loss"])
        networks.append(model.model.state_dict())
    np.testing.assert_allclose(validation[1], validation[0], rtol=1e-6)
    assert all(torch.equal(networks[0][name], networks[1][name]) for name in networks[0])


def test_a_last_minibatch_of_one_cell(trvae_model, query, tmp_path):
    mapped = map_cells(query, trvae_model, tmp_path / "m", train=QUICK | {"batch_size": 179})
    assert np.isfinite(mapped.latent).all() and mapped.history["elbo_train"].notna().all()


def test_training_a_reference_is_repeatable(trvae_model, cells, tmp_path):
    again, other = (train("trvae", cells, tmp_path / str(seed) / "model", seed=seed) for seed in (0, 1))
    assert all(torch.equal(tensor, weights_of(again)[name]) for name, tensor in weights_of(trvae_model).items())
    assert not torch.equal(weights_of(trvae_model)["theta"], weights_of(other)["theta"])


@pytest.mark.parametrize("n", [1, 10])
def test_few_cells_map(n, trvae_model, batch_norm_model, cells, query, tmp_path):
    for model in (trvae_model, batch_norm_model):
        mapped = map_cells(query[:n].copy(), model, tmp_path / model.name, train=QUICK | {"early_stopping": True})
        assert mapped.latent.shape == (n, 5) and np.isfinite(mapped.latent).all()
        assert any("there is no validation set" in sentence for sentence in mapped.record["warnings"])
        assert mapped.record["train"]["epochs"] == 3 and "elbo_validation" not in mapped.history
        np.testing.assert_array_equal(latent_of(mapped.model, cells), latent_of(model, cells))


def test_batch_norm_does_not_move(batch_norm_model, cells, query, tmp_path):
    mapped = map_cells(query, batch_norm_model, tmp_path / "m", train=QUICK)
    np.testing.assert_array_equal(latent_of(mapped.model, cells), latent_of(batch_norm_model, cells))
    old, new = weights_of(batch_norm_model), weights_of(mapped.model)
    names = [name for name in old if "running" in name or "num_batches" in name]
    assert len(names) == 4 * 3 and all(torch.equal(old[name], new[name]) for name in names)
    np.testing.assert_array_equal(latent_of(mapped.model, ad.read_zarr(mapped.aligned)), mapped.latent)


def test_counts_are_normalised_for_a_model_of_log_normalised_values(mse_model, cells, query, tmp_path):
    mapped = map_cells(query, mse_model, tmp_path / "m", train=QUICK)
    card = inspect_model(mapped.model)
    assert card.normalization == {"target_sum": 1e4, "genes": "model"} and card.input == "lognorm"
    counts = pd.DataFrame(query.X.toarray(), columns=query.var_names).reindex(columns=card.genes, fill_value=0).to_numpy(float)
    expected = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)
    np.testing.assert_allclose(ad.read_zarr(mapped.aligned).X.toarray(), expected, rtol=1e-5)
    np.testing.assert_array_equal(latent_of(mapped.model, ad.read_zarr(mapped.aligned)), mapped.latent)
    np.testing.assert_array_equal(latent_of(mapped.model, cells), latent_of(mse_model, cells))


def test_dropout_is_the_references_again_after_a_mapping(trvae_model, mapped, cells):
    assert load(mapped.model, cells).dr_rate_ == load(trvae_model, cells).dr_rate_ == 0.05


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 1e20}, "Training diverged in epoch 1: the loss is no longer a number"),
        ({"plan_kwargs": {"alpha_kI": 0.1}}, "plan_kwargs has 'alpha_kI', which the model's trainer lacks"),
        (
            {"early_stopping": True, "early_stopping_monitor": "accuracy"},
            "early_stopping_monitor is 'accuracy', but training has elbo_train, elbo_validation",
        ),
    ],
)
def test_what_cannot_be_trained_is_said(settings, message, trvae_model, query, tmp_path):
    with pytest.raises(RefmapError, match=message):
        map_cells(query, trvae_model, tmp_path / "m", train=QUICK | {"max_epochs": 20} | settings)


def test_batches_that_are_numbers(cells, query, tmp_path):
    numbered = cells.copy()
    numbered.obs["batch"] = numbered.obs["batch"].map({"ref_a": 1, "ref_b": 2}).astype(int)
    model = library().TRVAE(numbered.copy(), "batch", hidden_layer_sizes=[16], latent_dim=5)
    model.train(n_epochs=1, seed=0, monitor=False)
    model.save(str(tmp_path / "model"))
    before = model.get_latent(mean=True)
    mapped = map_cells(query, tmp_path / "model", tmp_path / "m", train=QUICK)
    assert inspect_model(mapped.model).batches == [*map(str, model.conditions_), "d2", "d1"]
    numbered.obs["batch"] = numbered.obs["batch"].astype(str)
    np.testing.assert_array_equal(latent_of(mapped.model, numbered), before)


# --- what the library does (scarches 0.6.1) ---------------------------------------------------------------------------------


def test_the_library_moves_the_reference_by_weight_decay(trvae_model, cells, query, tmp_path):
    """Its default of 0.04 pulls at every value of a tensor that has grown."""
    mapped = map_cells(query, trvae_model, tmp_path / "m", train=None)
    adata = ad.read_zarr(mapped.aligned)
    model = library().TRVAE.load_query_data(adata, str(trvae_model))
    model.train(n_epochs=3, lr=0.01, monitor=False, use_early_stopping=False)
    model.save(str(tmp_path / "theirs"))
    assert np.abs(latent_of(tmp_path / "theirs", cells) - latent_of(trvae_model, cells)).max() > 1e-3


def test_the_library_reads_shuffled_genes_as_they_stand(trvae_model, cells):
    """Without a gene too many it does not put them into the model's order, and says nothing."""
    shuffled = cells[:, cells.var_names[::-1]].copy()
    assert np.abs(latent_of(trvae_model, shuffled) - latent_of(trvae_model, cells)).max() > 0.01


def test_the_library_reloads_no_best_state(cells):
    """What it keeps as the best state is the live one."""
    model = library().TRVAE(cells.copy(), "batch", hidden_layer_sizes=[16], latent_dim=5)
    model.train(n_epochs=2, seed=0, monitor=False)
    assert all(model.model.state_dict()[name].data_ptr() == t.data_ptr() for name, t in model.trainer.best_state_dict.items())


def test_the_library_validates_on_the_last_cells_of_the_file(cells):
    from scarches.trainers.trvae._utils import train_test_split

    last = train_test_split(cells, 0.9, condition_key="batch")[1]
    in_batch = np.flatnonzero(cells.obs["batch"] == "ref_a")
    assert set(in_batch[-len(in_batch) // 10 + 1 :]) <= set(last)


def test_the_library_fails_on_a_batch_of_few_cells(trvae_model, query, tmp_path):
    mapped = map_cells(query[:5].copy(), trvae_model, tmp_path / "m", train=None)
    model = library().TRVAE.load_query_data(ad.read_zarr(mapped.aligned), str(trvae_model))
    with pytest.raises(ValueError, match="num_samples=0"):
        model.train(n_epochs=1, monitor=False)


def test_a_query_without_the_batch_column_is_refused(trvae_model, query, tmp_path):
    found = inspect_and_check(query, trvae_model, tmp_path / "m", batch_key="missing")
    assert len(found["plan"]["faults"]) == 1 and "missing" in found["plan"]["faults"][0]
