"""How much of what tells a query's clusters apart its model says too: of made cells, whose model is known, and by slow sums."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from refmap.mapping.decoded import SCALE, Decoded
from refmap.trust import explained as E
from refmap.trust.explained import explained
from scipy import sparse

GENES, TYPES = 120, 5


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


class Made:
    """Cells of five types in two batches of another protocol each, and the shares of the genes that they were drawn from."""

    def __init__(self, n: int = 500, depth: int = 1500, types: int = TYPES, apart: float = 1.0):
        self.types, self.batches = rng(1).integers(0, types, n), rng(2).integers(0, 2, n)
        profiles = rng(3).normal(size=GENES) + apart * rng(4).normal(size=(types, GENES))
        protocols = rng(5).normal(size=(2, GENES))
        shares = np.exp(profiles[self.types] + protocols[self.batches])
        self.shares = shares / shares.sum(axis=1, keepdims=True)
        self.counts = sparse.csr_matrix(rng(6).poisson(self.shares * depth).astype(np.float32))
        self.labels = pd.Series([f"type {i}" for i in self.types])

    def decoded(self, shares: np.ndarray | None = None) -> Decoded:
        shares = self.shares if shares is None else shares
        return Decoded(np.arange(len(shares)), np.arange(shares.shape[1]), (SCALE * shares).astype(np.float16))

    def figure(self, shares: np.ndarray | None = None, seed: int = 0, **changes) -> dict:
        given = {"counts": self.counts, "batches": self.batches, "labels": self.labels} | changes
        return explained(given["counts"], self.decoded(shares), given["batches"], given["labels"], seed)


MADE = Made()


def test_what_the_cells_were_drawn_from_explains_them_and_other_genes_do_not():
    of = MADE.figure()
    assert 0.97 < of["value"] <= 1 and of["expected"] == 1 and of["note"] is None
    assert of["broad"] == pytest.approx(1, abs=0.02) and of["fine"] == pytest.approx(1, abs=0.03)
    assert (of["n_cells"], of["n_genes"]) == (500, GENES) and of["found_again"] > 0.5
    assert json.loads(json.dumps(of, allow_nan=False)) == of
    shuffled = MADE.figure(MADE.shares[:, rng(7).permutation(GENES)])
    assert shuffled["value"] < 0.2 and abs(shuffled["broad"]) < 0.2
    # A model that says the same of all cells says nothing of what tells them apart.
    assert MADE.figure(np.tile(MADE.shares.mean(axis=0), (500, 1)))["value"] < 0.2


def test_few_counts_of_a_cell_are_not_taken_for_a_bad_model():
    of = Made(depth=60).figure()
    assert of["value"] > 0.85, of


def test_what_a_protocol_does_to_all_cells_of_a_batch_counts_for_nothing():
    wanted = MADE.figure()
    other = MADE.shares * np.exp(rng(8).normal(size=(2, GENES)))[MADE.batches]
    other /= other.sum(axis=1, keepdims=True)
    assert MADE.figure(other)["value"] == pytest.approx(wanted["value"], abs=0.02)


def test_a_model_that_knows_two_types_as_one_is_told_by_their_clusters():
    merged = MADE.types.copy()
    merged[merged == 4] = 3
    taken = np.array([np.flatnonzero((merged == kind) & (MADE.batches == batch))[0] for kind, batch in zip(merged, MADE.batches)])
    of = MADE.figure(MADE.shares[taken])
    by_label = {cluster["label"]: cluster for cluster in of["clusters"].values()}
    assert set(by_label) == {f"type {i}" for i in range(TYPES)}
    assert all(by_label[f"type {i}"]["value"] > 0.85 for i in range(3))
    assert by_label["type 4"]["value"] < by_label["type 0"]["value"] - 0.2
    assert of["value"] < MADE.figure()["value"] - 0.05


def test_clusters_are_told_by_size_with_the_label_that_most_of_their_cells_got():
    labels = MADE.labels.copy()
    labels[np.flatnonzero(MADE.types == 2)[:10]] = "other"
    of = MADE.figure(labels=labels)
    clusters = list(of["clusters"].values())
    assert list(of["clusters"]) == [str(i + 1) for i in range(len(clusters))] and of["n_clusters"] == len(clusters) >= TYPES
    sizes = [cluster["n_cells"] for cluster in clusters]
    assert sizes == sorted(sizes, reverse=True)
    # Leiden parts a type of many cells, and puts no two of these together.
    found = pd.DataFrame(clusters).groupby("label")
    assert found["n_cells"].sum().to_dict() == MADE.labels.value_counts().to_dict()
    right = found.apply(lambda table: (table["n_cells"] * table["label_share"]).sum())
    assert right["type 2"] == pytest.approx((labels == "type 2").sum(), abs=0.1)
    assert right["type 1"] == (MADE.types == 1).sum()
    assert {cluster["label"] for cluster in MADE.figure(labels=None)["clusters"].values()} == {None}


def slowly(made: Made, clusters: np.ndarray, shares: np.ndarray, halves: dict) -> tuple[float, float]:
    """Broad and fine, cell by cell and gene by gene; `halves` has the cells of each batch and cluster in their order."""
    counts, sums = made.counts.toarray().astype(float), np.zeros((2, 6))
    for batch in (0, 1):
        cells = np.flatnonzero(made.batches == batch)
        mean = counts[cells].sum(axis=0)
        mean = mean + 1e-3 * mean.sum() / GENES
        mean /= mean.sum()
        expected = {cell: shares[cell] / shares[cell].sum() for cell in cells}
        for _ in range(3):
            predicted = sum(expected[cell] * counts[cell].sum() for cell in cells) / counts[cells].sum()
            for cell in cells:
                expected[cell] = expected[cell] * mean / predicted
                expected[cell] = expected[cell] / expected[cell].sum()
        rows = []
        for cluster in np.unique(clusters[cells]):
            order = halves[batch, cluster]
            if len(order) < 6:
                continue
            pooled = [sum(counts[cell] for cell in some) for some in (order, order[::2], order[1::2])]
            decoded = sum(expected[cell] * counts[cell].sum() for cell in order)
            o, p, a, b = (np.array([math.log1p(1e4 * v / of.sum()) for v in of]) for of in (pooled[0], decoded, *pooled[1:]))
            rows.append((len(order), o, p, a, b))
        weights = np.array([row[0] for row in rows], dtype=float)
        centre = [sum(w * row[i] for w, row in zip(weights, rows)) / weights.sum() for i in range(1, 5)]
        for i, row in enumerate(rows):
            o, p, a, b = (row[j] - centre[j - 1] for j in range(1, 5))
            sums[0] += weights[i] * np.array([o @ p, o @ o, p @ p, a @ b, a @ a, b @ b])
            near = min((j for j in range(len(rows)) if j != i), key=lambda j: ((rows[j][2] - row[2]) ** 2).sum())
            o, p, a, b = (row[j] - rows[near][j] for j in range(1, 5))
            sums[1] += min(weights[i], weights[near]) * np.array([o @ p, o @ o, p @ p, a @ b, a @ a, b @ b])
    found = []
    for op, oo, pp, ab, aa, bb in sums:
        agreement = ab / math.sqrt(aa * bb)
        found.append(op / math.sqrt(oo * pp) / math.sqrt(2 * agreement / (1 + agreement)))
    return tuple(found)


def test_the_figure_is_that_of_slow_sums():
    made = Made(n=200, depth=400)
    noisy = made.shares * np.exp(0.7 * rng(9).normal(size=made.shares.shape))
    decoded = made.decoded(noisy / noisy.sum(axis=1, keepdims=True))
    of = explained(made.counts, decoded, made.batches, None, 3)
    clusters, _ = E._clustered(made.counts, made.batches, 3)
    draw, halves = rng(3), {}
    for batch in (0, 1):
        cells = np.flatnonzero(made.batches == batch)
        for cluster in np.unique(clusters[cells]):
            mine = np.flatnonzero(clusters[cells] == cluster)
            halves[batch, cluster] = cells[draw.permutation(mine)] if len(mine) >= 6 else mine
    broad, fine = slowly(made, clusters, decoded.proportions.astype(float), halves)
    assert (of["broad"], of["fine"]) == (pytest.approx(broad, abs=2e-3), pytest.approx(fine, abs=2e-3))
    assert of["value"] == pytest.approx(min(1, (broad + fine) / 2), abs=2e-3) and of["value"] < 0.99


def test_a_gene_that_hardly_a_cell_has_and_cells_without_counts_are_left_out():
    counts = MADE.counts.toarray()
    counts[:, 7] = 0
    counts[:4, 7], counts[20:30] = 5, 0
    of = MADE.figure(counts=sparse.csr_matrix(counts))
    assert (of["n_cells"], of["n_genes"]) == (490, GENES - 1) and of["value"] > 0.95


@pytest.mark.parametrize(
    "made, note",
    [
        (Made(n=15), "The query has 15 cells with counts, too few"),
        (Made(n=400, types=1), "Two halves of the genes agree on no clusters"),
        (Made(n=400, types=2, apart=1.5), "No batch of the query has 3 clusters of 6 cells"),
    ],
)
def test_where_there_are_no_clusters_to_explain_there_is_no_figure(made, note):
    of = made.figure()
    assert of["value"] is None and of["note"].startswith(note) and of["clusters"] == {}, of


def test_few_genes_have_no_figure():
    of = explained(
        MADE.counts[:, :9], Decoded(np.arange(500), np.arange(9), MADE.decoded().proportions[:, :9]), MADE.batches, None, 0
    )
    assert of["value"] is None and of["note"].startswith("The query has counts in 9 genes of the model's")
    assert explained(MADE.counts[:0], Decoded(*[np.empty((0, 0))] * 3), MADE.batches[:0], None, 0)["value"] is None


def test_the_same_seed_gives_the_same_figure():
    assert MADE.figure(seed=4) == MADE.figure(seed=4)
    assert MADE.figure(seed=5)["value"] == pytest.approx(MADE.figure(seed=4)["value"], abs=0.02)
