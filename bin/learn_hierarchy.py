#!/usr/bin/env python
"""Learn a hierarchy of cell types on the latent of a trained reference."""

from pathlib import Path

import click
from refmap.common.cli import INPUT, OUTPUT, command, read_json
from refmap.hierarchy.learn import learn_hierarchy as learn


@command("LEARN_HIERARCHY")
@click.option("--model", type=INPUT, required=True, help="The folder of the trained reference.")
@click.option("--embedding", type=INPUT, required=True, help="The reference's cells, embedded, with their labels: AnnData zarr.")
@click.option("--settings", type=INPUT, required=True, help="The pipeline's parameters reference_*: JSON.")
@click.option("--output", type=OUTPUT, required=True, help="Write the reference with its hierarchy to this folder.")
def learn_hierarchy(model: Path, embedding: Path, settings: Path, output: Path) -> None:
    """Learn a hierarchy from the reference's labels, and add it to the reference."""
    learn(model, embedding, read_json(settings), output)


if __name__ == "__main__":
    learn_hierarchy()
