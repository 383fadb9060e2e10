"""Hierarchies of cell types by scHPL: the same answers as its own functions, what of it is mended, and what becomes of a query."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import anndata as ad
import newick as newick_package
import numpy as np
import pandas as pd
import pytest
import scHPL
from mapping import Mapped as Mapping
from mapping import in_a_fresh_process, map_cells, train
from refmap.common.errors import RefmapError
from refmap.common.folders import MappedFolder
from refmap.common.storage import write_zarr
from refmap.hierarchy import card_of
from refmap.hierarchy.classifier import Classifier, Settings
from refmap.hierarchy.files import labels_of, read_cells, read_hierarchy
from refmap.hierarchy.learn import add_dataset, learn_hierarchy
from refmap.hierarchy.tree import NO_TYPES, Label, Node
from refmap.hierarchy.update import update_hierarchy
from refmap.models.folder import ModelFolder
from scHPL.utils import TreeNode, create_tree

SETTINGS = Settings(50, 0.5, 0.25, 99, True, 10)
N_LATENT = 8
PARAMETERS = {
    "reference_labels_key": "cell_type",
    "reference_batch_key": "batch",
    "reference_unlabeled_category": "Unknown",
    "reference_options": "base=scvi",
}
# Where each kind of cell lies: far from the others, but for the two parts of T.
CENTRES = dict(zip(("B", "CD4", "CD8", "NK", "Mono", "HSC"), np.random.default_rng(7).normal(size=(6, N_LATENT)) * 6))
CENTRES["CD8"] = CENTRES["CD4"] + 2.5


def latent_of(kinds: list[str], seed: int, shape: int = N_LATENT) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.array([CENTRES[kind][:shape] for kind in kinds]).astype(np.float32) + rng.normal(size=(len(kinds), shape)).astype(
        np.float32
    )


def several(**counts: int) -> list[str]:
    return [kind for kind, n in counts.items() for _ in range(n)]


def write_reference(folder: Path, kinds: list[str], labels: list[str], batches: list[str] | None = None, seed: int = 0) -> Path:
    """A trained model and its embedded cells, as TRAIN_REFERENCE leaves them. The model's own file does not matter here."""
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.pt").write_bytes(b"weights")
    obs = pd.DataFrame(
        {"cell_type": pd.Categorical(labels), "batch": pd.Categorical(batches or ["b1"] * len(kinds))},
        index=[f"c{i}" for i in range(len(kinds))],
    )
    write_zarr(ad.AnnData(obs=obs, obsm={"X_emb": latent_of(kinds, seed)}), folder / "embedding.zarr")
    return folder


def learn(folder: Path, kinds: list[str], labels: list[str], batches: list[str] | None = None, **parameters) -> Path:
    write_reference(folder, kinds, labels, batches)
    learn_hierarchy(
        folder / "model", folder / "embedding.zarr", PARAMETERS | parameters, folder / "learned", log=lambda line: None
    )
    return folder / "learned"


class Updated:
    """What UPDATE_HIERARCHY left behind."""

    def __init__(self, folder: Path):
        self.model = folder / "out" / "model"
        self.embedding = ad.read_zarr(folder / "out" / "embedding.zarr")
        self.record = json.loads((folder / "out" / "mapping.json").read_text())
        results = folder / "out" / "results"
        self.tree = json.loads((results / "tree.json").read_text()) if (results / "tree.json").exists() else None
        self.newick = (results / "tree.nwk").read_text() if self.tree else None
        self.matches = pd.read_csv(results / "matches.csv", keep_default_na=False) if self.tree else None

    @property
    def predicted(self) -> list[str]:
        return self.embedding.obs["cell_type_tree_predicted"].astype(str).tolist()


