"""Where a query has a model's other modalities: as those of an .h5mu, or in obsm."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import sparse

from ..common.errors import RefmapError
from .elements import Source, encoding
from .matrix import Matrix, spans
from .modalities import own_names, places_of
from .protein_tables import read_proteins
from .query import Query


class Table:
    """Features in obsm whose columns lie one by one, or a matrix there, to be read as a :class:`Matrix` is."""

    format = "dense"
    dtype = np.dtype(np.float64)

    def __init__(self, query: Source, name: str, shape: tuple[int, int], read: Callable[[int, int], np.ndarray]):
        self.query, self.name, self.shape, self.read = query, name, shape, read

    @property
    def most_values(self) -> int:
        return self.shape[0] * self.shape[1]

    def rows(self, start: int, stop: int) -> sparse.csr_matrix:
        return sparse.csr_matrix(self.read(start, stop))

    def chunks(self, rows: int) -> Iterator[tuple[int, sparse.csr_matrix]]:
        for start, stop in spans(self.shape[0], rows):
            yield start, self.rows(start, stop)

    def sample(self, values: int = 10_000) -> np.ndarray:
        with self.query.reading(self.name):
            return self.read(0, min(self.shape[0], max(1, values // max(1, self.shape[1])))).ravel()

    def try_block(self) -> None:
        self.sample()


class InObsm:
    """A modality of the same cells that lies in obsm, to be read beside a query as another :class:`Query` is."""

    layers = ("X",)

    def __init__(self, query: Source, key: str, names: Sequence[str], matrix: Matrix | Table):
        self.modality, self.names, self.obs_names = key, np.array(names, dtype=object), query.obs_names
        self.table, self.shown_as = matrix, query.shown_as

    def check_layer(self, layer: str) -> None:
        if layer != "X":
            raise RefmapError(
                f"query '{self.shown_as}' has no layer '{layer}' in obsm '{self.modality}': store the modality in an .h5mu."
            )

    def matrix(self, _layer: str) -> Matrix | Table:
        return self.table

    def gene_frame(self, _layer: str) -> pd.DataFrame:
        return pd.DataFrame(index=self.names)

    def gene_ids(self, _layer: str = "X", _var_key: str | None = None) -> np.ndarray:
        return self.names

    def close(self) -> None:
        """It lies in the query's file."""


def read_beside(query: Query, card: dict, named: str | None = None) -> None:
    """Have the features of a model's other modalities beside those that a query is read as, in its matrices and gene ids.

    Each is the modality, or else the key of obsm, that is called as the model's; `named` is what its only other one is called
    here. Where one modality is left of each, and they share features, they are the same.

    Raises RefmapError if there is nothing called `named`, or no names for its features.
    """
    wanted = places_of(card["modalities"])
    if not wanted:
        return
    wanted.pop(query.modality if query.modality in wanted else next(iter(wanted)))
    free = [name for name in query.modality_names() if name != query.modality]
    if named and len(wanted) == 1 and not card["proteins"]:
        query.beside = {name: _modality_at(query, named, free) for name in wanted}
        return
    query.beside = {name: _modality_at(query, name, free) for name in wanted if name in free or _is_table(query, name)}
    called = {other.modality for other in query.beside.values()}
    left = [_open(query, name) for name in free if name not in called]
    found = _fitting(left, {name: places for name, places in wanted.items() if name not in query.beside}, card["genes"])
    for other in left:
        if other not in found.values():
            other.close()
    query.beside |= found


def features_of(query: Query, modality: str) -> list[str]:
    """The ids of the features of another modality of a query, or of a key of obsm. Raises RefmapError if there is none."""
    other = _modality_at(query, modality, query.modality_names())
    try:
        return list(other.gene_ids())
    finally:
        other.close()


def _open(query: Query, modality: str) -> Query:
    return Query(query.path, query.shown_as, modality, query.called)


def _modality_at(query: Query, key: str, modalities: Sequence[str]) -> Query | InObsm:
    if key in modalities:
        return _open(query, key)
    elem = query.obsm().get(key)
    if elem is None or encoding(elem) == "dataframe":
        found = read_proteins(query, key)
        return InObsm(query, key, found.names, Table(query, found.name, (query.n_obs, len(found.names)), found.rows))
    with query.reading(f"obsm '{key}'"):
        matrix = Matrix(elem, f"obsm '{key}'", query, (query.n_obs, 0))
    return InObsm(query, key, query.feature_names(key, matrix.shape[1]), matrix)


def _is_table(query: Query, key: str) -> bool:
    """Whether obsm has a table of that name: a matrix may be an embedding of the modality."""
    elem = query.obsm().get(key)
    return elem is not None and encoding(elem) == "dataframe"


def _fitting(sources: Sequence[Query], wanted: Mapping[str, np.ndarray], genes: Sequence[str]) -> dict[str, Query]:
    """The one of `sources` that is the one modality that is `wanted` (with the places of its features), if it is."""
    if len(sources) != 1 or len(wanted) != 1:
        return {}
    (name, places), source = next(iter(wanted.items())), sources[0]
    return {name: source} if set(own_names(genes, places)) & set(source.gene_ids()) else {}
