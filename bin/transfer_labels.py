#!/usr/bin/env python
"""Transfer labels from a reference's cells to a mapped query."""

from pathlib import Path

import click
from refmap.common.cli import INPUT, OUTPUT, command
from refmap.common.folders import MappedFolder, ReferenceFolder
from refmap.transfer.transfer import transfer


@command("TRANSFER_LABELS")
@click.option("--plan", type=INPUT, required=True, help="The mapping's plan.")
@click.option("--mapped", type=INPUT, required=True, help="What the mapping gave: a folder.")
@click.option("--reference", type=INPUT, required=True, help="The reference's cells and the scale that they set: a folder.")
@click.option("--threshold", type=click.FloatRange(0, 1), required=True, help="The uncertainty above which a label is Unknown.")
@click.option("--probabilities", is_flag=True, help="Keep what each label weighs for each cell.")
@click.option("--output", type=OUTPUT, required=True, help="Write the same with labels to this folder.")
def transfer_labels(plan: Path, mapped: Path, reference: Path, threshold: float, probabilities: bool, output: Path) -> None:
    """Add the labels of the nearest reference cells, how uncertain they are, and how unlike the reference each cell is."""
    transfer(MappedFolder(mapped), ReferenceFolder(reference), threshold, probabilities, MappedFolder(output))


if __name__ == "__main__":
    transfer_labels()
