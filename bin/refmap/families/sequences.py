"""Models that read a cell as a sequence of its genes: transformers, used as they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..models.folder import ModelFolder
from .base import Settings
from .frozen import FrozenSurgery

if TYPE_CHECKING:
    import anndata as ad
    import torch
    from scipy import sparse

# In the sequences that are embedded at once, with what fills up the shorter ones: some 100 MiB for each 1,000 units of a layer.
TOKENS = 1 << 14


class SequenceSurgery(FrozenSurgery):
    """A transformer, and the query whose cells it reads.

    A cell with none of the model's genes has no sequence, and is not placed. On a GPU, products are of half precision.

    Attributes
    ----------
    longest
        The most tokens of a sequence.
    padding
        What fills up a sequence: a token, and whatever else stands at each place of one.
    """

    longest: int
    padding: tuple[float, ...]

    def __init__(self, folder: ModelFolder, query: ad.AnnData, card: dict, settings: Settings) -> None:
        super().__init__(folder, query, card, settings)
        self.lengths = np.diff(query.X.indptr)
        empty = int((self.lengths == 0).sum())
        if empty:
            self.placed = self.lengths > 0
            self.warnings.append(f"{empty:,} of {query.n_obs:,} cells have none of the model's genes, and so no embedding.")

    def sequence(self, genes: np.ndarray, counts: np.ndarray, name: str) -> np.ndarray:
        """What the network reads of a cell: rows as `padding`, a column a token.

        `genes` are the places of its genes among the model's, ascending, `counts` theirs, `name` the cell's.
        """
        raise NotImplementedError

    def pooled(self, states: torch.Tensor, filled: torch.Tensor) -> torch.Tensor:
        """The embedding of cells from what the network makes of each token (cells x tokens x latent), and which are none of padding."""
        raise NotImplementedError

    def blocks(self) -> Iterator[np.ndarray]:
        """Cells of like lengths, the longest first."""
        order = np.argsort(-self.lengths, kind="stable")
        order = order[self.lengths[order] > 0]
        while len(order):
            at_once = max(1, TOKENS // int(min(self.lengths[order[0]], self.longest)))
            yield order[:at_once]
            order = order[at_once:]

    def encode(self, cells: sparse.csr_matrix, names: np.ndarray) -> torch.Tensor:
        import torch

        ends = cells.indptr[1:-1]
        rows = zip(np.split(cells.indices, ends), np.split(cells.data, ends), names, strict=True)
        sequences = [self.sequence(*row) for row in rows]
        width = max(sequence.shape[1] for sequence in sequences)
        read = np.empty((len(self.padding), len(sequences), width), np.float32)
        read[:] = np.array(self.padding)[:, None, None]
        for place, sequence in enumerate(sequences):
            read[:, place, : sequence.shape[1]] = sequence
        device = next(self.network.parameters()).device
        tokens, *values = torch.from_numpy(read).to(device)
        lengths = torch.tensor([sequence.shape[1] for sequence in sequences], device=device)
        filled = torch.arange(width, device=device) < lengths[:, None]
        # Its own fast path holds the attention of all pairs of tokens, the other one does not
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
            states = self.network(tokens.long(), *values, filled=filled)
        return self.pooled(states.float(), filled)
