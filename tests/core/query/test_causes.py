"""Each cause for which a file cannot be read is told as what it is; what other writers leave out is made up for."""

import fcntl
import gzip
import json
import os
import zipfile

import anndata
import h5py
import hdf5plugin
import numpy as np
import pandas as pd
import pytest
import zarr
from anndata.io import write_elem
from refmap.common.errors import RefmapError
from refmap.query.causes import cause
from refmap.query.checks import check
from refmap.query.protein_tables import read_proteins
from refmap.query.query import Query
from scipy import sparse
from small_queries import MODEL, make_card, make_query, make_row


@pytest.fixture
def path(tmp_path):
    make_query(MODEL).write_h5ad(tmp_path / "q")
    return tmp_path / "q"


def replace(path, name, value=None, **how):
    """Write an array of an .h5ad anew."""
    with h5py.File(path, "r+") as file:
        value, kept = file[name][...] if value is None else value, dict(file[name].attrs)
        del file[name]
        file.create_dataset(name, data=value, **how)
        file[name].attrs.update(kept)


def counts(path, layer="X"):
    with Query(path, "q") as query:
        return np.vstack([chunk.toarray() for _, chunk in query.matrix(layer).chunks(4)])


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
            "a pointer of Git LFS and not the file itself: fetch it with git lfs pull.",
        ),
        (gzip.compress(b"anything"), "compressed with gzip: unpack it"),
        (gzip.compress(b"X\n\0\0\0\3"), "data of R .*zellkonverter"),
        (b"<!DOCTYPE html><html>", "a web page .*download the file itself"),
        (b"<?xml version='1.0'?><Error>", "XML, such as the error message of a server"),
        (b"gene,a,b\nCD4,1,2\n", "a table of text: read it with anndata.io.read_csv"),
        (b"%%MatrixMarket matrix", "a Matrix Market table: give the folder"),
        (bytes(5000), "full of zero bytes, as an unfinished copy"),
        (b"\x80\x04\x95", "a pickle of Python"),
        (bytes(range(128, 256)), "no format that is known here"),
    ],
)
def test_what_a_file_is_that_is_no_query(tmp_path, content, found):
    (tmp_path / "q").write_bytes(content)
    with pytest.raises(RefmapError, match=f"query 'q' is neither an HDF5 file .*, but {found}"):
        Query(tmp_path / "q", "q")


def test_places_that_cannot_be_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "10x").mkdir()
    (tmp_path / "10x/matrix.mtx.gz").touch()
    with h5py.File(tmp_path / "loom", "w") as file:
        for name in ("matrix", "row_attrs", "col_attrs"):
            file.create_group(name)
    for name, found in (
        ("pipe", "is neither a file nor a folder"),
        ("10x", "is a folder of matrix.mtx.gz without 'barcodes.tsv.gz', 'barcodes.tsv'"),
        ("loom", "but is a loom file without its matrix"),
    ):
        with pytest.raises(RefmapError, match=found):
            Query(tmp_path / name)


def test_stores_under_other_names_and_within_others(path, tmp_path):
    expected, adata = counts(path), anndata.read_h5ad(path)
    adata.write_zarr(tmp_path / "q.zarr")
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        for file in (tmp_path / "q.zarr").rglob("*"):
            if file.is_file():
                archive.write(file, file.relative_to(tmp_path / "q.zarr"))
    assert (counts(tmp_path / "zip") == expected).all()
    spatial = zarr.open_group(tmp_path / "spatial.zarr", mode="w", zarr_format=2)
    write_elem(spatial.create_group("tables"), "table", adata)
    spatial.create_group("images")
    write_elem(spatial.create_group("other"), "data", adata)
    for modality in (None, "table", "tables/table", "other/data"):
        with Query(tmp_path / "spatial.zarr", modality=modality) as query:
            assert query.n_obs == 9
    assert (counts(tmp_path / "spatial.zarr/tables/table") == expected).all()


@pytest.mark.parametrize("how", [hdf5plugin.Zstd(), hdf5plugin.Blosc(), hdf5plugin.LZ4()], ids=lambda how: type(how).__name__)
def test_plugin_filters_are_read(path, how):
    expected = counts(path)
    replace(path, "X/data", **how)
    assert (counts(path) == expected).all()


def test_a_filter_that_nobody_has_is_named_before_the_gate(path):
    values = h5py.File(path)["X/data"][...]
    with h5py.File(path, "r+") as file:
        kept = dict(file["X/data"].attrs)
        del file["X/data"]
        how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        how.set_chunk((len(values),))
        how.set_filter(32099, h5py.h5z.FLAG_OPTIONAL, ())
        made = h5py.h5d.create(file["X"].id, b"data", h5py.h5t.py_create(values.dtype), h5py.h5s.create_simple(values.shape), how)
        made.write_direct_chunk((0,), values.tobytes(), 0)
        file["X/data"].attrs.update(kept)
    (fault,) = check(path, make_row(), make_card())["faults"]
    assert "cannot be read at X (it is compressed by a filter " in fault and "h5repack -f GZIP=4" in fault


@pytest.mark.parametrize("form", ["csr", "csc"])
def test_sparse_half_precision_is_read_as_float32(path, form):
    adata = anndata.read_h5ad(path)
    adata.X = adata.X.asformat(form)
    adata.write_h5ad(path)
    expected = counts(path)
    replace(path, "X/data", adata.X.data.astype("f2"))
    with Query(path) as query:
        assert query.matrix().dtype == np.float32
    assert (counts(path) == expected).all()


