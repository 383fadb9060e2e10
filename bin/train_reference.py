#!/usr/bin/env python
"""Train a reference that queries can be mapped onto."""

import tempfile
from pathlib import Path

import click
from refmap.cli import INPUT, OUTPUT, command, read_json
from refmap.reference import align_reference
from refmap.surgery import train_reference as train


@command("TRAIN_REFERENCE")
@click.option("--atlas", type=INPUT, required=True, help="The atlas with counts: .h5ad, .zarr or .h5mu.")
@click.option(
    "--settings", type=INPUT, required=True, help="The pipeline's parameters reference, reference_*, family, seed: JSON."
)
@click.option("--gmt", type=INPUT, help="The gene programmes that reference_gmt names: GMT.")
@click.option("--model", type=OUTPUT, required=True, help="Write the model to this folder.")
def train_reference(atlas: Path, settings: Path, gmt: Path | None, model: Path) -> None:
    """Train a surgery-ready reference on the counts of an atlas."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        aligned = Path(folder) / "aligned.zarr"
        train(align_reference(atlas, read_json(settings), aligned, gmt), aligned, model)


if __name__ == "__main__":
    train_reference()
