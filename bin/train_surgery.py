#!/usr/bin/env python
"""Map an aligned query onto its reference by architecture surgery."""

from pathlib import Path

import click
from refmap.common.cli import INPUT, JSON, OUTPUT, command, read_json
from refmap.common.folders import MappedFolder, PreparedFolder
from refmap.families import by_name
from refmap.mapping.mapping import map_query


def libraries(options: dict) -> list[str]:
    """What several mappings share."""
    card = read_json(options["card"])
    return by_name(card["family"]).libraries(card, options["training"])


@command("TRAIN_SURGERY", libraries)
@click.option("--plan", type=INPUT, required=True, help="The mapping's plan.")
@click.option("--prepared", type=INPUT, required=True, help="The query ready for its model: a folder.")
@click.option(
    "--training",
    type=JSON,
    required=True,
    help="How to train: JSON with train, seed, freeze_dropout and strategy, or a file of it.",
)
@click.option("--model", type=INPUT, required=True, help="The reference: the model's folder or file.")
@click.option("--card", type=INPUT, required=True, help="The model's card.")
@click.option("--output", type=OUTPUT, required=True, help="Write what the mapping gives to this folder.")
@click.option("--updated-model", type=OUTPUT, required=True, help="Write the updated model to this folder.")
def train_surgery(plan: Path, prepared: Path, training: dict, model: Path, card: Path, output: Path, updated_model: Path) -> None:
    """Grow the reference by the query's new batches, train these and nothing else, and embed the query."""
    map_query(PreparedFolder(prepared), training, read_json(card), model, MappedFolder(output), updated_model)


if __name__ == "__main__":
    train_surgery()
