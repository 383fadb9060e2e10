"""scPoli: samples and labels join a reference that stays as it is; prototypes tell labels, and how far from them a cell lies."""

from __future__ import annotations

import pickle
import shutil

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from mapping import in_a_fresh_process, inspect_and_check, map_cells, train
from refmap.common.errors import RefmapError
from refmap.families.scarches.loading import quietly
from refmap.families.scpoli.prototypes import cluster_prototypes, label_prototypes
from refmap.models.pickles import allowed_pickle
from refmap.reference.inspection import inspect_model

LONGER = {"max_epochs": 6, "early_stopping": False, "check_val_every_n_epoch": 1, "learning_rate": 0.01}
QUICK = {"unlabeled_prototypes": "false"}
FRESH_LATENT = """
import sys, anndata, numpy
from scarches.models import scPoli
cells = anndata.read_zarr(sys.argv[3])
model = scPoli.load(sys.argv[2], adata=cells)
model.model.eval()
numpy.save(sys.argv[1], model.get_latent(cells, mean=True))
"""


@pytest.fixture(scope="session")
def model(cells, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scpoli") / "model"
    return train("scpoli", cells, folder, reference_max_epochs=5, reference_options="embedding_dim=4;n_hidden=32")


@pytest.fixture(scope="session")
def rich_cells(cells):
    """The reference with a second condition and a second, coarser label column, where a tenth of the cells have no label."""
    adata = cells.copy()
    adata.obs["chemistry"] = pd.Categorical(["v2" if i % 3 else "v3" for i in range(adata.n_obs)])
    adata.obs["coarse"] = pd.Categorical(["T" if "T" in label else "other" for label in adata.obs["bulk_labels"]])
    fine = adata.obs["bulk_labels"].astype(str).to_numpy(dtype=object)
    fine[::10] = "Unknown"
    adata.obs["bulk_labels"] = pd.Categorical(fine)
    return adata


@pytest.fixture(scope="session")
def rich_model(rich_cells, tmp_path_factory):
    return train(
        "scpoli",
        rich_cells,
        tmp_path_factory.mktemp("scpoli") / "rich",
        reference_labels_key="bulk_labels;coarse",
        reference_categorical_covariate_keys="chemistry",
        reference_options="embedding_dim=3;n_hidden=16",
    )


def by_library(cells, folder=None, epochs=2, **settings):
    """A scPoli that the library itself made, trained and, if there is a folder, saved."""
    with quietly():
        from scarches.models import scPoli

        torch.manual_seed(0)
        settings = {"condition_keys": "batch", "cell_type_keys": "bulk_labels", "latent_dim": 5, "embedding_dims": 4} | settings
        model = scPoli(cells.copy(), hidden_layer_sizes=[16], **settings)
        model.train(n_epochs=epochs, pretraining_epochs=epochs // 2, weight_decay=0)
        if folder:
            model.save(str(folder))
    return folder or model


def load(folder, adata):
    with quietly():
        from scarches.models import scPoli

        model = scPoli.load(str(folder), adata=adata.copy())
    model.model.eval()
    return model


def latent_of(folder, adata) -> np.ndarray:
    """What the library itself says of these cells, loading the model afresh."""
    return load(folder, adata).get_latent(adata, mean=True)


def weights(folder) -> dict:
    return torch.load(folder / "model_params.pt", weights_only=True)


def attributes(folder) -> dict:
    with open(folder / "attr.pkl", "rb") as stream:
        return allowed_pickle().load(stream)


def results(mapped, name) -> pd.DataFrame:
    return pd.read_csv(mapped.results / name, keep_default_na=False, na_values=[""])


# ------------------------------------------------------------------------------------------------------------------- the card


def test_the_card_says_what_the_loaded_model_says(model, cells):
    card, loaded = inspect_model(model), load(model, cells)
    assert card.fault is None and card.family == "scpoli" and card.class_name == "scPoli"
    assert card.genes == list(cells.var_names) and card.input == "counts"
    assert card.batch_key == "batch" and card.batches == loaded.conditions_["batch"] == ["ref_a", "ref_b"]
    assert card.labels == {"bulk_labels": list(loaded.cell_types_)} == {"bulk_labels": sorted(set(cells.obs["bulk_labels"]))}
    assert card.unlabeled_category == "Unknown" and card.n_latent == loaded.latent_dim_ == 5
    assert card.takes_new_labels and card.predicts and card.surgery_ready
    assert card.warnings == []


def test_the_card_of_several_conditions_and_labels(rich_model):
    card = inspect_model(rich_model)
    assert card.batch_key == "batch" and card.categorical_covariates == {"chemistry": ["v2", "v3"]}
    assert list(card.labels) == ["bulk_labels", "coarse"] and card.labels["coarse"] == ["T", "other"]
    assert "Unknown" not in card.labels["bulk_labels"]


@pytest.mark.parametrize(
    "settings, warning",
    [
        ({"inject_condition": ["decoder"]}, "its encoder never sees the batch"),
        ({"recon_loss": "mse"}, None),
        ({"cell_type_keys": None}, None),
    ],
    ids=["decoder only", "mse", "no labels"],
)
def test_cards_of_models_of_the_library(cells, tmp_path, settings, warning):
    card = inspect_model(by_library(cells, tmp_path / "model", **settings))
    assert card.fault is None
    assert [warning in sentence for sentence in card.warnings] == ([True] if warning else [])
    assert card.surgery_ready == (warning is None)
    assert card.input == ("lognorm" if settings.get("recon_loss") == "mse" else "counts")
    assert card.predicts == card.takes_new_labels == bool(card.labels) == ("cell_type_keys" not in settings)


def change_attributes(model, folder, change):
    shutil.copytree(model, folder)
    changed = attributes(folder)
    change(changed)
    (folder / "attr.pkl").write_bytes(pickle.dumps(changed))
    return folder


@pytest.mark.parametrize(
    "change, fault",
    [
        (lambda a: a.pop("embedding_dims_"), "saved by another version of scArches than 0.6 (it lacks embedding_dims_)"),
        (lambda a: a.update(recon_loss_="bernoulli"), "models its data as bernoulli"),
        (lambda a: a.update(conditions_={"batch": []}), "trained without a batch column"),
        (lambda a: a.update(input_dim_=7), "names 200 genes, but the model has 7"),
    ],
    ids=["older", "bernoulli", "no batch", "genes"],
)
def test_models_that_cannot_be_mapped_onto_have_a_fault(model, tmp_path, change, fault):
    assert fault in inspect_model(change_attributes(model, tmp_path / "changed", change)).fault


# ------------------------------------------------------------------------------------------------ the reference stays as it is


def test_the_reference_stays_and_the_query_moves(model, cells, query, tmp_path):
    still = map_cells(query, model, tmp_path / "still", train=None, options=QUICK)
    first = map_cells(query, model, tmp_path / "first", train=LONGER)
    assert first.latent.shape == (query.n_obs, 5) and first.latent.dtype == np.float32
    assert list(first.embedding.obs_names) == list(query.obs_names)
    assert np.abs(first.latent - still.latent).max() > 1e-4
    np.testing.assert_array_equal(latent_of(first.model, cells), latent_of(model, cells))
    # Two embeddings, and two columns of dispersions.
    assert first.record["parameters_trainable"] == 2 * 4 + 2 * 200
    assert first.record["frozen_sha256_before"] == first.record["frozen_sha256_after"]
    assert list(first.history.index) == [1, 2, 3, 4, 5, 6]
    assert first.history["elbo_train"].iloc[-1] < first.history["elbo_train"].iloc[0]

    # The updated model is a reference for the next mapping, and gives the same embedding in another process.
    np.testing.assert_allclose(in_a_fresh_process(FRESH_LATENT, first.model, first.aligned), first.latent, atol=2e-6)
    # Genes that were shuffled, missing or beyond the model's are where the library needs them.
    by_hand = ad.AnnData(query.to_df().reindex(columns=cells.var_names, fill_value=0).astype(np.float32))
    by_hand.obs["batch"] = query.obs["donor"].to_numpy()
    np.testing.assert_allclose(latent_of(first.model, by_hand), first.latent, atol=2e-6)

    second = map_cells(query, first.model, tmp_path / "second", train=LONGER, options=QUICK)
    assert second.record["batches"]["renamed"] == {"d1": "d1@lung.donor_1", "d2": "d2@lung.donor_1"}
    np.testing.assert_array_equal(latent_of(second.model, cells), latent_of(model, cells))
    for folder, older in ((first.model, model), (second.model, first.model)):
        new, old = weights(folder), weights(older)
        grown = {name for name in old if old[name].shape != new[name].shape}
        assert grown == {"embeddings.0.weight", "theta"}
        for name, tensor in old.items():
            assert torch.equal(new[name][tuple(slice(0, n) for n in tensor.shape)], tensor), name
        for name in ("mean", "cov"):
            held = [attributes(path)["prototypes_labeled_"][name] for path in (folder, older)]
            assert torch.equal(*held)


def test_several_conditions_and_label_columns(rich_model, rich_cells, query, tmp_path):
    """Of the further conditions a known level stays, a new one is learned; labels may miss in one column."""
    adata = query.copy()
    adata.obs["kit"] = pd.Categorical(["v3" if i % 2 else "v4" for i in range(adata.n_obs)])
    adata.obs["broad"] = pd.Categorical(["T" if "T" in label else "new kind" for label in adata.obs["cell_type"]])
    fine = adata.obs["cell_type"].astype(str).to_numpy(dtype=object)
    fine[50:] = "Unknown"
    adata.obs["fine"] = pd.Categorical(fine)
    row = {"categorical_covariate_keys": ["kit"], "labels_keys": ["fine", "broad"], "train": LONGER}
    mapped = map_cells(adata, rich_model, tmp_path / "m", **row)
    old, new = weights(rich_model), weights(mapped.model)
    assert new["embeddings.0.weight"].shape == (4, 3) and new["embeddings.1.weight"].shape == (3, 3)
    assert all(torch.equal(new[name][: len(old[name])], old[name]) for name in ("embeddings.0.weight", "embeddings.1.weight"))
    # Dispersions are those of pairs: four of the reference, two of the query, of which each donor has one.
    assert new["theta"].shape == (200, 6) and torch.equal(new["theta"][:, :4], old["theta"])
    np.testing.assert_array_equal(latent_of(mapped.model, rich_cells), latent_of(rich_model, rich_cells))
    assert mapped.record["predictions"].keys() == {"bulk_labels", "coarse"}
    assert list(mapped.embedding.uns["coarse_classes"]) == ["T", "other", "new kind"]
    card = inspect_model(mapped.model)
    assert card.labels["coarse"] == ["T", "other", "new kind"]
    assert card.labels["bulk_labels"] == inspect_model(rich_model).labels["bulk_labels"]
    table = results(mapped, "samples.csv")
    assert table["condition_key"].tolist() == ["batch"] * 4 + ["chemistry"] * 3
    assert table[table["is_query"]]["sample"].tolist() == ["d2", "d1", "v3", "v4"]


def test_the_librarys_own_surgery_moves_the_dispersions_of_the_reference(model, query, tmp_path):
    """scarches 0.6.1: they get no gradient from the query's cells, but its weight decay pulls at them."""
    mapped = map_cells(query, model, tmp_path / "m", train=None, options=QUICK)
    with quietly():
        from scarches.models import scPoli

        library = scPoli.load_query_data(ad.read_zarr(mapped.aligned), str(model), labeled_indices=[])
        library.train(n_epochs=2, pretraining_epochs=2)
    moved = library.model.theta.detach()[:, :2] - weights(model)["theta"]
    assert moved.abs().max() > 1e-6


def test_batch_norm_does_not_move(cells, query, tmp_path):
    """Nor is the query normalised by its own statistics in training, as it is by scarches 0.6.1."""
    model = by_library(cells, tmp_path / "model", use_bn=True, use_ln=False)
    mapped = map_cells(query, model, tmp_path / "m", train=LONGER, options=QUICK)
    old, new = weights(model), weights(mapped.model)
    norms = [name for name in old if "running" in name or "num_batches" in name]
    assert norms and all(torch.equal(old[name], new[name]) for name in norms)
    np.testing.assert_array_equal(latent_of(mapped.model, cells), latent_of(model, cells))


def test_lookups_do_not_shorten_the_embeddings_of_the_reference(model, cells, query, tmp_path):
    """`nn.Embedding` scales rows that are too long in place, in whatever mode: the library's own surgery moves them."""
    folder = tmp_path / "long"
    shutil.copytree(model, folder)
    state = weights(folder)
    state["embeddings.0.weight"] *= 1.5 / state["embeddings.0.weight"].norm(dim=1, keepdim=True)
    torch.save(state, folder / "model_params.pt")
    adata = query.copy()
    adata.obs["donor"] = pd.Categorical(["ref_a" if i % 2 else "d2" for i in range(adata.n_obs)])
    mapped = map_cells(adata, folder, tmp_path / "m", train=LONGER, options=QUICK)
    new = weights(mapped.model)["embeddings.0.weight"]
    # The rows are as the first lookup would have made them.
    np.testing.assert_allclose(new[:2].norm(dim=1), 1, atol=1e-5)
    assert (new[2:].norm(dim=1) <= 1 + 1e-6).all()
    np.testing.assert_allclose(latent_of(mapped.model, cells), latent_of(folder, cells), atol=2e-6)


# ----------------------------------------------------------------------------------------------------------------- predictions


def test_predictions_are_the_nearest_prototypes(model, query, tmp_path):
    mapped = map_cells(query, model, tmp_path / "m", train=LONGER, truth_key="cell_type", options=QUICK)
    aligned = ad.read_zarr(mapped.aligned)
    # The library's own, given the latent: labels, and as their uncertainty the distance.
    loaded = load(mapped.model, aligned)
    expected = loaded.classify(mapped.latent, prototype=True)["bulk_labels"]
    obs = mapped.embedding.obs
    assert obs["bulk_labels_predicted"].tolist() == expected["preds"].tolist()
    np.testing.assert_allclose(obs["bulk_labels_predicted_uncertainty"], expected["uncert"], atol=1e-4)
    soft = loaded.classify(mapped.latent, prototype=True, get_prob=True)["bulk_labels"]
    np.testing.assert_allclose(mapped.embedding.obsm["bulk_labels_probabilities"], soft["weighted_distances"], atol=1e-4)
    np.testing.assert_allclose(obs["bulk_labels_predicted_probability"], soft["uncert"], atol=1e-4)
    assert list(mapped.embedding.uns["bulk_labels_classes"]) == inspect_model(model).labels["bulk_labels"]


def test_the_librarys_own_predictions_change_from_call_to_call(model, query, tmp_path):
    """scarches 0.6.1 classifies a sample of each cell's posterior, and scales its uncertainties within the query."""
    mapped = map_cells(query, model, tmp_path / "m", train=None, options=QUICK)
    aligned = ad.read_zarr(mapped.aligned)
    loaded = load(mapped.model, aligned)
    first, again = (loaded.classify(aligned)["bulk_labels"]["uncert"] for _ in range(2))
    assert np.abs(first - again).max() > 1e-3
    scaled = [loaded.classify(part, scale_uncertainties=True)["bulk_labels"]["uncert"] for part in (aligned, aligned[:50])]
    assert [values.max() for values in scaled] == pytest.approx([1, 1])
    # Here a cell's uncertainty does not hang on the other cells.
    few = map_cells(query[:50].copy(), model, tmp_path / "few", train=None, options=QUICK)
    name = "bulk_labels_predicted_uncertainty"
    np.testing.assert_allclose(few.embedding.obs[name], mapped.embedding.obs[name][:50], atol=1e-5)


def test_a_model_without_labels_predicts_nothing(cells, query, tmp_path):
    model = by_library(cells, tmp_path / "model", cell_type_keys=None)
    mapped = map_cells(query, model, tmp_path / "m", train=LONGER)
    assert mapped.record["predictions"] == {}
    assert list(mapped.embedding.obs) == ["unlabeled_prototype"]
    np.testing.assert_array_equal(latent_of(mapped.model, cells), latent_of(model, cells))


# ---------------------------------------------------------------------------------------------------------------------- labels


def relabelled(query, known="CD14+ Monocyte", new="plasmablast"):
    """The query with half of the labels of one known type, those of another under a new name, and no others."""
    adata = query.copy()
    truth = adata.obs["cell_type"].astype(str)
    labels = np.full(adata.n_obs, "Unknown", dtype=object)
    labels[(truth == known).to_numpy() & (np.arange(adata.n_obs) % 2 == 0)] = known
    labels[(truth == "CD19+ B").to_numpy()] = new
    adata.obs["given"] = pd.Categorical(labels)
    return adata


@pytest.mark.parametrize("settings", [LONGER, LONGER | {"train_size": 1.0}, None], ids=["trained", "all cells", "inference only"])
def test_labels_that_are_new_get_prototypes(model, cells, query, tmp_path, settings):
    """... at the mean of all of their cells; those of the reference's labels do not move."""
    adata = relabelled(query)
    mapped = map_cells(adata, model, tmp_path / "m", train=settings, labels_keys=["given"], options={"pretraining": "0.5"})
    old, new = (attributes(folder)["prototypes_labeled_"] for folder in (model, mapped.model))
    n = len(old["mean"])
    assert torch.equal(new["mean"][:n], old["mean"]) and torch.equal(new["cov"][:n], old["cov"])
    own = mapped.latent[(adata.obs["given"] == "plasmablast").to_numpy()]
    np.testing.assert_allclose(new["mean"][n:], own.mean(axis=0, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(new["cov"][n], np.cov(own.T), atol=1e-5)
    card = inspect_model(mapped.model)
    assert card.labels == {"bulk_labels": [*inspect_model(model).labels["bulk_labels"], "plasmablast"]}
    assert card.unlabeled_category == "Unknown"
    found = mapped.embedding.obs["bulk_labels_predicted"][(adata.obs["given"] == "plasmablast").to_numpy()]
    assert (found == "plasmablast").mean() > 0.3
    np.testing.assert_array_equal(latent_of(mapped.model, cells), latent_of(model, cells))
    table = results(mapped, "prototypes.csv")
    table = table[table["set"] == "labeled"].set_index("label")
    assert table.index[table["is_new"].astype(bool)].tolist() == ["plasmablast"]
    assert table.loc["plasmablast", "spread"] == pytest.approx(np.sqrt(own.var(axis=0, ddof=1).sum()), rel=1e-4)
    # Onto the result, the new label is one of the reference's.
    again = map_cells(query, mapped.model, tmp_path / "again", train=LONGER, options=QUICK)
    assert torch.equal(attributes(again.model)["prototypes_labeled_"]["mean"], new["mean"])


def test_labelled_cells_are_drawn_to_their_prototypes(model, query, tmp_path):
    """The loss of the second phase is felt: with its weight, samples of the labelled cells' latent lie nearer to them."""
    adata = query.copy()
    adata.obs["given"] = pd.Categorical(np.where(adata.obs["cell_type"] == "CD14+ Monocyte", "CD14+ Monocyte", "Unknown"))
    last = []
    for eta in ("0", "100"):
        options = QUICK | {"pretraining": "0", "eta": eta}
        mapped = map_cells(adata, model, tmp_path / f"eta{eta}", train=LONGER, labels_keys=["given"], options=options)
        assert mapped.history["labeled_loss_train"].notna().all()
        last.append(mapped.history["labeled_loss_train"].iloc[-1])
    assert last[1] < last[0]


def test_a_label_that_is_known_in_another_column_joins_this_one(rich_model, query, tmp_path):
    """scarches 0.6.1 leaves it out of this column's labels."""
    adata = query.copy()
    adata.obs["fine"] = pd.Categorical(["other" if i % 4 == 0 else "Unknown" for i in range(adata.n_obs)])
    adata.obs["kit"] = "v2"
    row = {"categorical_covariate_keys": ["kit"], "labels_keys": ["fine"], "train": None, "options": QUICK}
    mapped = map_cells(adata, rich_model, tmp_path / "m", **row)
    old, new = inspect_model(rich_model).labels, inspect_model(mapped.model).labels
    assert set(new["bulk_labels"]) == {*old["bulk_labels"], "other"} and new["coarse"] == old["coarse"]
    assert len(attributes(mapped.model)["prototypes_labeled_"]["mean"]) == len(old["bulk_labels"]) + len(old["coarse"])


def test_early_stopping_with_labels_is_told(model, query, tmp_path):
    row = {"labels_keys": ["given"], "options": QUICK | {"pretraining": "0.5"}}
    early = LONGER | {"early_stopping": True, "early_stopping_patience": 1, "early_stopping_min_delta": 1e9}
    mapped = map_cells(relabelled(query), model, tmp_path / "labels", train=early, **row)
    assert any("watches the last 3 of 6 epochs alone" in sentence for sentence in mapped.record["warnings"])
    # The first validation of the second phase is progress over nothing, the next is none.
    assert mapped.record["train"]["stopped_early"] and mapped.record["train"]["epochs"] == 5
    without = map_cells(query, model, tmp_path / "none", train=early, options=QUICK)
    assert without.record["train"]["epochs"] == 2
    assert not any("Early stopping" in sentence for sentence in without.record["warnings"])


# --------------------------------------------------------------------------------------------------------- novel cells, by name


def test_unlabeled_prototypes_can_be_named_in_the_next_mapping(model, query, tmp_path):
    first = map_cells(query, model, tmp_path / "first", train=LONGER)
    table = results(first, "prototypes.csv")
    unlabeled = table[table["set"] == "unlabeled"]
    means = attributes(first.model)["prototypes_unlabeled_"]["mean"]
    assert unlabeled["prototype"].tolist() == list(range(len(means))) and len(means) > 2
    # Each cell says which is nearest, and the table counts them.
    nearest = np.linalg.norm(first.latent[:, None] - means.numpy(), axis=2).argmin(axis=1)
    assert first.embedding.obs["unlabeled_prototype"].astype(int).tolist() == nearest.tolist()
    assert unlabeled["n_cells"].tolist() == np.bincount(nearest, minlength=len(means)).tolist()
    labeled = attributes(model)["prototypes_labeled_"]
    apart = np.linalg.norm(means[:, None].numpy() - labeled["mean"].numpy(), axis=2)
    known = np.array(inspect_model(model).labels["bulk_labels"])
    assert unlabeled["label"].tolist() == known[apart.argmin(axis=1)].tolist()
    np.testing.assert_allclose(unlabeled["distance"], apart.min(axis=1), atol=1e-4)
    spread = np.sqrt([np.trace(cov) for cov in labeled["cov"].numpy()])
    np.testing.assert_allclose(unlabeled["relative_distance"], apart.min(axis=1) / spread[apart.argmin(axis=1)], rtol=1e-3)

    options = {"new_cell_types": "novel: kind:1+2 | other@bulk_labels:0", "unlabeled_prototypes": "false"}
    second = map_cells(query, first.model, tmp_path / "second", train=LONGER, options=options)
    state = attributes(second.model)["prototypes_labeled_"]
    n = len(labeled["mean"])
    assert torch.equal(state["mean"][:n], labeled["mean"])
    expected = torch.stack([means[[1, 2]].mean(dim=0), means[0]])
    assert torch.equal(state["mean"][n:], expected)
    assert inspect_model(second.model).labels["bulk_labels"] == [*known, "novel: kind", "other"]
    assert "other" in set(second.embedding.obs["bulk_labels_predicted"])
    table = results(second, "prototypes.csv")
    assert table[table["label"] == "other"]["spread"].isna().all() and "other" in set(table["label"])
    # The unlabeled prototypes that the model came with are kept where no others are made.
    assert torch.equal(attributes(second.model)["prototypes_unlabeled_"]["mean"], means)

    found = inspect_and_check(query, first.model, tmp_path / "late", options={"new_cell_types": "late:99"})
    (fault,) = found["plan"]["faults"]
    assert f"prototype 99 the name 'late'; the model has prototypes 0 to {len(means) - 1}." in fault
    (fault,) = inspect_and_check(query, model, tmp_path / "none", options={"new_cell_types": "late:0"})["plan"]["faults"]
    assert "the model has no unlabeled prototypes: map onto the result of a mapping" in fault


def test_a_single_unlabeled_prototype_of_the_library_can_be_named(model, query, tmp_path):
    """scarches 0.6.1 saves it without its first dimension."""
    folder = change_attributes(model, tmp_path / "one", lambda a: a.update(prototypes_unlabeled_={"mean": torch.ones(5)}))
    mapped = map_cells(query, folder, tmp_path / "m", train=None, options=QUICK | {"new_cell_types": "novel:0"})
    saved = attributes(mapped.model)
    assert saved["prototypes_unlabeled_"]["mean"].tolist() == [[1] * 5]
    assert saved["prototypes_labeled_"]["mean"][-1].tolist() == [1] * 5


def test_a_label_without_a_prototype_is_not_predicted(model, query, tmp_path):
    """What is no number is no distance; numpy would take it for the least."""

    def without_cells(attributes):
        attributes["prototypes_labeled_"]["mean"][3] = torch.nan

    mapped = map_cells(
        query, change_attributes(model, tmp_path / "nan", without_cells), tmp_path / "m", train=None, options=QUICK
    )
    obs = mapped.embedding.obs
    assert obs["bulk_labels_predicted"].cat.categories[3] not in set(obs["bulk_labels_predicted"])
    assert np.isfinite(obs["bulk_labels_predicted_uncertainty"]).all()
    assert (mapped.embedding.obsm["bulk_labels_probabilities"][:, 3] == 0).all()


@pytest.mark.parametrize(
    "options, fault",
    [
        ({"new_cell_types": "novel"}, "has 'novel': write a name, a colon and numbers of prototypes"),
        ({"new_cell_types": "novel:x"}, "has 'novel:x': write a name"),
        ({"new_cell_types": "Dendritic:1"}, "has 'Dendritic', which is a label already"),
        ({"new_cell_types": "a:1|a:2"}, "has 'a', which is a label already"),
        ({"new_cell_types": "novel@fine:1"}, "has the label column 'fine'; the model has bulk_labels"),
        ({"pretraining": "1.5"}, "option 'pretraining' is '1.5', but must be a number of 0 or more and 1 or less."),
        ({"resolutoin": "1"}, "there is no option 'resolutoin' for scPoli models"),
    ],
)
def test_options_that_cannot_be_are_faults_of_the_sheet(model, query, tmp_path, options, fault):
    faults = inspect_and_check(query, model, tmp_path / "m", options=options)["plan"]["faults"]
    assert len(faults) == 1 and fault in faults[0]


def test_shot_surgery_of_several_conditions_is_a_fault(rich_model, query, tmp_path):
    adata = query.copy()
    adata.obs["kit"] = "v2"
    row = {"categorical_covariate_keys": ["kit"], "options": {"shot_surgery": "true"}}
    faults = inspect_and_check(adata, rich_model, tmp_path / "m", **row)["plan"]["faults"]
    assert len(faults) == 1 and "several condition columns (batch, chemistry): leave the option out" in faults[0]


def test_clusters_are_means_of_groups_of_cells():
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0], [20, 0], [0, 30]])
    latent = (np.repeat(centres, [60, 50, 40], axis=0) + rng.normal(scale=0.5, size=(150, 2))).astype(np.float32)
    found = cluster_prototypes(latent, resolution=0.1, seed=0)
    groups = (latent[:60], latent[60:110], latent[110:])
    np.testing.assert_allclose(found, [group.mean(axis=0) for group in groups], atol=1e-5)
    assert torch.equal(found, cluster_prototypes(latent, resolution=0.1, seed=0))
    assert len(cluster_prototypes(latent, resolution=3, seed=0)) > 3


def test_label_prototypes_take_a_cell_once():
    """... though it has the label in two columns; of a single cell the spread is not known."""
    latent = torch.tensor([[0.0, 0], [2, 0], [4, 6]])
    codes = torch.tensor([[0, 0], [0, -1], [-1, 1]])
    means, covariances = label_prototypes(latent, codes, [0, 1])
    assert means.tolist() == [[1, 0], [4, 6]]
    assert covariances[0].tolist() == [[2, 0], [0, 0]] and covariances[1].isnan().all()


# ----------------------------------------------------------------------------------------------------------------- shot surgery


def test_shot_surgery_starts_as_the_librarys(model, query, tmp_path):
    mapped = map_cells(query, model, tmp_path / "m", train=None, options=QUICK | {"shot_surgery": "true"})
    table = results(mapped, "samples.csv").set_index("sample")
    with quietly():
        from scarches.models import scPoli

        aligned = ad.read_zarr(mapped.aligned)
        torch.manual_seed(0)
        library, expected = scPoli.shot_surgery(aligned, str(model), labeled_indices=[], unknown_ct_names=["Unknown"])
    assert table["started_from"].dropna().to_dict() == expected
    state = weights(mapped.model)
    for name, tensor in library.model.state_dict().items():
        assert torch.equal(state[name], tensor), name
    np.testing.assert_allclose(library.get_latent(aligned, mean=True), mapped.latent, atol=2e-6)
    # Training goes on from there.
    trained = map_cells(query, model, tmp_path / "trained", train=LONGER, options=QUICK | {"shot_surgery": "true"})
    assert np.abs(trained.latent - mapped.latent).max() > 1e-4


# ------------------------------------------------------------------------------------------------------------------- robustness


def test_any_batch_size_works_on_sparse_input(model, cells, query, tmp_path):
    """scarches 0.6.1 embeds the training cells in `batch_size` chunks, and a chunk of one sparse cell loses a dimension."""
    with quietly(), pytest.raises(RuntimeError, match="Tensors must have same number of dimensions: got 1 and 2"):
        from scarches.models import scPoli

        library = scPoli(cells.copy(), condition_keys="batch", cell_type_keys="bulk_labels", hidden_layer_sizes=[16])
        library.train(n_epochs=1, pretraining_epochs=0, batch_size=256)
    for size in (1, 131, 10_000):
        row = {"train": LONGER | {"max_epochs": 2, "batch_size": size}, "labels_keys": ["given"]}
        mapped = map_cells(relabelled(query), model, tmp_path / str(size), options=QUICK | {"pretraining": "0"}, **row)
        assert mapped.record["train"]["epochs"] == 2 and np.isfinite(mapped.latent).all()


@pytest.mark.parametrize("n", [1, 10])
def test_few_cells_map(model, cells, query, tmp_path, n):
    adata = relabelled(query)[:n].copy()
    adata.obs["given"] = ["plasmablast"] * n
    mapped = map_cells(adata, model, tmp_path / "m", labels_keys=["given"])
    assert mapped.latent.shape == (n, 5)
    assert any("there is no validation set" in sentence for sentence in mapped.record["warnings"])
    assert any("Too few cells for unlabeled prototypes" in sentence for sentence in mapped.record["warnings"])
    assert mapped.embedding.obs["bulk_labels_predicted"].iloc[0] == "plasmablast" or n > 1
    np.testing.assert_array_equal(latent_of(mapped.model, cells), latent_of(model, cells))


def test_the_seed_decides(model, query, tmp_path):
    maps = [
        map_cells(relabelled(query), model, tmp_path / str(i), labels_keys=["given"], train=LONGER, seed=seed)
        for i, seed in enumerate((0, 0, 1))
    ]
    np.testing.assert_array_equal(maps[0].latent, maps[1].latent)
    assert maps[0].embedding.obs.equals(maps[1].embedding.obs)
    assert np.abs(maps[0].latent - maps[2].latent).max() > 0


def test_training_that_diverges_is_said(model, query, tmp_path):
    with pytest.raises(RefmapError, match="Training diverged in epoch|values that are no numbers"):
        map_cells(query, model, tmp_path / "m", train=LONGER | {"learning_rate": 1e30})


def test_models_of_the_library_map(cells, query, tmp_path):
    """... also one whose batches are numbers, and whose label column has no unknown category."""
    adata = cells.copy()
    adata.obs["batch"] = pd.Categorical(adata.obs["batch"].map({"ref_a": 1, "ref_b": 2}).astype(int))
    model = by_library(adata, tmp_path / "model")
    card = inspect_model(model)
    assert card.fault is None and set(card.batches) == {"1", "2"} and card.unlabeled_category == "Unknown"
    mapped = map_cells(query, model, tmp_path / "m", train=LONGER, labels_keys=["cell_type"], options=QUICK)
    old, new = weights(model), weights(mapped.model)
    assert all(torch.equal(new[name][tuple(slice(0, n) for n in tensor.shape)], tensor) for name, tensor in old.items())


def test_the_updated_model_is_one_of_the_librarys(model, query, tmp_path):
    """Its own surgery takes it; and no cell's metadata goes with it."""
    mapped = map_cells(query, model, tmp_path / "m", options=QUICK)
    saved = attributes(mapped.model)
    assert saved["labeled_indices_"] == [] and saved["obs_metadata_"].empty
    assert saved["dr_rate_"] == attributes(model)["dr_rate_"] == 0.05
    aligned = ad.read_zarr(mapped.aligned)
    aligned.obs["batch"] = "d3"
    with quietly():
        from scarches.models import scPoli

        grown = scPoli.load_query_data(aligned, str(mapped.model), labeled_indices=[])
        grown.train(n_epochs=1, pretraining_epochs=1)
    assert grown.conditions_ == {"batch": ["ref_a", "ref_b", "d2", "d1", "d3"]}


# ---------------------------------------------------------------------------------------------------------- training a reference


def test_a_reference_has_the_means_of_its_labels(model, cells):
    latent, state = latent_of(model, cells), attributes(model)["prototypes_labeled_"]
    for i, label in enumerate(inspect_model(model).labels["bulk_labels"]):
        own = latent[(cells.obs["bulk_labels"] == label).to_numpy()]
        np.testing.assert_allclose(state["mean"][i], own.mean(axis=0), atol=1e-5)


def test_the_references_own_cells_are_embedded_by_its_surgery(cells, tmp_path):
    folder, embedding = tmp_path / "model", tmp_path / "embedding.zarr"
    train("scpoli", cells, folder, embedding=embedding, reference_options="n_hidden=16")
    found = ad.read_zarr(embedding)
    assert list(found.obs_names) == list(cells.obs_names)
    np.testing.assert_array_equal(found.obsm["X_emb"], latent_of(folder, cells))


def test_a_reference_of_normalised_values_keeps_how(cells, query, tmp_path):
    model = train("scpoli", cells, tmp_path / "model", reference_options="recon_loss=mse;n_hidden=16")
    card = inspect_model(model)
    assert card.input == "lognorm" and card.normalization == {"target_sum": 10000.0, "genes": "model"}
    mapped = map_cells(query, model, tmp_path / "m", options=QUICK)
    assert inspect_model(mapped.model).normalization == card.normalization
    assert set(weights(mapped.model)["embeddings.0.weight"].shape) == {4, 10} and "theta" not in weights(mapped.model)


def test_a_reference_is_the_same_with_the_same_seed(cells, tmp_path):
    folders = [train("scpoli", cells, tmp_path / str(i), reference_options="n_hidden=16") for i in range(2)]
    one, other = (weights(folder) for folder in folders)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"reference_continuous_covariate_keys": "age"}, "scPoli has no continuous covariates"),
        ({"reference_options": "pretraining=2"}, "'pretraining' is '2', but must be a number of 0 or more and 1 or less."),
        ({"reference_labels_key": "none"}, "No cell of the reference has a label in none"),
    ],
)
def test_references_that_cannot_be_trained_are_told(cells, tmp_path, settings, message):
    adata = cells.copy()
    adata.obs["age"], adata.obs["none"] = 40.0, "Unknown"
    with pytest.raises(RefmapError, match=message):
        train("scpoli", adata, tmp_path / "model", **settings)
