#!/usr/bin/env python
"""Describe and draw one mapping."""

from pathlib import Path

import click
from refmap.common.cli import INPUT, OUTPUT, command, read_json
from refmap.common.folders import MappedFolder, PreparedFolder, ReferenceFolder
from refmap.report.qc import describe_mapping

# Imported where they are used: what several mappings in a task are drawn and laid out by is imported once.
LIBRARIES = ("matplotlib.pyplot", "PIL.Image", "sklearn.neighbors", "umap.umap_")


@command("QC_MAPPING", libraries=lambda options: LIBRARIES)
@click.option("--plan", required=True, type=INPUT, help="The mapping's plan (JSON).")
@click.option("--query", required=True, type=INPUT, help="The query as it came.")
@click.option("--prepared", required=True, type=INPUT, help="The query ready for its model: a folder.")
@click.option("--mapped", required=True, type=INPUT, help="What the mapping gave: a folder.")
@click.option("--reference", type=INPUT, help="The reference's cells and the scale that they set: a folder.")
@click.option("--threshold", type=click.FloatRange(0, 1), required=True, help="The uncertainty above which a label is Unknown.")
@click.option("--obs-table", type=INPUT, help="Columns of the query's cells: CSV, TSV or Parquet.")
@click.option("--output", required=True, type=OUTPUT, help="Folder to make.")
def main(
    plan: Path,
    query: Path,
    prepared: Path,
    mapped: Path,
    reference: Path | None,
    threshold: float,
    obs_table: Path | None,
    output: Path,
) -> None:
    """Write how far one mapping is to be trusted, its composition, score and pictures to a folder, beside its records."""
    around = ReferenceFolder(reference) if reference else None
    describe_mapping(read_json(plan), query, PreparedFolder(prepared), MappedFolder(mapped), around, threshold, output, obs_table)


if __name__ == "__main__":
    main()
