"""The hierarchy in a model's folder: what a card says of it, without scHPL."""

from __future__ import annotations

import json
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from refmap.common.errors import RefmapError
from refmap.families import trainable
from refmap.families.unmapped import about_foreign_tree, foreign_tree
from refmap.hierarchy import FAMILY, OPTIONS, base_parameters, below_hierarchy, card_of, split_options, with_hierarchy
from refmap.hierarchy.classifier import Settings
from refmap.hierarchy.files import Hierarchy, labelled_cells, labels_of, read_cells, read_hierarchy
from refmap.hierarchy.matches import match_table
from refmap.hierarchy.tree import Label, Node, newick, unique_names
from refmap.models.card import ModelCard
from refmap.models.folder import ModelFolder
from refmap.reference.inspection import inspect_model

REF, LUNG = "reference", "lung~donor_1"
SETTINGS = Settings(50, 0.5, 0.25, 99, True, 10)


def a_tree() -> Node:
    """T of the reference has the parts CD4 and CD8 of the query; B is B of both, and the query's NK is not the reference's."""
    parts = [Node([Label(LUNG, "CD4")]), Node([Label(LUNG, "CD8")])]
    return Node(
        [],
        [
            Node([Label(REF, "B"), Label(LUNG, "B cell")]),
            Node([Label(REF, "T")], parts),
            Node([Label(REF, "NK")]),
            Node([Label(LUNG, "NK")]),
        ],
    )


