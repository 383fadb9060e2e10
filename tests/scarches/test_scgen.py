"""scGen: the embedding is the encoder's mean, nothing is trained, and labels remove batch effects as the library does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml
from mapping import in_a_fresh_process, inspect_and_check, map_cells, train
from refmap.common.errors import RefmapError
from refmap.families.scarches.loading import quietly
from refmap.families.scgen.correction import correct
from scipy import sparse

CORRECTED = "X_emb_scgen_corrected"
LABELED = {"labels_keys": ["cell_type"]}


@pytest.fixture(scope="session")
def model(cells, tmp_path_factory) -> Path:
    return train("scgen", cells, tmp_path_factory.mktemp("scgen") / "model", reference_max_epochs=5)


@pytest.fixture(scope="session")
def mapped(query, model, tmp_path_factory):
    return map_cells(query, model, tmp_path_factory.mktemp("scgen") / "mapped", **LABELED)


def normalized(adata: ad.AnnData) -> ad.AnnData:
    """As scanpy does it: counts per 10,000 over all genes, and log1p."""
    adata = adata.copy()
    counts = adata.X.toarray()
    adata.X = sparse.csr_matrix(np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4), dtype=np.float32)
    return adata


def library_model(folder: Path, adata: ad.AnnData):
    """The model as the library loads it, ready for use."""
    from scarches.models import scgen

    with quietly():
        loaded = scgen.load(str(folder), adata=adata)
    loaded.model.eval()
    return loaded


def latent_of(folder: Path, adata: ad.AnnData) -> np.ndarray:
    import torch

    with torch.no_grad():
        return library_model(folder, adata).model.encoder(torch.tensor(adata.X.toarray()))[0].numpy()


@pytest.fixture
def no_sampling(monkeypatch):
    """The library's own code, with the mean of the posterior wherever it draws a sample."""
    from scarches.models.scgen.vaearith import vaeArith

    monkeypatch.setattr(vaeArith, "_sample_z", staticmethod(lambda mean, log_variance: mean))


def library_correction(model: Path, reference: ad.AnnData, aligned: ad.AnnData) -> pd.DataFrame:
    """What `map_query_data` of the library gives for the query's cells: the corrected latent, by cell."""
    from scarches.models import scgen

    reference.obs["cell_type"] = reference.obs["bulk_labels"].astype(str)
    loaded = library_model(model, reference)
    query = aligned.copy()
    query.obs["cell_type"] = query.obs["bulk_labels"].astype(str)
    query.obs["study"] = query.obs["batch"].astype(str)
    with quietly():
        corrected = loaded.batch_removal(reference, batch_key="batch", cell_label_key="cell_type")
        corrected.obs["study"] = "reference"
        loaded.adata = corrected
        both = scgen.map_query_data(corrected, query, loaded, batch_key="study")
    return pd.DataFrame(both.obsm["latent_corrected"], index=both.obs_names).loc[query.obs_names]


# ------------------------------------------------------------------------------------------------------------------ the card


def test_the_card_says_what_the_loaded_model_says(model, cells, mapped):
    card, loaded = mapped.card, library_model(model, normalized(cells))
    assert (card["class_name"], card["family"], card["env"], card["fault"]) == ("scGen", "scgen", "scarches", None)
    assert card["genes"] == list(cells.var_names) and loaded.x_dim_ == len(card["genes"])
    assert card["n_latent"] == loaded.z_dim_ == 5
    assert (card["input"], card["normalization"]) == ("lognorm", {"target_sum": 1e4, "genes": "model"})
    assert (card["batch_key"], card["batches"]) == ("batch", ["ref_a", "ref_b"])
    assert card["labels"] == {"bulk_labels": sorted(cells.obs["bulk_labels"].unique())}
    assert not card["predicts"] and not card["surgery_ready"]
    assert "scGen has no surgery" in card["warnings"][0]


@pytest.mark.parametrize("file", ["attr.pkl", "model_params.pt", "var_names.csv"])
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_an_incomplete_model_is_a_fault_of_the_card(file, damage, model, query, tmp_path):
    shutil.copytree(model, tmp_path / "model")
    path = tmp_path / "model" / file
    path.unlink() if damage == "missing" else path.write_bytes(path.read_bytes()[:40])
    card = inspect_and_check(query, tmp_path / "model", tmp_path / "m")["card"]
    assert card["fault"]


