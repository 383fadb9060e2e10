"""What is kept beside a model of its reference's cells, and what the next run makes of it."""

import json
import shutil

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from refmap.common.digest import sha256_of_all
from refmap.common.folders import ReferenceFolder, ReferenceProducts
from refmap.common.storage import read_zarr, write_zarr
from refmap.models.card import ModelCard
from refmap.models.folder import ModelFolder
from refmap.models.hidden import HIDDEN, HIDDEN_COLUMN, carry_hidden, write_hidden
from refmap.reference import sample as sampling
from refmap.reference.cells import prepare_reference
from refmap.reference.products import save_products
from refmap.reference.sample import write_sample
from refmap.transfer.calibrate import calibrate_reference
from rows import ROW
from scipy import sparse

GENES = [f"G{i}" for i in range(20)]
REQUEST = ROW["cells"] | {"trained": True, "reference": "atlas.h5ad", "layer": "X"}
NEXT = REQUEST | {"trained": False, "reference": None, "layer": None}
SEED, THRESHOLD, K = 3, 0.2, 10
# A calibration that could be one
WHOLE = dict.fromkeys(
    ("n", "n_foreign", "threshold", "accuracy", "unknown_share", "unknown_of_all", "accuracy_kept", "accuracy_unknown", "ece"),
    0.5,
)
WHOLE |= {"bins": [], "by": "batch", "calibrated_on": "seen"}


def atlas(n=300):
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, size=n)
    obs = pd.DataFrame(
        {
            "donor": pd.Categorical(np.resize(["d1", "d2"], n)),
            "cell_type": pd.Categorical(np.array(["B", "T", "Unknown"])[kind]),
            "level": np.resize(["l1", "", "l2"], n).astype(object),
            "barcode": [f"bc{i}" for i in range(n)],
            "age": rng.normal(size=n),
            "doublet": np.resize([True, False], n),
        },
        index=[f"r{i}" for i in range(n)],
    )
    means = rng.gamma(1, 3, size=(3, 20))
    return ad.AnnData(sparse.csr_matrix(rng.poisson(means[kind]).astype(np.float32)), obs=obs, var=pd.DataFrame(index=GENES))


@pytest.fixture(scope="module", autouse=True)
def few_categories():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("refmap.reference.cells.MOST_CATEGORIES", 200)
        yield


class Reference:
    """A model without a library, and what a run makes of its cells."""

    HIDDEN, SAW_LABELS = pd.Index([]), False

    def __init__(self, folder):
        self.folder, self.model = folder, folder / "plain"
        (self.model / "hierarchy").mkdir(parents=True)
        (self.model / "model.pt").write_bytes(b"weights")
        (self.model / "hierarchy/hierarchy.json").write_text("{}")
        if len(self.HIDDEN):
            write_hidden(self.model, self.HIDDEN, 0.25, SEED)
        self.cells = atlas()
        self.cells.write_h5ad(folder / "atlas.h5ad")
        self.card = ModelCard(
            model="models/atlas",
            family="scvi",
            env="scvi",
            class_name="SCANVI",
            sha256=ModelFolder(self.model).sha256(),
            genes=GENES,
            batch_key="donor",
            batches=["d1", "d2"],
            labels={"cell_type": ["B", "T"]},
            unlabeled_category="Unknown",
            n_latent=3,
            latent_of_labels=self.SAW_LABELS,
        ).to_json()
        prepared, self.scale = self.prepare(REQUEST, self.model, folder / "atlas.h5ad"), ReferenceFolder(folder / "scale")
        # The model embeds all of its cells but one
        latent = np.log1p(self.cells.X.toarray()[:, :3])
        latent[7] = np.nan
        np.savez(folder / "latent.npz", X_emb=latent)
        calibrate_reference(prepared, folder / "latent.npz", SEED, THRESHOLD, K, self.scale)
        write_sample(prepared, folder / "latent.npz", self.scale, SEED)
        self.saved = folder / "reference_model"
        save_products(self.model, self.card, prepared, folder / "latent.npz", self.scale, self.saved)
        self.products = ReferenceProducts.of_model(self.saved)

    def prepare(self, request, model, source=None):
        prepared = ReferenceFolder(self.folder / f"prepared_{len(list(self.folder.iterdir()))}")
        prepare_reference(request, source, model, self.card, prepared)
        return prepared

    def next_run(self, seed=SEED, threshold=THRESHOLD, k=K, **request):
        prepared = self.prepare(NEXT | request, self.saved)
        scale = ReferenceFolder(self.folder / f"scale_{len(list(self.folder.iterdir()))}")
        calibrate_reference(prepared, None, seed, threshold, k, scale)
        write_sample(prepared, None, scale, seed)
        return scale


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return Reference(tmp_path_factory.mktemp("reference"))