@pytest.fixture
def model(tmp_path) -> Path:
    """A model's folder with a hierarchy of five cells."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.pt").write_bytes(b"weights")
    labels = [Label(REF, "B"), Label(REF, "B"), Label(REF, "T"), Label(REF, "NK"), Label(LUNG, "CD4")]
    counts = {label: labels.count(label) for label in dict.fromkeys(labels)}
    hierarchy = Hierarchy("cell_type", "Unknown", [REF, LUNG], SETTINGS, a_tree(), 3, counts, ["a note"])
    hierarchy.write(folder, labelled_cells(np.arange(15).reshape(5, 3), labels, "abcde"))
    return folder


def test_what_is_written_is_read_back(model):
    found, cells = read_hierarchy(ModelFolder(model)), read_cells(model)
    assert found.tree.to_json(found.names) == a_tree().to_json(unique_names(a_tree(), [REF, LUNG]))
    assert (found.labels_key, found.unlabeled_category, found.datasets) == ("cell_type", "Unknown", [REF, LUNG])
    assert found.settings == SETTINGS and found.notes == ["a note"] and found.n_cells[Label(REF, "B")] == 2
    assert cells.obsm["X_emb"].dtype == np.float32 and cells.obsm["X_emb"].tolist() == np.arange(15).reshape(5, 3).tolist()
    assert labels_of(cells)[-1] == Label(LUNG, "CD4") and list(cells.obs_names)[::4] == [f"{REF}/a", f"{LUNG}/e"]
    # Zarr of format 2, which every environment reads, and no program.
    assert (model / "hierarchy" / "cells.zarr" / ".zgroup").exists()


def test_the_card_tells_the_hierarchy(model):
    assert card_of(ModelFolder(model, "models/atlas")) == {
        "labels_key": "cell_type",
        "unlabeled_category": "Unknown",
        "labels": ["B", "T", "CD4", "CD8", "NK", f"NK ({LUNG})"],
        "datasets": [REF, LUNG],
        "n_cells": 5,
        "n_latent": 3,
        "notes": ["a note"],
    }


def test_a_model_without_one_has_none(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"weights")
    folder = ModelFolder(tmp_path)
    assert card_of(folder) is None and card_of(ModelFolder(tmp_path / "model.pt")) is None
    card = ModelCard("atlas", labels={"bulk_labels": ["B"]})
    with_hierarchy(card, folder)
    assert card == ModelCard("atlas", labels={"bulk_labels": ["B"]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value | {"format": 2}, "of format 2, and this version of refmap reads 1: update refmap"),
        (lambda value: {key: value[key] for key in value if key != "tree"}, "is damaged .KeyError.'tree'.*leave its folder out"),
        (lambda value: value | {"tree": []}, "is damaged"),
        (lambda value: value | {"settings": {"n_neighbors": 50}}, "is damaged"),
        (lambda value: value | {"datasets": [REF]}, "holds no tree of cell types: .* an unknown dataset"),
        (lambda value: value | {"tree": {"labels": [], "children": 2 * value["tree"]["children"]}}, "a label twice"),
        (lambda value: value | {"tree": {"labels": [], "children": [{"labels": [], "children": []}]}}, "a node without a label"),
        (lambda value: [value], "is damaged"),
    ],
)
def test_a_damaged_hierarchy_is_told(model, change, message):
    path = model / "hierarchy" / "hierarchy.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(RefmapError, match=f"^models/atlas/hierarchy/hierarchy.json .*{message}"):
        card_of(ModelFolder(model, "models/atlas"))


def test_text_that_is_no_json_and_missing_cells_are_told(model, tmp_path):
    (model / "hierarchy" / "cells.zarr" / ".zgroup").unlink()
    with pytest.raises(RefmapError, match="has no cells beside it: copy hierarchy/cells.zarr too, or leave the folder out"):
        card_of(ModelFolder(model))
    (model / "hierarchy" / "hierarchy.json").write_bytes(b"\xff{")
    with pytest.raises(RefmapError, match="hierarchy.json is damaged"):
        card_of(ModelFolder(model))


# ---------------------------------------------------------------------------------------------------------- the model's card


def test_the_hierarchys_labels_come_first_and_new_ones_are_wanted(model):
    card = ModelCard("atlas", labels={"bulk_labels": ["x"], "cell_type": ["B", "T", "NK"]})
    with_hierarchy(card, ModelFolder(model))
    assert list(card.labels.items()) == [
        ("cell_type", ["B", "T", "CD4", "CD8", "NK", f"NK ({LUNG})"]),
        ("bulk_labels", ["x"]),
    ]
    assert card.takes_new_labels and card.unlabeled_category == "Unknown"
    assert card.hierarchy["labels_key"] == "cell_type"
    assert card.hierarchy["below"] == {
        "labels": {"bulk_labels": ["x"], "cell_type": ["B", "T", "NK"]},
        "takes_new_labels": False,
        "unlabeled_category": None,
    }
    assert card.warnings == ["a note"]


def test_the_family_below_sees_no_labels_that_are_new_to_it(model):
    card = ModelCard("atlas", labels={"bulk_labels": ["x"]}, unlabeled_category="none")
    plain = card.to_json()
    obs = pd.DataFrame({"cell_type": ["B", "HSC"], "bulk_labels": ["x", "y"], "batch": ["d1", "d2"]}, dtype="category")
    same, same_card = below_hierarchy(obs, plain)
    assert same is obs and same_card is plain

    with_hierarchy(card, ModelFolder(model))
    seen, seen_card = below_hierarchy(obs, card.to_json())
    assert list(seen) == ["bulk_labels", "batch"] and list(seen["bulk_labels"]) == ["x", "none"]
    assert list(obs["cell_type"]) == ["B", "HSC"] and list(obs["bulk_labels"]) == ["x", "y"]
    assert {key: seen_card[key] for key in plain if key not in ("hierarchy", "warnings")} == {
        key: plain[key] for key in plain if key not in ("hierarchy", "warnings")
    }

    knowing = ModelCard("atlas", labels={"cell_type": ["B"]}, takes_new_labels=True, unlabeled_category="none")
    with_hierarchy(knowing, ModelFolder(model))
    seen, _ = below_hierarchy(obs, knowing.to_json())
    assert list(seen["cell_type"]) == ["B", "HSC"]


# ------------------------------------------------------------------------------------------------------- scHPL's own pickles


@pytest.fixture
def write_tree(monkeypatch):
    """Write a pickle of what calls itself scHPL's tree, without scHPL."""

    def write(path: Path) -> None:
        module = types.ModuleType("scHPL.utils")
        module.TreeNode = type("TreeNode", (), {"__module__": "scHPL.utils"})
        monkeypatch.setitem(sys.modules, "scHPL", types.ModuleType("scHPL"))
        monkeypatch.setitem(sys.modules, "scHPL.utils", module)
        node = module.TreeNode()
        node.name, node.descendants = ["root"], []
        path.write_bytes(pickle.dumps([node]))

    return write


