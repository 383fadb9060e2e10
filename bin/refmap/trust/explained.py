"""How much of what tells the query's own clusters apart its model says too: a judgement without cells of the reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from ..mapping.decoded import Decoded
from ..transfer.regions import FEWEST
from .figures import figure, plural
from .structure import LEAST_AGREEMENT, leiden, log_normalize, principal_components, purity

# A gene counts if so many of the cells have a count of it, and a figure needs so many of them.
LEAST_DETECTED, FEWEST_COUNTED = 0.01, 10
COMPONENTS = 20
# Of a batch, the clusters of so many cells count, if there are so many of these.
LEAST_CELLS, LEAST_CLUSTERS = 6, 3
# What a profile is scaled to before its logarithm.
SCALE = 1e4
# Rounds in which a batch's decoded mean is brought to the observed one.
ROUNDS = 3
# The least agreement of two halves of a cluster's cells that a reliability is computed of.
LEAST_RELIABLE = 0.05


def explained(counts: sparse.csr_matrix, decoded: Decoded, batches: np.ndarray, labels: pd.Series | None, seed: int) -> dict:
    """How much of what tells the query's own clusters apart the decoder says too.

    The cells are clustered by their own counts, log-normalised, less the mean of their batch (20 principal components, Leiden).
    What the decoder expects of each cell in its batch is scaled, gene by gene, so that the batch's expected mean is the observed
    one: what a protocol does to all cells counts for nothing. Of each cluster in each batch there is then an observed profile and
    a decoded one, log1p of 10,000 times the share of each gene.

    ``broad`` is the correlation, over genes and clusters, weighted by cells, of the observed and the decoded profiles, both less
    the batch's mean profile. ``fine`` is the same of each profile's difference to that of the cluster whose decoded profile is
    nearest. Each is divided by the square root of the reliability of the observed side, which two halves of each cluster's cells
    give (Spearman 1904, doi:10.2307/1412159; Spearman-Brown), so that few cells are not taken for a bad model. The value is the
    mean of both, 0 to 1.

    Parameters
    ----------
    counts
        CSR, the decoded cells x the model's genes that were found.
    decoded
        See :class:`refmap.mapping.decoded.Decoded`.
    batches
        Int, one a cell.
    labels
        The label that each cell got; None if there are none.

    Returns
    -------
    A figure, with ``broad``, ``fine``, ``found_again`` (how far above chance two halves of the genes agree on the clusters),
    ``n_cells``, ``n_genes``, ``n_clusters``, and ``clusters``: number, the largest first, -> ``value``, ``n_cells``, and the
    ``label`` that most of its cells got, with the ``label_share`` of them.
    """
    detected = np.flatnonzero(np.bincount(counts.indices, counts.data > 0, counts.shape[1]) >= LEAST_DETECTED * counts.shape[0])
    counts = counts[:, detected]
    cells = np.flatnonzero(np.asarray(counts.sum(axis=1)).ravel() > 0)
    known = {"n_cells": len(cells), "n_genes": len(detected)}
    if len(cells) < FEWEST:
        note = f"The query has {plural(len(cells), 'cell')} with counts, too few for clusters that the model could explain."
        return figure(note=note, clusters={}, **known)
    if len(detected) < FEWEST_COUNTED:
        note = f"The query has counts in {plural(len(detected), 'gene')} of the model's, too few for clusters to be explained."
        return figure(note=note, clusters={}, **known)
    counts, batches = counts[cells], batches[cells]
    clusters, known["found_again"] = _clustered(counts, batches, seed)
    if known["found_again"] < LEAST_AGREEMENT:
        note = "Two halves of the genes agree on no clusters of the query's cells, so there are none to explain."
        return figure(note=note, clusters={}, **known)
    observed = counts.toarray().astype(np.float32)
    expected = _calibrated(observed, decoded.proportions[np.ix_(cells, detected)].astype(np.float32), batches)
    rng = np.random.default_rng(seed)
    profiles = [
        _profiles(observed[rows], expected[rows], clusters[rows], rng)
        for rows in (np.flatnonzero(batches == batch) for batch in np.unique(batches))
    ]
    profiles = [of_batch for of_batch in profiles if len(of_batch.clusters) >= LEAST_CLUSTERS]
    if not profiles:
        note = (
            f"No batch of the query has {LEAST_CLUSTERS} clusters of {LEAST_CELLS} cells, too few to say what tells them apart."
        )
        return figure(note=note, clusters={}, **known)
    of = np.concatenate([of_batch.clusters for of_batch in profiles])
    broad, fine = (np.concatenate([terms(of_batch) for of_batch in profiles]) for terms in (_broad, _fine))
    shares = _share(broad), _share(fine)
    value = np.clip(np.mean(shares), 0, 1)
    sizes = np.concatenate([of_batch.sizes for of_batch in profiles])
    named = None if labels is None else labels.iloc[cells].reset_index(drop=True)
    table = _table(of, sizes, broad, fine, clusters, named)
    return figure(value, 1.0, broad=shares[0], fine=shares[1], n_clusters=len(table), clusters=table, **known)


def _clustered(counts: sparse.csr_matrix, batches: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
    """The cluster of each cell, and how far above chance one half of the genes finds the clusters of the other again."""
    values = log_normalize(counts).toarray()
    for batch in np.unique(batches):
        values[batches == batch] -= values[batches == batch].mean(axis=0)
    halves = np.array_split(np.random.default_rng(seed).permutation(values.shape[1]), 2)
    first, second = (principal_components(values[:, np.sort(half)], seed, COMPONENTS) for half in halves)
    again = purity(second, leiden(first, seed))
    return leiden(principal_components(values, seed, COMPONENTS), seed), again


def _calibrated(observed: np.ndarray, expected: np.ndarray, batches: np.ndarray) -> np.ndarray:
    """Shares of the genes that are expected of each cell, scaled so that those of each batch have the observed mean."""
    expected = expected / np.maximum(expected.sum(axis=1, keepdims=True), 1e-12)
    totals = observed.sum(axis=1, keepdims=True)
    for batch in np.unique(batches):
        rows = batches == batch
        mean = observed[rows].sum(axis=0, dtype=np.float64)
        # A gene that no cell of the batch has counts of is rare in it, and not impossible.
        mean += 1e-3 * mean.sum() / len(mean)
        mean /= mean.sum()
        shares, weights = expected[rows], totals[rows] / totals[rows].sum()
        for _ in range(ROUNDS):
            shares *= (mean / np.maximum((shares * weights).sum(axis=0, dtype=np.float64), 1e-12)).astype(np.float32)
            shares /= shares.sum(axis=1, keepdims=True)
        expected[rows] = shares
    return expected


@dataclass
class _Profiles:
    """The clusters of a batch that count: their numbers, cells, and profiles, each clusters x genes."""

    clusters: np.ndarray
    sizes: np.ndarray
    observed: np.ndarray
    decoded: np.ndarray
    halves: tuple[np.ndarray, np.ndarray]


def _profiles(observed: np.ndarray, expected: np.ndarray, clusters: np.ndarray, rng: np.random.Generator) -> _Profiles:
    numbers, sizes = np.unique(clusters, return_counts=True)
    numbers, sizes = numbers[sizes >= LEAST_CELLS], sizes[sizes >= LEAST_CELLS]
    found = np.empty((4, len(numbers), observed.shape[1]))
    totals = observed.sum(axis=1, keepdims=True)
    for place, number in enumerate(numbers):
        rows = rng.permutation(np.flatnonzero(clusters == number))
        # What is expected of the very counts that the cells have.
        sums = [observed[rows], expected[rows] * totals[rows], observed[rows[::2]], observed[rows[1::2]]]
        found[:, place] = [total / total.sum() for total in (values.sum(axis=0, dtype=np.float64) for values in sums)]
    observed, decoded, *halves = np.log1p(SCALE * found)
    return _Profiles(numbers, sizes, observed, decoded, tuple(halves))


def _broad(of: _Profiles) -> np.ndarray:
    """The terms of each cluster's profile less the batch's mean."""
    profiles = np.stack([of.observed, of.decoded, *of.halves])
    mean = np.average(profiles, axis=1, weights=of.sizes)
    return _terms(profiles - mean[:, None], of.sizes)


def _fine(of: _Profiles) -> np.ndarray:
    """The terms of each cluster's profile less that of the cluster which the decoder has nearest to it."""
    distances = ((of.decoded[:, None] - of.decoded[None]) ** 2).sum(axis=2)
    np.fill_diagonal(distances, np.inf)
    nearest = distances.argmin(axis=1)
    profiles = np.stack([of.observed, of.decoded, *of.halves])
    return _terms(profiles - profiles[:, nearest], np.minimum(of.sizes, of.sizes[nearest]))


