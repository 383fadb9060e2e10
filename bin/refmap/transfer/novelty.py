"""How unlike its reference a cell is, on the scale of the reference's own cells.

A cell's score is the mean distance to its five nearest reference cells. Its p-value is the share of held-out reference cells (see
:mod:`refmap.transfer.held_out`) that lie as far from the rest of their reference or farther: the conformal p-value of Bates et al.
2023 (doi:10.1214/22-AOS2244), which is right for cells like the reference's whatever the shape of the latent space. It does not
hang on what else is in the query, as a score that is scaled between a query's least and most does.
"""

from __future__ import annotations

import numpy as np

from .neighbors import Neighbors

# Fewer is noise, and more reaches beyond small cell types.
NEAREST = 5


def distance_scores(neighbors: Neighbors) -> np.ndarray:
    """The mean distance of each cell to the nearest of the reference's: float64; NaN without any."""
    near = neighbors.distances[:, :NEAREST]
    return near.mean(axis=1) if near.shape[1] else np.full(len(near), np.nan)


def p_values(scores: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """The share of scores as high as each or higher, itself counted among those of held-out cells.

    NaN where there is no scale, or no score.

    Parameters
    ----------
    scores
        Of a query's cells.
    held_out
        Of the reference's, sorted.
    """
    if not len(held_out):
        return np.full(len(scores), np.nan)
    beyond = 1 + len(held_out) - np.searchsorted(held_out, scores, side="left")
    return np.where(np.isnan(scores), np.nan, beyond / (1 + len(held_out)))
