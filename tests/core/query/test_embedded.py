"""Embeddings that cells bring in their obsm."""

import re

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from refmap.common.errors import RefmapError
from refmap.query.embedded import read_embedding
from refmap.query.query import Query
from scipy import sparse

VALUES = np.arange(12, dtype=np.float64).reshape(4, 3)
NAMES = [f"cell{number}" for number in range(4)]


def stored(path, embedding):
    ad.AnnData(np.ones((4, 2), dtype=np.float32), obs=pd.DataFrame(index=NAMES), obsm={"X_uce": embedding}).write_h5ad(path)
    return path


@pytest.mark.parametrize(
    "embedding",
    [
        VALUES,
        VALUES.astype(np.int32),
        sparse.csr_matrix(VALUES),
        sparse.csc_matrix(VALUES),
        pd.DataFrame(VALUES, index=NAMES, columns=list("abc")),
    ],
    ids=["floats", "whole numbers", "csr", "csc", "table"],
)
def test_an_embedding_is_read_however_it_is_stored(embedding, tmp_path):
    with Query(stored(tmp_path / "q.h5ad", embedding)) as query:
        found = read_embedding(query, "X_uce", "query_embedding")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, VALUES)


def with_a(value):
    values = VALUES.copy()
    values[2, 1] = value
    return values


@pytest.mark.parametrize(
    ("embedding", "key", "told"),
    [
        (VALUES, "X_ucf", "has no obsm 'X_ucf', which query_embedding names: it has 'X_uce'. Did you mean 'X_uce'?"),
        (with_a(np.nan), "X_uce", "has 1 of 4 cells with values in obsm 'X_uce', which query_embedding names, that are no numbers (NaN or infinite), such as 'cell2'"),
        (with_a(np.inf), "X_uce", "such as 'cell2': embed these cells again, or leave them out."),
        (with_a(1e300), "X_uce", "such as 'cell2'"),  # beyond float32
        (pd.DataFrame({"a": [1.0] * 4, "type": list("xyxy")}, index=NAMES), "X_uce", "has columns in obsm 'X_uce' that are no numbers ('type')"),
        (VALUES[:, :0], "X_uce", "has 4 x 0 values in obsm 'X_uce', which query_embedding names, and 4 cells"),
        (VALUES + 1j, "X_uce", "has complex numbers in obsm 'X_uce'"),
        (VALUES.reshape(4, 3, 1), "X_uce", "has 4 x 3 x 1 values in obsm 'X_uce'"),
    ],
    ids=["missing", "nan", "infinite", "too large", "text", "empty", "complex", "three dimensions"],
)  # fmt: skip
def test_what_is_no_embedding_is_told(embedding, key, told, tmp_path):
    with Query(stored(tmp_path / "q.h5ad", embedding)) as query, pytest.raises(RefmapError, match=re.escape(told)):
        read_embedding(query, key, "query_embedding")


@pytest.mark.parametrize(("values", "size"), [(VALUES[0, :], "3"), (VALUES[:3], "3 x 3"), (VALUES[:, 0], "4")])
def test_an_embedding_has_a_row_a_cell(values, size, tmp_path):
    """As anndata does not write it, and other writers do."""
    path = stored(tmp_path / "q.h5ad", VALUES)
    with h5py.File(path, "a") as file:
        del file["obsm/X_uce"]
        file["obsm/X_uce"] = values
        file["obsm/X_uce"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    with (
        Query(path) as query,
        pytest.raises(RefmapError, match=f"has {size} values in obsm 'X_uce', which query_embedding names, and 4 cells"),
    ):
        read_embedding(query, "X_uce", "query_embedding")


def test_a_table_has_the_cells_in_their_order(tmp_path):
    """As anndata does not write it, and other writers do."""
    path = stored(tmp_path / "q.h5ad", pd.DataFrame(VALUES, index=NAMES, columns=list("abc")))
    with h5py.File(path, "a") as file:
        table = file["obsm/X_uce"]
        index = table.attrs["_index"]
        del table[index]
        table[index] = ["cell0", "cell2", "cell1", "cell3"]
        table[index].attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})
    told = "first other row is 'cell2', where obs has 'cell1'. Put its rows in the order of the cells."
    with Query(path) as query, pytest.raises(RefmapError, match=re.escape(told)):
        read_embedding(query, "X_uce", "query_embedding")
