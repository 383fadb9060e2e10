#!/usr/bin/env python
"""Align a query to a model's genes."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import click
from refmap.common.cli import INPUT, OUTPUT, command, read_json, write_json
from refmap.common.folders import MappedFolder, PreparedFolder
from refmap.mapping.brought import pass_on
from refmap.query.align import CHUNK_ROWS, align
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


@command("ALIGN_GENES")
@click.option("--plan", type=INPUT, required=True, help="The mapping's plan.")
@click.option("--query", type=INPUT, required=True, help="The query, of any format that is read.")
@click.option("--card", type=INPUT, required=True, help="The model's card.")
@click.option("--id-table", type=INPUT, help="Pairs of gene ids: CSV or TSV of two columns.")
@click.option("--gmt", type=INPUT, help="Gene programmes for the model to learn: GMT.")
@click.option("--airr", type=INPUT, help="The receptors of the query's cells: an AIRR or a 10x contig table.")
@click.option("--obs-table", type=INPUT, help="Columns of the query's cells: CSV, TSV or Parquet.")
@click.option("--chunk-rows", type=click.IntRange(min=1), default=CHUNK_ROWS, help="Cells held in memory at once.")
@click.option("--output", type=OUTPUT, required=True, help="Write all that surgery needs of the query to this folder.")
@click.option("--mapped", type=OUTPUT, required=True, help="Write the embedding that a query brings along to this folder.")
def align_genes(
    plan: Path,
    query: Path,
    card: Path,
    id_table: Path | None,
    gmt: Path | None,
    airr: Path | None,
    obs_table: Path | None,
    chunk_rows: int,
    output: Path,
    mapped: Path,
) -> None:
    """Write the query with the model's genes, in the model's order, by chunks of cells; and the embedding that it brings, if one."""
    return_freed_memory()
    prepared, known = PreparedFolder(output), read_json(plan)
    output.mkdir()
    row = known["row"]
    table = read_id_table(id_table, row["id_table"]) if id_table else None
    with Query(query, row["query"], row["modality"]) as opened:
        add_obs_table(opened, row, obs_table)
        found = align(opened, row, read_json(card), known, prepared.aligned, chunk_rows, reporter(), table, airr)
        write_json(prepared.alignment, found)
        write_json(prepared.plan, known)
        if row["query_embedding"]:
            pass_on(opened, prepared, read_json(card), MappedFolder(mapped))
    if gmt:
        shutil.copyfile(gmt, prepared.gmt)


if __name__ == "__main__":
    align_genes()
