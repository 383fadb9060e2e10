"""How far a mapping can be trusted: figures whose values are known by construction or computed another way, and the light."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from refmap.common.errors import RefmapError
from refmap.mapping.decoded import SCALE, Decoded
from refmap.transfer.neighbors import Index
from refmap.transfer.separation import held_out_separation, separation
from refmap.trust import (
    AMBER,
    FIGURES,
    GREEN,
    GREY,
    RED,
    QueryCells,
    ReferenceCells,
    judge,
    measure,
    mixing,
    read_thresholds,
    space,
    structure,
)
from refmap.trust import figures as F
from refmap.trust.thresholds import THRESHOLDS
from scipy import sparse
from sklearn.metrics import pairwise_distances

DOCS = Path(__file__).resolve().parents[3] / "docs/trust.md"
ALIGNMENT = {"matched": 190, "n_model_genes": 200}
LIMITS = read_thresholds()


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def blobs(sizes: list[int], seed: int = 0, d: int = 10, apart: float = 12.0) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian cell types whose centres are fixed, cells of them in random order: latent (float32), type of each."""
    centers = rng(99).normal(size=(len(sizes), d)) * apart / np.sqrt(d)
    types = rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    return (centers[types] + rng(seed + 1).normal(size=(len(types), d))).astype(np.float32), types


def profiles_of(types: np.ndarray, genes: int = 200) -> np.ndarray:
    """The expected counts of each cell: each type has genes of its own that are on."""
    return np.exp(rng(98).normal(size=(types.max() + 1, genes)))[types]


def counts_of(types: np.ndarray, seed: int = 0, genes: int = 200) -> sparse.csr_matrix:
    return sparse.csr_matrix(rng(seed).poisson(profiles_of(types, genes)).astype(np.float32))


def decoded_of(types: np.ndarray, genes: int = 200) -> Decoded:
    """What a model says that knows these cells."""
    expected = profiles_of(types, genes)
    return Decoded(np.arange(len(types)), np.arange(genes), (SCALE * expected / expected.sum(axis=1)[:, None]).astype(np.float16))


def named(types: np.ndarray) -> pd.Series:
    return pd.Series([f"type {i}" for i in types], index=[f"cell {i}" for i in range(len(types))])


# --- genes, Unknown, novelty ----------------------------------------------------------------------------------------------


def test_genes_found():
    assert F.genes(ALIGNMENT) == {"value": 0.95, "expected": 1.0, "note": None, "matched": 190, "of": 200}
    assert F.genes({"matched": 0, "n_model_genes": 0})["value"] is None


def test_unknown_is_measured_against_held_out_cells():
    labels = {
        "fine": pd.Series(["T"] * 40 + ["Unknown"] * 55 + [None] * 5, dtype="category"),
        "coarse": pd.Series(["T"] * 90 + ["Unknown"] * 10),
        "unheard": pd.Series(["T"] * 70 + ["Unknown"] * 30),
    }
    held_out = {"fine": {"unknown_of_all": 0.2, "accuracy_kept": 0.9}, "coarse": {"unknown_of_all": 0.3}}
    found = F.unknown(labels, {"fine": 5, "coarse": 2, "unheard": 3}, held_out)

    fine = found["levels"]["fine"]
    assert (fine["value"], fine["expected"], fine["accuracy_kept"]) == (0.6, 0.2, 0.9)
    assert fine["excess"] == pytest.approx((0.6 - 0.2) / 0.8)
    assert found["levels"]["coarse"]["excess"] == 0  # fewer than expected are none too many
    assert found["levels"]["unheard"]["excess"] == 0.3 and found["levels"]["unheard"]["expected"] is None
    assert (found["value"], found["worst"]) == (0.0, 0.5)


def test_unknown_has_no_meaning_without_labels_with_one_or_with_few_cells():
    many = pd.Series(["T"] * 100)
    assert F.unknown({}, {}, {})["note"] == "No labels were transferred to the query."
    assert "one label in 'key', which every cell gets" in F.unknown({"key": many}, {"key": 1}, {})["note"]
    assert "No cell of the reference has a label in 'key'" in F.unknown({"key": many}, {"key": 0}, {})["note"]
    assert "has 1 cell, too few" in F.unknown({"key": many[:1]}, {"key": 3}, {})["note"]
    mixed = F.unknown({"one": many, "two": many}, {"one": 1, "two": 2}, {})
    assert mixed["value"] == 0 and mixed["levels"]["one"]["value"] is None
    # Held-out cells of which none got a label leave nothing to lose.
    assert F.unknown({"key": many}, {"key": 2}, {"key": {"unknown_of_all": 1.0}})["value"] == 0


def test_novel_cells_beyond_those_that_are_expected():
    uniform = (np.arange(1000) + 0.5) / 1000
    assert F.novel(uniform) == {
        "value": 0.0, "expected": 0.0, "note": None, "flagged": 0.05, "flagged_expected": 0.05, "n_cells": 1000,
    }  # fmt: skip
    # 30 % of the cells are of a new type, the others like the reference's own.
    found = F.novel(np.concatenate([uniform, np.full(429, 0.001)]))
    assert found["value"] == pytest.approx(0.3, abs=0.001)
    assert found["flagged"] == pytest.approx((50 + 429) / 1429, abs=1e-4)
    assert F.novel(np.r_[uniform, np.nan])["n_cells"] == 1000


