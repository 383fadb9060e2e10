"""Surgery on an SCVI or a SCANVI that the engine does from the model's file to that of the grown model, without scvi-tools."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from ....common.errors import brief
from ....common.stored_rows import PLACE
from ...base import Decoder, Prediction, Settings
from ..decoding import entering, first_layer
from ..grown import Grown, retrained
from ..growth import category_sizes, growth_of
from ..training import FEWEST_FOR_VALIDATION, recorded, training_arguments
from .cells import BLOCK, Cells, minibatches
from .fitting import Trainer, evaluating
from .limits import untrainable
from .model import NAMED, Model
from .network import Network
from .registry import Unserved, category_mapping

if TYPE_CHECKING:
    import anndata as ad

    from .network import Minibatch


def beyond_engine(card: dict, train: dict | None) -> str | None:
    """What of a surgery the engine does not do, in a few words, as far as that is known before the model is read.

    `train` are the sheet's settings; None where nothing is trained.
    """
    kind = card["class_name"]
    if kind not in NAMED:
        return f"a {kind}"
    if torch.cuda.device_count():  # which, unlike `is_available`, leaves CUDA alone for processes that are forked later
        return "a GPU"
    return untrainable(kind, training_arguments((), train, FEWEST_FOR_VALIDATION, [])) if train else None


@dataclass
class EngineSurgery(Grown):
    """A reference grown by a query without scvi-tools.

    Attributes
    ----------
    seed_of_split
        Of the cells that train and those that validate.
    """

    seed_of_split: int = 0

    @classmethod
    def of(cls, saved: dict, query: ad.AnnData, card: dict, settings: Settings) -> EngineSurgery:
        """Grow a reference that was read.

        Raises
        ------
        Unserved
            If the engine does not do all of it.
        """
        if reason := beyond_engine(card, settings.train):
            raise Unserved(reason)
        kind = card["class_name"]
        reference = {name: values.clone() for name, values in saved["model_state_dict"].items() if hasattr(values, "shape")}
        try:
            model = Model.grown(saved, query, kind, settings.freeze_dropout)
        except (KeyError, ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
            raise Unserved(f"{type(error).__name__}: {brief(error)}") from error
        old, new = category_sizes(saved["attr_dict"]["registry_"]), category_sizes(model.registry)
        surgery = cls(
            model,
            reference,
            growth_of(model.module, reference, old, new),
            label_key=next(iter(card["labels"])) if card["predicts"] else None,
            retrained=retrained(model.module),
            n_batches=max(1, len(card["batches"])),
            seed_of_split=settings.seed,
        )
        surgery._lay_out()
        surgery._freeze()
        return surgery

    @cached_property
    def cells(self) -> Cells:
        """The query's, for the network, with whose making what the module holds is taken as it is."""
        return Cells.of(self.model.data, Network(self.model.module, self.learned()))

    @property
    def network(self) -> Network:
        return self.cells.network

    def trainer(self, settings: dict) -> Trainer:
        """What trains by the sheet's ``train`` settings."""
        arguments = training_arguments((), settings, len(self.cells), self.warnings)
        if reason := untrainable(self.model.kind, arguments):
            raise ValueError(f"the engine does not train by {reason}")
        return Trainer(self.model, self.cells, arguments, self.seed_of_split, bool(settings.get("free")))

    def train(self, settings: dict, log: Callable = print) -> tuple[pd.DataFrame, dict]:
        """See `base.Surgery.train`."""
        self.switch_dropout()
        trainer = self.trainer(settings)
        log("trained by refmap's engine")
        history, trained = recorded(trainer.max_epochs, lambda: trainer.run(log))
        return history, trained | {"stride": trainer.stride, "engine": "refmap", "engine_reason": None}

    def _minibatches(self) -> Iterator[tuple[np.ndarray, Minibatch]]:
        """All cells in their order, with their places."""
        for run in self.cells.runs(np.arange(len(self.cells), dtype=PLACE), BLOCK):
            for places in minibatches(run, BLOCK):
                yield places, self.cells[places]

    def _told(self, tell: Callable[[Minibatch], torch.Tensor], n_columns: int) -> np.ndarray:
        """What the network tells of all cells, float32."""
        told = np.empty((len(self.cells), n_columns), dtype=np.float32)
        with torch.no_grad(), evaluating(self.model.module):
            for places, cells in self._minibatches():
                told[places] = tell(cells).numpy()
        return told

    def embed(self) -> np.ndarray:
        """See `base.Surgery.embed`."""
        self.model.attributes["is_trained_"] = True
        return self._told(self.network.latent, self.model.module.n_latent)

    def predict(self) -> dict[str, Prediction]:
        """See `base.Surgery.predict`."""
        if self.label_key is None:
            return {}
        classes = category_mapping(self.model.registry, "labels")[: self.model.module.n_labels]
        return {self.label_key: Prediction.of_probabilities(classes, self._told(self.network.probabilities, len(classes)))}

    def decoder(self, latent: np.ndarray) -> Decoder:
        """See `base.Surgery.decoder`."""
        network, module = self.network, self.model.module

        def decode(cells: np.ndarray, batches: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
            with torch.no_grad(), evaluating(module):
                of = self.cells[cells]
                if batches is not None:
                    of = network.in_batches(of, torch.as_tensor(batches))
                shares, dispersion = network.expected(torch.as_tensor(latent[cells], dtype=network.dtype), of)
            shares = shares / shares.sum(dim=1, keepdim=True)
            return shares.float().numpy(), None if dispersion is None else dispersion.float().numpy()

        return Decoder(decode, self.n_batches, first_layer(module.z_encoder, module.n_input), entering(module.log_variational))

    def save(self, folder: Path) -> None:
        self.model.save(folder)
