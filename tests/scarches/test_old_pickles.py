"""Old pickles are loaded by what takes the place of their names in this environment, and so are old models."""

from __future__ import annotations

import old_pickles
import pandas as pd
import pytest
from refmap.families.scarches.files import ATTRIBUTES
from refmap.families.scarches.loading import read_attributes


@pytest.mark.parametrize("name", old_pickles.OLD)
def test_old_pickles_load(name, tmp_path):
    old_pickles.check_old(name, tmp_path)


def test_whatever_is_allowed_is_found():
    old_pickles.check_names()


@pytest.mark.parametrize("trusted", [False, True])
def test_a_model_of_pandas_1_is_read(tmp_path, trusted):
    (tmp_path / ATTRIBUTES).write_bytes(old_pickles.old_attributes())
    attributes = read_attributes(tmp_path, trusted)
    assert "history_" not in attributes
    pd.testing.assert_frame_equal(attributes["obs_metadata_"], old_pickles.TABLE)
