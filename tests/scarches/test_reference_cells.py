"""Cells of a reference, given beside its model, lie where the training left them: with every family of scArches."""

import anndata as ad
import numpy as np
import pytest
from mapping import prepare_cells, train
from refmap.reference.training import embed_reference

FAMILIES = {
    "trvae": {},
    "scpoli": {"reference_options": "n_hidden=16"},
    "expimap": {"reference_options": "min_genes=5"},
    "scgen": {},
    "treearches": {"reference_options": "base=trvae"},
    "sagenet": {"reference_options": "graph=correlation", "reference_batch_key": None},
}


@pytest.fixture(scope="module")
def gmt(cells, tmp_path_factory):
    path = tmp_path_factory.mktemp("gmt") / "programs.gmt"
    genes = list(cells.var_names)
    path.write_text("".join(f"P{i}\tnone\t" + "\t".join(genes[20 * i : 20 * i + 40]) + "\n" for i in range(8)))
    return path


@pytest.mark.parametrize("family", FAMILIES)
def test_cells_beside_a_model_are_embedded_as_in_its_training(family, cells, gmt, tmp_path):
    programs = gmt if family == "expimap" else None
    model, latent = tmp_path / "model", tmp_path / "latent.zarr"
    train(family, cells, model, programs, latent, reference_max_epochs=1, **FAMILIES[family])
    # In a file whose genes stand in another order.
    card, record, aligned = prepare_cells(cells[:, ::-1].copy(), model, tmp_path / "cells")
    assert (record["fault"], record["source"]) == (None, "counts")
    found = embed_reference(ad.read_zarr(aligned), model, card, seed=0)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, ad.read_zarr(latent).obsm["X_emb"], atol=1e-4)
