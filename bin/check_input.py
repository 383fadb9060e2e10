#!/usr/bin/env python
"""Check the parameters and the sheet of a run; write its mappings."""

import json
from pathlib import Path

import click
from refmap.common.cli import INPUT, OUTPUT, command, read_json, write_json
from refmap.common.errors import RefmapError
from refmap.families import trainer_of
from refmap.hierarchy import base_parameters
from refmap.sheet.fields import TRAIN_DEFAULTS
from refmap.sheet.parameters import check_parameters, defaults, load_schema
from refmap.sheet.sheet import bundled, read_sheet, trained_cells


def read_parameters(path: Path) -> dict:
    try:
        return read_json(path)
    except ValueError:
        raise RefmapError(f"{path}: is not JSON; give the run's parameters as one JSON object.") from None


@command("CHECK_INPUT")
@click.option("--sheet", type=INPUT, help="The queries: .csv, .tsv, .yaml or .yml; left out if only a reference is trained.")
@click.option("--parameters", required=True, type=INPUT, help="The run's parameters, as JSON.")
@click.option("--schema", required=True, type=INPUT, help="The pipeline's nextflow_schema.json.")
@click.option("--output", required=True, type=OUTPUT, help="Write the mappings here, one line of JSON each.")
@click.option(
    "--trainer", type=OUTPUT, help="Write to this JSON file which environment trains the reference, and where its cells are."
)
def main(sheet: Path | None, parameters: Path, schema: Path, output: Path, trainer: Path | None) -> None:
    """Check parameters and sheet, report every fault of both at once, and write one line of JSON a mapping."""
    contract = load_schema(schema)
    given = read_parameters(parameters)
    faults: list[str] = []
    unchosen = defaults(contract)
    settings = dict(unchosen)
    try:
        check_parameters(given, contract)
        settings |= given
    except RefmapError as error:
        faults += str(error).splitlines()
    settings["free_training"] = all(settings[name] == unchosen[name] for name in TRAIN_DEFAULTS)
    rows: list[dict] = []
    if sheet:
        trained = bool(given.get("reference") or given.get("demo"))
        try:
            rows = bundled(read_sheet(sheet, settings, trained), settings["mappings_per_task"])
        except RefmapError as error:
            faults += str(error).splitlines()
    if faults:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise RefmapError("\n".join([f"{count} in the input (a sheet's rows are told by line; its header is row 1):", *faults]))
    if trainer:
        write_json(trainer, {"env": trainer_of(base_parameters(settings)["family"]).env, "cells": trained_cells(settings)})
    # ASCII only, so that a line can stand in a script whatever the locale.
    output.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
