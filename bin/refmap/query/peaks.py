"""Peaks of open chromatin: what their names say of where they lie, and which of a query's is which of a model's."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

# chr1:100-600, chr1-100-600, chr1_100_600, GL000194.1:55758-56597 and, as R may write it, chr1.100.600.
PEAK = re.compile(r"(?:chr)?([\w.]*?\w)[:_.-](\d+)[-_.](\d+)", re.IGNORECASE)
# Two peaks are one if they share at least so much of the shorter one.
LEAST_SHARED = 0.5


def peak(name: str) -> tuple[str, int, int] | None:
    """Chromosome (without `chr`), start and end that a feature is named by; None if it is named otherwise."""
    found = PEAK.fullmatch(name.strip())
    if not found or int(found[2]) >= int(found[3]):
        return None
    return found[1].upper(), int(found[2]), int(found[3])


def overlapping(wanted: Sequence[str], offered: Sequence[str]) -> dict[int, int]:
    """For each offered peak the wanted one that it shares most with, by their places; none where that is less than `LEAST_SHARED`.

    Several offered peaks may lie in one wanted peak; features that are no peaks have no part in it.
    """
    shared, index = {}, _by_chromosome(wanted)
    for chromosome, (starts, ends, places) in _by_chromosome(offered).items():
        if chromosome in index:
            found = _most_shared(*index[chromosome][:2], starts, ends)
            held = found >= 0
            shared |= dict(zip(places[held].tolist(), index[chromosome][2][found[held]].tolist(), strict=True))
    return shared


def _by_chromosome(names: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Starts, ends and places of the peaks on each chromosome, by their starts."""
    ranges = defaultdict(list)
    for place, name in enumerate(names):
        if found := peak(name):
            ranges[found[0]].append((*found[1:], place))
    return {chromosome: tuple(np.array(sorted(held)).T) for chromosome, held in ranges.items()}


def _most_shared(starts: np.ndarray, ends: np.ndarray, other_starts: np.ndarray, other_ends: np.ndarray) -> np.ndarray:
    """For each of other ranges the place of that with which it shares most, or -1; all of one chromosome, `starts` ascending."""
    # Where ranges overlap each other, one that starts earlier may end later.
    first = np.searchsorted(np.maximum.accumulate(ends), other_starts, side="right")
    last = np.searchsorted(starts, other_ends)
    most, found = np.zeros(len(other_starts), dtype=np.int64), np.full(len(other_starts), -1, dtype=np.int64)
    for step in range(int((last - first).max(initial=0))):
        at = np.minimum(first + step, len(starts) - 1)
        bases = np.minimum(ends[at], other_ends) - np.maximum(starts[at], other_starts)
        shorter = np.minimum(ends[at] - starts[at], other_ends - other_starts)
        better = (first + step < last) & (bases > most) & (bases >= LEAST_SHARED * shorter)
        most[better], found[better] = bases[better], at[better]
    return found
