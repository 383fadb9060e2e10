"""Whether what tells a query's own clusters apart tells the reference cells apart that they were mapped to."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .clusters import Clustering
from .differences import Matched
from .expression import grouping

# The least agreement of two halves of the clusters' cells that a reliability is computed of.
LEAST_RELIABLE = 0.05


def resemblance(matched: Matched, clustering: Clustering, weights: np.ndarray, seed: int) -> float:
    """Correlate the clusters' mean expression with that of the reference cells matched to them: 0 to 1, of two clusters or more.

    Both less their mean over the clusters, over genes and clusters, genes times the root of their weight and clusters of their
    cells; by the root of the reliability of the query's side, which two halves of each cluster's cells give (Spearman 1904,
    doi:10.2307/1412159; Spearman-Brown), so that few counts are not taken for another tissue.

    Parameters
    ----------
    weights
        float64, genes: :func:`refmap.identity.expression.identity_weights`.
    seed
        Of the halves.
    """
    clusters, k = clustering.clusters, clustering.n_clusters
    order = np.random.default_rng(seed).permutation(len(clusters))
    half = np.empty(len(clusters), dtype=np.int64)
    half[order] = pd.Series(order).groupby(clusters[order]).cumcount() % 2
    sizes = np.bincount(clusters)

    def beyond_mean(profiles: np.ndarray) -> np.ndarray:
        profiles = profiles - np.average(profiles, axis=0, weights=sizes)
        return profiles * np.sqrt(weights) * np.sqrt(sizes)[:, None]

    observed, expected = (beyond_mean(profiles) for profiles in matched.sides(grouping(clusters, k)))
    halves = matched.sides(grouping(2 * clusters + half, 2 * k))[0]
    agreement = max(_cosine(beyond_mean(halves[::2]), beyond_mean(halves[1::2])), LEAST_RELIABLE)
    return float(np.clip(_cosine(observed, expected) / np.sqrt(2 * agreement / (1 + agreement)), 0, 1))


def _cosine(first: np.ndarray, second: np.ndarray) -> float:
    lengths = np.linalg.norm(first) * np.linalg.norm(second)
    return float((first * second).sum() / lengths) if lengths else 0.0