def map_onto(
    model: Path, folder: Path, kinds: list[str], labels: list[str | None] | None = None, latent: np.ndarray | None = None
) -> Updated:
    """Update the model's hierarchy by a query of these kinds of cells, `labels` (None: missing) or none at all."""
    folder.mkdir()
    (folder / "out").mkdir()
    index = [f"q{i}" for i in range(len(kinds))]
    obs = pd.DataFrame(index=index)
    if labels is not None:
        obs["cell_type"] = pd.Categorical(labels)
    write_zarr(ad.AnnData(np.zeros((len(kinds), 3), dtype=np.float32), obs=obs), folder / "aligned.zarr")
    latent = latent_of(kinds, seed=1) if latent is None else latent
    embedding = ad.AnnData(obs=pd.DataFrame(index=index), obsm={"X_emb": latent})
    embedding.uns["refmap"] = {"family": "scvi"}
    write_zarr(embedding, folder / "embedding.zarr")
    (folder / "mapping.json").write_text(json.dumps({"warnings": ["an earlier one"], "predictions": {}}))
    (folder / "results").mkdir()
    (folder / "results" / "of_the_family.csv").write_text("kept")
    (folder / "updated").mkdir()
    (folder / "updated" / "model.pt").write_bytes(b"updated weights")
    (folder / "history.csv").write_text("epoch,elbo_train\n")
    plan = {"row": {"dataset": "lung", "file_id": "donor_1"}}
    card = {"model": "atlas", "sha256": ModelFolder(model).sha256(), "unlabeled_category": "Unknown"}
    mapped, out = MappedFolder(folder), MappedFolder(folder / "out")
    update_hierarchy(plan, card, model, folder / "aligned.zarr", mapped, folder / "updated", out, out.folder / "model")
    assert out.history.read_text() == mapped.history.read_text()
    return Updated(folder)


REFERENCE = several(B=60, CD4=50, CD8=50, NK=40, Mono=60)
COARSE = {"CD4": "T", "CD8": "T"}


@pytest.fixture(scope="session")
def learned(tmp_path_factory) -> Path:
    """A reference that calls both parts of T by one name."""
    labels = [COARSE.get(kind, kind) for kind in REFERENCE]
    return learn(tmp_path_factory.mktemp("reference") / "coarse", REFERENCE, labels)


@pytest.fixture(scope="session")
def updated(learned, tmp_path_factory) -> Updated:
    """Mapped onto it: a query that has the parts of T, a type the reference lacks, and no NK."""
    kinds = several(B=30, CD4=40, CD8=40, Mono=30, HSC=30)
    return map_onto(learned, tmp_path_factory.mktemp("query") / "fine", kinds, kinds)


# ------------------------------------------------------------------------------------------- the same as scHPL, in bulk


def flat_tree(labels, root: str = "root"):
    tree = create_tree(root)
    for label in np.unique(labels):
        tree[0].add_descendant(TreeNode([label]))
    return tree


def names_of(node) -> list:
    """A tree of scHPL as nested lists, the children in any order; a match that it makes twice (see below) once."""
    return [list(dict.fromkeys(node.name)), sorted((names_of(child) for child in node.descendants), key=str)]


@pytest.mark.parametrize("n_latent", [3, 10, 20])
def test_predictions_are_those_of_schpl(n_latent):
    rng = np.random.default_rng(n_latent)
    centres = rng.normal(size=(6, n_latent)) * 2
    kinds, asked = rng.integers(0, 6, 400), rng.integers(0, 6, 200)
    scales = rng.uniform(0.2, 1, n_latent)
    latent = (centres[kinds] + rng.normal(size=(400, n_latent)) * scales).astype(np.float32)
    query = (centres[asked] + rng.normal(size=(200, n_latent)) * scales * 1.6).astype(np.float32)
    # Types 0, 1 and 2 make up a type, and 0 and 1 one within it.
    of = [Label("reference", f"{kind}") for kind in range(6)]
    inner = Node([Label("reference", "01")], [Node([of[0]]), Node([of[1]])])
    tree = Node([], [Node([Label("reference", "012")], [inner, Node([of[2]])]), *(Node([of[kind]]) for kind in (3, 4, 5))])
    classifier = Classifier(tree, latent, [of[kind] for kind in kinds], SETTINGS)

    ours, uncertainty = classifier.predict_ids(query)
    theirs = scHPL.predict_labels(query, [classifier.top])
    assert ours.tolist() == theirs.tolist()
    assert len(set(ours)) > 5
    assert ((uncertainty == 1) == np.isin(ours, NO_TYPES)).all() and uncertainty.min() >= 0


def learn_tree(latent, labels, new_latent, new_labels):
    """The tree that scHPL itself learns from two datasets, as nested names, and the labels that it lost."""
    obs = pd.DataFrame({"batch": ["r"] * len(labels) + ["q"] * len(new_labels), "label": [*labels, *new_labels]})
    obs.index = obs.index.astype(str)
    both = ad.AnnData(np.vstack([latent, new_latent]), obs=obs)
    tree, lost = scHPL.learn_tree(both, "batch", ["r", "q"], "label")
    return tree, lost


