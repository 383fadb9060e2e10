"""Both looks from arrays: shared genes, cells that are left out, and why there is nothing to say."""

import dataclasses
import json
import re

import numpy as np
import pandas as pd
import pytest
from made_cells import Sampled, look, make
from refmap.common.errors import RefmapError
from refmap.identity.expression import identity_weights, log_normalize
from refmap.identity.gene_view import gene_votes
from refmap.identity.learned import Learned, learn
from refmap.identity.novel import Null, held_out_scores, identity_scores, threshold
from refmap.identity.pairing import Counted, pair
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score


@pytest.fixture(scope="module")
def given(reference, query):
    return reference.sampled(), query.counted()


@pytest.fixture(scope="module")
def found(given, query):
    return look(*given, 0, latent_labels=np.where(query.types == "type 4", "Unknown", query.types).astype(object))


def with_(counted: Counted, **changes) -> Counted:
    return dataclasses.replace(counted, **changes)


def test_both_looks_are_those_of_their_parts(found, given, reference, query):
    cells, labelled = query.cells(), reference.labelled()
    weights = identity_weights(labelled)
    scores, null = identity_scores(cells, labelled, weights, 0), held_out_scores(labelled, weights, 0)
    assert (found.n_genes, found.no_novel, found.no_view) == (120, None, None)
    np.testing.assert_allclose(found.novel.scores, scores.cells, atol=1e-9)
    assert found.novel.threshold.value == pytest.approx(threshold(scores, null).value)
    novel = pd.Series(found.novel.groups).str.startswith("novel_").to_numpy()
    assert (novel == (query.types == "type 4")).all()
    assert set(found.novel.groups) == set(found.novel.table["group"])
    votes = gene_votes(cells, labelled, weights, 0)
    view = found.view
    assert (view.labels == labelled.names[votes.argmax(axis=1)]).all()
    np.testing.assert_allclose(view.share, votes.max(axis=1))
    certainty = found.learned.certainty
    np.testing.assert_allclose(view.certainty, certainty.own(view.share))
    assert view.sets.shape == (240, 4) and (view.sets == (votes >= certainty.limit - 1e-12)).all()
    known = query.types != "type 4"
    assert np.isnan(view.latent_certainty[~known]).all()
    codes = np.searchsorted(view.names.astype(str), query.types[known])
    np.testing.assert_allclose(view.latent_certainty[known], certainty.of_any(votes[known, codes]))
    assert (view.labels[known] == query.types[known]).mean() > 0.98 and view.latent_certainty[known].mean() > 0.95


def test_the_same_seed_gives_the_same(found, given):
    again = look(*given, 0)
    pd.testing.assert_frame_equal(again.novel.table, found.novel.table)
    assert (again.novel.scores == found.novel.scores).all() and (again.view.share == found.view.share).all()
    assert np.isnan(again.view.latent_certainty).all()  # of which nothing was asked


def test_what_the_reference_said_of_itself_is_taken_up(given, found, monkeypatch):
    cells = pair(*given).reference.labelled(given[0].labels)
    known = learn(cells, identity_weights(cells), 0)
    monkeypatch.setattr("refmap.identity.compare.learn", None)  # would fail if it were called
    again = look(*given, 0, learned=known)
    assert again.learned is known and again.novel.threshold == found.novel.threshold
    assert (again.view.certainty == found.view.certainty).all()


def test_what_was_learned_is_kept_in_json(given, found, monkeypatch):
    monkeypatch.setattr("refmap.identity.learned.MOST_KEPT", 101)
    kept = Learned.of_record(json.loads(json.dumps(found.learned.record())))
    assert len(kept.null.scores) == 101 and kept.null.n_batches == 3
    again = look(*given, 0, learned=kept)
    assert again.novel.threshold.null == pytest.approx(found.novel.threshold.null, rel=1e-9)
    assert (again.novel.groups == found.novel.groups).all()
    np.testing.assert_array_equal(again.view.certainty, found.view.certainty)
    np.testing.assert_array_equal(again.view.sets, found.view.sets)
    assert kept.certainty.figures == found.learned.certainty.figures
    without = Learned(Null(np.empty(0), 0), None, "Why.")
    assert Learned.of_record(json.loads(json.dumps(without.record()))).no_certainty == "Why."


