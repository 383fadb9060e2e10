"""The step that looks at a mapping by the expression of its cells, from the reference's scale to what is written."""

import json
import re

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from made_cells import N_GENES, Made, look
from refmap.common.folders import MappedFolder, PreparedFolder, ReferenceFolder
from refmap.common.storage import read_zarr, write_zarr
from refmap.identity import mapped as step
from refmap.identity.learned import Learned
from refmap.identity.mapped import UnknownRule, compare_mapping
from refmap.identity.measuring import main_key, measure_reference, on_panel
from refmap.reference.sample import write_sample
from refmap.transfer.calibrate import calibrate_reference
from refmap.transfer.transfer import transfer
from rows import PREPARED

BY_CERTAINTY, BY_UNCERTAINTY = UnknownRule("certainty", 0.8, 0.2), UnknownRule("uncertainty", 0.8, 0.2)
COARSE = {"type 0": "low", "type 1": "low", "type 2": "high", "type 3": "high", "type 4": "high"}


def aligned(cells: Made, names: list[str], found: np.ndarray) -> ad.AnnData:
    obs = pd.DataFrame({"donor": pd.Categorical([f"b{code}" for code in cells.batches])}, index=names)
    counts = cells.counts.multiply(found[None, :]).tocsr().astype(np.float32)
    return ad.AnnData(counts, obs=obs, var=pd.DataFrame({"found": found}, index=cells.genes))


def make_scale(folder, reference: Made, batch_key="donor", counts="counts") -> ReferenceFolder:
    """What CALIBRATE_REFERENCE leaves of a made reference, whose cell 5 has no embedding."""
    prepared, scale = ReferenceFolder(folder / "prepared"), ReferenceFolder(folder / "scale")
    prepared.folder.mkdir(parents=True)
    names = [f"r{i}" for i in range(len(reference.types))]
    cells = aligned(reference, names, np.ones(N_GENES, dtype=bool))
    write_zarr(cells, prepared.aligned)
    obs = cells.obs.assign(
        coarse=pd.Categorical([COARSE[name] for name in reference.types]),
        cell_type=pd.Categorical(reference.types.astype(object)),
    )
    write_zarr(ad.AnnData(obs=obs), prepared.cells)
    of_cells = {"input": counts, "keys": ["coarse", "cell_type"], "batch_key": batch_key}
    prepared.record.write_text(json.dumps(PREPARED | of_cells))
    latent = reference.latent.copy()
    latent[5] = np.nan
    np.savez(folder / "latent.npz", X_emb=latent)
    calibrate_reference(prepared, folder / "latent.npz", 0, 0.2, 20, scale)
    write_sample(prepared, folder / "latent.npz", scale, 0)
    measure_reference(scale, 0)
    return scale


def make_labelled(folder, query: Made, scale: ReferenceFolder, found=None) -> tuple[PreparedFolder, MappedFolder]:
    """What TRANSFER_LABELS leaves of a made query, whose cell 3 has no embedding."""
    prepared, mapped = PreparedFolder(folder / "query"), MappedFolder(folder / "mapped")
    prepared.folder.mkdir(parents=True)
    mapped.results.mkdir(parents=True)
    names = [f"q{i}" for i in range(len(query.types))]
    write_zarr(aligned(query, names, np.ones(N_GENES, dtype=bool) if found is None else found), prepared.aligned)
    latent = query.latent.copy()
    latent[3] = np.nan
    write_zarr(ad.AnnData(obs=pd.DataFrame(index=names), obsm={"X_emb": latent}), mapped.embedding)
    mapped.record.write_text(json.dumps({"seed": 0}))
    mapped.history.write_text("epoch\n")
    labelled = MappedFolder(folder / "labelled")
    transfer(mapped, scale, 0.2, False, labelled)
    return prepared, labelled


@pytest.fixture(scope="module")
def scale(tmp_path_factory, reference):
    return make_scale(tmp_path_factory.mktemp("scale"), reference)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory, query, scale):
    return make_labelled(tmp_path_factory.mktemp("labelled"), query, scale)


@pytest.fixture(scope="module")
def compared(tmp_path_factory, labelled, scale):
    out = MappedFolder(tmp_path_factory.mktemp("compared") / "out")
    compare_mapping(*labelled, scale, BY_CERTAINTY, out)
    return out


def record_of(folder):
    return json.loads(folder.record.read_text())


