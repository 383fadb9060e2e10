#!/usr/bin/env python
"""Embed the cells of a reference by its model."""

from pathlib import Path

import click
import numpy as np
from refmap.common.cli import INPUT, OUTPUT, command, hush_libraries, read_json
from refmap.common.storage import read_zarr
from refmap.reference.training import embed_reference as embed


@command("EMBED_REFERENCE")
@click.option("--aligned", type=INPUT, required=True, help="The aligned cells: AnnData zarr.")
@click.option("--model", type=INPUT, required=True, help="The model's folder or file.")
@click.option("--card", type=INPUT, required=True, help="The model's card.")
@click.option("--seed", type=int, default=0, help="Of the random numbers.")
@click.option("--output", type=OUTPUT, required=True, help="Write the latent, cells x dimensions, to this .npz.")
def embed_reference(aligned: Path, model: Path, card: Path, seed: int, output: Path) -> None:
    """Write the latent of cells whose batches the model knows; nothing is trained."""
    hush_libraries()
    described = read_json(card)
    cells = read_zarr(aligned, described["most_in_memory"])
    with open(output, "wb") as stream:
        np.savez(stream, **embed(cells, model, described, seed))


if __name__ == "__main__":
    embed_reference()
