"""The measures of a mapping with a truth."""

import numpy as np
import pandas as pd
import pytest
from refmap.report.evaluation import Truth, batch_entropy, evaluate, f1, label_purity, measure, tell_foreign
from refmap.report.mapped_cells import Cells, Labels, Reference
from refmap.report.outcomes import Outcome
from refmap.report.sections.evaluation import evaluation

NAMES = ("asw_label", "asw_batch", "nmi", "ari", "knn_purity", "ebm")


def blobs(n=120, apart=0.0, seed=0):
    """Cells of two labels far from each other, each of two batches that lie `apart`."""
    rng = np.random.default_rng(seed)
    labels, batches = np.arange(n) % 2, np.arange(n) // 2 % 2
    latent = rng.normal(size=(n, 3))
    latent[:, 0] += 20 * labels
    latent[:, 1] += apart * batches
    return Truth(latent.astype(np.float32), np.array(["A", "B"], dtype=object)[labels], batches)


def labels_of(values, classes, made="predicted"):
    values = pd.Series(values, dtype=object)
    return Labels(made, "type", values, pd.Series(0.0, index=values.index), classes)


def test_labels_apart_and_batches_together_are_best():
    mixed, apart = measure(blobs(), 0), measure(blobs(apart=20), 0)
    assert (mixed["n_cells"], mixed["n_labels"], mixed["n_batches"]) == (120, 2, 2)
    assert mixed["nmi"] == mixed["ari"] == mixed["knn_purity"] == apart["knn_purity"] == 1
    assert mixed["asw_label"] > 0.9 and mixed["asw_batch"] > 0.9 and mixed["ebm"] > 0.9
    assert apart["asw_batch"] < 0.2 and apart["ebm"] == 0
    assert measure(blobs(), 0) == mixed


def test_silhouettes_and_clusters_are_those_of_scib_metrics():
    from scib_metrics import nmi_ari_cluster_labels_leiden, silhouette_batch, silhouette_label
    from scib_metrics.nearest_neighbors import NeighborsResults
    from sklearn.neighbors import NearestNeighbors

    truth = blobs(300, apart=3)
    truth.labels[::7] = "C"  # a label that is no cluster
    found = measure(truth, 0)
    assert found["asw_label"] == pytest.approx(silhouette_label(truth.latent, truth.labels), abs=1e-3)
    assert found["asw_batch"] == pytest.approx(silhouette_batch(truth.latent, truth.labels, truth.batches), abs=1e-3)
    distances, indices = NearestNeighbors(n_neighbors=15).fit(truth.latent).kneighbors(truth.latent)
    clusters = nmi_ari_cluster_labels_leiden(NeighborsResults(indices=indices, distances=distances), truth.labels, seed=0)
    assert 0.2 < clusters["nmi"] < 0.9
    assert (found["nmi"], found["ari"]) == pytest.approx((clusters["nmi"], clusters["ari"]), abs=0.02)


@pytest.mark.parametrize(
    ("changes", "none"),
    [
        ({"labels": np.full(120, "A", dtype=object)}, {"asw_label", "nmi", "ari", "knn_purity"}),
        ({"labels": np.arange(120).astype(str).astype(object)}, {"asw_label", "asw_batch", "nmi", "ari", "knn_purity"}),
        ({"batches": np.zeros(120, int)}, {"asw_batch", "ebm"}),
        ({"batches": np.arange(120) % 2}, {"asw_batch"}),
    ],
    ids=["one label", "a label a cell", "one batch", "a batch of each label"],
)
def test_what_cannot_be_compared_is_null(changes, none):
    truth = blobs()
    found = measure(Truth(truth.latent, changes.get("labels", truth.labels), changes.get("batches", truth.batches)), 0)
    assert {name for name in NAMES if found[name] is None} == none


def test_of_few_cells_nothing_is_said():
    found = measure(blobs(19), 0)
    assert found["n_cells"] == 19 and all(found[name] is None for name in NAMES)


def test_purity_weighs_labels_alike_and_entropy_is_that_of_the_neighbours():
    # Ninety cells of one label, and ten of another that lie among them.
    latent = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
    labels = np.where(np.arange(100) < 90, "A", "B").astype(object)
    assert label_purity(latent, labels) == pytest.approx(0.5, abs=0.06)
    lone = np.zeros((40, 1), np.float32) + np.arange(40)[:, None]
    np.testing.assert_array_equal(batch_entropy(lone, np.repeat([0, 1], 20))[[0, -1]], 0)
    assert batch_entropy(lone, np.arange(40) % 2)[20] == pytest.approx(1, abs=0.01)


