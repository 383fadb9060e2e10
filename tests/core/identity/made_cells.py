"""Made counts of cell types whose truth is known, for the looks at expression."""

from dataclasses import dataclass

import numpy as np
from refmap.identity.cells import Cells, LabelledCells
from refmap.identity.compare import Comparison, compare
from refmap.identity.expression import log_normalize
from refmap.identity.pairing import Counted, pair
from scipy import sparse

N_GENES = 120


@dataclass(frozen=True)
class Sampled(Counted):
    """A reference's sample, with a column of its labels."""

    labels: np.ndarray | None = None


def look(reference: Sampled, query: Counted, *how, **options) -> Comparison:
    """What :func:`refmap.identity.compare.compare` says of both."""
    return compare(pair(reference, query), reference.labels, *how, **options)


@dataclass
class Made:
    """Cells with counts, a latent, a type and a batch."""

    counts: sparse.csr_matrix
    latent: np.ndarray
    types: np.ndarray
    batches: np.ndarray

    @property
    def genes(self) -> np.ndarray:
        return np.array([f"gene {i}" for i in range(N_GENES)], dtype=object)

    def take(self, rows) -> "Made":
        return Made(self.counts[rows], self.latent[rows], self.types[rows], self.batches[rows])

    def labelled(self) -> LabelledCells:
        names, labels = np.unique(self.types.astype(object), return_inverse=True)
        return LabelledCells(log_normalize(self.counts), self.latent, self.batches, labels, names)

    def cells(self) -> Cells:
        return Cells(log_normalize(self.counts), self.latent, self.batches)

    def counted(self) -> Counted:
        return Counted(self.counts, self.genes, self.latent, self.batches)

    def sampled(self) -> Sampled:
        return Sampled(self.counts, self.genes, self.latent, self.batches, labels=self.types)


def make(sizes: dict[str, int], n_batches: int, seed: int, shifted: float = 0.0, places: dict[str, str] | None = None) -> Made:
    """Poisson counts of types (`sizes`: name -> cells), each with ten genes that are on, in equal batches.

    Genes of each batch are multiplied by factors of its own, whose logarithms have the standard deviation `shifted`. `places`:
    types that the latent puts where another one lies.
    """
    rng = np.random.default_rng(seed)
    common = np.random.default_rng(7)
    base = common.gamma(2.0, 0.6, N_GENES)
    centers = {f"type {i}": common.normal(size=6) * 6 for i in range(6)}
    types = rng.permutation(np.repeat(list(sizes), list(sizes.values())))
    number = np.array([int(name.split()[1]) for name in types])
    mean = np.tile(base, (len(types), 1))
    for i in range(10):
        mean[np.arange(len(types)), 10 * number + i] *= 8
    batches = rng.integers(0, n_batches, len(types))
    mean *= np.exp(rng.normal(size=(n_batches, N_GENES)) * shifted)[batches]
    mean *= rng.uniform(0.5, 1.5, len(types))[:, None]
    latent = np.stack([centers[(places or {}).get(name, name)] for name in types]) + rng.normal(size=(len(types), 6))
    return Made(sparse.csr_matrix(rng.poisson(mean).astype(np.float32)), latent.astype(np.float32), types, batches)


# Cells of the types that the reference has.
KNOWN = {"type 0": 120, "type 1": 90, "type 2": 80, "type 3": 70}
