#!/usr/bin/env python
"""Describe and draw one mapping."""

from pathlib import Path

import click
from refmap.cli import INPUT, OUTPUT, command, read_json
from refmap.qc import describe_mapping


@command("QC_MAPPING")
@click.option("--plan", required=True, type=INPUT, help="The mapping's plan (JSON).")
@click.option("--query", required=True, type=INPUT, help="The query as it came.")
@click.option("--alignment", required=True, type=INPUT, help="What became of its genes (JSON).")
@click.option("--mapping", required=True, type=INPUT, help="The record of the mapping (JSON).")
@click.option("--history", required=True, type=INPUT, help="The training's curves (CSV).")
@click.option("--embedding", required=True, type=INPUT, help="The embedded cells (zarr).")
@click.option("--results", required=True, type=INPUT, help="The tables of what else the family found: a folder.")
@click.option("--output", required=True, type=OUTPUT, help="Folder to make.")
def main(
    plan: Path, query: Path, alignment: Path, mapping: Path, history: Path, embedding: Path, results: Path, output: Path
) -> None:
    """Write the label composition, the score and the pictures of one mapping to a folder, beside its records."""
    describe_mapping(read_json(plan), query, alignment, mapping, history, embedding, results, output)


if __name__ == "__main__":
    main()