def as_names(node: Node, top: bool = True) -> list:
    names = ["root"] * top + [f"{label.dataset}_{label.name}" for label in node.labels]
    return [names, sorted((as_names(child, False) for child in node.children), key=str)]


def test_a_tree_of_two_datasets_is_that_of_schpl():
    kinds, asked = several(B=40, CD4=40, CD8=40, NK=40), several(B=30, CD4=30, CD8=30, NK=30)
    coarse = [COARSE.get(kind, kind) for kind in asked]
    latent, query = latent_of(kinds, 0), latent_of(asked, 1)
    theirs, lost = learn_tree(latent, [f"r_{kind}" for kind in kinds], query, [f"q_{kind}" for kind in coarse])

    reference = Classifier(Node.flat(Label("r", kind) for kind in kinds), latent, [Label("r", kind) for kind in kinds], SETTINGS)
    ours, _ = add_dataset(reference, query, [Label("q", kind) for kind in coarse])
    assert len(lost) == 0
    assert as_names(ours) == names_of(theirs[0])
    assert ["q_T"] in [names for names, _ in as_names(ours)[1]]
    # What it was learned from stays as it was, and can be asked again.
    assert names_of(reference.top)[0] == ["root"] and len(reference.top.descendants) == 4


def test_schpl_places_new_types_twice_and_we_do_not():
    """scHPL 1.0.3 with pandas 2.2: see `classifier._matching_once`."""
    kinds, asked = several(B=40, CD4=40), several(B=30, CD4=30, HSC=30)
    latent, query = latent_of(kinds, 0), latent_of(asked, 1)
    theirs, _ = learn_tree(latent, [f"r_{kind}" for kind in kinds], query, [f"q_{kind}" for kind in asked])
    assert [node.name for node in theirs[0].descendants].count(["q_HSC"]) == 2

    reference = Classifier(Node.flat(Label("r", kind) for kind in kinds), latent, [Label("r", kind) for kind in kinds], SETTINGS)
    ours, _ = add_dataset(reference, query, [Label("q", kind) for kind in asked])
    assert as_names(ours) == [
        ["root"],
        [[["q_HSC"], []], [["r_B", "q_B"], []], [["r_CD4", "q_CD4"], []]],
    ]


def test_schpl_rejects_at_random_where_all_dimensions_vary_alike_and_we_do_not():
    """scHPL 1.0.3: its PCA then keeps every dimension, and the reconstruction error is rounding."""
    rng = np.random.default_rng(0)
    latent, query = (rng.normal(size=(500, 3)).astype(np.float32) for _ in range(2))
    labels = np.where(latent[:, 0] > 0, "a", "b")
    tree = scHPL.train_tree(latent, labels, flat_tree(labels))
    assert 0 < tree[0].get_RE() < 1e-5
    assert (scHPL.predict_labels(query * 2, tree) == "Rejected (RE)").sum() > 50

    given = [Label("r", label) for label in labels]
    classifier = Classifier(Node.flat(given), latent, given, SETTINGS)
    assert classifier.top.get_RE() == 0
    assert Counter(classifier.predict(query * 2).rejections)["Rejected (RE)"] == 0


def test_few_cells_of_many_dimensions_are_not_reconstructed():
    """scHPL wants 100 components of more than 100 dimensions, which fewer cells do not have."""
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(40, 128)).astype(np.float32)
    labels = [Label("r", "a" if i % 2 else "b") for i in range(40)]
    assert Classifier(Node.flat(labels), latent, labels, SETTINGS).top.get_RE() == 0


def test_nothing_is_printed_and_no_picture_drawn(learned, tmp_path, capsys, recwarn):
    import matplotlib.pyplot as plt

    figures = plt.get_fignums()
    kinds = several(B=20, HSC=20)
    map_onto(learned, tmp_path / "query", kinds, kinds)
    captured = capsys.readouterr()
    assert captured.out.startswith("the hierarchy predicts ") and captured.out.count("\n") == 1 and captured.err == ""
    assert plt.get_fignums() == figures
    assert not [warning for warning in recwarn if "scHPL" in warning.filename or "sklearn" in warning.filename]


