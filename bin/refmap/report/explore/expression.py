"""The genes that are in the page: one byte a cell and gene, compressed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from .columns import FIRST
from .packing import compress

MOST_GENES = 300
# Cells x genes that are read: with more cells there are fewer genes.
MOST_VALUES = 30_000_000
# What the genes may take in the page, as base64.
MOST_BYTES = 4_000_000
LEVELS = 256 - FIRST


@dataclass(frozen=True)
class Genes:
    """Genes to colour cells by.

    names       of the genes, the most informative first: those at the end are left out where there is no room
    measured    bool, cells: those that have values, in the order of the cells that `write_page` is given
    read        takes rows of measured cells (ascending int, in that order too) and a number n; returns their values of the first n
                genes: float, CSR, cells x n. It is called once, with the cells that are drawn
    unit        what the values are
    notes       sentences: which genes these are, and where there are further ones
    """

    names: Sequence[str]
    measured: np.ndarray
    read: Callable[[np.ndarray, int], sparse.csr_matrix]
    unit: str
    notes: Sequence[str] = ()


def pack(genes: Genes, rows: np.ndarray) -> dict | None:
    """Return what the page holds of the genes of the cells drawn (`rows`, in the page's order); None if there are none.

    A value is one of LEVELS between a gene's least and its greatest, so it is off by 1 part in 2 x 253 of that at most.
    """
    measured = genes.measured[rows]
    n = min(len(genes.names), MOST_GENES, MOST_VALUES // max(int(measured.sum()), 1))
    if not n or not measured.any():
        return None
    asked = rows[measured]
    order = np.argsort(asked)
    values = sparse.csc_matrix(genes.read(asked[order], n))
    packed, size = [], 0
    for number in range(n):
        column = np.empty(len(asked))
        column[order] = values[:, [number]].toarray()[:, 0]
        low, high = min(0.0, float(column.min())), float(column.max())
        step = (high - low) / (LEVELS - 1) or 1.0
        levels = compress(np.round((column - low) / step).astype(np.uint8).tobytes())
        size += len(levels)
        if size > MOST_BYTES:
            break
        packed.append({"name": str(genes.names[number]), "low": low, "step": step, "high": high, "levels": levels})
    # Cells that have values, a bit each.
    return {
        "genes": packed,
        "measured": compress(np.packbits(measured).tobytes()),
        "unit": genes.unit,
        "notes": list(genes.notes),
    }
