"""A second label for each of a query's cells: what its genes say, once what sets the query apart is off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..transfer.labels import transfer_labels
from ..transfer.neighbors import Index
from .cells import Cells, LabelledCells, parts
from .clusters import FARTHEST
from .expression import MOST_FITTED, blocks, dense, drawn_rows, identity_weights, moments
from .novel import MATCHED
from .shift import batch_shifts, label_votes

COMPONENTS = 30
# Reference cells that vote.
VOTERS = 15
# Genes that vary less are left out: their noise would be blown up.
LEAST_DEVIATION = 0.05
# A held-out batch holds so many cells at least, and leaves as many; of more, the ten largest.
FEWEST_HELD_OUT, MOST_HELD_OUT = 20, 10
RANDOM_PARTS = 3


def gene_votes(query: Cells, reference: LabelledCells, weights: np.ndarray, seed: int) -> np.ndarray:
    """Return the share of the 15 reference cells nearest by their genes that have each label: float64, query cells x labels.

    The query's expression, less the shift of each of its batches, and the reference's are scaled gene by gene to the reference's
    mean and standard deviation, times the root of the gene's weight, and projected onto 30 principal components of both.
    These are fitted to as many cells as are dense in 160 MB, half of them of either side where there are more.

    Parameters
    ----------
    weights
        float64, genes: :func:`refmap.identity.expression.identity_weights` of this reference, above 0 for some gene.
    """
    from sklearn.decomposition import PCA

    n_genes = len(weights)
    shifts = batch_shifts(query, reference, Index(reference.latent).search(query.latent, MATCHED).indices)
    sides = [(reference, np.zeros((reference.n_batches, n_genes))), (query, shifts)]
    mean, deviation = moments(reference.values)
    varies = deviation > LEAST_DEVIATION
    scale = np.divide(np.sqrt(weights), deviation, out=np.zeros(n_genes), where=varies).astype(np.float32)

    def prepared(values: np.ndarray) -> np.ndarray:
        values -= mean.astype(np.float32)
        values *= scale
        return np.clip(values, -FARTHEST, FARTHEST, out=values)

    rng = np.random.default_rng(seed)
    fitted = np.concatenate(
        [prepared(dense(side, drawn_rows(len(side), n_genes, most, rng), off)) for (side, off), most in zip(sides, _most(sides))]
    )
    k = min(COMPONENTS, n_genes - 1, len(fitted) - 1)
    found = PCA(k, svd_solver="randomized", random_state=seed, copy=False).fit(fitted)
    del fitted
    placed = [np.empty((len(side), k), dtype=np.float32) for side, _ in sides]
    for (side, off), points in zip(sides, placed):
        for rows in blocks(len(side)):
            points[rows] = found.transform(prepared(dense(side, rows, off)))
    neighbors = Index(placed[0]).search(placed[1], VOTERS).indices
    return label_votes(neighbors, reference.labels, len(reference.names))


def _most(sides: list[tuple[Cells, np.ndarray]]) -> list[int]:
    """The values of either side that components are fitted to: half of all, or what the other side leaves."""
    sizes = [side.values.shape[0] * side.values.shape[1] for side, _ in sides]
    return [max(MOST_FITTED // 2, MOST_FITTED - size) for size in reversed(sizes)]


@dataclass(frozen=True)
class HeldOut:
    """What the genes say of reference cells whose batch was taken for a query.

    votes     float64, cells x labels of the reference
    labels    int, the label of each cell
    latent    int, the label that their latent neighbours give, -1 for none
    part      int, the batch, or the random part, that each was held out with: 0, 1, …
    hidden    bool, whether the model was trained without the label of the cell
    by        ``batches`` or ``random cells``
    """

    votes: np.ndarray
    labels: np.ndarray
    latent: np.ndarray
    part: np.ndarray
    hidden: np.ndarray
    by: str


def hold_out_votes(reference: LabelledCells, seed: int) -> HeldOut:
    """Take the reference's batches for queries in turn, and the others for their reference; genes weigh what these say.

    The ten largest batches that hold 20 cells and leave 20; where there are not two of them, three random parts of the cells,
    which tell nothing of what batches differ by. Cells whose label none of the others has are left out, as no vote can be right.
    """
    held, by = parts(reference.batches, FEWEST_HELD_OUT, MOST_HELD_OUT), "batches"
    if len(held) < 2:
        drawn = np.random.default_rng(seed).integers(0, RANDOM_PARTS, len(reference))
        held, by = [drawn == number for number in range(RANDOM_PARTS)], "random cells"
    found = [one for members in held if (one := _hold_out(reference, members, seed)) is not None and len(one[1])]
    if not found:
        empty = np.empty(0, dtype=np.int64)
        return HeldOut(np.empty((0, len(reference.names))), empty, empty, empty, empty.astype(bool), by)
    votes, labels, latent, hidden = (np.concatenate(columns) for columns in zip(*found))
    return HeldOut(votes, labels, latent, np.repeat(np.arange(len(found)), [len(one[1]) for one in found]), hidden, by)


def _hold_out(reference: LabelledCells, members: np.ndarray, seed: int) -> tuple[np.ndarray, ...] | None:
    """Votes, labels, the latent's labels, and which labels were hidden, of the members whose label others have.

    None where the others have one label.
    """
    rest = reference.part(~members)
    weights = identity_weights(rest)
    if not weights.any():
        return None
    known = np.searchsorted(reference.names, rest.names)
    votes = np.zeros((int(members.sum()), len(reference.names)))
    votes[:, known] = gene_votes(reference.as_query(members), rest, weights, seed)
    latent = latent_labels(reference.latent[members], rest, reference.names)
    labels = reference.labels[members]
    kept = np.isin(labels, known)
    hidden = np.zeros(len(kept), dtype=bool) if reference.hidden is None else reference.hidden[members]
    return votes[kept], labels[kept], latent[kept], hidden[kept]


def latent_labels(latent: np.ndarray, reference: LabelledCells, names: np.ndarray) -> np.ndarray:
    """Return the label that refmap transfers to cells by their latent (cells x dimensions): int, a place in `names`."""
    transfer = transfer_labels(pd.Series(reference.names[reference.labels]), Index(reference.latent).search(latent))
    return np.searchsorted(names.astype(str), transfer.best.astype(str))
