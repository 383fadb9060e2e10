"""Old pickles are loaded by what takes the place of their names in this environment, and so are old models."""

from __future__ import annotations

import numpy as np
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
    (tmp_path / "var_names.csv").write_text("g1\nAC#2.1\n")
    torch.save({"w": torch.arange(3.0)}, tmp_path / "model_params.pt", _use_new_zipfile_serialization=False)
    saved = read_saved(tmp_path, "SCVI", trusted)
    assert "history_" not in saved["attr_dict"]
    pd.testing.assert_frame_equal(saved["attr_dict"]["obs_metadata_"], old_pickles.TABLE)
    assert saved["model_state_dict"]["w"].tolist() == [0, 1, 2] and list(saved["var_names"]) == ["g1", "AC#2.1"]


@pytest.mark.parametrize("name, labels", [("SCVI", ["T", "B"]), ("TOTALVI", [0])])
def test_labels_of_before_0_14_are_those_that_the_class_takes(tmp_path, name, labels):
    """Data were set up for any class then; a totalVI takes no column of labels, and the library fills in one of its own."""
    fields = {"X": ("X", "None"), "batch_indices": ("obs", "_scvi_batch"), "labels": ("obs", "_scvi_labels")}
    setup = {
        "scvi_version": "0.8.0",
        "data_registry": {field: {"attr_name": where, "attr_key": key} for field, (where, key) in fields.items()},
        "categorical_mappings": {
            "_scvi_batch": {"original_key": "donor", "mapping": np.array(["a", "b"], dtype=object)},
            "_scvi_labels": {"original_key": "type", "mapping": np.array(["T", "B"], dtype=object)},
        },
        "summary_stats": {"n_batch": 2, "n_cells": 4, "n_vars": 2, "n_labels": 2, "n_proteins": 0},
    }
    (tmp_path / "attr.pkl").write_bytes(old_pickles.dumps({"scvi_setup_dict_": setup}))
    (tmp_path / "var_names.csv").write_text("g1\ng2\n")
    torch.save({"w": torch.arange(3.0)}, tmp_path / "model_params.pt")
    fields = read_saved(tmp_path, name, False)["attr_dict"]["registry_"]["field_registries"]
    assert list(fields["labels"]["state_registry"]["categorical_mapping"]) == labels
    assert list(fields["batch"]["state_registry"]["categorical_mapping"]) == ["a", "b"]
