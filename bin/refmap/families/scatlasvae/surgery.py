"""Map a query onto a scAtlasVAE (Xue et al. 2024): the encoder embeds and labels it as it is, the decoder learns its batches.

The batch is an embedding, or a one-hot, that the decoder alone is given. Each new batch adds one, which starts as the mean of
the reference's and is trained on the query's counts. The encoder never sees it: no training moves the query in the latent space.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import freezing
from ..base import Prediction, Settings, Surgery
from ..devices import device_of
from ..scarches.loading import held, lay_out
from .files import Description
from .loading import counted, counts_of, grown, growths_of, read_saved, save
from .network import Cells, classify, encode, make
from .training import train_batches

if TYPE_CHECKING:
    import anndata as ad
    import pandas as pd
    import torch


class ScatlasvaeSurgery(Surgery):
    """A reference grown by a query's batches.

    Attributes
    ----------
    network
        The grown network, in the mode for evaluation: batch norm uses the reference's statistics.
    reference
        The reference's tensors by name, as its file holds them.
    growths
        Where each of these lies in the grown network.
    """

    untrained = None

    def __init__(self, saved: dict[str, Any], old: Description, query: ad.AnnData, settings: Settings) -> None:
        self.query, self.settings = query, settings
        self.reference: Mapping[str, torch.Tensor] = saved["model_state_dict"]
        self.model = grown(old, query.obs)
        self.counts = counts_of(saved, old)
        self.warnings: list[str] = []
        self.network = make(self.model, self.reference)
        self.growths = growths_of(self.network, self.reference, old, self.model)
        lay_out(self.network, self.reference, self.growths)
        for name, parameter in self.network.named_parameters():
            freezing.mask_gradients(parameter, self.growths[name].trainable)
        self.device = device_of(self.network)

    @classmethod
    def prepare(cls, path: Path, query: ad.AnnData, card: dict, settings: Settings) -> ScatlasvaeSurgery:
        """Raises `RefmapError` where the model's weights do not fit its settings."""
        saved, model = read_saved(path, card["trusted"])
        return cls(saved, model, query, settings)

    @property
    def parameters_total(self) -> int:
        return sum(parameter.numel() for parameter in self.network.parameters())

    @property
    def parameters_trainable(self) -> int:
        """Number of single values that training may move."""
        return sum(int(self.growths[name].trainable.sum()) for name, _ in self.network.named_parameters())

    def train(self, settings: dict, log: Callable = print) -> tuple[pd.DataFrame, dict]:
        cells = Cells.of(self.query.X, self.query.obs, self.model.batches)
        return train_batches(self.network, self.model, cells, settings, self.settings, self.warnings, log)

    @cached_property
    def latent(self) -> np.ndarray:
        """The means of the latent posterior, which no training moves: float32, cells x latent dimensions."""
        return encode(self.network, self.query.X)

    def embed(self) -> np.ndarray:
        return self.latent

    def predict(self) -> dict[str, Prediction]:
        """What each column's classifier says of the posterior's mean: the same for every seed."""
        found = zip(self.model.labels.items(), classify(self.network, self.latent))
        return {key: Prediction.of_probabilities(labels, values) for (key, labels), values in found if labels}

    def save(self, folder: Path) -> None:
        joined = counted(self.query.obs, self.model.batches)
        save(folder, self.network, self.model, self.counts | {key: self.counts[key] + joined[key] for key in joined})

    def frozen_sha256(self) -> str:
        return freezing.sha256(held(self.network, self.growths))

    @staticmethod
    def versions() -> dict[str, str]:
        return freezing.versions("scatlasvae", "torch", "anndata", "numpy")
