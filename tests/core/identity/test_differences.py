"""Identity double difference, against loops that follow its description on dense arrays."""

import numpy as np
import pytest
from refmap.identity import expression
from refmap.identity.cells import Cells
from refmap.identity.clusters import own_clusterings
from refmap.identity.differences import Effects, Matched, double_difference, effects, spread_of_labels
from refmap.identity.expression import identity_weights
from refmap.identity.shift import batch_shifts
from refmap.transfer.neighbors import Index


def middle(rows):
    return np.median(rows, axis=0) if len(rows) > 2 else np.mean(rows, axis=0)


def by_hand(values, reference, labels, neighbors, clustering, weights):
    """Scores of cells, the label of each cluster, and its residual, cell by cell and label by label.

    `values` are the query's less the shifts of their batches.
    """
    clusters, n_clusters, n_labels = clustering.clusters, clustering.clusters.max() + 1, labels.max() + 1
    matched, of_clusters = [], []
    for cluster in range(n_clusters):
        rows = np.flatnonzero(clusters == cluster)
        votes = [sum(int(labels[near] == label) for row in rows for near in neighbors[row]) for label in range(n_labels)]
        matched.append(votes.index(max(votes)))
        mean = [
            values[row] - (reference[neighbors[row][0::2]].mean(axis=0) + reference[neighbors[row][1::2]].mean(axis=0)) / 2
            for row in rows
        ]
        of_clusters.append(np.mean(mean, axis=0))
    of_clusters, matched = np.array(of_clusters), np.array(matched)
    far = np.array([np.sum(weights * (one - np.median(of_clusters, axis=0)) ** 2) for one in of_clusters])
    typical = far <= max(np.quantile(far, 0.75), sorted(far)[min(3, n_clusters) - 1])
    shared = middle([of_clusters[typical & (matched == label)].mean(axis=0) for label in sorted(set(matched[typical]))])
    root = np.sqrt(weights)
    own = {label: (np.median(of_clusters[matched == label], axis=0) - shared) * root for label in sorted(set(matched))}

    def explained(beyond, label):
        others = np.array([effect for other, effect in own.items() if other != label])
        if len(others) < 2:
            return 0 * beyond
        penalty = 0.3 * np.mean([effect @ effect for effect in others])
        # The ridge in its primal form: the coefficients that minimise |beyond - c others|² + penalty |c|².
        design = np.vstack([others.T, np.sqrt(penalty) * np.eye(len(others))])
        coefficients = np.linalg.lstsq(design, np.r_[beyond, np.zeros(len(others))], rcond=None)[0]
        return coefficients @ others

    products = []
    for cell in range(len(values)):
        halves = []
        for first in (0, 1):
            members = clustering.neighborhoods[cell][first::2]
            mean = np.mean([values[i] - reference[neighbors[i][first::2]].mean(axis=0) for i in members], axis=0)
            halves.append((mean - shared) * root)
        label = matched[clusters[cell]]
        a, b = halves
        products.append(np.dot(a - explained(b, label), b - explained(a, label)))
    products = np.array(products)
    smooth = [
        products[clustering.neighborhoods[cell]].mean() / 2 + products[clusters == clusters[cell]].mean() / 2
        for cell in range(len(values))
    ]
    means = [reference[labels == label].mean(axis=0) for label in range(n_labels)]
    spread = np.mean([np.sum(weights * (means[i] - means[j]) ** 2) for i in range(n_labels) for j in range(i)])
    residuals = [(one - shared) * root for one in of_clusters]
    residuals = [one - explained(one, label) for one, label in zip(residuals, matched)]
    return np.array(smooth) / spread, matched, np.array(residuals), spread


@pytest.fixture(scope="module")
def both(reference, query):
    cells, labelled = query.cells(), reference.labelled()
    neighbors = Index(labelled.latent).search(cells.latent, 15).indices
    shifts = batch_shifts(cells, labelled, neighbors)
    return Matched(cells, labelled, neighbors, shifts), own_clusterings(cells, shifts, 0), identity_weights(labelled)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("block", [2048, 11])
def test_scores_are_those_of_loops(both, which, block, monkeypatch):
    matched, clusterings, weights = both
    monkeypatch.setattr(expression, "BLOCK", block)
    query, reference = matched.query, matched.reference
    values = query.values.toarray().astype(float) - matched.shifts[query.batches]
    scores, labels, residuals, spread = by_hand(
        values, reference.values.toarray().astype(float), reference.labels, matched.neighbors, clusterings[which], weights
    )
    assert spread_of_labels(reference, weights) == pytest.approx(spread, rel=1e-6)
    found = double_difference(matched, clusterings[which], weights, spread)
    np.testing.assert_allclose(found.scores, scores, atol=1e-5)
    assert found.matched.tolist() == labels.tolist() and len(set(labels)) == 4
    np.testing.assert_allclose(found.residuals, residuals, atol=1e-4)


def test_the_missing_type_stands_out(both, query):
    matched, clusterings, weights = both
    scores = double_difference(matched, clusterings[0], weights, spread_of_labels(matched.reference, weights)).scores
    missing = query.types == "type 4"
    # Its genes tell no labels of the reference apart; that those of type 0, which it lies with, are off does.
    assert scores[missing].min() > 0.15 > 0.05 > scores[~missing].max()


def test_a_query_that_is_its_reference_scores_nothing(reference):
    """Each cell beside itself: whatever its cells are, nothing is different."""
    cells = reference.labelled()
    itself = np.repeat(np.arange(len(cells))[:, None], 2, axis=1)
    query = Cells(cells.values, cells.latent, cells.batches)
    shifts = np.zeros((3, 120))
    weights = identity_weights(cells)
    found = double_difference(
        Matched(query, cells, itself, shifts), own_clusterings(query, shifts, 0)[0], weights, spread_of_labels(cells, weights)
    )
    np.testing.assert_allclose(found.scores, 0, atol=1e-8)


def test_an_effect_that_all_types_share_is_taken_off():
    weights = np.ones(4)
    shift = np.array([1.0, 2, 3, 4])
    found = effects(np.tile(shift, (6, 1)), np.array([0, 0, 1, 1, 2, 2]), weights)
    assert found.shared.tolist() == shift.tolist() and found.labels.tolist() == [0, 1, 2]
    assert not found.beyond(np.tile(shift, (2, 1))).any() and not found.own.any()
    assert not found.explained(np.ones((1, 4)), 0).any()  # there is no effect that could


def test_clusters_that_stand_out_do_not_tell_of_what_is_shared():
    differences = np.zeros((8, 3))
    differences[7] = 100
    assert not effects(differences, np.array([0, 0, 1, 1, 2, 2, 3, 3]), np.ones(3)).shared.any()


def test_what_other_labels_show_explains_and_the_own_does_not():
    own = np.eye(3)
    found = Effects(np.zeros(3), np.array([0, 1, 2]), own, np.ones(3))
    explained = found.explained(np.array([[5.0, 6.0, 7.0]]), 0)
    # Orthogonal effects of length 1: the ridge shrinks each coefficient by 1 / 1.3.
    np.testing.assert_allclose(explained, [[0, 6 / 1.3, 7 / 1.3]])
    assert not Effects(np.zeros(3), np.array([0, 1]), own[:2], np.ones(3)).explained(np.ones((1, 3)), 0).any()


def test_one_label_has_no_spread(reference):
    cells = reference.labelled()
    assert spread_of_labels(cells.part(cells.labels == 0), np.ones(120)) == 0
