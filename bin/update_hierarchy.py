#!/usr/bin/env python
"""Place a mapped query's cells and labels in the hierarchy of its reference."""

import click
from refmap.cli import INPUT, OUTPUT, command, read_json
from refmap.hierarchy.update import update_hierarchy as update


@command("UPDATE_HIERARCHY")
@click.option("--plan", type=INPUT, required=True, help="The mapping's plan.")
@click.option("--card", type=INPUT, required=True, help="The card of the model that was mapped onto.")
@click.option("--model", type=INPUT, required=True, help="The folder of that model, with its hierarchy.")
@click.option("--aligned", type=INPUT, required=True, help="The aligned query: AnnData zarr.")
@click.option("--embedding", type=INPUT, required=True, help="The query's embedding: AnnData zarr.")
@click.option("--mapping", type=INPUT, required=True, help="The record of the mapping: JSON.")
@click.option("--results", type=INPUT, required=True, help="What the mapping found beside the cells: a folder.")
@click.option("--updated-model", type=INPUT, required=True, help="The folder of the updated model.")
@click.option(
    "--output-embedding", type=OUTPUT, required=True, help="Write the embedding with the predictions to this AnnData zarr."
)
@click.option(
    "--output-mapping", type=OUTPUT, required=True, help="Write the record with what the hierarchy says to this JSON file."
)
@click.option(
    "--output-results", type=OUTPUT, required=True, help="Write the results with the tree and the matches to this folder."
)
@click.option("--output-model", type=OUTPUT, required=True, help="Write the updated model with its hierarchy to this folder.")
def update_hierarchy(plan, card, model, aligned, embedding, mapping, results, updated_model, **output) -> None:
    """Predict the query's cells by the hierarchy, and add the query's labels to it."""
    mapped = {"aligned": aligned, "embedding": embedding, "record": mapping, "results": results, "model": updated_model}
    out = {
        "embedding": output["output_embedding"],
        "record": output["output_mapping"],
        "results": output["output_results"],
        "model": output["output_model"],
    }
    update(read_json(plan), read_json(card), model, mapped, out)


if __name__ == "__main__":
    update_hierarchy()