# --------------------------------------------------------------------------------------------------------------- learning


def test_a_reference_gets_a_hierarchy_beside_its_files(learned):
    assert (learned / "model.pt").read_bytes() == b"weights"
    assert sorted(path.name for path in (learned / "hierarchy").iterdir()) == ["cells.zarr", "hierarchy.json"]
    assert card_of(ModelFolder(learned)) == {
        "labels_key": "cell_type",
        "unlabeled_category": "Unknown",
        "labels": ["B", "Mono", "NK", "T"],
        "datasets": ["reference"],
        "n_cells": 260,
        "n_latent": N_LATENT,
        "notes": [],
    }
    cells = read_cells(learned)
    np.testing.assert_array_equal(cells.obsm["X_emb"], latent_of(REFERENCE, 0))
    assert Counter(label.name for label in labels_of(cells)) == {"B": 60, "T": 100, "NK": 40, "Mono": 60}
    assert cells.obs_names[0] == "reference/c0"


def test_labels_of_few_cells_and_cells_without_labels_are_left_out(tmp_path):
    kinds = several(B=30, CD4=30, HSC=9, NK=20)
    labels = [{"NK": "Unknown"}.get(kind, kind) for kind in kinds]
    model = learn(tmp_path / "model", kinds, labels)
    card = card_of(ModelFolder(model))
    assert card["labels"] == ["B", "CD4"] and card["n_cells"] == 60
    assert card["notes"] == ["Labels of the reference with fewer than 10 cells are left out of the hierarchy: 'HSC' (9)."]
    assert (read_cells(model).obs["label"].isin(["B", "CD4"])).all()


def test_a_reference_without_enough_labels_cannot_be_learned(tmp_path):
    with pytest.raises(RefmapError, match="found no label in 'cell_type' with 10 cells or more: name another column"):
        learn(tmp_path / "model", several(B=9, CD4=30), ["B"] * 9 + ["Unknown"] * 30)
    assert not (tmp_path / "model" / "learned").exists()


def test_a_reference_can_be_learned_batch_by_batch(tmp_path):
    """Batches that were labelled at different depths."""
    kinds = several(B=60, CD4=60, CD8=60) + several(B=30, CD4=30, CD8=30) + several(HSC=3, NK=2)
    labels = [COARSE.get(kind, kind) for kind in kinds[:180]] + kinds[180:]
    batches = ["study 1"] * 180 + ["study 2"] * 90 + ["study 1"] * 3 + ["study 2"] * 2
    model = learn(tmp_path / "model", kinds, labels, batches, reference_options="by_batch=true;base=scvi")
    hierarchy = read_hierarchy(ModelFolder(model))
    assert hierarchy.datasets == ["study 1", "study 2"]
    few = "'HSC' of 'study 1' (3), 'NK' of 'study 2' (2)"
    assert hierarchy.notes == [f"Labels of the reference with fewer than 10 cells are left out of the hierarchy: {few}."]
    assert as_names(hierarchy.tree) == [
        ["root"],
        [
            [["study 1_B", "study 2_B"], []],
            [["study 1_T"], [[["study 2_CD4"], []], [["study 2_CD8"], []]]],
        ],
    ]
    assert sum(hierarchy.n_cells.values()) == read_cells(model).n_obs == 270


# --------------------------------------------------------------------------------------------------------------- updating


def test_labels_of_the_query_are_placed_in_the_tree(updated):
    def outline(node: dict) -> tuple:
        return node["name"], node["new"], sorted(outline(child) for child in node["children"])

    assert outline(updated.tree["tree"]) == (
        "root",
        False,
        [
            ("B", False, []),
            ("HSC", True, []),
            ("Mono", False, []),
            ("NK", False, []),
            ("T", False, [("CD4", True, []), ("CD8", True, [])]),
        ],
    )
    assert updated.tree["updated"] and updated.tree["cells"] == 170 and updated.tree["query"] == "lung~donor_1"
    b = next(node for node in updated.tree["tree"]["children"] if node["name"] == "B")
    assert b["labels"] == [{"dataset": "reference", "name": "B"}, {"dataset": "lung~donor_1", "name": "B"}]
    assert (b["cells"], b["query_cells"]) == (60, 30) and b["predicted"] == updated.predicted.count("B")


