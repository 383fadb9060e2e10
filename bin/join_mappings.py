#!/usr/bin/env python
"""Put a reference's cells and the queries that were mapped onto it into one file."""

from pathlib import Path

import click
from refmap.common.cli import INPUT, OUTPUT, command, read_json
from refmap.common.folders import MappedFolder, ReferenceFolder
from refmap.joint.joining import MappedQuery, join
from refmap.query.matrix import return_freed_memory


@command("JOIN_MAPPINGS")
@click.option("--name", required=True, help="What the files are called.")
@click.option("--model", required=True, type=INPUT, help="A text file: the model, as the sheet has it.")
@click.option("--mapped", required=True, type=INPUT, help="Folder of what the mappings gave, each in a folder of its own.")
@click.option("--qc", required=True, type=INPUT, help="Folder of their QC folders, named by their ids.")
@click.option("--reference", type=INPUT, help="The reference's cells and the scale that they set: a folder.")
@click.option("--umap/--no-umap", default=False, help="Compute a UMAP of all cells anew.")
@click.option("--seed", type=int, required=True, help="The seed of all random numbers.")
@click.option("--output", required=True, type=OUTPUT, help="Folder to make.")
def main(name: str, model: Path, mapped: Path, qc: Path, reference: Path | None, umap: bool, seed: int, output: Path) -> None:
    """Write the latent, the labels and the trust of all cells in one latent space, and a page to look around in them."""
    return_freed_memory()
    gave = {read_json(folder.record)["id"]: folder for folder in map(MappedFolder, mapped.glob("*/*"))}
    queries = [MappedQuery(gave[folder.name], folder) for folder in sorted(qc.iterdir())]
    join(name, model.read_text().strip(), ReferenceFolder(reference) if reference else None, queries, umap, seed, output)


if __name__ == "__main__":
    main()
