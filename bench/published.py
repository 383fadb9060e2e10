#!/usr/bin/env python
"""A table of all models below a folder: what each is and knows, and whether it can be mapped onto, or why not.

    bench/published.py models/

Every model is inspected, and then tried as a run tries it (`try_model.py`), in the environment of its family. Run with any
environment; nothing is written to the folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]
# What a file of a model ends with, whatever saved it.
ENDS = (".pt", ".pth", ".pkl", ".pickle", ".zip", ".tar.gz", ".tgz")
COLUMNS = ("model", "class", "version", "genes", "batches", "labels", "more", "maps")


def models_below(folder: Path) -> list[Path]:
    """The folders that hold a model's files, and none that lies in another of them; an archive is a model by itself."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name.endswith(ENDS)]
    places = dict.fromkeys(path if path.name.endswith((".zip", ".gz", ".tgz")) else path.parent for path in files)
    return [place for place in places if not any(other in place.parents for other in places)]


def run(env: str, script: str, *arguments: str | Path) -> str:
    """Run a command of `bin/` in an environment; return what it printed if it failed."""
    words = 'env=$1; shift; . "$ROOT/containers/activate" "$env" && exec "$@"'
    command = ["bash", "-c", words, "bash", env, "python", ROOT / "bin" / script, *arguments]
    done = subprocess.run(command, env=os.environ | {"ROOT": str(ROOT)}, capture_output=True, text=True)
    return done.stderr if done.returncode else ""


def describe(model: Path, shown: str) -> tuple[dict, str]:
    """The card of a model, and what became of its trial: nothing if it maps."""
    with tempfile.TemporaryDirectory() as folder:
        card, tried = Path(folder) / "card.json", Path(folder) / "tried.json"
        if printed := run("core", "inspect_model.py", "--model", model, "--shown-as", shown, "--card", card):
            return {}, printed.strip().splitlines()[-1]
        found = json.loads(card.read_text())
        if found["fault"]:
            return found, found["fault"]
        if printed := run(found["env"], "try_model.py", "--model", model, "--card", card, "--output", tried):
            return found, printed.strip().splitlines()[-1]
        return found, json.loads(tried.read_text())["fault"] or ""


def row(shown: str, card: dict, fault: str) -> list[str]:
    def number(values: list | dict) -> str:
        return f"{len(values):,}" if values else ""

    labels = next(iter(card.get("labels", {}).values()), [])
    more = [
        f"{number(card[what])} {word}"
        for what, word in (("proteins", "proteins"), ("categorical_covariates", "covariates"))
        if card.get(what)
    ]
    if card.get("class_name") and not fault and not card["surgery_ready"]:
        more.append("surgery cannot move a query")
    known = [
        card.get("class_name") or "",
        card.get("version") or "",
        number(card.get("genes", [])),
        number(card.get("batches", [])),
    ]
    return [shown, *known, number(labels), ", ".join(more), f"no: {fault}" if fault else "yes"]


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path), required=False)
def main(folder: Path | None) -> None:
    if folder is None:
        sys.exit(print("bench/published.py: no folder of models was named, and none was looked at."))
    print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}")
    for model in models_below(folder):
        shown = str(model.relative_to(folder))
        cells = row(shown, *describe(model, shown))
        print("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |", flush=True)


if __name__ == "__main__":
    main()