def test_values_of_no_number_are_named(path):
    replace(path, "X/data", np.zeros(h5py.File(path)["X/data"].shape, complex))
    with (
        Query(path, "q") as query,
        pytest.raises(RefmapError, match="a type that is not read here: values of type complex128.*: convert it"),
    ):
        query.matrix()


@pytest.mark.parametrize("part", ["obs", "var"])
def test_tables_without_the_name_of_their_index(path, part):
    with h5py.File(path, "r+") as file:
        file[part].attrs["encoding-version"] = "0.1.0"
        del file[part].attrs["_index"]
    with Query(path) as query:
        assert list(query.obs_names) == [f"cell{i}" for i in range(9)] and list(query.gene_ids()) == MODEL
    with h5py.File(path, "r+") as file:
        del file[part]["_index"]
    with pytest.raises(RefmapError, match=f"has no names in {part}: its attribute '_index'"), Query(path) as query:
        query.obs_names, query.gene_ids()


def test_a_sparse_group_without_attributes_and_categories_named_twice(path):
    expected = counts(path)
    with h5py.File(path, "r+") as file:
        for name in list(file["X"].attrs):
            del file["X"].attrs[name]
        group = file["obs"].create_group("twice")
        group["codes"], group["categories"] = np.array([0, 1, 2] * 3, np.int8), np.array([b"a", b"b", b"a"])
        file["obs"].attrs["column-order"] = ["donor", "twice"]
    assert (counts(path) == expected).all()
    with Query(path) as query:
        assert list(query.obs_column("twice")) == ["a", "b", "a"] * 3


def test_a_file_that_another_program_has_open_is_read(path):
    expected = counts(path)
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert (counts(path) == expected).all()


def test_no_right_to_read():
    assert cause(PermissionError(13, "Permission denied"))[0] == "reading it is not permitted"


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("Unable to synchronously open file (unable to lock file, errno = 11)", "another program has it locked"),
        ("Unable to open file (file is already open for write)", "the program that wrote it has not closed it"),
        ("truncated file: eof = 10, sblock->base_addr = 0, stored_eof = 2048", "it is cut off: 10 of 2,048 bytes are there"),
        ("codec not available: 'pcodec'", "it is compressed by 'pcodec', which is not read here"),
    ],
)
def test_what_errors_mean(said, found):
    assert cause(OSError(said))[0] == found


def test_an_array_of_zarr_runs_no_pickle(path, tmp_path):
    write_elem(zarr.open_group(tmp_path / "q.zarr", mode="w", zarr_format=2), "/", anndata.read_h5ad(path))
    array = tmp_path / "q.zarr/X/data/.zarray"
    array.write_text(array.read_text().replace('"filters": null', '"filters": [{"id": "pickle"}]'))
    (fault,) = check(tmp_path / "q.zarr", make_row(), make_card())["faults"]
    assert "cannot be read at X (" in fault and "pickle" in fault


def test_more_is_claimed_than_is_stored(path):
    with h5py.File(path, "r+") as file:
        kept = dict(file["X/indptr"].attrs)
        del file["X/indptr"]
        file.create_dataset("X/indptr", shape=(10**10,), chunks=(1000,), dtype="i8")
        file["X/indptr"].attrs.update(kept)
    with Query(path) as query, pytest.raises(RefmapError, match="it claims 10,000,000,000 values, of which 0 bytes are stored"):
        query.matrix()


def test_a_chunk_of_zarr_claims_more_than_is_stored(path, tmp_path):
    write_elem(zarr.open_group(tmp_path / "q.zarr", mode="w", zarr_format=2), "/", anndata.read_h5ad(path))
    array = tmp_path / "q.zarr/X/data/.zarray"
    held = json.loads(array.read_text())
    array.write_text(json.dumps(held | {"chunks": [10**11]}))
    (fault,) = check(tmp_path / "q.zarr", make_row(), make_card())["faults"]
    assert "it claims 100,000,000,000 values a chunk" in fault


def test_a_matrix_whose_parts_disagree(path):
    replace(path, "X/indptr", h5py.File(path)["X/indptr"][...][::-1])
    with Query(path) as query, pytest.raises(RefmapError, match="its data, indices and indptr disagree"):
        query.matrix()


def test_proteins_in_a_layer_of_their_modality_and_below_a_slash(path):
    adata = anndata.read_h5ad(path)
    values = np.arange(27.0).reshape(9, 3)
    names = pd.DataFrame(index=["CD3", "CD4", "CD8"])
    protein = anndata.AnnData(np.log1p(values), obs=adata.obs[[]], var=names, layers={"counts": sparse.csc_matrix(values)})
    adata.obsm["adt"] = pd.DataFrame(values, index=adata.obs_names, columns=names.index)
    with h5py.File(path, "w") as file:
        write_elem(file, "obs", adata.obs[[]])
        modalities = file.create_group("mod")
        write_elem(modalities, "rna", adata)
        write_elem(modalities, "prot", protein)
        file["mod/rna/obsm"].create_group("a")
        file.move("mod/rna/obsm/adt", "mod/rna/obsm/a/b")
    with Query(path) as query:
        for key in ("prot/counts", "prot/layers/counts", "a/b"):
            proteins = read_proteins(query, key)
            assert proteins.names == ["CD3", "CD4", "CD8"] and (proteins.rows(2, 9) == values[2:]).all()
        with pytest.raises(RefmapError, match="has no 'count' in modality 'prot' .*'prot/counts'.*Did you mean 'counts'"):
            read_proteins(query, "prot/count")
