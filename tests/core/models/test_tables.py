"""What is read of pandas' indexes and categories in a pickle, without pandas, whichever version wrote them."""

import pickle

import numpy as np
import old_pickles
import pandas as pd
import pytest
from refmap.models.pickles import category_values, index_values, read_pickle


def inert(tmp_path, data: bytes):
    (tmp_path / "value.pkl").write_bytes(data)
    return read_pickle(tmp_path / "value.pkl").value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (pd.Index(["CD3E", "LYZ"]), ["CD3E", "LYZ"]),
        (pd.Index(["CD3E", "LYZ"], dtype=object), ["CD3E", "LYZ"]),
        (pd.Index([3, 1]), [3, 1]),
        (pd.RangeIndex(1, 9, 3), [1, 4, 7]),
        (np.array(["x", "y"], dtype=object), ["x", "y"]),
        (["x", "y"], ["x", "y"]),
    ],
)
def test_the_values_of_an_index(value, expected, tmp_path):
    assert index_values(inert(tmp_path, pickle.dumps(value, 2))) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (pd.Categorical(["b", "a", "b"]), ["a", "b"]),
        (pd.Categorical(["b"], ["c", "b"], ordered=True), ["c", "b"]),
        (pd.Categorical([2, 7]), [2, 7]),
        (pd.Categorical(range(3)), [0, 1, 2]),
        (pd.Series(["b", "a"], dtype="string").astype("category").array, ["a", "b"]),
    ],
)
def test_the_categories_of_a_column(value, expected, tmp_path):
    assert category_values(inert(tmp_path, pickle.dumps(value, 2))) == expected


def test_those_of_older_versions(tmp_path):
    read = lambda value: inert(tmp_path, old_pickles.dumps(value))  # noqa: E731
    assert index_values(read(old_pickles.OLD_EPOCH)) == [3, 1]
    assert index_values(read(old_pickles.OLD_TEXTS)) == ["u", "v"]
    assert category_values(read(old_pickles.OLD_CATEGORICAL)) == ["y", "x"]


@pytest.mark.parametrize("value", [3, "text", None, {"a": 1}, pd.CategoricalIndex(["a"]), pd.RangeIndex(10**15)])
def test_what_is_no_index_is_said(value, tmp_path):
    found = inert(tmp_path, pickle.dumps(value, 2))
    with pytest.raises(ValueError, match="no index|without end"):
        index_values(found)
    with pytest.raises(ValueError, match="no categories"):
        category_values(found)