# ----------------------------------------------------------------------------------------------------------------- embedding


def test_the_embedding_is_the_encoders_mean(model, cells, query, mapped):
    """Of a query with missing, extra and shuffled genes, sparse counts; by the library itself in a fresh process."""
    assert mapped.latent.shape == (query.n_obs, 5) and mapped.latent.dtype == np.float32
    assert list(mapped.embedding.obs_names) == list(query.obs_names)
    code = (
        "import sys, anndata, numpy, torch\n"
        "from scarches.models import scgen\n"
        "q = anndata.read_zarr(sys.argv[3])\n"
        "models = [scgen.load(folder, adata=q).model.eval() for folder in sys.argv[2].split('|')]\n"
        "numpy.save(sys.argv[1], [m.encoder(torch.tensor(q.X.toarray()))[0].detach().numpy() for m in models])\n"
    )
    for latent in in_a_fresh_process(code, f"{model}|{mapped.model}", mapped.aligned):
        np.testing.assert_allclose(latent, mapped.latent, atol=1e-5)
    assert any("normalised as the reference was" in sentence for sentence in mapped.record["warnings"])


def test_the_reference_stays(model, cells, mapped):
    import torch

    reference = normalized(cells)
    np.testing.assert_array_equal(latent_of(mapped.model, reference), latent_of(model, reference))
    old, new = (torch.load(folder / "model_params.pt", weights_only=True) for folder in (model, mapped.model))
    assert list(old) == list(new) and all(torch.equal(old[name], new[name]) for name in old)
    assert mapped.record["frozen_sha256_before"] == mapped.record["frozen_sha256_after"]
    assert (mapped.record["parameters_trainable"], mapped.record["train"]) == (0, None)
    before, after = (ad.read_zarr(folder / "corrected_reference.zarr") for folder in (model, mapped.model))
    np.testing.assert_array_equal(after.obsm[CORRECTED][: before.n_obs], before.obsm[CORRECTED])
    assert list(after.obs_names[: before.n_obs]) == list(before.obs_names)


@pytest.mark.parametrize("changes", [{"seed": 7}, {"train": None}], ids=str)
def test_neither_the_seed_nor_training_has_a_say(changes, query, model, mapped, tmp_path):
    other = map_cells(query, model, tmp_path / "m", **LABELED, **changes)
    np.testing.assert_array_equal(other.latent, mapped.latent)
    np.testing.assert_array_equal(other.embedding.obsm[CORRECTED], mapped.embedding.obsm[CORRECTED])


@pytest.mark.parametrize("n_cells", [1, 10])
def test_a_handful_of_cells(n_cells, query, model, mapped, tmp_path):
    few = map_cells(query[:n_cells].copy(), model, tmp_path / "m", **LABELED)
    np.testing.assert_allclose(few.latent, mapped.latent[:n_cells], atol=1e-5)
    assert few.embedding.obsm[CORRECTED].shape == (n_cells, 5)


