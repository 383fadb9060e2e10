"""Which clusters are flagged, on what scale, and by which genes."""

import numpy as np
import pandas as pd
import pytest
from made_cells import make
from refmap.identity.cells import LabelledCells
from refmap.identity.clusters import Clustering, own_clusterings
from refmap.identity.differences import Matched, double_difference, spread_of_labels
from refmap.identity.expression import identity_weights
from refmap.identity.groups import far_apart, findings, groups_table, most_like, read, sentence, signed_genes
from refmap.identity.novel import Null, Scores, Threshold, held_out_scores, identity_scores, threshold
from refmap.identity.resemblance import resemblance
from refmap.identity.shift import batch_shifts
from refmap.transfer.neighbors import Index


@pytest.fixture(scope="module")
def labelled(reference):
    return reference.labelled()


@pytest.fixture(scope="module")
def weights(labelled):
    return identity_weights(labelled)


@pytest.fixture(scope="module")
def scored(query, labelled, weights):
    return identity_scores(query.cells(), labelled, weights, 0)


@pytest.fixture(scope="module")
def null(labelled, weights):
    return held_out_scores(labelled, weights, 0)


def test_scores_are_the_mean_over_both_clusterings(query, labelled, weights, scored):
    cells = query.cells()
    neighbors = Index(labelled.latent).search(cells.latent, 15).indices
    shifts = batch_shifts(cells, labelled, neighbors)
    clusterings, spread = own_clusterings(cells, shifts, 0), spread_of_labels(labelled, weights)
    first, second = (double_difference(Matched(cells, labelled, neighbors, shifts), one, weights, spread) for one in clusterings)
    np.testing.assert_allclose(scored.cells, (first.scores + second.scores) / 2)
    assert (scored.clustering.clusters == clusterings[0].clusters).all()
    given = identity_scores(cells, labelled, weights, 0, clusterings[1:])
    np.testing.assert_allclose(given.cells, second.scores)


def test_the_null_is_each_batch_beside_the_others(labelled, weights, null):
    assert null.n_batches == 3 and len(null.scores) == 360 and (np.diff(null.scores) >= 0).all()
    held = labelled.batches == 1
    found = identity_scores(labelled.as_query(held), labelled.part(~held), weights, 0).cells
    assert np.isin(found, null.scores).all()
    assert np.quantile(null.scores, 0.95) < 0.05


@pytest.mark.parametrize("n_elsewhere", [0, 14, 15])
def test_the_null_knows_nothing_of_types_that_others_have_too_few_of(labelled, weights, n_elsewhere):
    of_type = labelled.labels == 2
    elsewhere = np.flatnonzero(of_type & (labelled.batches != 0))[:n_elsewhere]
    kept = ~of_type | (labelled.batches == 0)
    kept[elsewhere] = True
    part = labelled.part(kept)
    found = held_out_scores(part, weights, 0)
    there = int((of_type & (labelled.batches == 0)).sum())
    assert there > 15
    assert len(found.scores) == len(part) - (there if n_elsewhere < 15 else 0)


def test_one_batch_is_no_null(labelled, weights):
    one = labelled.part(labelled.batches == 0)
    found = held_out_scores(one, weights, 0)
    assert found.n_batches == 0 and not len(found.scores)


def test_batches_that_leave_one_label_are_no_null(labelled, weights):
    kept = labelled.part((labelled.batches == 0) | ((labelled.batches == 1) & (labelled.labels == 0)))
    sizes = np.r_[np.repeat(0, 200), np.repeat(1, 100)]
    big = LabelledCells(
        kept.values[np.arange(300) % len(kept)],
        kept.latent[np.arange(300) % len(kept)],
        sizes,
        np.where(sizes == 1, 0, np.arange(300) % 2),
        kept.names[:2],
    )
    assert held_out_scores(big, weights, 0).n_batches == 1  # of the other, the rest has one label


def scores_of(clusters: list[int], cells: list[float]) -> Scores:
    clusters = np.array(clusters)
    k = clusters.max() + 1
    return Scores(
        np.array(cells), Clustering(clusters, np.arange(len(clusters))[:, None]), np.zeros(k, dtype=int), np.eye(k, 120), 1.0
    )


