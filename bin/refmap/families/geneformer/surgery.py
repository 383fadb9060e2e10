"""Embed a query by a Geneformer: each cell as its genes, those first whose counts stand out most from the gene's median."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...common.errors import RefmapError
from ...models.folder import ModelFolder
from ...models.safetensors import tensors
from ..base import Settings
from ..sequences import SequenceSurgery
from .files import CONFIG, MEDIANS, TOKENS, WEIGHTS, dictionary_file, read_config, read_vocabulary

if TYPE_CHECKING:
    import anndata as ad
    import torch


class GeneformerSurgery(SequenceSurgery):
    """A transformer, and the query whose cells it reads.

    Attributes
    ----------
    vocabulary
        The tokens and medians of the model's genes.
    """

    def __init__(self, folder: ModelFolder, query: ad.AnnData, card: dict, settings: Settings) -> None:
        config = read_config(folder)
        self.vocabulary = read_vocabulary(folder)
        self.padding = (config.get("pad_token_id") or 0,)
        self.longest = config["max_position_embeddings"]
        self.files = (CONFIG, WEIGHTS, dictionary_file(folder, TOKENS), dictionary_file(folder, MEDIANS))
        super().__init__(folder, query, card, settings)

    @staticmethod
    def read(folder: ModelFolder) -> dict[str, torch.Tensor]:
        from .network import weights_of

        try:
            return weights_of(tensors(folder.path / WEIGHTS, folder.show(WEIGHTS)), read_config(folder))
        except KeyError as error:
            raise RefmapError(
                f"{folder.show(WEIGHTS)} lacks the weights {error}, which {CONFIG} calls for: copy the model again."
            ) from None

    @staticmethod
    def network_of(folder: ModelFolder, weights: dict[str, torch.Tensor]) -> torch.nn.Module:
        from .network import Bert

        return Bert(read_config(folder))

    def sequence(self, genes: np.ndarray, counts: np.ndarray, name: str) -> np.ndarray:
        """The tokens of its genes by their counts over their medians, the greatest first; of equals, the lesser token.

        The library divides by the cell's total before, which leaves the order as it is.
        """
        read = self.vocabulary
        ends = [[token] if token is not None else [] for token in (read.begin, read.end)]
        order = np.argsort(-(counts / read.medians[genes]), kind="stable")
        kept = genes[order[: self.longest - sum(map(len, ends))]]
        return np.concatenate([ends[0], read.tokens[kept], ends[1]])[None]

    def pooled(self, states: torch.Tensor, filled: torch.Tensor) -> torch.Tensor:
        """Of a model that has a token before a cell's genes, its state; else the mean of the genes'. So does the library."""
        if self.vocabulary.begin is not None:
            return states[:, 0]
        return (states * filled[..., None]).sum(dim=1) / filled.sum(dim=1, keepdim=True)