def test_blocks_of_cells_give_what_all_at_once_gives(model, mapped, monkeypatch):
    from refmap.families.scgen import network
    from refmap.families.scgen.surgery import ScgenSurgery, Settings

    monkeypatch.setattr(network, "BLOCK_NUMBERS", 200 * 7)
    surgery = ScgenSurgery.prepare(model, ad.read_zarr(mapped.aligned), mapped.card, Settings())
    np.testing.assert_allclose(surgery.embed(), mapped.latent, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------------- correction


def test_the_correction_is_the_librarys_without_its_sampling(model, cells, query, mapped, no_sampling):
    """From the latent of the reference's cells alone, where the library wants their expression."""
    expected = library_correction(model, normalized(cells), ad.read_zarr(mapped.aligned))
    found = mapped.embedding.obsm[CORRECTED]
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert np.abs(found - mapped.latent).max() > 0.1


def test_the_librarys_sampling_is_why(model, cells, mapped):
    """`map_query_data` (scarches 0.6.1) moves every cell with the seed, also in the mode for use."""
    import torch

    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        found.append(library_correction(model, normalized(cells), ad.read_zarr(mapped.aligned)))
    assert np.abs(found[0] - found[1]).to_numpy().max() > 0.5


def test_the_library_runs_a_model_that_it_loads_in_the_mode_for_training(model, cells, mapped, no_sampling):
    """scarches 0.6.1: batch norm then follows the cells that are there, and the reference's cells move."""
    from scarches.models import scgen

    reference = normalized(cells)
    reference.X = reference.X.toarray()  # it compares two sparse matrices as if they were dense
    reference.obs["study"] = "reference"
    reference.obs["cell_type"] = reference.obs["bulk_labels"].astype(str)
    query = ad.read_zarr(mapped.aligned)
    query.obs["study"], query.obs["cell_type"] = query.obs["batch"].astype(str), query.obs["bulk_labels"].astype(str)
    loaded = library_model(model, normalized(cells))
    loaded.adata = reference
    with quietly():
        careless = scgen.map_query_data(reference, query, str(model), batch_key="study")
        careful = scgen.map_query_data(reference, query, loaded, batch_key="study")
    difference = np.abs(careless.obsm["latent_corrected"] - careful.obsm["latent_corrected"])
    assert difference[: reference.n_obs].max() > 0.5


def test_the_librarys_training_leaves_x_dense_and_takes_the_batch_size_for_a_share(cells):
    """scarches 0.6.1, and why refmap trains the network itself."""
    from scarches.models import scgen

    adata = normalized(cells)
    with quietly():
        model = scgen(adata, hidden_layer_sizes=[8], z_dimension=2)
        model.train(n_epochs=1, batch_size=64)
    assert isinstance(adata.X, np.ndarray)
    assert (model.trainer.batch_size, model.trainer.train_frac) == (32, 64)


def test_a_query_without_labels_gets_a_sentence(query, model, mapped, tmp_path):
    plain = map_cells(query, model, tmp_path / "m")
    assert list(plain.embedding.obsm) == ["X_emb"]
    assert any("has no labels, so scGen's removal of batch effects by label was left out" in w for w in plain.record["warnings"])
    np.testing.assert_array_equal(plain.latent, mapped.latent)
    # What comes of it is a reference all the same.
    again = map_cells(query, plain.model, tmp_path / "again", **LABELED)
    np.testing.assert_array_equal(again.embedding.obsm[CORRECTED], mapped.embedding.obsm[CORRECTED])


def test_labels_that_are_missing_new_or_of_one_cell(query, model, mapped, tmp_path):
    adata = query.copy()
    labels = adata.obs["cell_type"].astype(str).to_numpy(dtype=object)
    labels[:5] = "Unknown"
    labels[5] = "Martian"  # one cell, in one batch, and not in the reference
    adata.obs["cell_type"] = pd.Categorical(labels)
    result = map_cells(adata, model, tmp_path / "m", **LABELED)
    corrected = result.embedding.obsm[CORRECTED]
    assert np.isfinite(corrected).all()
    network = library_model(model, ad.read_zarr(mapped.aligned)).model
    import torch

    with torch.no_grad():
        unmoved = network.encoder(network.decoder(torch.tensor(result.latent[:6])))[0].numpy()
    np.testing.assert_allclose(corrected[:6], unmoved, atol=1e-5)
    sentences = " ".join(result.record["warnings"])
    assert "5 cells have no label" in sentences
    assert "leaves the cells of Martian where they are: neither the reference nor another batch" in sentences
    # The updated model knows the label, and the next query is moved to its cell.
    second = map_cells(adata, result.model, tmp_path / "second", **LABELED)
    assert second.card["labels"]["bulk_labels"][-1] == "Martian"
    assert "Martian" not in " ".join(w for w in second.record["warnings"] if "leaves the cells of" in w)


def test_a_label_of_which_the_query_has_most_is_said(query, cells, mapped, tmp_path):
    few = cells[:40].copy()
    model = train("scgen", few, tmp_path / "model", reference_max_epochs=2)
    largest = map_cells(query, model, tmp_path / "a", **LABELED)
    towards = map_cells(query, model, tmp_path / "b", **LABELED, options={"correct_towards": "reference"})
    sentence = next(w for w in largest.record["warnings"] if "scGen moves the fewer to the more" in w)
    assert "correct_towards" in sentence and "Dendritic" in sentence
    assert not any("scGen moves the fewer" in w for w in towards.record["warnings"])
    assert np.abs(largest.embedding.obsm[CORRECTED] - towards.embedding.obsm[CORRECTED]).max() > 0.01


def test_the_corrected_expression_on_request(query, model, mapped, tmp_path):
    import torch

    result = map_cells(query, model, tmp_path / "m", **LABELED, options={"corrected_expression": "true"})
    expression = result.embedding.obsm["X_scgen_corrected_expression"]
    assert expression.shape == (query.n_obs, 200) and expression.dtype == np.float32
    assert list(result.embedding.uns["refmap"]["scgen_genes"]) == result.card["genes"]
    network = library_model(model, ad.read_zarr(mapped.aligned)).model
    with torch.no_grad():
        latent = network.encoder(torch.tensor(expression))[0].numpy()
    np.testing.assert_allclose(latent, result.embedding.obsm[CORRECTED], atol=1e-4)
    assert "X_scgen_corrected_expression" not in mapped.embedding.obsm


def test_a_mapping_onto_a_mapping(query, model, mapped, cells, tmp_path):
    second = map_cells(query, mapped.model, tmp_path / "m", **LABELED)
    np.testing.assert_array_equal(second.latent, mapped.latent)
    assert second.card["batches"] == ["ref_a", "ref_b", "d1", "d2"]
    assert second.record["batches"]["renamed"] == {"d1": "d1@lung.donor_1", "d2": "d2@lung.donor_1"}
    carried = ad.read_zarr(second.model / "corrected_reference.zarr")
    assert carried.n_obs == cells.n_obs + 2 * query.n_obs
    assert sorted(carried.obs["batch"].unique()) == sorted([*second.card["batches"], "d1@lung.donor_1", "d2@lung.donor_1"])


def test_other_names_of_the_genes_stay(query, model, tmp_path):
    renamed, adata = tmp_path / "renamed", query[:20].copy()
    shutil.copytree(model, renamed)
    facts = json.loads((model / "refmap.yaml").read_text())
    genes = [f"{gene}_" for gene in (model / "var_names.csv").read_text().split()]
    (renamed / "refmap.yaml").write_text(json.dumps(facts | {"genes": genes}))
    adata.var_names = [f"{gene}_" for gene in adata.var_names]
    mapped = map_cells(adata, renamed, tmp_path / "m")
    again = map_cells(adata, mapped.model, tmp_path / "again")
    assert mapped.card["genes"] == again.card["genes"] == genes
    np.testing.assert_array_equal(again.latent, mapped.latent)


def test_groups_move_to_the_largest():
    latent = np.array([[0.0], [2.0], [10.0], [5.0], [7.0], [9.0]], dtype=np.float32)
    labels = np.array(["T", "T", "T", "B", "Unknown", "NK"])
    batches = np.array(["a", "a", "b", "a", "a", "b"])
    alone = correct(latent, labels, batches, "Unknown", {})
    # T: batch a has two cells with mean 1, so the cell of b moves by -9; all others have one group.
    np.testing.assert_array_equal(alone.shift.ravel(), [0, 0, -9, 0, 0, 0])
    assert alone.alone == ["B", "NK"] and alone.outnumbered == []

    reference = {"T": (1, np.array([4.0])), "B": (1, np.array([3.0]))}
    found = correct(latent, labels, batches, "Unknown", reference)
    # B has one cell on either side: the reference's counts for more.
    np.testing.assert_array_equal(found.shift.ravel(), [0, 0, -9, -2, 0, 0])
    assert found.alone == ["NK"] and found.outnumbered == ["T"]
    towards = correct(latent, labels, batches, "Unknown", reference, towards="reference")
    np.testing.assert_array_equal(towards.shift.ravel(), [3, 3, -6, -2, 0, 0])
    assert towards.outnumbered == []


# ------------------------------------------------------------------------------------------------------------------ response


RESPONSE = {"control": "ref_a", "stimulated": "ref_b"}


def stimulated(mapped) -> tuple[np.ndarray, np.ndarray, dict]:
    return (
        mapped.embedding.obsm["X_emb_scgen_stimulated"],
        mapped.embedding.obsm["X_scgen_stimulated_expression"],
        mapped.embedding.uns["refmap"]["scgen_response"],
    )


def library_response(model: Path, reference: ad.AnnData, query: ad.AnnData, **more) -> tuple[np.ndarray, np.ndarray]:
    """What `predict` of the library gives: the expression, and the direction."""
    conditions = {"ctrl": "ref_a", "stim": "ref_b"}
    with quietly():
        loaded = library_model(model, reference)
        return loaded.predict(reference, conditions, "bulk_labels", "batch", adata_to_predict=query, **more)


@pytest.fixture(scope="session")
def of_one_label(cells, tmp_path_factory) -> tuple[Path, ad.AnnData]:
    """A reference of as many cells in either condition, all of one label, among which the library draws nothing."""
    label = cells.obs["bulk_labels"].value_counts().index[0]
    found = cells[cells.obs["bulk_labels"] == label].copy()
    found.obs["batch"] = pd.Categorical(np.where(np.arange(found.n_obs) % 2, "ref_a", "ref_b"))
    found = found[: found.n_obs // 2 * 2].copy()
    folder = tmp_path_factory.mktemp("scgen") / "one_label"
    return train("scgen", found, folder, reference_max_epochs=2), normalized(found)


def test_the_response_is_the_librarys_without_its_sampling(of_one_label, query, no_sampling, tmp_path):
    model, reference = of_one_label
    mapped = map_cells(query, model, tmp_path / "m", options=RESPONSE)
    latent, expression, record = stimulated(mapped)
    only = {"bulk_labels": [reference.obs["bulk_labels"].iloc[0]]}
    expected, delta = library_response(model, reference, ad.read_zarr(mapped.aligned), obs_key=only)
    assert np.abs(delta).max() > 1e-3
    np.testing.assert_allclose(record["delta"], delta, atol=1e-4)
    np.testing.assert_allclose(expression, expected, atol=1e-3)
    np.testing.assert_allclose(latent, mapped.latent + delta, atol=1e-4)
    assert (record["condition"], record["control"], record["stimulated"]) == ("batch", "ref_a", "ref_b")
    assert list(mapped.embedding.uns["refmap"]["scgen_genes"]) == mapped.card["genes"]


def test_labels_weigh_alike_as_in_what_the_library_draws(model, cells, query, mapped, no_sampling, tmp_path):
    """Its draws of equal numbers of each label scatter around the mean that is used here."""
    found = map_cells(query, model, tmp_path / "m", options=RESPONSE)
    reference, few = normalized(cells), ad.read_zarr(mapped.aligned)[:2].copy()
    drawn = []
    for seed in range(12):
        np.random.seed(seed)
        drawn.append(library_response(model, reference, few)[1])
    scatter = np.std(drawn, axis=0) / np.sqrt(len(drawn))
    delta = stimulated(found)[2]["delta"]
    assert (np.abs(delta - np.mean(drawn, axis=0)) < 4 * scatter + 1e-4).all()
    # Of all cells without their labels it is another one.
    latent, batches = latent_of(model, reference), cells.obs["batch"].to_numpy()
    plain = latent[batches == "ref_b"].mean(axis=0) - latent[batches == "ref_a"].mean(axis=0)
    assert (np.abs(plain - np.mean(drawn, axis=0)) > 4 * scatter + 1e-4).any()
    # The embedding is none of the response's, and the next query can ask for the same.
    np.testing.assert_array_equal(found.latent, mapped.latent)
    again = map_cells(query, found.model, tmp_path / "again", options=RESPONSE, seed=7)
    for one, other in zip(stimulated(again)[:2], stimulated(found)[:2]):
        np.testing.assert_array_equal(one, other)


def test_conditions_beside_the_batches(cells, query, tmp_path):
    adata = cells.copy()
    treated = np.arange(adata.n_obs) % 3 == 0
    adata.obs["drug"] = pd.Categorical(np.where(treated, "IFN", "vehicle"))
    rare = adata.obs["bulk_labels"].value_counts().index[-1]
    adata.obs.loc[(adata.obs["bulk_labels"] == rare) & treated, "drug"] = "vehicle"
    model = train("scgen", adata, tmp_path / "model", reference_max_epochs=1, reference_categorical_covariate_keys="drug")
    options = {"condition": "drug", "control": "vehicle", "stimulated": "IFN"}
    mapped = map_cells(query[:20].copy(), model, tmp_path / "m", options=options)
    assert mapped.card["conditions"] == {"batch": ["ref_a", "ref_b"], "drug": ["IFN", "vehicle"]}
    latent, drug = latent_of(model, normalized(adata)), adata.obs["drug"].to_numpy()
    labels = adata.obs["bulk_labels"].astype(str).to_numpy()
    ends = [
        np.mean([latent[(drug == of) & (labels == x)].mean(axis=0) for x in set(labels[drug == of])], axis=0)
        for of in ("vehicle", "IFN")
    ]
    np.testing.assert_allclose(stimulated(mapped)[2]["delta"], ends[1] - ends[0], atol=1e-4)
    assert any(f"only one side has '{rare}'" in sentence for sentence in mapped.record["warnings"])


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"control": "ref_a"}, "option 'control' is of use with 'stimulated' alone: give both."),
        ({"condition": "batch"}, "option 'condition' is of use with 'control' and 'stimulated' alone"),
        ({"control": "ref_a", "stimulated": "ref_c"}, "column 'batch' of the reference has 'ref_a', 'ref_b'. Did you mean"),
        ({"control": "ref_a", "stimulated": "ref_a"}, "are both 'ref_a'"),
        (RESPONSE | {"condition": "drug"}, "option 'condition' is 'drug', but"),
    ],
    ids=["one side", "no side", "unknown", "both alike", "another column"],
)
def test_a_response_that_cannot_be_is_a_fault_before_any_work(options, fault, model, query, tmp_path):
    plan = inspect_and_check(query[:5].copy(), model, tmp_path / "m", options=options)["plan"]
    assert len(plan["faults"]) == 1 and fault in plan["faults"][0]