def test_novelty_says_why_it_is_not_known():
    assert F.novel(None)["note"] == "There are no cells of the reference to compare the query's with."
    assert "too few cells to hold some out" in F.novel(np.full(50, np.nan))["note"]
    assert "The query has 10 cells, too few" in F.novel(np.full(10, 0.5))["note"]


def test_separation_of_all_cells_and_of_those_of_each_label():
    held_out = np.array([0.8, 1.0, 1.4])
    separations = np.r_[np.full(30, 1.1), np.full(25, 2.5), np.full(5, 9.0)]
    labels = pd.Series(["T"] * 30 + ["B"] * 25 + ["NK"] * 5)
    assert F.separation(separations, held_out, labels) == {
        "value": 1.8, "expected": 1.0, "note": None, "n_cells": 60,
        "labels": {"B": {"value": 2.5, "n_cells": 25}, "T": {"value": 1.1, "n_cells": 30}},
    }  # fmt: skip
    assert F.separation(separations, np.empty(0), None)["expected"] is None
    assert "too few cells to say whether they lie apart" in F.separation(np.full(9, np.nan), held_out, labels)["note"]


# --- neighbourhoods -------------------------------------------------------------------------------------------------------


def test_own_neighbors_are_those_of_all_distances():
    points = rng().normal(size=(60, 4)).astype(np.float32)
    near = Index(points).search_own(7)
    indices, distances = near.indices, near.distances
    everything = pairwise_distances(points.astype(float))
    np.fill_diagonal(everything, np.inf)
    np.testing.assert_array_equal(indices, np.argsort(everything, axis=1)[:, :7])
    np.testing.assert_allclose(distances, np.sort(everything, axis=1)[:, :7], atol=1e-6)
    # There are no more neighbours than other points, and a point is none of its own among its doubles.
    near = Index(np.zeros((5, 2), np.float32)).search_own(9)
    indices, distances = near.indices, near.distances
    assert indices.shape == (5, 4) and not distances.any()
    indices = Index(np.zeros((40, 2), np.float32)).search_own(3).indices
    assert indices.shape == (40, 3) and not (indices == np.arange(40)[:, None]).any()


@pytest.mark.parametrize("sizes", [(200, 3000), (3000, 200), (5000, 5000)])
def test_mixing_of_the_same_gaussian_does_not_hang_on_the_sizes(sizes):
    query, reference = (rng(i).normal(size=(n, 10)).astype(np.float32) for i, n in enumerate(sizes))
    assert space.reference_share(query, reference, rng()) == pytest.approx(0.5, abs=0.05)


def test_mixing_does_not_hang_on_which_types_are_frequent():
    query, _ = blobs([1900, 50, 50], seed=1)
    reference, _ = blobs([100, 1500, 2400], seed=5)
    assert space.reference_share(query, reference, rng()) == pytest.approx(0.5, abs=0.06)
    # As one pool of equal numbers, the frequent type alone would have made it low.
    equal = rng().permutation(len(reference))[: len(query)]
    indices = Index(np.concatenate([query, reference[equal]])).search_own(15).indices
    assert (indices[: len(query)] >= len(query)).mean() < 0.2


def test_mixing_is_the_share_counted_by_brute_force_where_there_is_one_region():
    query = rng(1).normal(size=(30, 3)).astype(np.float32)
    reference = (rng(2).normal(size=(30, 3)) + 0.7).astype(np.float32)
    both = np.concatenate([query, reference]).astype(float)
    distances = pairwise_distances(both)
    np.fill_diagonal(distances, np.inf)
    nearest = np.argsort(distances, axis=1)[:30, :3]  # 30 // 10 neighbours
    assert space.reference_share(query, reference, rng()) == pytest.approx((nearest >= 30).mean())


def test_a_query_that_was_shifted_away_does_not_mix():
    reference, _ = blobs([500, 500, 500], seed=3)
    query, _ = blobs([300, 300, 300], seed=7)
    halfway, far = query + 1.0, query + 100
    shares = [space.mixing(cells, reference, None, 0) for cells in (query, halfway, far)]
    assert shares[0]["relative"] > 0.9 and shares[2]["value"] == 0 == shares[2]["relative"]
    assert shares[0]["value"] > shares[1]["value"] + 0.1 > shares[2]["value"] + 0.1


def test_what_mixing_expects_is_what_the_references_batches_show():
    latent, _ = blobs([600, 600, 600], seed=3)
    batches = pd.Series(rng().choice(["a", "b", "c"], len(latent)))
    query, _ = blobs([200, 200, 200], seed=8)
    same = space.mixing(query, latent, batches, 0)
    assert same["held_out"] == "batches" and same["n_held_out"] == 3
    assert same["expected"] == pytest.approx(0.5, abs=0.05) and same["lowest"] <= same["expected"]
    # A reference whose own batches lie apart lets expect no better of a query.
    apart = latent + 1.2 * pd.factorize(batches)[0][:, None].astype(np.float32)
    loose = space.mixing(query + np.float32(0.6), apart, batches, 0)
    assert loose["expected"] < 0.3
    assert loose["relative"] > loose["value"] / same["expected"]


@pytest.mark.parametrize("batches", [None, ["a"] * 600, [None] * 600, [f"b{i % 60}" for i in range(600)]])
def test_without_batches_of_some_size_random_cells_are_held_out(batches):
    latent, _ = blobs([300, 300])
    found = space.mixing(latent[:100], latent, None if batches is None else pd.Series(batches, dtype=object), 0)
    assert found["held_out"] == "random cells" and found["n_held_out"] == 5
    assert found["expected"] == pytest.approx(0.5, abs=0.06)


