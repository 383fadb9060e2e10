"""Which of a query's own clusters differ from all that the reference has, and by which genes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..transfer.neighbors import Index
from .cells import Cells, LabelledCells, parts
from .clusters import Clustering, own_clusterings
from .differences import Matched, double_difference, spread_of_labels
from .expression import group_means
from .shift import batch_shifts

# Reference cells that a cell is matched to.
MATCHED = 15
# A held-out batch holds so many cells at least, and leaves as many; of more, the ten largest.
FEWEST_HELD_OUT, MOST_HELD_OUT = 60, 10
# The quantile of the held-out cells' scores, and the multiple of the query's median cluster, that a score must exceed.
QUANTILE, TIMES_MEDIAN = 0.95, 2.0
# Genes that a group is told by, and how like a label's profile what sets it apart must be, as a cosine.
MOST_GENES, LEAST_LIKE = 10, 0.5


@dataclass(frozen=True)
class Scores:
    """How unlike the reference a query's cells are, by identity double difference.

    cells         float64, the mean over two clusterings: 0 as the reference, 1 as different as two of its labels
    clustering    the first of these, by genes on one scale
    matched       int, the reference's label that each of its clusters is matched to
    residuals     float64, clusters x genes: what sets each apart, times the root of the genes' weights
    """

    cells: np.ndarray
    clustering: Clustering
    matched: np.ndarray
    residuals: np.ndarray

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
    return Scores(np.mean([one.scores for one in found], axis=0), clusterings[0], found[0].matched, found[0].residuals)


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

    The ten largest that hold 60 cells and leave 60. Cells whose label no other batch has are left out: they are as novel as
    anything can be. Halves of one batch are no such scale, as nothing sets them apart: of a reference of one batch nothing is
    known.
    """
    scores = []
    for held in parts(reference.batches, FEWEST_HELD_OUT, MOST_HELD_OUT):
        rest = reference.part(~held)
        if not spread_of_labels(rest, weights):
            continue
        found = identity_scores(reference.as_query(held), rest, weights, seed).cells
        scores.append(found[np.isin(reference.names[reference.labels[held]], rest.names)])
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


def groups_table(
    scores: Scores, limit: Threshold, null: Null, reference: LabelledCells, weights: np.ndarray, genes: np.ndarray
) -> tuple[pd.DataFrame, np.ndarray]:
    """Describe the query's own clusters, those most unlike the reference first.

    Returns
    -------
    The table, a row a cluster: ``group`` (``novel_1``, … for those whose score is above the threshold, and ``cluster_3``, … by
    their rank for the others), ``n_cells``, ``n_novel`` (cells above the threshold), ``matched_label``, ``score`` (the median of
    its cells), ``threshold``, ``null_quantile`` (the share of held-out reference cells that score less; NaN without any),
    ``genes`` (up to ten that set it apart, those that count most first, with + where the query has more and - where less) and
    ``like_label`` with ``like`` (the label of the reference whose difference from the matched one is most like what sets it
    apart, and the cosine of both, if that is 0.5; None and NaN otherwise). And the group of each cell (object array of str).
    """
    medians, clusters = scores.medians, scores.clustering.clusters
    order = np.argsort(-medians, kind="stable")
    sizes = np.bincount(clusters)
    above = np.bincount(clusters, weights=scores.cells > limit.value).astype(int)
    names = np.empty(len(order), dtype=object)
    names[order] = [
        f"{'novel' if medians[cluster] > limit.value else 'cluster'}_{rank}" for rank, cluster in enumerate(order.tolist(), 1)
    ]
    profiles = group_means(reference.values, reference.labels, len(reference.names)) * np.sqrt(weights)
    n_null = len(null.scores)
    rows = []
    for cluster in order:
        residual, label = scores.residuals[cluster], scores.matched[cluster]
        like, cosine = most_like(residual, profiles, label)
        rows.append(
            {
                "group": names[cluster],
                "n_cells": int(sizes[cluster]),
                "n_novel": int(above[cluster]),
                "matched_label": reference.names[label],
                "score": float(medians[cluster]),
                "threshold": limit.value,
                "null_quantile": float(np.searchsorted(null.scores, medians[cluster]) / n_null) if n_null else np.nan,
                "genes": signed_genes(residual, genes),
                "like_label": None if like is None else reference.names[like],
                "like": cosine,
            }
        )
    return pd.DataFrame(rows), names[clusters]


def signed_genes(residual: np.ndarray, genes: np.ndarray) -> list[str]:
    """Return the genes that count most in a residual (float64, genes), each after + or -: at most ten, none that counts nothing."""
    largest = np.argsort(-np.abs(residual), kind="stable")[:MOST_GENES]
    return [f"{'+' if residual[gene] > 0 else '-'}{genes[gene]}" for gene in largest if residual[gene]]


def most_like(residual: np.ndarray, profiles: np.ndarray, matched: int) -> tuple[int | None, float]:
    """Find the label whose profile (labels x genes) less the matched label's points most where a residual does.

    Both are taken without what all other labels have in common beside the matched one: cells that merely lack its markers are
    like none of them.

    Returns
    -------
    The label, and the cosine; None and NaN where no cosine is 0.5, as of something that is none of the reference's labels, and
    where there are not two other labels.
    """
    others = np.delete(np.arange(len(profiles)), matched)
    if len(others) < 2:
        return None, np.nan
    directions = profiles[others] - profiles[matched]
    common = directions.mean(axis=0)
    directions = directions - common
    length = common @ common
    own = residual - (residual @ common) / length * common if length else residual
    lengths = np.linalg.norm(directions, axis=1) * np.linalg.norm(own)
    cosines = np.divide(directions @ own, lengths, out=np.zeros(len(others)), where=lengths > 0)
    best = int(cosines.argmax())
    return (int(others[best]), float(cosines[best])) if cosines[best] >= LEAST_LIKE else (None, np.nan)
