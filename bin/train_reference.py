#!/usr/bin/env python
"""Train a reference that queries can be mapped onto."""

from pathlib import Path

import click
from refmap.common.cli import INPUT, OUTPUT, command, read_json
from refmap.reference.training import train_reference as train


@command("TRAIN_REFERENCE")
@click.option("--aligned", type=INPUT, required=True, help="The aligned atlas: AnnData zarr.")
@click.option("--settings", type=INPUT, required=True, help="The settings of the training: JSON.")
@click.option("--gmt", type=INPUT, help="Gene programmes, for a family of them: GMT.")
@click.option("--model", type=OUTPUT, required=True, help="Write the model to this folder.")
@click.option("--embedding", type=OUTPUT, help="Write the latent of the atlas's own cells to this AnnData zarr.")
def train_reference(aligned: Path, settings: Path, gmt: Path | None, model: Path, embedding: Path | None) -> None:
    """Train a surgery-ready reference on an aligned atlas."""
    train(read_json(settings) | {"gmt": gmt}, aligned, model, embedding)


if __name__ == "__main__":
    train_reference()
