"""Labels and distances from the cells of a reference to those of a query."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refmap.common.errors import RefmapError
from refmap.common.folders import MappedFolder, ReferenceFolder
from refmap.common.storage import write_zarr
from refmap.models.hidden import HIDDEN_COLUMN
from refmap.transfer import lists, neighbors
from refmap.transfer import separation as separating
from refmap.transfer import transfer as transferring
from refmap.transfer.calibrate import calibrate_reference
from refmap.transfer.calibration import calibrate
from refmap.transfer.held_out import hold_out
from refmap.transfer.labels import Transfer, as_categories, transfer_labels
from refmap.transfer.neighbors import Index, Neighbors
from refmap.transfer.novelty import distance_scores, p_values
from refmap.transfer.transfer import place, read_labels, shared_dimensions, transfer
from refmap.trust.figures import unknown
from rows import PREPARED
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

CENTRES = np.array([[0, 0, 0], [10, 0, 0], [0, 10, 0]], dtype=np.float32)
TYPES = np.array(["B", "NK", "T"], dtype=object)


def groups(n, seed=0):
    """Cells of three types, well apart: latent (n x 3), and the type of each."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, size=n)
    return (CENTRES[kind] + rng.normal(size=(n, 3))).astype(np.float32), kind


# --- neighbours -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("far", [0, 1e4])
def test_neighbours_are_exact_also_far_from_the_origin(far):
    """Where squares are large, differences of float32 products lose the distances of near cells."""
    rng = np.random.default_rng(0)
    reference = (rng.normal(size=(2000, 10)) + far).astype(np.float32)
    query = (rng.normal(size=(5000, 10)) + far).astype(np.float32)
    found = Index(reference).search(query, 10)
    distance, index = (
        NearestNeighbors(n_neighbors=10, algorithm="kd_tree").fit(reference.astype(float)).kneighbors(query.astype(float))
    )
    assert (np.diff(found.distances, axis=1) >= 0).all()
    if not far:
        np.testing.assert_array_equal(found.indices, index)
    np.testing.assert_allclose(found.distances[:, 0], distance[:, 0], rtol=1e-6 if not far else 0.5)


def test_a_cell_is_not_its_own_neighbour_even_among_its_doubles():
    latent = np.concatenate([np.zeros((30, 3)), groups(30)[0]]).astype(np.float32)
    found = Index(latent).search_own(5)
    assert found.indices.shape == (60, 5)
    assert not (found.indices == np.arange(60)[:, None]).any()
    assert (found.distances[:30] == 0).all()


def test_fewer_reference_cells_than_neighbours_are_all_taken():
    found = Index(np.eye(3, dtype=np.float32)).search(np.zeros((2, 3)), 50)
    assert sorted(found.indices[0]) == [0, 1, 2] and found.distances == pytest.approx(np.ones((2, 3)))


# --- labels ---------------------------------------------------------------------------------------------------------------


def recipe(distances, labels):
    """The Human Lung Cell Atlas's transfer for one cell, as its paper tells it: (label, uncertainty)."""
    bandwidth = (2 / np.std(distances)) ** 2
    weights = np.exp(-distances / bandwidth)
    weights /= weights.sum()
    totals = {label: weights[labels == label].sum() for label in sorted(set(labels))}
    best = max(totals, key=totals.get)
    return best, 1 - totals[best]


def test_labels_and_uncertainties_are_those_of_the_atlas_recipe():
    latent, kind = groups(400)
    query = np.random.default_rng(1).uniform(-2, 12, size=(50, 3)).astype(np.float32)
    given_labels = pd.Series(TYPES[kind])
    neighbors = Index(latent).search(query, 50)
    found = transfer_labels(given_labels, neighbors)
    for row in range(50):
        label, uncertainty = recipe(neighbors.distances[row], TYPES[kind][neighbors.indices[row]])
        assert found.best[row] == label
        assert found.uncertainty[row] == pytest.approx(uncertainty, abs=1e-6)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, atol=1e-6)
    assert (found.labels(0.2) == "Unknown").tolist() == (found.uncertainty > 0.2).tolist()
    assert 0 < (found.labels(0.2) == "Unknown").sum() < 50
    assert (found.labels(1) == found.best).all()


