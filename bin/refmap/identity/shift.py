"""By how much a query's expression is off as a whole, batch by batch, whatever its cells are."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from .cells import Cells, LabelledCells
from .expression import averaging, group_means, grouping

# Fewer cells of a label say little of how its expression is off.
FEWEST_OF_LABEL = 5
# A batch of fewer is taken to be off as the whole query is.
FEWEST_IN_BATCH = 30


def label_votes(neighbors: np.ndarray, labels: np.ndarray, n_labels: int) -> np.ndarray:
    """Return the share of each cell's neighbours (int, cells x k: rows of the reference) that have each label: float64, cells x labels."""
    code = labels[neighbors]
    votes = np.zeros((len(neighbors), n_labels))
    for column in code.T:
        votes[np.arange(len(code)), column] += 1
    return votes / neighbors.shape[1]


def batch_shifts(query: Cells, reference: LabelledCells, neighbors: np.ndarray) -> np.ndarray:
    """Return what is to be taken off the expression of each of the query's batches: float64, batches x genes.

    Cells are parted by the label that most of their latent neighbours have. Of each label with five cells: the mean of the batch
    less that of the neighbours. The shift is the median over labels, which a type that is out of place does not move, and their
    mean where there are one or two. A batch of fewer than 30 cells gets that of the whole query.

    Parameters
    ----------
    neighbors
        int, query cells x k: the nearest rows of the reference in the latent space.
    """
    matched = label_votes(neighbors, reference.labels, len(reference.names)).argmax(axis=1)
    average = averaging(neighbors, len(reference))
    sizes = np.bincount(query.batches, minlength=query.n_batches)
    large = sizes >= FEWEST_IN_BATCH
    shifts = np.zeros((query.n_batches, query.values.shape[1]))
    if not large.all():
        shifts[~large] = _shift(query.values, reference.values, average, matched)
    for batch in np.flatnonzero(large):
        rows = query.batches == batch
        shifts[batch] = _shift(query.values[rows], reference.values, average[rows], matched[rows])
    return shifts


def _shift(query: sparse.csr_matrix, reference: sparse.csr_matrix, average: sparse.csr_matrix, matched: np.ndarray) -> np.ndarray:
    """The median over the labels, as :func:`batch_shifts` has it; zeros where no label has five cells."""
    there, codes, sizes = np.unique(matched, return_inverse=True, return_counts=True)
    there = sizes >= FEWEST_OF_LABEL
    if not there.any():
        return np.zeros(query.shape[1])
    differences = group_means(query, codes, len(sizes)) - ((grouping(codes, len(sizes)) @ average) @ reference).toarray()
    return center(differences[there])


def center(differences: np.ndarray) -> np.ndarray:
    """Return the median of rows, which needs three of them, or their mean: float64, columns."""
    return np.median(differences, axis=0) if len(differences) > 2 else differences.mean(axis=0)
