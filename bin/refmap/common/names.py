"""Names of cells, which are text, and of millions of cells most of what is held."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import zarr

# Names that are Python's text at once.
NAMES = 1 << 16


class Names:
    """Names of cells, of which a block at a time is read: text, 100 bytes a name, is most of what a large query would be held by.

    Parameters
    ----------
    stored
        What has a shape and gives an array for a slice.
    as_text
        What takes such an array for an object array of str.
    """

    def __init__(self, stored, as_text: Callable = lambda values: np.asarray(values, dtype=object)):
        self._stored, self._as_text = stored, as_text
        # Whole chunks: what is stored is unpacked no more than once
        chunk = (getattr(stored, "chunks", None) or (1,))[0]
        self._starts = range(0, len(self), -(-NAMES // chunk) * chunk)

    def __len__(self) -> int:
        return self._stored.shape[0]

    def _block(self, start: int) -> np.ndarray:
        return self._as_text(self._stored[start : start + self._starts.step])

    def blocks(self) -> Iterator[np.ndarray]:
        """All of them in their order, some at a time: object arrays of str."""
        return map(self._block, self._starts)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Those in some rows, which are numbers in any order: object array of str."""
        order = np.argsort(rows, kind="stable")
        found = np.empty(len(rows), dtype=object)
        for start, some in zip(self._starts, np.split(order, np.searchsorted(rows[order], self._starts[1:])), strict=False):
            if len(some):
                found[some] = self._block(start)[rows[some] - start]
        return found

    def index(self, rows: np.ndarray | None = None) -> pd.Index:
        """All of them, or those in some rows, which are ascending numbers: each takes few bytes more than its letters."""
        blocks = self.blocks()
        if rows is not None:
            parts = np.split(rows, np.searchsorted(rows, self._starts[1:]))
            blocks = (self._block(start)[part - start] for start, part in zip(self._starts, parts, strict=False))
        return pd.Index([], dtype="str").append([pd.Index(block, dtype="str") for block in blocks])

    def same_as(self, others: Names) -> bool:
        """Whether these are the same as others, in the same order."""
        if len(self) != len(others):
            return False
        starts = max(self._starts, others._starts, key=lambda starts: starts.step)
        ends = [(start, start + starts.step) for start in starts]
        return all(np.array_equal(*(of._as_text(of._stored[start:end]) for of in (self, others))) for start, end in ends)


def write_names(table: zarr.Group, names: pd.Index) -> None:
    """Write the names of a table's rows, in the place of those that it has, as anndata writes text, but block by block."""
    from anndata.io import write_elem

    stored = table.attrs["_index"]
    write_elem(table, stored, names[:NAMES].to_numpy(object), dataset_kwargs={"chunks": (min(NAMES, max(1, len(names))),)})
    table[stored].resize((len(names),))
    for start in range(NAMES, len(names), NAMES):
        table[stored][start : start + NAMES] = names[start : start + NAMES].to_numpy(object)