def test_equally_far_neighbours_weigh_alike():
    """The library's own formula divides by their standard deviation, which is 0 here."""
    neighbors = Neighbors(np.array([[0, 1, 2, 3]]), np.full((1, 4), 3.0))
    found = transfer_labels(pd.Series(["A", "A", "A", "B"]), neighbors)
    assert found.probabilities.tolist() == [[0.75, 0.25]]


def test_very_far_neighbours_still_weigh_something():
    weights = Neighbors(np.arange(4)[None], np.array([[1e4, 2e4, 3e4, 4e4]])).weights
    assert weights.sum() == pytest.approx(1) and weights[0, 0] == pytest.approx(1)


def test_neighbours_without_a_label_have_no_say():
    neighbors = Neighbors(np.array([[0, 1, 2], [3, 4, 5]]), np.full((2, 3), 1.0))
    found = transfer_labels(pd.Series(["A", None, "B", None, None, np.nan], dtype=object), neighbors)
    assert found.classes == ["A", "B"]
    assert found.probabilities.tolist() == [[0.5, 0.5], [0, 0]]
    assert found.best.tolist() == ["A", "Unknown"] and found.uncertainty.tolist() == [0.5, 1]


def exactly(reference, query, k, apart=None):
    """The distances to the nearest: float64, cells x k, by those to all."""
    distances = cdist(query.astype(np.float64), reference.astype(np.float64))
    if apart is not None:
        distances[apart[0][:, None] == apart[1]] = np.inf
    return np.sort(distances, axis=1)[:, :k]


def odd_places(kind, n):
    """Places (float32) of cells as they may come, of which many may be alike."""
    rng = np.random.default_rng(0)
    if kind == "types":
        types = 20 * rng.normal(size=(8, 5))
        places = types[rng.integers(0, 8, n)] + rng.normal(size=(n, 5))
        # Of one type there are fewer cells than neighbours, and one cell lies far from all.
        places[:7], places[7] = 500 + rng.normal(size=(7, 5)), -9000
    elif kind == "one dimension":
        places = rng.normal(size=(n, 1))
    elif kind == "far away":
        places = 1e4 + rng.normal(size=(n, 4))
    elif kind == "one spot":
        places = np.full((n, 3), 7.1)
    elif kind == "many on one spot":
        places = np.where(rng.random((n, 1)) < 0.4, 3.3, rng.normal(size=(n, 4)))
    return places.astype(np.float32)


@pytest.mark.parametrize("k", [1, 12, 700])
@pytest.mark.parametrize("kind", ["types", "one dimension", "far away", "one spot", "many on one spot"])
def test_lists_find_the_nearest(kind, k, monkeypatch):
    for name, few in (("BLOCK", 150), ("TOGETHER", 7), ("COMPARED", 20)):
        monkeypatch.setattr(lists, name, few)
    places = odd_places(kind, 900)
    reference, query = places[:700], np.r_[places[:3], places[700:]]
    indices, distances = lists.Lists(reference).search(query, k)
    np.testing.assert_allclose(distances, exactly(reference, query, k), rtol=1e-12)
    assert all(len(set(row)) == k for row in indices.tolist())
    measured = np.linalg.norm(reference[indices].astype(np.float64) - query[:, None], axis=2)
    np.testing.assert_allclose(measured, distances, rtol=1e-12)


@pytest.mark.parametrize("fewest", [1, 1_000_000])
def test_cells_set_apart_are_no_neighbours(fewest, monkeypatch):
    monkeypatch.setattr(neighbors, "FEWEST_PAIRS", fewest)
    places, numbers = odd_places("types", 900), np.r_[np.zeros(600, int), np.arange(300) % 3]
    own = numbers[-40:]
    found = Index(places).search(places[-40:], 15, apart=(own, numbers))
    assert (numbers[found.indices] != own[:, None]).all()
    np.testing.assert_allclose(found.distances, exactly(places, places[-40:], 15, (own, numbers)), rtol=1e-12)
    assert Index(places).search(places[-40:], 500, apart=(own, numbers)).indices.shape == (40, 200)


