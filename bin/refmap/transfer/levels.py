"""Columns of labels that are levels of one annotation, coarse to fine: which they are, and labels in them that agree.

In a chain of levels labels are transferred from the top down:

1. A reference cell without a coarse label has the parent of its finer one; a finer label that is no child of the cell's coarser one
   is left out, as is one of a cell whose labels above it are not known.
2. The weight of a label at a finer level is its share of all neighbours that have a label at any level. So the children of a label
   never weigh more than it does, and what they weigh less is of neighbours that have no finer label: there the annotation may end.
3. The label at a finer level is the child that weighs most of the label at the level above; none where none of its children weighs.

So the coarsest column has the labels that it would have alone, and each level the surest name for a cell that agrees with them. From the
bottom up, a label of many children would lose cells to one of few. Wherever a label weighs more than half, both ways give the same. That
a cell of the reference may have no finer label, and that this counts against the finer labels around it, is as in the Human Lung Cell
Atlas (Sikkema et al. 2023, doi:10.1038/s41591-023-02327-2), whose cells then carry the coarser. The rest is refmap's.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..common.spelling import says_missing
from .labels import UNKNOWN, Transfer, as_categories, shares, transfer_labels, weigh
from .neighbors import Neighbors

# Of the cells with both labels, those whose finer label lies within one coarser label: annotations have their slips.
NESTED = 0.99
# And of the cells without the most frequent coarse label, those it may be wrong for: in a column that is nearly all one label
# anything lies within one.
MOST_MISSED = 0.1
# Of the cells with a finer label, those that have a coarser one.
FEWEST_BOTH = 0.5


@dataclass(frozen=True)
class Levels:
    """Columns of labels that are levels of one annotation.

    name       what the annotation is called: the common stem of its columns, else the finest column
    keys       its columns, coarse to fine, two at least
    parents    of each column but the first: its labels -> the label of each one level up
    """

    name: str
    keys: tuple[str, ...]
    parents: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class _Column:
    """Labels as codes (int32, cells; -1: none) of classes, which are sorted; no class says that there is no label."""

    codes: np.ndarray
    classes: list[str]

    @classmethod
    def of(cls, labels: pd.Series) -> _Column:
        found = as_categories(labels)
        found = found.remove_categories([name for name in found.categories if says_missing(str(name))])
        return cls(found.codes.astype(np.int32), [str(name) for name in found.categories])

    @property
    def sizes(self) -> np.ndarray:
        """Cells of each label."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.classes))


def find_levels(labels: Mapping[str, pd.Series]) -> list[Levels]:
    """Find the chains of columns of which each finer one subdivides the coarser one before it.

    A column subdivides another if 99 % of the cells with labels in both have, for each of its labels, one label of the other; labels
    of one cell do not count, as they lie within one in any column. No more than a tenth of the cells without the most frequent
    coarse label may be among the exceptions, and half of the cells with a finer label have a coarser one. Two columns that subdivide
    each other are levels if one has more labels where both have some, or else fewer cells with a label: it is the finer one.
    Columns of one label are no levels, nor is one with a label of whose cells none has a coarser.

    Parameters
    ----------
    labels
        Column -> the labels of the reference's cells, missing (or a text that says so, as ``None``) where there is none.

    Returns
    -------
    The chains, the longest first; each column is in one of them at most.
    """
    columns = {key: column for key, values in labels.items() if len((column := _Column.of(values)).classes) > 1}
    coarser: dict[str, list[str]] = {
        key: [other for other in columns if other != key and _subdivides(columns[key], columns[other])] for key in columns
    }
    chains, left = [], sorted(columns, key=lambda key: len(coarser[key]))
    while len(chain := _longest(left, coarser)) > 1:
        chains.append(chain)
        left = [key for key in left if key not in chain]
    found: list[Levels] = []
    for chain in chains:
        taken = {levels.name for levels in found}
        name = next(name for name in (_stem(chain), chain[-1], "_".join(chain)) if name and name not in taken)
        parents = {fine: _parents(columns[fine], columns[coarse]) for coarse, fine in zip(chain, chain[1:])}
        found.append(Levels(name, tuple(chain), parents))
    return found


