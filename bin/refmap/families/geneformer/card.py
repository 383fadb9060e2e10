"""The card of a Geneformer, from its inert files."""

from __future__ import annotations

from ...common.errors import RefmapError
from ...models.card import ModelCard
from ...models.folder import ModelFolder
from ...models.safetensors import shapes
from ..frozen import no_surgery
from .files import CONFIG, WEIGHTS, read_config, read_vocabulary

ACTIVATIONS = ("relu", "gelu")


def is_geneformer(folder: ModelFolder) -> bool:
    return folder.has(CONFIG, WEIGHTS) and read_config(folder).get("model_type") == "bert"


def geneformer_card(folder: ModelFolder) -> ModelCard:
    """Raises `RefmapError` for a model that is incomplete, put together of several, or built as no Geneformer is."""
    config, vocabulary = read_config(folder), read_vocabulary(folder)
    if config.get("hidden_act") not in ACTIVATIONS or config.get("position_embedding_type", "absolute") != "absolute":
        raise RefmapError(
            f"{folder.show(CONFIG)} describes a BERT that is built as no Geneformer is, which refmap does not have."
        )
    if config["num_hidden_layers"] < 2:
        raise RefmapError(f"{folder.shown} has a single layer, and cells are embedded by the one before the last.")
    held = shapes(folder.path / WEIGHTS, folder.show(WEIGHTS))
    words = held.get("bert.embeddings.word_embeddings.weight") or held.get("embeddings.word_embeddings.weight")
    if words != (config["vocab_size"], config["hidden_size"]):
        raise RefmapError(
            f"{folder.show(WEIGHTS)} has other sizes than {CONFIG}: copy the model again, all files of one release."
        )
    greatest = max(vocabulary.tokens[-1], vocabulary.begin or 0, vocabulary.end or 0)
    if greatest >= config["vocab_size"]:
        raise RefmapError(
            f"{folder.shown} has {config['vocab_size']:,} tokens, but its dictionary goes up to {greatest:,}: give the dictionaries "
            "that the model was trained with."
        )
    return ModelCard(
        model=folder.shown,
        class_name="Geneformer",
        version=config.get("transformers_version"),
        genes=vocabulary.genes,
        n_latent=int(config["hidden_size"]),
        any_reference=True,
        warnings=[no_surgery("Geneformer")],
    )