def test_cells_that_all_lie_at_one_place_have_figures():
    assert space.mixing(np.zeros((50, 3)), np.zeros((200, 3)), None, 0)["value"] is not None
    assert space.presence(np.zeros((50, 3)), np.zeros((200, 3)), None, 0)["value"] == 1


def test_presence_tells_which_labels_the_query_covers():
    reference, types = blobs([400, 400, 400], seed=3)
    query, query_types = blobs([200, 200, 200], seed=11)
    labels = named(types)
    labels[:100] = None
    found = space.presence(query[query_types != 2], reference, labels, 0)
    by_label = found["labels"]
    assert set(by_label) == {"type 0", "type 1", "type 2"}
    assert by_label["type 2"]["value"] == 0 and by_label["type 2"]["expected"] > 0.9
    assert by_label["type 0"]["value"] > 0.9
    assert found["value"] == pytest.approx(2 / 3, abs=0.06) and found["n_cells"] == 600
    assert sum(entry["n_cells"] for entry in by_label.values()) < 600  # cells without a label are in none


def test_presence_is_measured_against_as_many_cells_of_the_reference():
    reference, _ = blobs([1000, 1000], seed=3)
    query, _ = blobs([15, 15], seed=11)
    found = space.presence(query, reference, None, 0)
    # 30 cells cannot cover 1,000, were they the reference's own.
    assert found["n_query_cells"] == 30 and 0.1 < found["expected"] < 0.9
    assert found["value"] == pytest.approx(found["expected"], abs=0.15)
    assert space.presence(query + 1000, reference, None, 0)["value"] == 0


def test_presence_by_brute_force():
    reference = rng(1).normal(size=(80, 3)).astype(np.float32)
    query = rng(2).normal(size=(60, 3)).astype(np.float32)
    seen = np.sort(rng(4).permutation(80)[:40])
    within = np.sort(pairwise_distances(reference[seen].astype(float)), axis=1)[:, 15]
    # As many query cells as the other half of the reference has, drawn after it was parted.
    generator = rng(4)
    generator.permutation(80)
    drawn = np.sort(generator.choice(60, 40, replace=False))
    nearest = pairwise_distances(reference[seen].astype(float), query[drawn].astype(float)).min(axis=1)
    assert space.presence(query, reference, None, 4)["value"] == pytest.approx((nearest <= within).mean(), abs=1e-4)


# --- the query's own structure --------------------------------------------------------------------------------------------


def test_log_normalization_scales_to_the_median_total():
    counts = counts_of(rng().integers(0, 3, 50))
    counts[7] = 0
    counts.eliminate_zeros()
    dense = counts.toarray().astype(float)
    totals = dense.sum(axis=1, keepdims=True)
    wanted = np.log1p(dense / np.maximum(totals, 1) * np.median(totals[totals > 0]))
    found = structure.log_normalize(counts)
    assert found.dtype == np.float32 and not found[7].nnz
    np.testing.assert_allclose(found.toarray(), wanted, rtol=1e-5)
    empty = structure.log_normalize(sparse.csr_matrix((3, 4), dtype=np.float32))
    assert empty.shape == (3, 4) and empty.nnz == 0


def test_leiden_finds_what_is_there_again_and_again_and_leaves_random_alone():
    import random

    points, types = blobs([80, 80, 80])
    random.seed(5)
    wanted = random.random()
    random.seed(5)
    found = structure.leiden(points, 0)
    assert random.random() == wanted
    assert (pd.crosstab(found, types) > 0).sum(axis=1).max() == 1  # no cluster holds two types
    np.testing.assert_array_equal(found, structure.leiden(points, 0))


def test_purity_is_the_share_counted_by_brute_force():
    points = rng().normal(size=(90, 3)).astype(np.float32)
    clusters = rng(1).integers(0, 3, 90)
    distances = pairwise_distances(points.astype(float))
    np.fill_diagonal(distances, np.inf)
    nearest = np.argsort(distances, axis=1)[:, :15]
    excess = [(clusters[nearest[i]] == clusters[i]).mean() - ((clusters == clusters[i]).sum() - 1) / 89 for i in range(90)]
    assert structure.purity(points, clusters) == pytest.approx(np.mean(excess))
    assert structure.purity(points, np.zeros(90, int)) == 0  # one cluster is pure by chance


def preserved(types, latent, batches=None, seed=0):
    values = structure.log_normalize(counts_of(types))
    batches = np.zeros(len(types), int) if batches is None else batches
    return structure.cluster_preservation(values, latent, batches, seed)


def test_clusters_that_the_latent_keeps_merges_or_loses():
    latent, types = blobs([100, 100, 100, 100])
    kept = preserved(types, latent)
    assert kept["value"] > 0.95 and kept["ari"] > 0.9 and kept["nmi"] > 0.9 and kept["ari_expected"] > 0.9
    merged, _ = blobs([100, 100, 100, 100], apart=0.0)
    lost = preserved(types, merged)
    assert lost["value"] < 0.1 and lost["ari"] < 0.1
    pairs = np.where((types >= 2)[:, None], merged + 50, merged)
    half = preserved(types, pairs)
    assert lost["value"] + 0.2 < half["value"] < kept["value"] - 0.2


