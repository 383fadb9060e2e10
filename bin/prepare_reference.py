#!/usr/bin/env python
"""Find the cells of a reference."""

from pathlib import Path

import click
from refmap.common.cli import INPUT, OUTPUT, command, read_json
from refmap.common.folders import ReferenceFolder
from refmap.query.matrix import return_freed_memory
from refmap.reference.cells import prepare_reference as prepare


@command("PREPARE_REFERENCE")
@click.option("--request", type=INPUT, required=True, help="What the sheet says of the reference's cells: JSON.")
@click.option(
    "--cells", type=click.Path(path_type=Path), help="The cells: .h5ad, .zarr or .h5mu. Not given if they do not exist."
)
@click.option("--model", type=click.Path(path_type=Path), help="The model's folder, which may hold its cells.")
@click.option("--card", type=INPUT, required=True, help="The model's card.")
@click.option("--airr", type=INPUT, help="The receptors of the cells: an AIRR or a 10x contig table.")
@click.option("--output", type=OUTPUT, required=True, help="Write the cells, and what is found out about them, to this folder.")
def prepare_reference(request: Path, cells: Path | None, model: Path | None, card: Path, airr: Path | None, output: Path) -> None:
    """Find the cells of a reference, align them to the model unless they are embedded already, and take their labels along.

    Cells that cannot be used are no failure of this command: the record's 'fault' says why, and the mappings that name them fail.
    """
    return_freed_memory()
    prepare(read_json(request), cells, model, read_json(card), ReferenceFolder(output), airr)


if __name__ == "__main__":
    prepare_reference()