def test_a_model_of_the_library_alone_knows_no_conditions(library_folder, query, tmp_path):
    found = inspect_and_check(normalized(query[:5].copy()), library_folder, tmp_path / "m", options=RESPONSE)
    assert "train the reference with --family scgen" in found["plan"]["faults"][0]


@pytest.mark.parametrize(
    "contents", ["[]", "{", '{"batch": {"a": {}}}', '{"batch": {"a": {"T": {"n_cells": 1, "latent": [1, 2]}}}}'], ids=str
)
def test_conditions_of_another_model_are_a_fault_of_the_card(contents, model, query, tmp_path):
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "model" / "conditions.json").write_text(contents)
    card = inspect_and_check(query[:5].copy(), tmp_path / "model", tmp_path / "m")["card"]
    assert "conditions.json" in card["fault"] and "copy the model again" in card["fault"]


# ----------------------------------------------------------------------------------------------------------------- references


@pytest.fixture(scope="session")
def library_folder(cells, tmp_path_factory) -> Path:
    """A model that the library alone trained and saved."""
    from scarches.models import scgen

    folder = tmp_path_factory.mktemp("library") / "model"
    with quietly():
        model = scgen(normalized(cells), hidden_layer_sizes=[16, 16], z_dimension=4)
        model.train(n_epochs=2)
        model.save(str(folder))
    return folder