def _terms(profiles: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """A row a cluster: the products that a correlation and its reliability are made of, times the weight."""
    observed, decoded, first, second = profiles
    pairs = (observed, decoded), (observed, observed), (decoded, decoded), (first, second), (first, first), (second, second)
    return np.column_stack([(a * b).sum(axis=1) for a, b in pairs]) * weights[:, None]


def _share(terms: np.ndarray) -> float:
    """The correlation of observed and decoded, by the root of the reliability of the observed, of the rows together."""
    both, observed, decoded, halves, first, second = terms.sum(axis=0)
    agreement = max(_cosine(halves, first, second), LEAST_RELIABLE)
    return _cosine(both, observed, decoded) / np.sqrt(2 * agreement / (1 + agreement))


def _cosine(both: float, first: float, second: float) -> float:
    return float(both / np.sqrt(max(first * second, 1e-12)))


def _table(
    of: np.ndarray, sizes: np.ndarray, broad: np.ndarray, fine: np.ndarray, clusters: np.ndarray, labels: pd.Series | None
) -> dict[str, dict]:
    """What is known of each cluster over all batches in which it counts, the largest first."""
    counted = pd.Series(sizes).groupby(of).sum().sort_values(ascending=False, kind="stable")
    table = {}
    for place, (number, n_cells) in enumerate(counted.items(), 1):
        mine = of == number
        value = np.clip((_share(broad[mine]) + _share(fine[mine])) / 2, 0, 1)
        table[str(place)] = {"value": value, "n_cells": n_cells, "label": None, "label_share": None}
        if labels is not None:
            shares = labels[clusters == number].astype(object).value_counts(normalize=True, dropna=False)
            table[str(place)] |= {
                "label": None if pd.isna(shares.index[0]) else str(shares.index[0]),
                "label_share": shares.iloc[0],
            }
    return table
