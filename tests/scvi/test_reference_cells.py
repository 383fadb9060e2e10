"""The reference's own cells in its latent space, from wherever they are to be had, against the library's own embedding."""

import json

import anndata as ad
import numpy as np
import pytest
from refmap.common.errors import RefmapError
from refmap.common.folders import ReferenceFolder
from refmap.reference.cells import prepare_reference
from refmap.reference.inspection import inspect_model
from refmap.reference.training import embed_reference
from small_models import model_class

REQUEST = {
    "trained": False,
    "reference": None,
    "layer": None,
    "var_key": None,
    "embedding": None,
    "airr": None,
    "transfer_keys": [],
}


def prepare(folder, model, source=None, **request):
    folder = ReferenceFolder(folder)
    card = inspect_model(model, "atlas").to_json()
    prepare_reference(REQUEST | request, source, model, card, folder)
    return json.loads(folder.record.read_text()), folder, card


@pytest.fixture(params=["scvi_model", "scanvi_model"])
def reference(request, cells):
    """A model's folder, the model as the library loads it, and its cells."""
    folder = request.getfixturevalue(request.param)
    kind = model_class(request.param.removesuffix("_model").upper())
    return folder, kind.load(str(folder), adata=cells.copy(), accelerator="cpu")


def test_counts_are_embedded_as_the_library_does(reference, cells, tmp_path):
    folder, model = reference
    # In a file whose genes stand in another order.
    cells[:, ::-1].copy().write_h5ad(tmp_path / "cells.h5ad")
    record, prepared, card = prepare(tmp_path / "out", folder, tmp_path / "cells.h5ad", reference="cells.h5ad")
    assert record["fault"] is None and record["source"] == "counts"
    latent = embed_reference(ad.read_zarr(prepared.aligned), folder, card, seed=0)["X_emb"]
    np.testing.assert_allclose(latent, model.get_latent_representation(), atol=1e-5)


def test_cells_saved_with_the_model_are_found(reference, tmp_path):
    _, model = reference
    model.save(str(tmp_path / "model"), save_anndata=True)
    record, prepared, card = prepare(tmp_path / "out", tmp_path / "model")
    assert record["fault"] is None and record["source"] == "counts" and record["reference"] == "atlas/adata.h5ad"
    latent = embed_reference(ad.read_zarr(prepared.aligned), tmp_path / "model", card, seed=0)["X_emb"]
    np.testing.assert_allclose(latent, model.get_latent_representation(), atol=1e-5)


def test_a_minified_model_brings_its_latent(reference, tmp_path):
    """As on scvi-hub: the counts are gone, the latent is there."""
    _, model = reference
    latent = model.get_latent_representation()
    model.adata.obsm["X_latent_qzm"], model.adata.obsm["X_latent_qzv"] = model.get_latent_representation(return_dist=True)
    model.minify_adata()
    model.save(str(tmp_path / "model"), save_anndata=True)
    record, prepared, card = prepare(tmp_path / "out", tmp_path / "model")
    assert card["fault"] is None and record["fault"] is None
    assert record["source"] == "the latent of a minified model" and not prepared.aligned.exists()
    np.testing.assert_allclose(ad.read_zarr(prepared.cells).obsm["X_emb"], latent, atol=1e-5)


def test_another_model_than_the_one_inspected_is_refused(scvi_model, scanvi_model, cells, tmp_path):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    _, prepared, card = prepare(tmp_path / "out", scvi_model, tmp_path / "cells.h5ad", reference="cells.h5ad")
    with pytest.raises(RefmapError, match="The model 'atlas' changed after it was inspected"):
        embed_reference(ad.read_zarr(prepared.aligned), scanvi_model, card, seed=0)