def test_the_step_adds_what_the_looks_find(compared, labelled, scale, reference, query):
    obs, before = read_zarr(compared.embedding).obs, read_zarr(labelled[1].embedding).obs
    added = ["novel_score", "novel_group", "own_cluster"]
    for key in ("coarse", "cell_type"):
        added += [f"{key}_{name}" for name in ("by_genes", "by_genes_certainty", "label_set", "certainty")]
    assert set(obs) - set(before) == set(added) and compared.labels.exists()
    placed, seen = np.delete(np.arange(240), 3), np.delete(np.arange(360), 5)
    found = look(
        reference.take(seen).sampled(),
        query.take(placed).counted(),
        0,
        before["cell_type_transferred"].astype(object).to_numpy()[placed],
        Learned.of_record(record_of(scale)["expression"]["cell_type"]),
    )
    np.testing.assert_allclose(obs["novel_score"].iloc[placed], found.novel.scores, atol=1e-5)
    assert obs["cell_type_by_genes"].iloc[placed].tolist() == found.view.labels.tolist()
    np.testing.assert_allclose(obs["cell_type_by_genes_certainty"].iloc[placed], found.view.certainty, atol=1e-6)
    assert obs.iloc[3][added].isna().all()
    sets = [" | ".join(found.view.names[row]) or "(none)" for row in found.view.sets]
    assert obs["cell_type_label_set"].iloc[placed].tolist() == sets


def test_groups_are_looked_for_by_the_column_of_most_labels_and_named(compared, query):
    obs, told = read_zarr(compared.embedding).obs, record_of(compared)["expression"]
    assert told["searched"] == "cell_type" and told["n_genes"] == 120 and told["n_cells"] == 239
    lacking = query.types == "type 4"
    assert (obs["novel_group"].notna() == lacking).all()
    assert set(obs["novel_group"].dropna()) == set(told["novel"]["groups"])
    counted = {name: of["n_cells"] for name, of in told["novel"]["groups"].items()}
    assert counted == obs["novel_group"].value_counts().to_dict() and sum(counted.values()) == 30
    assert {of["reading"] for of in told["novel"]["groups"].values()} == {"type"} and told["novel"]["resemblance"] > 0.8
    table = pd.read_csv(compared.groups)
    assert obs["own_cluster"].value_counts().to_dict() == table.set_index("group")["n_cells"].to_dict()
    assert (obs["own_cluster"].astype(object)[lacking] == obs["novel_group"].astype(object)[lacking]).all()
    assert table["group"].tolist()[: len(counted)] == list(counted) and set(table["matched_label"][: len(counted)]) == {"type 0"}
    assert table["n_cells"].sum() == 239 and (np.diff((table["score"] - table["own_score"])[len(counted) :]) <= 1e-12).all()
    # What tells type 0 it lacks; of its own ten genes no known type varies in any, so that these weigh nothing.
    assert set(re.findall(r"-gene \d+", table["genes"][0])[:7]) <= {f"-gene {i}" for i in range(10)}


def test_unknown_follows_the_certainty_or_stays_as_the_neighbours_made_it(compared, labelled, scale, tmp_path):
    obs, told = read_zarr(compared.embedding).obs, record_of(compared)
    certainty = obs["cell_type_certainty"].to_numpy()
    unknown = (obs["cell_type_transferred"] == "Unknown").to_numpy()
    known = ~np.isnan(certainty)
    assert (unknown[known] == (certainty[known] < 0.8)).all() and unknown[3] and 0 < unknown.sum() < 60
    assert told["transfer"]["labels"]["cell_type"]["unknown"] == pytest.approx(unknown.mean())
    assert told["transfer"]["labels"]["cell_type"]["counts"]["Unknown"] == unknown.sum()
    assert told["transfer"]["unknown_by"] == "certainty"
    view = told["expression"]["views"]["cell_type"]
    assert view["mean_certainty"] == pytest.approx(certainty[known].mean(), abs=1e-6)
    assert view["certain"] == pytest.approx((certainty[known] >= 0.8).mean())
    out = MappedFolder(tmp_path / "out")
    compare_mapping(*labelled, scale, BY_UNCERTAINTY, out)
    before, after = (read_zarr(folder.embedding).obs for folder in (labelled[1], out))
    for key in ("coarse", "cell_type"):
        assert after[f"{key}_transferred"].tolist() == before[f"{key}_transferred"].tolist()
        assert after[f"{key}_certainty"].tolist() == pytest.approx(obs[f"{key}_certainty"].tolist(), nan_ok=True)


def test_levels_follow_the_certainty_and_each_other(compared, labelled):
    """A coarse label that is not certain itself is where the finer one is; the finest that is certain is told anew."""
    obs, told = read_zarr(compared.embedding).obs, record_of(compared)["transfer"]
    coarse, fine = (obs[f"{key}_transferred"].astype(object) for key in ("coarse", "cell_type"))
    known = fine != "Unknown"
    assert (coarse[known] == fine[known].map(COARSE)).all() and 0 < (~known).sum()
    certain = obs["coarse_certainty"].isna() | (obs["coarse_certainty"] >= np.float32(0.8))
    expected = (certain | known).to_numpy() & (np.arange(len(obs)) != 3)
    assert ((coarse != "Unknown") == expected).all()
    assert obs["cell_type_best"].tolist() == np.where(known, fine, coarse).tolist()
    level = obs["cell_type_best_level"].astype(object)
    assert (level[known] == "cell_type").all() and (level[~known & (coarse != "Unknown")] == "coarse").all()
    assert level.isna().tolist() == (coarse == "Unknown").tolist()
    counts = level.value_counts()
    assert told["annotations"] == [
        {
            "name": "cell_type",
            "levels": {"coarse": int(counts.get("coarse", 0)), "cell_type": int(counts["cell_type"])},
            "unknown": pytest.approx((coarse == "Unknown").mean()),
        }
    ]
    assert told["annotations"] != record_of(labelled[1])["transfer"]["annotations"]
    assert told["labels"]["cell_type"].keys() == record_of(labelled[1])["transfer"]["labels"]["cell_type"].keys()


