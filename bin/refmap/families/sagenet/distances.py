"""The spatial distances that SageNet reconstructs from its predictions (Heidari et al. 2022), by blocks of cells.

The distance of two cells is the symmetric Kullback-Leibler divergence of what is predicted of them, which is scaled to a
Frobenius norm of one for each partition and added up over partitions.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import sparse

# Numbers in a block of distances: 128 MiB of float64.
BLOCK_NUMBERS = 1 << 24


def spatial_distances(predicted: list[np.ndarray], n_neighbors: int | None) -> sparse.csr_matrix:
    """Return the distances between cells, without those of a cell to itself.

    Parameters
    ----------
    predicted
        For each partition, cells x labels; the rows are distributions.
    n_neighbors
        How many of the nearest cells to keep of each cell; None: all.

    Returns
    -------
    CSR float32, cells x cells; a distance of zero that was computed is stored.
    """
    n = len(predicted[0])
    kept = n - 1 if n_neighbors is None else min(n_neighbors, n - 1)
    parts = [_Divergence(values) for values in predicted]
    norms = [part.norm() or 1.0 for part in parts]
    data, indices = np.empty((n, kept), np.float32), np.empty((n, kept), np.int32)
    for block in _blocks(n):
        distances = sum(part.rows(block) / norm for part, norm in zip(parts, norms))
        distances[_itself(block, n)] = np.inf
        nearest = np.sort(np.argpartition(distances, max(kept - 1, 0), axis=1)[:, :kept], axis=1)
        indices[block], data[block] = nearest, np.take_along_axis(distances, nearest, axis=1)
    return sparse.csr_matrix((data.ravel(), indices.ravel(), np.arange(n + 1) * kept), shape=(n, n))


def _blocks(n: int) -> Iterator[slice]:
    size = max(1, BLOCK_NUMBERS // n)
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def _itself(block: slice, n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(block.stop - block.start), np.arange(n)[block]


class _Divergence:
    """The symmetric Kullback-Leibler divergence between rows, in bits."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values
        # A label without any probability adds nothing, as in the library.
        self.logs = np.log2(values, out=np.zeros_like(values), where=values > 0)
        self.entropy = -(self.values * self.logs).sum(axis=1)

    def rows(self, block: slice) -> np.ndarray:
        """The divergence of the cells of a block to all cells: block x cells, zero to themselves."""
        crossed = self.values[block] @ self.logs.T + self.logs[block] @ self.values.T
        divergence = -crossed - self.entropy[block, None] - self.entropy
        divergence[_itself(block, len(self.values))] = 0
        return divergence

    def norm(self) -> float:
        """The Frobenius norm of all divergences, cells x cells."""
        return float(np.sqrt(sum(np.square(self.rows(block)).sum() for block in _blocks(len(self.values)))))
