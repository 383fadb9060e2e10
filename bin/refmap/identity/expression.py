"""Expression of a query and its reference on the same scale, sparse, and dense in blocks alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import sparse

from ..query.counts import normalize
from ..transfer.regions import sample
from .cells import Cells, LabelledCells

# What the counts of a cell are scaled to, as refmap's profiles of labels are.
TARGET_SUM = 1e4
# Cells whose expression is dense at once.
BLOCK = 2048
# Values (cells x genes, float32: 160 MB) that principal components are fitted to at most.
MOST_FITTED = 40_000_000
# Of a gene's sum of squares: what rounding leaves of the variance of one that does not vary.
ROUNDING = 1e-9


def log_normalize(counts: sparse.spmatrix) -> sparse.csr_matrix:
    """Return log1p of counts per 10,000 a cell (cells x genes): CSR float32; empty cells stay empty."""
    counts = sparse.csr_matrix(counts)
    totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    values = np.empty(counts.nnz, dtype=np.float32)
    for rows in blocks(counts.shape[0]):
        # Their logarithms are float64, block by block alone.
        values[counts.indptr[rows.start] : counts.indptr[rows.stop]] = normalize(counts[rows], totals[rows], TARGET_SUM).data
    return sparse.csr_matrix((values, counts.indices, counts.indptr), shape=counts.shape)


def blocks(n: int) -> Iterator[slice]:
    """Rows from the first to the last of `n`, at most `BLOCK` at once."""
    for start in range(0, n, BLOCK):
        yield slice(start, min(start + BLOCK, n))


def averaging(indices: np.ndarray, n: int) -> sparse.csr_matrix:
    """Return what takes the mean over some cells: CSR float32, rows of `indices` (rows x k) x `n` cells, each row sums to 1."""
    k = indices.shape[1]
    weights = np.full(indices.size, 1 / k, dtype=np.float32)
    starts = np.arange(0, indices.size + 1, k)
    matrix = sparse.csr_matrix((weights, indices.ravel(), starts), shape=(len(indices), n))
    matrix.sum_duplicates()
    return matrix


def grouping(codes: np.ndarray, n_groups: int) -> sparse.csr_matrix:
    """Return what takes the mean over groups: CSR float64, groups x cells; a row of zeros for a group without cells.

    `codes` are the groups of the cells, int.
    """
    weights = 1 / np.bincount(codes, minlength=n_groups)[codes]
    return sparse.csr_matrix((weights, (codes, np.arange(len(codes)))), shape=(n_groups, len(codes)))


def group_means(values: sparse.csr_matrix, codes: np.ndarray, n_groups: int) -> np.ndarray:
    """Return the mean of each group of cells: float64, groups x genes; zeros for a group without cells."""
    return (grouping(codes, n_groups) @ values).toarray()


def identity_weights(reference: LabelledCells) -> np.ndarray:
    """Return how much each gene tells the reference's labels apart: float64, genes, from 0 to 1.

    The share of a gene's variance, each batch centred, that lies between labels (eta squared of a one-way analysis of variance);
    0 for a gene that does not vary. A gene in which conditions or protocols differ, and types do not, weighs nothing.
    """
    values, n_cells = reference.values, np.bincount(reference.labels, minlength=len(reference.names))
    of_batches = group_means(values, reference.batches, reference.n_batches)
    squares = _squares(values)
    total = squares - np.bincount(reference.batches, minlength=reference.n_batches) @ of_batches**2
    together = grouping(reference.labels, len(n_cells)) @ grouping(reference.batches, reference.n_batches).astype(bool).T
    centred = group_means(values, reference.labels, len(n_cells)) - together @ of_batches
    between = n_cells @ centred**2
    differs = (total > ROUNDING * squares) & (between > ROUNDING * total)
    return np.divide(between, total, out=np.zeros_like(total), where=differs).clip(0, 1)


def _squares(values: sparse.csr_matrix) -> np.ndarray:
    """The sum of squares of each gene: float64, genes; those of float32 would not tell a gene that does not vary."""
    return np.bincount(values.indices, values.data.astype(np.float64) ** 2, minlength=values.shape[1])


def moments(values: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each gene: float64, genes."""
    mean = np.asarray(values.mean(axis=0, dtype=np.float64)).ravel()
    squares = _squares(values) / values.shape[0]
    variance = squares - mean**2
    return mean, np.sqrt(np.where(variance > ROUNDING * squares, variance, 0))


def dense(cells: Cells, rows: slice | np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Return the expression of some cells less the shift of the batch of each (batches x genes): float32, rows x genes."""
    values = cells.values[rows].toarray()
    values -= shifts.astype(np.float32)[cells.batches[rows]]
    return values


def drawn_rows(n: int, n_genes: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """Draw as many of `n` cells as hold `most` values, all if these do not: ascending int64."""
    return sample(n, max(1, most // max(n_genes, 1)), rng)