@pytest.mark.parametrize("name", ["tree.pickle", "hierarchical/my tree.pkl"])
def test_a_tree_of_schpl_is_known_by_sight(tmp_path, write_tree, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    write_tree(tmp_path / name)
    (tmp_path / "a.pickle").write_bytes(b"no pickle")
    (tmp_path / "b.pkl").write_bytes(pickle.dumps({"a": 1}))
    folder = ModelFolder(tmp_path, "models/atlas")
    assert foreign_tree(folder) == name
    assert about_foreign_tree(folder, name) == (
        f"models/atlas/{name} is a tree of scHPL, saved as a pickle without the cells that it was learned from, and is not used: "
        "train the reference again with --family treearches, which learns a tree from its labelled cells"
    )
    card = ModelCard("models/atlas")
    with_hierarchy(card, folder)
    assert len(card.warnings) == 1 and card.warnings[0].endswith("the model beside it is mapped onto as it is.")
    assert card.hierarchy is None
    # It was never loaded, so it is no reason to refuse the model.
    assert folder.refusal() is None


@pytest.mark.parametrize("given", [".", "tree.pickle"])
def test_a_tree_alone_is_no_model(tmp_path, write_tree, given):
    write_tree(tmp_path / "tree.pickle")
    card = inspect_model(tmp_path / given, "atlas")
    assert "is a tree of scHPL, saved as a pickle" in card.fault and card.fault.endswith("from its labelled cells.")


def test_other_pickles_are_no_trees(tmp_path):
    (tmp_path / "attr.pkl").write_bytes(pickle.dumps({"condition_key_": "batch"}))
    (tmp_path / "model.pickle").write_bytes(pickle.dumps([1, 2]))
    assert foreign_tree(ModelFolder(tmp_path)) is None


# ---------------------------------------------------------------------------------------------------------------- parameters


def test_options_are_parted_from_those_of_the_family_below():
    own, rest = split_options("base=trvae; n_neighbors=20;mmd=true;beta=2")
    assert rest == "mmd=true;beta=2"
    assert own == {name: option.default for name, option in OPTIONS.items()} | {"base": "trvae", "n_neighbors": 20}
    assert split_options(None)[1] == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base", "--reference_options is 'base', but must be options as name=value"),
        ("n_neighbors=1", "option 'n_neighbors' is '1', but must be a whole number of 2 or more"),
        ("least_cells=3", "option 'least_cells' is '3', but must be a whole number of 10 or more"),
        ("distance_percentile=101", "option 'distance_percentile' is '101', but must be a number of 0 or more and 100 or less"),
        ("by_batch=yes", "option 'by_batch' is 'yes', but must be true or false"),
    ],
)
def test_options_that_cannot_be(text, message):
    with pytest.raises(RefmapError, match=message):
        split_options(text)


GIVEN = {"family": FAMILY, "reference_labels_key": "cell_type", "reference_batch_key": "batch", "reference_options": None}


