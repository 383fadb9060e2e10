"""Whether a query's cells lie apart from its reference's, however near to these.

A model that never saw a cell type may map it right beside another: its cells are then no farther from the reference than others,
but nearer to each other. So a cell's separation is how many times farther from it the reference's cells are than the query's own,
of equal numbers of both (see :func:`refmap.transfer.regions.draw_alike`): 1 where they are intermixed. What is usual between
experiments, the reference's own batches tell, each taken for a query. A protocol that surgery did not make up for sets cells apart
as well, so this tells where to look and not what is there.

The idea that a sample's neighbourhoods tell whether it is of the same distribution as another is that of the nearest neighbour
test of Henze 1988 (doi:10.1214/aos/1176350835); the equal draws and the scale are refmap's.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from .held_out import MOST_CELLS
from .neighbors import HELD, Index
from .regions import FEWEST, NEIGHBORHOOD, draw_alike, parts_to_hold_out, sample

# Cells of either side that are searched: more cost time, and resolve only what is rarer than one in a thousand.
MOST_SEARCHED = 10_000
# The mean of several draws, as where few cells are one draw is noise.
DRAWS = 3
# Added to both distances, so that cells on one spot are 1, and not 0 / 0.
SPOT = 1e-6


def separation(query: np.ndarray, reference: np.ndarray, seed: int, rows: np.ndarray | None = None) -> np.ndarray:
    """How many times farther the reference's cells are than the query's own: float64; NaN where either has too few cells.

    Parameters
    ----------
    query, reference
        float, cells x latent dimensions.
    rows
        The query's cells that are wanted, by default all.
    """
    rows = np.arange(len(query)) if rows is None else rows
    if len(query) < FEWEST or len(reference) < FEWEST:
        return np.full(len(rows), np.nan)
    rng = np.random.default_rng(seed)
    return np.mean([_separation(query, reference, rng, rows) for _ in range(DRAWS)], axis=0)


def _separation(query: np.ndarray, reference: np.ndarray, rng: np.random.Generator, rows: np.ndarray) -> np.ndarray:
    alike = draw_alike(query, reference, rng, MOST_SEARCHED)
    own = np.sort(alike.query)
    k = int(np.clip(len(own) // 10, 1, NEIGHBORHOOD))
    if len(own) <= k:
        return np.full(len(rows), np.nan)
    among_others, among_own, found = Index(reference[alike.reference]), Index(query[own]), np.empty(len(rows))
    for start in range(0, len(rows), HELD):
        some = rows[start : start + HELD]
        at = np.searchsorted(own, some).clip(max=len(own) - 1)
        itself = np.where(own[at] == some, at, -1)
        far = among_others.search(query[some], k).distances.mean(axis=1)
        near = among_own.search_others(query[some], itself, k).distances.mean(axis=1)
        found[start : start + HELD] = (far + SPOT) / (near + SPOT)
    return found


def held_out_separation(reference: np.ndarray, batches: pd.Series | None, seed: int) -> np.ndarray:
    """The separation of a reference's own cells, float64, sorted: of its ten largest batches, each taken for a query.

    Random halves take the place of batches where there are none. Of 5,000 cells at most; none where the reference has too few.
    """
    if len(reference) < 2 * FEWEST:
        return np.empty(0)
    rng = np.random.default_rng(seed)
    parts, _ = parts_to_hold_out(len(reference), batches, rng)
    found = [
        separation(reference[part], reference[~part], seed, sample(int(part.sum()), MOST_CELLS // len(parts), rng))
        for part in parts
    ]
    scores = np.concatenate(found)
    return np.sort(scores[np.isfinite(scores)])
