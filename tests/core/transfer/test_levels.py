"""Columns of labels that are levels of one annotation: which they are, that transferred labels agree, and the finest that is certain."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refmap.common.folders import MappedFolder, ReferenceFolder
from refmap.common.storage import write_zarr
from refmap.transfer import calibrate as calibration_step
from refmap.transfer.calibrate import calibrate_reference
from refmap.transfer.columns import write_labels
from refmap.transfer.labels import Given, transfer_labels
from refmap.transfer.levels import Levels, best_labels, certain_with_finer, find_levels, transfer_columns
from refmap.transfer.neighbors import Neighbors
from refmap.transfer.transfer import transfer
from rows import PREPARED

# An annotation of three levels, as of a lung; the finest level knows nothing of some types
TREE = [
    ("Immune", "Lymphoid", "B cell"),
    ("Immune", "Lymphoid", "T cell"),
    ("Immune", "Lymphoid", "NK cell"),
    ("Immune", "Myeloid", "Macrophage"),
    ("Immune", "Myeloid", "Monocyte"),
    ("Epithelial", "Airway", "Basal"),
    ("Epithelial", "Airway", "Club"),
    ("Epithelial", "Alveolar", None),
    ("Stroma", "Fibroblast", None),
]
KEYS = ["ann_level_1", "ann_level_2", "ann_level_3"]
ANNOTATION = Levels(
    "ann_level",
    tuple(KEYS),
    {
        "ann_level_2": {
            "Lymphoid": "Immune", "Myeloid": "Immune", "Airway": "Epithelial", "Alveolar": "Epithelial", "Fibroblast": "Stroma",
        },
        "ann_level_3": {
            "B cell": "Lymphoid", "T cell": "Lymphoid", "NK cell": "Lymphoid", "Macrophage": "Myeloid", "Monocyte": "Myeloid",
            "Basal": "Airway", "Club": "Airway",
        },
    },
)  # fmt: skip


def annotated(n=900, seed=0, keys=KEYS):
    """The labels of cells of that annotation, and the row of the tree of each."""
    kind = np.random.default_rng(seed).integers(0, len(TREE), n)
    return {key: pd.Series([TREE[k][level] for k in kind], dtype=object) for level, key in enumerate(keys)}, kind


def shuffled(labels, share, seed=0):
    """The same labels, those of a share of the cells given to each other."""
    rng = np.random.default_rng(seed)
    values = labels.to_numpy(dtype=object).copy()
    rows = np.flatnonzero(rng.random(len(values)) < share)
    values[rows] = rng.permutation(values[rows])
    return pd.Series(values, dtype=object)


# --- which columns are levels ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [KEYS, KEYS[::-1], [KEYS[1], KEYS[2], KEYS[0]]])
@pytest.mark.parametrize("share", [0, 0.005])
def test_levels_are_found_in_their_order_though_few_cells_err(order, share):
    labels, _ = annotated()
    labels["ann_level_2"] = shuffled(labels["ann_level_2"], share)
    assert find_levels({key: labels[key] for key in order}) == [ANNOTATION]


def test_columns_that_do_not_nest_are_left_alone():
    labels, _ = annotated()
    assert find_levels({"ann_level_2": labels["ann_level_2"], "ann_level_3": shuffled(labels["ann_level_3"], 0.05)}) == []
    rng = np.random.default_rng(1)
    unrelated = pd.Series(rng.choice(["healthy", "asthma"], 900), dtype=object)
    assert find_levels({"disease": unrelated, **labels}) == [ANNOTATION]


def test_ninety_nine_of_a_hundred_cells_suffice_and_ninety_eight_do_not():
    coarse = ["A"] * 50 + ["B"] * 50
    for wrong, nested in ((1, True), (2, False)):
        fine = ["a1"] * 25 + ["a2"] * 25 + ["b1"] * (25 + wrong) + ["b2"] * (25 - wrong)
        moved = ["b1"] * wrong + fine[wrong:]
        found = find_levels({"coarse": pd.Series(coarse), "fine": pd.Series(moved)})
        assert bool(found) == nested, wrong


def test_in_a_column_that_is_nearly_all_one_label_nothing_nests():
    labels, kind = annotated(2000)
    doublets = pd.Series(np.where(np.arange(2000) % 250 == 0, "doublet", "singlet"), dtype=object)
    assert (doublets == "doublet").mean() < 0.01
    assert find_levels({"doublet": doublets, "type": labels["ann_level_2"]}) == []
    assert find_levels({"tissue": pd.Series(["lung"] * 2000), "type": labels["ann_level_2"]}) == []


def test_labels_of_one_cell_are_no_evidence():
    coarse = pd.Series(["A", "B"] * 10)
    assert find_levels({"coarse": coarse, "cell": pd.Series([f"c{i}" for i in range(20)])}) == []


def test_a_column_under_two_names_is_no_second_level():
    labels, _ = annotated()
    ids = labels["ann_level_2"].map({name: f"CL:{number}" for number, name in enumerate(labels["ann_level_2"].unique())})
    assert find_levels({"type": labels["ann_level_2"], "type_id": ids}) == []
    assert find_levels({"lineage": labels["ann_level_1"], "type": labels["ann_level_2"], "type_id": ids})[0].keys == (
        "lineage",
        "type",
    )


def test_a_finer_level_may_name_fewer_labels_than_a_coarser_one():
    """As ann_level_5 of the Human Lung Cell Atlas, which knows some types alone; or one label for one, of some of its cells."""
    labels, _ = annotated()
    split = pd.Series(np.where(np.arange(900) % 2, "Naive", "Memory"), dtype=object).where(
        labels["ann_level_3"] == "B cell", "None"
    )
    found = find_levels({"ann_level_4": split, **labels})
    assert [(levels.name, levels.keys) for levels in found] == [("ann_level", (*KEYS, "ann_level_4"))]
    assert found[0].parents["ann_level_4"] == {"Memory": "B cell", "Naive": "B cell"}
    some = pd.Series("Hillock", index=range(900), dtype=object).where(
        (labels["ann_level_3"] == "Basal") & (np.arange(900) % 3 > 0)
    )
    some[labels["ann_level_3"] == "Club"] = "Goblet"
    assert find_levels({"ann_level_4": some, **labels})[0].keys == (*KEYS, "ann_level_4")


def test_a_finer_label_whose_cells_have_no_coarser_one_makes_no_level():
    labels, _ = annotated()
    labels["ann_level_1"] = labels["ann_level_1"].mask(labels["ann_level_2"] == "Airway")
    assert [levels.keys for levels in find_levels(labels)] == [("ann_level_2", "ann_level_3")]


def test_two_annotations_are_two_chains():
    first, _ = annotated(keys=["ann_1", "ann_2", "ann_3"])
    second, _ = annotated(seed=7, keys=["zone", "layer", "spot"])
    found = find_levels({"layer": second["layer"], **first, "zone": second["zone"]})
    assert [(levels.name, levels.keys) for levels in found] == [
        ("ann", ("ann_1", "ann_2", "ann_3")),
        ("layer", ("zone", "layer")),
    ]


def test_of_columns_that_both_hold_a_finer_one_the_longer_chain_is_taken():
    labels, kind = annotated()
    other = pd.Series(np.array([0, 1, 0, 1, 0, 1, 0, 1, 0])[kind].astype(str), dtype=object)
    by_kind = pd.Series([str(k) for k in kind], dtype=object)
    found = find_levels(
        {"odd": other, "ann_level_1": labels["ann_level_1"], "ann_level_2": labels["ann_level_2"], "kind": by_kind}
    )
    assert [levels.keys for levels in found] == [("ann_level_1", "ann_level_2", "kind")]


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        (["ann_level_1", "ann_level_2", "ann_level_3"], "ann_level"),
        (["broad_type", "cell_type", "cell_subtype"], "cell_subtype"),
        (["celltype.l1", "celltype.l2", "celltype.l3"], "celltype"),
        (["cell_type", "cell_type_fine", "cell_type_finest"], "cell_type"),
        (["cell_class", "cell_type", "cell_types_all"], "cell"),
        (["level1", "level2", "level10"], "level"),
        (["class", "type", "subtype"], "subtype"),
        (["1", "2", "3"], "3"),
    ],
)
def test_the_annotation_is_called_by_what_its_columns_begin_with(keys, name):
    assert find_levels(annotated(keys=keys)[0])[0].name == name


# --- labels that agree ----------------------------------------------------------------------------------------------------


def neighbors_of(n_reference, n, k, seed):
    rng = np.random.default_rng(seed)
    return Neighbors(rng.integers(0, n_reference, (n, k)), np.sort(rng.exponential(size=(n, k)), axis=1))


def alike(*rows):
    """Cells whose neighbours are the given ones, and weigh alike."""
    return Neighbors(np.array(rows), np.ones((len(rows), len(rows[0]))))


def test_by_hand():
    """The fine label that weighs most is B1, and the coarse one A: the fine label is the child of A that weighs most."""
    labels = {
        "coarse": pd.Series(["A"] * 6 + ["B"] * 4, dtype=object),
        "fine": pd.Series(["a1", "a1", "a2", "a2", "a3", "a3", "b1", "b1", "b2", "b2"], dtype=object),
    }
    levels = find_levels(labels)
    found = transfer_columns(labels, alike([0, 1, 2, 4, 6, 7, 6], [0, 0, 2, 4, 6, 6, 6], [6, 6, 6, 8, 0, 0, 2]), levels)
    assert found["coarse"].best.tolist() == ["A", "A", "B"]
    assert transfer_labels(labels["fine"], alike([0, 0, 2, 4, 6, 6, 6])).best.tolist() == ["b1"]
    assert found["fine"].best.tolist() == ["a1", "a1", "b1"]
    np.testing.assert_allclose(found["coarse"].uncertainty, [3 / 7, 3 / 7, 3 / 7], atol=1e-6)
    np.testing.assert_allclose(found["fine"].uncertainty, [5 / 7, 5 / 7, 4 / 7], atol=1e-6)
    assert found["fine"].probabilities.shape == (3, 5) and found["fine"].probabilities.dtype == np.float32


def test_neighbours_without_a_finer_label_speak_against_those_that_there_are():
    """One stray cell with a fine label, among cells that have none, names no cell."""
    coarse = ["A"] * 12 + ["B"] * 4 + [None]
    fine = [None] * 8 + ["a1", "a1", "a2", "a2", "b1", "b1", "b2", "b2", "b2"]
    labels = {"coarse": pd.Series(coarse, dtype=object), "fine": pd.Series(fine, dtype=object)}
    levels = find_levels(labels)
    assert [each.keys for each in levels] == [("coarse", "fine")]
    found = transfer_columns(labels, alike([0, 1, 2, 8], [0, 1, 2, 3], [12, 12, 14, 16], [0, 1, 2, 14]), levels)
    assert found["coarse"].best.tolist() == ["A", "A", "B", "A"]
    assert found["fine"].best.tolist() == ["a1", "Unknown", "b1", "Unknown"]
    np.testing.assert_allclose(found["fine"].uncertainty, [0.75, 1, 0.5, 1])
    # The last has no coarse label, and that of its fine one: b1 and b2 weigh as much as B
    np.testing.assert_allclose(found["coarse"].uncertainty, [0, 0, 0, 0.25], atol=1e-6)
    np.testing.assert_allclose(found["fine"].probabilities[2], [0, 0, 0.5, 0.5])


def test_a_cell_whose_labels_contradict_each_other_has_the_coarse_one_alone():
    labels, _ = annotated()
    row = int(np.flatnonzero(labels["ann_level_3"] == "Macrophage")[0])
    labels["ann_level_3"].iloc[row] = "Basal"
    levels = find_levels(labels)
    found = transfer_columns(labels, alike([row]), levels)
    assert {key: given.best.tolist() for key, given in found.items()} == {
        "ann_level_1": ["Immune"],
        "ann_level_2": ["Myeloid"],
        "ann_level_3": ["Unknown"],
    }


def test_columns_that_are_no_levels_are_equal_to_the_last_digit():
    labels, _ = annotated()
    labels["disease"] = pd.Series(np.random.default_rng(3).choice(["healthy", "asthma", None], 900), dtype=object)
    neighbors = neighbors_of(900, 200, 50, 0)
    found = transfer_columns(labels, neighbors, find_levels(labels))
    assert list(found) == list(labels)
    for key in ("disease", "ann_level_1"):  # the coarsest level knows of none above it
        alone = transfer_labels(labels[key], neighbors)
        assert found[key].classes == alone.classes
        np.testing.assert_array_equal(found[key].probabilities, alone.probabilities)
        np.testing.assert_array_equal(found[key].uncertainty, alone.uncertainty)
        assert (found[key].best == alone.best).all()


def test_where_all_agree_levels_change_nothing():
    labels, kind = annotated(keys=KEYS)
    labels = {key: labels[key] for key in KEYS[:2]}
    neighbors = alike(*(np.flatnonzero(kind == k)[:10] for k in range(len(TREE))))
    found = transfer_columns(labels, neighbors, find_levels(labels))
    for level, key in enumerate(KEYS[:2]):
        assert found[key].best.tolist() == [row[level] for row in TREE]
        np.testing.assert_allclose(found[key].uncertainty, 0, atol=1e-6)
        np.testing.assert_allclose(found[key].probabilities, transfer_labels(labels[key], neighbors).probabilities, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 30),
    st.sampled_from([0, 0.005, 0.01]),
    st.sampled_from([0, 0.1, 0.4]),
    st.sampled_from([0.1, 0.5, 1]),
)
def test_no_two_levels_contradict_each_other(seed, k, share, missing, threshold):
    rng = np.random.default_rng(seed)
    labels, _ = annotated(600, seed)
    for key in KEYS:
        labels[key] = shuffled(labels[key], share, seed).mask(rng.random(600) < missing / 4)
    labels["ann_level_3"] = labels["ann_level_3"].mask(rng.random(600) < missing)
    levels = find_levels(labels)
    neighbors = neighbors_of(600, 40, k, seed)
    found = transfer_columns(labels, neighbors, levels)
    for chain in levels:
        for coarse, fine in zip(chain.keys, chain.keys[1:]):
            parents = {label: chain.parents[fine][label] for label in found[fine].classes} | {"Unknown": "Unknown"}
            for name in (lambda given: given.best, lambda given: given.labels(threshold)):
                above, below = name(found[coarse]), name(found[fine])
                agree = np.array([parents[label] for label in below]) == above
                assert (agree | (below == "Unknown")).all()
            assert (found[fine].uncertainty >= found[coarse].uncertainty).all()
            # Children together never weigh more than their parent
            column = [found[coarse].classes.index(chain.parents[fine][label]) for label in found[fine].classes]
            together = np.zeros_like(found[coarse].probabilities)
            np.add.at(together.T, column, found[fine].probabilities.T)
            assert (together <= found[coarse].probabilities + 1e-5).all()


# --- the finest level that is certain -------------------------------------------------------------------------------------


def test_the_finest_certain_level_by_hand():
    labels = {
        "ann_level_1": np.array(["Immune", "Immune", "Immune", "Epithelial", "Unknown"], dtype=object),
        "ann_level_2": np.array(["Myeloid", "Lymphoid", "Lymphoid", "Airway", "Unknown"], dtype=object),
        "ann_level_3": np.array(["Monocyte", "B cell", "Unknown", None, "Unknown"], dtype=object),
    }
    certain = {
        "ann_level_1": [True, True, True, False, True],
        "ann_level_2": [True, False, False, False, True],
        "ann_level_3": [True, False, True, True, True],
    }
    best, level = best_labels(ANNOTATION, {key: pd.Categorical(values) for key, values in labels.items()}, certain)
    assert best.tolist() == ["Monocyte", "Immune", "Immune", "Unknown", "Unknown"]
    assert list(best.categories) == ["Immune", "Monocyte", "Unknown"]
    assert (
        level.tolist()[:3] == ["ann_level_3", "ann_level_1", "ann_level_1"] and level.isna().tolist() == [False] * 3 + [True] * 2
    )


def test_a_finer_level_may_be_certain_where_a_coarser_one_is_not_and_vouches_for_it():
    labels = {key: pd.Categorical([name, name]) for key, name in zip(KEYS, TREE[0])}
    certain = {
        "ann_level_1": np.array([False, False]),
        "ann_level_2": np.array([True, False]),
        "ann_level_3": np.array([False] * 2),
    }
    assert best_labels(ANNOTATION, labels, certain)[0].tolist() == ["Lymphoid", "Unknown"]
    kept = certain_with_finer(ANNOTATION, labels, certain)
    assert {key: kept[key].tolist() for key in KEYS} == {
        "ann_level_1": [True, False],
        "ann_level_2": [True, False],
        "ann_level_3": [False, False],
    }


def given_labels(classes, labels):
    return Given(classes, np.array([classes.index(name) for name in labels], dtype=np.int32), np.zeros(len(labels), np.float32))


def test_labels_are_written_as_columns_and_told():
    obs = pd.DataFrame(index=["c1", "c2", "c3"])
    best = {key: np.array([TREE[0][i], TREE[3][i], TREE[5][i]], dtype=object) for i, key in enumerate(KEYS)}
    best["disease"] = np.array(["asthma", "asthma", "healthy"], dtype=object)
    given = {key: given_labels(sorted(set(values)), values) for key, values in best.items()}
    certain = {
        "ann_level_1": np.array([False, True, False]),
        "ann_level_2": np.array([False, True, False]),
        "ann_level_3": np.array([True, False, False]),
        "disease": np.array([True, False, True]),
    }
    told = write_labels(obs, given, certain, [ANNOTATION])
    assert obs["ann_level_1_transferred"].tolist() == ["Immune", "Immune", "Unknown"]
    assert obs["ann_level_3_transferred"].tolist() == ["B cell", "Unknown", "Unknown"]
    assert list(obs["ann_level_3_transferred"].cat.categories) == ["B cell", "Basal", "Macrophage", "Unknown"]
    assert obs["disease_transferred"].tolist() == ["asthma", "Unknown", "healthy"]
    assert obs["ann_level_best"].tolist() == ["B cell", "Myeloid", "Unknown"]
    assert obs["ann_level_best_level"].tolist()[:2] == ["ann_level_3", "ann_level_2"] and obs["ann_level_best_level"].isna()["c3"]
    assert obs["ann_level_best_level"].cat.ordered and list(obs["ann_level_best_level"].cat.categories) == KEYS
    assert told["annotations"] == [
        {"name": "ann_level", "levels": {"ann_level_1": 0, "ann_level_2": 1, "ann_level_3": 1}, "unknown": pytest.approx(1 / 3)}
    ]
    assert told["labels"]["ann_level_1"]["counts"] == {"Immune": 2, "Unknown": 1}
    assert told["labels"]["disease"]["unknown"] == pytest.approx(1 / 3)


def test_the_columns_are_those_that_the_labels_of_each_cell_make_as_text():
    rng, n = np.random.default_rng(0), 500
    names = {key: sorted({row[level] for row in TREE if row[level]}) for level, key in enumerate(KEYS)}
    # A label of the reference may be called so itself
    names["disease"] = ["Unknown", "asthma", "healthy", "never"]
    given = {
        key: Given(classes, rng.integers(-1, min(len(classes), 3), n).astype(np.int32), np.zeros(n, np.float32))
        for key, classes in names.items()
    }
    certain = {key: rng.random(n) < 0.5 for key in names}
    certain["ann_level_1"][:] = given["ann_level_1"].places >= 0
    obs = pd.DataFrame(index=range(n))
    told = write_labels(obs, given, certain, [ANNOTATION])
    kept, finer = dict(certain), np.zeros(n, dtype=bool)
    for key in reversed(KEYS):
        kept[key] = finer = (given[key].best != "Unknown") & (certain[key] | finer)
    best, level = np.full(n, "Unknown", dtype=object), np.full(n, None, dtype=object)
    for key, found in given.items():
        labels = np.where(kept[key], found.best, "Unknown")
        categories = list(dict.fromkeys([*names[key], *(["Unknown"] if "Unknown" in labels else [])]))
        pd.testing.assert_extension_array_equal(obs[f"{key}_transferred"].array, pd.Categorical(labels, categories=categories))
        assert list(told["labels"][key]["counts"].items()) == list(pd.Series(labels).value_counts().items())
        if key in KEYS:
            best[kept[key]], level[kept[key]] = found.best[kept[key]], key
    categories = [*sorted(set(best) - {"Unknown"}), "Unknown"]
    pd.testing.assert_extension_array_equal(obs["ann_level_best"].array, pd.Categorical(best, categories=categories))
    expected = pd.Categorical(level, categories=KEYS, ordered=True)
    pd.testing.assert_extension_array_equal(obs["ann_level_best_level"].array, expected)


# --- the steps ------------------------------------------------------------------------------------------------------------


def prepared(folder, keys=KEYS, **further):
    """A reference of that annotation, whose types of one lineage lie near each other."""
    labels, kind = annotated(900)
    at = np.array([[0, 0], [0, 6], [6, 0], [40, 0], [46, 0], [0, 80], [6, 80], [40, 80], [90, 90]], dtype=float)
    latent = (at[kind] + np.random.default_rng(0).normal(size=(900, 2))).astype(np.float32)
    cells = ReferenceFolder(folder)
    cells.folder.mkdir()
    obs = pd.DataFrame({key: pd.Categorical(values) for key, values in labels.items()}).set_axis([f"r{i}" for i in range(900)])
    write_zarr(ad.AnnData(obs=obs, obsm={"X_emb": latent, "X_umap": latent}), cells.cells)
    told = PREPARED | {"map": "own", "n_cells": 900, "keys": keys}
    cells.record.write_text(json.dumps(told | further))
    return cells


@pytest.fixture(scope="module")
def scale(tmp_path_factory):
    folder = tmp_path_factory.mktemp("levels")
    calibrate_reference(prepared(folder / "cells"), None, 0, 0.2, 30, ReferenceFolder(folder / "scale"))
    return ReferenceFolder(folder / "scale")


def test_a_query_between_two_types_has_the_label_of_both(scale, tmp_path):
    places = np.array([[0, 0], [46, 0], [43, 0], [90, 90], [np.nan, np.nan]], dtype=np.float32)
    mapped, out = MappedFolder(tmp_path / "mapped"), MappedFolder(tmp_path / "out")
    mapped.results.mkdir(parents=True)
    write_zarr(ad.AnnData(obs=pd.DataFrame(index=[f"q{i}" for i in range(5)]), obsm={"X_emb": places}), mapped.embedding)
    mapped.record.write_text(json.dumps({"seed": 0}))
    transfer(mapped, scale, 0.2, False, out)
    obs = ad.read_zarr(out.embedding).obs
    assert obs["ann_level_best"].tolist() == ["B cell", "Monocyte", "Myeloid", "Fibroblast", "Unknown"]
    assert obs["ann_level_best_level"].astype(object).tolist()[:4] == ["ann_level_3", "ann_level_3", "ann_level_2", "ann_level_2"]
    assert obs["ann_level_best_level"].isna().tolist() == [False] * 4 + [True]
    assert obs["ann_level_3_transferred"].tolist() == ["B cell", "Monocyte", "Unknown", "Unknown", "Unknown"]
    assert obs["ann_level_1_transferred"].tolist() == ["Immune", "Immune", "Immune", "Stroma", "Unknown"]
    said = json.loads(out.record.read_text())["transfer"]
    assert said["annotations"] == [
        {"name": "ann_level", "levels": {"ann_level_1": 0, "ann_level_2": 2, "ann_level_3": 2}, "unknown": 0.2}
    ]


def test_the_scale_of_levels_is_taken_over_where_they_are_the_same(scale, tmp_path, monkeypatch):
    record = json.loads(scale.record.read_text())
    assert record["levels"] == [KEYS]
    assert all(record["calibration"][key]["accuracy"] > 0.95 for key in KEYS)
    kept = {name: record[name] for name in ("seed", "neighbors", "held_out", "distances", "separations", "calibration", "levels")}
    computed = []
    hold_out = calibration_step.hold_out
    monkeypatch.setattr(calibration_step, "hold_out", lambda *args, **how: computed.append(1) or hold_out(*args, **how))
    # Labels at a finer level hang on the coarser ones: without these they are others. So they are where each column stood alone.
    for number, (keys, saved, times) in enumerate(
        [(KEYS, kept, 0), (KEYS[:1], kept, 1), (KEYS[1:], kept, 1), (KEYS, kept | {"levels": []}, 1)]
    ):
        computed.clear()
        out = ReferenceFolder(tmp_path / f"scale_{number}")
        calibrate_reference(prepared(tmp_path / f"cells_{number}", keys, saved_scale=saved), None, 0, 0.2, 30, out)
        found = json.loads(out.record.read_text())
        assert len(computed) == times, keys
        assert found["levels"] == ([keys] if len(keys) > 1 else []) and list(found["calibration"]) == keys
        if keys == KEYS:
            assert found["calibration"] == record["calibration"]
