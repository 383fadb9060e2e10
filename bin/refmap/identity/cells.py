"""Cells as the looks at their expression take them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse


@dataclass(frozen=True)
class Cells:
    """Cells in one order.

    values     CSR float32, cells x genes: log-normalised (:func:`refmap.identity.expression.log_normalize`)
    latent     float32, cells x latent dimensions
    batches    int, the batch of each cell: 0, 1, …, none of them empty
    """

    values: sparse.csr_matrix
    latent: np.ndarray
    batches: np.ndarray

    def __len__(self) -> int:
        return len(self.latent)

    @property
    def n_batches(self) -> int:
        return int(self.batches.max(initial=-1)) + 1


@dataclass(frozen=True)
class LabelledCells(Cells):
    """Cells of a reference, each with a label.

    labels    int, the label of each cell, a place in `names`, each of which some cell has
    names     object array of str, sorted
    hidden    bool, whether the model was trained without the label of the cell, though it saw those of others; None: it is not known
              of any
    """

    labels: np.ndarray
    names: np.ndarray
    hidden: np.ndarray | None = None

    def part(self, members: np.ndarray) -> LabelledCells:
        """Return the cells of a boolean mask, with the labels and batches that they have."""
        kept, labels = np.unique(self.labels[members], return_inverse=True)
        batches = np.unique(self.batches[members], return_inverse=True)[1]
        hidden = None if self.hidden is None else self.hidden[members]
        return LabelledCells(self.values[members], self.latent[members], batches, labels, self.names[kept], hidden)

    def as_query(self, members: np.ndarray) -> Cells:
        """Return the cells of a boolean mask as a query of one batch, without their labels."""
        return Cells(self.values[members], self.latent[members], np.zeros(int(members.sum()), dtype=np.int64))


def codes_of(values: np.ndarray | pd.Series | None, n: int) -> np.ndarray:
    """Return the number of each cell's batch: int, 0, 1, …; one for all without batches, and one for all whose batch is missing."""
    if values is None:
        return np.zeros(n, dtype=np.int64)
    return pd.factorize(pd.Series(np.asarray(values, dtype=object)), use_na_sentinel=False)[0].astype(np.int64)


def parts(batches: np.ndarray, fewest: int, most: int) -> list[np.ndarray]:
    """Return masks of the largest batches, at most `most`, that hold `fewest` cells and leave as many: the largest first."""
    sizes = np.bincount(batches)
    fit = [code for code in np.argsort(-sizes, kind="stable")[:most] if fewest <= sizes[code] <= len(batches) - fewest]
    return [batches == code for code in fit]
