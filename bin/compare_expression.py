#!/usr/bin/env python
"""Look at a mapping by the expression of its cells."""

from pathlib import Path

import click
from refmap.common.cli import INPUT, OUTPUT, command
from refmap.common.folders import MappedFolder, PreparedFolder, ReferenceFolder
from refmap.identity.mapped import UnknownRule, compare_mapping
from refmap.query.matrix import return_freed_memory

SHARE = click.FloatRange(0, 1)


@command("COMPARE_EXPRESSION")
@click.option("--plan", type=INPUT, required=True, help="The mapping's plan.")
@click.option("--prepared", type=INPUT, required=True, help="The query ready for its model: a folder.")
@click.option("--mapped", type=INPUT, required=True, help="What the mapping gave, with transferred labels: a folder.")
@click.option(
    "--reference", type=INPUT, required=True, help="The reference's cells, a sample and the scale that they set: a folder."
)
@click.option("--unknown-by", type=click.Choice(["certainty", "uncertainty"]), required=True, help="What makes a label Unknown.")
@click.option("--certainty", type=SHARE, required=True, help="The certainty below which a label is Unknown.")
@click.option("--threshold", type=SHARE, required=True, help="The uncertainty above which a label is Unknown.")
@click.option("--output", type=OUTPUT, required=True, help="Write the same with what the expression says to this folder.")
def compare_expression(
    plan: Path, prepared: Path, mapped: Path, reference: Path, unknown_by: str, certainty: float, threshold: float, output: Path
) -> None:
    """Add which of the query's own clusters the reference lacks, a second label of each cell, and how certain labels are."""
    return_freed_memory()
    compare_mapping(
        PreparedFolder(prepared),
        MappedFolder(mapped),
        ReferenceFolder(reference),
        UnknownRule(unknown_by, certainty, threshold),
        MappedFolder(output),
    )


if __name__ == "__main__":
    compare_expression()
