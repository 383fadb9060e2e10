"""scvi-tools' split of the cells into those that train, those that validate and those that do neither."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ....common.stored_rows import PLACE
from .registry import Data

# Where no share of the cells that train is told. A last minibatch of fewer than `FEWEST` cells is left out of these then.
TRAIN_SIZE, FEWEST = 0.9, 3


@dataclass
class Split:
    """The places of the cells, by what they are for."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split(data: Data, train_size: float | None, batch_size: int, seed: int) -> Split:
    """Split the cells at random: of those that have labels and of those that have none the same share."""
    parts: list[list[np.ndarray]] = [[], [], []]
    for cells in (data.is_labelled, ~data.is_labelled):
        places = np.flatnonzero(cells).astype(PLACE)
        order = np.random.RandomState(seed).permutation(places)
        n_train, n_validation = _sizes(len(places), train_size, batch_size)
        for part, start, stop in zip(
            parts, (n_validation, 0, n_train + n_validation), (n_train + n_validation, n_validation, None)
        ):
            part.append(order[start:stop])
    return Split(*(np.concatenate(part) for part in parts))


def _sizes(n_cells: int, train_size: float | None, batch_size: int) -> tuple[int, int]:
    n_train = math.ceil((train_size or TRAIN_SIZE) * n_cells)
    n_validation = n_cells - n_train
    left = n_train % batch_size
    if not train_size and 0 < left < FEWEST:
        n_train -= left
        n_validation += left * (n_validation > 0)
    return n_train, n_validation
