"""The card of an embedding that cells bring along: what the reference's cells tell of it, in place of a model."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..common.errors import RefmapError, brief
from ..families.embedding import EmbeddingFamily
from ..models.card import ModelCard
from ..query.counts import looks_like_counts
from ..query.elements import as_text
from ..query.embedded import read_embedding
from ..query.query import Query, layer_name


def describe_embedding(path: Path | None, shown_as: str, request: dict, origin: dict | None = None) -> ModelCard:
    """Describe an embedding by the cells of its reference.

    Parameters
    ----------
    path
        The cells; None if they do not exist.
    shown_as
        What the embedding is called.
    request
        What the row says of the cells: see :func:`refmap.reference.cells.prepare_reference`.
    origin
        Where cells by an address come from; its ``fault`` why they were not fetched.

    Returns
    -------
    Its card, whose genes are those that the cells have counts of, none if there are no counts, and whose checksum is that of the
    embedding. What is wrong with the cells stands in its `fault`; nothing is raised.
    """
    card = ModelCard(model=shown_as, family=EmbeddingFamily.name, env=EmbeddingFamily.env, class_name=EmbeddingFamily.name)
    try:
        if fault := (origin or {}).get("fault"):
            raise RefmapError(fault)
        with Query(path, request["reference"], called="reference") as cells:
            embedding = read_embedding(cells, request["embedding"], "reference_embedding")
            card.n_latent, card.sha256 = embedding.shape[1], hashlib.sha256(embedding.tobytes()).hexdigest()
            _add_counts(card, cells, request)
            if key := request["batch_key"]:
                card.batch_key, card.batches = key, sorted(set(as_text(cells.obs_column(key))) - {""})
    except RefmapError as error:
        card.fault = brief(str(error), 3000)
    return card


def _add_counts(card: ModelCard, cells: Query, request: dict) -> None:
    """Of what is named, or of X, the layers and raw, the first that holds counts."""
    layers = [request["layer"]] if request["layer"] else cells.layers
    card.layer = next((layer for layer in layers if looks_like_counts(cells.matrix(layer))), None)
    if card.layer:
        card.genes = [gene for gene in dict.fromkeys(cells.gene_ids(card.layer, request["var_key"])) if gene]
    else:
        where = layer_name(request["layer"]) if request["layer"] else "X, layers and raw"
        card.warnings.append(
            f"reference '{cells.shown_as}' holds no counts in {where}: nothing is told by the expression of the cells, such as groups "
            "that the reference lacks, a second label by the genes, and how certain labels are."
        )
