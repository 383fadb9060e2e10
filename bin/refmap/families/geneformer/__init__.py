"""Geneformer, a transformer that reads a cell as its genes in the order of how much they stand out; it is used as it is.

Theodoris et al. 2023, https://doi.org/10.1038/s41586-023-06139-9.
"""

from __future__ import annotations

from ...models.card import ModelCard
from ...models.folder import ModelFolder
from ..base import Family, Surgery
from .card import geneformer_card, is_geneformer


class GeneformerFamily(Family):
    name = "geneformer"
    env = "scvi"
    library = "torch"
    trains = {}

    def recognise(self, folder: ModelFolder) -> bool:
        return is_geneformer(folder)

    def card(self, folder: ModelFolder) -> ModelCard:
        return geneformer_card(folder)

    def surgery(self) -> type[Surgery]:
        from .surgery import GeneformerSurgery

        return GeneformerSurgery
