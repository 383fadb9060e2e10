#!/usr/bin/env python
"""Describe and draw one mapping."""

from pathlib import Path

import click
from refmap.cli import INPUT, OUTPUT, command, read_json
from refmap.folders import MappedFolder
from refmap.qc import describe_mapping


@command("QC_MAPPING")
@click.option("--plan", required=True, type=INPUT, help="The mapping's plan (JSON).")
@click.option("--query", required=True, type=INPUT, help="The query as it came.")
@click.option("--alignment", required=True, type=INPUT, help="What became of its genes (JSON).")
@click.option("--mapped", required=True, type=INPUT, help="What the mapping gave: a folder.")
@click.option("--output", required=True, type=OUTPUT, help="Folder to make.")
def main(plan: Path, query: Path, alignment: Path, mapped: Path, output: Path) -> None:
    """Write the label composition, the score and the pictures of one mapping to a folder, beside its records."""
    describe_mapping(read_json(plan), query, alignment, MappedFolder(mapped), output)


if __name__ == "__main__":
    main()