def test_a_model_of_the_library_alone_embeds(library_folder, query, tmp_path):
    lognorm = normalized(query)
    mapped = map_cells(lognorm, library_folder, tmp_path / "m", **LABELED)
    card = mapped.card
    assert (card["class_name"], card["n_latent"], card["batch_key"], card["labels"]) == ("scGen", 4, None, {})
    np.testing.assert_allclose(mapped.latent, latent_of(library_folder, ad.read_zarr(mapped.aligned)), atol=1e-5)
    assert any("lacks how its data was normalised" in w and "the corrected reference" in w for w in card["warnings"])
    again = map_cells(lognorm, mapped.model, tmp_path / "again")
    np.testing.assert_array_equal(again.latent, mapped.latent)


def test_counts_for_a_model_of_the_library_alone(library_folder, query, tmp_path):
    """Refused, as long as nobody says how its reference was normalised."""
    from refmap.common.errors import RefmapError

    with pytest.raises(RefmapError, match="wants log-normalised values.*refmap.yaml"):
        map_cells(query, library_folder, tmp_path / "refused")
    shutil.copytree(library_folder, tmp_path / "model")
    (tmp_path / "model" / "refmap.yaml").write_text("normalization: {target_sum: 10000, genes: all}\n")
    mapped = map_cells(query, tmp_path / "model", tmp_path / "m")
    expected = map_cells(normalized(query), library_folder, tmp_path / "lognorm")
    np.testing.assert_allclose(mapped.latent, expected.latent, atol=1e-5)
    assert yaml.safe_load((mapped.model / "refmap.yaml").read_text())["normalization"]["genes"] == "all"


