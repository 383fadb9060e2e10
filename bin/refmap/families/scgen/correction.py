"""Removal of batch effects by label, as scGen does it in its latent space (Lotfollahi et al. 2019).

The cells of one label lie in groups: those of the reference, and those of each batch of the query. Every group is moved so
that its mean becomes that of the largest one. A label of one group alone stays where it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Correction:
    """Where the cells of a query are to be moved.

    Attributes
    ----------
    shift
        Float32, cells x latent dimensions: to be added to the latent.
    alone
        Labels of one group, which stay where they are.
    outnumbered
        Labels of which a batch of the query has more cells than the reference: they are moved there and not to the reference.
    """

    shift: np.ndarray
    alone: list[str] = field(default_factory=list)
    outnumbered: list[str] = field(default_factory=list)


def means_by(latent: np.ndarray, groups: np.ndarray) -> dict[str, tuple[int, np.ndarray]]:
    """The number of cells and the mean of the latent (cells x dimensions) of each group."""
    found = {}
    for group in np.unique(groups):
        members = latent[groups == group]
        found[str(group)] = (len(members), members.mean(axis=0, dtype=np.float64))
    return found


def correct(
    latent: np.ndarray,
    labels: np.ndarray,
    batches: np.ndarray,
    unlabeled: str,
    reference: Mapping[str, tuple[int, np.ndarray]],
    towards: str = "largest",
) -> Correction:
    """Find where to move each cell.

    Parameters
    ----------
    latent, labels, batches
        Of the query: cells x dimensions, and a text a cell.
    unlabeled
        The label that stands for none: such cells stay.
    reference
        By label, the number of the reference's cells and their mean.
    towards
        ``largest`` or ``reference``: the group that the others of a label are moved to. A label that the reference lacks is
        moved to the largest group all the same.
    """
    correction = Correction(np.zeros_like(latent))
    for label in np.unique(labels[labels != unlabeled]):
        cells = np.flatnonzero(labels == label)
        groups = means_by(latent[cells], batches[cells])
        known = reference.get(label)
        if len(groups) + (known is not None) < 2:
            correction.alone.append(str(label))
            continue
        # Of groups of one size the first by name.
        n_most, target = max(groups.values(), key=lambda group: group[0])
        if known is not None:
            if towards == "reference" or known[0] >= n_most:
                target = known[1]
            else:
                correction.outnumbered.append(str(label))
        for batch, (_, mean) in groups.items():
            correction.shift[cells[batches[cells] == batch]] = target - mean
    return correction