def test_the_threshold_is_the_higher_of_two():
    scores = scores_of([0, 0, 0, 1, 2], [0.1, 0.2, 0.9, 0.3, 0.5])
    assert scores.medians.tolist() == [0.2, 0.3, 0.5]
    alone = threshold(scores, Null(np.empty(0), 0))
    assert (alone.value, alone.null, alone.of_clusters) == (0.6, None, 0.6)
    high = threshold(scores, Null(np.linspace(0, 1, 101), 2))
    assert high.value == high.null == pytest.approx(0.95) and high.of_clusters == 0.6
    low = threshold(scores, Null(np.linspace(0, 0.1, 101), 2))
    assert low.value == 0.6 and low.null == pytest.approx(0.095)


def test_groups_are_ranked_and_those_above_the_threshold_are_novel(query, labelled, weights, scored, null):
    genes = query.genes
    limit = threshold(scored, null)
    table, groups = groups_table(scored, limit, null, labelled, weights, genes)
    assert list(table) == [
        "group",
        "n_cells",
        "n_novel",
        "matched_label",
        "score",
        "threshold",
        "null_quantile",
        "genes",
        "like_label",
        "like",
        "apart",
        "own_score",
        "reading",
        "about",
    ]
    beyond = table["score"] - table["own_score"]
    assert beyond[table["reading"] != "type"].is_monotonic_decreasing and table["n_cells"].sum() == 240
    flagged = table["score"] > limit.value
    assert flagged.any() and (table["group"].str.startswith("novel_") == flagged).all()
    assert [name.split("_")[1] for name in table["group"]] == [str(rank) for rank in range(1, len(table) + 1)]
    novel = np.isin(groups.astype(str), table["group"][flagged].astype(str))
    assert (novel == (query.types == "type 4")).all()
    assert table["n_novel"].sum() == (scored.cells > limit.value).sum()
    for _, row in table.iterrows():
        members = groups == row["group"]
        assert row["n_cells"] == members.sum() and row["score"] == pytest.approx(np.median(scored.cells[members]))
        assert row["n_novel"] == (scored.cells[members] > limit.value).sum()
        assert row["null_quantile"] == pytest.approx((null.scores < row["score"]).mean())
        assert (row["reading"] is None) == (row["score"] <= limit.value)
        alike = np.isin(groups, table["group"][table["matched_label"] == row["matched_label"]])
        assert row["own_score"] == pytest.approx(np.quantile(scored.cells[alike], 0.1))
        types = query.types[members]
        if not row["group"].startswith("novel"):
            assert (types == row["matched_label"]).mean() > 0.9
    first = table.iloc[0]
    assert first["matched_label"] == "type 0" and first["reading"] == "type"
    # It lacks the genes of the type that it was matched to, and no label of the reference is like it.
    assert len({f"-gene {i}" for i in range(10)} & set(first["genes"])) >= 7
    assert first["like_label"] is None and np.isnan(first["like"])
    lacking = " and ".join(gene[1:] for gene in first["genes"] if gene[0] == "-")
    assert first["about"].startswith(
        f"{first['n_cells']} cells matched to type 0, from which they differ by {first['score']:.2f} of what"
    )
    assert (
        f"where {limit.value:.2f} is the limit: " in first["about"] and " and ".join(lacking.split(" and ")[:3]) in first["about"]
    )
    assert first["about"].endswith(".") and "most like" not in first["about"]