def test_what_lies_below_is_trained_with_the_rest():
    assert base_parameters(GIVEN) == GIVEN | {"family": "scvi", "reference_options": ""}
    options = {"reference_options": "base=scanvi;by_batch=true;x=1"}
    assert base_parameters(GIVEN | options) == GIVEN | {"family": "scanvi", "reference_options": "x=1"}
    other = {"family": "scanvi", "reference_options": "base=x"}
    assert base_parameters(other) is other


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"reference_options": "base=scanv"}, "base=scanv, but a hierarchy is learned on top of one of scvi, .* mean 'scanvi'"),
        ({"reference_options": "base=treearches"}, "base=treearches, but a hierarchy is learned on top of one of"),
        ({"reference_options": "base=sagenet"}, "base=sagenet, but a hierarchy is learned on top of one of"),
        (
            {"reference_labels_key": None},
            "--reference_labels_key is missing: a treearches reference cannot be trained without it",
        ),
        ({"reference_batch_key": None, "reference_options": "by_batch=true"}, "by_batch=true, but no --reference_batch_key"),
    ],
)
def test_what_cannot_be_learned_is_told_before_training(given, message):
    with pytest.raises(RefmapError, match=message):
        base_parameters(GIVEN | given)


def test_no_family_below_has_an_option_of_the_same_name():
    for name, kind in trainable().items():
        if name not in (FAMILY, "sagenet"):
            assert not set(kind.options) & set(OPTIONS), name


# --------------------------------------------------------------------------------------------------------- trees and matches


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("T", "T"),
        ("CD4+/CD8-", "CD4+/CD8-"),
        ("naïve", "naïve"),
        ("T cell", "'T cell'"),
        ("under_score", "'under_score'"),
        ("a,b", "'a,b'"),
        ("a(b)", "'a(b)'"),
        ("a:b;c", "'a:b;c'"),
        ("[a]", "'[a]'"),
        ("5' end", "'5'' end'"),
        ("two\nlines", "'two lines'"),
    ],
)
def test_names_in_newick(name, written):
    tree = Node.flat([Label(REF, name), Label(REF, "zz")])
    assert newick(tree, unique_names(tree, [REF])) == f"({written},zz)root;\n"


def test_every_node_has_a_name_of_its_own():
    tree = Node.flat([Label("a", "T"), Label("b", "T"), Label("b", "root"), Label("b", "T (c)"), Label("c", "T")])
    assert unique_names(tree, ["b", "a", "c"]) == {
        Label("b", "T"): "T",
        Label("b", "T (c)"): "T (c)",
        Label("b", "root"): "root (b)",
        Label("a", "T"): "T (a)",
        Label("c", "T"): "T (c)'",
    }


def test_matches_of_a_tree():
    before = Node.flat([Label(REF, name) for name in ("B", "NK", "T", "X", "Y")])
    b, nk, t, x, _ = before.children
    after = a_tree()
    after.children += [Node([Label(LUNG, "XY")], [Node([Label(REF, "X")]), Node([Label(REF, "Y")])])]
    given = ["B cell", "B cell", "CD4", "CD4", "CD8", "NK", "NK", "XY", "lost", "rare", None]
    labels = [None if name is None else Label(LUNG, name) for name in given]
    answers = np.array([b, None, t, nk, t, None, before, x, b, b, b], dtype=object)
    seen = ["B cell", "B cell", None, "CD4", "CD8", "CD8", "XY"]
    of_reference = (
        [Label(REF, name) for name in ("B", "B", "NK", "T", "T", "T", "X", "Y")],
        [name and Label(LUNG, name) for name in [*seen, None]],
    )
    names = unique_names(after, [REF, LUNG])
    table = match_table(before, after, names, (labels, answers), of_reference, {Label(LUNG, "rare"): 1})
    assert table.fillna("none").to_numpy().tolist() == [
        ["B", "B cell", "equal", 2, 0.5, 1.0],
        ["T", "CD4", "split", 2, 0.5, pytest.approx(1 / 3)],
        ["T", "CD8", "split", 1, 1.0, pytest.approx(2 / 3)],
        ["", "NK", "new", 2, 1.0, "none"],
        ["X", "XY", "merged", 1, 1.0, 1.0],
        ["Y", "XY", "merged", 1, 0.0, 0.0],
        ["", "lost", "unplaced", 1, "none", "none"],
        ["", "rare", "too few", 1, "none", "none"],
    ]
