"""A query and a sample of its reference on the genes that they share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from ..common.errors import RefmapError, listed
from .cells import Cells, LabelledCells, codes_of
from .expression import log_normalize


@dataclass(frozen=True)
class Counted:
    """Counts of cells, and where the model placed them.

    counts     CSR, cells x genes
    genes      their names, unique
    latent     float, cells x latent dimensions; NaN for cells that have no place
    batches    the batch of each cell, missing for none; None if all are of one
    hidden     bool, whether the model was trained without the label of the cell; None if that is not known of any
    """

    counts: sparse.csr_matrix
    genes: np.ndarray
    latent: np.ndarray
    batches: np.ndarray | pd.Series | None = None
    hidden: np.ndarray | None = None

    def on(self, columns: np.ndarray) -> Side:
        """Log-normalise the cells over some genes (places, int); those without counts there or without a place are left out."""
        counts = sparse.csr_matrix(self.counts)
        if not np.array_equal(columns, np.arange(counts.shape[1])):
            counts = counts[:, columns]
        some = np.asarray(counts.sum(axis=1)).ravel() > 0
        rows = np.flatnonzero(some & np.isfinite(np.asarray(self.latent)).all(axis=1))
        values = log_normalize(counts if len(rows) == counts.shape[0] else counts[rows])
        batches = codes_of(self.batches, len(self.latent))[rows]
        cells = Cells(values, np.asarray(self.latent)[rows].astype(np.float32), _compact(batches))
        return Side(cells, rows, len(self.latent), None if self.hidden is None else self.hidden[rows])


@dataclass(frozen=True)
class Side:
    """The cells of a query, or of a reference's sample, that can be looked at.

    rows       int, their order among all
    n_cells    how many all are
    hidden     bool, as of :class:`Counted`, of those that can be looked at
    """

    cells: Cells
    rows: np.ndarray
    n_cells: int
    hidden: np.ndarray | None = None

    def labelled(self, labels: np.ndarray | pd.Series) -> LabelledCells:
        """Return the cells that have a label. `labels` are those of all cells, missing for none."""
        labels = pd.Series(np.asarray(labels, dtype=object)).iloc[self.rows]
        known = np.flatnonzero(labels.notna())
        names, codes = np.unique(labels.iloc[known].astype(str).to_numpy(dtype=object), return_inverse=True)
        cells, hidden = self.cells, self.hidden
        if len(known) == len(cells):
            return LabelledCells(cells.values, cells.latent, cells.batches, codes, names, hidden)
        hidden = None if hidden is None else hidden[known]
        return LabelledCells(cells.values[known], cells.latent[known], _compact(cells.batches[known]), codes, names, hidden)


@dataclass(frozen=True)
class Pair:
    """Cells of both sides on the genes that they share: object array of str."""

    reference: Side
    query: Side
    genes: np.ndarray


def pair(reference: Counted, query: Counted) -> Pair:
    """Put both sides on the genes that they share, log-normalised over these.

    Raises
    ------
    RefmapError
        If they share no gene.
    """
    of_reference, of_query = pd.Index(reference.genes, dtype=object), pd.Index(query.genes, dtype=object)
    places = of_query.get_indexer(of_reference)
    shared = np.flatnonzero(places >= 0)
    if not len(shared):
        raise RefmapError(
            f"The query shares no gene with the reference's sample: it has {listed(of_query, 3)}, and the reference "
            f"{listed(of_reference, 3)}; give both the same kind of gene ids."
        )
    return Pair(reference.on(shared), query.on(places[shared]), of_reference[shared].to_numpy())


def _compact(codes: np.ndarray) -> np.ndarray:
    return np.unique(codes, return_inverse=True)[1]
