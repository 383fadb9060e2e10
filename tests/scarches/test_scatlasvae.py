"""scAtlasVAE: its card, surgery that teaches the decoder new batches and moves nothing else, and labels of several columns."""

from __future__ import annotations

import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from mapping import in_a_fresh_process, inspect_and_check, map_cells, train
from refmap.common.errors import RefmapError
from refmap.families.base import Settings
from refmap.families.scatlasvae.network import Cells, losses
from refmap.families.scatlasvae.surgery import ScatlasvaeSurgery
from refmap.mapping.trial import try_model
from refmap.models.folder import ModelFolder
from refmap.reference.inspection import inspect_model
from refmap.reference.training import embed_reference

QUICK = {"max_epochs": 3, "early_stopping": False, "check_val_every_n_epoch": 1, "learning_rate": 0.05}
EPOCHS = 60  # of a few steps each
EMBEDDING = "decoder.cat_embedding.0.weight"


@pytest.fixture(scope="module")
def atlas(cells):
    """The reference with a second label column, ``lineage``, some of it unlabeled, and a second batch column, ``site``."""
    atlas = cells.copy()
    labels = atlas.obs["bulk_labels"].astype(str)
    atlas.obs["lineage"] = np.where(
        labels.str.contains("T|CD4|CD8|NK"), "lymphoid", np.where(labels.str.contains("CD19"), "B", "myeloid")
    )
    atlas.obs.loc[atlas.obs_names[:30], "lineage"] = "Unknown"
    # The library takes no text in its second label column, and no category of unlabeled cells before others.
    atlas.obs["lineage"] = pd.Categorical(atlas.obs["lineage"], ["B", "lymphoid", "myeloid", "Unknown"])
    atlas.obs["site"] = np.where(np.arange(atlas.n_obs) % 3, "north", "south")
    return atlas


@pytest.fixture(scope="module")
def model(atlas, tmp_path_factory) -> Path:
    """A reference that refmap trained."""
    folder = tmp_path_factory.mktemp("models") / "scatlasvae"
    return train("scatlasvae", atlas, folder, reference_labels_key="bulk_labels;lineage", reference_max_epochs=EPOCHS)


def trained_by_library(atlas: ad.AnnData, path: Path, **settings) -> Path:
    """A file that the library trained and saved by itself."""
    network = library().scAtlasVAE(adata=atlas.copy(), device="cpu", n_latent=5, **settings)
    network.fit(max_epoch=2, lr=1e-3)
    network.save_to_disk(path)
    return path


@pytest.fixture(scope="module")
def librarys(atlas, tmp_path_factory) -> Path:
    """One-hot batches of two columns, dispersions by batch and labels: all that a batch can stand in."""
    path = tmp_path_factory.mktemp("models") / "atlas.pt"
    keys = {"batch_key": ["batch", "site"], "label_key": ["bulk_labels", "lineage"]}
    return trained_by_library(atlas, path, batch_embedding="onehot", dispersion="gene-batch", unlabel_key="Unknown", **keys)


@pytest.fixture(scope="module")
def mapped(query, model, tmp_path_factory):
    return map_cells(query, model, tmp_path_factory.mktemp("mapped") / "first", train=QUICK)


def library():
    from scatlasvae import model

    return model


def file_of(path: Path) -> Path:
    return path / "model.pt" if path.is_dir() else path


def saved(path: Path) -> dict:
    return torch.load(file_of(path), weights_only=False)


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return saved(path)["model_state_dict"]


def load(path: Path, adata: ad.AnnData):
    """The model as its library loads it for the cells of `adata`, whatever their batches and labels are."""
    found = saved(path)
    bare, config = ad.AnnData(adata.X, obs=adata.obs[[]].copy(), var=adata.var[[]]), found["model_config"]
    for what in ("batch", "label"):
        keys = config[f"{what}_key"]
        columns = [found[f"{what}_category"], *(found[f"additional_{what}_category"] or [])]
        for key, column in zip([keys] if isinstance(keys, str) else keys or [], columns):
            bare.obs[key] = pd.Categorical([column.categories[0]] * bare.n_obs, column.categories)
    weights, held = found["model_state_dict"], {"constrain_n_batch": False, "constrain_n_label": False, "device": "cpu"}
    return library().scAtlasVAE(adata=bare, pretrained_state_dict=weights, **held, **config)


