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
    labels     of a reference, the label of each cell, missing for none
    """

    counts: sparse.csr_matrix
    genes: np.ndarray
    latent: np.ndarray
    batches: np.ndarray | pd.Series | None = None
    labels: np.ndarray | pd.Series | None = None


@dataclass(frozen=True)
class Pair:
    """Cells of both sides on the genes that they share.

    rows     int, the query's cells that have counts in these genes and a place: their order in `query`
    genes    object array of str
    """

    reference: LabelledCells
    query: Cells
    rows: np.ndarray
    genes: np.ndarray


def pair(reference: Counted, query: Counted) -> Pair:
    """Put both sides on the genes that they share, log-normalised over these.

    Reference cells without a label, and cells without counts in these genes or without a place in the latent space, are left out.

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
    rows, values = _prepared(query, places[shared])
    batches = codes_of(query.batches, len(query.latent))[rows]
    cells = Cells(values, _latent(query, rows), _compact(batches))
    return Pair(_labelled(reference, shared), cells, rows, of_reference[shared].to_numpy())


def paired_alone(reference: Counted) -> LabelledCells:
    """The reference's side of a pair with a query that has all of its genes."""
    return _labelled(reference, np.arange(len(reference.genes)))


def _labelled(reference: Counted, columns: np.ndarray) -> LabelledCells:
    labels = pd.Series(np.asarray(reference.labels, dtype=object))
    known, values = _prepared(reference, columns, labels.notna().to_numpy())
    names, codes = np.unique(labels.iloc[known].astype(str).to_numpy(dtype=object), return_inverse=True)
    batches = codes_of(reference.batches, len(reference.latent))[known]
    return LabelledCells(values, _latent(reference, known), _compact(batches), codes, names)


def _prepared(side: Counted, columns: np.ndarray, wanted: np.ndarray | bool = True) -> tuple[np.ndarray, sparse.csr_matrix]:
    """Rows of the cells that are wanted, have counts in some columns and a place; and their log-normalised values there."""
    counts = sparse.csr_matrix(side.counts)
    if not np.array_equal(columns, np.arange(counts.shape[1])):
        counts = counts[:, columns]
    some = np.asarray(counts.sum(axis=1)).ravel() > 0
    rows = np.flatnonzero(some & np.isfinite(np.asarray(side.latent)).all(axis=1) & wanted)
    return rows, log_normalize(counts if len(rows) == counts.shape[0] else counts[rows])


def _latent(side: Counted, rows: np.ndarray) -> np.ndarray:
    return np.asarray(side.latent)[rows].astype(np.float32)


def _compact(codes: np.ndarray) -> np.ndarray:
    return np.unique(codes, return_inverse=True)[1]
