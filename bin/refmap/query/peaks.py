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
    ranges = defaultdict(list)
    for place, name in enumerate(wanted):
        if found := peak(name):
            ranges[found[0]].append((*found[1:], place))
    index = {}
    for chromosome, held in ranges.items():
        starts, ends, places = (np.array(column) for column in zip(*sorted(held), strict=True))
        # Where peaks overlap each other, one that starts earlier may end later.
        index[chromosome] = (starts, ends, np.maximum.accumulate(ends), places)
    shared = {}
    for place, name in enumerate(offered):
        found = peak(name)
        if found is None or found[0] not in index:
            continue
        _, start, end = found
        starts, ends, latest, places = index[found[0]]
        near = slice(int(np.searchsorted(latest, start, side="right")), int(np.searchsorted(starts, end)))
        if near.start >= near.stop:
            continue
        bases = np.minimum(ends[near], end) - np.maximum(starts[near], start)
        most = int(bases.argmax())
        shorter = min(end - start, int(ends[near][most] - starts[near][most]))
        if bases[most] >= LEAST_SHARED * shorter:
            shared[place] = int(places[near][most])
    return shared
