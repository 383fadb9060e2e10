"""How far each of a query's cells is from all that the reference has, and from where on that is too far."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..transfer.neighbors import Index
from .cells import Cells, LabelledCells, parts
from .clusters import Clustering, own_clusterings
from .differences import Matched, double_difference, spread_of_labels
from .resemblance import resemblance
from .shift import batch_shifts

# Reference cells that a cell is matched to.
MATCHED = 15
# A held-out batch holds so many cells at least, and leaves as many; of more, the ten largest.
FEWEST_HELD_OUT, MOST_HELD_OUT = 60, 10
# The quantile of the held-out cells' scores, and the multiple of the query's median cluster, that a score must exceed.
QUANTILE, TIMES_MEDIAN = 0.95, 2.0


@dataclass(frozen=True)
class Scores:
    """How unlike the reference a query's cells are, by identity double difference.

    cells         float64, the mean over two clusterings: 0 as the reference, 1 as different as two of its labels
    clustering    the first of these, by genes on one scale
    matched       int, the reference's label that each of its clusters is matched to
    residuals     float64, clusters x genes: what sets each apart, times the root of the genes' weights
    resemblance   how much of what tells these clusters apart the reference cells matched to them have too, 0 to 1
    """

    cells: np.ndarray
    clustering: Clustering
    matched: np.ndarray
    residuals: np.ndarray
    resemblance: float

    @property
    def medians(self) -> np.ndarray:
        """The median score of each cluster's cells: float64, clusters."""
        return pd.Series(self.cells).groupby(self.clustering.clusters).median().to_numpy()


def identity_scores(
    query: Cells, reference: LabelledCells, weights: np.ndarray, seed: int, clusterings: list[Clustering] | None = None
) -> Scores:
    """Score each cell of a query by :func:`refmap.identity.differences.double_difference`, the mean over two clusterings.

    Parameters
    ----------
    weights
        float64, genes: how much each tells labels apart; of some gene that differs between labels above 0.
    clusterings
        Those of the query, where they are known.
    """
    neighbors = Index(reference.latent).search(query.latent, MATCHED).indices
    shifts = batch_shifts(query, reference, neighbors)
    clusterings = clusterings or own_clusterings(query, shifts, seed)
    matched, spread = Matched(query, reference, neighbors, shifts), spread_of_labels(reference, weights)
    found = [double_difference(matched, clustering, weights, spread) for clustering in clusterings]
    scores = np.mean([one.scores for one in found], axis=0)
    alike = resemblance(matched, clusterings[0], weights, seed)
    return Scores(scores, clusterings[0], found[0].matched, found[0].residuals, alike)


@dataclass(frozen=True)
class Null:
    """Scores of reference cells whose batch was taken for a query.

    scores       float64, of all of them, sorted; empty where no batch can be held out
    n_batches    of how many batches
    """

    scores: np.ndarray
    n_batches: int


def held_out_scores(reference: LabelledCells, weights: np.ndarray, seed: int) -> Null:
    """Score the reference's batches as if each were a query and the others its reference.

    The ten largest that hold 60 cells and leave 60. Cells whose label has fewer than 15 cells in the others are left out: they
    cannot be matched to their like, and are as novel as anything can be. Halves of one batch are no such scale, as nothing sets them
    apart: of a reference of one batch nothing is known.
    """
    scores = []
    for held in parts(reference.batches, FEWEST_HELD_OUT, MOST_HELD_OUT):
        rest = reference.part(~held)
        if not spread_of_labels(rest, weights):
            continue
        found = identity_scores(reference.as_query(held), rest, weights, seed).cells
        matchable = rest.names[np.bincount(rest.labels) >= MATCHED]
        scores.append(found[np.isin(reference.names[reference.labels[held]], matchable)])
    return Null(np.sort(np.concatenate(scores)) if scores else np.empty(0), len(scores))


@dataclass(frozen=True)
class Threshold:
    """The score above which a cell is unlike the reference.

    value          the larger of the two below
    null           the 95 % quantile of the scores of held-out batches; None without these
    of_clusters    twice the median of the query's cluster medians
    """

    value: float
    null: float | None
    of_clusters: float


def threshold(scores: Scores, null: Null) -> Threshold:
    """Set the threshold: above what batches of the reference show, and above what the query's own clusters show as a rule."""
    of_clusters = TIMES_MEDIAN * float(np.median(scores.medians))
    quantile = float(np.quantile(null.scores, QUANTILE)) if len(null.scores) else None
    return Threshold(max(of_clusters, -np.inf if quantile is None else quantile), quantile, of_clusters)
