"""The receptors of a query's cells: a table of chains as sequencing gives it, and its barcodes matched with the cells.

Two kinds of table are read, which scirpy reads as well: AIRR rearrangements (TSV), and the contigs of 10x's Cell Ranger (CSV).
What a chain means is left to scirpy, in the environment of a family that takes receptors.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ..common.errors import RefmapError, brief, listed

if TYPE_CHECKING:
    from .query import Query

# Where an aligned query holds the chains of its cells: a table of texts in `uns`.
KEY = "receptors"
# A table that shares less than this with the query, of its own barcodes and of the query's cells, may be another sample's.
FEWEST = 0.05
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Kind:
    """One kind of table: the column of its cells, those that it must have, and others that scirpy reads."""

    name: str
    cell: str
    needs: tuple[str, ...]
    takes: dict[str, str]  # with what a column that is not there is filled


KINDS = (
    Kind(
        "10x contig table",
        "barcode",
        ("chain", "productive", "cdr3", "umis"),
        {"is_cell": "True", "high_confidence": "True"}
        | dict.fromkeys(("cdr3_nt", "reads", "v_gene", "d_gene", "j_gene", "c_gene"), ""),
    ),
    Kind(
        "AIRR rearrangement table",
        "cell_id",
        ("productive", "junction_aa", "v_call"),
        dict.fromkeys(("junction", "d_call", "j_call", "c_call"), ""),
    ),
)
# What AIRR tables may have, and which means something where it is there alone.
_AIRR_OPTIONAL = ("locus", "umi_count", "duplicate_count", "consensus_count")


def read_receptors(path: Path, shown: str) -> tuple[pd.DataFrame, Kind]:
    """Read a table of chains: texts, a row a chain, with the columns that scirpy reads; packed by gzip or not.

    Raises RefmapError if it is neither kind of table, or has no chain.
    """
    try:
        with open(path, "rb") as stream:
            unpack = gzip.open if stream.read(2) == _GZIP else open
        with unpack(path, "rt", encoding="utf-8-sig", newline="") as stream:
            sep = "\t" if "\t" in stream.readline() else ","
            stream.seek(0)
            table = pd.read_csv(stream, sep=sep, dtype=str, keep_default_na=False)
    except (OSError, EOFError, zlib.error, ValueError) as error:  # pandas' own are ValueErrors, as those of a wrong encoding are
        raise RefmapError(
            f"airr '{shown}' is no table that can be read ({brief(error)}): give an AIRR rearrangement TSV, or the "
            "all_contig_annotations.csv or filtered_contig_annotations.csv of Cell Ranger."
        ) from None
    table = table.rename(columns=str.strip)
    for kind in KINDS:
        if {kind.cell, *kind.needs} <= set(table.columns):
            break
    else:
        wanted = "; ".join(f"{'an' if k.name[0] == 'A' else 'a'} {k.name} has {listed((k.cell, *k.needs))}" for k in KINDS)
        raise RefmapError(
            f"airr '{shown}' has the columns {listed(table.columns, 8)}, which are those of no table of receptors: {wanted}."
        )
    for column, value in kind.takes.items():
        if column not in table:
            table[column] = value
    optional = [column for column in _AIRR_OPTIONAL if kind.cell == "cell_id" and column in table]
    table = table[[kind.cell, *kind.needs, *kind.takes, *optional]].astype(object)
    table[kind.cell] = table[kind.cell].str.strip()
    table = table[table[kind.cell] != ""].reset_index(drop=True)
    if table.empty:
        raise RefmapError(f"airr '{shown}' has no chain of a cell in its column '{kind.cell}': give the table of this query.")
    return table, kind


# ------------------------------------------------------------------------------------------------------------------- barcodes


def _without_suffix(name: str) -> str:
    """Without the `-1` that Cell Ranger puts behind a barcode, and what merging put behind that."""
    return re.sub(r"([-_]\d+)+$", "", name)


def _barcode(name: str) -> str:
    """The barcode alone, the last run of ten nucleotides or more; the whole name where there is none."""
    found = re.findall(r"[ACGT]{10,}", name)
    return found[-1] if found else name


# From the strictest on: how two names are compared, in words.
_LEVELS = (
    ("", str),
    (" without their number, such as -1", _without_suffix),
    (" by the barcode alone, without sample and number", _barcode),
)


def match_barcodes(barcodes: Sequence[str], cells: Sequence[str]) -> tuple[dict[str, str], str]:
    """The cell of each barcode that has one, and how they were compared, in words (empty: as they are).

    Names are compared the strictest way that matches at least half as many as the best one does. A name that is
    several barcodes' or several cells' in that way is nobody's.
    """
    found = []
    for words, plain in _LEVELS:
        theirs, ours = (pd.Series({name: plain(name) for name in names}, dtype=object) for names in (barcodes, cells))
        theirs, ours = (names[~names.duplicated(keep=False)] for names in (theirs, ours))
        by_plain = pd.Series(ours.index, index=ours.to_numpy())
        matched = theirs[theirs.isin(by_plain.index)]
        found.append((dict(zip(matched.index, by_plain[matched.to_numpy()], strict=True)), words))
    most = max(len(pairs) for pairs, _ in found)
    return next((pairs, words) for pairs, words in found if 2 * len(pairs) >= most)


@dataclass(frozen=True)
class Receptors:
    """The chains of a query's cells under the cells' own names, None where there are none; and what is to be said of them."""

    table: pd.DataFrame | None
    warnings: list[str]


def find_receptors(query: Query, row: dict, card: dict, path: Path | None) -> Receptors:
    """Read the table that `row['airr']` names, which lies at `path`, and keep the chains of the query's cells.

    Raises RefmapError if a model that needs a table has none, if it is not there or cannot be read, or if none of its barcodes is
    a cell of the query.
    """
    shown, column = row["airr"], "reference_airr" if query.called == "reference" else "airr"
    if not card["receptors"]:
        return Receptors(None, [f"The model takes no receptors: airr '{shown}' is not used."] if shown else [])
    if not shown:
        if card["receptors"] == "needed":
            raise query.fault(f"needs receptors, as {card['class_name']} embeds no cell without: set {column}.")
        advice = f"set {column}, or all of its cells are embedded by their RNA alone"
        return Receptors(None, [f"{query.called} '{query.shown_as}' has no table of receptors: {advice}."])
    if path is None:
        raise RefmapError(f"{column} '{shown}' does not exist.")
    table, kind = read_receptors(path, shown)
    names, barcodes = query.obs_names, table[kind.cell].unique()
    cells, how = match_barcodes(list(barcodes), list(dict.fromkeys(names)))
    if not cells:
        raise query.fault(
            f"has no cell of airr '{shown}': its cells are called {listed(names[:2])}, those of the table {listed(barcodes[:2])}; "
            "give the table of this query, or name its cells alike."
        )
    table = table[table[kind.cell].isin(cells)].copy()
    table[kind.cell] = table[kind.cell].map(cells)
    share = len(cells) / len(barcodes)
    doubt = ": make sure that it is the table of these cells" if share < FEWEST and len(cells) < FEWEST * len(names) else ""
    found = (
        f"{len(cells):,} of the {len(names):,} cells of {query.called} '{query.shown_as}' ({len(cells) / len(names):.0%}) are in airr "
        f"'{shown}', {share:.0%} of its {len(barcodes):,} barcodes"
    )
    return Receptors(table.reset_index(drop=True), [f"{found}{f'; names were compared{how}' if how else ''}{doubt}."])
