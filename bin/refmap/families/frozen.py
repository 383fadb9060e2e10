"""Surgery on models that are used as they are: nothing is added to them and nothing trained, cells are embedded block by block."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..common.errors import RefmapError
from ..models.facts import FACTS
from ..models.folder import ModelFolder
from . import freezing
from .base import Settings, Surgery
from .devices import device_of

if TYPE_CHECKING:
    import anndata as ad
    import torch
    from scipy import sparse

# That are embedded at once, by layers that take all genes of a cell.
CELLS = 1024


def no_surgery(name: str) -> str:
    """The warning of a card whose model surgery cannot move."""
    return (
        f"{name} has no surgery: nothing is trained, the query is embedded as it is, and a batch effect that sets it apart from the "
        "reference stays."
    )


class FrozenSurgery(Surgery):
    """A model's encoder, and the query that it embeds.

    A family says how its files are read (`read`), which network takes what they hold (`network_of`), and what that makes of a block
    of cells (`encode`).

    Attributes
    ----------
    files
        Those of a model's folder that its mapping takes along, if they are there; its facts go with them.
    reference
        The encoder's tensors by name, as the model's files hold them.
    """

    files: tuple[str, ...]
    untrained = None
    holds_facts = True
    parameters_trainable = 0

    def __init__(self, folder: ModelFolder, query: ad.AnnData, card: dict, settings: Settings) -> None:
        import torch

        self.folder, self.query, self.card, self.settings = folder, query, card, settings
        self.warnings: list[str] = []
        self.reference = self.read(folder)
        self.network = self.network_of(folder, self.reference)
        try:
            self.network.load_state_dict(self.reference)
        except RuntimeError as error:
            raise RefmapError(f"The weights of '{card['model']}' do not fit its settings: {error}") from error
        self.network.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        self.device = device_of(self.network)

    @classmethod
    def prepare(cls, path: Path, query: ad.AnnData, card: dict, settings: Settings) -> FrozenSurgery:
        """Load the encoder. Raises `RefmapError` where its weights do not fit its settings."""
        return cls(ModelFolder(path, card["model"]), query, card, settings)

    @staticmethod
    def read(folder: ModelFolder) -> dict[str, torch.Tensor]:
        """The encoder's tensors, by the names that its network has for them."""
        raise NotImplementedError

    @staticmethod
    def network_of(folder: ModelFolder, weights: dict[str, torch.Tensor]) -> torch.nn.Module:
        """The network that takes these weights, with random ones."""
        raise NotImplementedError

    def encode(self, cells: sparse.csr_matrix, names: np.ndarray) -> torch.Tensor:
        """What the network makes of cells (cells x the model's genes, as the card wants them) of these names: cells x latent."""
        raise NotImplementedError

    def blocks(self) -> Iterator[np.ndarray]:
        """The places of the query's cells that are embedded at once; of all that it can embed."""
        for start in range(0, self.query.n_obs, CELLS):
            yield np.arange(start, min(start + CELLS, self.query.n_obs))

    @property
    def parameters_total(self) -> int:
        return sum(parameter.numel() for parameter in self.network.parameters())

    @cached_property
    def latent(self) -> np.ndarray:
        """Float32, cells x latent dimensions; NaN of cells that are in no block."""
        import torch

        latent = np.full((self.query.n_obs, self.card["n_latent"]), np.nan, np.float32)
        names = self.query.obs_names.to_numpy(dtype=object)
        with torch.inference_mode():
            for places in self.blocks():
                latent[places] = self.encode(self.query.X[places], names[places]).float().cpu().numpy()
        return latent

    def embed(self) -> np.ndarray:
        return self.latent

    def save(self, folder: Path) -> None:
        """Copy the model, which is the reference's."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in (*self.files, FACTS):
            if self.folder.has(name):
                shutil.copyfile(self.folder.path / name, folder / name)

    def frozen_sha256(self) -> str:
        return freezing.sha256(self.network.state_dict())

    @staticmethod
    def versions() -> dict[str, str]:
        return freezing.versions("torch", "numpy")
