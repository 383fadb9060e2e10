"""The model's proteins among the query's."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import zarr

from ..common.errors import listed
from ..common.names import write_names
from ..common.stores import COMPRESSOR
from .counts import check_values
from .matrix import spans
from .protein_tables import Proteins, protein_places, read_proteins
from .query import Query

PROTEIN_SUFFIX = re.compile(r"[_-]TotalSeq[-_]?[ABCD]?$", re.IGNORECASE)
PROTEIN_ROWS = 1 << 16
# What a row gives as its protein_key to say that its query has no proteins to be looked at.
NO_PROTEINS = "none"


@dataclass(frozen=True)
class ProteinMatch:
    """For each protein of the model the query's column, or -1; the model's proteins that are missing; and warnings."""

    source: np.ndarray  # (model proteins,) int64
    missing: list[str]
    warnings: list[str]


def match_proteins(query: Query, names: Sequence[str], wanted: Sequence[str]) -> ProteinMatch:
    """Match proteins by name: exactly, else without regard to case and to 10x's `_TotalSeqB` where that leaves no doubt.

    Raises RefmapError if none is found.
    """

    def plain(name: str) -> str:
        return PROTEIN_SUFFIX.sub("", name).casefold()

    exact = {name: column for column, name in enumerate(names)}
    loose = defaultdict(list)
    for column, name in enumerate(names):
        loose[plain(name)].append(column)
    alike_in_model = pd.Series([plain(name) for name in wanted]).duplicated(keep=False)

    twice = sorted(name for name in wanted if list(names).count(name) > 1)
    if twice:
        raise query.fault(f"has more than one protein called {listed(twice)}: give each its own name.")
    source, guessed = np.full(len(wanted), -1, dtype=np.int64), []
    for index, name in enumerate(wanted):
        alike = loose.get(plain(name), [])
        if name in exact:
            source[index] = exact[name]
        elif len(alike) == 1 and names[alike[0]] not in wanted and not alike_in_model[index]:
            source[index] = alike[0]
            guessed.append(f"{names[alike[0]]} as {name}")
    missing = [name for name, column in zip(wanted, source, strict=True) if column < 0]
    if len(missing) == len(wanted):
        raise query.fault(
            f"has none of the model's {len(wanted)} proteins: it has {listed(names[:3])}, the model has {listed(wanted[:3])}; "
            "rename them to the model's names, or set protein_key: none to map it by its genes alone."
        )
    warnings = []
    if guessed:
        warnings.append(f"{len(guessed)} proteins were matched by similar names: {', '.join(guessed[:5])}.")
    if missing:
        warnings.append(f"{len(missing)} of the model's {len(wanted)} proteins are not in the query: {listed(missing, 5)}.")
    return ProteinMatch(source, missing, warnings)


def find_proteins(query: Query, row: dict, card: dict) -> tuple[Proteins, ProteinMatch]:
    """The query's proteins and how they match the model's: none of them where the query has none, and the row names no place.

    Raises RefmapError if there are none where the row says they are, or none of the model's.
    """
    key, places = row["protein_key"] or card["protein_key"], protein_places(query)
    told = key == NO_PROTEINS and key not in places
    if key in places or (row["protein_key"] and not told):
        proteins = read_proteins(query, key)
        return proteins, match_proteins(query, proteins.names, card["proteins"])
    none = Proteins("nothing", [], query.n_obs, lambda start, stop: np.zeros((stop - start, 0)))
    wanted = card["proteins"]
    at = "" if told or not key else f" at '{key}'"
    warning = f"query '{query.shown_as}' has no proteins{at}: all {len(wanted)} of the model are treated as missing."
    if not told:
        warning += f" If it has proteins, set protein_key to where (its obsm keys and modalities are {listed(places)})."
    return none, ProteinMatch(np.full(len(wanted), -1, dtype=np.int64), list(wanted), [warning])


def write_proteins(
    group: zarr.Group, query: Query, proteins: Proteins, match: ProteinMatch, names: Sequence[str], batches: pd.Categorical
) -> dict[str, list[str]]:
    """Write a table (cells x the model's proteins, float32) by blocks of cells; what is missing is zero.

    A protein may be missing in a whole batch, where all of its values are zero or NaN, as joining two panels leaves them. Returned
    are the batches in which each such protein is missing, without those that are missing in all.

    Raises RefmapError if the values are no counts.
    """
    size, rows = proteins.n_obs, PROTEIN_ROWS
    group.attrs.update(
        {"encoding-type": "dataframe", "encoding-version": "0.2.0", "_index": "_index", "column-order": list(names)}
    )
    write_names(group, query.obs_names)
    columns = []
    for name in names:
        columns.append(group.create_array(name, shape=(size,), chunks=(rows,), dtype=np.float32, compressors=COMPRESSOR))
        columns[-1].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    counted, gaps = (np.zeros((len(batches.categories), len(names))) for _ in range(2))
    for start, stop in spans(size, rows):
        with query.reading(proteins.name):
            block = proteins.rows(start, stop)
        used = np.zeros((stop - start, len(names)))
        used[:, match.source >= 0] = block[:, match.source[match.source >= 0]]
        np.add.at(gaps, batches.codes[start:stop], np.isnan(used))
        used = np.nan_to_num(used, nan=0, posinf=np.inf, neginf=-np.inf)
        wrong = check_values(used.ravel(), "counts")
        if wrong:
            others = f", perhaps {listed(proteins.others)}" if proteins.others else ""
            raise query.fault(
                f"holds no protein counts in {proteins.name}: {wrong}; set protein_key to where the raw counts are{others}."
            )
        used = np.rint(used)
        np.add.at(counted, batches.codes[start:stop], used)
        for column, values in zip(columns, used.T, strict=True):
            column[start:stop] = values.astype(np.float32)
    cells = np.bincount(batches.codes, minlength=len(batches.categories))[:, None]
    if (partly := (gaps > 0) & (gaps < cells)).any():
        batch, protein = np.argwhere(partly)[0]
        raise query.fault(
            f"has no number in {proteins.name} for protein '{names[protein]}' in {int(gaps[batch, protein]):,} of the "
            f"{int(cells[batch, 0]):,} cells of batch '{batches.categories[batch]}': a protein is measured in a whole batch or not "
            "at all, so fill them in, or take these cells out."
        )
    nowhere = (counted == 0) & (cells > 0)
    return {
        name: [str(batch) for batch in batches.categories[nowhere[:, index]]]
        for index, name in enumerate(names)
        if nowhere[:, index].any() and match.source[index] >= 0
    }
