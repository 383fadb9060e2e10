#!/usr/bin/env python
"""Bring an atlas into the form that a reference is trained on."""

from pathlib import Path

import click
from refmap.common.cli import INPUT, OUTPUT, command, read_json, write_json
from refmap.query.matrix import return_freed_memory
from refmap.reference.atlas import align_reference as align


@command("ALIGN_REFERENCE")
@click.option("--atlas", type=INPUT, required=True, help="The atlas with counts: .h5ad, .zarr or .h5mu.")
@click.option(
    "--parameters", type=INPUT, required=True, help="The pipeline's parameters reference, reference_*, family, seed: JSON."
)
@click.option("--airr", type=INPUT, help="The receptors of the atlas's cells: an AIRR or a 10x contig table.")
@click.option("--gmt", type=INPUT, help="Gene programmes, among whose genes those of a family of them are chosen: GMT.")
@click.option("--genes", type=INPUT, help="The genes to train on, one id a line; by default those that vary most.")
@click.option("--output", type=OUTPUT, required=True, help="Write the aligned atlas to this zarr.")
@click.option("--settings", type=OUTPUT, required=True, help="Write the settings of the training to this JSON file.")
def align_reference(
    atlas: Path, parameters: Path, airr: Path | None, gmt: Path | None, genes: Path | None, output: Path, settings: Path
) -> None:
    """Check an atlas, choose its genes, and write what a reference is trained on."""
    return_freed_memory()
    write_json(settings, align(atlas, read_json(parameters), output, airr, gmt, genes))


if __name__ == "__main__":
    align_reference()
