#!/usr/bin/env python
"""How far the labels of real mappings can be trusted, and whether types that a reference lacks are found: the tables of docs/trust.md.

    (. containers/activate core && python bench/trust.py FOLDER [--pairs pairs.yml] [--only NAME …] [--kept FOLDER])
    (. containers/activate core && python bench/trust.py FOLDER --latent components --pairs bench/groups.yml)

Of each pair of a reference and a query that a YAML describes (bench/trust.yml; its files lie below FOLDER) the query is mapped onto
a reference with all of its types, and onto one without each of those named in `leave_out`, all by the pipeline itself. The query's
own labels are only compared with. What was mapped is in `--kept`, where there is one, and not mapped again. With `--latent
components` no model is trained: principal components take its place, and of the pipeline there are the looks at expression alone.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from itertools import zip_longest
from pathlib import Path

import anndata as ad
import click
from lib.pairs import BATCH, LABEL, TRUTH, Pair, read_pairs
from lib.pipeline import launch, qc_folder
from lib.trust_tables import Run, tables

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bin"))
# What the tables are made of; once the last is there, all are.
FILES = ("cells.parquet", "groups.csv", "mapping.json")


def runs_of(pairs: list[Pair]) -> list[tuple[Pair, str | None, int]]:
    """All runs: those with nothing left out first, then of each pair the first type, and so on; seed by seed."""
    turns = list(zip_longest(*([None, *pair.leave_out] for pair in pairs), fillvalue=""))
    most = max(pair.seeds for pair in pairs)
    return [
        (pair, left_out, seed)
        for seed in range(most)
        for turn in turns
        for pair, left_out in zip(pairs, turn)
        if left_out != "" and seed < pair.seeds
    ]


def map_pair(reference: ad.AnnData, query: ad.AnnData, pair: Pair, seed: int, cpus: int, kept: Path) -> None:
    """Map a query onto a reference by the pipeline; put the results into a folder."""
    columns = {"batch_key": BATCH, "truth_key": TRUTH}
    keys = {"reference_batch_key": BATCH, "reference_labels_key": LABEL}
    epochs = {"reference_max_epochs": pair.reference_epochs} | ({"max_epochs": pair.epochs} if pair.epochs else {})
    with tempfile.TemporaryDirectory() as folder:
        options = {"family": "scanvi", "joint": "false", "seed": seed, "max_cpus": cpus}
        out = qc_folder(launch(Path(folder), reference, {"query": query}, columns, **keys, **epochs, **options), "query")
        kept.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            shutil.copy(out / name, kept / name)


@click.command(help=__doc__)
@click.argument("folder", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--pairs", "path", default=ROOT / "bench/trust.yml", type=click.Path(exists=True, path_type=Path), help="The YAML.")
@click.option("--only", multiple=True, help="A pair of it; may be given again. None: all.")
@click.option("--kept", type=click.Path(path_type=Path), help="Where results are kept, and taken from if they are there.")
@click.option(
    "--latent",
    type=click.Choice(["model", "components"]),
    default="model",
    show_default=True,
    help="A model by the pipeline, or principal components in this process: many types in minutes.",
)
@click.option("--cpus", default=2, show_default=True, help="Of a task; 1 is fastest where others use the machine.")
@click.option("--tables-only", is_flag=True, help="Make the tables of what is kept, and map nothing.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the tables to this file too.")
def main(
    folder: Path | None,
    path: Path,
    only: tuple[str, ...],
    kept: Path | None,
    latent: str,
    cpus: int,
    tables_only: bool,
    output: Path | None,
) -> None:
    if folder is None:
        print("trust.py: skipped, as it needs a folder with the data of its pairs")
        return
    with tempfile.TemporaryDirectory() as name:
        found = []
        for pair, left_out, seed in runs_of(read_pairs(path, only)):
            here = (kept or Path(name)) / pair.name / f"without {left_out}" / str(seed)
            if not (here / FILES[-1]).exists():
                if tables_only:
                    continue
                print(f"{pair.name}, without {left_out}, seed {seed}", flush=True)
                reference, query = pair.cells(folder)
                if left_out is not None:
                    reference = reference[reference.obs[LABEL] != left_out].copy()
                if latent == "model":
                    map_pair(reference, query, pair, seed, cpus, here)
                else:
                    from lib.components import look

                    look(reference, query, seed, here)
            found.append(Run.read(here, pair.name, left_out, seed))
    text = tables(found)
    print(text)
    if output:
        output.write_text(text)


if __name__ == "__main__":
    main()
