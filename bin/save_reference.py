#!/usr/bin/env python
"""Put what the cells of a trained reference say beside its model."""

from pathlib import Path

import click
from refmap.common.cli import INPUT, OUTPUT, command, read_json
from refmap.common.folders import ReferenceFolder
from refmap.query.matrix import return_freed_memory
from refmap.reference.products import save_products


@command("SAVE_REFERENCE")
@click.option("--model", type=INPUT, required=True, help="The model's folder.")
@click.option("--card", type=INPUT, required=True, help="The model's card.")
@click.option("--prepared", type=INPUT, required=True, help="The reference's aligned cells: a folder.")
@click.option("--latent", type=INPUT, help="Their latent (.npz), where the folder does not hold it.")
@click.option("--reference", type=INPUT, required=True, help="The reference's cells and the scale that they set: a folder.")
@click.option("--output", type=OUTPUT, required=True, help="Write the model with what its cells say to this folder.")
def save_reference(model: Path, card: Path, prepared: Path, latent: Path | None, reference: Path, output: Path) -> None:
    """Write a model again with the embedded cells of its reference, their scale, a sample of their counts and profiles of labels."""
    return_freed_memory()
    save_products(model, read_json(card), ReferenceFolder(prepared), latent, ReferenceFolder(reference), output)


if __name__ == "__main__":
    save_reference()