def test_batches_that_surgery_brought_together_do_not_count_as_lost_clusters():
    latent, types = blobs([150, 150])
    batches = rng(3).integers(0, 2, 300)
    counts = counts_of(types + 2 * batches)  # every type looks different in every batch
    values = structure.log_normalize(counts)
    assert structure.cluster_preservation(values, latent, batches, 0)["value"] > 0.95
    assert structure.cluster_preservation(values, latent, np.zeros(300, int), 0)["value"] < 0.8


def test_noise_has_no_clusters_to_keep():
    one_type = np.zeros(300, int)
    found = preserved(one_type, blobs([300])[0])
    assert found["value"] is None and found["note"].startswith("Two halves of the genes agree on no clusters")
    assert found["found_again"] < 0.1


def test_few_cells_or_genes_have_no_clusters():
    latent, types = blobs([20, 20])
    assert preserved(types, latent)["note"] == "No batch of the query has 50 cells, so none has clusters."
    latent, types = blobs([50, 50])
    values = structure.log_normalize(counts_of(types, genes=30))
    found = structure.cluster_preservation(values, latent, np.zeros(100, int), 0)
    assert found["note"].startswith("The query has counts in fewer than 40")


def test_ilisi_is_that_of_scib_metrics_on_neighbours_found_otherwise():
    from scib_metrics import ilisi_knn
    from scib_metrics.nearest_neighbors import NeighborsResults
    from sklearn.neighbors import NearestNeighbors

    points, _ = blobs([250, 250])
    batches = rng(1).choice(["a", "b", "c"], 500, p=[0.5, 0.3, 0.2])
    distances, indices = NearestNeighbors(n_neighbors=90).fit(points).kneighbors(points)
    wanted = float(ilisi_knn(NeighborsResults(indices=indices, distances=distances.astype(np.float32)), batches))
    assert 0.1 < wanted < 0.95
    assert mixing.ilisi(points, batches) == pytest.approx(wanted, abs=1e-4)
    assert mixing.ilisi(1000 * points, batches) == pytest.approx(wanted, abs=1e-4)  # where scib-metrics' exponentials are all 0


def test_kbet_is_the_share_of_neighbourhoods_that_pass_a_chi_square_test():
    from scipy.stats import chi2

    points, types = blobs([160, 80])
    batches = np.where(rng(1).random(240) < 0.3 + 0.4 * (points[:, 0] > np.median(points[:, 0])), "a", "b")
    rates = []
    for kind, k in ((0, 20), (1, 10)):  # a quarter of the mean batch of the label, the cell itself among them
        cells = np.flatnonzero(types == kind)
        nearest = np.argsort(pairwise_distances(points[cells].astype(float)), axis=1)[:, :k]
        expected = k * np.array([(batches[cells] == b).mean() for b in "ab"])
        observed = np.stack([(batches[cells][nearest] == b).sum(axis=1) for b in "ab"], axis=1)
        rates.append((chi2.sf(((observed - expected) ** 2 / expected).sum(axis=1), df=1) >= 0.05).mean())
    assert 0.2 < np.mean(rates) < 0.95
    assert mixing.kbet(points, batches, types) == pytest.approx(np.mean(rates), abs=0.01)


def test_batches_before_and_after_surgery():
    latent, types = blobs([250, 250])
    batches = rng(3).integers(0, 2, 500)
    values = structure.log_normalize(counts_of(types + 2 * batches))
    labels = named(types).to_numpy()
    together = mixing.batch_mixing(values, latent, batches, labels, 0)
    assert together["before"] < 0.05 and together["value"] == pytest.approx(together["expected"], abs=0.05)
    assert together["kbet"] > 0.85 > 0.05 > together["kbet_before"]
    assert together["relative"] > 0.95 and together["kbet_note"] is None

    apart = mixing.batch_mixing(None, latent + 30 * batches[:, None].astype(np.float32), batches, None, 0)
    assert apart["value"] < 0.01 and apart["relative"] < 0.01 and apart["before"] is None
    assert apart["kbet"] is None and "no labels" in apart["kbet_note"]


def test_batches_of_different_types_are_not_expected_to_mix():
    latent, types = blobs([200, 200])
    batches = np.where(rng(1).random(400) < 0.03, 1 - types, types)
    by_type = mixing.batch_mixing(None, latent, batches, named(types).to_numpy(), 0)
    blind = mixing.batch_mixing(None, latent, batches, None, 0)
    assert by_type["value"] == blind["value"] < 0.2
    assert by_type["expected"] < 0.2 and blind["expected"] > 0.8
    assert by_type["relative"] > 0.8 and blind["relative"] < 0.2
    assert by_type["kbet"] is None and "No label has 50 cells with 10 of each of two batches" in by_type["kbet_note"]


@pytest.mark.parametrize("batches", [["a"] * 100, ["a"] * 90 + ["b"] * 10, list(map(str, range(100)))])
def test_one_batch_has_nothing_to_move_together(batches):
    found = mixing.batch_mixing(None, blobs([100])[0], np.array(batches), None, 0)
    assert found["value"] is None and "there is nothing to move together" in found["note"]


# --- all of one mapping ---------------------------------------------------------------------------------------------------