def latent_of(path: Path, adata: ad.AnnData) -> np.ndarray:
    return load(path, adata).get_latent_embedding(show_progress=False)


def misfit_of(path: Path, cells: ad.AnnData) -> float:
    """How badly a model's decoder tells the counts of cells whose batches it knows, for the same draws of the posterior."""
    surgery = ScatlasvaeSurgery.prepare(path, cells, {"trusted": False}, Settings())
    known = Cells.of(cells.X, cells.obs, surgery.model.batches)
    torch.manual_seed(0)
    with torch.no_grad():
        found = losses(surgery.network, surgery.model, known.take(surgery.network, slice(None)))
    return float(found.reconstruction.mean())


def test_the_card_says_what_the_file_holds(librarys, atlas):
    card, found = inspect_model(librarys), saved(librarys)
    assert (card.fault, card.family, card.class_name, card.env) == (None, "scatlasvae", "scAtlasVAE", "scarches")
    assert card.genes == list(atlas.var_names) == list(found["model_var_index"])
    assert (card.batch_key, card.batches) == ("batch", list(found["batch_category"].categories))
    assert card.categorical_covariates == {"site": ["north", "south"]}
    assert card.labels == {
        "bulk_labels": list(found["label_category"].categories),
        "lineage": ["B", "lymphoid", "myeloid"],
    }
    assert (card.n_latent, card.input, card.predicts, card.learns_labels) == (5, "counts", True, False)
    assert card.unlabeled_category == found["model_config"]["unlabel_key"] and card.unlabeled_category.endswith("Unknown")
    assert (
        not card.surgery_ready
        and "its encoder" not in card.warnings[0]
        and "whose encoder never sees the batch" in card.warnings[0]
    )


def test_a_reference_that_refmap_trained_says_the_same_of_itself(model, atlas):
    card = inspect_model(model)
    assert (card.fault, card.genes, card.batches) == (None, list(atlas.var_names), ["ref_a", "ref_b"])
    assert card.labels == {
        "bulk_labels": sorted(set(atlas.obs["bulk_labels"].astype(str))),
        "lineage": ["B", "lymphoid", "myeloid"],
    }
    assert saved(model)["batch_category_summary"] == atlas.obs["batch"].value_counts().to_dict()


