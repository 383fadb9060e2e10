"""The query's expression in the page to look around in: which of the model's genes, and their values. Read by chunks of cells."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem, sparse_dataset
from scipy import sparse, stats

from ..query.counts import check_values, normalize
from ..transfer.labels import UNKNOWN
from ..trust.structure import log_normalize
from .explore import Genes
from .explore.expression import MOST_GENES

# Cells whose expression tells which genes are informative, and how many a label must have among them.
MOST_CELLS, FEWEST_CELLS = 5_000, 3
# Values of the matrix that tell whether it holds counts.
ENOUGH_VALUES = 10_000
CHUNK_ROWS = 5_000


class Expression:
    """Those of a mapping's aligned cells that have an embedding.

    Parameters
    ----------
    aligned
        AnnData zarr: cells x the model's genes.
    placed
        Bool, a value a cell of it: which are meant. Rows are numbered among these from here on.
    """

    def __init__(self, aligned: Path, placed: np.ndarray):
        root = zarr.open_group(aligned, mode="r")
        self._matrix = sparse_dataset(root["X"])
        self._names = np.asarray(read_elem(root["var"]).index, dtype=object)
        self._placed = np.flatnonzero(placed)

    @property
    def shape(self) -> tuple[int, int]:
        """How many of these cells there are, and how many genes."""
        return len(self._placed), self._matrix.shape[1]

    def __getitem__(self, rows: np.ndarray) -> sparse.csr_matrix:
        """Some of these cells x the model's genes, as they are stored."""
        return self._matrix[self._placed[rows]]

    @cached_property
    def are_counts(self) -> bool:
        return check_values(self._matrix.group["data"][:ENOUGH_VALUES], "counts") is None

    def genes(self, drawn: np.ndarray, offset: int, labels: list[pd.Series], stored: str, seed: int) -> Genes | None:
        """Return genes for the page: markers of the labels, and where these do not suffice those that vary most.

        Parameters
        ----------
        drawn
            The rows of the page's cells from number `offset` on; those before have no expression.
        labels
            A value a row, None for none; the markers of all of them are taken.
        stored
            Where all genes of the query are, to be told.

        Returns
        -------
        None where no gene varies.
        """
        chosen, n_markers = self._choose(labels, seed)
        if not len(chosen):
            return None

        def read(rows: np.ndarray, n: int) -> sparse.csr_matrix:
            of_cells = drawn[rows - offset]
            order = np.argsort(of_cells)
            back = np.empty_like(order)
            back[order] = np.arange(len(order))
            return self.values(of_cells[order], chosen[:n])[back]

        which = f"Of the model's {len(self._names):,} genes this page has up to {MOST_GENES}: "
        which += "the markers of the labels, and those that vary most." if n_markers else "those that vary most."
        return Genes(
            names=list(self._names[chosen]),
            measured=np.arange(offset + len(drawn)) >= offset,
            read=read,
            unit="log-normalised counts" if self.are_counts else "values as the model takes them",
            notes=[which, f"All genes of the query are in {stored}; a page that is opened from disk cannot read them."],
        )

    def values(self, rows: np.ndarray, columns: np.ndarray) -> sparse.csr_matrix:
        """Return the values of some genes: CSR float32, rows x columns; counts are log-normalised by the cells' totals.

        `rows` ascend. The matrix is read by CHUNK_ROWS cells, and of each chunk no more is kept than what is asked for.
        """
        parts, totals, stored = [], [], self._placed[rows]
        for start in range(0, self._matrix.shape[0], CHUNK_ROWS):
            low, high = np.searchsorted(stored, [start, start + CHUNK_ROWS])
            if low == high:
                continue
            chunk = sparse.csr_matrix(self._matrix[start : start + CHUNK_ROWS])[stored[low:high] - start]
            totals.append(np.asarray(chunk.sum(axis=1, dtype=np.float64)).ravel())
            parts.append(chunk[:, columns])
        values = sparse.vstack(parts, format="csr", dtype=np.float32)
        if not self.are_counts:
            return values
        totals = np.concatenate(totals)
        return normalize(values, totals, np.median(totals[totals > 0]) if (totals > 0).any() else 1)

    def _choose(self, labels: list[pd.Series], seed: int) -> tuple[np.ndarray, int]:
        """Return the columns of the genes for the page, the most informative first, and how many of them are markers."""
        known = [values.astype(object).where(values != UNKNOWN, None) for values in labels]
        rows = _draw_rows(known[0] if known else pd.Series(None, index=range(len(self._placed)), dtype=object), seed)
        sampled = sparse.csr_matrix(self[rows]).astype(np.float32)
        values = log_normalize(sampled) if self.are_counts else sampled
        by_label = [genes for column in known for genes in rank_markers(values, column.iloc[rows])]
        markers = take_in_turns(by_label, MOST_GENES)
        variance = _variances(values)
        varying = np.argsort(-variance, kind="stable")
        varying = varying[variance[varying] > 0]
        return np.array(list(dict.fromkeys([*markers, *varying]))[:MOST_GENES], dtype=int), len(markers)


def rank_markers(values: sparse.csr_matrix, labels: pd.Series) -> list[np.ndarray]:
    """Return for each label the columns of the genes that are higher in its cells than in all others, the best first.

    Ranked by Welch's t-test of log-normalised values, the variance overestimated as scanpy does (`t-test_overestim_var`): as if
    there were no more other cells than of the label. Labels of fewer than FEWEST_CELLS cells have no markers, and nor has a
    single label. scanpy itself is not asked, as it compiles its means anew in every process, for seconds.
    """
    labels = labels.reset_index(drop=True)
    counts = labels.value_counts()
    if len(counts) < 2:
        return []
    values, labels = values[labels.notna().to_numpy()].astype(np.float64), labels.dropna().astype(str).to_numpy()
    ranked = []
    for label in sorted(counts.index[counts >= FEWEST_CELLS].astype(str)):
        n = (labels == label).sum()
        (mean, std), (other, spread) = (
            (_means(part), np.sqrt(_variances(part, 1))) for part in (values[labels == label], values[labels != label])
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            score = np.nan_to_num(stats.ttest_ind_from_stats(mean, std, n, other, spread, n, equal_var=False).statistic)
        best = np.argsort(-score, kind="stable")[:MOST_GENES]
        ranked.append(best[score[best] > 0])
    return ranked


def take_in_turns(lists: list[np.ndarray], most: int) -> list[int]:
    """Return at most `most` different numbers: the first of each list, then the second of each, and so on."""
    longest = max(map(len, lists), default=0)
    turns = (int(numbers[place]) for place in range(longest) for numbers in lists if place < len(numbers))
    return list(dict.fromkeys(turns))[:most]


def _draw_rows(labels: pd.Series, seed: int) -> np.ndarray:
    """Draw at most MOST_CELLS rows, ascending, as many of each label as there are: of the rare ones all."""
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    codes = pd.Series(pd.factorize(labels.fillna(UNKNOWN))[0].astype(np.int32)[shuffled])
    turn = codes.groupby(codes.to_numpy()).cumcount().to_numpy()
    return np.sort(shuffled[np.argsort(turn, kind="stable")[:MOST_CELLS]])


def _means(values: sparse.csr_matrix) -> np.ndarray:
    return np.asarray(values.mean(axis=0, dtype=np.float64)).ravel()


def _variances(values: sparse.csr_matrix, ddof: int = 0) -> np.ndarray:
    """Return the variance of each column."""
    n = values.shape[0]
    return (_means(values.multiply(values)) - _means(values) ** 2).clip(0) * (n / max(n - ddof, 1))
