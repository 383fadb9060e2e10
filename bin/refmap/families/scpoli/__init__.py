"""scPoli: a conditional autoencoder that learns an embedding of each sample and a prototype of each label.

De Donno et al. 2023, https://doi.org/10.1038/s41592-023-02035-2; the implementation is that of scArches.
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
from ..scarches.options import DROPOUT, RECON_LOSS, n_hidden
from .card import is_scpoli, scpoli_card
from .novel import read_new_cell_types

if TYPE_CHECKING:
    import anndata as ad

_PRETRAINING = Option("float", 0.9, "Share of the epochs before prototypes take part in the loss.", least=0, most=1)
_ETA = Option("float", 1.0, "Weight of the distance between labelled cells and their prototypes in the loss.", least=0)

OPTIONS = {
    "pretraining": _PRETRAINING,
    "eta": _ETA,
    "shot_surgery": Option("flag", False, "Start each new batch as that of the reference's which reconstructs its cells best."),
    "unlabeled_prototypes": Option("flag", True, "Cluster the query's cells into prototypes without labels, to find novel ones."),
    "resolution": Option("float", 2.0, "Resolution of that clustering (Leiden): the higher, the more prototypes.", least=0),
    "new_cell_types": Option(
        "text", None, "Names for unlabeled prototypes of the model, such as 'plasmablast:3+4|pDC:7' or 'pDC@fine_label:7'."
    ),
}

REFERENCE_OPTIONS = {
    "pretraining": _PRETRAINING,
    "eta": _ETA,
    "recon_loss": RECON_LOSS,
    "embedding_dim": Option("int", 10, "Dimensions of the embedding of each sample.", least=1),
    "n_hidden": n_hidden(128),
    "dropout": DROPOUT,
}


class ScPoliFamily(Family):
    name = "scpoli"
    env = "scarches"
    options = OPTIONS
    trains = {
        "scpoli": Trainable(
            needs=("reference_batch_key", "reference_labels_key"),
            hides_labels=True,
            options=REFERENCE_OPTIONS,
            input=lambda options: input_of(options["recon_loss"]),
        )
    }

    def recognise(self, folder: ModelFolder) -> bool:
        return is_scpoli(folder)

    def card(self, folder: ModelFolder) -> ModelCard:
        return scpoli_card(folder)

    def faults(self, row: dict, card: dict, options: dict, programs: dict[str, list[str]]) -> list[str]:
        faults = []
        if options["shot_surgery"] and card["categorical_covariates"]:
            keys = ", ".join([card["batch_key"], *card["categorical_covariates"]])
            faults.append(
                f"option 'shot_surgery' compares whole batches, and '{card['model']}' has several condition columns ({keys}): "
                "leave the option out."
            )
        try:
            read_new_cell_types(options["new_cell_types"], card)
        except RefmapError as error:
            faults.append(str(error))
        return faults

    def surgery(self) -> type[Surgery]:
        from .surgery import ScPoliSurgery

        return ScPoliSurgery

    def train_reference(self, reference: ad.AnnData, settings: dict, folder: Path, log: Callable = print) -> None:
        from .reference import train_reference

        train_reference(reference, settings, folder, log)
