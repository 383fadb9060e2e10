#!/usr/bin/env python
"""Map an aligned query onto its reference by architecture surgery."""

import click
from refmap.cli import INPUT, OUTPUT, command, read_json
from refmap.surgery import map_query


@command("TRAIN_SURGERY")
@click.option("--plan", type=INPUT, required=True, help="The mapping's plan.")
@click.option("--training", type=INPUT, required=True, help="How to train: JSON with train, seed and freeze_dropout.")
@click.option("--aligned", type=INPUT, required=True, help="The aligned query: AnnData zarr.")
@click.option("--alignment", type=INPUT, required=True, help="What was matched, padded and dropped: JSON.")
@click.option("--model", type=INPUT, required=True, help="The reference: the model's folder or file.")
@click.option("--card", type=INPUT, required=True, help="The model's card.")
@click.option("--gmt", type=INPUT, help="Gene programmes to learn: GMT.")
@click.option("--updated-model", type=OUTPUT, required=True, help="Write the updated model to this folder.")
@click.option("--embedding", type=OUTPUT, required=True, help="Write embedding and predictions to this AnnData zarr.")
@click.option("--history", type=OUTPUT, required=True, help="Write the training history to this CSV file.")
@click.option("--mapping", type=OUTPUT, required=True, help="Write the record of the mapping to this JSON file.")
@click.option("--results", type=OUTPUT, required=True, help="Write what else the family finds, as tables, to this folder.")
def train_surgery(
    plan, training, aligned, alignment, model, card, gmt, updated_model, embedding, history, mapping, results
) -> None:
    """Grow the reference by the query's new batches, train these and nothing else, and embed the query."""
    out = {"model": updated_model, "embedding": embedding, "history": history, "record": mapping, "results": results}
    map_query(read_json(plan), read_json(training), read_json(card), read_json(alignment), model, aligned, out, gmt)


if __name__ == "__main__":
    train_surgery()
