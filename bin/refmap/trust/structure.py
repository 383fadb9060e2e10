"""What the mapping made of the query's own structure: whether its clusters stay."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import sparse

from ..common.leiden import seeded
from ..query.counts import normalize
from ..transfer.neighbors import Index
from ..transfer.regions import NEIGHBORHOOD
from .figures import figure

COMPONENTS = 30
FEWEST_GENES = 40
# A batch is clustered by itself if it has so many cells; of many batches the largest.
FEWEST_CLUSTERED, MOST_CLUSTERED = 50, 10
# How far above chance two halves of the genes must agree on a cluster, lest it is noise.
LEAST_AGREEMENT = 0.1


def log_normalize(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return log1p of the counts scaled to the median total of the cells that have any: CSR float32; empty cells stay empty."""
    totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    return normalize(counts, totals, np.median(totals[totals > 0]) if (totals > 0).any() else 1)


def principal_components(values: sparse.csr_matrix | np.ndarray, seed: int, most: int = COMPONENTS) -> np.ndarray:
    """Return at most so many principal components of the cells: float32, cells x components."""
    from sklearn.decomposition import PCA

    n = min(most, min(values.shape) - 1)
    return PCA(n, svd_solver="arpack", random_state=seed).fit_transform(values.astype(np.float64)).astype(np.float32)


def leiden(points: np.ndarray, seed: int) -> np.ndarray:
    """Return the cluster of each point (int): Leiden, modularity at resolution 1, on the graph of 15 nearest neighbours.

    Traag, Waltman & van Eck 2019, doi:10.1038/s41598-019-41695-z.
    """
    import igraph

    indices = Index(points).search_own(NEIGHBORHOOD).indices
    edges = np.column_stack([np.repeat(np.arange(len(points)), indices.shape[1]), indices.ravel()])
    edges = np.unique(np.sort(edges, axis=1), axis=0)
    with seeded(seed):
        found = igraph.Graph(len(points), edges).community_leiden("modularity", n_iterations=2)
    return np.array(found.membership)


def cluster_preservation(values: sparse.csr_matrix, latent: np.ndarray, batches: np.ndarray, seed: int) -> dict:
    """Whether cells that cluster in the query by itself stay together in the latent space.

    Each of the ten largest batches is looked at alone, as coming together with others is what surgery is for. The genes are
    parted at random into two halves. The cells are clustered by the one (principal components, Leiden); the share of a cell's 15
    nearest neighbours that are of its cluster, less what chance gives, is its purity. ``kept`` is the mean purity in the latent
    space, ``found_again`` that in the principal components of the other half: what independent measurements of these very cells
    agree on. The value is kept / found_again: 1, and the latent space tells the clusters apart as the genes do; 0, and they are
    gone. Where the halves agree on nothing, there are no clusters to keep.

    Beside it stand the adjusted Rand index and the normalised mutual information of the clusters with those found in the latent
    space, and, as ``_expected``, with those of the other half (Hubert & Arabie 1985, doi:10.1007/BF01908075).

    The precedent is Azimuth's cluster preservation score (Hao et al. 2021, doi:10.1016/j.cell.2021.04.048), which compares
    neighbourhoods in the query's own components with those in the mapped ones; the other half of the genes as its measure, and
    taking batches one by one, are refmap's.

    Parameters
    ----------
    values
        CSR, cells x genes, log-normalised.
    latent
        float, cells x latent dimensions.
    batches
        One a cell.
    """
    counts = pd.Series(batches).value_counts()
    chosen = counts[counts >= FEWEST_CLUSTERED].index[:MOST_CLUSTERED]
    if not len(chosen):
        return figure(note=f"No batch of the query has {FEWEST_CLUSTERED} cells, so none has clusters.")
    rows = [
        _preserved(values[cells], latent[cells], seed) | {"n_cells": len(cells)}
        for cells in (np.flatnonzero(batches == batch) for batch in chosen)
    ]
    of_batches = pd.DataFrame([row for row in rows if "kept" in row])
    if of_batches.empty:
        return figure(note=f"The query has counts in fewer than {FEWEST_GENES} of the model's genes, too few for clusters.")
    weights = of_batches["n_cells"]
    mean = {name: float(np.average(of_batches[name], weights=weights)) for name in of_batches if name != "n_cells"}
    if mean["found_again"] < LEAST_AGREEMENT:
        note = "Two halves of the genes agree on no clusters of the query's cells, so there are none to keep."
        return figure(note=note, found_again=mean["found_again"], n_cells=weights.sum(), n_batches=len(of_batches))
    value = max(0.0, mean["kept"] / mean["found_again"])
    return figure(min(1.0, value), 1.0, **mean, n_cells=weights.sum(), n_batches=len(of_batches))


def _preserved(values: sparse.csr_matrix, latent: np.ndarray, seed: int) -> dict:
    """Return the figures of one batch; none if it has too few genes."""
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    genes = expressed(values)
    if len(genes) < FEWEST_GENES:
        return {}
    halves = np.array_split(np.random.default_rng(seed).permutation(genes), 2)
    first, second = (principal_components(values[:, np.sort(half)], seed) for half in halves)
    clusters = leiden(first, seed)
    in_latent, in_second = leiden(latent, seed), leiden(second, seed)
    return {
        "kept": purity(latent, clusters),
        "found_again": purity(second, clusters),
        "ari": adjusted_rand_score(clusters, in_latent),
        "ari_expected": adjusted_rand_score(clusters, in_second),
        "nmi": normalized_mutual_info_score(clusters, in_latent),
        "nmi_expected": normalized_mutual_info_score(clusters, in_second),
    }


def expressed(values: sparse.csr_matrix) -> np.ndarray:
    """Return the columns of the genes that any cell has a value in."""
    return np.unique(values.indices)


def purity(points: np.ndarray, clusters: np.ndarray) -> float:
    """Return the mean share of each point's 15 nearest others that are of its cluster, less that of all others: 0 is chance."""
    indices = Index(points).search_own(NEIGHBORHOOD).indices
    same = (clusters[indices] == clusters[:, None]).mean(axis=1)
    chance = (np.bincount(clusters)[clusters] - 1) / (len(clusters) - 1)
    return float((same - chance).mean())