def test_agreement_of_both_labels_is_told_by_label(compared, labelled, query):
    obs = read_zarr(compared.embedding).obs
    view = record_of(compared)["expression"]["views"]["cell_type"]
    best = read_zarr(labelled[1].embedding).obs["cell_type_transferred"].astype(object)  # none of which is Unknown but cell 3
    placed = np.delete(np.arange(240), 3)
    same = (obs["cell_type_by_genes"].astype(object) == best).iloc[placed]
    assert view["agreement"] == pytest.approx(same.mean())
    assert view["agreement_by_label"] == pytest.approx(same.groupby(best.iloc[placed]).mean().to_dict())
    assert view["held_out"]["accuracy"] > 0.95 and view["note"] is None


def test_a_query_of_few_genes_is_no_surer_than_they_make_it(query, reference, scale, tmp_path):
    found = np.ones(N_GENES, dtype=bool)
    found[:35] = False  # what tells types 0 to 2, and half of what tells type 3
    prepared, mapped = make_labelled(tmp_path, query, scale, found)
    out = MappedFolder(tmp_path / "out")
    compare_mapping(prepared, mapped, scale, BY_CERTAINTY, out)
    panel, view = record_of(out)["expression"]["panel"], record_of(out)["expression"]["views"]["cell_type"]
    assert (panel["n_genes"], panel["of"]) == (85, 120)
    seen = reference.take(np.delete(np.arange(360), 5))
    learned = Learned.of_record(record_of(scale)["expression"]["cell_type"])
    of_genes = [seen.counted().on(columns).labelled(seen.types) for columns in (np.flatnonzero(found), np.arange(1, N_GENES))]
    again = on_panel(of_genes[0], N_GENES, learned, 0)
    assert panel["accuracy"] == pytest.approx(again.certainty.figures["accuracy"]) == view["held_out"]["accuracy"]
    assert panel["accuracy_of_all"] == learned.certainty.figures["accuracy"] > 0.95 > 1.2 * panel["accuracy"]
    assert view["mean_certainty"] < 0.8
    assert on_panel(of_genes[1], N_GENES, learned, 0) is learned  # nearly all


def test_of_many_cells_some_are_looked_at_and_the_others_have_what_is_nearest(labelled, scale, query, tmp_path, monkeypatch):
    monkeypatch.setattr(step, "MOST_CELLS", 150)
    out = MappedFolder(tmp_path / "out")
    compare_mapping(*labelled, scale, BY_CERTAINTY, out)
    obs = read_zarr(out.embedding).obs
    placed = np.delete(np.arange(240), 3)
    assert obs["novel_score"].iloc[placed].notna().all() and np.isnan(obs["novel_score"].iloc[3])
    known = (query.types != "type 4")[placed]
    assert (obs["cell_type_by_genes"].iloc[placed][known] == query.types[placed][known]).mean() > 0.95
    assert record_of(out)["expression"]["n_cells"] == 239


def test_a_reference_of_one_label_and_one_batch_says_why_there_is_nothing(query, reference, tmp_path):
    alone = reference.take(reference.types == "type 0")
    scale = make_scale(tmp_path / "reference", alone, batch_key=None)
    assert record_of(scale)["expression"] == {}
    prepared, mapped = make_labelled(tmp_path / "mapping", query, scale)
    out = MappedFolder(tmp_path / "out")
    compare_mapping(prepared, mapped, scale, BY_CERTAINTY, out)
    told = record_of(out)["expression"]
    why = "The reference's cells have one label, {!r}, so no gene tells labels apart."
    assert told["views"]["cell_type"] == {"note": why.format("type 0")}
    assert told["searched"] == "coarse" and told["novel"] == {"note": why.format("low")}
    assert told["panel"]["note"].startswith("The reference's cells have no two labels") and not out.groups.exists()
    assert read_zarr(out.embedding).obs["cell_type_transferred"].iloc[0] == "type 0"


def test_a_model_that_takes_no_counts_has_no_sample(reference, tmp_path):
    assert not make_scale(tmp_path, reference, counts="log-normalised").sample.exists()


def test_the_finest_column_is_searched():
    obs = pd.DataFrame({"a": ["x", "y"], "b": ["x", "x"], "c": ["p", "q"]})
    assert main_key(ad.AnnData(obs=obs), ["b", "a", "c"]) == "a" and main_key(ad.AnnData(obs=obs), []) is None
