"""scGPT, a transformer that reads a cell as its genes and the bins of their counts; it is used as it is.

Cui et al. 2024, https://doi.org/10.1038/s41592-024-02201-0.
"""

from __future__ import annotations

from ...models.card import ModelCard
from ...models.folder import ModelFolder
from ..base import Family, Surgery
from .card import is_scgpt, scgpt_card


class ScgptFamily(Family):
    name = "scgpt"
    env = "scvi"
    library = "torch"
    trains = {}

    def recognise(self, folder: ModelFolder) -> bool:
        return is_scgpt(folder)

    def card(self, folder: ModelFolder) -> ModelCard:
        return scgpt_card(folder)

    def surgery(self) -> type[Surgery]:
        from .surgery import ScgptSurgery

        return ScgptSurgery