def test_where_no_certainty_can_be_learned_votes_stand_alone(given):
    few = look(*given, 0, learned=Learned(Null(np.empty(0), 0), None, "Why."))
    assert few.learned.no_certainty == "Why." and np.isfinite(few.view.share).all()
    assert np.isnan(few.view.certainty).all() and not few.view.sets.any()


def test_genes_are_matched_by_name_and_normalised_over_those_that_both_have(given):
    reference, query = given
    order = np.random.default_rng(0).permutation(120)[:80]
    moved = with_(query, counts=query.counts[:, order], genes=query.genes[order])
    both = pair(reference, moved)
    kept = np.sort(order)
    assert both.genes.tolist() == [f"gene {i}" for i in kept]
    np.testing.assert_allclose(both.query.cells.values.toarray(), log_normalize(query.counts[:, kept]).toarray(), rtol=1e-6)
    np.testing.assert_allclose(
        both.reference.cells.values.toarray(), log_normalize(reference.counts[:, kept]).toarray(), rtol=1e-6
    )


def test_no_shared_gene_is_an_error(given):
    reference, query = given
    wanted = (
        "The query shares no gene with the reference's sample: it has 'other 0', 'other 1', 'other 2' and 117 more, and the "
        "reference 'gene 0', 'gene 1', 'gene 2' and 117 more; give both the same kind of gene ids."
    )
    with pytest.raises(RefmapError, match=re.escape(wanted)):
        look(reference, with_(query, genes=np.array([f"other {i}" for i in range(120)], dtype=object)), 0)


def test_cells_without_counts_or_place_have_no_figures(given, found):
    reference, query = given
    counts, latent = query.counts.toarray(), query.latent.copy()
    counts[[3, 50]], latent[7] = 0, np.nan
    again = look(reference, with_(query, counts=sparse.csr_matrix(counts), latent=latent), 0, query.batches)
    gone = np.isin(np.arange(240), [3, 7, 50])
    assert (np.isnan(again.novel.scores) == gone).all() and (pd.isna(again.novel.groups) == gone).all()
    assert (pd.isna(again.view.labels) == gone).all() and (np.isnan(again.view.share) == gone).all()
    assert not again.view.sets[gone].any() and again.novel.table["n_cells"].sum() == 237
    assert (again.view.labels[~gone] == found.view.labels[~gone]).mean() > 0.98
    both = pair(reference, with_(query, counts=sparse.csr_matrix(counts), latent=latent))
    assert (both.query.rows == np.flatnonzero(~gone)).all()


def test_reference_cells_without_a_label_are_left_out(given, reference):
    labels = np.where(np.arange(360) % 3 == 0, None, reference.types).astype(object)
    cells = pair(*given).reference.labelled(labels)
    assert len(cells) == 240
    assert (cells.names[cells.labels] == labels[np.arange(360) % 3 != 0]).all()


def test_a_label_of_one_cell_is_borne(given, reference):
    labels = reference.types.astype(object).copy()
    labels[0] = "type 9"
    found = look(with_(given[0], labels=labels), given[1], 0)
    assert "type 9" in found.view.names and found.view.sets.shape == (240, 5)
    assert np.isfinite(found.novel.scores).all() and np.isfinite(found.view.certainty).all()
    assert found.learned.certainty.figures["n"] == 359  # no other batch has the label


def test_without_batches_the_null_is_the_median_alone(given):
    found = look(with_(given[0], batches=None), with_(given[1], batches=None), 0)
    assert found.novel.threshold.null is None and found.novel.threshold.value == found.novel.threshold.of_clusters
    assert found.learned.certainty.figures["by"] == "random cells"
    assert np.isfinite(found.view.certainty).all()


