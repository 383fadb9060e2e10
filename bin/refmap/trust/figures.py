"""What every figure is made of, and those that need no latent space."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ..transfer.labels import UNKNOWN
from ..transfer.regions import FEWEST

# A cell counts as unlike the reference below this p-value; so do as many of the reference's own held-out cells.
ALPHA = 0.05
NO_CELLS = "There are no cells of the reference to compare the query's with."


def figure(value: float | None = None, expected: float | None = None, note: str | None = None, **more) -> dict:
    """Return a figure as it goes into JSON.

    value       the number; None where it has no meaning
    expected    what the reference, or chance, lets expect; None where nothing does
    note        why there is no value: a sentence; None where there is one
    more        further numbers, None, texts, or dictionaries of them
    """
    return {"value": _plain(value), "expected": _plain(expected), "note": note} | {k: _plain(v) for k, v in more.items()}


def _plain(value):
    """Round to four decimals, of Python's own types; NaN becomes None, as JSON has none."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, float | np.floating):
        return None if np.isnan(value) else round(float(value), 4)
    return int(value) if isinstance(value, np.integer) else value


def plural(n: int, thing: str) -> str:
    return f"{n:,} {thing}{'' if n == 1 else 's'}"


def genes(alignment: Mapping) -> dict:
    """Share of the model's genes that the query has; `alignment` is what alignment.json holds (``matched``, ``n_model_genes``)."""
    matched, of = alignment["matched"], alignment["n_model_genes"]
    if not of:
        return figure(note="The model has no genes to find.", matched=matched, of=of)
    return figure(matched / of, 1.0, matched=matched, of=of)


def hshare(value: float | None) -> dict:
    """Share of what the encoder tells cells apart by that the query's genes carry; see :func:`refmap.mapping.decoded.hshare`."""
    if value is None:
        return figure(note="It is not known how much of what its encoder goes by the genes of this model carry.")
    return figure(value, 1.0)


def unknown(labels: Mapping[str, pd.Series], classes: Mapping[str, int], held_out: Mapping[str, Mapping]) -> dict:
    """Share of the cells that got no label, by column of labels, less that of the reference's own held-out cells.

    After the Human Lung Cell Atlas (Sikkema et al. 2023, doi:10.1038/s41591-023-02327-2), whose cells above an uncertainty of
    0.2 are `Unknown`.

    Parameters
    ----------
    labels
        Column -> the label that each cell of the query got, `Unknown` for none. A missing one counts as `Unknown`.
    classes
        Column -> the number of labels that the reference has in it.
    held_out
        Column -> what is known of the reference's held-out cells: ``unknown_of_all``, the share that is `Unknown` of all of them, those
        without a label of their own in the column among them, and ``accuracy_kept``, the share of right labels among those not
        `Unknown`. Columns, or either number, may be absent: then no cell is expected to be Unknown.

    Returns
    -------
    ``levels``: column -> a figure, whose ``excess`` is (value - expected) / (1 - expected): of the cells that would have a label
    if they were the reference's own, the share that has none. ``value`` is the excess of the column with least of it,
    ``worst`` that of the column with most.
    """
    levels = {key: _level(key, values, classes.get(key), held_out.get(key) or {}) for key, values in labels.items()}
    excess = [level["excess"] for level in levels.values() if level["value"] is not None]
    if not labels:
        return figure(note="No labels were transferred to the query.", worst=None, levels=levels)
    if not excess:
        return figure(note=" ".join(level["note"] for level in levels.values()), worst=None, levels=levels)
    return figure(min(excess), 0.0, worst=max(excess), levels=levels)


def _level(key: str, labels: pd.Series, n_classes: int | None, held_out: Mapping) -> dict:
    n = len(labels)
    known = {"n_cells": n, "accuracy_kept": held_out.get("accuracy_kept"), "excess": None}
    if n < FEWEST:
        return figure(note=f"The query has {plural(n, 'cell')}, too few for a share of Unknown in '{key}'.", **known)
    if n_classes == 0:
        return figure(note=f"No cell of the reference has a label in '{key}'.", **known)
    if n_classes == 1:
        return figure(note=f"The reference has one label in '{key}', which every cell gets: Unknown cannot occur.", **known)
    share = float((labels.isna() | (labels.astype(object) == UNKNOWN)).mean())
    expected = held_out.get("unknown_of_all")
    floor = min(expected or 0.0, 1.0)
    known["excess"] = max(0.0, (share - floor) / (1 - floor)) if floor < 1 else 0.0
    return figure(share, expected, **known)


def novel(p_values: np.ndarray | None) -> dict:
    """Estimated share of cells unlike the reference.

    If s is the share of cells whose p-value against the reference's held-out cells is below 0.05, then cells like the reference
    account for 5 % of themselves, and (s - 0.05) / 0.95 is what the others are at least (the estimate of the share of true
    nulls of Storey 2002, doi:10.1111/1467-9868.00346, turned round).

    `p_values` are float, one a cell, missing where none could be had; None where there are no reference cells. ``flagged`` is s,
    whose expected value is ``flagged_expected``.
    """
    if p_values is None:
        return figure(note=NO_CELLS)
    known = np.asarray(p_values, dtype=float)
    known = known[~np.isnan(known)]
    if not len(known):
        return figure(note="The reference has too few cells to hold some out, so nothing says how far is too far.")
    if len(known) < FEWEST:
        return figure(note=f"The query has {plural(len(known), 'cell')}, too few for a share of cells unlike the reference.")
    flagged = float((known < ALPHA).mean())
    return figure(max(0.0, (flagged - ALPHA) / (1 - ALPHA)), 0.0, flagged=flagged, flagged_expected=ALPHA, n_cells=len(known))


def separation(separations: np.ndarray | None, held_out: np.ndarray, labels: pd.Series | None) -> dict:
    """How many times farther the reference's cells are than the query's own, in the middle of the cells, and of each label's.

    Where a type that the reference lacks was mapped beside another, the cells of that label lie apart from the reference's. So
    does a whole query whose protocol surgery did not make up for: compare the labels with each other. To be read, not judged.

    Parameters
    ----------
    separations
        Of the query's cells: see :func:`refmap.transfer.separation.separation`; None or NaN where there are none.
    held_out
        Of the reference's held-out cells.
    labels
        The transferred label of each cell; None if there are none.

    Returns
    -------
    A figure, with ``labels``: label -> ``value`` and ``n_cells``, for those of 20 cells or more.
    """
    if separations is None:
        return figure(note=NO_CELLS, labels={})
    known = pd.Series(np.asarray(separations, dtype=float))
    if known.isna().all():
        return figure(note="The query or the reference has too few cells to say whether they lie apart.", labels={})
    by_label = {}
    if labels is not None:
        groups = known.groupby(labels.astype(object).fillna(UNKNOWN).to_numpy())
        by_label = {label: {"value": cells.median(), "n_cells": len(cells)} for label, cells in groups if len(cells) >= FEWEST}
    expected = float(np.median(held_out)) if len(held_out) else None
    return figure(known.median(), expected, labels=by_label, n_cells=int(known.notna().sum()))
