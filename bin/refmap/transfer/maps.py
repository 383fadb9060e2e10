"""The map of cells that share a latent space: the UMAP that others are placed in."""

from __future__ import annotations

import numpy as np

from ..common.layout import FEWEST_FOR_UMAP, N_NEIGHBORS, first_two, umap
from .neighbors import Index

# Cells that have a place in a map; a picture of more looks no different.
MOST_CELLS_PLACED = 100_000


def draw_map(latent: np.ndarray, seed: int) -> np.ndarray:
    """The UMAP of cells (cells x latent dimensions), cells x 2 float32; those beyond the most that are placed have no numbers."""
    position = np.full((len(latent), 2), np.nan, dtype=np.float32)
    drawn = np.sort(np.random.default_rng(seed).permutation(len(latent))[:MOST_CELLS_PLACED])
    some = latent[drawn]
    if len(drawn) < FEWEST_FOR_UMAP:
        position[drawn] = first_two(some)
    else:
        near = Index(some).search_own(N_NEIGHBORS - 1)
        position[drawn] = umap(some, seed, (near.distances, near.indices))
    return position
