#!/usr/bin/env python
"""Map aligned queries onto their reference by architecture surgery."""

import functools
import importlib
import sys
from pathlib import Path

import click
from refmap.common.cli import INPUT, OUTPUT, STYLE, attempt, read_json, set_apart
from refmap.common.folders import MappedFolder, PreparedFolder
from refmap.families import by_name
from refmap.mapping.mapping import map_query


@click.command(**STYLE)
@click.option("--queries", type=INPUT, required=True, help="The queries, each ready for the model in a folder of its name.")
@click.option(
    "--training", type=INPUT, required=True, help="How to train: JSON with train, seed, freeze_dropout and strategy by name."
)
@click.option("--model", type=INPUT, required=True, help="The reference: the model's folder or file.")
@click.option("--card", type=INPUT, required=True, help="The model's card.")
@click.option("--output", type=OUTPUT, required=True, help="Write what each mapping gives to a folder of its name in this one.")
@click.option("--models", type=OUTPUT, required=True, help="Write each updated model to a folder of its name in this one.")
@click.option("--faults", type=INPUT, required=True, help="Write what is wrong with a query to <name>.fault.json here.")
def train_surgery(queries: Path, training: Path, model: Path, card: Path, output: Path, models: Path, faults: Path) -> None:
    """Grow the reference by each query's new batches, train these and nothing else, and embed the query.

    Each of several queries is mapped in a process of its own, which has the libraries that this one imported: one that is
    killed hurts no other, and leaves neither a result nor a fault. The exit status is 0 then.
    """
    known, settings = read_json(card), read_json(training)
    folders = sorted(queries.iterdir())
    importlib.import_module(by_name(known["family"]).library)
    for folder in (output, models):
        folder.mkdir(exist_ok=True)

    def map_one(folder: Path) -> None:
        prepared, name = PreparedFolder(folder), folder.name
        row = read_json(prepared.plan)["row"]
        outputs = {"mapped": output / name, "updated": models / name}
        work = functools.partial(_map, prepared, settings[name], known, model)
        attempt("TRAIN_SURGERY", outputs, faults / f"{name}.fault.json", row, work)

    for folder in folders:
        if len(folders) == 1:
            map_one(folder)
        else:
            print(f"== {folder.name}", flush=True)
            if status := set_apart(functools.partial(map_one, folder)):
                print(f"{folder.name} ended with status {status}, without a result", file=sys.stderr)


def _map(prepared: PreparedFolder, training: dict, card: dict, model: Path, mapped: Path, updated: Path) -> None:
    map_query(prepared, training, card, model, MappedFolder(mapped), updated)


if __name__ == "__main__":
    train_surgery()