@pytest.fixture
def changed(reference, tmp_path):
    """The reference, with a copy of its products to change."""
    copy = object.__new__(Reference)
    copy.__dict__ = reference.__dict__ | {"folder": tmp_path, "saved": tmp_path / "reference_model"}
    shutil.copytree(reference.saved, copy.saved)
    copy.products = ReferenceProducts.of_model(copy.saved)
    return copy


@pytest.fixture
def hiding(tmp_path):
    """The reference, from whose model the labels of every fourth cell were hidden."""

    class Hiding(Reference):
        HIDDEN = pd.Index([f"r{i}" for i in range(0, 300, 4)])
        SAW_LABELS = True

    return Hiding(tmp_path)


def record(folder):
    return json.loads(folder.record.read_text())


def vouch(kept):
    """Say in the record that the cells are as they were written."""
    kept.record.write_text(json.dumps(record(kept) | {"cells_sha256": sha256_of_all(kept.cells)}))


def replace_cells(kept, cells):
    shutil.rmtree(kept.cells)
    write_zarr(cells, kept.cells)
    vouch(kept)


def test_the_model_is_the_same_with_and_without_its_products(reference):
    assert ModelFolder(reference.saved).sha256() == reference.card["sha256"]
    assert ModelFolder(reference.saved).files() == ["hierarchy/hierarchy.json", "model.pt"]
    assert {path.name for path in reference.products.folder.iterdir()} == {
        "reference.json",
        "cells.zarr",
        "sample.zarr",
        "profiles.zarr",
    }


def test_the_next_run_has_the_cells_and_the_scale_of_the_one_that_had_the_atlas(reference, monkeypatch):
    computed = lambda *_, **__: pytest.fail("computed again")  # noqa: E731
    monkeypatch.setattr("refmap.transfer.calibrate.hold_out", computed)
    monkeypatch.setattr("refmap.transfer.calibrate.draw_map", computed)
    scale = reference.next_run()
    before, after = ad.read_zarr(reference.scale.cells), ad.read_zarr(scale.cells)
    assert list(after.obs_names) == list(before.obs_names) and after.n_obs == 299
    for column in ("cell_type", "donor"):
        assert after.obs[column].equals(before.obs[column])
    for key in ("X_emb", "X_umap"):
        np.testing.assert_array_equal(after.obsm[key], before.obsm[key])
    told = record(scale)
    assert told["source"] == "obsm['X_emb'], embedded by this model"
    assert told["reference"] == "models/atlas/refmap/cells.zarr" and told["warnings"] == []
    same = ("seed", "neighbors", "held_out", "distances", "separations", "calibration", "keys", "batch_key", "n_latent")
    assert {name: told[name] for name in same} == {name: record(reference.scale)[name] for name in same}
    assert "saved_scale" not in told


def test_a_scale_from_before_levels_were_known_is_one_of_columns_that_stand_alone(changed, monkeypatch):
    monkeypatch.setattr("refmap.transfer.calibrate.hold_out", lambda *_, **__: pytest.fail("computed again"))
    older = {name: value for name, value in record(changed.products).items() if name != "levels"}
    changed.products.record.write_text(json.dumps(older))
    told = record(changed.next_run())
    assert told["levels"] == [] and told["calibration"] == record(changed.scale)["calibration"] and told["warnings"] == []


