"""Where the cells of a reference are found, and what is taken of them."""

import json
import re

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from refmap.common.folders import ReferenceFolder
from refmap.models.card import ModelCard
from refmap.reference.cells import prepare_reference
from scipy import sparse

GENES = [f"G{i}" for i in range(20)]
REQUEST = {"trained": False, "reference": "atlas.h5ad", "layer": "X", "var_key": None, "embedding": None, "transfer_keys": []}
CARD = ModelCard(
    model="models/atlas",
    family="scvi",
    env="scvi",
    class_name="SCANVI",
    sha256="abc",
    genes=GENES,
    batch_key="donor",
    batches=["d1", "d2"],
    labels={"cell_type": ["B", "T"]},
    unlabeled_category="Unknown",
    n_latent=3,
).to_json()


def atlas(n=12, **changes):
    """Reference cells with their genes in another order than the model's."""
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {
            "donor": pd.Categorical(np.resize(["d1", "d2"], n)),
            "cell_type": pd.Categorical(np.resize(["T", "B", "Unknown"], n)),
            "level": np.resize(["l1", "", "l2"], n).astype(object),
        },
        index=[f"r{i}" for i in range(n)],
    )
    cells = ad.AnnData(
        sparse.csr_matrix(rng.poisson(2, size=(n, 20)).astype(np.float32)), obs=obs, var=pd.DataFrame(index=GENES[::-1])
    )
    for key, value in changes.items():
        setattr(cells, key, value)
    return cells


@pytest.fixture
def prepare(tmp_path):
    """Prepare the cells of a reference; return the record and the folder."""

    def run(cells=None, model=None, card=CARD, **request):
        source = None
        if cells is not None:
            source = tmp_path / "atlas.h5ad"
            cells.write_h5ad(source)
        folder = ReferenceFolder(tmp_path / "reference")
        prepare_reference(REQUEST | request, source, model, card, folder)
        return json.loads(folder.record.read_text()), folder

    return run


def test_counts_are_aligned_and_labels_taken_along(prepare):
    cells = atlas()
    record, folder = prepare(cells)
    assert record["source"] == "counts" and record["fault"] is None and record["n_cells"] == 12
    assert record["keys"] == ["cell_type"] and record["batch_key"] == "donor"
    aligned = ad.read_zarr(folder.aligned)
    assert list(aligned.var_names) == GENES
    np.testing.assert_array_equal(aligned.X.toarray(), cells[:, GENES].X.toarray())
    # Its batches are the model's own, and keep their names.
    assert list(aligned.obs["donor"]) == list(cells.obs["donor"])
    kept = ad.read_zarr(folder.cells)
    assert list(kept.obs_names) == list(cells.obs_names)
    assert list(kept.obs["cell_type"].cat.categories) == ["B", "T"]
    assert kept.obs["cell_type"].isna().tolist() == (cells.obs["cell_type"] == "Unknown").tolist()


def test_several_columns_are_taken_in_the_order_asked_for(prepare):
    record, folder = prepare(atlas(), transfer_keys=["level", "cell_type", "level"])
    assert record["keys"] == ["level", "cell_type"]
    assert ad.read_zarr(folder.cells).obs["level"].isna().sum() == 4


def test_an_embedding_that_is_named_is_taken_as_it_is(prepare):
    latent = np.arange(36, dtype=np.float64).reshape(12, 3)
    record, folder = prepare(atlas(obsm={"X_mine": latent}), embedding="X_mine")
    assert record["source"] == "obsm['X_mine']" and not folder.aligned.exists()
    np.testing.assert_array_equal(ad.read_zarr(folder.cells).obsm["X_emb"], latent.astype(np.float32))


def test_an_embedding_that_refmap_wrote_is_taken_only_of_this_model(prepare):
    latent = np.ones((12, 3), dtype=np.float32)
    for sha256, source in [("abc", "obsm['X_emb'], embedded by this model"), ("other", "counts")]:
        record, folder = prepare(atlas(obsm={"X_emb": latent}, uns={"refmap": {"model_sha256": sha256}}))
        assert record["source"] == source
        for path in sorted(folder.folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        folder.folder.rmdir()


def test_the_latent_of_a_minified_model_is_found_beside_it(prepare, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.pt").touch()
    cells = atlas(obsm={"_scvi_latent_qzm": np.full((12, 3), 2.0)})
    cells.X = sparse.csr_matrix((12, 20), dtype=np.float32)
    cells.write_h5ad(model / "prefix_adata.h5ad")
    record, folder = prepare(model=model, reference=None)
    assert record["source"] == "the latent of a minified model" and record["reference"] == "models/atlas/prefix_adata.h5ad"
    assert (ad.read_zarr(folder.cells).obsm["X_emb"] == 2).all()


def test_without_cells_there_is_neither_source_nor_fault(prepare, tmp_path):
    record, folder = prepare(model=tmp_path, reference=None)
    assert record["source"] is None and record["fault"] is None
    assert not folder.cells.exists()


def test_columns_that_are_no_labels_are_told(prepare):
    record, _ = prepare(atlas(), card=CARD | {"labels": {"celltype": []}})
    assert record["source"] == "counts" and record["keys"] == []
    assert record["warnings"] == [
        "No labels are transferred from reference 'atlas.h5ad': name the columns of its obs with transfer_keys, out of 'donor', "
        "'cell_type', 'level'."
    ]


@pytest.mark.parametrize(
    ("changes", "request_", "fault"),
    [
        (
            {},
            {"transfer_keys": ["cel_type"]},
            r"has no obs column 'cel_type', which transfer_keys names.*Did you mean 'cell_type'\?",
        ),
        (
            {},
            {"embedding": "X_scvi"},
            "reference 'atlas.h5ad' has no obsm 'X_scvi', which reference_embedding names: it has none",
        ),
        (
            {"obsm": {"X": np.ones((12, 2))}},
            {"embedding": "X"},
            "has 12 x 2 values in obsm 'X', but the model's latent has 3 dimensions",
        ),
        ({"obsm": {"X": np.full((12, 3), np.nan)}}, {"embedding": "X"}, "has values in obsm 'X' that are no numbers"),
        (
            {"X": sparse.csr_matrix(np.full((12, 20), 0.5))},
            {},
            "reference 'atlas.h5ad' holds no counts in X: 240 fractional values .*: give a reference with raw counts",
        ),
        (
            {"var": pd.DataFrame(index=[f"H{i}" for i in range(20)])},
            {},
            "reference 'atlas.h5ad' has none of the model's 20 genes",
        ),
        ({"obs": atlas().obs.drop(columns="donor")}, {}, "reference 'atlas.h5ad' has no obs column 'donor'"),
        (
            {"obs": atlas().obs.assign(donor="d9")},
            {},
            "has 'd9' in batch column 'donor', which the model does not know: give the cells that it was trained on",
        ),
        (None, {}, "reference 'atlas.h5ad' has no cells"),
    ],
)
def test_what_is_wrong_is_told_and_stops_nothing(prepare, changes, request_, fault):
    record, _ = prepare(atlas(**changes) if changes is not None else atlas()[:0].copy(), **request_)
    assert record["source"] is None
    assert re.search(fault, record["fault"]), record["fault"]


def test_a_reference_that_is_not_there(prepare):
    record, _ = prepare(reference="atlas/none.h5ad")
    assert record["fault"] == "reference file 'atlas/none.h5ad' does not exist."
