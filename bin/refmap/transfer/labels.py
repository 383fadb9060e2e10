"""Labels for cells from the reference cells around them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from .neighbors import Neighbors

UNKNOWN = "Unknown"


@dataclass(frozen=True)
class Transfer:
    """The label of each cell by one column of the reference.

    classes          the column's labels, sorted
    probabilities    float32, cells x classes: what the neighbours of each label weigh together, of those that have one
    """

    classes: list[str]
    probabilities: np.ndarray

    @property
    def best(self) -> np.ndarray:
        """The label that weighs most, whatever its weight: object array of str; `Unknown` where no neighbour has a label."""
        if not self.classes:
            return np.full(len(self.probabilities), UNKNOWN, dtype=object)
        best = np.array(self.classes, dtype=object)[self.probabilities.argmax(axis=1)]
        best[self.probabilities.max(axis=1) == 0] = UNKNOWN
        return best

    @property
    def uncertainty(self) -> np.ndarray:
        """1 less the weight of the label that weighs most: float32; 1 where no neighbour has a label."""
        if not self.classes:
            return np.ones(len(self.probabilities), dtype=np.float32)
        return (1 - self.probabilities.max(axis=1)).clip(0, 1).astype(np.float32)

    def labels(self, threshold: float) -> np.ndarray:
        """The labels, `Unknown` for cells whose uncertainty is above `threshold`."""
        return np.where(self.uncertainty > threshold, UNKNOWN, self.best)


def transfer_labels(labels: pd.Series, neighbors: Neighbors) -> Transfer:
    """Weigh the labels of each cell's nearest reference cells.

    The recipe of the Human Lung Cell Atlas (Sikkema et al. 2023, doi:10.1038/s41591-023-02327-2). `labels` are those of the
    reference's cells, missing where there is none: such a neighbour has no say.
    """
    categories = pd.Categorical(labels.astype(object))
    classes = [str(name) for name in categories.categories]
    codes = categories.codes[neighbors.indices]
    weights = np.where(codes >= 0, neighbors.weights(), 0.0)
    probabilities = np.zeros((len(codes), len(classes)))
    for code in range(len(classes)):
        probabilities[:, code] = np.where(codes == code, weights, 0).sum(axis=1)
    total = probabilities.sum(axis=1, keepdims=True)
    np.divide(probabilities, total, out=probabilities, where=total > 0)
    return Transfer(classes, probabilities.astype(np.float32))
