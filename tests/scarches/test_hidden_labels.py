"""Families of scArches that learn from labels do not see those of hidden cells."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scarches.models  # noqa: F401  importing it draws random numbers, which would tell the first training from the others
import torch
from mapping import train
from refmap.models.hidden import HIDDEN, draw_hidden
from refmap.reference.inspection import inspect_model

KEY = "bulk_labels"
FAMILIES = {"scpoli": {"reference_options": "embedding_dim=4;n_hidden=16;pretraining=0.5"}, "scatlasvae": {}}


def tensors(value, path=()):
    """All tensors and arrays of a model's files, by where they lie."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from tensors(part, (*path, key))
    elif torch.is_tensor(value) or isinstance(value, np.ndarray):
        yield path, np.asarray(value)


def saved(folder):
    """The weights and prototypes of a model."""
    found = {}
    for path in sorted({*folder.glob("*.pt"), *folder.glob("attr.pkl")}):
        load = torch.load(path, map_location="cpu", weights_only=False) if path.suffix == ".pt" else pd.read_pickle(path)
        found |= dict(tensors(load, (path.name,)))
    return {name: values for name, values in found.items() if values.dtype.kind == "f"}


@pytest.fixture(scope="module", params=FAMILIES)
def trained(request, cells, tmp_path_factory):
    """The family, and models trained on all labels, with hidden ones, and on an atlas that never had these."""
    folder = tmp_path_factory.mktemp(request.param)
    settings = FAMILIES[request.param] | {"reference_max_epochs": 3, "reference_labels_key": KEY}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("refmap.models.hidden.FEWEST_LABELED", 200)
        hidden = draw_hidden(cells.obs, [KEY], "batch", "Unknown", 0.2, 0)
        hiding = train(request.param, cells, folder / "hiding", embedding=folder / "latent.zarr", **settings)
    bare = cells.copy()
    bare.obs[KEY] = pd.Categorical(np.where(hidden, "Unknown", cells.obs[KEY].astype(str)))
    models = {"hiding": hiding} | {
        name: train(request.param, of, folder / name, **settings) for name, of in (("bare", bare), ("all", cells))
    }
    return models, cells.obs_names[hidden], ad.read_zarr(folder / "latent.zarr")


def test_the_names_of_hidden_cells_lie_beside_the_model(trained, cells):
    models, names, latent = trained
    assert json.loads((models["hiding"] / HIDDEN).read_text())["cells"] == list(names) and len(names) == pytest.approx(58, abs=3)
    assert not (models["all"] / HIDDEN).exists()  # fewer than 2,000 cells
    card = inspect_model(models["hiding"], "atlas")
    assert card.fault is None and card.latent_of_labels and card.labels[KEY] == sorted(set(cells.obs[KEY]))
    # What a hierarchy is learned from has them
    assert latent.obs[KEY].astype(str).tolist() == cells.obs[KEY].astype(str).tolist()


def test_the_model_is_that_of_an_atlas_that_never_had_these_labels(trained):
    models, *_ = trained
    hiding, bare, whole = (saved(models[name]) for name in ("hiding", "bare", "all"))
    assert len(hiding) > 5 and hiding.keys() == bare.keys()
    for name, values in hiding.items():
        np.testing.assert_array_equal(values, bare[name], err_msg=str(name))
    assert any(not np.array_equal(values, whole[name]) for name, values in hiding.items())
