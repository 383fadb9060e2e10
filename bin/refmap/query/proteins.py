"""The model's proteins among the query's."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import zarr
from anndata.io import write_elem

from ..common.errors import listed
from ..common.storage import COMPRESSOR
from .counts import check_values
from .matrix import spans
from .query import Proteins, Query

PROTEIN_SUFFIX = re.compile(r"[_-]TotalSeq[-_]?[ABCD]?$", re.IGNORECASE)
PROTEIN_ROWS = 1 << 16


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
            "rename them to the model's names."
        )
    warnings = []
    if guessed:
        warnings.append(f"{len(guessed)} proteins were matched by similar names: {', '.join(guessed[:5])}.")
    if missing:
        warnings.append(f"{len(missing)} of the model's {len(wanted)} proteins are not in the query: {listed(missing, 5)}.")
    return ProteinMatch(source, missing, warnings)


def find_proteins(query: Query, row: dict, card: dict) -> tuple[Proteins, ProteinMatch]:
    """The query's proteins and how they match the model's.

    Raises RefmapError if the query has none.
    """
    key = row["protein_key"] or card["protein_key"]
    if not key:
        raise query.fault(
            f"needs proteins, for the model has {len(card['proteins'])}: set protein_key to where the query holds them."
        )
    proteins = query.proteins(key)
    return proteins, match_proteins(query, proteins.names, card["proteins"])


def write_proteins(group: zarr.Group, query: Query, proteins: Proteins, match: ProteinMatch, names: Sequence[str]) -> None:
    """Write a table (cells x the model's proteins, float32) by blocks of cells; a missing protein is zero in every cell.

    Raises RefmapError if the values are no counts.
    """
    size, rows = proteins.n_obs, PROTEIN_ROWS
    group.attrs.update(
        {"encoding-type": "dataframe", "encoding-version": "0.2.0", "_index": "_index", "column-order": list(names)}
    )
    write_elem(group, "_index", query.obs_names)
    columns = []
    for name in names:
        columns.append(group.create_array(name, shape=(size,), chunks=(rows,), dtype=np.float32, compressors=COMPRESSOR))
        columns[-1].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    for start, stop in spans(size, rows):
        with query.reading(proteins.name):
            block = proteins.rows(start, stop)
        used = np.zeros((stop - start, len(names)))
        used[:, match.source >= 0] = block[:, match.source[match.source >= 0]]
        wrong = check_values(used.ravel(), "counts")
        if wrong:
            others = f", perhaps {listed(proteins.others)}" if proteins.others else ""
            raise query.fault(
                f"holds no protein counts in {proteins.name}: {wrong}; set protein_key to where the raw counts are{others}."
            )
        for column, values in zip(columns, np.rint(used).T, strict=True):
            column[start:stop] = values.astype(np.float32)