def test_the_same_seed_gives_the_same_reference(cells, tmp_path):
    import torch

    folders = [train("scgen", cells, tmp_path / name, reference_max_epochs=2, seed=seed) for name, seed in zip("abc", (0, 0, 1))]
    one, same, other = (torch.load(folder / "model_params.pt", weights_only=True) for folder in folders)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["encoder.FC.L0.weight"], other["encoder.FC.L0.weight"])


def test_a_reference_without_labels(cells, query, tmp_path):
    model = train("scgen", cells, tmp_path / "model", reference_labels_key=None, reference_max_epochs=1)
    assert not (model / "corrected_reference.zarr").exists()
    mapped = map_cells(query, model, tmp_path / "m", **LABELED)
    assert list(mapped.embedding.obsm) == ["X_emb"] and mapped.card["labels"] == {}
    assert any("lacks the corrected reference" in w for w in mapped.record["warnings"])


def test_the_reference_carries_what_the_library_would_correct(model, cells, no_sampling):
    """Latents in place of dense expression, and the same ones."""
    reference = normalized(cells)
    with quietly():
        corrected = library_model(model, reference).batch_removal(reference, batch_key="batch", cell_label_key="bulk_labels")
    carried = ad.read_zarr(model / "corrected_reference.zarr")
    assert list(carried.obs_names) == list(cells.obs_names) and carried.X is None
    assert list(carried.obs["bulk_labels"]) == list(cells.obs["bulk_labels"])
    np.testing.assert_allclose(carried.obsm[CORRECTED], corrected.obsm["latent_corrected"], atol=1e-3)


