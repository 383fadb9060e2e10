"""The columns of obs that hold transferred labels, and what the record says of them."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from .labels import UNKNOWN, Given
from .levels import Levels, best_labels, certain_with_finer
from .ontology import cell_ontology, term_column


def write_labels(
    obs: MutableMapping[str, pd.Categorical],
    given: Mapping[str, Given],
    certain: Mapping[str, np.ndarray],
    levels: Sequence[Levels],
) -> dict:
    """Write transferred labels to obs.

    Of each column of labels ``<key>_transferred`` and, where any of its labels has a term, ``<key>_ontology_term_id`` (missing where
    the label is `Unknown` or has none); of each annotation of several levels ``<annotation>_best`` and ``<annotation>_best_level``
    (ordered from coarse to fine; missing where no level is certain). All are categorical, `Unknown` the last of the categories where
    there is any.

    Parameters
    ----------
    given
        Column -> the label of each cell, whatever its certainty.
    certain
        Column -> whether it is certain, bool. Others are `Unknown`, but for coarse labels whose finer label is certain.
    levels
        The annotations.

    Returns
    -------
    What the record says: ``labels``, of each column ``counts`` (cells by label), ``unknown`` (share of cells) and ``terms`` (label ->
    term); ``annotations``, of each the ``name``, ``levels`` (how many cells are certain at each and at no finer one) and ``unknown``;
    and ``ontology``, the version of the Cell Ontology, None without it.
    """
    # Of millions of cells text would be most of what is held
    best = {key: found.column for key, found in given.items()}
    ontology, told, kept = cell_ontology(), {}, dict(certain)
    for chain in levels:
        kept |= certain_with_finer(chain, best, kept)
    for key, found in given.items():
        labels = replace(found, places=np.where(kept[key], found.places, -1)).column
        terms = ontology.terms(found.classes)
        unknown = labels == UNKNOWN
        if not unknown.any() and UNKNOWN not in found.classes:
            labels = labels.remove_categories([UNKNOWN])
        obs[f"{key}_transferred"] = labels
        if terms:
            obs[f"{key}_ontology_term_id"] = term_column(labels, terms)
        counts = {str(labels.categories[code]): int(n) for code, n in pd.Series(labels.codes).value_counts().items()}
        told[key] = {"counts": counts, "unknown": float(unknown.mean()), "terms": terms}
    return {
        "labels": told,
        "annotations": [_write_best(obs, chain, best, kept) for chain in levels],
        "ontology": ontology.version,
    }


def _write_best(
    obs: MutableMapping[str, pd.Categorical],
    levels: Levels,
    best: Mapping[str, pd.Categorical],
    certain: Mapping[str, np.ndarray],
) -> dict:
    labels, level = best_labels(levels, best, certain)
    obs[f"{levels.name}_best"], obs[f"{levels.name}_best_level"] = labels, level
    at = {key: int((level == key).sum()) for key in levels.keys}
    return {"name": levels.name, "levels": at, "unknown": float(pd.isna(level).mean())}
