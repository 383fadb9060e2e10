#!/usr/bin/env python
"""Measure a reference's own cells."""

from pathlib import Path

import click
from refmap.common.cli import INPUT, OUTPUT, command
from refmap.common.folders import ReferenceFolder
from refmap.identity.measuring import measure_reference
from refmap.query.matrix import return_freed_memory
from refmap.reference.sample import write_sample
from refmap.transfer.calibrate import calibrate_reference as calibrate
from refmap.transfer.neighbors import NEIGHBORS


@command("CALIBRATE_REFERENCE")
@click.option("--prepared", type=INPUT, required=True, help="The reference's cells: a folder.")
@click.option("--latent", type=INPUT, help="Their latent (.npz), where the folder does not hold it.")
@click.option("--seed", type=int, default=0, help="Of the random numbers.")
@click.option("--neighbors", type=click.IntRange(min=1), default=NEIGHBORS, help="How many reference cells a label comes from.")
@click.option("--threshold", type=click.FloatRange(0, 1), required=True, help="The uncertainty above which a label is Unknown.")
@click.option("--output", type=OUTPUT, required=True, help="Write the cells and the scale that they set to this folder.")
def calibrate_reference(prepared: Path, latent: Path | None, seed: int, neighbors: int, threshold: float, output: Path) -> None:
    """Hold the reference's own cells out, batch by batch: how far they lie, and how often their labels are right.

    And keep a sample of them with their counts, and what the expression of held-out ones says.
    """
    return_freed_memory()
    cells, scale = ReferenceFolder(prepared), ReferenceFolder(output)
    calibrate(cells, latent, seed, threshold, neighbors, scale)
    write_sample(cells, latent, scale, seed)
    measure_reference(scale, seed)


if __name__ == "__main__":
    calibrate_reference()
