#!/usr/bin/env python
"""Try whether a reference model can be mapped onto, with a few made-up cells."""

import sys
from pathlib import Path

import click
from refmap.common.cli import INPUT, OUTPUT, command, read_json, write_json
from refmap.mapping.trial import try_model as attempt


@command("TRY_MODEL")
@click.option("--model", type=INPUT, required=True, help="The model's folder or file.")
@click.option("--card", type=INPUT, required=True, help="The model's card.")
@click.option("--seed", type=int, default=0, help="Of the random numbers.")
@click.option(
    "--output", type=OUTPUT, required=True, help="JSON to write: the card; its 'fault' says why it cannot be mapped onto."
)
def try_model(model: Path, card: Path, seed: int, output: Path) -> None:
    """Load a model, grow it, train it for a step, embed, predict, save it, and load what was saved."""
    tried = attempt(model, read_json(card), seed)
    write_json(output, tried)
    if tried["fault"]:
        print(tried["fault"], file=sys.stderr)


if __name__ == "__main__":
    try_model()
