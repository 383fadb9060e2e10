"""The reference's own cells in its latent space, from wherever they are to be had, against the library's own embedding."""

import anndata as ad
import numpy as np
import pytest
from mapping import embed_cells, prepare_cells
from refmap.common.errors import RefmapError
from refmap.reference.training import embed_reference
from small_models import RECIPES, input_of, model_class, save_model


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
    latent = embed_cells(tmp_path / "cells.h5ad", folder, tmp_path / "out")
    np.testing.assert_allclose(latent, model.get_latent_representation(), atol=1e-5)


def test_cells_saved_with_the_model_are_found(reference, tmp_path):
    _, model = reference
    model.save(str(tmp_path / "model"), save_anndata=True)
    record, prepared, card = prepare_cells(None, tmp_path / "model", tmp_path / "out")
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
    record, prepared, card = prepare_cells(None, tmp_path / "model", tmp_path / "out")
    assert card["fault"] is None and record["fault"] is None
    assert record["source"] == "the latent of a minified model" and not prepared.aligned.exists()
    np.testing.assert_allclose(ad.read_zarr(prepared.cells).obsm["X_emb"], latent, atol=1e-5)


def test_another_model_than_the_one_inspected_is_refused(scvi_model, scanvi_model, cells, tmp_path):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    _, prepared, card = prepare_cells(tmp_path / "cells.h5ad", scvi_model, tmp_path / "out")
    with pytest.raises(RefmapError, match="The model 'atlas' changed after it was inspected"):
        embed_reference(ad.read_zarr(prepared.aligned), scanvi_model, card, seed=0)


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in ("SCVI", "SCANVI", "MRVI")])
def test_every_class_embeds_its_own_cells_as_the_library_does(name, cells, tmp_path):
    data = input_of(name, cells)
    save_model(name, cells, tmp_path / "model")
    model = model_class(name).load(str(tmp_path / "model"), adata=data.copy(), accelerator="cpu")
    data[:, ::-1].copy().write_h5ad(tmp_path / "cells.h5ad")
    latent = embed_cells(tmp_path / "cells.h5ad", tmp_path / "model", tmp_path / "out")
    assert latent.dtype == np.float32
    np.testing.assert_allclose(latent, model.get_latent_representation(), atol=1e-4)
