#!/usr/bin/env python
"""Check a query by its metadata, and align it to a model's genes where it is sound."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import click
from refmap.common.cli import INPUT, JSON, OUTPUT, command, read_json, within, write_json
from refmap.common.folders import MappedFolder, PreparedFolder
from refmap.mapping.brought import pass_on
from refmap.query.align import CHUNK_ROWS, align
from refmap.query.checks import check, stopped
from refmap.query.genes import read_id_table
from refmap.query.matrix import return_freed_memory
from refmap.query.obs_table import add_obs_table
from refmap.query.query import Query


def reporter() -> Callable[[int, int], None]:
    """Report progress to stderr: a line whenever another tenth is done."""
    tenths = 0

    def report(done: int, total: int) -> None:
        nonlocal tenths
        if 10 * done // total > tenths:
            tenths = 10 * done // total
            print(f"aligned {done:,} of {total:,} cells", file=sys.stderr)

    return report


def align_query(
    plan: Path,
    query: Path | None,
    card: Path,
    id_table: Path | None,
    gmt: Path | None,
    airr: Path | None,
    obs_table: Path | None,
    chunk_rows: int,
    output: Path,
    mapped: Path,
) -> None:
    """Write the query with the model's genes, in the model's order, by chunks of cells; and the embedding that it brings, if one.

    Of a query with a fault the plan is written alone.
    """
    return_freed_memory()
    prepared, known = PreparedFolder(output), read_json(plan)
    output.mkdir()
    write_json(prepared.plan, known)
    if known["faults"]:
        return
    row = known["row"]
    table = read_id_table(id_table, row["id_table"]) if id_table else None
    with Query(query, row["query"], row["modality"]) as opened:
        add_obs_table(opened, row, obs_table)
        found = align(opened, row, read_json(card), known, prepared.aligned, chunk_rows, reporter(), table, airr)
        write_json(prepared.alignment, found)
        if row["query_embedding"]:
            pass_on(opened, prepared, read_json(card), MappedFolder(mapped))
    if gmt:
        shutil.copyfile(gmt, prepared.gmt)


@command("CHECK_QUERY", then=("ALIGN_GENES", align_query))
@click.option("--row", type=JSON, required=True, help="The mapping, as JSON or a file of it.")
@click.option(
    "--query", type=click.Path(path_type=Path), help="The query, of any format that is read. Not given if it does not exist."
)
@click.option("--card", type=INPUT, required=True, help="The model's card.")
@click.option("--id-table", type=INPUT, help="Pairs of gene ids: CSV or TSV of two columns.")
@click.option("--gmt", type=INPUT, help="Gene programmes for the model to learn: GMT.")
@click.option("--airr", type=INPUT, help="The receptors of the query's cells: an AIRR or a 10x contig table.")
@click.option("--obs-table", type=INPUT, help="Columns of the query's cells: CSV, TSV or Parquet.")
@click.option("--chunk-rows", type=click.IntRange(min=1), default=CHUNK_ROWS, help="Cells held in memory at once.")
@click.option("--plan", type=OUTPUT, required=True, help="Write the plan, with all faults and warnings, to this JSON file.")
@click.option("--output", type=OUTPUT, required=True, help="Write all that surgery needs of the query to this folder.")
@click.option("--mapped", type=OUTPUT, required=True, help="Write the embedding that a query brings along to this folder.")
def align_genes(
    row: dict,
    query: Path | None,
    card: Path,
    id_table: Path | None,
    gmt: Path | None,
    airr: Path | None,
    obs_table: Path | None,
    plan: Path,
) -> None:
    """Find all faults that can be told from the query's metadata, and name its batches; then align it if there are none.

    Of the matrix a block is read before any of it is aligned.
    """

    def look() -> None:
        write_json(plan, check(query, row, read_json(card), id_table, gmt, airr, obs_table))

    # Many times what any check has taken. Of a damaged heap HDF5 may read an object of no size again and again.
    size = query.stat().st_size if query and query.is_file() else 0
    done = within(300 + size // 10**7, look)
    endless = f"query '{row['query']}' keeps HDF5 reading without end: the file is damaged, so copy it again."
    found = read_json(plan) if done else stopped(row, endless)
    for level in ("faults", "warnings"):
        for sentence in found[level]:
            print(f"{row['dataset']}/{row['file_id']}: {level[:-1]}: {sentence}", file=sys.stderr)
    write_json(plan, found)


if __name__ == "__main__":
    align_genes()