def _longest(keys: Sequence[str], coarser: Mapping[str, Sequence[str]]) -> list[str]:
    """The longest chain, coarse to fine, of some keys, which come in an order in which the coarser go first."""
    best: dict[str, list[str]] = {}
    for key in keys:
        best[key] = max((best[other] for other in keys if other in best and other in coarser[key]), key=len, default=[]) + [key]
    return max(best.values(), key=len, default=[])


def _table(fine: _Column, coarse: _Column) -> np.ndarray:
    """Cells by their labels in both columns: int64, fine x coarse."""
    both = (fine.codes >= 0) & (coarse.codes >= 0)
    shape = len(fine.classes), len(coarse.classes)
    return np.bincount(fine.codes[both].astype(np.int64) * shape[1] + coarse.codes[both], minlength=shape[0] * shape[1]).reshape(
        shape
    )


def _subdivides(fine: _Column, coarse: _Column) -> bool:
    table = _table(fine, coarse)
    if not _nested(table, fine.sizes):
        return False
    if not _nested(table.T, coarse.sizes):
        return True
    n_fine, n_coarse = ((sizes > 0).sum() for sizes in (table.sum(axis=1), table.sum(axis=0)))
    return n_fine > n_coarse or (n_fine == n_coarse and fine.sizes.sum() < NESTED * coarse.sizes.sum())


def _nested(table: np.ndarray, sizes: np.ndarray) -> bool:
    """Whether each label of the rows, of which there are `sizes` cells, lies within one of the columns."""
    together = table.sum(axis=1)
    if not together.all() or together.sum() < FEWEST_BOTH * sizes.sum():
        return False
    table = table[together > 1]
    n = table.sum()
    missed = n - table.max(axis=1).sum()
    return bool(n and missed <= (1 - NESTED) * n and missed <= MOST_MISSED * (n - table.sum(axis=0).max()))


def _parents(fine: _Column, coarse: _Column) -> dict[str, str]:
    most = _table(fine, coarse).argmax(axis=1)
    return {label: coarse.classes[place] for label, place in zip(fine.classes, most.tolist())}


def _stem(keys: Sequence[str]) -> str:
    """What the names of columns begin with, up to the end of a word or a number: 'ann_level' of 'ann_level_1' and 'ann_level_2'."""
    stem = os.path.commonprefix(list(keys))
    if any(key[len(stem) : len(stem) + 1].isalpha() for key in keys):
        stem = re.sub(r"[^\W_]+$", "", stem)
    # The l of celltype.l1 and celltype.l2 is no word
    return re.sub(r"[\W_]+[^\W_]?$", "", stem)


def best_labels(
    levels: Levels, labels: Mapping[str, pd.Categorical], certain: Mapping[str, np.ndarray]
) -> tuple[pd.Categorical, pd.Categorical]:
    """Return for each cell the label at the finest level at which it is certain, and which level that is.

    Parameters
    ----------
    labels
        Column -> the label of each cell; missing or `Unknown` where it has none.
    certain
        Column -> whether that label is certain, bool.

    Returns
    -------
    The labels, `Unknown` where none is certain, of those that there are sorted, `Unknown` the last; and the names of their columns,
    missing there, ordered from coarse to fine.
    """
    n = len(labels[levels.keys[0]])
    names = [*sorted({name for key in levels.keys for name in labels[key].categories} - {UNKNOWN}), UNKNOWN]
    best, level = np.full(n, len(names) - 1, dtype=np.int32), np.full(n, -1, dtype=np.int8)
    for place, key in enumerate(levels.keys):
        sure = np.asarray(certain[key], dtype=bool) & _is_label(labels[key])
        best[sure] = pd.Index(names).get_indexer(labels[key].categories)[labels[key].codes[sure]]
        level[sure] = place
    return (
        pd.Categorical.from_codes(best, names).remove_unused_categories(),
        pd.Categorical.from_codes(level, list(levels.keys), ordered=True),
    )


