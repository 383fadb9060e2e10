#!/usr/bin/env python
"""Write a query with its embedding."""

import sys
from pathlib import Path

import click
from refmap.common.cli import INPUT, OUTPUT, command, read_json
from refmap.common.folders import MappedFolder
from refmap.common.h5ad import zarr_to_h5ad
from refmap.mapping.export import export, open_once
from refmap.query.matrix import return_freed_memory
from refmap.query.obs_table import add_obs_table
from refmap.query.query import Query


@command("EXPORT_EMBEDDING")
@click.option("--plan", type=INPUT, required=True, help="The mapping's plan.")
@click.option("--query", type=INPUT, required=True, help="The query, of any format that is read.")
@click.option("--mapped", type=INPUT, required=True, help="What the mapping gave: a folder.")
@click.option("--obs-table", type=INPUT, help="Columns of the query's cells: CSV, TSV or Parquet.")
@click.option("--output", type=OUTPUT, required=True, help="Write the query with its embedding to this zarr.")
@click.option("--h5ad", type=OUTPUT, help="Write the same to this .h5ad, too.")
def export_embedding(plan: Path, query: Path, mapped: Path, obs_table: Path | None, output: Path, h5ad: Path | None) -> None:
    """Copy the query as it is and add obsm['X_emb'], the predictions and uns['refmap']."""
    return_freed_memory()
    row = read_json(plan)["row"]
    with Query(query, row["query"], row["modality"]) as opened:
        add_obs_table(opened, row, obs_table)
        for sentence in export(opened, row, MappedFolder(mapped).embedding, output):
            print(sentence, file=sys.stderr)
    if h5ad:
        zarr_to_h5ad(output, h5ad)
        open_once(h5ad)


if __name__ == "__main__":
    export_embedding()