@pytest.mark.parametrize(("n", "listed"), [(99, False), (100, True)])
def test_a_handful_of_cells_is_put_into_no_lists(n, listed, monkeypatch):
    """Of a reference's regions there are thirty, and of the cells that are looked up among them millions."""
    monkeypatch.setattr(neighbors, "FEWEST_PAIRS", 1)
    places = odd_places("types", 900)
    index = Index(places[:n])
    np.testing.assert_allclose(index.search(places[n:], 3).distances, exactly(places[:n], places[n:], 3), rtol=1e-12)
    assert ("_lists" in vars(index)) == listed


def test_most_pairs_of_many_cells_are_not_compared():
    places = odd_places("types", 6000)
    index = lists.Lists(places[:5000])
    index.search(places[5000:], 10)
    assert 0 < index.compared < 5000 * 1000 / 4


def test_types_whose_radii_reach_each_other_are_told_apart():
    """In many dimensions the nearest of a type's cells are nearly as far as its radius; along the line to another type it is short."""
    rng = np.random.default_rng(0)
    types, kind = rng.normal(size=(20, 30)) * 2, rng.integers(0, 20, 12_000)
    places = (types[kind] + rng.normal(size=(12_000, 30))).astype(np.float32)
    index = lists.Lists(places[:10_000])
    _, distances = index.search(places[10_000:], 10)
    np.testing.assert_allclose(distances, exactly(places[:10_000], places[10_000:], 10), rtol=1e-12)
    assert index.compared < 10_000 * 2_000 / 8


def test_labels_stay_codes():
    """Of those that some cell has, sorted, whatever the order of a column's categories, or the type of what it holds."""
    given = pd.Categorical(["b", None, "a", "b"], categories=["none has it", "b", "a"])
    found = as_categories(pd.Series(given))
    assert list(found.categories) == ["a", "b"] and found.codes.tolist() == [1, -1, 0, 1] and found.codes.dtype == np.int8
    for values in (["b", None, "a", "b"], [2, None, 1, 2], [True, None, False, True]):
        found = as_categories(pd.Series(values, dtype=object))
        assert found.codes.tolist() == [1, -1, 0, 1] and list(found.categories) == sorted(set(values) - {None})


def test_no_labels_at_all():
    found = transfer_labels(pd.Series([None, None], dtype=object), Neighbors(np.array([[0, 1]]), np.ones((1, 2))))
    assert found.classes == [] and found.labels(0.2).tolist() == ["Unknown"] and found.uncertainty.tolist() == [1]


def test_one_class_is_certain():
    found = transfer_labels(pd.Series(["A", "A"]), Neighbors(np.array([[0, 1]]), np.array([[1.0, 2.0]])))
    assert found.labels(0.2).tolist() == ["A"] and found.uncertainty[0] == pytest.approx(0, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 8), st.integers(1, 5), st.integers(0, 10_000))
def test_probabilities_are_probabilities(k, n_classes, seed):
    rng = np.random.default_rng(seed)
    labels = pd.Series(rng.choice([f"type {i}" for i in range(n_classes)], size=12))
    neighbors = Neighbors(rng.integers(0, 12, size=(6, k)), np.sort(rng.exponential(size=(6, k)), axis=1))
    found = transfer_labels(labels, neighbors)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, atol=1e-5)
    assert (found.uncertainty >= 0).all() and (found.uncertainty <= 1 - 1 / n_classes + 1e-5).all()


# --- held-out cells, novelty ----------------------------------------------------------------------------------------------


def test_cells_are_held_out_with_their_batch():
    latent, _ = groups(400)
    batches = pd.Series(np.random.default_rng(0).choice(["a", "b", "c"], size=400)).to_numpy(object)
    held = hold_out(latent, pd.Series(batches), seed=0, most=100)
    assert held.by == "batch" and len(held.rows) == 100 and held.neighbors.indices.shape == (100, 50)
    assert (batches[held.neighbors.indices] != batches[held.rows][:, None]).all()
    for row, near, distance in zip(held.rows[:10], held.neighbors.indices, held.neighbors.distances):
        others = np.flatnonzero(batches != batches[row])
        exact = np.linalg.norm(latent[others] - latent[row], axis=1)
        np.testing.assert_allclose(distance, np.sort(exact)[:50], rtol=1e-5)
        assert set(near) == set(others[np.argsort(exact)[:50]])


