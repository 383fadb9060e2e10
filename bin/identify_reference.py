#!/usr/bin/env python
"""Tell a reference from others by its contents."""

from pathlib import Path

import click
from refmap.common.cli import INPUT, OUTPUT, command, read_json
from refmap.reference.identity import reference_key


@command("IDENTIFY_REFERENCE")
@click.option("--request", type=INPUT, required=True, help="What the sheet says of the reference's cells: JSON.")
@click.option("--cells", type=click.Path(path_type=Path), help="The cells. Not given if they do not exist.")
@click.option("--model", type=click.Path(path_type=Path), help="The model's folder, which may hold its cells.")
@click.option("--card", type=INPUT, required=True, help="The model's card.")
@click.option("--airr", type=INPUT, help="The receptors of the cells.")
@click.option("--settings", type=INPUT, required=True, help="The settings that its cells are embedded and measured with: JSON.")
@click.option("--code", required=True, help="The version of the code.")
@click.option("--output", type=OUTPUT, required=True, help="Write the key to this file.")
def identify_reference(
    request: Path, cells: Path | None, model: Path | None, card: Path, airr: Path | None, settings: Path, code: str, output: Path
) -> None:
    """Write a key that two references share if all that their cells say is the same."""
    output.write_text(reference_key(read_json(request), cells, airr, model, read_json(card), read_json(settings), code) + "\n")


if __name__ == "__main__":
    identify_reference()
