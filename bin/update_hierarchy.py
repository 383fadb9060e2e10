#!/usr/bin/env python
"""Place a mapped query's cells and labels in the hierarchy of its reference."""

from pathlib import Path

import click
from refmap.common.cli import INPUT, OUTPUT, command, read_json
from refmap.common.folders import MappedFolder, PreparedFolder
from refmap.hierarchy.update import update_hierarchy as update


@command("UPDATE_HIERARCHY")
@click.option("--plan", type=INPUT, required=True, help="The mapping's plan.")
@click.option("--prepared", type=INPUT, required=True, help="The query ready for its model: a folder.")
@click.option("--card", type=INPUT, required=True, help="The card of the model that was mapped onto.")
@click.option("--model", type=INPUT, required=True, help="The folder of that model, with its hierarchy.")
@click.option("--mapped", type=INPUT, required=True, help="What the mapping gave: a folder.")
@click.option("--updated-model", type=INPUT, required=True, help="The folder of the updated model.")
@click.option("--output", type=OUTPUT, required=True, help="Write the same with what the hierarchy says to this folder.")
@click.option("--output-model", type=OUTPUT, required=True, help="Write the updated model with its hierarchy to this folder.")
def update_hierarchy(
    plan: Path, prepared: Path, card: Path, model: Path, mapped: Path, updated_model: Path, output: Path, output_model: Path
) -> None:
    """Predict the query's cells by the hierarchy, and add the query's labels to it."""
    update(
        read_json(plan),
        read_json(card),
        model,
        PreparedFolder(prepared).aligned,
        MappedFolder(mapped),
        updated_model,
        MappedFolder(output),
        output_model,
    )


if __name__ == "__main__":
    update_hierarchy()
