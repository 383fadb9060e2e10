"""mvTCR, a variational autoencoder of transcriptome and T-cell receptor (Drost et al. 2024, https://doi.org/10.1038/s41467-024-49806-9)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ...models.card import ModelCard
from ...models.folder import ModelFolder
from ..base import Family, Trainable
from ..options import Option
from .card import is_mvtcr, mvtcr_card

if TYPE_CHECKING:
    import anndata as ad

    from .surgery import MvtcrSurgery

REFERENCE_OPTIONS = {
    "mixture": Option(
        "text",
        "moe",
        "How RNA and receptor come together: mixture of experts, product of experts, or both concatenated.",
        choices=("moe", "poe", "concat"),
    ),
    "n_hidden": Option("int", 200, "Units of the hidden layers behind each of the two, an even number.", least=2),
    "n_hidden_genes": Option("int", 500, "Units of the hidden layer next to the genes.", least=1),
    "residue_size": Option("int", 32, "Size of the embedding of an amino acid, a multiple of `attention_heads`.", least=2),
    "attention_heads": Option("int", 4, "Attention heads of the transformers of the CDR3s.", least=1),
    "transformer_layers": Option("int", 1, "Layers of these transformers.", least=1),
    "padding": Option("int", None, "Residues that a CDR3 can have; without it those of the reference's longest.", least=5),
    "batch_embedding": Option("int", 20, "Size of the embedding of a batch.", least=1),
    "dropout": Option("float", 0.1, "Share of the hidden units that are dropped in training.", least=0, most=1),
    "tcr_weight": Option("float", 0.1, "Weight of the receptors in the loss, that of RNA being 1.", least=0),
    "kl_weight": Option("float", 1e-5, "Weight of the KL divergence in the loss.", least=0),
    "learning_rate": Option("float", 3e-4, "The learning rate.", least=1e-8),
    "batch_size": Option("int", 512, "Cells in one step of training.", least=2),
}


class MvtcrFamily(Family):
    name = "mvtcr"
    env = "scarches"
    library = "mvtcr.models.mixture_modules.moe"
    trains = {
        "mvtcr": Trainable(
            needs=("reference_batch_key", "reference_airr"),
            has_latent=False,  # of cells without a receptor there may be none
            options=REFERENCE_OPTIONS,
            input=lambda options: "lognorm",
        )
    }

    def recognise(self, folder: ModelFolder) -> bool:
        return is_mvtcr(folder)

    def card(self, folder: ModelFolder) -> ModelCard:
        return mvtcr_card(folder)

    def surgery(self) -> type[MvtcrSurgery]:
        from .surgery import MvtcrSurgery

        return MvtcrSurgery

    def train_reference(self, reference: ad.AnnData, settings: dict, folder: Path, log: Callable = print) -> None:
        from .reference import train_reference

        train_reference(reference, settings, folder, log)