def test_a_file_of_any_name_alone_or_in_a_folder(librarys, tmp_path):
    (tmp_path / "folder").mkdir()
    for name in ("CD8 atlas.pth", "folder/reference.pt"):
        shutil.copyfile(librarys, tmp_path / name)
        card = inspect_model(tmp_path / name)
        assert (card.fault, card.family, len(card.genes)) == (None, "scatlasvae", 200)
    assert inspect_model(tmp_path / "folder").family == "scatlasvae"
    assert try_model(tmp_path / "folder", inspect_model(tmp_path / "folder").to_json())["fault"] is None
    shutil.copyfile(librarys, tmp_path / "folder/other.pt")
    assert (
        "holds 2 models of scAtlasVAE (other.pt, reference.pt): name the file to use" in inspect_model(tmp_path / "folder").fault
    )


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("run"),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_var_index": pd.Index(["A", "B"], dtype=object)}, "names 2 genes, but the model has 200"),
        ({"model_var_index": pd.Index(["A"] * 200, dtype=object)}, "names the gene 'A' twice"),
        ({"label_category": pd.Categorical(["x"])}, "names 1 labels of 'bulk_labels', but its classifier tells 10 apart"),
        (
            {"label_category": pd.Categorical([], ["x", "Unknown", "y"])},
            "has 'Unknown', the category of cells without a label, among",
        ),
        ({"label_category": 3}, "is damaged: its attributes are not those of a saved model"),
        ({"more": Evil()}, "is not safe to load"),
    ],
    ids=["genes", "twice", "labels", "order", "odd", "evil"],
)
def test_a_damaged_file_has_a_fault_and_runs_nothing(change, message, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(saved(model) | change, tmp_path / "atlas.pt")
    fault = inspect_model(tmp_path / "atlas.pt").fault
    assert message in fault and "\n" not in fault and not (tmp_path / "run").exists()


def test_a_truncated_file_has_a_fault(model, tmp_path):
    (tmp_path / "atlas.pt").write_bytes(file_of(model).read_bytes()[:5000])
    assert "atlas.pt is truncated" in inspect_model(tmp_path / "atlas.pt").fault


def test_the_reference_and_the_query_stay_and_the_decoder_learns(model, mapped, atlas, query, tmp_path):
    before, aligned = latent_of(model, atlas), ad.read_zarr(mapped.aligned)
    assert mapped.latent.shape == (200, 5) and mapped.latent.dtype == np.float32
    assert list(mapped.embedding.obs_names) == list(query.obs_names)
    # The query's latent is what the library says of it before and after, in the genes' own order.
    for path in (model, mapped.model):
        np.testing.assert_allclose(latent_of(path, aligned), mapped.latent, atol=1e-5)
        np.testing.assert_allclose(latent_of(path, atlas), before, atol=1e-5)
    untrained = map_cells(query, model, tmp_path / "untrained", train=None)
    assert untrained.record["train"] is None and untrained.history.empty
    np.testing.assert_array_equal(untrained.latent, mapped.latent)
    assert any("cannot move the query in the latent space" in sentence for sentence in mapped.record["warnings"])

    old, new, start = (weights_of(path) for path in (model, mapped.model, untrained.model))
    assert old.keys() == new.keys() and [name for name in old if old[name].shape != new[name].shape] == [EMBEDDING]
    for name, tensor in old.items():
        assert torch.equal(new[name][: len(tensor)] if tensor.dim() else new[name], tensor), name
    assert torch.equal(start[EMBEDDING][2:], old[EMBEDDING].mean(dim=0).expand(2, -1))
    assert (new[EMBEDDING][2:] - start[EMBEDDING][2:]).abs().max() > 0.01
    assert misfit_of(mapped.model, aligned) < misfit_of(untrained.model, aligned)
    assert mapped.record["parameters_trainable"] == 2 * 8
    assert mapped.record["frozen_sha256_before"] == mapped.record["frozen_sha256_after"]

    # The updated model is a reference for the next mapping.
    second = map_cells(query, mapped.model, tmp_path / "second", train=QUICK)
    assert second.record["batches"]["renamed"] == {"d1": "d1@lung.donor_1", "d2": "d2@lung.donor_1"}
    assert inspect_model(second.model).batches == ["ref_a", "ref_b", "d1", "d2", "d1@lung.donor_1", "d2@lung.donor_1"]
    np.testing.assert_allclose(latent_of(second.model, atlas), before, atol=1e-5)
    assert torch.equal(weights_of(second.model)[EMBEDDING][:4], new[EMBEDDING])
    np.testing.assert_array_equal(second.latent, mapped.latent)
    assert saved(second.model)["batch_category_summary"]["d1"] == 100


def test_the_history_has_a_row_an_epoch(mapped):
    assert list(mapped.history.index) == [1, 2, 3]
    assert {"elbo_train", "elbo_validation", "reconstruction_loss_train", "kl_local_train"} <= set(mapped.history)
    assert mapped.history.notna().all(axis=None)
    assert mapped.record["train"]["epochs"] == 3


def test_labels_of_all_columns_are_those_of_the_mean(model, mapped, query):
    network = load(model, ad.read_zarr(mapped.aligned))
    latent = torch.from_numpy(mapped.latent)
    for key, head in (("bulk_labels", network.fc), ("lineage", network.additional_fc[0])):
        labels, obs = mapped.card["labels"][key], mapped.embedding.obs
        expected = torch.softmax(head(latent), dim=1).detach().numpy()
        np.testing.assert_allclose(mapped.embedding.obsm[f"{key}_probabilities"], expected, atol=1e-6)
        assert list(mapped.embedding.uns[f"{key}_classes"]) == labels
        assert list(obs[f"{key}_predicted"]) == [labels[i] for i in expected.argmax(axis=1)]
        np.testing.assert_allclose(obs[f"{key}_predicted_uncertainty"], 1 - expected.max(axis=1), atol=1e-6)
    assert (mapped.embedding.obs["bulk_labels_predicted"].astype(str) == query.obs["cell_type"].astype(str)).mean() > 0.5


def test_known_batches_and_labels_of_a_query(model, mapped, query, tmp_path):
    known = query.copy()
    known.obs["donor"] = np.where(known.obs["donor"] == "d1", "ref_a", "d2")
    found = map_cells(known, model, tmp_path / "m", train=QUICK, labels_keys=["cell_type"])
    assert found.record["batches"]["renamed"] == {"ref_a": "ref_a@lung.donor_1"}
    assert any("makes no use of a query's labels" in sentence for sentence in found.record["warnings"])
    np.testing.assert_array_equal(found.latent, mapped.latent)
    assert list(found.embedding.obs["lineage_predicted"]) == list(mapped.embedding.obs["lineage_predicted"])


def test_one_hots_dispersions_and_a_second_batch_column(librarys, atlas, query, tmp_path):
    cells = query.copy()
    cells.obs["where"] = np.where(np.arange(cells.n_obs) % 2, "north", "east")
    mapped = map_cells(cells, librarys, tmp_path / "m", train=QUICK, categorical_covariate_keys=["where"])
    np.testing.assert_allclose(latent_of(mapped.model, atlas), latent_of(librarys, atlas), atol=1e-5)
    old, new = weights_of(librarys), weights_of(mapped.model)
    # latent | ref_a ref_b d1 d2 | north south east
    held = [*range(5), 5, 6, 9, 10]
    first, added = "decoder._fclayer.0.weight", [7, 8, 11]
    assert new[first].shape == (128, 12) and torch.equal(new[first][:, held], old[first])
    assert torch.equal(new["px_rate"][:, :2], old["px_rate"]) and new["px_rate"].shape == (200, 4)
    start = [old[first][:, columns].mean(dim=1) for columns in ([5, 6], [5, 6], [7, 8])]
    assert all((new[first][:, column] - mean).abs().max() > 1e-3 for column, mean in zip(added, start))
    assert all(torch.equal(new[name], tensor) for name, tensor in old.items() if name not in (first, "px_rate"))
    assert mapped.record["parameters_trainable"] == 3 * 128 + 2 * 200
    assert inspect_model(mapped.model).categorical_covariates == {"site": ["north", "south", "east"]}
    assert mapped.record["covariates"] == {"where": {"new": ["east"]}}


def test_a_fresh_process_gives_the_same_embedding(mapped):
    code = (
        "import sys, anndata, numpy\nfrom pathlib import Path\n"
        "from refmap.reference.inspection import inspect_model\nfrom refmap.reference.training import embed_reference\n"
        "model, cells = Path(sys.argv[2]), anndata.read_zarr(sys.argv[3])\n"
        "numpy.save(sys.argv[1], embed_reference(cells, model, inspect_model(model).to_json(), 5)['X_emb'])"
    )
    np.testing.assert_allclose(in_a_fresh_process(code, mapped.model, mapped.aligned), mapped.latent, atol=1e-6)


def test_the_seed_is_that_of_training_alone(model, mapped, query, tmp_path):
    again, other = (map_cells(query, model, tmp_path / str(seed), train=QUICK, seed=seed) for seed in (0, 1))
    pd.testing.assert_frame_equal(again.history, mapped.history)
    assert torch.equal(weights_of(again.model)[EMBEDDING], weights_of(mapped.model)[EMBEDDING])
    assert (other.history["elbo_train"] != mapped.history["elbo_train"]).all()
    np.testing.assert_array_equal(other.latent, mapped.latent)
    pd.testing.assert_frame_equal(other.embedding.obs, mapped.embedding.obs)


@pytest.mark.parametrize("n", [1, 10])
def test_few_cells_map(n, model, query, tmp_path):
    mapped = map_cells(query[:n].copy(), model, tmp_path / "m", train=QUICK | {"early_stopping": True})
    assert mapped.latent.shape == (n, 5) and np.isfinite(mapped.latent).all()
    assert any("there is no validation set" in sentence for sentence in mapped.record["warnings"])
    assert mapped.record["train"]["epochs"] == 3 and "elbo_validation" not in mapped.history


def test_cells_without_counts_map(model, query, tmp_path):
    empty = query.copy()
    empty.X[:3] = 0
    mapped = map_cells(empty, model, tmp_path / "m", train=QUICK)
    assert np.isfinite(mapped.latent).all() and mapped.history.notna().all(axis=None)


def test_early_stopping(model, query, tmp_path):
    settings = {"early_stopping": True, "early_stopping_patience": 2, "max_epochs": 12, "early_stopping_min_delta": 1e6}
    mapped = map_cells(query, model, tmp_path / "m", train=QUICK | settings)
    assert mapped.record["train"]["epochs"] == 3 and mapped.record["train"]["stopped_early"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 1e30}, "Training diverged in epoch 1: the loss is no longer a number"),
        ({"plan_kwargs": {"gate_weigth": 0.1}}, "plan_kwargs has 'gate_weigth', which the training of a scAtlasVAE lacks"),
        (
            {"early_stopping": True, "early_stopping_monitor": "accuracy"},
            "early_stopping_monitor is 'accuracy', but training has elbo_train, elbo_validation",
        ),
    ],
)
def test_what_cannot_be_trained_is_said(settings, message, model, query, tmp_path):
    with pytest.raises(RefmapError, match=message):
        map_cells(query, model, tmp_path / "m", train=QUICK | settings)


