"""The matrices of several modalities as one: cells x the features of all of them, read by the same blocks of rows.

The first modality sets the cells; another's that it lacks are left out, and its own that another lacks are zero there. A layer or
a column of ids that another modality does not have is its X or its index.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import sparse

from ..common.errors import listed
from .elements import Source
from .matrix import Matrix

ROWS = 4096


class InOrder:
    """A matrix whose rows are read in the order of other cells; those that it lacks are zero.

    `order` has the row of each of these cells, or -1.
    """

    def __init__(self, matrix: Matrix, order: np.ndarray):
        self.matrix, self.order = matrix, order
        # Only what is stored by the column, or in another order, must be held whole.
        in_order = np.array_equal(order, np.arange(len(order)))
        self.whole = None if in_order and matrix.format != "csc" else self._read()

    def _read(self) -> sparse.csr_matrix:
        pieces = [piece for _, piece in self.matrix.chunks(ROWS)]
        return sparse.vstack([*pieces, sparse.csr_matrix((1, self.matrix.shape[1]), dtype=self.matrix.dtype)], format="csr")

    def rows(self, start: int, stop: int) -> sparse.csr_matrix:
        if self.whole is None:
            with self.matrix.query.reading(self.matrix.name):
                return self.matrix.rows(start, stop)
        return self.whole[self.order[start:stop]]  # the last row, at -1, is empty


class Beside:
    """Matrices of the same cells beside each other, to be read as a :class:`Matrix` is; the first one sets the cells."""

    def __init__(self, first: Matrix, cells: np.ndarray, others: Sequence[tuple[Matrix, np.ndarray]], name: str):
        """`others` are matrices with the names of their cells."""
        self.first, self.name = first, name
        self.others = [InOrder(matrix, pd.Index(names).get_indexer(cells)) for matrix, names in others]
        self.matrices = [first, *(other.matrix for other in self.others)]
        self.shape = (first.shape[0], sum(matrix.shape[1] for matrix in self.matrices))
        self.dtype = np.result_type(*(matrix.dtype for matrix in self.matrices))

    @property
    def most_values(self) -> int:
        return sum(matrix.most_values for matrix in self.matrices)

    def chunks(self, rows: int) -> Iterator[tuple[int, sparse.csr_matrix]]:
        for start, chunk in self.first.chunks(rows):
            beside = [other.rows(start, start + chunk.shape[0]) for other in self.others]
            yield start, sparse.hstack([chunk, *beside], format="csr", dtype=self.dtype)

    def sample(self, values: int = 10_000) -> np.ndarray:
        return np.concatenate([matrix.sample(values) for matrix in self.matrices])

    def try_block(self) -> None:
        for matrix in self.matrices:
            matrix.try_block()


def own_names(genes: Sequence[str], places: np.ndarray) -> dict[str, int]:
    """The model's features at `places`, one modality's, by name: as the model has them, and as they were in the modality.

    Libraries that lay modalities beside each other call the CD4 of the second one CD4-1.
    """
    held = {genes[place]: int(place) for place in places}
    others = set(genes) - set(held)
    before = {re.sub(r"-\d+$", "", name): place for name, place in held.items()}
    return {name: place for name, place in before.items() if name in others} | held


def places_of(modalities: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Where the features of each of a model's modalities stand among all of them."""
    ends = np.cumsum(list(modalities.values()))
    return {name: np.arange(end - size, end) for (name, size), end in zip(modalities.items(), ends, strict=True)}


def matrices_beside(query: Source, matrix: Matrix, layer: str) -> Beside:
    """The matrix of a layer of `query` with those of the modalities read beside it."""
    others = [(other.matrix(_layer_like(other, layer)), other.obs_names) for other in query.beside.values()]
    first = f"{matrix.name} of modality '{query.modality}'" if query.modality else matrix.name
    name = f"{first} with {listed(other.modality for other in query.beside.values())}"
    return Beside(matrix, query.obs_names, others, name)


def ids_beside(query: Source, layer: str, var_key: str | None) -> list[np.ndarray]:
    """The ids of the features of each modality read beside a query."""
    layers = [_layer_like(other, layer) for other in query.beside.values()]
    return [
        other.gene_ids(like, var_key if var_key in other.gene_frame(like) else None)
        for other, like in zip(query.beside.values(), layers, strict=True)
    ]


def _layer_like(other: Source, layer: str) -> str:
    return layer if layer in other.layers else "X"


def wanted_layers(query: Source, row: dict, card: dict) -> list[str]:
    """The layers of a query that a model takes: that of its row, or those of the model's own names where it takes several.

    Raises RefmapError if a modality lacks one of several.
    """
    for layer in card["layers"]:
        for each in (query, *query.beside.values()):
            each.check_layer(layer)
    return card["layers"] or [row["layer"]]


def only_elsewhere(query: Source) -> dict[str, int]:
    """For each modality read beside a query, the number of its cells that the query lacks, if any."""
    lacking = {other.modality: int((~other.obs_names.isin(query.obs_names)).sum()) for other in query.beside.values()}
    return {name: number for name, number in lacking.items() if number}