def test_matches_say_what_became_of_each_label(updated):
    found = updated.matches
    assert list(found.columns) == ["reference_label", "query_label", "match", "cells", "share", "share_of_reference"]
    assert [tuple(row) for row in found.iloc[:, :4].itertuples(index=False)] == [
        ("B", "B", "equal", 30),
        ("T", "CD4", "split", 40),
        ("T", "CD8", "split", 40),
        ("", "HSC", "new", 30),
        ("Mono", "Mono", "equal", 30),
    ]
    labels = np.array(several(B=30, CD4=40, CD8=40, Mono=30, HSC=30))
    predicted = np.array(updated.predicted)
    rejected = np.isin(predicted, NO_TYPES)
    share = dict(zip(found["query_label"], found["share"].astype(float)))
    assert share["B"] == pytest.approx((predicted[labels == "B"] == "B").mean())
    assert share["CD8"] == pytest.approx((predicted[labels == "CD8"] == "T").mean())
    assert share["HSC"] == pytest.approx(rejected[labels == "HSC"].mean()) and share["HSC"] > 0.9


def test_predictions_are_those_of_the_reference_alone(updated, learned):
    """The query's own labels come into the tree only after its cells were predicted."""
    obs, hierarchy = updated.embedding.obs, read_hierarchy(ModelFolder(learned))
    assert list(updated.embedding.uns["cell_type_tree_classes"]) == ["B", "Mono", "NK", "T"]
    assert set(updated.predicted) <= {"B", "Mono", "NK", "T", *NO_TYPES}
    kinds = np.array(several(B=30, CD4=40, CD8=40, Mono=30, HSC=30))
    known = kinds != "HSC"
    right = np.array([COARSE.get(kind, kind) for kind in kinds]) == updated.predicted
    assert right[known].mean() > 0.9
    cells = read_cells(learned)
    again = Classifier(hierarchy.tree, cells.obsm["X_emb"], labels_of(cells), SETTINGS)
    theirs = scHPL.predict_labels(updated.embedding.obsm["X_emb"], [again.top])
    names = {again.ids[node.labels[0]]: node.labels[0].name for node in hierarchy.tree.walk() if node.labels}
    assert [names.get(name, name) for name in theirs] == updated.predicted
    uncertainty = obs["cell_type_tree_predicted_uncertainty"]
    assert uncertainty.dtype == np.float32
    assert (uncertainty[obs["cell_type_tree_predicted"].isin(NO_TYPES)] == 1).all() and uncertainty[right].mean() < 0.1
    assert updated.embedding.uns["refmap"]["family"] == "scvi"


def test_the_record_sums_it_up(updated):
    counts = Counter(updated.predicted)
    assert updated.record["predictions"]["cell_type_tree"]["counts"] == counts
    assert updated.record["hierarchy"] == {
        "labels_key": "cell_type",
        "predicted": sum(n for name, n in counts.items() if name not in NO_TYPES),
        "not_predicted": {name: counts[name] for name in NO_TYPES},
        "matches": {"equal": 2, "split": 2, "merged": 0, "new": 1, "unplaced": 0, "too few": 0},
        "types": {"before": 4, "after": 7},
    }
    assert updated.record["warnings"] == ["an earlier one"]
    assert (updated.model.parent / "results" / "of_the_family.csv").read_text() == "kept"


def test_the_updated_model_is_a_reference_with_the_querys_types(updated, tmp_path):
    assert (updated.model / "model.pt").read_bytes() == b"updated weights"
    card = card_of(ModelFolder(updated.model))
    assert card["datasets"] == ["reference", "lung~donor_1"]
    assert sorted(card["labels"]) == ["B", "CD4", "CD8", "HSC", "Mono", "NK", "T"] and card["n_cells"] == 260 + 170

    kinds = several(CD4=40, CD8=40, HSC=20)
    again = map_onto(updated.model, tmp_path / "again", kinds, kinds, latent_of(kinds, 5))
    assert (np.array(again.predicted) == kinds).mean() > 0.8
    assert [tuple(row) for row in again.matches.iloc[:, :3].itertuples(index=False)] == [
        (kind, kind, "equal") for kind in ("CD4", "CD8", "HSC")
    ]
    # The same name was mapped before.
    assert again.tree["query"] == "lung~donor_1_2"
    assert card_of(ModelFolder(again.model))["datasets"] == ["reference", "lung~donor_1", "lung~donor_1_2"]