def test_a_reference_of_one_batch(atlas, query, tmp_path):
    alone = atlas[atlas.obs["batch"] == "ref_a"].copy()
    model = train("scatlasvae", alone, tmp_path / "model", reference_labels_key=None, reference_max_epochs=1)
    mapped = map_cells(query, model, tmp_path / "m", train=QUICK)
    assert inspect_model(mapped.model).batches == ["ref_a", "d1", "d2"] and mapped.card["labels"] == {}
    assert torch.equal(weights_of(mapped.model)[EMBEDDING][:1], weights_of(model)[EMBEDDING])


def test_training_a_reference_is_repeatable(atlas, tmp_path):
    first, again, other = (
        weights_of(train("scatlasvae", atlas, tmp_path / name / "model", reference_max_epochs=1, seed=seed))
        for name, seed in (("first", 0), ("again", 0), ("other", 1))
    )
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert not torch.equal(first[EMBEDDING], other[EMBEDDING])


def test_a_file_with_room_for_a_batch_that_nobody_knows(model, mapped, query, tmp_path):
    """Since 1.0.6 the decoder has one category more than there are batches."""
    found = saved(model)
    weights = found["model_state_dict"]
    found["model_state_dict"] = weights | {EMBEDDING: torch.cat([weights[EMBEDDING], torch.full((1, 8), 9.0)])}
    torch.save(found, tmp_path / "atlas.pt")
    again = map_cells(query, tmp_path / "atlas.pt", tmp_path / "m", train=QUICK)
    assert torch.equal(weights_of(again.model)[EMBEDDING], weights_of(mapped.model)[EMBEDDING])


