"""Old pickles are loaded by what takes the place of their names today; nothing more can be imported by it."""

from __future__ import annotations

import pickle

import old_pickles
import pytest
from old_pickles import Name
from refmap.models.pickles import ALLOWED, allowed_pickle, read_pickle
from refmap.models.pickles.names import CONSTRUCTORS, REPLACED


@pytest.mark.parametrize("name", old_pickles.OLD)
def test_old_pickles_load(name, tmp_path):
    old_pickles.check_old(name, tmp_path)


def test_whatever_is_allowed_is_found():
    old_pickles.check_names()


def test_each_replacement_is_loaded_by_a_test(tmp_path):
    named = set.union(*(old_pickles.check_old(name, tmp_path) for name in old_pickles.OLD))
    assert {f"{module}.{name}" for module, name in REPLACED} <= named


def test_only_what_is_allowed_is_replaced_and_by_nothing_else():
    assert set(REPLACED) <= ALLOWED
    assert {place for places in REPLACED.values() for place in places if place[0] != CONSTRUCTORS} <= ALLOWED


@pytest.mark.parametrize("name", [name for places in REPLACED.values() for module, name in places if module == CONSTRUCTORS])
def test_no_file_names_our_constructors(name, tmp_path):
    path = tmp_path / "attr.pkl"
    path.write_bytes(old_pickles.dumps(Name(f"{CONSTRUCTORS} {name}")))
    assert read_pickle(path).refused == [f"{CONSTRUCTORS}.{name}"]
    with pytest.raises(pickle.UnpicklingError, match="it wants"):
        allowed_pickle().loads(path.read_bytes())


def test_our_constructors_take_no_keywords():
    """`_new_Index` would give a file's own to whatever class it is given."""
    with pytest.raises(TypeError, match="unexpected keyword"):
        allowed_pickle().loads(old_pickles.dumps(old_pickles.index("pandas.core.arrays.string_ StringDtype", storage="python")))