def test_a_coarser_query_merges_types(tmp_path):
    model = learn(tmp_path / "model", REFERENCE, REFERENCE)
    kinds = several(CD4=40, CD8=40, B=40)
    coarse = [COARSE.get(kind, kind) for kind in kinds]
    found = map_onto(model, tmp_path / "query", kinds, coarse)
    rows = {tuple(row[:4]): row[4:] for row in found.matches.itertuples(index=False, name=None)}
    assert list(rows) == [("B", "B", "equal", 40), ("CD4", "T", "merged", 80), ("CD8", "T", "merged", 80)]
    assert sum(float(rows[key][0]) for key in list(rows)[1:]) > 0.8
    assert all(float(shares[1]) > 0.9 for shares in rows.values())
    merged = next(node for node in found.tree["tree"]["children"] if node["name"] == "T")
    assert merged["new"] and sorted(child["name"] for child in merged["children"]) == ["CD4", "CD8"]


def test_a_query_without_labels_is_predicted_and_changes_nothing(learned, tmp_path):
    kinds = several(B=20, CD4=20)
    plain = map_onto(learned, tmp_path / "plain", kinds)
    unlabeled = map_onto(learned, tmp_path / "unlabeled", kinds, ["Unknown"] * 20 + [None] * 20)
    for found in (plain, unlabeled):
        assert found.record["warnings"] == ["an earlier one"]
        assert found.matches.empty and not found.tree["updated"]
        for file in ("hierarchy.json",):
            assert (found.model / "hierarchy" / file).read_text() == (learned / "hierarchy" / file).read_text()
        np.testing.assert_array_equal(read_cells(found.model).obsm["X_emb"], read_cells(learned).obsm["X_emb"])
    assert plain.predicted == unlabeled.predicted


def test_labels_of_few_query_cells_are_not_matched(learned, tmp_path):
    kinds = several(B=20, CD4=9)
    found = map_onto(learned, tmp_path / "query", kinds, kinds)
    assert [tuple(row[:4]) for row in found.matches.itertuples(index=False)] == [
        ("B", "B", "equal", 20),
        ("", "CD4", "too few", 9),
    ]
    assert found.record["warnings"][1:] == [
        "Labels of the query with fewer than 10 cells are left out of the hierarchy: 'CD4' (9)."
    ]
    assert card_of(ModelFolder(found.model))["n_cells"] == 280


@pytest.mark.parametrize("n", [1, 10])
def test_tiny_queries(learned, tmp_path, n):
    found = map_onto(learned, tmp_path / "query", ["B"] * n, ["B"] * n)
    assert len(found.predicted) == n and Counter(found.predicted)["B"] >= n - 1
    assert found.matches["match"].tolist() == ["too few" if n < 10 else "equal"]
    assert found.tree["updated"] == (n == 10)


def test_one_label_for_all_cells_stands_for_the_whole_tree(learned, tmp_path):
    found = map_onto(learned, tmp_path / "query", REFERENCE, ["blood"] * len(REFERENCE))
    known = 1 - Counter(found.embedding.obs["cell_type_tree_predicted"].str.startswith("Reject"))[True] / 260
    assert found.matches.iloc[0, :4].tolist() == ["root", "blood", "equal", 260] and len(found.matches) == 1
    assert float(found.matches["share"][0]) == pytest.approx(known)
    assert found.tree["tree"]["name"] == "root" and found.tree["tree"]["labels"] == [{"dataset": "lung~donor_1", "name": "blood"}]
    again = map_onto(found.model, tmp_path / "again", ["B"] * 20, ["B"] * 20)
    assert Counter(again.predicted)["B"] >= 18


def test_the_same_word_for_another_type_keeps_apart(learned, tmp_path):
    """What the query calls 'NK' is no type of the reference's, and least of all its 'NK'."""
    kinds = several(B=20, HSC=30)
    found = map_onto(learned, tmp_path / "query", kinds, ["B"] * 20 + ["NK"] * 30)
    assert found.matches.iloc[1, :3].tolist() == ["", "NK", "new"]
    assert sorted(card_of(ModelFolder(found.model))["labels"]) == ["B", "Mono", "NK", "NK (lung~donor_1)", "T"]
    again = map_onto(found.model, tmp_path / "again", several(NK=20, HSC=20))
    assert set(again.predicted[:20]) - set(NO_TYPES) == {"NK"}
    assert set(again.predicted[20:]) - set(NO_TYPES) == {"NK (lung~donor_1)"}


