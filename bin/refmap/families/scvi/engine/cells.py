"""The query's cells as the engine takes them: what of them never changes in surgery is computed once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import sparse

from .likelihood import Counts
from .network import Minibatch, Network

if TYPE_CHECKING:
    from scvi.data import AnnDataManager

# Cells that go through the first layer at once.
BLOCK = 4096


@dataclass
class Cells:
    """All cells of a query.

    Attributes
    ----------
    counts
        Cells x genes, CSR, no zeros stored.
    rest
        What a minibatch holds of them beside their counts, by its name: tensors of a row a cell.
    """

    counts: sparse.csr_matrix
    rest: dict[str, torch.Tensor]

    @classmethod
    def of(cls, manager: AnnDataManager, network: Network) -> Cells:
        """Those of the data that a model was set up with."""
        from scvi import REGISTRY_KEYS as KEYS

        module = network.module
        dtype = module.decoder.px_scale_decoder[0].weight.dtype
        counts = sparse.csr_matrix(manager.get_from_registry(KEYS.X_KEY))
        counts.eliminate_zeros()

        def read(key: str, of: torch.dtype) -> torch.Tensor:
            if key not in manager.data_registry:
                return torch.zeros((counts.shape[0], 0), dtype=of)
            return torch.as_tensor(np.asarray(manager.get_from_registry(key)), dtype=of)

        def numbers(key: str) -> torch.Tensor:
            return read(key, torch.float32).to(dtype)

        batches, covariates = read(KEYS.BATCH_KEY, torch.int64), read(KEYS.CAT_COVS_KEY, torch.int64)
        one_hots = covariates if network.embedding is not None else torch.cat([batches, covariates], dim=1)
        sizes = numbers(KEYS.SIZE_FACTOR_KEY)
        if not module.use_size_factor_key:
            sizes = torch.as_tensor(np.asarray(counts.sum(axis=1)), dtype=dtype)
        rest = {
            "log_size": sizes.flatten().log(),
            "batches": batches.flatten(),
            "labels": read(KEYS.LABELS_KEY, torch.int64).flatten(),
            "covariates": covariates,
            "categories": _categories(one_hots, module.decoder.px_decoder.n_cat_list),
            "continuous": numbers(KEYS.CONT_COVS_KEY),
        }
        cells = cls(counts, rest)
        empty = torch.zeros((counts.shape[0], 0), dtype=dtype)
        rest["started"] = rest["constants"] = empty
        blocks = [np.arange(start, min(start + BLOCK, len(cells))) for start in range(0, len(cells), BLOCK)]
        started = [
            network.start(_entering(counts[rows], module.log_variational, dtype), rest["continuous"][rows]) for rows in blocks
        ]
        constants = [network.constants(cells[rows]) for rows in blocks]
        rest["started"], rest["constants"] = torch.cat(started), torch.cat(constants)
        return cells

    def __len__(self) -> int:
        return self.counts.shape[0]

    def __getitem__(self, rows: np.ndarray) -> Minibatch:
        """Some cells, by their places."""
        counts = self.counts[rows]
        index = torch.from_numpy(rows)
        rest = {name: values.index_select(0, index) for name, values in self.rest.items()}
        return Minibatch(
            counts=Counts(
                torch.from_numpy(counts.indptr.astype(np.int64)),
                torch.from_numpy(counts.indices.astype(np.int64)),
                torch.from_numpy(counts.data).to(rest["started"].dtype),
            ),
            **rest,
        )


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
