"""Multigrate, a variational autoencoder of several modalities, each with an encoder of its own.

Litinetskaya et al. 2022, https://doi.org/10.1101/2022.03.16.484643; the implementation is that of multigrate.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ...models.card import ModelCard
from ...models.folder import ModelFolder
from ..base import Family, Trainable
from ..options import Option
from .card import is_multigrate, multigrate_card

if TYPE_CHECKING:
    import anndata as ad

    from .surgery import MultigrateSurgery

REFERENCE_OPTIONS = {
    "values": Option(
        "text",
        None,
        "What the second modality's counts are made into: their centred log ratio (`clr`), or log1p of counts per 10,000 "
        "(`lognorm`); without it `lognorm` of peaks, else `clr`.",
        choices=("clr", "lognorm"),
    ),
    "mix": Option(
        "text", "product", "How the modalities come together: product or mixture of experts.", choices=("product", "mixture")
    ),
    "n_hidden": Option("int", 128, "Units of a hidden layer.", least=1),
    "batch_embedding": Option("int", 16, "Size of the embedding of a batch.", least=1),
    "dropout": Option("float", 0.2, "Rate of dropout in training.", least=0, most=1),
    "second_weight": Option("float", 1.0, "Weight of the second modality in the loss, that of the genes being 1.", least=0),
    "kl_weight": Option("float", 1e-5, "Weight of the KL divergence in the loss.", least=0),
    "batch_size": Option("int", 256, "Cells in one step of training.", least=1),
}


class MultigrateFamily(Family):
    name = "multigrate"
    env = "scvi"
    library = "multigrate.model"
    trains = {
        "multigrate": Trainable(
            needs=("reference_batch_key", "reference_protein_key"), options=REFERENCE_OPTIONS, multimodal=True
        )
    }

    def recognise(self, folder: ModelFolder) -> bool:
        return is_multigrate(folder)

    def card(self, folder: ModelFolder) -> ModelCard:
        return multigrate_card(folder)

    def surgery(self) -> type[MultigrateSurgery]:
        from .surgery import MultigrateSurgery

        return MultigrateSurgery

    def train_reference(self, reference: ad.AnnData, settings: dict, folder: Path, log: Callable = print) -> None:
        from .reference import train_reference

        train_reference(reference, settings, folder, log)
