"""scAtlasVAE, an autoencoder whose encoder is free of batches, with classifiers for several label columns.

Xue et al. 2024, https://doi.org/10.1038/s41592-024-02530-0; the implementation is that of scatlasvae.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ...models.card import ModelCard
from ...models.folder import ModelFolder
from ..base import Family, Surgery, Trainable
from ..options import Option
from ..scarches.options import n_hidden
from .card import is_scatlasvae, scatlasvae_card

if TYPE_CHECKING:
    import anndata as ad

REFERENCE_OPTIONS = {
    "n_hidden": n_hidden(128),
    "dropout": Option("float", 0.1, "Rate of dropout in training.", least=0, most=1),
    "batch_dims": Option("int", 8, "Numbers in the embedding of a batch.", least=1),
    "label_weight": Option(
        "float", 10.0, "Weight of the labels' classifiers in the loss, in which rare labels count as much as others.", least=0
    ),
    "batch_size": Option("int", 128, "Cells in one step of training.", least=1),
}


class ScatlasvaeFamily(Family):
    name = "scatlasvae"
    env = "scarches"
    library = "scatlasvae"
    trains = {"scatlasvae": Trainable(options=REFERENCE_OPTIONS, hides_labels=True)}

    def recognise(self, folder: ModelFolder) -> bool:
        return is_scatlasvae(folder)

    def card(self, folder: ModelFolder) -> ModelCard:
        return scatlasvae_card(folder)

    def surgery(self) -> type[Surgery]:
        from .surgery import ScatlasvaeSurgery

        return ScatlasvaeSurgery

    def train_reference(self, reference: ad.AnnData, settings: dict, folder: Path, log: Callable = print) -> None:
        from .reference import train_reference

        train_reference(reference, settings, folder, log)
