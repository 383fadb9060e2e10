"""Labels for cells from the reference cells around them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from .neighbors import Neighbors

UNKNOWN = "Unknown"


@dataclass(frozen=True)
class Given:
    """The label that each cell has by one column of the reference, whatever its weight.

    classes        the column's labels, sorted
    places         int32, cells: the label by its place in `classes`; -1 where there is none
    uncertainty    float32, cells: 1 less what the label weighs; 1 where there is none; NaN for a cell that has no place
    """

    classes: list[str]
    places: np.ndarray
    uncertainty: np.ndarray

    @property
    def best(self) -> np.ndarray:
        """The label of each cell: object array of str; `Unknown` where there is none."""
        return np.array([*self.classes, UNKNOWN], dtype=object)[self.places]

    @property
    def column(self) -> pd.Categorical:
        """The same in a few bytes a cell: `classes` in their order, then `Unknown`, are its categories."""
        names = [*self.classes, UNKNOWN]
        return pd.Categorical(names, categories=list(dict.fromkeys(names))).take(self.places)


@dataclass(frozen=True)
class Transfer:
    """The label of each cell by one column of the reference.

    classes          the column's labels, sorted
    probabilities    float32, cells x classes: what the neighbours of each label weigh together, of those that have one
    chosen           int64, the label of each cell, by its place in `classes`; -1 for none. None: the one that weighs most, as it is
                     but where the column is a level of an annotation (see :mod:`refmap.transfer.levels`)
    """

    classes: list[str]
    probabilities: np.ndarray
    chosen: np.ndarray | None = None

    @property
    def places(self) -> np.ndarray:
        """The label of each cell, whatever its weight, by its place in `classes`: int64, -1 where no neighbour has a label."""
        if self.chosen is not None:
            return self.chosen
        if not self.classes:
            return np.full(len(self.probabilities), -1)
        return np.where(self.probabilities.max(axis=1) == 0, -1, self.probabilities.argmax(axis=1))

    @property
    def best(self) -> np.ndarray:
        """The label of each cell, whatever its weight: object array of str; `Unknown` where no neighbour has a label."""
        return self.given.best

    @property
    def uncertainty(self) -> np.ndarray:
        """1 less the weight of the label: float32; 1 where no neighbour has a label."""
        places = self.places
        weights = np.zeros(len(places), dtype=self.probabilities.dtype)
        found = places >= 0
        weights[found] = self.probabilities[found, places[found]]
        return (1 - weights).clip(0, 1).astype(np.float32)

    @property
    def given(self) -> Given:
        """What is kept of each cell without what the other labels weigh."""
        return Given(self.classes, self.places.astype(np.int32), self.uncertainty)

    def labels(self, threshold: float) -> np.ndarray:
        """The labels, `Unknown` for cells whose uncertainty is above `threshold`."""
        return np.where(self.uncertainty > threshold, UNKNOWN, self.best)


def as_categories(labels: pd.Series) -> pd.Categorical:
    """Labels as codes of those that some cell has, which are sorted; text for each cell would be large."""
    found = pd.Categorical(labels).remove_unused_categories()
    return found.set_categories(pd.Categorical(found.categories.to_numpy(object)).categories)


def transfer_labels(labels: pd.Series | pd.Categorical, neighbors: Neighbors) -> Transfer:
    """Weigh the labels of each cell's nearest reference cells.

    The recipe of the Human Lung Cell Atlas (Sikkema et al. 2023, doi:10.1038/s41591-023-02327-2). `labels` are those of the
    reference's cells, missing where there is none: such a neighbour has no say.
    """
    categories = labels if isinstance(labels, pd.Categorical) else as_categories(labels)
    classes = [str(name) for name in categories.categories]
    weights = weigh(categories.codes, len(classes), neighbors)
    return Transfer(classes, shares(weights, weights.sum(axis=1, keepdims=True)))


def weigh(codes: np.ndarray, n_classes: int, neighbors: Neighbors) -> np.ndarray:
    """Return what the neighbours of each label weigh together: float64, cells x labels.

    `codes` are those of the reference's cells, int, -1 where there is no label.
    """
    near = np.asarray(codes)[neighbors.indices].astype(np.int64)
    labelled, places = near >= 0, near + n_classes * np.arange(len(near))[:, None]
    summed = np.bincount(places[labelled], neighbors.weights[labelled], minlength=len(near) * n_classes)
    # Of nothing numpy counts in whole numbers.
    return summed.astype(np.float64, copy=False).reshape(len(near), n_classes)


def shares(weights: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return weights (cells x labels) as shares of their `total` (cells x 1): float32, 0 where that is 0."""
    return np.divide(weights, total, out=np.zeros_like(weights), where=total > 0).astype(np.float32)
