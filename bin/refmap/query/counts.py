"""Whether a matrix holds what a model wants: counts, or log-normalised values."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from .matrix import Matrix
from .query import Query, layer_name

# How far a count may lie from a whole number, relative to its size: what float32 leaves of one that was scaled and scaled back.
FRACTION = 1e-6


# No log1p of counts is above this; most matrices of counts hold one that is.
MOST_LOGGED = 20


def normalize(aligned: sparse.csr_matrix, totals: np.ndarray, target_sum: float) -> sparse.csr_matrix:
    """log1p of counts (cells x genes) scaled so that each cell's total (cells) becomes `target_sum`; empty cells stay empty."""
    scale = np.divide(target_sum, totals, out=np.zeros(len(totals)), where=totals > 0)
    logged = np.log1p(aligned.data * np.repeat(scale, np.diff(aligned.indptr)))
    return sparse.csr_matrix((logged.astype(np.float32), aligned.indices, aligned.indptr), shape=aligned.shape)


def looks_like_counts(matrix: Matrix, rounded: bool = False) -> bool:
    """Whether the first values of a matrix are counts; a matrix without any is not taken for one of counts.

    Where counts are `rounded`, values that are no whole numbers are counts if some are too large for logarithms.
    """
    values = matrix.sample()
    if rounded and values.max(initial=0) <= MOST_LOGGED:
        rounded = False
    return bool(values.any()) and check_values(values, "counts", rounded) is None


def fractional(values: np.ndarray) -> np.ndarray:
    """Which values are no whole numbers."""
    with np.errstate(invalid="ignore"):
        return np.abs(values - np.rint(values)) > FRACTION * np.maximum(1, np.abs(values))


def check_values(values: np.ndarray, wants: str, rounded: bool = False) -> str | None:
    """What is wrong with values of a matrix for a model that wants 'counts', 'lognorm' or 'any': a phrase, or None.

    Where counts are `rounded` they need not be whole numbers.
    """
    if values.dtype.kind in "iub":
        wrong = {"negative": values < 0} if wants != "any" else {}
    else:
        wrong = {"NaN or infinite": ~np.isfinite(values)}
        with np.errstate(invalid="ignore"):
            if wants != "any":  # log1p of counts is never below 0: these were centred, or are residuals
                wrong["negative"] = values < 0
        if wants == "counts" and not rounded:
            wrong["fractional"] = fractional(values)
    for what, bad in wrong.items():
        if bad.any():
            return f"{int(bad.sum()):,} {what} value{'s' if bad.sum() > 1 else ''} (such as {values[np.argmax(bad)]:.6g})"
    return None


def counts_elsewhere(query: Query, layer: str, fractional: bool = False) -> str:
    """What to do when a layer holds no counts: the other layers that look like counts, by a sample of each.

    Without those, values that are `fractional` may be counts all the same.
    """
    fixes = []
    for other in query.layers:
        if other != layer:
            if looks_like_counts(query.matrix(other)):
                setting = "layer" if query.called == "query" else f"{query.called}_layer"
                fixes.append(f"{layer_name(other)} looks like counts: set {setting}: {other}")
    if fixes:
        return "; ".join(fixes)
    switch = ""
    if fractional and query.called == "query":
        switch = ", or set round_counts: true if these are counts that were corrected (as by SoupX, alevin or RSEM)"
    return f"no other layer looks like counts: give a {query.called} with raw counts{switch}"


class Values:
    """Checks the values of a matrix chunk by chunk, and rounds counts: those that are no whole numbers if they are to be `rounded`."""

    def __init__(self, query: Query, matrix: Matrix, layer: str, wants: str, rounded: bool):
        self.query, self.matrix, self.layer, self.wants, self.rounded = query, matrix, layer, wants, rounded
        self.only_whole = True
        # Of counts: the values that are not zero, those that were no whole numbers, those of them that became zero.
        self.seen = self.moved = self.lost = 0
        self.largest = 0.0

    def check(self, start: int, chunk: sparse.csr_matrix) -> None:
        """Raises RefmapError naming the layer, what was found in these cells, and the fix."""
        wrong = check_values(chunk.data, self.wants, self.rounded)
        if wrong:
            found = f"{wrong} in cells {start + 1:,} to {start + chunk.shape[0]:,}"
            if self.wants == "counts":
                elsewhere = counts_elsewhere(self.query, self.layer, "fractional" in wrong)
                raise self.query.fault(f"holds no counts in {self.matrix.name}: {found}; {elsewhere}.")
            raise self.query.fault(f"has {found} of {self.matrix.name}: remove or replace them.")
        if self.wants == "lognorm" and self.only_whole:
            self.only_whole = bool((chunk.data == np.rint(chunk.data)).all())
        if self.wants == "counts" and chunk.dtype.kind == "f":
            self._round(chunk.data)

    def _round(self, values: np.ndarray) -> None:
        if self.rounded:
            moved = fractional(values)
            self.largest = max(self.largest, float(values.max(initial=0)))
            self.seen += int(np.count_nonzero(values))
            self.moved += int(moved.sum())
            self.lost += int((moved & (np.rint(values) == 0)).sum())
        np.rint(values, out=values)

    @property
    def warnings(self) -> list[str]:
        """How many counts were moved by rounding."""
        if not self.moved:
            return []
        doubt = ""
        if self.largest <= MOST_LOGGED:
            doubt = f" None is above {self.largest:.3g}: make sure that they are counts and no logarithms."
        return [
            f"query '{self.query.shown_as}': {self.moved:,} of {self.seen:,} counts in {self.matrix.name} ({self.moved / self.seen:.1%}) "
            f"are no whole numbers and were rounded, as round_counts says; {self.lost:,} of them became 0.{doubt}"
        ]

    def finish(self, any_value: bool) -> None:
        """Raises RefmapError if counts were given to a model that wants log-normalised values."""
        if self.wants == "lognorm" and self.only_whole and any_value:
            raise self.query.fault(
                f"holds only whole numbers in {self.matrix.name}, but the model wants log-normalised values: "
                "set layer to one that holds log1p of counts scaled per cell, or say how its counts were normalised in a file "
                "refmap.yaml beside the model, such as: normalization: {target_sum: 10000, genes: all}."
            )