def certain_with_finer(
    levels: Levels, labels: Mapping[str, pd.Categorical], certain: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return column -> whether the label of each cell, or a finer one of it, is certain: who knows the part knows the whole.

    `labels` and `certain` are as for :func:`best_labels`.
    """
    found: dict[str, np.ndarray] = {}
    finer = np.zeros(len(labels[levels.keys[0]]), dtype=bool)
    for key in reversed(levels.keys):
        finer = found[key] = _is_label(labels[key]) & (np.asarray(certain[key], dtype=bool) | finer)
    return found


def _is_label(labels: pd.Categorical) -> np.ndarray:
    return (labels.codes >= 0) & (labels != UNKNOWN)


class Annotation:
    """The labels of a reference's cells, ready to be transferred, some cells after the others.

    Parameters
    ----------
    labels
        Column -> the labels of the reference's cells, missing where there is none.
    levels
        As :func:`find_levels` found them in these labels.
    """

    def __init__(self, labels: Mapping[str, pd.Series], levels: Sequence[Levels]):
        chained = {key for chain in levels for key in chain.keys}
        self._keys, self._chains = list(labels), []
        self._alone = {key: as_categories(values) for key, values in labels.items() if key not in chained}
        for chain in levels:
            columns = {key: _Column.of(labels[key]) for key in chain.keys}
            parents = _places(chain, columns)
            codes = _agreeing(chain, columns, parents)
            self._chains.append([(key, columns[key].classes, codes[key], parents.get(key)) for key in chain.keys])

    def transfer(self, neighbors: Neighbors) -> dict[str, Transfer]:
        """Transfer the columns, in their order: those of a chain of levels so that they agree, the others each by itself.

        `neighbors` are the reference cells around each cell.
        """
        made = {key: transfer_labels(values, neighbors) for key, values in self._alone.items()}
        for chain in self._chains:
            made |= _transfer_levels(chain, neighbors)
        return {key: made[key] for key in self._keys}


def transfer_columns(labels: Mapping[str, pd.Series], neighbors: Neighbors, levels: Sequence[Levels]) -> dict[str, Transfer]:
    """Transfer columns of labels at once: see :class:`Annotation`."""
    return Annotation(labels, levels).transfer(neighbors)


def _transfer_levels(chain: Sequence[tuple], neighbors: Neighbors) -> dict[str, Transfer]:
    """Transfer a chain: of each column its key, classes, the cells' codes, and its labels' places among those one level up."""
    (coarsest, classes, codes, _), *finer = chain
    weights = weigh(codes, len(classes), neighbors)
    total = weights.sum(axis=1, keepdims=True)
    above = Transfer(classes, shares(weights, total))
    made = {coarsest: above}
    for key, classes, codes, parent in finer:
        probabilities = shares(weigh(codes, len(classes), neighbors), total)
        # Equal sums of the same numbers may differ in their last digit
        probabilities = np.minimum(probabilities, above.probabilities[:, parent])
        children = np.where(parent == above.places[:, None], probabilities, 0)
        chosen = np.where(children.max(axis=1) > 0, children.argmax(axis=1), -1)
        made[key] = above = Transfer(classes, probabilities, chosen)
    return made


def _places(levels: Levels, columns: Mapping[str, _Column]) -> dict[str, np.ndarray]:
    """The parents of the labels of each column but the first, by their places among the labels one level up."""
    return {
        fine: np.array([columns[coarse].classes.index(levels.parents[fine][label]) for label in columns[fine].classes])
        for coarse, fine in zip(levels.keys, levels.keys[1:])
    }


def _agreeing(levels: Levels, columns: Mapping[str, _Column], parents: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The codes of the reference's cells, so that each label is a child of the cell's label one level up."""
    codes = {key: columns[key].codes.copy() for key in levels.keys}
    steps = list(zip(levels.keys, levels.keys[1:]))
    for coarse, fine in reversed(steps):
        filled = (codes[coarse] < 0) & (codes[fine] >= 0)
        codes[coarse][filled] = parents[fine][codes[fine][filled]]
    for coarse, fine in steps:
        codes[fine][parents[fine][codes[fine]] != codes[coarse]] = -1
    return codes