@pytest.mark.parametrize("other", [{"k": 5}, {"seed": 4}, {"threshold": 0.5}, {"transfer_keys": ["level", "doublet"]}])
def test_a_scale_of_other_settings_is_computed_and_the_map_stays(reference, other):
    scale = reference.next_run(**other)
    settings = {"seed": SEED, "threshold": THRESHOLD, "k": K} | {name: other[name] for name in other if name != "transfer_keys"}
    prepared = reference.prepare(
        REQUEST | {"transfer_keys": other.get("transfer_keys", [])}, None, reference.folder / "atlas.h5ad"
    )
    expected = ReferenceFolder(reference.folder / f"expected_{len(list(reference.folder.iterdir()))}")
    calibrate_reference(prepared, reference.folder / "latent.npz", **settings, out=expected)
    for name in ("seed", "neighbors", "held_out", "distances", "separations", "calibration", "keys"):
        assert record(scale)[name] == record(expected)[name], name
    np.testing.assert_array_equal(ad.read_zarr(scale.cells).obsm["X_umap"], ad.read_zarr(reference.scale.cells).obsm["X_umap"])


def test_the_next_run_calibrates_on_hidden_cells_too_whatever_else_it_asks_for(hiding):
    counted = [name for name in hiding.HIDDEN if hiding.cells.obs.loc[name, "cell_type"] != "Unknown"]
    told = record(hiding.scale)["calibration"]["cell_type"]
    assert (told["n"], told["calibrated_on"], told["by"]) == (len(counted), "hidden", "batch")
    cells = read_zarr(hiding.products.cells)
    assert set(cells.obs_names[cells.obs[HIDDEN_COLUMN]]) == set(hiding.HIDDEN)
    same, other = record(hiding.next_run()), record(hiding.next_run(k=5, transfer_keys=["level", "cell_type"]))
    assert same["calibration"]["cell_type"] == told
    assert [other["calibration"][key]["calibrated_on"] for key in ("level", "cell_type")] == ["hidden", "hidden"]
    assert other["calibration"]["cell_type"]["n"] == len(counted)


def test_hidden_cells_are_known_by_their_names_in_part_of_an_atlas_and_by_an_updated_model(hiding, tmp_path):
    (tmp_path / "updated").mkdir()
    (tmp_path / "updated/model.pt").write_bytes(b"more weights")
    carry_hidden(ModelFolder(hiding.model), tmp_path / "updated")
    hiding.cells[200:20:-1].copy().write_h5ad(tmp_path / "part.h5ad")
    prepared = hiding.prepare(REQUEST | {"trained": False}, tmp_path / "updated", tmp_path / "part.h5ad")
    obs = read_zarr(prepared.cells).obs
    assert record(prepared)["fault"] is None and record(prepared)["seen_labels"] == ["cell_type"]
    assert list(obs.index[obs[HIDDEN_COLUMN]]) == [f"r{i}" for i in range(200, 20, -1) if i % 4 == 0]


def test_what_says_who_was_hidden_is_a_fault_where_it_is_damaged(hiding, tmp_path):
    (hiding.model / HIDDEN).write_text("{")
    prepared = hiding.prepare(REQUEST, hiding.model, hiding.folder / "atlas.h5ad")
    assert record(prepared)["fault"].startswith("models/atlas/hidden_cells.json is damaged")


@pytest.mark.parametrize(("saw", "basis"), [(True, "seen"), (False, "unseen")])
def test_labels_that_nothing_was_hidden_of_were_seen_if_the_model_learns_from_labels(reference, saw, basis, tmp_path):
    prepared = ReferenceFolder(tmp_path / "prepared")
    prepare_reference(
        REQUEST, reference.folder / "atlas.h5ad", reference.model, reference.card | {"latent_of_labels": saw}, prepared
    )
    assert HIDDEN_COLUMN not in read_zarr(prepared.cells).obs
    calibrate_reference(prepared, reference.folder / "latent.npz", SEED, THRESHOLD, K, ReferenceFolder(tmp_path / "scale"))
    assert record(ReferenceFolder(tmp_path / "scale"))["calibration"]["cell_type"]["calibrated_on"] == basis


