"""What a model expects of a query's cells, for the judgement of a mapping by its model and its query alone.

Surgery has the model and its library, the judgement has neither: so what the one decodes lies in a small file for the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..families.base import Decoder

# Cells that are decoded, and values in all: fewer cells of a model with many genes.
MOST_CELLS, MOST_VALUES = 5_000, 10_000_000
# Half precision has no shares below 0.00000006, which many genes have: so they are held as what is expected of so many counts.
SCALE = 10_000
# Cells that are decoded at once.
ROWS = 512
# Cells that are made up to see what the genes carry, and counts of each.
MADE_UP, DEPTH = 1_000, 3_000
# Inverse dispersions beyond which a gamma is nought, or no other than a constant.
SHAPES = (1e-4, 1e6)


@dataclass
class Decoded:
    """What a model expects of some of a query's cells, each in its own batch.

    Attributes
    ----------
    cells
        Their places in the query: int64, ascending.
    genes
        The places among the model's genes of those that the query has: int64, ascending.
    proportions
        Of 10,000 counts of a cell, of all the model's genes, how many are expected of each gene: float16, cells x genes.
    """

    cells: np.ndarray
    genes: np.ndarray
    proportions: np.ndarray

    def write(self, path: Path) -> None:
        """Write to an .npz that has the three arrays under their names."""
        np.savez(path, cells=self.cells, genes=self.genes, proportions=self.proportions)

    @classmethod
    def read(cls, path: Path) -> Decoded:
        with np.load(path) as held:
            return cls(held["cells"], held["genes"], held["proportions"])


def decode(decoder: Decoder, found: np.ndarray, batches: Sequence, placed: np.ndarray | None, seed: int) -> Decoded:
    """Decode up to 5,000 cells, and as many of each batch as there are, and no more than 10 million values.

    Parameters
    ----------
    found
        Bool, the model's genes: which of them the query has.
    batches
        The batch of each cell.
    placed
        Bool, a cell: whether the model embeds it; None: all of them.
    seed
        Of the draw.
    """
    genes = np.flatnonzero(found)
    batches = np.asarray(batches)
    cells = spread(batches if placed is None else batches[placed], _most(len(genes)), np.random.default_rng(seed))
    if placed is not None:
        cells = np.flatnonzero(placed)[cells]
    proportions = np.empty((len(cells), len(genes)), dtype=np.float16)
    for start in range(0, len(cells), ROWS):
        block = slice(start, start + ROWS)
        proportions[block] = decoder.decode(cells[block], None)[0][:, genes] * SCALE
    return Decoded(cells, genes, proportions)


def joined(parts: Sequence[tuple[np.ndarray, Decoded | None]], seed: int) -> Decoded | None:
    """One of several surgeries' on some of the cells each, whose places in the query are given; None if any has none."""
    of_parts = [(cells[part.cells], part) for cells, part in parts if part]
    if len(of_parts) < len(parts):
        return None
    genes = of_parts[0][1].genes
    numbers = np.repeat(np.arange(len(of_parts)), [len(cells) for cells, _ in of_parts])
    rows = spread(numbers, _most(len(genes)), np.random.default_rng(seed))
    cells = np.concatenate([cells for cells, _ in of_parts])[rows]
    order = np.argsort(cells)
    return Decoded(cells[order], genes, np.concatenate([part.proportions for _, part in of_parts])[rows[order]])


def _most(n_genes: int) -> int:
    return min(MOST_CELLS, MOST_VALUES // max(n_genes, 1))


def spread(batches: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Draw at most `most` rows, of each batch as many as of any other or all that it has; int64, ascending."""
    names, sizes = np.unique(batches, return_counts=True)
    drawn, left = [], min(most, len(batches))
    for place, batch in enumerate(np.argsort(sizes, kind="stable")):
        n = min(sizes[batch], left // (len(names) - place))
        drawn.append(rng.choice(np.flatnonzero(batches == names[batch]), n, replace=False))
        left -= n
    return np.sort(np.concatenate(drawn)) if drawn else np.empty(0, dtype=np.int64)


def hshare(decoder: Decoder, cells: np.ndarray, found: np.ndarray, seed: int) -> float | None:
    """The share of what the encoder's first layer tells cells apart by, that the genes carry which the query has.

    1,000 cells are made up as the model has them: the latent of the query's cells, drawn with putting back, decoded in batches of
    the reference that are drawn, and counts of them, 3,000 expected of each cell, gamma-Poisson with the model's dispersion. They
    have all the model's genes. If h is what they give in the first layer's units, before its activation and less the mean of the
    cells, and h' the same with nought for the genes that the query lacks, the share is 1 - |h - h'|^2 / |h|^2. The mean is left
    out as surgery's own weights of a batch can make up for it.

    Parameters
    ----------
    cells
        The places of the query's cells whose latent is taken.
    found
        Bool, the model's genes: which of them the query has.

    Returns
    -------
    1 where the query has all genes; it can be below 0, as genes can carry what others take back. None where the first layer is
    not known, or all cells are the same to it.
    """
    if decoder.weights is None or not len(cells):
        return None
    rng = np.random.default_rng(seed)
    drawn, batches = rng.choice(cells, MADE_UP), rng.integers(0, decoder.n_batches, MADE_UP)
    counts = []
    for start in range(0, MADE_UP, ROWS):
        block = slice(start, start + ROWS)
        proportions, dispersion = decoder.decode(drawn[block], batches[block])
        counts.append(made_up_counts(proportions, dispersion, rng))
    return carried(np.concatenate(counts), found, decoder)


def made_up_counts(proportions: np.ndarray, dispersion: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
    """Draw counts, 3,000 expected of each cell: float32, cells x genes."""
    means = proportions.astype(np.float64) * DEPTH
    if dispersion is not None:
        shapes = np.broadcast_to(np.clip(dispersion, *SHAPES), means.shape).astype(np.float64)
        means = rng.gamma(shapes, means / shapes)
    return rng.poisson(means).astype(np.float32)


def carried(counts: np.ndarray, found: np.ndarray, decoder: Decoder) -> float | None:
    """The share of :func:`hshare`, of counts that are given: float32, cells x genes."""

    def units(values: np.ndarray) -> np.ndarray:
        held = decoder.enters(values) @ decoder.weights.T
        return held - held.mean(axis=0)

    whole = units(counts)
    total = np.square(whole, dtype=np.float64).sum()
    if not total > 0:
        return None
    return float(1 - np.square(whole - units(counts * found), dtype=np.float64).sum() / total)