def test_f1_counts_labels_and_cells():
    truth = pd.Series(["A", "A", "A", "B", None, "rare"], dtype=object)
    found = f1(truth, labels_of(["A", "A", "B", "B", "A", "A"], ["A", "B", "C"]))
    assert found["by_label"] == {
        "A": {"n_cells": 3, "f1": 0.8, "precision": 1.0, "recall": 0.6667},
        "B": {"n_cells": 1, "f1": 0.6667, "precision": 0.5, "recall": 1.0},
    }
    assert found["macro"] == pytest.approx((0.8 + 2 / 3) / 2, abs=1e-4)
    assert found["weighted"] == pytest.approx((3 * 0.8 + 2 / 3) / 4, abs=1e-4)
    assert (found["n_cells"], found["labels_key"]) == (4, "type")
    assert f1(truth, labels_of(["Unknown"] * 6, ["A", "B"]))["macro"] == 0
    assert f1(truth, labels_of(["x"] * 6, ["x"])) is None


def reference_of(truth, labels=None, batches=("r",)):
    import anndata as ad

    obs = pd.DataFrame({"type": truth.labels if labels is None else labels, "donor": np.resize(batches, len(truth.labels))})
    return Reference(ad.AnnData(obs=obs.set_index(obs.index.astype(str)), obsm={"X_emb": truth.latent}), {"batch_key": "donor"})


def cells_of(truth, labels=()):
    values = pd.Series(truth.labels, dtype=object)
    values[::10] = None
    # A family may give more dimensions than those that the reference's cells have.
    latent = np.column_stack([truth.latent, np.full(len(truth.latent), 1e3)])
    return Cells(np.arange(len(values)), latent, truth.latent, columns={"truth": values}, labels=list(labels))


def test_query_and_reference_are_measured_together():
    truth = blobs()
    given = labels_of(truth.labels, ["A", "B"], "transferred")
    cells, batches = cells_of(truth, [given]), pd.Series(np.where(truth.batches, "r", "q"), dtype=object)
    found = evaluate(cells, {"truth_key": "truth"}, batches, reference_of(blobs(seed=1)), 0)
    assert found["query"]["n_cells"] == 108 and found["query"]["n_batches"] == 2
    # The query's batch r is not that of the reference.
    assert found["joint"]["n_cells"] == 228 and found["joint"]["n_batches"] == 3 and found["joint"]["n_labels"] == 2
    assert found["joint"]["knn_purity"] == 1 and found["joint"]["ebm"] > 0.8
    assert found["predicted"] is None and found["transferred"]["macro"] == 1
    # A reference whose labels are called otherwise cannot be compared with.
    other = reference_of(blobs(), labels=np.full(120, "x"))
    assert evaluate(cells, {"truth_key": "truth"}, batches, other, 0)["joint"] is None
    alone = evaluate(cells, {"truth_key": "truth"}, batches, None, 0)
    assert alone["joint"] is None and alone["query"] == found["query"]


def test_without_a_truth_there_is_no_evaluation():
    cells, batches = cells_of(blobs()), pd.Series("q", index=range(120))
    assert evaluate(cells, {"truth_key": None}, batches, None, 0) is None
    cells.columns["truth"][:] = None
    assert evaluate(cells, {"truth_key": "truth"}, batches, None, 0) is None


def test_section_shows_what_there_is():
    measures = dict.fromkeys(NAMES, 0.25) | {"n_cells": 1200, "n_labels": 3, "n_batches": 1, "ebm": None}
    score = {"labels_key": "<b>", "n_cells": 9, "macro": 0.5, "weighted": 0.75, "by_label": {}}
    record = {"evaluation": {"query": measures, "joint": None, "predicted": None, "transferred": score}}
    known = Outcome({"dataset": "lung", "file_id": "a"}, record=record)
    page = evaluation([known, Outcome({"dataset": "lung", "file_id": "b"}, record={"evaluation": None})])["data"]
    assert "<td>lung/a</td><td>query</td><td>1,200</td><td>3</td><td>1</td><td>0.250</td>" in page and "<td>-</td>" in page
    assert "<td>transferred</td><td>&lt;b&gt;</td><td>9</td><td>0.500</td><td>0.750</td>" in page
    assert "query and reference" not in page and "lung/b" not in page
    assert evaluation([Outcome({"dataset": "lung", "file_id": "b"}, record={})]) is None


def test_cells_of_labels_that_the_reference_lacks_are_told_by_how_they_lie():
    truth = pd.Series(["A", "A", "B", "C", "C", None], dtype=object)
    separation = pd.Series([1.0, 3.0, 1.5, 2.0, 4.0, 9.0])
    novelty = pd.Series([0.5, 0.9, 0.4, 0.1, np.nan, 0.0])
    found = tell_foreign(truth, ["A", "B"], novelty, separation)
    # Of the six pairs of a foreign and another cell, five are in order: 3.0 is beyond 2.0
    assert found == {"labels": ["C"], "n_cells": 2, "n_others": 3, "novelty": 1.0, "separation": pytest.approx(5 / 6)}
    assert tell_foreign(truth, ["A", "B"], None, separation * np.nan) | {"labels": []} == {
        "labels": [], "n_cells": 2, "n_others": 3, "novelty": None, "separation": None,
    }  # fmt: skip
    assert tell_foreign(truth, ["A", "B", "C"], novelty, separation) is None
    assert tell_foreign(truth, ["D"], novelty, separation) is None
