"""Equal numbers of two sets of cells, region by region of their latent space; and a reference's own cells as the one set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from .neighbors import Index

# Neighbours that make a neighbourhood, where there are cells enough.
NEIGHBORHOOD = 15
# A share of fewer cells than this says little, and a neighbourhood of theirs is all of them.
FEWEST = 20
MOST_REGIONS, CELLS_A_REGION = 30, 50
MOST_FITTED = 5_000
# Batches of the reference that are held out in turn, the largest first.
MOST_HELD_OUT = 10
# Random halves that are held out where there are no batches.
RANDOM_HALVES = 5


@dataclass(frozen=True)
class Alike:
    """As many cells of a query as of its reference, in each region.

    query, reference    int64, rows of either, as many of one as of the other
    weights             float64, of each row of the query: how many of its region's cells it stands for
    """

    query: np.ndarray
    reference: np.ndarray
    weights: np.ndarray


def sample(n: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """Draw at most `most` of `n` rows without putting back; ascending int64."""
    return np.arange(n) if n <= most else np.sort(rng.choice(n, most, replace=False))


def draw_alike(query: np.ndarray, reference: np.ndarray, rng: np.random.Generator, most: int) -> Alike:
    """Draw at most `most` query cells and as many reference cells, so that neither size nor composition tells the two apart.

    The latent space is parted into up to 30 regions, around cells of the reference which lie far from each other (drawn as the
    start of k-means++: Arthur & Vassilvitskii 2007). In each region as many reference cells as query cells are drawn. Where it
    has fewer reference cells than query cells, fewer query cells stand for all of its query cells.
    """
    regions_of_query, regions_of_reference = _regions(query, reference, rng)
    wanted = min(1.0, most / len(query))
    drawn_query, drawn_reference, weights = [], [], []
    for region in np.unique(regions_of_query):
        there = np.flatnonzero(regions_of_query == region)
        near = np.flatnonzero(regions_of_reference == region)
        n = min(max(1, round(wanted * len(there))), len(near))
        drawn_query.append(rng.choice(there, n, replace=False))
        drawn_reference.append(rng.choice(near, n, replace=False))
        weights.append(np.full(n, len(there) / max(n, 1)))
    return Alike(np.concatenate(drawn_query), np.concatenate(drawn_reference), np.concatenate(weights))


def _regions(query: np.ndarray, reference: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the region of each cell: that of the nearest of some reference cells which lie far from each other."""
    from sklearn.cluster import kmeans_plusplus

    fitted = reference[sample(len(reference), MOST_FITTED, rng)].astype(np.float32)
    n = int(np.clip(len(fitted) // CELLS_A_REGION, 1, MOST_REGIONS))
    centers, _ = kmeans_plusplus(fitted, n, random_state=int(rng.integers(2**31)))
    # Of centers at the same place only one has cells.
    nearest = Index(np.unique(centers, axis=0))
    return tuple(nearest.search(cells, 1).indices[:, 0] for cells in (query, reference))


def parts_to_hold_out(n: int, batches: pd.Series | None, rng: np.random.Generator) -> tuple[list[np.ndarray], str]:
    """Return masks of the reference cells that play a query in turn, and what they are: `batches` or `random cells`.

    Each of the ten largest batches (missing ones are in none) that hold 20 cells and leave 20; five random halves without.
    """
    counts = pd.Series(dtype=int) if batches is None else batches.astype(object).value_counts()
    fit = counts[(counts >= FEWEST) & (counts <= n - FEWEST)].index[:MOST_HELD_OUT]
    if len(fit):
        return [(batches == batch).to_numpy(bool, na_value=False) for batch in fit], "batches"
    return [rng.permutation(n) < n // 2 for _ in range(RANDOM_HALVES)], "random cells"