ODD = {
    "B": "B cells, naïve (CD19+): a 'b' type",
    "CD4": "root",
    "CD8": "Rejection (dist)",
    "NK": "  two  spaces; [and] an_underscore ",
    "Mono": "单核细胞",
    "HSC": "x" * 300,
}


def test_any_text_can_be_a_label(tmp_path):
    kinds = several(**dict.fromkeys(ODD, 40))
    labels = [ODD[kind] for kind in kinds]
    model = learn(tmp_path / "model", kinds, labels)
    found = map_onto(model, tmp_path / "query", kinds, labels)
    assert found.matches["match"].tolist() == ["equal"] * 6
    assert sorted(found.matches["query_label"]) == sorted(ODD.values())
    # A type of a name that is an answer of its own is told from it.
    names = ODD | {"CD4": "root (reference)", "CD8": "Rejection (dist) (reference)"}
    assert sorted(card_of(ModelFolder(model))["labels"]) == sorted({*names.values(), *ODD.values()})
    assert (np.array(found.predicted) == [names[kind] for kind in kinds]).mean() > 0.9
    assert set(found.embedding.uns["cell_type_tree_classes"]) == set(names.values())
    assert parse_newick(found.newick) == ("root", {(" ".join(name.split()), frozenset()) for name in names.values()})


def parse_newick(text: str) -> tuple:
    """Read Newick with quoted names, which the `newick` package of this environment does not know: (name, its children)."""
    at = 0

    def node() -> tuple:
        nonlocal at
        children = set()
        if text[at] == "(":
            while text[at] in "(,":
                at += 1
                children.add(node())
            assert text[at] == ")"
            at += 1
        name = ""
        if text[at] == "'":
            at += 1
            while text[at] != "'" or text[at + 1] == "'":
                at += text[at] == "'"
                name, at = name + text[at], at + 1
            at += 1
        else:
            while text[at] not in ",();":
                assert text[at] not in " '[]:_"
                name, at = name + text[at], at + 1
        return name, frozenset(children)

    whole = node()
    assert text[at:] == ";\n"
    return whole


def test_newick_is_read_back_by_the_newick_package(updated):
    (root,) = newick_package.loads(updated.newick)

    def outline(node) -> tuple:
        return node.name, frozenset(outline(child) for child in node.descendants)

    assert outline(root) == parse_newick(updated.newick)
    t = next(child for child in root.descendants if child.name == "T")
    assert sorted(child.name for child in t.descendants) == ["CD4", "CD8"]


def test_a_mapping_that_added_latent_dimensions_goes_on_without_the_tree(learned, tmp_path):
    latent = np.zeros((20, N_LATENT + 2), dtype=np.float32)
    found = map_onto(learned, tmp_path / "query", ["B"] * 20, ["B"] * 20, latent)
    assert found.record["warnings"][1:] == [
        "The hierarchy of 'atlas' was left out: its cells have 8 latent dimensions and the query's 10, because this mapping added to them."
    ]
    assert found.tree is None and "hierarchy" not in found.record and list(found.embedding.obs) == []
    assert card_of(ModelFolder(found.model)) is None


def test_far_cells_are_rejected_and_say_so(learned, tmp_path):
    found = map_onto(learned, tmp_path / "query", ["B"] * 30, ["B"] * 30, latent_of(["B"] * 30, 1) + 50)
    assert set(found.predicted) <= {"Rejection (dist)", "Rejected (RE)"}
    assert found.matches.iloc[0, :3].tolist() == ["", "B", "new"] and float(found.matches["share"][0]) == 1
    assert found.record["predictions"]["cell_type_tree"]["mean_uncertainty"] == 1


CODE = """
import sys
import numpy as np
from pathlib import Path
from refmap.hierarchy.classifier import Classifier
from refmap.common.folders import MappedFolder
from refmap.hierarchy.files import labels_of, read_cells, read_hierarchy
from refmap.models.folder import ModelFolder
model = Path(sys.argv[2])
hierarchy, cells = read_hierarchy(ModelFolder(model)), read_cells(model)
classifier = Classifier(hierarchy.tree, cells.obsm["X_emb"], labels_of(cells), hierarchy.settings)
names, uncertainty = classifier.predict_ids(np.load(sys.argv[3]))
np.save(sys.argv[1], [f"{name} {value!r}" for name, value in zip(names, uncertainty.tolist())])
"""


