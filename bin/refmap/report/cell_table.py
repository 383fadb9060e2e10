"""The cells of a mapping as a table, for whoever has no AnnData at hand."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pandas as pd

from ..common.storage import StoredCells

CELLS = "cells.parquet"
CELLS_CSV = "cells.csv.gz"
# Places in the reference's UMAP, by their key in obsm.
PLACES = {"X_umap_reference": ("umap_reference_1", "umap_reference_2")}


def write_cells(columns: dict[str, pd.Series], embedded: StoredCells, folder: Path) -> None:
    """Write a row a cell in the query's order: its name, what is known of it, and what the mapping says of it.

    The table is made and written by blocks of cells, so that memory does not follow their number.

    Parameters
    ----------
    columns
        The columns of the query that the mapping's row names, those of text as categories; one that is called as what the mapping says
        is called `<name>_query`.
    embedded
        All of its cells, with what the mapping says of them in obs, and their places in obsm.
    folder
        Where ``cells.parquet`` and ``cells.csv.gz`` go.
    """
    import pyarrow as pa
    from pyarrow import parquet

    # Without the time of its writing, the file is the same whenever it is made.
    with gzip.GzipFile(folder / CELLS_CSV, "wb", mtime=0) as packed, io.TextIOWrapper(packed, "utf-8", newline="") as text:
        writer = None
        for block in _blocks(columns, embedded):
            block.to_csv(text, index=False, header=writer is None, lineterminator="\n")
            if writer is None:
                schema = pa.Schema.from_pandas(_with_values(block, columns), preserve_index=False)
                writer = parquet.ParquetWriter(folder / CELLS, schema)
            writer.write_table(pa.Table.from_pandas(block, schema=schema, preserve_index=False))
        writer.close()


def _blocks(columns: dict[str, pd.Series], embedded: StoredCells) -> Iterator[pd.DataFrame]:
    """The table, some cells after the others."""
    places = {key: axes for key, axes in PLACES.items() if key in embedded.obsm}
    said = {*embedded.obs, *chain.from_iterable(places.values()), "cell"}
    start = 0
    for names in embedded.names.blocks():
        stop = start + len(names)
        table = {"cell": names.astype(str)}
        for key, values in columns.items():
            table[f"{key}_query" if key in said else key] = _as_text(values.iloc[start:stop].reset_index(drop=True))
        table |= {name: embedded.obs.block(name, start, stop) for name in embedded.obs}
        for key, axes in places.items():
            table |= dict(zip(axes, embedded.obsm.block(key, start, stop).T))
        yield pd.DataFrame(table)
        start = stop


def _as_text(values: pd.Series) -> pd.Series:
    return values.astype(object).where(values.notna(), None) if isinstance(values.dtype, pd.CategoricalDtype) else values


def _with_values(block: pd.DataFrame, columns: dict[str, pd.Series]) -> pd.DataFrame:
    """A block in which a column of the query has a value if any cell has one, so that it tells the type of each."""
    for name, values in zip(block.columns[1:], columns.values(), strict=False):
        if block[name].isna().all() and values.notna().any():
            known = values.iloc[[values.notna().argmax()] * len(block)]
            block = block.assign(**{name: _as_text(known.reset_index(drop=True))})
    return block