def test_a_decoder_of_other_batches_than_the_file_names_is_left_alone(model, mapped, query, tmp_path):
    """As the library saves a model that was made for a query's single batch (scatlasvae 1.0.5.9)."""
    network = load(model, ad.read_zarr(mapped.aligned))
    network = library().scAtlasVAE(adata=network.adata, device="cpu", **saved(model)["model_config"])
    network.partial_load_state_dict(dict(weights_of(model)))
    network.save_to_disk(tmp_path / "atlas.pt")
    card = inspect_model(tmp_path / "atlas.pt")
    assert card.batch_key is None and "names other batches than its decoder was made for" in card.warnings[0]
    again = map_cells(query, tmp_path / "atlas.pt", tmp_path / "m", train=QUICK)
    np.testing.assert_array_equal(again.latent, mapped.latent)
    assert again.record["parameters_trainable"] == 0 and again.card["labels"] == mapped.card["labels"]


@pytest.mark.parametrize(
    "settings", [{"hidden_stacks": [32, 16], "reconstruction_method": "nb", "rna_dropout": "cell"}, {}, {"tabnet": True}]
)
def test_other_networks(settings, atlas, query, tmp_path):
    if settings.pop("tabnet", False):
        from scatlasvae.model._primitives import EncoderType

        settings = {"encoder_type": EncoderType.TABNET}
    settings |= {"batch_key": "batch"} if settings else {"label_key": "bulk_labels"}
    trained_by_library(atlas, tmp_path / "atlas.pt", **settings)
    mapped = map_cells(query, tmp_path / "atlas.pt", tmp_path / "m", train=QUICK)
    before, after = (
        embed_reference(atlas, path, inspect_model(path).to_json(), 0)["X_emb"] for path in (tmp_path / "atlas.pt", mapped.model)
    )
    np.testing.assert_array_equal(before, after)


