"""expiMap: a variational autoencoder whose latent dimensions are gene programmes.

Lotfollahi, Rybakov et al. 2023, https://doi.org/10.1038/s41556-022-01072-x; the implementation is that of scArches.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ...common.errors import RefmapError
from ...models.card import ModelCard
from ...models.folder import ModelFolder
from ..base import Family, Surgery, Trainable
from ..options import Option
from ..scarches.files import input_of
from ..scarches.options import DROPOUT, n_hidden
from .card import expimap_card, is_expimap
from .programs import new_programs

if TYPE_CHECKING:
    import anndata as ad

MIN_GENES = Option(
    "int", 12, "The least number of the model's genes in a programme; those with fewer are left out.", least=1
)  # what the paper's authors use in their tutorials

OPTIONS = {
    "new_programs": Option(
        "int", 0, "Programmes without given genes that the query may add, to hold what is new in it.", least=0
    ),
    "min_genes": MIN_GENES,
    "soft_mask": Option(
        "float",
        None,
        "How much it costs a constrained programme of the row's `gmt` to take in a gene that it was not given, an L1 penalty; "
        "none: it keeps to its genes.",
        least=0,
    ),
    "groups": Option(
        "column", None, "The groups between which programmes are compared; none: the labels, else the truth, else the batches."
    ),
}
REFERENCE_OPTIONS = {
    "recon_loss": Option(
        "text", "nb", "Distribution of the data: nb for counts, mse for log-normalised values.", choices=("nb", "mse")
    ),
    "min_genes": MIN_GENES,
    "alpha": Option("float", 0.7, "Strength of the group lasso: the higher, the more programmes are switched off.", least=0),
    "alpha_kl": Option("float", 0.5, "Weight of the KL divergence in the loss.", least=0),
    "n_hidden": n_hidden(256),
    "dropout": DROPOUT,
}


class ExpimapFamily(Family):
    name = "expimap"
    env = "scarches"
    options = OPTIONS
    trains = {
        "expimap": Trainable(
            needs=("reference_batch_key", "reference_gmt"),
            options=REFERENCE_OPTIONS,
            input=lambda options: input_of(options["recon_loss"]),
        )
    }

    def recognise(self, folder: ModelFolder) -> bool:
        return is_expimap(folder)

    def card(self, folder: ModelFolder) -> ModelCard:
        return expimap_card(folder)

    def faults(self, row: dict, card: dict, options: dict, programs: dict[str, list[str]]) -> list[str]:
        if options["soft_mask"] is not None and not row["gmt"]:
            return ["option 'soft_mask' is of use with programmes alone: name their file in gmt."]
        try:
            if programs:
                new_programs(programs, card, options["min_genes"])
        except RefmapError as error:
            return [str(error)]
        return []

    def surgery(self) -> type[Surgery]:
        from .surgery import ExpimapSurgery

        return ExpimapSurgery

    def train_reference(self, reference: ad.AnnData, settings: dict, folder: Path, log: Callable = print) -> None:
        from .reference import train_reference

        train_reference(reference, settings, folder, log)
