"""Columns of a query's cells from a table of its own: CSV, TSV or Parquet, a row a cell, matched with the cells by their names."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import pandas as pd

from ..common.errors import RefmapError, brief, listed, nearest
from .query import Query
from .receptors import match_barcodes

GZIP, PARQUET = b"\x1f\x8b", b"PAR1"


def read_obs_table(path: Path, shown: str, key: str | None) -> pd.DataFrame:
    """Read a table, whose index are the names of cells: its column `key`, or else the first.

    Columns of text are numbers where all of their values are written as such, and none starts with a zero that is more than that.

    Raises RefmapError if it cannot be read, or has no column `key`, or several rows of a cell that differ.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(4)
        table = _parquet(path) if start == PARQUET else _text(path, gzip.open if start[:2] == GZIP else open)
    except (OSError, EOFError, zlib.error, ValueError) as error:  # pandas' and pyarrow's own are ValueErrors or OSErrors
        raise RefmapError(
            f"obs_table '{shown}' is no table that can be read ({brief(error)}): give a CSV, a TSV or a Parquet with a row a cell."
        ) from None
    if key is not None and key not in table:
        raise RefmapError(
            f"obs_table '{shown}' has no column '{key}' (obs_table_key): its columns are {listed(table.columns)}.{nearest(key, table.columns)}"
        )
    if table.shape[1] < 2:
        raise RefmapError(
            f"obs_table '{shown}' has the column {listed(table.columns)} alone: give names of cells and a column of theirs."
        )
    table = table.drop_duplicates().set_index(key if key is not None else table.columns[0])
    table = table[table.index.notna()]
    table.index = table.index.astype(str).str.strip()
    for column, values in table.items():
        if not (pd.api.types.is_numeric_dtype(values.dtype) or isinstance(values.dtype, pd.CategoricalDtype)):
            # Dates and what else Parquet has are text, as an AnnData holds it
            table[column] = values.astype(object).map(str).where(values.notna(), None).astype(object)
    twice = table.index[table.index.duplicated()]
    if len(twice):
        raise RefmapError(
            f"obs_table '{shown}' has several rows that differ of {len(twice):,} cells (such as '{twice[0]}'): leave one of each, or name "
            "the column of the cells' names in obs_table_key."
        )
    return table


def _parquet(path: Path) -> pd.DataFrame:
    table = pd.read_parquet(path)
    named = not isinstance(table.index, pd.RangeIndex)
    table = table.rename_axis(table.index.name or "cell").reset_index() if named else table
    return table.set_axis([str(column) for column in table], axis=1)


def _text(path: Path, unpack) -> pd.DataFrame:
    with unpack(path, "rt", encoding="utf-8-sig", newline="") as stream:
        head = stream.readline()
        stream.seek(0)
        sep = max(("\t", ",", ";"), key=head.count)
        # pandas takes the first column for the index where the header lacks its name, as R writes it
        table = pd.read_csv(stream, sep=sep, dtype=str, skipinitialspace=True)
    if not isinstance(table.index, pd.RangeIndex):
        table = table.rename_axis("cell").reset_index()
    for column in table.columns[1:]:
        values = table[column].dropna()
        if len(values) and not values.str.match(r"[-+]?0\d").any():
            numbers = pd.to_numeric(values, errors="coerce")
            if numbers.notna().all():
                table[column] = pd.to_numeric(table[column])
    return table


def add_obs_table(query: Query, row: dict, path: Path | None) -> list[str]:
    """Give a query the columns of the table that `row['obs_table']` names, which lies at `path`; return what is to be said of it.

    Raises RefmapError if it is not there or cannot be read, or if it has none of the query's cells.
    """
    shown = row["obs_table"]
    if not shown:
        return []
    if path is None:
        raise RefmapError(f"obs_table '{shown}' does not exist.")
    table = read_obs_table(path, shown, row["obs_table_key"])
    names = list(query.obs_names)
    cells, how = match_barcodes(list(table.index), names)
    if not cells:
        raise query.fault(
            f"has no cell of obs_table '{shown}': its cells are called {listed(names[:2])}, those of the table "
            f"{listed(table.index[:2])}; give the table of this query, or name the column of its cells in obs_table_key."
        )
    row_of = {cell: barcode for barcode, cell in cells.items()}
    query.added = table.reindex([row_of.get(name) for name in names]).reset_index(drop=True)
    said = []
    if how:
        said.append(f"obs_table '{shown}' is matched with the cells of query '{query.shown_as}'{how}.")
    lacking = [name for name in names if name not in row_of]
    if lacking:
        said.append(
            f"obs_table '{shown}' has no row of {len(lacking):,} of the {len(names):,} cells of query '{query.shown_as}' (such as "
            f"'{lacking[0]}'): they have no value in its columns."
        )
    again = [column for column in table if column in query.stored_columns]
    if again:
        said.append(
            f"obs_table '{shown}' and query '{query.shown_as}' both have {listed(again)}: the table's are taken, and in the result the "
            f"query's own are called {listed([f'{column}_query' for column in again])}."
        )
    return said
