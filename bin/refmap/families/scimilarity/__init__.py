"""SCimilarity, an encoder for human cells that was trained to tell cell types apart over many studies; it is used as it is.

Heimberg et al. 2025, https://doi.org/10.1038/s41586-024-08411-y.
"""

from __future__ import annotations

from ...models.card import ModelCard
from ...models.folder import ModelFolder
from ..base import Family, Surgery
from .card import is_scimilarity, scimilarity_card


class ScimilarityFamily(Family):
    name = "scimilarity"
    env = "scvi"
    library = "torch"
    trains = {}

    def recognise(self, folder: ModelFolder) -> bool:
        return is_scimilarity(folder)

    def card(self, folder: ModelFolder) -> ModelCard:
        return scimilarity_card(folder)

    def surgery(self) -> type[Surgery]:
        from .surgery import ScimilaritySurgery

        return ScimilaritySurgery
