"""scGen, a variational autoencoder with vector arithmetics (Lotfollahi et al. 2019, https://doi.org/10.1038/s41592-019-0494-8)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ...models.card import ModelCard
from ...models.folder import ModelFolder
from ..base import Family, Trainable
from ..options import Option
from .card import is_scgen, scgen_card
from .response import response_faults

if TYPE_CHECKING:
    import anndata as ad

    from .surgery import ScgenSurgery


class ScgenFamily(Family):
    name = "scgen"
    env = "scarches"
    options = {
        "correct_towards": Option(
            "text",
            "largest",
            "Where the cells of a label are moved: to the largest of the reference and the query's batches, as the library "
            "does, or always to the reference.",
            choices=("largest", "reference"),
        ),
        "corrected_expression": Option("flag", False, "Whether the corrected expression, cells x genes and dense, is kept."),
        "control": Option("text", None, "The condition of the reference's cells that the query's are like: see `stimulated`."),
        "stimulated": Option(
            "text",
            None,
            "The condition of the reference that the query's cells are predicted in: their latent is moved as that of the "
            "reference's cells differs between `control` and it.",
        ),
        "condition": Option("text", None, "The column of the reference that these are values of; none: that of its batches."),
    }
    trains = {
        "scgen": Trainable(
            options={
                "n_hidden": Option("int", 128, "Units of each hidden layer.", least=1),
                "dropout": Option("float", 0.05, "Share of the hidden units that are dropped in training.", least=0, most=1),
                "batch_size": Option("int", 32, "Cells in one step of training.", least=2),
            },
            input=lambda options: "lognorm",
        )
    }

    def recognise(self, folder: ModelFolder) -> bool:
        return is_scgen(folder)

    def card(self, folder: ModelFolder) -> ModelCard:
        return scgen_card(folder)

    def faults(self, row: dict, card: dict, options: dict, programs: dict[str, list[str]]) -> list[str]:
        return response_faults(card, options)

    def surgery(self) -> type[ScgenSurgery]:
        from .surgery import ScgenSurgery

        return ScgenSurgery

    def train_reference(self, reference: ad.AnnData, settings: dict, folder: Path, log: Callable = print) -> None:
        from .reference import train_reference

        train_reference(reference, settings, folder, log)
