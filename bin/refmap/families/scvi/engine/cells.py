"""The query's cells as the engine takes them: what of them never changes in surgery is computed once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import sparse

from ....common.stored_rows import StoredRows
from .likelihood import Counts
from .network import Minibatch, Network

if TYPE_CHECKING:
    from .registry import Data

# Cells that go through the first layer at once.
BLOCK = 4096


@dataclass
class Cells:
    """All cells of a query.

    Where their counts are in memory, what never changes in surgery is computed once and kept. Where they are left on disk it is
    computed whenever cells are read, and cells are read a run at a time: all that takes them in an order of its own asks for that.

    Attributes
    ----------
    counts
        Cells x genes, CSR, no zeros stored.
    rest
        What a minibatch holds of them beside their counts, by its name: tensors of a row a cell. Codes are narrow here, as one
        byte a cell does for most, and int64 in a minibatch.
    network
        Which they are for.
    """

    counts: sparse.csr_matrix | StoredRows
    rest: dict[str, torch.Tensor]
    network: Network

    @classmethod
    def of(cls, data: Data, network: Network) -> Cells:
        """Those of a query."""
        counts = data.counts
        if not isinstance(counts, StoredRows):
            counts.eliminate_zeros()
        rest = {
            "batches": torch.from_numpy(data.batches),
            "labels": torch.from_numpy(data.labels),
            "covariates": torch.from_numpy(data.covariates),
            "continuous": torch.from_numpy(data.continuous).to(network.dtype),
        }
        if data.sizes is not None:
            rest["log_size"] = torch.from_numpy(data.sizes).to(network.dtype).log()
        cells = cls(counts, rest, network)
        if not cells.are_stored:
            blocks = minibatches(np.arange(len(cells)), BLOCK)
            computed = [cells._computed(counts[rows], cells._rest(rows)) for rows in blocks]
            rest |= {name: torch.cat([block[name] for block in computed]) for name in computed[0]}
        return cells

    @property
    def are_stored(self) -> bool:
        """Whether their counts are left on disk."""
        return isinstance(self.counts, StoredRows)

    def __len__(self) -> int:
        return self.counts.shape[0]

    def __getitem__(self, rows: np.ndarray) -> Minibatch:
        """Some cells, by their places."""
        counts, rest = self.counts[rows], self._rest(rows)
        if self.are_stored:
            rest |= self._computed(counts, rest)
        return Minibatch(counts=self._as_tensors(counts), **rest)

    def runs(self, places: np.ndarray, size: int) -> Iterable[np.ndarray]:
        """Cells in their order, as many at a time as are read at once, whole minibatches of `size`; all of them if in memory."""
        return self.counts.runs(places, size) if self.are_stored else [places]

    def shuffled(self, places: np.ndarray, size: int) -> np.ndarray:
        """Cells in random order, by torch's random numbers: any, or one in which each of their `runs` is quickly read."""
        return self.counts.shuffled(places, size, permutation) if self.are_stored else places[permutation(len(places))]

    def in_order(self, places: np.ndarray) -> np.ndarray:
        """Cells whose order does not matter, in one in which they are quickly read."""
        return np.sort(places) if self.are_stored else places

    def _rest(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        index = torch.from_numpy(rows)
        rest = {name: values.index_select(0, index) for name, values in self.rest.items()}
        rest |= {name: rest[name].long() for name in ("batches", "labels", "covariates")}
        one_hots, network = rest["covariates"], self.network
        if network.embedding is None:
            one_hots = torch.cat([rest["batches"].unsqueeze(1), one_hots], dim=1)
        return rest | {"categories": _categories(one_hots, network.module.decoder.px_decoder.n_cat_list)}

    def _computed(self, counts: sparse.csr_matrix, rest: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What of cells follows from their counts and never changes in surgery."""
        module, network = self.network.module, self.network
        computed = {"started": network.start(_entering(counts, module.log_variational, network.dtype), rest["continuous"])}
        if "log_size" not in rest:
            sizes = torch.as_tensor(np.asarray(counts.sum(axis=1)), dtype=network.dtype)
            computed["log_size"] = sizes.flatten().log()
        computed["constants"] = network.constants(self._as_tensors(counts), rest["batches"], rest["labels"])
        return computed

    def _as_tensors(self, counts: sparse.csr_matrix) -> Counts:
        return Counts(
            torch.from_numpy(counts.indptr.astype(np.int64)),
            torch.from_numpy(counts.indices.astype(np.int64)),
            torch.from_numpy(counts.data).to(self.network.dtype),
        )


def permutation(n: int) -> np.ndarray:
    """The numbers below `n` in random order, by torch's random numbers."""
    return torch.randperm(n, dtype=torch.int32).numpy()


def minibatches(places: np.ndarray, size: int) -> list[np.ndarray]:
    """Cells in their order, `size` at a time; the last may have fewer."""
    return [places[start : start + size] for start in range(0, len(places), size)]


def _categories(one_hots: torch.Tensor, widths: list[int]) -> torch.Tensor:
    """The rows of a table of all categories that are each cell's; a one-hot of one category, whose width is 0, has none."""
    starts = np.cumsum([0, *widths])[:-1]
    return one_hots[:, [n for n, width in enumerate(widths) if width]] + torch.tensor(
        [int(start) for start, width in zip(starts, widths, strict=True) if width], dtype=torch.int64
    )


def _entering(counts: sparse.csr_matrix, log: bool, dtype: torch.dtype) -> torch.Tensor:
    """What the encoder is given of counts: sparse, cells x genes."""
    values = torch.from_numpy(counts.data).to(dtype)
    return torch.sparse_csr_tensor(
        torch.from_numpy(counts.indptr.astype(np.int64)),
        torch.from_numpy(counts.indices.astype(np.int64)),
        torch.log1p(values) if log else values,
        size=counts.shape,
    )