def test_a_fresh_process_fits_the_same_classifiers(updated, tmp_path):
    query = latent_of(several(B=50, CD4=50, CD8=50, HSC=20), 9) * 1.2
    np.save(tmp_path / "query.npy", query)
    found = in_a_fresh_process(CODE, updated.model, tmp_path / "query.npy")
    hierarchy, cells = read_hierarchy(ModelFolder(updated.model)), read_cells(updated.model)
    classifier = Classifier(hierarchy.tree, cells.obsm["X_emb"], labels_of(cells), hierarchy.settings)
    names, uncertainty = classifier.predict_ids(query)
    assert found.tolist() == [f"{name} {value!r}" for name, value in zip(names, uncertainty.tolist())]


def test_the_same_again_is_the_same(learned, tmp_path):
    kinds = several(B=30, CD4=30, CD8=30, HSC=30)
    one, two = (map_onto(learned, tmp_path / name, kinds, kinds) for name in ("one", "two"))
    assert one.tree == two.tree and one.newick == two.newick and one.predicted == two.predicted
    pd.testing.assert_frame_equal(one.matches, two.matches)
    for file in ("hierarchy.json",):
        assert (one.model / "hierarchy" / file).read_text() == (two.model / "hierarchy" / file).read_text()


# ------------------------------------------------------------------------------------------------- on top of other families


def update_mapped(mapped: Mapping, model: Path, folder: Path) -> Updated:
    """Add a mapping to the hierarchy of the model that it was mapped onto."""
    out = MappedFolder(folder / "out")
    out.folder.mkdir()
    update_hierarchy(mapped.plan, mapped.card, model, mapped.aligned, mapped.folder, mapped.model, out, out.folder / "model")
    return Updated(folder)


@pytest.mark.parametrize("family", ["trvae", "scpoli"])
def test_on_top_of_a_family(family, cells, query, tmp_path):
    """trVAE knows no labels; scPoli predicts the same column and takes new labels itself."""
    options = {"reference_max_epochs": 8, "reference_options": f"base={family};least_cells=10"}
    embedding = tmp_path / "reference_embedding.zarr"
    trained = train("treearches", cells, tmp_path / "trained", embedding=embedding, **options)
    model = tmp_path / "atlas"
    parameters = PARAMETERS | options | {"reference_labels_key": "bulk_labels"}
    learn_hierarchy(trained, embedding, parameters, model, log=lambda line: None)

    # Named as the query's column is not: its labels are brought under the hierarchy's key.
    mapped = map_cells(query, model, tmp_path / "first", labels_keys=["cell_type"], train={"max_epochs": 2})
    assert mapped.card["family"] == family and mapped.card["env"] == "scarches"
    assert next(iter(mapped.card["labels"])) == "bulk_labels" and mapped.card["takes_new_labels"]
    first = update_mapped(mapped, model, tmp_path / "first")
    obs = first.embedding.obs
    assert ("bulk_labels_predicted" in obs) == (family == "scpoli")
    assert set(first.record["predictions"]) == {"bulk_labels_tree"} | ({"bulk_labels"} if family == "scpoli" else set())
    truth, predicted = query.obs["cell_type"].astype(str), obs["bulk_labels_tree_predicted"].astype(str)
    told = ~predicted.isin(NO_TYPES)
    assert told.mean() > 0.4 and (truth.to_numpy() == predicted.to_numpy())[told].mean() > 0.5
    np.testing.assert_array_equal(first.embedding.obsm["X_emb"], mapped.latent)
    assert first.matches["cells"].groupby(first.matches["query_label"]).first().sum() == query.n_obs

    # The updated model is a reference as before, and its hierarchy has the query.
    assert (first.model / "attr.pkl").read_bytes() == (mapped.model / "attr.pkl").read_bytes()
    again = map_cells(query[:50], first.model, tmp_path / "second", train=None)
    assert again.plan["faults"] == [] and again.card["hierarchy"]["datasets"] == ["reference", "lung~donor_1"]
    second = update_mapped(again, first.model, tmp_path / "second")
    assert not second.tree["updated"] and second.tree["cells"] == 50
