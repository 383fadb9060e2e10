"""How the query and the reference lie to each other in the latent space."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..transfer.neighbors import Index
from ..transfer.regions import FEWEST, NEIGHBORHOOD, draw_alike, parts_to_hold_out, sample
from .figures import figure, plural

# Cells of either side that are mixed: few enough that small and large queries are seen at the same resolution.
MOST_MIXED = 2_000
# Cells of either side that are looked at for presence.
MOST_PRESENT = 10_000


def mixing(query: np.ndarray, reference: np.ndarray, batches: pd.Series | None, seed: int) -> dict:
    """Share of reference cells in the neighbourhoods of query cells, against what the reference's own batches show.

    See :func:`reference_share` for the share, which depends neither on how many cells either side has nor on which cell types
    are frequent in it. The same is done with each of the reference's ten largest batches against the others, as if it were the
    query; ``expected`` is the median of these, ``lowest`` the lowest. Without batches five random halves of the reference's cells
    take their place.

    The idea to judge a query's mapping by its neighbourhoods' mixing with the reference is that of Lotfollahi et al. 2022
    (doi:10.1038/s41587-021-01001-7); the draw of equal numbers and the scale are refmap's.

    Parameters
    ----------
    query, reference
        float, cells x latent dimensions.
    batches
        Of the reference's cells; missing ones are in no batch. None if there are none.

    Returns
    -------
    A figure, whose ``relative`` is value / expected, at most 1.
    """
    if len(query) < FEWEST:
        return figure(note=f"The query has {plural(len(query), 'cell')}, too few for neighbourhoods.")
    if len(reference) < 2 * FEWEST:
        return figure(note=f"The reference has {plural(len(reference), 'cell')}, too few for neighbourhoods.")
    rng = np.random.default_rng(seed)
    share = reference_share(query, reference, rng)
    held_out, of = parts_to_hold_out(len(reference), batches, rng)
    shown = [reference_share(reference[out], reference[~out], rng, most=min(len(query), MOST_MIXED)) for out in held_out]
    expected = float(np.median(shown))
    return figure(
        share,
        expected,
        relative=min(1.0, share / expected) if expected else None,
        lowest=min(shown),
        held_out=of,
        n_held_out=len(shown),
        n_cells=min(len(query), MOST_MIXED),
    )


def reference_share(query: np.ndarray, reference: np.ndarray, rng: np.random.Generator, most: int = MOST_MIXED) -> float:
    """Return the share of reference cells among the nearest neighbours of query cells, of equal numbers of both.

    At most `most` query cells are drawn, and as many reference cells in each region of the latent space: see
    :func:`refmap.transfer.regions.draw_alike`. Among the 15 nearest of a drawn query cell (a tenth of those drawn if that is
    fewer, 3 at least) the share of reference cells is 0.5 where the two are intermixed and 0 where they lie apart.
    """
    alike = draw_alike(query, reference, rng, most)
    a, b = query[alike.query], reference[alike.reference]
    k = int(np.clip(len(a) // 10, min(3, 2 * len(a) - 1), NEIGHBORHOOD))
    indices = Index(np.concatenate([a, b])).search_own(k).indices
    shares = (indices[: len(a)] >= len(a)).mean(axis=1)
    return float(np.average(shares, weights=alike.weights))


def presence(query: np.ndarray, reference: np.ndarray, labels: pd.Series | None, seed: int) -> dict:
    """Share of the reference's cells that have a query cell nearby, in all and by label.

    A reference cell is present if its nearest query cell is no farther than its own 15th nearest reference cell. How often that
    happens depends on how many query cells there are, so the reference is parted at random: one half is looked at, and of the
    other half as many cells as of the query play the query, which gives ``expected``. At most 10,000 cells of each are used.
    A query need not cover its reference: this is to be read, not to be judged.

    The question, and doing it by neighbours of reference cells in the query, are those of the presence scores of He et al. 2024
    (doi:10.1038/s41586-024-08172-8); these are scaled within each query, and this is not.

    Returns
    -------
    A figure, with ``labels``: label -> ``value``, ``expected``, ``n_cells``, for the labels of which a cell was looked at.
    """
    if len(query) < FEWEST:
        return figure(note=f"The query has {plural(len(query), 'cell')}, too few to cover a reference.", labels={})
    if len(reference) < 2 * FEWEST:
        return figure(note=f"The reference has {plural(len(reference), 'cell')}, too few to be covered.", labels={})
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(reference))
    seen, spare = np.sort(order[: len(order) // 2][:MOST_PRESENT]), order[len(order) // 2 :]
    n = min(len(query), len(spare), MOST_PRESENT)
    looked_at = reference[seen]
    distances = Index(looked_at).search_own(NEIGHBORHOOD).distances
    near = pd.DataFrame(
        {
            name: Index(cells).search(looked_at, 1).distances[:, 0] <= distances[:, -1]
            for name, cells in {"value": query[sample(len(query), n, rng)], "expected": reference[spare[:n]]}.items()
        }
    )
    by_label = {}
    if labels is not None:
        groups = near.groupby(labels.iloc[seen].astype(object).to_numpy())
        by_label = {label: {**group.mean().to_dict(), "n_cells": len(group)} for label, group in groups}
    return figure(near["value"].mean(), near["expected"].mean(), labels=by_label, n_cells=len(seen), n_query_cells=n)