def test_ten_cells_get_labels_and_no_clusters(given, query):
    rows = np.arange(10)
    found = look(given[0], query.take(rows).counted(), 0)
    assert found.novel is None
    assert found.no_novel == (
        "10 cells of the query have counts in the shared genes, and fewer than 20 have no clusters of their own."
    )
    assert (found.view.labels == query.types[rows])[query.types[rows] != "type 4"].mean() > 0.8


def test_cells_of_one_cluster_are_not_told_from_the_whole_query(given):
    alike = make({"type 1": 24}, 1, 3)
    same = with_(alike.counted(), counts=alike.counts[np.zeros(24, dtype=int)])
    found = look(given[0], same, 0)
    assert found.novel is None or np.abs(found.novel.scores).max() < 0.05
    assert set(found.view.labels) == {"type 1"}


ONE_LABEL = "The reference's cells have one label, 'type 0', so no gene tells labels apart."


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda r, q: (with_(r, labels=np.full(360, "type 0", dtype=object)), q), ONE_LABEL),
        (
            lambda r, q: (with_(r, labels=np.full(360, None, dtype=object)), q),
            "The reference's cells have no label, so no gene tells labels apart.",
        ),
        (
            lambda r, q: (r, with_(q, counts=sparse.csr_matrix((240, 120), dtype=np.float32))),
            "No cell of the query has counts in the 120 genes that it shares with the reference, and a place in the latent space.",
        ),
        (
            lambda r, q: (r, with_(q, counts=q.counts[:, :9], genes=q.genes[:9])),
            "The query shares 9 genes with the reference's sample, and fewer than 10 tell no types apart.",
        ),
        (
            lambda r, q: (with_(r, counts=sparse.csr_matrix(np.ones((360, 120), dtype=np.float32))), q),
            "None of the 120 shared genes tells the reference's labels apart.",
        ),
    ],
    ids=["one label", "no label", "no counts", "few genes", "no variance"],
)
def test_where_nothing_can_be_said_one_sentence_says_why(given, change, reason):
    found = look(*change(*given), 0)
    assert (found.novel, found.view, found.learned) == (None, None, None)
    assert found.no_novel == found.no_view == reason


def test_genes_that_do_not_vary_change_nothing_but_the_totals(given):
    """Genes that no reference cell has weigh nothing, whatever the query has of them."""
    reference, query = given
    none = sparse.csr_matrix((360, 5), dtype=np.float32)
    genes = np.r_[reference.genes, [f"silent {i}" for i in range(5)]]
    wider = with_(reference, counts=sparse.hstack([reference.counts, none], format="csr"), genes=genes)
    found = look(wider, with_(query, counts=sparse.hstack([query.counts, none[:240]], format="csr"), genes=genes), 0)
    plain = look(reference, query, 0)
    assert found.n_genes == 125 and np.isfinite(found.novel.scores).all()
    assert (found.view.labels == plain.view.labels).mean() > 0.98


@pytest.mark.parametrize("missing", ["CD19+ B", "CD56+ NK"])
def test_real_cells_that_the_reference_lacks(pbmc, missing):
    """Half of real PBMCs as a reference without one type, in principal components of its own cells; the others as the query."""
    labels = pbmc.obs["bulk_labels"].astype(str).to_numpy(dtype=object)
    half = np.random.default_rng(0).random(len(labels)) < 0.5
    known = half & (labels != missing)
    values = log_normalize(pbmc.X).toarray()
    latent = PCA(10, random_state=0).fit(values[known]).transform(values)
    genes = pbmc.var_names.to_numpy()
    reference = Sampled(pbmc.X[known], genes, latent[known], labels=labels[known])
    found = look(reference, Counted(pbmc.X[~half], genes, latent[~half]), 0)
    novel = pd.Series(found.novel.groups).str.startswith("novel_").to_numpy()
    left_out = labels[~half] == missing
    assert roc_auc_score(left_out, found.novel.scores) > 0.98
    assert novel[left_out].mean() > 0.9 and novel[~left_out].mean() < 0.05
    assert (found.view.labels == labels[~half])[~left_out].mean() > 0.7
