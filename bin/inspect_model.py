#!/usr/bin/env python
"""Describe a reference model without loading it, or say why it cannot be used."""

import sys
from pathlib import Path

import click
from refmap.common.cli import INPUT, OUTPUT, read_json, write_json
from refmap.reference.brought import describe_embedding
from refmap.reference.inspection import inspect_model


@click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    help="Folder of the model, or its model.pt; or the cells whose embedding stands for one. Not given if there are none.",
)
@click.option("--shown-as", required=True, help="Path of the model as the user wrote it, for messages.")
@click.option("--embedding", type=INPUT, help="JSON: what the sheet says of the cells whose embedding stands for a model.")
@click.option("--trust-models", is_flag=True, help="Accept a model whose pickles run code that refmap does not know.")
@click.option("--origin", type=INPUT, help="JSON: where a model by an address comes from, or why it was not fetched.")
@click.option("--card", type=OUTPUT, required=True, help="JSON to write: the card; its 'fault' says what is wrong.")
def main(model: Path | None, shown_as: str, embedding: Path | None, trust_models: bool, origin: Path | None, card: Path) -> None:
    """Describe a reference model without loading it: its class, genes, batches, labels and checksum.

    A model that cannot be used is no failure of this command: the card's 'fault' says why, and the mappings that need it fail.
    """
    known, request = (read_json(path) if path else None for path in (origin, embedding))
    if request:
        described = describe_embedding(model, shown_as, request, known)
    else:
        described = inspect_model(model, shown_as, trust_models, known)
    write_json(card, described.to_json())
    for sentence in [*described.warnings, *([described.fault] if described.fault else [])]:
        print(sentence, file=sys.stderr)


if __name__ == "__main__":
    main()
