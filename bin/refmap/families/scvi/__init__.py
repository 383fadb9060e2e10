"""Models of scvi-tools (https://scvi-tools.org): every class with `load_query_data`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ...common.errors import listed, nearest
from ...models.card import ModelCard
from ...models.folder import ModelFolder
from ..base import AUTO, SCVI, Family, Trainable
from ..options import Option
from .card import CLASSES, is_scvi, scvi_card
from .options import PROTEIN_OPTIONS, chosen_batches

if TYPE_CHECKING:
    import anndata as ad

    from .surgery import Surgery


class ScviFamily(Family):
    name = "scvi"
    env = "scvi"
    library = "scvi.external"
    options = PROTEIN_OPTIONS
    trains = {
        "scvi": Trainable(),
        "scanvi": Trainable(needs=("reference_batch_key", "reference_labels_key"), hides_labels=True),
        "totalvi": Trainable(needs=("reference_batch_key", "reference_protein_key")),
    }

    def recognise(self, folder: ModelFolder) -> bool:
        return is_scvi(folder)

    def card(self, folder: ModelFolder) -> ModelCard:
        return scvi_card(folder)

    def options_of(self, card: ModelCard) -> dict[str, Option]:
        return PROTEIN_OPTIONS if card.proteins and CLASSES[card.class_name].imputes else {}

    def faults(self, row: dict, card: dict, options: dict, programs: dict[str, list[str]]) -> list[str]:
        chosen = chosen_batches(options.get("protein_batches"), card["batches"])
        return [
            f"option protein_batches names '{name}', which is no batch of the model: it has {listed(card['batches'])}."
            + nearest(name, card["batches"])
            for name in chosen
            if name not in card["batches"]
        ]

    def libraries(self, card: dict, training: dict) -> list[str]:
        """scvi-tools, or the engine, where by the card it does all."""
        if training.get("engine", AUTO) == SCVI or card["input"] != "counts":
            return [self.library]
        from .engine import surgery

        return [self.library if surgery.beyond_engine(card, training["train"]) else surgery.__name__]

    def surgery(self) -> type[Surgery]:
        from .surgery import Surgery

        return Surgery

    def train_reference(self, reference: ad.AnnData, settings: dict, folder: Path, log: Callable = print) -> None:
        from .reference import train_reference

        train_reference(reference, settings, folder, log)