def test_types_stand_before_states_and_a_finding_is_one_row(labelled, weights):
    """Clusters 1 and 2 are set apart by the same genes; cluster 0 scores more, but so do others of its label (3)."""
    clusters = np.arange(240) % 6
    scores = np.array([0.5, 0.4, 0.45, 0.29, 0.01, 0.35])[clusters]
    matched = np.array([0, 1, 1, 0, 1, 1])
    residuals = np.zeros((6, len(weights)))
    residuals[[0, 3, 4], 5], residuals[[1, 2], 10], residuals[2, 11], residuals[5, 20] = 1, 2, 1, 2
    scored = Scores(scores, Clustering(clusters, np.zeros((240, 1), dtype=int)), matched, residuals, 1.0)
    genes = np.array([f"gene {i}" for i in range(len(weights))])
    table, groups = groups_table(scored, Threshold(0.3, None, 0.3), Null(np.empty(0), 0), labelled, weights, genes)
    assert table["group"].tolist() == ["novel_1", "novel_2", "novel_3", "cluster_4", "cluster_5"]
    assert table["reading"].tolist() == ["type", "type", "state", None, None]
    assert table["score"].tolist() == pytest.approx([0.425, 0.35, 0.5, 0.29, 0.01])
    assert table["n_cells"].tolist() == [80, 40, 40, 40, 40] and table["n_novel"].tolist() == [80, 40, 40, 0, 0]
    assert (groups[np.isin(clusters, [1, 2])] == "novel_1").all() and table["genes"][0] == ["+gene 10", "+gene 11"]


def test_cells_of_which_some_differ_stand_before_a_label_that_differs_as_a_whole(labelled, weights):
    """Both clusters of label 0 are above the threshold, and score alike; of those of label 1 one scores less, and the other nothing."""
    clusters = np.arange(240) % 4
    scores, matched = np.array([0.2, 0.18, 0.14, 0.01]), np.array([0, 0, 1, 1])
    residuals = np.zeros((4, len(weights)))
    residuals[np.arange(4), np.arange(4)] = 1
    scored = Scores(scores[clusters], Clustering(clusters, np.zeros((240, 1), dtype=int)), matched, residuals, 1.0)
    genes = np.array([f"gene {i}" for i in range(len(weights))])
    table, _ = groups_table(scored, Threshold(0.15, None, 0.15), Null(np.empty(0), 0), labelled, weights, genes)
    assert table["group"].tolist() == ["cluster_1", "novel_2", "novel_3", "cluster_4"]
    assert table["reading"].tolist() == [None, "state", "state", None]
    np.testing.assert_allclose(table["score"] - table["own_score"], [0.13, 0.02, 0, 0], atol=1e-12)


def test_findings_are_alike_in_label_reading_and_genes():
    residuals = np.array([[1.0, 0, 0], [1, 0.2, 0], [0, 1, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]])
    matched = np.array([0, 0, 0, 1, 0, 0, 0, 0])
    readings = np.array(["type", "type", "type", "type", "state", None, "type", "type"], dtype=object)
    assert sorted(findings(residuals, matched, readings)) == [[0, 1], [2], [3], [4], [5], [6], [7]]
    # A chain of neighbours is no finding: any two must be alike.
    angles = np.radians([0, 30, 60])
    chain = np.column_stack([np.cos(angles), np.sin(angles)])
    assert sorted(map(len, findings(chain, np.zeros(3, dtype=int), np.array(["state"] * 3, dtype=object)))) == [1, 2]


def test_a_known_type_in_a_wrong_place_is_like_its_label(reference, labelled, weights, null):
    """Cells of type 3 that the latent puts where type 1 lies."""
    wrong = make({"type 0": 60, "type 1": 50, "type 2": 50, "type 3": 40}, 1, 5, 0.3, {"type 3": "type 1"})
    found = identity_scores(wrong.cells(), labelled, weights, 0)
    table, groups = groups_table(found, threshold(found, null), null, labelled, weights, wrong.genes)
    first = table.iloc[0]
    assert set(wrong.types[groups == first["group"]]) == {"type 3"}
    assert first["matched_label"] == "type 1" and first["like_label"] == "type 3" and first["like"] > 0.7
    assert first["about"].endswith("; most like type 3.")
    assert "+gene 30" in first["genes"] or "+gene 31" in first["genes"]


def test_without_a_null_there_is_no_quantile(scored, labelled, weights, query):
    null = Null(np.empty(0), 0)
    table, _ = groups_table(scored, threshold(scored, null), null, labelled, weights, query.genes)
    assert table["null_quantile"].isna().all()


def test_how_far_labels_lie_is_told_by_the_nearest():
    # Squared distances 1, 9 and 16 (labels at 0, 1 and 4 of a line): a mean of 26 / 3.
    far = far_apart(np.array([[0.0, 2.0], [1.0, 2.0], [4.0, 2.0]]))
    np.testing.assert_allclose(far, [26 / 3, 26 / 3, 26 / 27])
    assert far_apart(np.array([[1.0], [1.0], [3.0]]))[0] == np.inf


