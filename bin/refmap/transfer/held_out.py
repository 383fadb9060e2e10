"""Reference cells as if they were a query's: the scale on which a query is judged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from .neighbors import NEIGHBORS, Index, Neighbors

# More cells would change the figures by less than they vary between references.
MOST_CELLS = 5000


@dataclass(frozen=True)
class HeldOut:
    """Cells of a reference, and their nearest cells in the rest of it.

    rows         int64, held-out cells: rows of the reference
    neighbors    of each of them, in rows of the reference
    by           ``batch``: the rest is what other batches hold, as for a query; ``cell``: all other cells, where there is one batch
    """

    rows: np.ndarray
    neighbors: Neighbors
    by: str


def hold_out(
    latent: np.ndarray,
    batches: pd.Series | None,
    seed: int,
    most: int = MOST_CELLS,
    k: int = NEIGHBORS,
    among: np.ndarray | None = None,
) -> HeldOut:
    """Draw cells of a reference and find the nearest of those they are held out from.

    A query's cells come from batches that the reference lacks, and lie farther from its cells than these do from their own batch.
    So a cell is held out together with its batch, wherever the other batches hold `k` cells or more.

    Parameters
    ----------
    latent
        Reference cells x dimensions.
    batches
        The batch of each, or None where the reference has none.
    most
        How many are drawn at most.
    among
        The rows that they are drawn from, by default all. The nearest are sought among all others.
    """
    drawn = np.sort(np.random.default_rng(seed).permutation(len(latent) if among is None else among)[:most])
    codes = pd.factorize(batches)[0] if batches is not None else np.zeros(len(latent), dtype=int)
    sizes = np.bincount(codes)
    if (len(latent) - sizes[codes[drawn]] < k).any():
        return HeldOut(drawn, Index(latent).search_own(k, drawn), "cell")
    return HeldOut(drawn, Index(latent).search(latent[drawn], k, apart=(codes[drawn], codes)), "batch")
