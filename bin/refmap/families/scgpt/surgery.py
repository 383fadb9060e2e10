"""Embed a query by a scGPT: each cell as its genes and the bins that their counts fall into."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...models.folder import ModelFolder
from ..base import Settings
from ..sequences import SequenceSurgery
from .card import SAVED_AS, SETTINGS, VOCABULARY, WEIGHTS, genes_of, read_json, read_vocabulary

if TYPE_CHECKING:
    import anndata as ad
    import torch

# As the library embeds cells, whatever a model's settings.
BINS, LONGEST = 51, 1200


class ScgptSurgery(SequenceSurgery):
    """A transformer, and the query whose cells it reads.

    What is drawn for a cell hangs on the seed and on its name, and not on the cells beside it.

    Attributes
    ----------
    tokens
        Of the model's genes: int64.
    begin
        The token before a cell's genes, whose state is the embedding.
    """

    files = (WEIGHTS, SETTINGS, VOCABULARY)
    longest = LONGEST

    def __init__(self, folder: ModelFolder, query: ad.AnnData, card: dict, settings: Settings) -> None:
        vocabulary, given = read_vocabulary(folder), read_json(folder, SETTINGS)
        self.tokens = np.array([vocabulary[gene] for gene in genes_of(vocabulary)])
        self.begin = vocabulary["<cls>"]
        self.padding = vocabulary[given.get("pad_token", "<pad>")], given.get("pad_value", -2)
        super().__init__(folder, query, card, settings)

    @staticmethod
    def read(folder: ModelFolder) -> dict[str, torch.Tensor]:
        import torch

        from .network import weights_of

        return weights_of(torch.load(folder.path / WEIGHTS, map_location="cpu", weights_only=True))

    @staticmethod
    def network_of(folder: ModelFolder, weights: dict[str, torch.Tensor]) -> torch.nn.Module:
        from .network import Encoder

        return Encoder(len(weights["genes.weight"]), read_json(folder, SETTINGS))

    def sequence(self, genes: np.ndarray, counts: np.ndarray, name: str) -> np.ndarray:
        """The tokens of its genes and their bins; of a cell that has more genes than fit, some that are drawn."""
        rng = np.random.default_rng([self.settings.seed, zlib.crc32(str(name).encode())])
        values = binned(counts, rng)
        if len(genes) >= self.longest:
            drawn = np.sort(rng.permutation(len(genes))[: self.longest - 1])
            genes, values = genes[drawn], values[drawn]
        return np.array([[self.begin, *self.tokens[genes]], [self.padding[1], *values]])

    def pooled(self, states: torch.Tensor, filled: torch.Tensor) -> torch.Tensor:
        """The state of the token before the genes, of length 1."""
        import torch

        return torch.nn.functional.normalize(states[:, 0], dim=1)

    def save(self, folder: Path) -> None:
        super().save(folder)
        (folder / WEIGHTS).rename(folder / SAVED_AS)


def binned(counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The bin of each of a cell's counts, from 1 to 50, by the quantiles of the counts.

    The edges are 50 quantiles from the least to the greatest. A count that is itself an edge, or several, falls into any of the bins
    that they bound, drawn with equal chance, so that equal counts fill these evenly (Cui et al. 2024).
    """
    edges = np.quantile(counts, np.linspace(0, 1, BINS - 1))
    upper, lower = np.digitize(counts, edges), np.digitize(counts, edges, right=True)
    return upper - np.floor(rng.random(len(counts)) * (upper - lower)).astype(np.int64)
