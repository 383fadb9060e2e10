"""Models of scvi-tools (https://scvi-tools.org): every class with `load_query_data`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ...models.card import ModelCard
from ...models.folder import ModelFolder
from ..base import Family, Trainable
from .card import is_scvi, scvi_card

if TYPE_CHECKING:
    import anndata as ad

    from .surgery import Surgery


class ScviFamily(Family):
    name = "scvi"
    env = "scvi"
    library = "scvi.external"
    trains = {
        "scvi": Trainable(),
        "scanvi": Trainable(needs=("reference_batch_key", "reference_labels_key")),
        "totalvi": Trainable(needs=("reference_batch_key", "reference_protein_key")),
    }

    def recognise(self, folder: ModelFolder) -> bool:
        return is_scvi(folder)

    def card(self, folder: ModelFolder) -> ModelCard:
        return scvi_card(folder)

    def surgery(self) -> type[Surgery]:
        from .surgery import Surgery

        return Surgery

    def train_reference(self, reference: ad.AnnData, settings: dict, folder: Path, log: Callable = print) -> None:
        from .reference import train_reference

        train_reference(reference, settings, folder, log)
