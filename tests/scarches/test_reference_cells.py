"""What is done with a model beside mapping onto it, with every family of scArches: it is tried, and embeds its own cells."""

import shutil

import anndata as ad
import numpy as np
import pytest
from mapping import prepare_cells, train
from refmap.mapping.trial import try_model
from refmap.reference.inspection import inspect_model
from refmap.reference.training import embed_reference

FAMILIES = {
    "trvae": {},
    "scpoli": {"reference_options": "n_hidden=16"},
    "expimap": {"reference_options": "min_genes=5"},
    "scgen": {},
    "scatlasvae": {"reference_labels_key": "bulk_labels"},
    "treearches": {"reference_options": "base=trvae"},
    "sagenet": {"reference_options": "graph=correlation", "reference_batch_key": None},
}


@pytest.fixture(scope="module")
def gmt(cells, tmp_path_factory):
    path = tmp_path_factory.mktemp("gmt") / "programs.gmt"
    genes = list(cells.var_names)
    path.write_text("".join(f"P{i}\tnone\t" + "\t".join(genes[20 * i : 20 * i + 40]) + "\n" for i in range(8)))
    return path


@pytest.fixture(scope="module", params=FAMILIES)
def trained(request, cells, gmt, tmp_path_factory):
    """A family's model, and the latent of its own cells in it."""
    folder = tmp_path_factory.mktemp(request.param)
    model, latent = folder / "model", folder / "latent.zarr"
    programs = gmt if request.param == "expimap" else None
    train(request.param, cells, model, programs, latent, reference_max_epochs=1, **FAMILIES[request.param])
    return model, ad.read_zarr(latent).obsm["X_emb"]


def test_cells_beside_a_model_are_embedded_as_in_its_training(trained, cells, tmp_path):
    model, latent = trained
    # In a file whose genes stand in another order.
    card, record, aligned = prepare_cells(cells[:, ::-1].copy(), model, tmp_path / "cells")
    assert (record["fault"], record["source"]) == (None, "counts")
    found = embed_reference(ad.read_zarr(aligned), model, card, seed=0)["X_emb"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, latent, atol=1e-4)


def test_what_refmap_keeps_beside_a_model_is_none_of_it(trained, cells, tmp_path):
    model, latent = trained
    whole = tmp_path / "model"
    shutil.copytree(model, whole)
    (whole / "refmap/sample.zarr/X").mkdir(parents=True)
    for name in ("reference.json", "sample.zarr/.zgroup", "sample.zarr/X/0", "model.pt", "attr.pkl"):
        (whole / "refmap" / name).write_text("{}")
    before, after = (inspect_model(folder, "atlas").to_json() for folder in (model, whole))
    assert after == before and after["fault"] is None
    card, _record, aligned = prepare_cells(cells, whole, tmp_path / "cells")
    np.testing.assert_allclose(embed_reference(ad.read_zarr(aligned), whole, card, seed=0)["X_emb"], latent, atol=1e-4)


def test_made_up_cells_can_be_mapped_onto_a_sound_model(trained):
    model, _latent = trained
    card = inspect_model(model, "atlas").to_json()
    assert try_model(model, card)["fault"] is None
