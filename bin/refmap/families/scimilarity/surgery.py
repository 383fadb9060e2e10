"""Embed a query by the encoder of a SCimilarity model: layers of torch, cells as points on a sphere."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from typing import TYPE_CHECKING

from ...models.folder import ModelFolder
from ..frozen import FrozenSurgery
from .card import GENES, SETTINGS, SIZES, WEIGHTS, layer_widths

if TYPE_CHECKING:
    import numpy as np
    import torch
    from scipy import sparse


class ScimilaritySurgery(FrozenSurgery):
    # The library does not open a model without its table of labels
    files = (WEIGHTS, GENES, SIZES, SETTINGS, "label_ints.csv", "reference_labels.tsv", "metadata.json")

    @staticmethod
    def read(folder: ModelFolder) -> dict[str, torch.Tensor]:
        import torch

        return dict(torch.load(folder.path / WEIGHTS, map_location="cpu", weights_only=True)["state_dict"])

    @staticmethod
    def network_of(folder: ModelFolder, weights: dict[str, torch.Tensor]) -> torch.nn.Module:
        """The layers by the names of the file, without the dropout that stands before each and does nothing here."""
        from torch.nn import BatchNorm1d, Linear, PReLU, Sequential

        *hidden, last = pairwise(layer_widths({name: tensor.shape for name, tensor in weights.items()}))
        blocks = [
            Sequential(OrderedDict([("1", Linear(*sizes)), ("2", BatchNorm1d(sizes[1])), ("3", PReLU())])) for sizes in hidden
        ]
        return Sequential(OrderedDict(network=Sequential(*blocks, Linear(*last))))

    def encode(self, cells: sparse.csr_matrix, names: np.ndarray) -> torch.Tensor:
        """Vectors of length 1, by which the library compares cells."""
        import torch

        values = torch.from_numpy(cells.toarray()).to(next(self.network.parameters()).device)
        return torch.nn.functional.normalize(self.network(values), dim=1)