def mapping(n: int = 400, shift: float = 0.0, types: int = 4, batches: int = 1, **changes) -> tuple[QueryCells, ReferenceCells]:
    """A query of cells like the reference's own, and its reference; `changes` are fields of either that are other.

    With `explained` its model expects the cells' counts as they are made, by nearly all of its genes.
    """
    latent, kinds = blobs([-(-n // types)] * types, seed=21)
    latent, kinds = latent[:n] + np.float32(shift), kinds[:n]
    of_reference, reference_kinds = blobs([300] * types, seed=31)
    labels = named(kinds).astype("category").cat.add_categories("Unknown")
    query = QueryCells(
        latent=latent,
        expression=counts_of(kinds),
        batches=pd.Series(rng(1).integers(0, batches, len(kinds)).astype(str)),
        labels={"cell_type": labels},
        novelty=np.full(len(kinds), 0.001) if shift else rng(2).random(len(kinds)),
        separation=separation(latent, of_reference, 0),
    )
    reference = ReferenceCells(
        latent=of_reference,
        labels={"cell_type": named(reference_kinds)},
        batches=pd.Series(rng(4).choice(["r1", "r2"], len(reference_kinds))),
        held_out={"cell_type": {"unknown_of_all": 0.05, "accuracy_kept": 0.98}},
        separations=held_out_separation(of_reference, None, 0),
    )
    if changes.pop("explained", False):
        query.decoded, query.hshare = decoded_of(kinds), 0.95
    for name, value in changes.items():
        setattr(query if hasattr(query, name) else reference, name, value)
    return query, reference


def test_a_good_mapping_is_green_and_a_shifted_one_red():
    figures = measure(*mapping(batches=2, explained=True), ALIGNMENT, 0)
    assert set(figures) == {*FIGURES, "presence", "separation"}
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    assert {name for name, figure in figures.items() if figure["value"] is None} == {"certain", "groups", "panel", "resemblance"}
    verdict = judge(figures, LIMITS)["labels"]
    assert verdict.light == GREEN and len(verdict.missing) == 1, verdict
    assert verdict.reasons[0].startswith(
        "Nothing that was looked at speaks against these labels: 95 % of the encoder's signal carried by the query's genes; "
    )
    assert judge(figures, LIMITS)["embedding"].light == GREEN
    assert figures["explained"]["value"] > 0.9 and " of what tells its clusters apart explained; " in verdict.reasons[0]

    figures = measure(*mapping(shift=40), ALIGNMENT, 0)
    assert figures["mixing"]["value"] == 0 and figures["presence"]["value"] == 0 and figures["novel"]["value"] == 1
    verdict = judge(figures, LIMITS)["embedding"]
    assert verdict.light == RED
    assert "100 % of the cells lie farther from the reference than 95 % of its own held-out cells do" in verdict.reasons[0]
    assert "Around a query cell 0 % of the nearest cells are of the reference" in verdict.reasons[1]


def test_the_same_seed_gives_the_same_figures():
    assert measure(*mapping(batches=2), ALIGNMENT, 3) == measure(*mapping(batches=2), ALIGNMENT, 3)


@pytest.mark.parametrize("n", [1, 10])
def test_few_cells_are_not_judged(n):
    figures = measure(*mapping(n=n), ALIGNMENT, 0)
    assert all((figure["value"] is None) == bool(figure["note"]) for figure in figures.values())
    assert [name for name, figure in figures.items() if figure["value"] is not None] == ["genes"]
    verdict = judge(figures, LIMITS)["embedding"]
    assert verdict.light == GREY
    assert f"The query has {n} cell{'s' * (n > 1)}, too few" in verdict.reasons[0]
    assert verdict.reasons[1] == "What is known: 95 % of the model's genes found."


def test_without_reference_cells_nothing_but_genes_and_clusters_is_known():
    query, _ = mapping(n=300, labels={}, novelty=None, separation=None)
    figures = measure(query, None, ALIGNMENT, 0)
    assert {name for name, figure in figures.items() if figure["value"] is None} == {
        *("certain", "groups", "panel", "resemblance"),
        *("hshare", "explained", "unknown", "novel", "separation", "presence", "mixing", "batches"),
    }  # fmt: skip
    verdict = judge(figures, LIMITS)["embedding"]
    assert verdict.light == GREY and len(verdict.missing) == 2
    assert verdict.reasons[0].count("There are no cells of the reference") == 1
    # A model without the query's genes is red all the same.
    verdict = judge(figures | {"genes": F.genes({"matched": 40, "n_model_genes": 200})}, LIMITS)["labels"]
    assert verdict.light == RED and "40 of the model's 200 genes (20 %), where at least 50 % are wanted" in verdict.reasons[0]
    assert verdict.missing[0] == "There are no cells of the reference to compare the query's with."


def test_without_reference_cells_a_mapping_is_judged_by_its_model():
    query, _ = mapping(n=300, labels={}, novelty=None, separation=None, explained=True)
    query.predicted = named(np.arange(300) % 2)
    figures = measure(query, None, ALIGNMENT, 0)
    assert figures["explained"]["value"] > 0.9 and figures["hshare"] == F.hshare(0.95)
    assert {cluster["label"] for cluster in figures["explained"]["clusters"].values()} <= {"type 0", "type 1"}
    verdict = judge(figures, LIMITS)["labels"]
    assert verdict.light == GREEN and F.NO_CELLS in verdict.missing
    # Some of the cells, in an order of places that is the query's own.
    some = np.arange(0, 300, 2)
    query.decoded = Decoded(some, np.arange(50, 200), query.decoded.proportions[some, 50:])
    again = measure(query, None, ALIGNMENT, 0)["explained"]
    assert (again["n_cells"], again["n_genes"]) == (150, 150) and again["value"] > 0.85
    # The same of other genes explains nothing.
    query.decoded = Decoded(some, np.arange(50, 200), query.decoded.proportions[:, rng(7).permutation(150)])
    assert {verdict.light for verdict in judge(measure(query, None, ALIGNMENT, 0), LIMITS).values()} == {RED}


def test_counts_that_are_not_at_hand_are_not_compared():
    query, reference = mapping(n=300, explained=True)
    for changes in ({"normalized": True}, {"expression": None}):
        other = measure(QueryCells(**(vars(query) | changes)), reference, ALIGNMENT, 0)["explained"]
        assert other["value"] is None and other["note"].startswith("The query's counts are not at hand")


def test_no_labels_one_batch_no_expression():
    figures = measure(*mapping(n=300, labels={}, expression=None), ALIGNMENT, 0)
    assert {name for name, figure in figures.items() if figure["value"] is None} == {
        *("certain", "groups", "panel", "resemblance"),
        *("hshare", "explained", "unknown", "clusters", "batches"),
    }  # fmt: skip
    verdict = judge(figures, LIMITS)["labels"]
    assert verdict.light == GREEN and len(verdict.missing) == 4
    assert "No labels were transferred to the query." in verdict.missing


def test_labels_of_which_some_are_missing_and_all_unknown():
    query, reference = mapping(batches=2)
    query.labels = {"cell_type": pd.Series(["Unknown"] * 400), "other": query.labels["cell_type"].where(np.arange(400) < 300)}
    reference.labels["other"] = reference.labels["cell_type"].where(np.arange(1200) < 900)
    figures = measure(query, reference, ALIGNMENT, 0)
    assert figures["unknown"]["levels"]["cell_type"]["value"] == 1
    assert figures["unknown"]["levels"]["other"]["value"] == 0.25
    assert (
        figures["batches"]["value"] > 0.5 and figures["batches"]["kbet"] is None
    )  # compared within the first column, where none has a label
    verdict = judge(figures, LIMITS)["labels"]
    # One column names the cells, so that the other does not make it red.
    assert verdict.light == AMBER
    assert (
        "By 'cell_type' 100 % of the cells are Unknown, where 5 % of the reference's own held-out cells are" in verdict.reasons[0]
    )
    assert "By 'other' 25 % of the cells are Unknown, and nothing is known of held-out cells" in verdict.reasons[0]


def test_a_reference_of_one_class_and_one_of_few_cells():
    query, reference = mapping(n=300, types=1)
    figures = measure(query, reference, ALIGNMENT, 0)
    assert "The reference has one label in 'cell_type'" in figures["unknown"]["note"]
    assert figures["clusters"]["value"] is None and figures["mixing"]["relative"] > 0.8
    assert {verdict.light for verdict in judge(figures, LIMITS).values()} == {GREEN}

    few = ReferenceCells(latent=reference.latent[:5], labels={"cell_type": reference.labels["cell_type"][:5]})
    query.novelty = np.full(300, np.nan)
    figures = measure(query, few, ALIGNMENT, 0)
    assert "The reference has 5 cells, too few" in figures["mixing"]["note"]
    assert "The reference has 5 cells, too few" in figures["presence"]["note"]
    assert {verdict.light for verdict in judge(figures, LIMITS).values()} == {GREY}


def test_the_models_own_label_stands_in_where_none_was_transferred():
    query, reference = mapping(batches=2)
    wanted = measure(query, reference, ALIGNMENT, 0)["batches"]
    assert wanted["kbet"] is not None
    query.predicted, query.labels = query.labels["cell_type"], {}
    assert measure(query, reference, ALIGNMENT, 0)["batches"] == wanted


def test_expression_is_read_by_rows_and_used_as_it_is_if_it_is_normalised():
    class Rows:
        """As anndata's sparse_dataset: it only gives rows."""

        def __init__(self, matrix):
            self.matrix, self.shape = matrix, matrix.shape

        def __getitem__(self, rows):
            return self.matrix[rows]

    query, reference = mapping(n=300)
    wanted = measure(query, reference, ALIGNMENT, 0)
    query.expression = Rows(query.expression)
    assert measure(query, reference, ALIGNMENT, 0) == wanted
    query.expression, query.normalized = structure.log_normalize(query.expression.matrix), True
    assert measure(query, reference, ALIGNMENT, 0) == wanted


def test_columns_of_other_cells_are_refused():
    query, reference = mapping(n=300)
    query.novelty = query.novelty[:-1]
    with pytest.raises(ValueError, match="The latent has 300 cells, but there are {'novelty': 299}"):
        measure(query, reference, ALIGNMENT, 0)


# --- the lights -----------------------------------------------------------------------------------------------------------

FINE = {
    "certain": F.figure(0.9, 0.95, key="type", certain=0.85, ece=0.02, levels={}),
    "groups": F.figure(0.0, 0.0, groups={}, n_smaller=0, n_states=0, threshold=0.1),
    "panel": F.figure(0.98, 1.0, n_genes=180, of=200, accuracy=0.93, accuracy_of_all=0.95),
    "genes": F.genes(ALIGNMENT),
    "hshare": F.hshare(0.9),
    "resemblance": F.figure(0.85, 1.0),
    "explained": F.figure(0.9, 1.0, clusters={}),
    "novel": F.figure(0.0, 0.0, flagged=0.04, flagged_expected=0.05, n_cells=100),
    "unknown": F.unknown({"type": pd.Series(["a"] * 50)}, {"type": 2}, {"type": {"unknown_of_all": 0.1}}),
    "mixing": F.figure(0.4, 0.5, relative=0.8, lowest=0.4, held_out="batches", n_held_out=3),
    "clusters": F.figure(0.9, 1.0),
    "batches": F.figure(0.5, 0.8, before=0.1, relative=0.625, n_batches=3),
}
GROUPS = {
    "novel_1": {"n_cells": 40, "label": "B", "score": 0.5, "reading": "type"},
    "novel_2": {"n_cells": 30, "label": "T", "score": 0.7, "reading": "type"},
}
NOT_KNOWN = F.figure(note="It is not known.")
SPOKEN = [(name, part) for name in FIGURES for part in LIMITS[name].of]


def without(*names: str) -> dict:
    return FINE | dict.fromkeys(names, NOT_KNOWN)


def of(name: str, value: float) -> dict:
    """FINE, but for one figure whose number that is judged is `value`, and those that would be judged in its place."""
    changed = dict(FINE[name]) | {"value": value, "relative": value, "worst": value}
    if name == "genes":
        changed["matched"] = round(200 * value)
    if name == "groups":
        changed["groups"] = GROUPS
    if name == "unknown":
        changed["levels"] = {"type": changed["levels"]["type"] | {"value": value, "excess": value}}
    return without(*LIMITS[name].unless) | {name: changed}


@pytest.mark.parametrize("name, part", SPOKEN)
def test_each_figure_turns_its_lights_just_beyond_its_limits(name, part):
    limit = LIMITS[name]
    worse = -0.001 if limit.bad == "lower" else 0.001
    worst = 0.0 if limit.bad == "lower" else 1.0

    def verdict(value: float, of_part: str = part):
        return judge(of(name, value), LIMITS)[of_part]

    assert {found.light for found in judge(FINE, LIMITS).values()} == {GREEN}
    assert verdict(limit.amber).light == GREEN
    assert verdict(limit.amber + worse).light == AMBER and len(verdict(limit.amber + worse).reasons) == 1
    assert verdict(worst).light == (AMBER if limit.red is None else RED)
    if limit.red is not None:
        assert verdict(limit.red).light == AMBER and verdict(limit.red + worse).light == RED
    for other in {"labels", "embedding"} - set(limit.of):
        assert verdict(worst, other).light == GREEN


@pytest.mark.parametrize("part", ["labels", "embedding"])
def test_a_light_is_grey_without_all_that_is_needed_and_tells_what_is_missing(part):
    needed = [name for name in FIGURES if part in LIMITS[name].of and LIMITS[name].needed]
    assert (
        needed
        == {"labels": ["certain", "groups", "resemblance", "explained", "novel"], "embedding": ["explained", "novel", "mixing"]}[
            part
        ]
    )
    verdict = judge(without(*needed), LIMITS)[part]
    assert verdict.light == GREY and verdict.reasons[0].count("It is not known.") == 1
    for name in needed:  # one of them is enough
        verdict = judge(without(*(set(needed) - {name})), LIMITS)[part]
        assert verdict.light == GREEN and verdict.missing == ["It is not known."]
    # Which another figure may make red all the same
    assert judge(without(*needed, "hshare", "panel") | {"genes": of("genes", 0.2)["genes"]}, LIMITS)[part].light == RED


@pytest.mark.parametrize("name, part", SPOKEN)
def test_a_figure_gives_way_to_one_that_says_it_better(name, part):
    figures = of(name, 0.0 if LIMITS[name].bad == "lower" else 1.0)
    assert judge(figures, LIMITS)[part].light != GREEN
    for other in LIMITS[name].unless:
        instead = judge(figures | {other: FINE[other]}, LIMITS)[part]
        assert (instead.light == GREEN) == (part in LIMITS[other].of)


def test_a_protocol_sets_the_embedding_aside_and_leaves_the_labels():
    verdicts = judge(of("mixing", 0.05), LIMITS)
    assert verdicts["labels"].light == GREEN and verdicts["embedding"].light == RED
    verdicts = judge(of("groups", 0.2), LIMITS)
    assert verdicts["labels"].light == AMBER and verdicts["embedding"].light == GREEN


def test_grey_tells_what_is_amber_too():
    figures = without("explained", "novel", "mixing") | {"clusters": of("clusters", 0.1)["clusters"]}
    verdict = judge(figures, LIMITS)["embedding"]
    assert verdict.light == GREY and "keeps 10 % of the clusters" in verdict.reasons[2]


def test_reasons_tell_the_number_what_is_expected_and_what_it_means():
    figures = of("mixing", 0.2) | {"batches": of("batches", 0.1)["batches"], "novel": of("novel", 0.9)["novel"]}
    verdict = judge(figures, LIMITS)["embedding"]
    novel, mixing, batches = verdict.reasons
    assert verdict.light == RED
    assert "some 90 % of the query are unlike anything in the reference, and at most 50 % may be" in novel
    assert "20 % of the nearest cells are of the reference, where 50 % are around" in mixing
    assert "batches, and at least 25 % are wanted" in mixing
    assert "iLISI is 0.10, where 0.80 is expected" in batches and "at least 0.24 wanted; before surgery it was 0.10" in batches
    figures = of("certain", 0.6) | {name: of(name, value)[name] for name, value in [("groups", 0.25), ("panel", 0.7)]}
    certain, groups, panel = judge(figures, LIMITS)["labels"].reasons
    assert "60 % of the labels in 'type' are expected to be right, where at least 75 % are wanted" in certain
    assert "held out, 95 % were. 85 % of the cells have a label that is certain enough" in certain
    assert "25 % of the cells are in groups" in groups and "novel_2 (30 cells, called T), novel_1 (40 cells, called B)." in groups
    assert "By the 180 genes that the query has of the reference's 200, 93 % of the reference's held-out cells" in panel
    assert all(reason.endswith(".") for reason in (*verdict.reasons, certain, groups, panel))


# --- by expression --------------------------------------------------------------------------------------------------------

HELD_OUT = {"latent_accuracy": 0.97, "latent_ece": 0.02}
VIEW = {"note": None, "mean_certainty": 0.8, "certain": 0.6, "held_out": HELD_OUT}
TOLD = {
    "n_cells": 200,
    "views": {"fine": VIEW, "coarse": VIEW | {"mean_certainty": 0.95}, "one": {"note": "One label."}},
    "panel": {"note": None, "n_genes": 50, "of": 100, "accuracy": 0.6, "accuracy_of_all": 0.9},
    "novel": {
        "note": None,
        "threshold": 0.1,
        "resemblance": 0.9,
        "groups": GROUPS
        | {
            "novel_3": {"n_cells": 9, "label": "T", "score": 0.9, "reading": "type"},
            "novel_4": {"n_cells": 60, "label": "T", "score": 0.2, "reading": "state"},
        },
    },
}


def test_the_labels_are_judged_by_the_column_that_is_surest_and_by_groups_of_enough_cells():
    figures = measure(*mapping(n=300), ALIGNMENT, 0, TOLD)
    assert figures["certain"]["key"] == "coarse" and figures["certain"]["value"] == 0.95 and figures["certain"]["ece"] == 0.02
    assert figures["certain"]["levels"]["one"]["note"] == "One label."
    assert figures["groups"]["value"] == 70 / 200 and figures["groups"]["n_smaller"] == 1
    assert figures["groups"]["n_states"] == 1 and "novel_4" not in figures["groups"]["groups"]
    assert figures["resemblance"]["value"] == 0.9
    assert figures["panel"]["value"] == pytest.approx(2 / 3, abs=1e-4)
    verdict = judge(figures, LIMITS)["labels"]
    assert verdict.light == AMBER and len(verdict.reasons) == 2
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_what_the_expression_does_not_tell_is_said():
    query, reference = mapping(n=300)
    alone = measure(query, None, ALIGNMENT, 0)
    uncounted = measure(query, reference, ALIGNMENT, 0)
    nothing = {"n_cells": 5, "views": {}, "panel": {"note": "No panel."}, "novel": {"note": "No groups."}}
    lacking = measure(query, reference, ALIGNMENT, 0, nothing)
    for name, note in [
        ("certain", "No labels were transferred to the query."),
        ("groups", "No groups."),
        ("resemblance", "No groups."),
        ("panel", "No panel."),
    ]:
        assert alone[name]["note"] == F.NO_CELLS and uncounted[name]["note"].startswith("There are no counts of the reference's")
        assert lacking[name]["value"] is None and lacking[name]["note"] == note


# --- the thresholds and their page ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.update(gens=t.pop("genes")), "hold 'gens', which is not one of .* Did you mean 'genes'"),
        (lambda t: t.pop("mixing"), "lack 'mixing': add it"),
        (lambda t: t["genes"].update(amber=80), "'genes' of .* has amber: 80: write a number from 0 to 1"),
        (lambda t: t["genes"].update(amber=None), "has amber: None: write a number"),
        (lambda t: t["genes"].update(red=0.9), "turns red at 0.9 before it turns amber at 0.8"),
        (lambda t: t["novel"].update(red=0.1), "turns red at 0.1 before it turns amber at 0.2"),
        (lambda t: t["genes"].update(bad="low"), "has bad: 'low': write lower or higher"),
        (lambda t: t["genes"].update(needed="yes"), "has needed: 'yes': write true or false"),
        (lambda t: t["genes"].update(of=["label"]), "has of: .'label'.: write a list of labels, embedding"),
        (lambda t: t["genes"].update(unless="panel"), "has unless: 'panel': write a list of certain, "),
        (lambda t: t["genes"].pop("red"), "lack 'red': add it"),
        (lambda t: t.update(genes=0.8), "'genes' of .* is 0.8: give it the fields about, of, bad, amber, red, needed, unless"),
    ],
)
def test_thresholds_that_cannot_be_are_refused(tmp_path, change, message):
    given = yaml.safe_load(THRESHOLDS.read_text())
    change(given)
    path = tmp_path / "thresholds.yml"
    path.write_text(yaml.safe_dump(given))
    with pytest.raises(RefmapError, match=message):
        read_thresholds(path)


def test_thresholds_that_cannot_be_read_are_refused(tmp_path):
    path = tmp_path / "thresholds.yml"
    path.write_text("genes: [")
    with pytest.raises(RefmapError, match="cannot be read"):
        read_thresholds(path)
    path.write_text("")
    with pytest.raises(RefmapError, match="hold no figures"):
        read_thresholds(path)


def test_the_page_shows_the_limits_of_the_file():
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|(.*?) \|$", DOCS.read_text(), flags=re.M)
    shown = {name: tuple(cell.strip() for cell in more) for name, _, *more in rows if name in FIGURES}
    side = {"lower": "below", "higher": "above"}
    assert shown == {
        name: (
            ", ".join(limit.of),
            f"{side[limit.bad]} {limit.amber}",
            "never" if limit.red is None else f"{side[limit.bad]} {limit.red}",
            "yes" if limit.needed else "no",
            ", ".join(f"`{other}`" for other in limit.unless),
        )
        for name, limit in LIMITS.items()
    }
