"""Where the cells of a reference are found, and what is taken of them."""

import json
import re
import shutil

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata.io import write_elem
from refmap.common.folders import ReferenceFolder
from refmap.models.card import ModelCard
from refmap.reference.cells import prepare_reference
from rows import ROW
from scipy import sparse

GENES = [f"G{i}" for i in range(20)]
REQUEST = ROW["cells"] | {"reference": "atlas.h5ad"}
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
    minified_as="scanvi",
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


def test_further_columns_are_taken_along(prepare):
    cells = atlas()
    record, folder = prepare(cells, columns=["level", "donor", "cell_type"])
    assert record["fault"] is None and record["keys"] == ["cell_type"]
    kept = ad.read_zarr(folder.cells).obs
    assert sorted(kept) == ["cell_type", "donor", "level"]
    assert kept["level"].astype(object).where(kept["level"].notna(), "").tolist() == cells.obs["level"].tolist()
    assert kept["donor"].tolist() == cells.obs["donor"].tolist()


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


@pytest.mark.parametrize("key", ["scanvi_latent_qzm", "_scanvi_latent_qzm"])
def test_the_latent_of_a_minified_model_is_found_beside_it(key, prepare, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.pt").touch()
    cells = atlas(obsm={key: np.full((12, 3), 2.0)})
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
            {"columns": ["dono"]},
            r"has no obs column 'dono', which mapqc_sample_key or mapqc_study_key names.*Did you mean 'donor'\?",
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
        (
            {"obsm": {"X": np.full((12, 3), np.nan)}},
            {"embedding": "X"},
            "12 cells with values in obsm 'X', which reference_embedding names, that are no numbers",
        ),
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


# Cells saved beside the model, which no row names


@pytest.fixture
def beside(prepare, tmp_path):
    """Prepare what lies beside a model under a name: cells, or whatever `write` puts there."""

    def run(cells=None, write=None, name="adata.h5ad", card=CARD, **request):
        model = tmp_path / "model"
        model.mkdir(exist_ok=True)
        if cells is not None:
            cells.write_h5ad(model / name)
        if write:
            write(model / name)
        return prepare(model=model, card=card, reference=None, **request)

    return run


def with_counts_in(layer, **changes):
    cells = atlas(**changes)
    cells.layers[layer] = cells.X.copy()
    cells.X = cells.X.log1p() * 0.7
    return cells


def minified(**latents):
    """Cells without counts."""
    return atlas(X=sparse.csr_matrix((12, 20), dtype=np.float32), obsm={key: np.full((12, 3), 2.0) for key in latents})


def plain_text(path):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n")


def truncated(path):
    atlas().write_h5ad(path)
    path.write_bytes(path.read_bytes()[:4000])


def no_anndata(path):
    with h5py.File(path, "w") as file:
        file["obs"], file["var"] = 1, 2


def no_columns(path):
    atlas().write_h5ad(path)
    with h5py.File(path, "a") as file:
        del file["obs"].attrs["column-order"]
        del file["X/indptr"]


FRACTIONAL = atlas()
FRACTIONAL.X.data[:5] += 0.3


@pytest.mark.parametrize(
    ("cells", "write", "found"),
    [
        (None, plain_text, "is neither an HDF5 file"),
        (None, lambda path: path.write_bytes(b""), r"is empty \(0 bytes\)"),
        (None, truncated, "cannot be read"),
        (None, no_anndata, "cannot be read"),
        (None, no_columns, r"cannot be read at X \(something is missing in it: it has no indptr\)"),
        (None, lambda path: path.mkdir(), "is a folder but no zarr store"),
        (None, lambda path: path.symlink_to("nowhere"), "does not exist"),
        (FRACTIONAL, None, "holds no counts in X: 5 fractional values"),
        (atlas(obs=atlas().obs.drop(columns="donor")), None, "has no obs column 'donor'"),
        (atlas(obs=atlas().obs.assign(donor="d9")), None, "has 'd9' in batch column 'donor'"),
        (atlas(obs=atlas().obs.assign(donor=["nan"] + ["d1"] * 11)), None, "has 1 of 12 cells without a value in batch column 'donor'"),
        (atlas(var=pd.DataFrame(index=[f"H{i}" for i in range(20)])), None, "has none of the model's 20 genes"),
        (atlas()[:0].copy(), None, "has no cells"),
        (minified(), None, "has no count in any of the model's genes"),
        (minified(scvi_latent_qzm=1), None, "obsm 'scvi_latent_qzm' .* is not used: it is the latent of another class than SCANVI"),
    ],
)  # fmt: skip
def test_what_no_row_names_refuses_none(beside, cells, write, found):
    record, folder = beside(cells, write)
    assert record["source"] is None and record["fault"] is None
    assert len(record["warnings"]) == 1 and re.search(found, record["warnings"][0]), record["warnings"]
    assert record["warnings"][0].startswith("The cells saved beside the model are not used, and no row asks for them: ")
    assert not folder.aligned.exists() and not folder.cells.exists()


@pytest.mark.parametrize(
    ("request_", "fault"),
    [
        ({"transfer_keys": ["cel_type"]}, "has no obs column 'cel_type', which transfer_keys names"),
        ({"columns": ["sample"]}, "has no obs column 'sample', which mapqc_sample_key or mapqc_study_key names"),
        ({"layer": "count"}, "has no layer 'count'"),
        ({"layer": "raw"}, "has no raw.X"),
        ({"var_key": "ensembl"}, "has no var column 'ensembl'"),
        ({"embedding": "X_scvi"}, "has no obsm 'X_scvi', which reference_embedding names"),
    ],
)
def test_what_a_row_names_of_them_refuses_it(beside, request_, fault):
    record, _ = beside(atlas(), **request_)
    assert record["source"] is None and re.search(fault, record["fault"])


def test_labels_that_are_asked_for_without_any_cells_are_told(beside):
    record, _ = beside(write=plain_text, transfer_keys=["cell_type"])
    assert record["fault"] is None
    assert record["warnings"][1:] == [
        "There are no reference cells, so 'transfer_keys' mean nothing: name the cells of the reference with reference."
    ]


def test_of_several_files_the_first_that_can_be_used_is(beside):
    beside_it = atlas()
    record, _ = beside(beside_it, lambda path: plain_text(path.with_name("adata.h5ad")), name="b_adata.h5ad")
    assert record["source"] == "counts" and record["reference"] == "models/atlas/b_adata.h5ad"
    assert len(record["warnings"]) == 1 and "'models/atlas/adata.h5ad' is neither" in record["warnings"][0]


@pytest.mark.parametrize(
    ("layer", "of_model", "said"),
    [("counts", "counts", False), ("counts", None, True), ("raw_counts", "counts", True)],
)
def test_counts_are_found_where_the_model_had_them_or_wherever_else(beside, layer, of_model, said):
    record, folder = beside(with_counts_in(layer), card=CARD | {"layer": of_model})
    assert record["source"] == "counts"
    assert (
        record["warnings"]
        == [f"reference 'models/atlas/adata.h5ad' holds no counts in X: those in layers/{layer} are embedded."] * said
    )
    np.testing.assert_array_equal(ad.read_zarr(folder.aligned).X.toarray(), atlas()[:, GENES].X.toarray())


@pytest.mark.parametrize("modality", ["gex", "rna"])
def test_the_genes_of_several_modalities_are_those_of_the_models(beside, modality):
    def write(path):
        with h5py.File(path.with_name("mdata.h5mu"), "w") as file:
            for name, cells in ((modality, atlas()), ("adt", atlas()[:, :2].copy())):
                write_elem(file.require_group("mod"), name, cells)
            write_elem(file, "obs", atlas().obs)

    record, _ = beside(write=write, card=CARD | {"modality": "gex"})
    assert record["source"] == "counts" and record["reference"] == "models/atlas/mdata.h5mu"


# Whose embedding it is


def test_of_several_latents_only_that_of_the_class_counts(beside):
    cells = minified(scvi_latent_qzm=1, scanvi_latent_qzm=1)
    cells.obsm["scvi_latent_qzm"] += 5
    record, folder = beside(cells)
    assert record["source"] == "the latent of a minified model" and record["fault"] is None
    assert (ad.read_zarr(folder.cells).obsm["X_emb"] == 2).all()
    assert [warning.split(":")[0] for warning in record["warnings"]] == [
        "obsm 'scvi_latent_qzm' of reference 'models/atlas/adata.h5ad' is not used"
    ]


FEW_GENES = pd.DataFrame(index=[*GENES[:10], *(f"H{i}" for i in range(10))])


@pytest.mark.parametrize(
    ("changes", "wrong", "whole"),
    [
        ({"obs": atlas().obs.assign(donor="d9")}, "has 'd9' in batch column 'donor', which the model does not know", True),
        ({"obs": atlas().obs.assign(donor=["d1", "d9"] * 6)}, "has 'd9' in batch column 'donor'.*for 6 of 12 cells", False),
        ({"obs": atlas().obs.assign(cell_type="Q")}, "has 'Q' in labels column 'cell_type', which the model does not know", True),
        ({"var": pd.DataFrame(index=[f"H{i}" for i in range(20)])}, "has 0 of the model's 20 genes", True),
        ({"var": FEW_GENES}, "has 10 of the model's 20 genes", False),
    ],
)
def test_an_embedding_is_compared_with_the_model(prepare, tmp_path, changes, wrong, whole):
    """Beside a model it is left aside for any doubt; where a row names it, only if nothing of it is the model's."""
    latent = {"X_mine": np.ones((12, 3)), "scanvi_latent_qzm": np.ones((12, 3))}
    cells = atlas(X=sparse.csr_matrix((12, 20), dtype=np.float32), obsm=latent, **changes)
    model = tmp_path / "model"
    model.mkdir()
    cells.write_h5ad(model / "adata.h5ad")
    record, folder = prepare(model=model, reference=None)
    assert record["source"] is None and record["fault"] is None and re.search(wrong, record["warnings"][0])
    shutil.rmtree(folder.folder)
    record, _ = prepare(cells, embedding="X_mine")
    if whole:
        assert record["source"] is None and re.search(wrong, record["fault"])
    else:
        assert record["source"] == "obsm['X_mine']" and re.search(wrong, record["warnings"][0])


def test_an_embedding_of_another_class_is_refused_where_a_row_names_it(prepare):
    record, folder = prepare(minified(scvi_latent_qzm=1), embedding="scvi_latent_qzm")
    assert "holds in obsm 'scvi_latent_qzm' the embedding by a SCVI, and the model is a SCANVI" in record["fault"]
    shutil.rmtree(folder.folder)
    cells = minified(X_emb=1)
    cells.uns["refmap"] = {"class_name": "TOTALVI"}
    record, _ = prepare(cells, embedding="X_emb")
    assert "the embedding by a TOTALVI, and the model is a SCANVI" in record["fault"]


def test_a_file_of_an_embedding_alone_tells_nothing_of_genes(prepare):
    cells = ad.AnnData(np.ones((12, 3), dtype=np.float32), obs=atlas().obs, obsm={"X_mine": np.ones((12, 3))})
    record, _ = prepare(cells, embedding="X_mine")
    assert record["fault"] is None and record["warnings"] == []


def test_categories_are_compared_loosely_and_it_is_said_once(prepare):
    obs = atlas().obs.assign(donor=["D1", "d2 "] * 6, cell_type=["t", "B", "nan"] * 4)
    record, folder = prepare(atlas(obs=obs))
    assert record["fault"] is None and record["source"] == "counts"
    kept = ad.read_zarr(folder.cells).obs
    assert list(kept["donor"]) == ["d1", "d2"] * 6
    assert list(kept["cell_type"].astype(object).fillna("")) == ["T", "B", ""] * 4
    assert list(ad.read_zarr(folder.aligned).obs["donor"]) == ["d1", "d2"] * 6
    where = "reference 'atlas.h5ad', column"
    assert record["warnings"] == [
        f"{where} 'cell_type': 4 cells are taken under the model's spelling: 't' for 'T' (4).",
        f"{where} 'cell_type': 4 cells are taken for cells without a value, as they have 'nan'.",
        f"{where} 'donor': 12 cells are taken under the model's spelling: 'D1' for 'd1' (6), 'd2 ' for 'd2' (6).",
    ]


def test_labels_that_the_model_does_not_know_are_told(prepare):
    record, _ = prepare(atlas(obs=atlas().obs.assign(cell_type=["T", "Q"] * 6)))
    assert record["fault"] is None and record["warnings"] == [
        "reference 'atlas.h5ad', labels column 'cell_type': 6 of 12 cells have labels that the model does not know ('Q'): make sure "
        "that these are the cells that it was trained on."
    ]


def test_levels_of_a_covariate_that_the_model_does_not_know_are_told(prepare):
    record, _ = prepare(atlas(), card=CARD | {"categorical_covariates": {"level": ["l1"]}})
    assert "has 'l2' in covariate column 'level', which the model does not know" in record["fault"]


def test_the_atlas_s_own_umap_is_the_map(prepare):
    at = np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32)
    record, folder = prepare(atlas(obsm={"X_umap": at}))
    assert record["map"] == "own" and record["warnings"] == []
    np.testing.assert_array_equal(ad.read_zarr(folder.cells).obsm["X_umap"], at)


@pytest.mark.parametrize("at", [np.zeros((12, 3)), np.full((12, 2), np.nan)], ids=["three axes", "no numbers"])
def test_a_umap_that_is_no_map_is_computed_and_it_is_said(prepare, at):
    record, folder = prepare(atlas(obsm={"X_umap": at}))
    assert record["map"] == "computed" and "X_umap" not in ad.read_zarr(folder.cells).obsm
    assert f"has 12 x {at.shape[1]} values in obsm 'X_umap'" in record["warnings"][0]