def test_labels_that_are_not_there_are_a_fault_of_the_row(reference):
    prepared = reference.prepare(NEXT | {"transfer_keys": ["levle"]}, reference.saved)
    assert (
        "reference 'models/atlas/refmap/cells.zarr' has no obs column 'levle', which transfer_keys names"
        in record(prepared)["fault"]
    )
    # Numbers, and names of cells by the thousand, are no labels
    assert list(read_zarr(reference.products.cells).obs) == ["cell_type", "donor", "level", "doublet"]


def test_names_with_a_slash_are_found_as_the_user_writes_them(changed):
    cells = read_zarr(changed.products.cells)
    cells.obs = cells.obs.rename(columns={"level": "level/1"})
    replace_cells(changed.products, cells)
    prepared = changed.prepare(NEXT | {"transfer_keys": ["level/1"]}, changed.saved)
    assert record(prepared)["keys"] == ["level/1"]
    assert read_zarr(prepared.cells).obs["level/1"].equals(cells.obs["level/1"])


def test_the_sample_holds_the_counts_of_cells_of_each_label_and_batch(reference, changed, monkeypatch):
    monkeypatch.setattr(sampling, "MOST_OF_EACH", 9)
    shutil.rmtree(changed.saved)
    shutil.copytree(reference.scale.folder, changed.folder / "scale")
    prepared, scale = reference.prepare(REQUEST, None, reference.folder / "atlas.h5ad"), ReferenceFolder(changed.folder / "scale")
    latent = reference.folder / "latent.npz"
    shutil.rmtree(scale.sample)
    write_sample(prepared, latent, scale, SEED)
    save_products(changed.model, changed.card, prepared, latent, scale, changed.saved)
    sample = ad.read_zarr(changed.products.sample)
    counts = sample.obs.groupby(["cell_type", "donor"], dropna=False, observed=True).size()
    assert counts.tolist() == [9] * 6
    np.testing.assert_array_equal(sample.X.toarray(), reference.cells[sample.obs_names, GENES].X.toarray())
    np.testing.assert_array_equal(
        sample.obsm["X_emb"], np.load(latent)["X_emb"][reference.cells.obs_names.get_indexer(sample.obs_names)]
    )
    assert list(sample.var_names) == GENES and "r7" not in sample.obs_names


def test_the_sample_is_the_next_runs_unless_it_was_changed(reference, changed):
    scale = reference.next_run()
    kept, found = ad.read_zarr(reference.products.sample), ad.read_zarr(scale.sample)
    np.testing.assert_array_equal(found.X.toarray(), kept.X.toarray())
    assert found.obs.equals(kept.obs) and len(found) > 20
    (changed.products.sample / ".zattrs").write_text("{}")
    prepared = changed.prepare(NEXT, changed.saved)
    assert not prepared.sample.exists()
    assert "models/atlas/refmap/sample.zarr is not used: it is not what was written there" in record(prepared)["warnings"][0]


def test_the_profiles_are_the_means_of_all_cells_of_a_label(reference):
    profiles = ad.read_zarr(reference.products.profiles)
    counts = np.delete(reference.cells.X.toarray(), 7, axis=0)
    labels = np.delete(reference.cells.obs["cell_type"].astype(str).to_numpy(), 7)
    logged = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    assert profiles.obs[["key", "label", "n_cells"]].values.tolist() == [
        ["cell_type", name, (labels == name).sum()] for name in ("B", "T")
    ]
    np.testing.assert_allclose(profiles.X, [logged[labels == name].mean(axis=0) for name in ("B", "T")], rtol=1e-5)
    assert profiles.uns["values"] == "log1p of counts per 10,000 of the model's genes"


def test_products_of_another_model_are_left_aside(changed):
    told = record(changed.products)
    changed.products.record.write_text(json.dumps(told | {"model_sha256": "another"}))
    prepared = record(changed.prepare(NEXT, changed.saved))
    assert (prepared["source"], prepared["fault"]) == (None, None)
    assert prepared["warnings"] == [
        "models/atlas/refmap is not used: it holds the reference cells of another model, or this one changed since."
    ]


