#!/usr/bin/env python
"""Transfer labels from a reference's cells to a mapped query."""

from pathlib import Path
from tempfile import TemporaryDirectory

import click
from refmap.common.cli import INPUT, OUTPUT, command
from refmap.common.folders import MappedFolder, PreparedFolder, ReferenceFolder
from refmap.common.strategies import CORRECTIONS
from refmap.transfer.transfer import transfer
from refmap.trust.correction import correct_mapping


@command("TRANSFER_LABELS")
@click.option("--plan", type=INPUT, required=True, help="The mapping's plan.")
@click.option("--prepared", type=INPUT, required=True, help="The aligned query: a folder.")
@click.option("--mapped", type=INPUT, required=True, help="What the mapping gave: a folder.")
@click.option("--reference", type=INPUT, required=True, help="The reference's cells and the scale that they set: a folder.")
@click.option(
    "--correction", type=click.Choice(CORRECTIONS), required=True, help="Whether a query that surgery cannot move is moved first."
)
@click.option("--threshold", type=click.FloatRange(0, 1), required=True, help="The uncertainty above which a label is Unknown.")
@click.option("--probabilities", is_flag=True, help="Keep what each label weighs for each cell.")
@click.option("--output", type=OUTPUT, required=True, help="Write the same with labels to this folder.")
def transfer_labels(
    plan: Path,
    prepared: Path,
    mapped: Path,
    reference: Path,
    correction: str,
    threshold: float,
    probabilities: bool,
    output: Path,
) -> None:
    """Add the labels of the nearest reference cells, how uncertain they are, and how unlike the reference each cell is.

    Before that a query that surgery could not move is moved, where it lies apart from the reference.
    """
    cells = ReferenceFolder(reference)
    with TemporaryDirectory(dir=".") as scratch:
        corrected = MappedFolder(Path(scratch) / "corrected")
        placed = correct_mapping(MappedFolder(mapped), PreparedFolder(prepared), cells, correction, corrected)
        transfer(placed, cells, threshold, probabilities, MappedFolder(output))


if __name__ == "__main__":
    transfer_labels()