def test_training_stops_when_held_out_cells_are_no_better(cells, tmp_path):
    """`fitting.fit` on a network that cannot learn: it ends after its patience, with the weights of its best epoch."""
    import torch
    from refmap.families.fitting import PATIENCE, fit

    weight = torch.nn.Linear(1, 1)
    lines, epochs = [], iter(range(10_000))

    def loss_of(cells):
        # Falls for three epochs of training and validation, then rises.
        step = next(epochs) // 2
        return weight.weight.sum() * 0 + abs(step - 3) + 1.0

    fit(weight, loss_of, torch.optim.SGD(weight.parameters(), lr=0.1), 100, 500, 100, seed=0, log=lines.append)
    assert len(lines) == 4 + PATIENCE and lines[3] == "epoch 4/500  train_loss 1.0000  validation_loss 1.0000"


def test_training_that_diverges_is_said(cells):
    import torch
    from refmap.common.errors import RefmapError
    from refmap.families.fitting import fit

    weight = torch.nn.Linear(1, 1)
    with pytest.raises(RefmapError, match="Training diverged in epoch 1"):
        fit(
            weight,
            lambda cells: weight.weight.sum() * float("nan"),
            torch.optim.SGD(weight.parameters(), lr=0.1),
            n_cells=50,
            max_epochs=3,
            batch_size=10,
            seed=0,
        )


def test_a_network_that_moves_while_it_embeds_is_found_out(model, query, tmp_path, monkeypatch):
    """The proof is taken after the embedding: the library's own moves its batch norm there."""
    import torch
    from refmap.families.scgen import surgery

    true_encode = surgery.encode

    def moving_encode(network, *arguments):
        latent = true_encode(network, *arguments)
        with torch.no_grad():
            for weight in network.parameters():
                weight += 1
        return latent

    monkeypatch.setattr(surgery, "encode", moving_encode)
    with pytest.raises(RefmapError, match="Surgery moved the reference 'atlas'"):
        map_cells(query, model, tmp_path / "m")
