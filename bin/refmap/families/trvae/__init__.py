"""trVAE: a conditional variational autoencoder that aligns batches by their maximum mean discrepancy.

Lotfollahi et al. 2020, https://doi.org/10.1093/bioinformatics/btaa800; the implementation is that of scArches.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ...models.card import ModelCard
from ...models.folder import ModelFolder
from ..base import Family, Surgery, Trainable
from ..options import Option
from ..scarches.files import input_of
from ..scarches.options import DROPOUT, RECON_LOSS, n_hidden
from .card import is_trvae, trvae_card

if TYPE_CHECKING:
    import anndata as ad

REFERENCE_OPTIONS = {
    "recon_loss": RECON_LOSS,
    "use_mmd": Option("flag", True, "Whether batches are also aligned by their maximum mean discrepancy."),
    "mmd_on": Option("text", "z", "Where: on the latent (z) or on the decoder's first layer (y).", choices=("z", "y")),
    "mmd_weight": Option("float", 1.0, "Weight of the discrepancy in the loss.", least=0),
    "n_hidden": n_hidden(128),
    "dropout": DROPOUT,
}


class TrvaeFamily(Family):
    name = "trvae"
    env = "scarches"
    trains = {"trvae": Trainable(options=REFERENCE_OPTIONS, input=lambda options: input_of(options["recon_loss"]))}

    def recognise(self, folder: ModelFolder) -> bool:
        return is_trvae(folder)

    def card(self, folder: ModelFolder) -> ModelCard:
        return trvae_card(folder)

    def surgery(self) -> type[Surgery]:
        from .surgery import TrvaeSurgery

        return TrvaeSurgery

    def train_reference(self, reference: ad.AnnData, settings: dict, folder: Path, log: Callable = print) -> None:
        from .reference import train_reference

        train_reference(reference, settings, folder, log)