@pytest.mark.parametrize("batches", [None, ["one"] * 400, ["a"] * 390 + ["b"] * 10])
def test_without_other_batches_to_speak_of_cells_are_held_out_one_by_one(batches):
    held = hold_out(groups(400)[0], None if batches is None else pd.Series(batches, dtype=object), seed=0)
    assert held.by == "cell" and not (held.neighbors.indices == held.rows[:, None]).any()


def test_p_values_of_cells_like_the_reference_are_uniform():
    reference, _ = groups(3000, seed=1)
    query, _ = groups(2000, seed=2)
    scale = np.sort(distance_scores(hold_out(reference, None, seed=0).neighbors))
    found = p_values(distance_scores(Index(reference).search(query)), scale)
    assert found.min() > 0 and found.max() <= 1
    for level in (0.05, 0.2, 0.5):
        assert (found < level).mean() == pytest.approx(level, abs=0.03)


def test_far_cells_are_novel_and_the_p_value_is_never_0():
    reference, _ = groups(500)
    scale = np.sort(distance_scores(hold_out(reference, None, seed=0).neighbors))
    found = p_values(distance_scores(Index(reference).search(np.full((3, 3), 100.0))), scale)
    assert found.tolist() == [pytest.approx(1 / 501)] * 3


def test_p_values_by_hand():
    assert p_values(np.array([0.0, 2.0, 2.5, 9.0]), np.array([1.0, 2.0, 3.0])).tolist() == [1, 0.75, 0.5, 0.25]
    assert np.isnan(p_values(np.array([1.0]), np.array([]))).all()


# --- calibration ----------------------------------------------------------------------------------------------------------


def test_calibration_by_hand():
    probabilities = np.array([[0.95, 0.05], [0.92, 0.08], [0.25, 0.75], [0.65, 0.35], [0.5, 0.5]], dtype=np.float32)
    truth = pd.Series(["A", "B", "B", "A", None], dtype=object)
    found = calibrate(truth, Transfer(["A", "B"], probabilities), threshold=0.2)
    assert found["n"] == 4 and found["n_foreign"] == 0 and found["accuracy"] == 0.75
    assert found["unknown_share"] == 0.5 and found["accuracy_kept"] == 0.5 and found["accuracy_unknown"] == 1
    assert [part["n"] for part in found["bins"]] == [1, 1, 2]
    expected = (abs(1 - 0.65) + abs(1 - 0.75) + 2 * abs(0.5 - 0.935)) / 4
    assert found["ece"] == pytest.approx(expected, abs=1e-6)


def test_labels_that_the_reference_lacks_are_counted_and_not_scored():
    found = calibrate(pd.Series(["A", "Z"]), Transfer(["A"], np.ones((2, 1), np.float32)), 0.2)
    assert found["n"] == 1 and found["n_foreign"] == 1 and found["accuracy"] == 1 and found["accuracy_unknown"] is None
    assert calibrate(pd.Series(["Z", None]), Transfer(["A"], np.ones((2, 1), np.float32)), 0.2) is None


# --- the two steps --------------------------------------------------------------------------------------------------------


def prepared(folder, latent, obs, keys, batch_key=None):
    folder.folder.mkdir(parents=True)
    write_zarr(ad.AnnData(obs=obs, obsm={"X_emb": latent}), folder.cells)
    of_cells = {"source": "obsm['X_emb']", "keys": keys, "seen_labels": ["type"], "batch_key": batch_key, "n_cells": len(latent)}
    folder.record.write_text(json.dumps(PREPARED | of_cells))
    return folder


def scale_of(tmp_path, n=300, k=50, labels=None):
    latent, kind = groups(n)
    obs = pd.DataFrame(
        {
            "type": pd.Categorical(TYPES[kind] if labels is None else labels),
            "level": pd.Categorical(np.where(kind == 0, "low", "high")),
        },
        index=[f"r{i}" for i in range(n)],
    )
    obs["donor"] = pd.Categorical([f"d{i % 2}" for i in range(n)])
    out = ReferenceFolder(tmp_path / "scale")
    calibrate_reference(
        prepared(ReferenceFolder(tmp_path / "cells"), latent, obs, ["type", "level"], "donor"), None, 0, 0.2, k, out
    )
    return out


