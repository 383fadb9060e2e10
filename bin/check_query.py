#!/usr/bin/env python
"""Check a mapping by its metadata and plan it."""

import sys
from pathlib import Path

import click
from refmap.common.cli import INPUT, JSON, OUTPUT, command, read_json, within, write_json
from refmap.query.checks import check, stopped


@command("CHECK_QUERY")
@click.option("--row", type=JSON, required=True, help="The mapping, as JSON or a file of it.")
@click.option(
    "--query", type=click.Path(path_type=Path), help="The query, of any format that is read. Not given if it does not exist."
)
@click.option("--card", type=INPUT, required=True, help="The model's card.")
@click.option("--id-table", type=INPUT, help="Pairs of gene ids: CSV or TSV of two columns.")
@click.option("--gmt", type=INPUT, help="Gene programmes for the model to learn: GMT.")
@click.option("--airr", type=INPUT, help="The receptors of the query's cells: an AIRR or a 10x contig table.")
@click.option("--obs-table", type=INPUT, help="Columns of the query's cells: CSV, TSV or Parquet.")
@click.option("--output", type=OUTPUT, required=True, help="Write the plan, with all faults and warnings, to this JSON file.")
def check_query(
    row: dict,
    query: Path | None,
    card: Path,
    id_table: Path | None,
    gmt: Path | None,
    airr: Path | None,
    obs_table: Path | None,
    output: Path,
) -> None:
    """Find all faults of a mapping that can be told from the query's metadata, and name its batches. Of the matrix a block is read."""

    def look() -> None:
        write_json(output, check(query, row, read_json(card), id_table, gmt, airr, obs_table))

    # Many times what any check has taken. Of a damaged heap HDF5 may read an object of no size again and again.
    size = query.stat().st_size if query and query.is_file() else 0
    done = within(300 + size // 10**7, look)
    endless = f"query '{row['query']}' keeps HDF5 reading without end: the file is damaged, so copy it again."
    plan = read_json(output) if done else stopped(row, endless)
    for level in ("faults", "warnings"):
        for sentence in plan[level]:
            print(f"{row['dataset']}/{row['file_id']}: {level[:-1]}: {sentence}", file=sys.stderr)
    write_json(output, plan)


if __name__ == "__main__":
    check_query()