def test_the_genes_can_stand_beside_a_file_without_them(model, mapped, query, tmp_path):
    """A model that was trained from a tensor store has no table of genes."""
    folder = tmp_path / "atlas"
    folder.mkdir()
    torch.save(saved(model) | {"model_var_index": pd.Index([], dtype=object)}, folder / "atlas.pt")
    assert "list its genes in order as 'genes' in a file refmap.yaml" in inspect_model(folder).fault
    (folder / "refmap.yaml").write_text("genes: [" + ", ".join(f'"{gene}"' for gene in mapped.card["genes"]) + "]\n")
    again = map_cells(query, folder, tmp_path / "m", train=None)
    np.testing.assert_array_equal(again.latent, mapped.latent)
    assert inspect_model(again.model).genes == mapped.card["genes"]


# --- what the library does (scatlasvae 1.0.5.9) -----------------------------------------------------------------------------


def test_the_library_refuses_a_known_batch_and_a_query_without_labels(model, librarys, query):
    """The latter where some of the reference's cells had no label."""
    cells, unlabeled = query.copy(), saved(librarys)["model_config"]["unlabel_key"]
    with pytest.raises(ValueError, match="new categories must not include old categories"):
        library().scAtlasVAE.setup_anndata(cells.copy(), str(librarys), unlabeled)
    cells.obs["batch"] = "ref_a"
    with pytest.raises(ValueError, match="new categories must not include old categories"):
        library().scAtlasVAE.setup_anndata(cells, file_of(model))


def test_the_library_gives_a_tensor_that_grows_random_values(model, mapped):
    aligned, found = ad.read_zarr(mapped.aligned), saved(model)
    aligned.obs["batch"] = pd.Categorical(aligned.obs["batch"], ["ref_a", "ref_b", "d1", "d2"])
    for key in ("bulk_labels", "lineage"):
        aligned.obs[key] = pd.Categorical(["Unknown"] * 200, [*mapped.card["labels"][key], "Unknown"])
    config = found["model_config"] | {"n_batch": 4, "constrain_n_batch": False, "constrain_n_label": False}
    network = library().scAtlasVAE(adata=aligned, pretrained_state_dict=found["model_state_dict"], device="cpu", **config)
    assert not torch.equal(network.decoder.cat_embedding[0].weight[:2], weights_of(model)[EMBEDDING])


def test_the_library_draws_its_predictions(model, mapped):
    network = load(model, ad.read_zarr(mapped.aligned))
    first, second = (network.predict_labels(show_progress=False)[0] for _ in range(2))
    assert not torch.equal(first, second)


def test_a_query_without_the_batch_column_is_refused(model, query, tmp_path):
    plan = inspect_and_check(query, model, tmp_path / "m", batch_key="missing")["plan"]
    assert len(plan["faults"]) == 1 and "missing" in plan["faults"][0]


def test_no_other_family_takes_the_file_and_this_one_takes_no_other(model, cells, tmp_path):
    from refmap.families import FAMILIES

    assert [family.name for family in FAMILIES if family.recognise(ModelFolder(model))] == ["scatlasvae"]
    other = train("trvae", cells, tmp_path / "trvae", reference_max_epochs=1)
    assert [family.name for family in FAMILIES if family.recognise(ModelFolder(other))] == ["trvae"]