@pytest.mark.parametrize("text", ["", "[1]", "{}", '"text"'])
def test_a_damaged_record_leaves_the_cells_aside(changed, text):
    changed.products.record.write_text(text)
    prepared = record(changed.prepare(NEXT, changed.saved))
    assert prepared["source"] is None and "its reference.json is missing or damaged" in prepared["warnings"][0]


@pytest.mark.parametrize(
    "damage",
    [
        {"distances": [3, 1]},
        {"distances": ["far"]},
        {"separations": None},
        {"calibration": {"cell_type": {"threshold": 0.2}}},
        {"calibration": {"cell_type": WHOLE | {"calibrated_on": "__import__"}}},
        {"calibration": {"cell_type": WHOLE | {"by": None}}},
        {"held_out": {"by": "__import__"}},
        {"neighbors": "10"},
        {"levels": [[1, 2]]},
    ],
)
def test_a_damaged_scale_is_computed_again(changed, damage):
    changed.products.record.write_text(json.dumps(record(changed.products) | damage))
    scale = record(changed.next_run())
    assert (
        scale["distances"] == record(changed.scale)["distances"] and scale["calibration"] == record(changed.scale)["calibration"]
    )
    assert scale["warnings"] == ["The scale in models/atlas/refmap/reference.json is damaged: it was computed again."]


def test_a_scale_of_another_threshold_is_not_damaged(changed):
    told = record(changed.products) | {"calibration": {"cell_type": WHOLE}}
    changed.products.record.write_text(json.dumps(told))
    assert record(changed.next_run())["warnings"] == []


def test_damaged_cells_are_left_aside_with_a_warning(changed):
    shutil.rmtree(changed.products.cells / "obsm/X_emb")
    prepared = record(changed.prepare(NEXT, changed.saved))
    assert (prepared["source"], prepared["fault"]) == (None, None)
    assert prepared["warnings"] == [
        "models/atlas/refmap is not used: cells.zarr in it is not what was written there: copy the model again."
    ]


def test_cells_that_are_none_of_the_model_are_left_aside_whoever_vouches_for_them(changed):
    cells = read_zarr(changed.products.cells)
    cells.obsm["X_umap"] = cells.obsm["X_umap"][:, :1]
    replace_cells(changed.products, cells)
    prepared = record(changed.prepare(NEXT, changed.saved))
    assert (prepared["source"], prepared["fault"]) == (None, None)
    (told,) = prepared["warnings"]
    assert told.startswith("The cells saved beside the model are not used, and no row asks for them: ")
    assert "has 299 x 1 values in obsm 'X_umap', which are not of its cells" in told


def test_an_array_that_only_a_pickle_decodes_is_never_read(changed, tmp_path):
    array = changed.products.cells / "obsm/X_emb/.zarray"
    array.write_text(json.dumps(json.loads(array.read_text()) | {"compressor": {"id": "pickle", "protocol": 4}}))
    for consolidated in changed.products.cells.glob(".zmetadata"):
        consolidated.unlink()
    vouch(changed.products)
    prepared = record(changed.prepare(NEXT, changed.saved))
    assert prepared["source"] is None and "cannot be read" in prepared["warnings"][0]


def test_they_can_be_named_for_a_model_that_surgery_made_of_theirs(changed):
    changed.card = changed.card | {"sha256": "updated", "batches": ["d1", "d2", "new"]}
    named = NEXT | {"reference": "reference_model/refmap/cells.zarr", "embedding": "X_emb"}
    prepared = changed.prepare(named, None, changed.products.cells)
    told = record(prepared)
    assert (told["fault"], told["source"], told["keys"], told["warnings"]) == (None, "obsm['X_emb']", ["cell_type"], [])
    np.testing.assert_array_equal(read_zarr(prepared.cells).obsm["X_emb"], read_zarr(changed.scale.cells).obsm["X_emb"])
