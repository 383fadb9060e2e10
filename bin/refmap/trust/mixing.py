"""What the mapping made of the query's batches: they are to come together.

Two figures, written out here as importing scib-metrics, whose values they are, costs a mapping more than all that it computes.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import sparse

from ..transfer.neighbors import Index, Neighbors
from ..transfer.regions import FEWEST, NEIGHBORHOOD, sample
from .figures import figure, plural
from .structure import FEWEST_GENES, expressed, principal_components

# Cells whose batches are looked at.
MOST_IN_BATCHES = 5_000
# Neighbours of scib-metrics' own benchmark, the cell itself among them, and the share of them that counts in effect.
LISI_NEIGHBORS, PERPLEXITY = 90, 1 / 3
# The fewest and the most that kBET looks at, and the level of its test.
KBET_NEIGHBORS, KBET_LEVEL = (10, 70), 0.05
# Labels of fewer cells, or batches of fewer within them, have no kBET.
FEWEST_OF_LABEL, FEWEST_OF_BATCH = 50, 10


def batch_mixing(
    values: sparse.csr_matrix | None, latent: np.ndarray, batches: np.ndarray, labels: np.ndarray | None, seed: int
) -> dict:
    """Whether surgery moved the query's batches together: iLISI and kBET before it and after it.

    iLISI (Korsunsky et al. 2019, doi:10.1038/s41592-019-0619-0) is the effective number of batches in a cell's neighbourhood,
    kBET (Büttner et al. 2019, doi:10.1038/s41592-018-0254-1) the share of neighbourhoods whose batches do not differ from those
    of all cells of the label; both as Luecken et al. 2022 (doi:10.1038/s41592-021-01336-8) scale them, 0 to 1, more is more
    mixed. Before is the principal components of the query's own log-normalised counts, after is the latent space. What iLISI
    can reach depends on the batches' sizes and cell types: ``expected`` is the iLISI after the batches were shuffled among the
    cells of each label, or among all cells where there are no labels. At most 5,000 cells are used.

    Parameters
    ----------
    values
        CSR, cells x genes, log-normalised; None where there are none, and then there is no before.
    latent
        float, cells x latent dimensions.
    batches
        One a cell. Those of fewer than 20 cells are left out.
    labels
        One a cell, None where it has none; None if no cell has any, and then there is no kBET.

    Returns
    -------
    A figure: value is iLISI after, ``before`` that before, ``relative`` value / expected (at most 1), ``kbet`` and
    ``kbet_before`` the means over the labels, ``kbet_note`` why there are none.
    """
    rng = np.random.default_rng(seed)
    rows = sample(len(latent), MOST_IN_BATCHES, rng)
    counts = pd.Series(batches[rows]).value_counts()
    rows = rows[np.isin(batches[rows], counts[counts >= FEWEST].index)]
    n_batches = len(np.unique(batches[rows]))
    if n_batches < 2:
        known = plural(len(pd.unique(batches)), "batch").replace("batchs", "batches")
        return figure(
            note=f"The query has {known}, and fewer than two of at least {FEWEST} cells: there is nothing to move together.",
            n_batches=n_batches,
        )
    batches, after = batches[rows], latent[rows]
    labels = None if labels is None else labels[rows]
    before = None
    if values is not None and len(expressed(values[rows])) >= FEWEST_GENES:
        before = principal_components(values[rows], seed)
    shuffled = _shuffle(batches, labels, rng)
    value, expected = ilisi(after, batches), ilisi(after, shuffled)
    fit, note = _labels_for_kbet(batches, labels)
    return figure(
        value,
        expected,
        before=None if before is None else ilisi(before, batches),
        relative=float(np.clip(value / expected, 0, 1)) if expected > 0 else None,
        kbet=None if fit is None else kbet(after[fit], batches[fit], labels[fit]),
        kbet_before=None if fit is None or before is None else kbet(before[fit], batches[fit], labels[fit]),
        kbet_note=note,
        n_batches=n_batches,
        n_cells=len(rows),
    )


def _shuffle(batches: np.ndarray, labels: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
    """Return the batches, permuted among the cells of each label."""
    groups = np.zeros(len(batches)) if labels is None else pd.factorize(labels)[0]
    result = batches.copy()
    for group in np.unique(groups):
        cells = np.flatnonzero(groups == group)
        result[cells] = batches[rng.permutation(cells)]
    return result


def _labels_for_kbet(batches: np.ndarray, labels: np.ndarray | None) -> tuple[np.ndarray | None, str | None]:
    """Return the cells whose label has cells and batches enough, or None and why there are none."""
    if labels is None:
        return None, "The query's cells have no labels, and kBET compares batches label by label."
    table = pd.crosstab(labels, batches)
    table = table[(table.sum(axis=1) >= FEWEST_OF_LABEL) & ((table >= FEWEST_OF_BATCH).sum(axis=1) >= 2)]
    cells = np.flatnonzero(pd.Series(labels).isin(table.index))
    if not len(cells):
        return None, f"No label has {FEWEST_OF_LABEL} cells with {FEWEST_OF_BATCH} of each of two batches, too few for kBET."
    return cells, None


def _neighbors(points: np.ndarray, k: int) -> Neighbors:
    """Return the nearest others of each point, one less than `k`; of a smaller dataset fewer, lest they are all of it."""
    return Index(points).search_own(min(k - 1, max(NEIGHBORHOOD, len(points) // 5)))


def ilisi(points: np.ndarray, batches: np.ndarray) -> float:
    """Return the iLISI of at least two batches, scaled: 0 if batches lie apart, 1 if each is everywhere.

    The median over cells of 1 / the chance that two draws among a cell's neighbours are of one batch (Simpson's index), where
    neighbours are drawn by exp(-beta * distance), with each cell's beta such that a third of its neighbours count in effect.
    """
    names, codes = np.unique(batches, return_inverse=True)
    near = _neighbors(points, LISI_NEIGHBORS)
    weights = _weights(near.distances.astype(np.float64), np.floor((near.indices.shape[1] + 1) * PERPLEXITY))
    shares = np.stack([np.where(codes[near.indices] == code, weights, 0).sum(axis=1) for code in range(len(names))])
    return float((np.median(1 / (shares**2).sum(axis=0)) - 1) / (len(names) - 1))


def _weights(distances: np.ndarray, perplexity: float) -> np.ndarray:
    """Return what each neighbour weighs, 1 in sum over a cell's: cells x neighbours, with the entropy of `perplexity` equal ones."""
    beyond = distances - distances.min(axis=1, keepdims=True)
    low, high, beta = np.zeros((len(beyond), 1)), np.full((len(beyond), 1), np.inf), np.ones((len(beyond), 1))
    for _ in range(50):
        weights = np.exp(-beta * beyond)
        weights /= weights.sum(axis=1, keepdims=True)
        entropy = -(weights * np.log(np.where(weights > 0, weights, 1))).sum(axis=1, keepdims=True)
        wide = entropy > np.log(perplexity)
        low, high = np.where(wide, beta, low), np.where(wide, high, beta)
        beta = np.where(np.isinf(high), beta * 2, (low + high) / 2)
    return weights


def kbet(points: np.ndarray, batches: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of neighbourhoods that kBET accepts, the mean over labels of two batches at least.

    A neighbourhood is accepted where Pearson's chi-square test does not tell its batches from those of the label. Neighbours are
    the exact ones among the label's own cells, as many as Luecken et al. 2022 take: a quarter of the mean batch, 10 to 70, the
    cell itself among them.
    """
    from scipy.stats import chi2

    rates = []
    for label in pd.unique(labels):
        cells = np.flatnonzero(labels == label)
        names, codes = np.unique(batches[cells], return_inverse=True)
        near = _neighbors(points[cells], int(np.clip(len(cells) / len(names) // 4, *KBET_NEIGHBORS))).indices
        around = codes[np.column_stack([np.arange(len(cells)), near])]
        expected = np.bincount(codes) / len(codes) * around.shape[1]
        observed = np.stack([(around == code).sum(axis=1) for code in range(len(names))], axis=1)
        statistic = ((observed - expected) ** 2 / expected).sum(axis=1)
        rates.append((chi2.sf(statistic, len(names) - 1) >= KBET_LEVEL).mean())
    return float(np.mean(rates))
