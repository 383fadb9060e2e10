"""Identity double difference: what sets neighbourhoods of a query apart beyond what sets the query apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from .cells import Cells, LabelledCells
from .clusters import Clustering
from .expression import averaging, blocks, group_means, grouping
from .shift import center

# The ridge, in mean squared lengths of the other labels' effects.
RIDGE = 0.3
# The share of clusters, of those that differ least, that tell of the effect that all share; and at least so many of them.
TYPICAL, FEWEST_TYPICAL = 0.75, 3


def spread_of_labels(reference: LabelledCells, weights: np.ndarray) -> float:
    """Return the mean over pairs of labels of their squared distance, genes weighted; 0 with one label."""
    means = group_means(reference.values, reference.labels, len(reference.names))
    n = len(means)
    squares = (weights * (means - means.mean(axis=0)) ** 2).sum()
    return float(2 * squares / (n - 1)) if n > 1 else 0.0


@dataclass(frozen=True)
class Effects:
    """What the clusters matched to each label show of the query as a whole.

    shared    float64, genes: the effect that all have
    labels    int, the labels that clusters are matched to
    own       float64, labels x genes: of each of them, what its clusters differ by beyond it; genes times the root of their weight
    root      float64, genes: the root of the weights
    """

    shared: np.ndarray
    labels: np.ndarray
    own: np.ndarray
    root: np.ndarray

    def beyond(self, differences: np.ndarray) -> np.ndarray:
        """Return differences (rows x genes) less what all share, genes times the root of their weight."""
        return (differences - self.shared) * self.root

    def explained(self, beyond: np.ndarray, label: int) -> np.ndarray:
        """Return what the effects of all labels but one explain of such differences, by ridge regression: rows x genes.

        Fewer than two other labels explain nothing.
        """
        others = self.own[self.labels != label]
        squares = others @ others.T
        if len(others) < 2 or not np.trace(squares):
            return np.zeros_like(beyond)
        ridge = RIDGE * np.trace(squares) / len(others) * np.eye(len(others))
        return (beyond @ others.T) @ np.linalg.solve(squares + ridge, others)


def effects(differences: np.ndarray, matched: np.ndarray, weights: np.ndarray) -> Effects:
    """Find what clusters share, and what those of each label do.

    Parameters
    ----------
    differences
        float64, clusters x genes: the mean of each less that of its matched reference cells.
    matched
        int, the label of each cluster.
    weights
        float64, genes.
    """
    far = (weights * (differences - np.median(differences, axis=0)) ** 2).sum(axis=1)
    least = np.sort(far)[min(FEWEST_TYPICAL, len(far)) - 1]
    typical = far <= max(np.quantile(far, TYPICAL), least)
    there = np.unique(matched[typical])
    shared = center(np.stack([differences[typical & (matched == label)].mean(axis=0) for label in there]))
    labels = np.unique(matched)
    of_labels = np.stack([np.median(differences[matched == label], axis=0) for label in labels])
    root = np.sqrt(weights)
    return Effects(shared, labels, (of_labels - shared) * root, root)


class Matched:
    """A query's cells less the shifts of their batches, each beside the reference cells that the model matched to it.

    neighbors    int, query cells x k: the nearest rows of the reference in the latent space, nearest first
    shifts       float64, batches x genes
    """

    def __init__(self, query: Cells, reference: LabelledCells, neighbors: np.ndarray, shifts: np.ndarray):
        self.query, self.reference, self.neighbors = query, reference, neighbors
        self.shifts = shifts.astype(np.float32)
        n = len(query)
        self.of_batch = sparse.csr_matrix((np.ones(n, np.float32), (np.arange(n), query.batches)), shape=(n, query.n_batches))
        # Two halves of the neighbours, by turns: no cell is in both, so the noise of one is not in the other.
        self.halves = [averaging(neighbors[:, first::2], len(reference)) for first in (0, 1)]

    def differences(self, average: sparse.csr_matrix, half: int | None = None) -> np.ndarray:
        """Return means of query cells (`average`: rows x query cells) less those of a half of their matched cells, or of both.

        Rows x genes, in the precision of `average`.
        """
        found, matched = self.sides(average, half)
        found -= matched
        return found

    def sides(self, average: sparse.csr_matrix, half: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return both means apart, the query's first: rows x genes each."""
        matched = self.halves[half] if half is not None else (self.halves[0] + self.halves[1]) / 2
        found = (average @ self.query.values).toarray()
        found -= (average @ self.of_batch).toarray() @ self.shifts
        return found, ((average @ matched) @ self.reference.values).toarray()

    def labels_of(self, clusters: np.ndarray) -> np.ndarray:
        """Return the label that most of the matched cells of each cluster have, the first of several: int, clusters."""
        votes = np.zeros((int(clusters.max()) + 1, len(self.reference.names)), dtype=np.int64)
        np.add.at(votes, (clusters[:, None], self.reference.labels[self.neighbors]), 1)
        return votes.argmax(axis=1)


@dataclass(frozen=True)
class Found:
    """What one clustering shows.

    scores       float64, cells: 0 as the reference, 1 as different from its matched cells as two labels of the reference
    matched      int, the label that each cluster is matched to
    residuals    float64, clusters x genes: what sets each apart, times the root of the genes' weights
    """

    scores: np.ndarray
    matched: np.ndarray
    residuals: np.ndarray


def double_difference(matched: Matched, clustering: Clustering, weights: np.ndarray, spread: float) -> Found:
    """Score each cell by how far its neighbourhood lies from the reference cells that it was matched to.

    Of each neighbourhood the mean, less that of its matched cells; less what all of the query's clusters differ by, and what the
    effects of those of other labels explain. This is had twice, of two halves of the neighbourhood beside two halves of the
    matched cells, and multiplied, so that noise adds nothing; for the same reason what is explained of one half is what the other
    shows. Over the mean squared distance of two labels, and smoothed over neighbourhood and cluster. It is refmap's own.

    Parameters
    ----------
    weights
        float64, genes: :func:`refmap.identity.expression.identity_weights`.
    spread
        That of the labels (:func:`spread_of_labels`), above 0.
    """
    clusters, n = clustering.clusters, len(matched.query)
    labels = matched.labels_of(clusters)
    differences = matched.differences(grouping(clusters, clustering.n_clusters))
    shown = effects(differences, labels, weights)
    of_cells = labels[clusters]
    # Cells of one label after another: a block has few labels.
    order = np.argsort(of_cells, kind="stable")
    halves = [averaging(clustering.neighborhoods[:, first::2], n) for first in (0, 1)]
    products = np.empty(n)
    for part in blocks(n):
        rows = order[part]
        first, second = (shown.beyond(matched.differences(half[rows], number)) for number, half in enumerate(halves))
        for label in np.unique(of_cells[rows]):
            here = of_cells[rows] == label
            one, other = first[here], second[here]
            products[rows[here]] = np.einsum("ij,ij->i", one - shown.explained(other, label), other - shown.explained(one, label))
    left = shown.beyond(differences)
    residuals = np.concatenate([left[[i]] - shown.explained(left[[i]], label) for i, label in enumerate(labels)])
    return Found(clustering.smooth(products) / spread, labels, residuals)
