"""Embeddings that cells bring along, made by a model that refmap does not run: the reference's cells stand for it."""

from __future__ import annotations

from ..models.folder import ModelFolder
from .base import Family

NAME = "embedding"


class EmbeddingFamily(Family):
    """There is no model, so no folder is of this family; :func:`refmap.reference.brought.describe_embedding` makes its cards.

    Nothing is trained nor embedded either: what surgery gives elsewhere, :func:`refmap.mapping.brought.pass_on` does here.
    """

    name = NAME
    env = "core"
    trains = {}

    def recognise(self, folder: ModelFolder) -> bool:
        return False
