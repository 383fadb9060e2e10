#!/usr/bin/env python
"""Write a query with its embedding."""

import sys
from pathlib import Path

import click
from refmap.common.cli import INPUT, OUTPUT, command, read_json
from refmap.mapping.export import export
from refmap.query.matrix import return_freed_memory
from refmap.query.query import Query


@command("EXPORT_EMBEDDING")
@click.option("--plan", type=INPUT, required=True, help="The mapping's plan.")
@click.option("--query", type=INPUT, required=True, help="The query, of any format that is read.")
@click.option("--embedding", type=INPUT, required=True, help="The embedding and predictions of its cells (zarr).")
@click.option("--output", type=OUTPUT, required=True, help="Write the query with its embedding to this zarr.")
def export_embedding(plan: Path, query: Path, embedding: Path, output: Path) -> None:
    """Copy the query as it is and add obsm['X_emb'], the predictions and uns['refmap']."""
    return_freed_memory()
    row = read_json(plan)["row"]
    with Query(query, row["query"], row["modality"]) as opened:
        for sentence in export(opened, row, embedding, output):
            print(sentence, file=sys.stderr)


if __name__ == "__main__":
    export_embedding()
