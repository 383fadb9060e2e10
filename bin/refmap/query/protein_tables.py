"""Where a query keeps proteins: a table or an array of obsm, or a modality."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from ..common.errors import listed, nearest
from .elements import Frame, encoding, is_group
from .matrix import Matrix
from .modalities import InOrder
from .query import Query, layer_name


@dataclass
class Proteins:
    """Protein counts of a query: where they lie, their names, and `rows(start, stop)` -> float array (cells x proteins)."""

    name: str
    names: list[str]
    n_obs: int
    rows: Callable[[int, int], np.ndarray]
    others: tuple[str, ...] = ()  # what else protein_key could name


def protein_places(query: Query) -> list[str]:
    """Where proteins may be: the keys of obsm and the modalities."""
    return [*query.obsm(), *query.modality_names()]


def read_proteins(query: Query, key: str) -> Proteins:
    """Protein counts.

    `key` is a modality, whose X holds them, or `<modality>/<layer>`; or an obsm key that holds a table, or an array whose
    names lie in uns.

    Raises RefmapError if there are none, or no names for them.
    """
    modalities = query.modality_names()
    modality, _, layer = key.partition("/")
    if key in modalities:
        return _protein_modality(query, key, "X")
    found = query.obsm()
    if key not in found and modality in modalities:
        return _protein_modality(query, modality, layer.removeprefix("layers/"))
    if found.get(key) is None:
        known = protein_places(query)
        raise query.fault(
            f"has no protein data '{key}' (protein_key): its obsm keys and modalities are {listed(known)}.{nearest(key, known)}"
        )
    elem = found[key]
    if encoding(elem) == "dataframe":
        return _protein_frame(query, key, Frame(elem, query), elem)
    if not is_group(elem):
        return Proteins(f"obsm '{key}'", query.feature_names(key, elem.shape[1]), query.n_obs, lambda a, b: _dense(elem[a:b]))
    with query.reading(f"obsm '{key}'"):
        matrix = Matrix(elem, f"obsm '{key}'", query, tuple(elem.attrs.get("shape", (query.n_obs, 0))))
        stored = matrix if matrix.format == "csr" else sparse.vstack([chunk for _, chunk in matrix.chunks(4096)], format="csr")
    read = matrix.rows if stored is matrix else lambda a, b: stored[a:b]
    return Proteins(matrix.name, query.feature_names(key, matrix.shape[1]), query.n_obs, lambda a, b: _dense(read(a, b)))


def _protein_frame(query: Query, key: str, frame: Frame, elem) -> Proteins:
    def rows(start: int, stop: int) -> np.ndarray:
        return np.column_stack([np.asarray(_numbers(elem[name])[start:stop], dtype=float) for name in frame.columns])

    return Proteins(f"obsm '{key}'", frame.columns, query.n_obs, rows)


def _protein_modality(query: Query, key: str, layer: str) -> Proteins:
    """A layer of a modality in the order of the query's cells; cells that it lacks are all zero."""
    other = Query(query.path, query.shown_as, key)
    if layer not in other.layers:
        raise query.fault(
            f"has no '{layer}' in modality '{key}' (protein_key): set protein_key to '{key}' for its X, or to "
            f"{listed(f'{key}/{name}' for name in other.layers if name != 'X')}.{nearest(layer, other.layers)}"
        )
    held = InOrder(other.matrix(layer), pd.Index(other.obs_names).get_indexer(query.obs_names))
    where = f"modality '{key}'" + ("" if layer == "X" else f", {layer_name(layer)}")
    others = (f"{key}/{name}" if name != "X" else key for name in other.layers if name != layer)
    return Proteins(where, list(other.gene_ids(layer)), query.n_obs, lambda a, b: _dense(held.rows(a, b)), tuple(others))


def _numbers(elem):
    """A column of numbers, of which none may be missing, as it is stored."""
    return elem["values"] if is_group(elem) and "values" in elem else elem


def _dense(block) -> np.ndarray:
    return np.asarray(block.toarray() if sparse.issparse(block) else block, dtype=float)
