"""Old pickles are loaded by what takes the place of their names in this environment, and so are old models."""

from __future__ import annotations

import old_pickles
import pandas as pd
import pytest
import torch
from refmap.families.scvi.loading import read_saved


@pytest.mark.parametrize("name", old_pickles.OLD)
def test_old_pickles_load(name, tmp_path):
    old_pickles.check_old(name, tmp_path)


def test_whatever_is_allowed_is_found():
    old_pickles.check_names()


@pytest.mark.parametrize("trusted", [False, True])
def test_a_model_of_pandas_1_is_read(tmp_path, trusted):
    (tmp_path / "attr.pkl").write_bytes(old_pickles.old_attributes(registry_={"field_registries": {}, "setup_args": {}}))
    (tmp_path / "var_names.csv").write_text("g1\ng2\n")
    torch.save({"w": torch.arange(3.0)}, tmp_path / "model_params.pt", _use_new_zipfile_serialization=False)
    saved = read_saved(tmp_path, object, trusted)
    assert "history_" not in saved["attr_dict"]
    pd.testing.assert_frame_equal(saved["attr_dict"]["obs_metadata_"], old_pickles.TABLE)
    assert saved["model_state_dict"]["w"].tolist() == [0, 1, 2] and list(saved["var_names"]) == ["g1", "g2"]