def mapped_cells(folder, latent):
    mapped = MappedFolder(folder)
    mapped.results.mkdir(parents=True)
    (mapped.results / "table.csv").write_text("a\n")
    mapped.history.write_text("epoch\n")
    obs = pd.DataFrame({"type_predicted": pd.Categorical(["T"] * len(latent))}, index=[f"q{i}" for i in range(len(latent))])
    write_zarr(ad.AnnData(obs=obs, obsm={"X_emb": latent.astype(np.float32)}), mapped.embedding)
    mapped.record.write_text(json.dumps({"model": "atlas", "seed": 0}))
    return mapped


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A query of three types and of one that the reference lacks, with labels: (folder, types, the scale)."""
    folder = tmp_path_factory.mktemp("transfer")
    scale = scale_of(folder)
    latent, kind = groups(90, seed=5)
    latent = np.concatenate([latent, np.full((10, 3), 30) + np.random.default_rng(0).normal(size=(10, 3))])
    # Surgery may add dimensions behind those of the reference.
    mapped = mapped_cells(folder / "mapped", np.hstack([latent, np.full((100, 1), 7)]))
    out = MappedFolder(folder / "labelled")
    transfer(mapped, scale, 0.2, True, out)
    return out, kind, scale


def test_all_columns_of_labels_are_transferred_at_once(labelled):
    out, kind, _ = labelled
    obs = ad.read_zarr(out.embedding).obs
    assert list(obs) == [
        *("type_predicted", "type_transferred", "level_transferred", "type_best", "type_best_level"),
        *("type_uncertainty", "level_uncertainty"),
        *("reference_distance", "novelty_pvalue", "reference_separation", "separation_pvalue"),
    ]
    assert list(obs["type_transferred"][:90]) == list(TYPES[kind])
    assert list(obs["level_transferred"][:90]) == list(np.where(kind == 0, "low", "high"))
    assert set(obs["type_predicted"]) == {"T"}
    assert obs["type_uncertainty"].dtype == np.float32 and (obs["type_uncertainty"][:90] < 0.01).all()


def test_a_type_that_the_reference_lacks_is_novel(labelled):
    out, _, _ = labelled
    obs = ad.read_zarr(out.embedding).obs
    assert (obs["novelty_pvalue"][90:] == np.float32(1 / 301)).all()
    assert (obs["novelty_pvalue"][:90] < 0.05).mean() < 0.12
    assert obs["reference_distance"][90:].min() > 10 * obs["reference_distance"][:90].max()


def test_query_cells_are_placed_among_the_reference_cells_of_their_type(labelled):
    out, kind, scale = labelled
    at = np.asarray(ad.read_zarr(out.embedding).obsm["X_umap_reference"])
    cells = ad.read_zarr(scale.cells)
    centre = {name: cells.obsm["X_umap"][(cells.obs["type"] == name).to_numpy()].mean(axis=0) for name in TYPES}
    nearest = np.argmin([np.linalg.norm(at[:90] - centre[name], axis=1) for name in TYPES], axis=0)
    assert at.shape == (100, 2) and at.dtype == np.float32
    assert (nearest == kind).all()


def test_what_the_mapping_gave_is_carried_along(labelled):
    out, _, _ = labelled
    assert (out.results / "table.csv").read_text() == "a\n" and out.history.read_text() == "epoch\n"
    record = json.loads(out.record.read_text())
    assert record["model"] == "atlas"
    told = record["transfer"]
    assert told["n_cells"] == 300 and told["neighbors"] == 50 and told["threshold"] == 0.2
    assert sum(told["labels"]["type"]["counts"].values()) == 100
    assert {key: of["calibrated_on"] for key, of in told["labels"].items()} == {"type": "seen", "level": "unseen"}
    embedding = ad.read_zarr(out.embedding)
    probabilities = embedding.obsm["type_transferred_probabilities"]
    assert probabilities.shape == (100, 3)
    given = read_labels(out, embedding, ["type", "level"])["type"]
    assert given.classes == sorted(TYPES) and (given.places == probabilities.argmax(axis=1)).all()
    np.testing.assert_allclose(given.uncertainty, 1 - probabilities.max(axis=1), atol=1e-6)


def test_cells_are_looked_at_block_by_block(tmp_path, labelled, monkeypatch):
    out, _, scale = labelled
    latent = np.asarray(ad.read_zarr(out.embedding).obsm["X_emb"])
    monkeypatch.setattr(transferring, "HELD", 7)
    monkeypatch.setattr(separating, "HELD", 9)
    again = MappedFolder(tmp_path / "again")
    transfer(mapped_cells(tmp_path / "mapped", latent), scale, 0.2, True, again)
    pd.testing.assert_frame_equal(ad.read_zarr(again.embedding).obs, ad.read_zarr(out.embedding).obs, rtol=1e-6)
    assert np.load(again.labels).tolist() == np.load(out.labels).tolist()
    assert json.loads(again.record.read_text()) == json.loads(out.record.read_text())


def test_the_scale_of_a_reference(labelled):
    _, _, scale = labelled
    record = json.loads(scale.record.read_text())
    assert record["held_out"] == {"by": "batch", "n": 300} and record["n_latent"] == 3
    for scores in ("distances", "separations"):
        assert len(record[scores]) == 300 and record[scores] == sorted(record[scores])
    assert np.median(record["separations"]) == pytest.approx(1, abs=0.1)
    assert record["calibration"]["type"]["accuracy"] == 1 and record["calibration"]["type"]["n"] == 300
    cells = ad.read_zarr(scale.cells)
    assert cells.obsm["X_umap"].shape == (300, 2) and np.isfinite(cells.obsm["X_umap"]).all()


def test_held_out_cells_without_a_label_at_a_level_count_as_unknown_there(tmp_path):
    """As those of a query do: a light that compared these with labelled cells alone would call its finer levels bad."""
    _, kind = groups(300)
    scale = scale_of(tmp_path, labels=np.where(kind == 2, None, TYPES[kind]))
    found = json.loads(scale.record.read_text())["calibration"]
    assert found["type"]["unknown_share"] == 0 and found["type"]["unknown_of_all"] == pytest.approx((kind == 2).mean())
    assert found["level"]["unknown_of_all"] == 0
    latent, of_query = groups(90, seed=5)
    out = MappedFolder(tmp_path / "labelled")
    transfer(mapped_cells(tmp_path / "mapped", latent), scale, 0.2, False, out)
    obs = ad.read_zarr(out.embedding).obs
    told = unknown({key: obs[f"{key}_transferred"] for key in found}, {"type": 2, "level": 2}, found)
    assert told["levels"]["type"]["value"] == round((of_query == 2).mean(), 4) and told["worst"] < 0.1


def test_labels_are_calibrated_on_hidden_cells_alone_where_there_are_any(tmp_path):
    """Computed anew by brute force: the weights of the 50 nearest cells of other batches, whose labels may be hidden too."""
    rng = np.random.default_rng(0)
    latent, kind = groups(400)
    latent = (latent + rng.normal(scale=4, size=latent.shape)).astype(np.float32)  # so that some are wrong
    donors = np.resize(["d0", "d1", "d2"], 400)
    hidden = rng.random(400) < 0.2
    obs = pd.DataFrame(
        {"type": pd.Categorical(TYPES[kind]), "donor": pd.Categorical(donors)}, index=[f"r{i}" for i in range(400)]
    )
    seen = ReferenceFolder(tmp_path / "seen")
    calibrate_reference(prepared(ReferenceFolder(tmp_path / "a"), latent, obs, ["type"], "donor"), None, 0, 0.2, 50, seen)
    obs[HIDDEN_COLUMN] = hidden
    out = ReferenceFolder(tmp_path / "hidden")
    calibrate_reference(prepared(ReferenceFolder(tmp_path / "b"), latent, obs, ["type"], "donor"), None, 0, 0.2, 50, out)

    right, certainty = [], []
    for row in np.flatnonzero(hidden):
        others = np.flatnonzero(donors != donors[row])
        distance = np.linalg.norm(latent[others].astype(float) - latent[row].astype(float), axis=1)
        near = np.argsort(distance)[:50]
        weight = np.exp(-distance[near] * distance[near].std() ** 2 / 4)
        share = np.bincount(kind[others[near]], weights=weight, minlength=3) / weight.sum()
        right.append(share.argmax() == kind[row]), certainty.append(share.max())
    right, kept = np.array(right), np.array(certainty) >= 0.8
    before, after = (json.loads(folder.record.read_text()) for folder in (seen, out))
    found = after["calibration"]["type"]
    assert (found["n"], found["by"], found["calibrated_on"]) == (hidden.sum(), "batch", "hidden")
    assert 0.5 < right.mean() < 1 and found["accuracy"] == pytest.approx(right.mean())
    assert found["unknown_share"] == pytest.approx(1 - kept.mean()) and found["accuracy_kept"] == pytest.approx(
        right[kept].mean()
    )
    # What distances and separations are measured on stays
    for name in ("held_out", "distances", "separations"):
        assert after[name] == before[name]
    assert (before["calibration"]["type"]["n"], before["calibration"]["type"]["calibrated_on"]) == (400, "seen")
    assert ad.read_zarr(out.cells).obs["type"].tolist() == list(TYPES[kind])


def test_hidden_cells_are_held_out_with_their_batch_from_all_others():
    latent, _ = groups(400)
    among = np.arange(0, 400, 7)
    batches = pd.Series(np.resize(["a", "b"], 400), dtype=object)
    held = hold_out(latent, batches, seed=0, among=among)
    np.testing.assert_array_equal(held.rows, among)
    whole = hold_out(latent, batches, seed=0)
    np.testing.assert_array_equal(held.neighbors.indices, whole.neighbors.indices[among])
    assert set(hold_out(latent, batches, seed=0, most=10, among=among).rows) < set(among)


@pytest.mark.parametrize(("n", "labels"), [(1, ["A"]), (10, ["A"] * 10), (10, [None] * 10), (20, ["A"] * 20)])
@pytest.mark.parametrize("n_query", [1, 10])
def test_tiny_references_and_queries(tmp_path, n, labels, n_query):
    scale = scale_of(tmp_path, n=n, labels=labels)
    out = MappedFolder(tmp_path / "out")
    transfer(mapped_cells(tmp_path / "mapped", groups(n_query, seed=3)[0]), scale, 0.2, False, out)
    obs = ad.read_zarr(out.embedding).obs
    assert set(obs["type_transferred"]) == ({"A"} if labels[0] else {"Unknown"})
    assert obs["novelty_pvalue"].isna().all() if n == 1 else obs["novelty_pvalue"].between(0, 1).all()
    assert obs["reference_separation"].isna().all() and obs["separation_pvalue"].isna().all()
    assert np.isfinite(ad.read_zarr(out.embedding).obsm["X_umap_reference"]).all()


def test_an_embedding_of_another_size_is_refused(tmp_path):
    mapped = mapped_cells(tmp_path / "mapped", np.zeros((4, 2)))
    with pytest.raises(
        RefmapError,
        match=r"has 2 dimensions and that of its reference cells '.*' 3: name the embedding of these that the model gave",
    ):
        transfer(mapped, scale_of(tmp_path), 0.2, False, MappedFolder(tmp_path / "out"))


def test_a_cell_is_placed_by_those_neighbours_that_have_a_place():
    positions = np.array([[0, 0], [np.nan, np.nan], [4, 2]], dtype=np.float32)
    near = Neighbors(np.array([[0, 1, 2], [1, 1, 1]]), np.ones((2, 3)))
    at = place(near, positions)
    assert at[0].tolist() == [2, 1] and np.isnan(at[1]).all()


def test_programmes_that_a_query_adds_among_those_of_its_reference_are_not_looked_at():
    uns = {"refmap": {"latent_names": np.array(["a", "b", "new", "unconstrained_1"], dtype=object)}}
    scale = {"n_latent": 3, "latent_names": ["a", "b", "unconstrained_1"], "reference": "atlas.h5ad"}
    assert list(shared_dimensions(4, uns, scale)) == [0, 1, 3]
    assert list(shared_dimensions(4, {"refmap": {}}, scale)) == [0, 1, 2]