@pytest.mark.parametrize(
    "score, apart, own, alone, reading",
    [
        (0.2, 0.31, 0.09, False, "type"),  # far, and beside others of its label that are as the reference's
        (0.2, 0.31, 0.09, True, "type"),
        (0.2, 0.29, 0.051, False, "state"),  # by less than types differ
        (0.2, 0.29, 0.049, False, "type"),  # which is enough where it stands out the more
        (0.2, 0.09, 0.0, False, "state"),
        (0.2, 0.4, 0.11, False, "state"),  # as the other cells do
        (0.2, 0.4, 0.11, True, "state"),
        (0.2, 0.51, 0.11, True, "type"),  # no cell of the label may be there
        (0.2, 0.51, 0.11, False, "state"),
        (0.2, 0.4, -0.01, False, "type"),
    ],
)
def test_groups_are_read_as_types_or_states(score, apart, own, alone, reading):
    assert read(score, apart, own, alone) == reading


def test_a_state_is_told_why():
    row = {"n_cells": 20, "matched_label": "B", "score": 0.2, "threshold": 0.1, "genes": ["+a"], "like_label": None}
    row |= {"apart": 0.25, "own_score": 0.09, "reading": "state"}
    assert sentence(row).endswith("more of a. A type would differ by more: B differs from its nearest label 4 times as much.")
    assert sentence(row | {"own_score": 0.11}).endswith(
        "more of a. So do the other cells that were matched to B, as a condition or a protocol makes them."
    )
    assert sentence(row | {"reading": "type"}).endswith("more of a.")


def test_what_tells_the_clusters_apart_is_found_in_the_matched_cells(query, labelled, weights, scored):
    cells = query.cells()
    neighbors = Index(labelled.latent).search(cells.latent, 15).indices
    shifts = batch_shifts(cells, labelled, neighbors)
    clustering = own_clusterings(cells, shifts, 0)[0]

    def of(rows: np.ndarray) -> float:
        return resemblance(Matched(cells, labelled, rows, shifts), clustering, weights, 0)

    assert scored.resemblance == of(neighbors) and 0.8 < scored.resemblance <= 1
    # By hand, but for the reliability, which makes it larger.
    values, matched = cells.values.toarray() - shifts[cells.batches], labelled.values.toarray()[neighbors].mean(axis=1)
    sides = [pd.DataFrame(side).groupby(clustering.clusters).mean().to_numpy()[clustering.clusters] for side in (values, matched)]
    plain = np.corrcoef(*(((side - side.mean(axis=0)) * np.sqrt(weights)).ravel() for side in sides))[0, 1]
    assert plain < scored.resemblance < plain * 1.2
    # Cells that were mapped to any of the reference's are like none of them.
    assert of(np.random.default_rng(0).integers(0, len(labelled), neighbors.shape)) < 0.3


def test_genes_are_signed_and_those_that_count_nothing_are_left_out():
    genes = np.array(["a", "b", "c", "d"])
    assert signed_genes(np.array([0.5, 0.0, -2.0, 1.0]), genes) == ["-c", "+d", "+a"]
    assert len(signed_genes(np.arange(1.0, 21), np.arange(20))) == 10


def test_a_profile_is_compared_from_the_matched_label():
    profiles = np.eye(4)
    assert most_like(np.array([-1.0, 1.0, 0.0, 0.0]), profiles, 0) == (1, pytest.approx(1.0))
    # By hand: 0.2 / (sqrt(2 / 3) * sqrt(0.0825)).
    assert most_like(np.array([0.0, 0.0, 0.3, 0.0]), profiles, 3) == (2, pytest.approx(0.8528, abs=1e-4))
    for nothing in (np.array([-1.0, 0, 0, 0]), np.zeros(4)):  # what lacks the markers of its own label is like none
        label, cosine = most_like(nothing, profiles, 0)
        assert label is None and np.isnan(cosine)
    assert most_like(np.array([-1.0, 1.0]), np.eye(2), 0)[0] is None
