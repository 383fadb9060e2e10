"""An embedding that cells bring in their obsm, made elsewhere."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata.io import read_elem
from scipy import sparse

from ..common.errors import listed, nearest
from .query import Query


def read_embedding(cells: Query, key: str, named_by: str) -> np.ndarray:
    """Read the embedding that lies under a key of obsm, an array, a sparse matrix or a table: float32, cells x dimensions.

    Raises
    ------
    RefmapError
        If it is not there, not of two dimensions with a row a cell, or holds anything but numbers.
    """
    obsm = cells.obsm()
    if key not in obsm:
        raise cells.fault(f"has no obsm '{key}', which {named_by} names: it has {listed(obsm)}.{nearest(key, list(obsm))}")
    values = numbers_of(cells, obsm[key], key)
    if values.ndim != 2 or values.shape[0] != cells.n_obs or not values.shape[1]:
        raise cells.fault(
            f"has {size_of(values)} values in obsm '{key}', which {named_by} names, and {cells.n_obs:,} cells: give an embedding of "
            "cells x dimensions."
        )
    wrong = ~np.isfinite(values).all(axis=1)
    if wrong.any():
        raise cells.fault(
            f"has {int(wrong.sum()):,} of {cells.n_obs:,} cells with values in obsm '{key}', which {named_by} names, that are no numbers "
            f"(NaN or infinite), such as '{cells.obs_names[wrong][0]}': embed these cells again, or leave them out."
        )
    return values


def numbers_of(cells: Query, elem, key: str) -> np.ndarray:
    """An element of obsm, dense: float32. Raises RefmapError if it cannot be read as numbers."""
    with cells.reading(f"obsm '{key}'"):
        found = read_elem(elem)
    if isinstance(found, pd.DataFrame) and (
        texts := [str(name) for name in found if not pd.api.types.is_numeric_dtype(found[name])]
    ):
        raise cells.fault(f"has columns in obsm '{key}' that are no numbers ({listed(texts, 3)}): leave these out of it.")
    if isinstance(found, pd.DataFrame) and len(found) == cells.n_obs:
        named = found.index.astype(str).to_numpy(object)
        if (other := named != np.asarray(cells.obs_names, dtype=object)).any():
            raise cells.fault(
                f"has a table in obsm '{key}' whose rows are not the cells of obs in their order: its first other row is "
                f"'{named[other][0]}', where obs has '{cells.obs_names[other][0]}'. Put its rows in the order of the cells."
            )
    if getattr(found, "dtype", np.dtype(float)).kind == "c":
        raise cells.fault(f"has complex numbers in obsm '{key}': keep their real part, if the imaginary one is nothing.")
    with cells.reading(f"obsm '{key}'"), np.errstate(over="ignore"):
        return np.asarray(found.toarray() if sparse.issparse(found) else found, dtype=np.float32)


def size_of(values: np.ndarray) -> str:
    return " x ".join(f"{n:,}" for n in values.shape)
