"""Opening queries of every storage, and refusing what is no query."""

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from anndata.io import write_elem
from refmap.common import names as of_cells
from refmap.common.errors import RefmapError
from refmap.query import matrix as matrix_module
from refmap.query.protein_tables import read_proteins
from refmap.query.query import Query
from scipy import sparse


@pytest.fixture(scope="module")
def adata():
    counts = sparse.random(57, 23, density=0.3, format="csr", random_state=0, dtype=np.float32)
    counts.data = np.ceil(counts.data * 9)
    obs = pd.DataFrame(
        {"donor": pd.Categorical(["a", "b", "c"] * 19), "age": np.arange(57.0)}, index=[f"cell{i}" for i in range(57)]
    )
    var = pd.DataFrame({"gene_id": [f"ENSG{i:08d}.1" for i in range(23)]}, index=[f"gene{i}" for i in range(23)])
    adata = anndata.AnnData(counts, obs=obs, var=var, layers={"counts": counts.copy()})
    adata.raw = adata.copy()
    return adata


def store(adata, path, kind, matrix):
    adata = adata.copy()
    adata.X = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": lambda x: x.toarray()}[matrix](adata.X)
    if kind == "h5ad":
        adata.write_h5ad(path)
    elif kind == "h5mu":
        with h5py.File(path, "w") as file:
            file.attrs["encoding-type"] = "MuData"
            write_elem(file, "obs", pd.DataFrame({"site": [f"s{i}" for i in range(57)]}, index=adata.obs_names[::-1]))
            write_elem(file.create_group("mod"), "rna", adata)
    else:
        root = zarr.open_group(path, mode="w", zarr_format=2 if kind == "zarr2" else 3)
        write_elem(root, "/", adata)
    return path


@pytest.mark.parametrize("matrix", ["csr", "csc", "dense"])
@pytest.mark.parametrize("kind", ["h5ad", "zarr2", "zarr3", "h5mu"])
def test_every_storage_gives_the_same_chunks(adata, tmp_path, monkeypatch, kind, matrix):
    # The name says nothing: a workflow stages every query as `query`.
    with Query(store(adata, tmp_path / "query", kind, matrix), "data/mine") as query:
        assert query.format == {"zarr2": "zarr", "zarr3": "zarr"}.get(kind, kind)
        assert query.n_obs == 57
        assert list(query.obs_names) == list(adata.obs_names)
        assert list(query.gene_ids()) == list(adata.var_names)
        assert list(query.gene_ids(var_key="gene_id")) == list(adata.var["gene_id"])
        assert query.layers == ["X", "counts", "raw"]
        assert list(query.obs_column("donor")) == list(adata.obs["donor"])
        for rows in (1, 10, 57, 100):
            chunks = list(query.matrix("X").chunks(rows))
            assert [start for start, _ in chunks] == list(range(0, 57, rows))
            assert (sparse.vstack([chunk for _, chunk in chunks]).toarray() == adata.X.toarray()).all()
        monkeypatch.setattr(matrix_module, "TAKEN_ROWS", 10)
        for taken in ([3, 9, 10, 41, 56], []):
            taken = np.array(taken, dtype=np.int64)
            assert (query.matrix("X").take(taken).toarray() == adata.X.toarray()[taken]).all()
            assert (query.matrix("X").take(taken, np.array([4, 1])).toarray() == adata.X.toarray()[taken][:, [4, 1]]).all()


@pytest.mark.parametrize("kind", ["h5ad", "zarr2"])
def test_csc_is_transposed_in_bands(adata, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(matrix_module, "BLOCK_VALUES", 80)
    monkeypatch.setattr(matrix_module, "SPILL_VALUES", 13)
    with Query(store(adata, tmp_path / "query", kind, "csc")) as query:
        chunks = [chunk.toarray() for _, chunk in query.matrix("X").chunks(5)]
    assert (np.vstack(chunks) == adata.X.toarray()).all()


def test_bands_are_whole_chunks_of_bounded_size():
    counts = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5])
    # The second has more than 10 alone, and cannot be cut.
    assert list(matrix_module._bands(counts, rows=2, most=10)) == [(0, 4), (4, 6), (6, 8), (8, 10), (10, 11)]


def test_column_of_the_table_shared_by_modalities(adata, tmp_path):
    with Query(store(adata, tmp_path / "q", "h5mu", "csr")) as query:
        assert list(query.obs_column("site")) == [f"s{i}" for i in range(56, -1, -1)]


def test_files_of_old_versions(adata, tmp_path):
    """Before anndata 0.7 tables were compound arrays, categories lay in uns, and sparse groups had h5sparse attributes."""
    path = tmp_path / "old.h5ad"
    with h5py.File(path, "w") as file:
        names = adata.obs_names.to_numpy().astype("S")
        obs = np.rec.fromarrays([names, adata.obs["donor"].cat.codes.to_numpy()], names="index,donor")
        file["obs"] = obs
        file["var"] = np.rec.fromarrays([adata.var_names.to_numpy().astype("S")], names="index")
        file["uns/donor_categories"] = np.array(["a", "b", "c"], dtype=h5py.string_dtype())
        group = file.create_group("X")
        group.attrs["h5sparse_format"] = "csr"
        group.attrs["h5sparse_shape"] = adata.shape
        for part in ("data", "indices", "indptr"):
            group[part] = getattr(adata.X, part)
    opened = []
    for _ in range(2):  # in one process, which a task may do
        with Query(path) as query:
            assert list(query.obs_names) == list(adata.obs_names)
            assert list(query.obs_column("donor")) == list(adata.obs["donor"])
            assert (next(query.matrix().chunks(100))[1].toarray() == adata.X.toarray()).all()
            opened.append(query)


def truncated(adata, path):
    store(adata, path, "h5ad", "csr")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def corrupt(adata, path):
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + b"rubbish" * 100)


def holed(adata, path):
    """The file opens; what its top group holds cannot be told."""
    store(adata, path, "h5ad", "csr")
    with path.open("r+b") as file:
        file.seek(600)
        file.write(bytes(400))


def empty(adata, path):
    path.write_bytes(b"")


def no_hdf5(adata, path):
    path.write_text("gene,cell\n1,2\n")


def no_zarr(adata, path):
    path.mkdir()


def no_anndata(adata, path):
    with h5py.File(path, "w") as file:
        file.create_group("matrix")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (truncated, "query 'my file.h5ad' cannot be read at its top group .*it is cut off: [0-9,]+ of [0-9,]+ bytes.*copy"),
        (corrupt, "query 'my file.h5ad' cannot be read at its top group"),
        (holed, "query 'my file.h5ad' cannot be read at its top group .*link existence"),
        (empty, r"query 'my file.h5ad' is empty \(0 bytes\)"),
        (no_hdf5, "query 'my file.h5ad' is neither an HDF5 file"),
        (no_zarr, "query 'my file.h5ad' is a folder but no zarr store"),
        (no_anndata, "query 'my file.h5ad' holds no AnnData .*Cell Ranger"),
        (lambda adata, path: None, "query file 'my file.h5ad' does not exist"),
    ],
)
def test_no_query(adata, tmp_path, make, message):
    make(adata, tmp_path / "query")
    with pytest.raises(RefmapError, match=message):
        Query(tmp_path / "query", "my file.h5ad")


def test_unknown_names_are_answered_with_the_nearest(adata, tmp_path):
    with Query(store(adata, tmp_path / "q", "h5ad", "csr"), "q.h5ad") as query:
        with pytest.raises(
            RefmapError, match="no layer 'count': set layer to one of 'X', 'counts', 'raw'. Did you mean 'counts'?"
        ):
            query.matrix("count")
        with pytest.raises(RefmapError, match="no obs column 'donr'.*Did you mean 'donor'?"):
            query.obs_column("donr")
        first, second = list(query.obs_columns)[:2]
        with pytest.raises(RefmapError, match=f"Part several by ';': '{first};{second}'"):
            query.obs_column(f"{first}, {second}")
        with pytest.raises(RefmapError, match=r"no var column 'gene_ids' \(var_key\).*Did you mean 'gene_id'?"):
            query.gene_ids(var_key="gene_ids")
    with pytest.raises(RefmapError, match="no modality 'rn': set modality to one of 'rna'. Did you mean 'rna'?"):
        Query(store(adata, tmp_path / "m", "h5mu", "csr"), "m.h5mu", "rn")


def test_a_chunk_lost_in_the_middle_is_named(adata, tmp_path):
    path = store(adata, tmp_path / "q.zarr", "zarr2", "csr")
    chunk = next(file for file in (path / "X" / "data").iterdir() if not file.name.startswith("."))
    chunk.write_bytes(chunk.read_bytes()[:20])
    with (
        Query(path, "q.zarr") as query,
        pytest.raises(RefmapError, match="query 'q.zarr' cannot be read at X .*damaged"),
    ):
        list(query.matrix("X").chunks(10))


def test_proteins_of_every_kind(adata, tmp_path):
    values = np.random.default_rng(0).integers(0, 9, (57, 3)).astype(float)
    names = ["CD3", "CD4", "CD8"]
    adata = adata.copy()
    adata.obsm["table"] = pd.DataFrame(values, index=adata.obs_names, columns=names)
    adata.obsm["array"] = values
    adata.obsm["nameless"] = values[:, :2]
    adata.uns["array_names"] = names
    path = store(adata, tmp_path / "q", "h5ad", "csr")
    with Query(path, "q") as query:
        for key in ("table", "array"):
            proteins = read_proteins(query, key)
            assert proteins.names == names
            assert (proteins.rows(5, 20) == values[5:20]).all()
        with pytest.raises(RefmapError, match=r"no names for the 2 proteins of obsm 'nameless'"):
            read_proteins(query, "nameless")
        with pytest.raises(RefmapError, match="no protein data 'arry'.*Did you mean 'array'"):
            read_proteins(query, "arry")

    order = np.random.default_rng(1).permutation(57)[:50]
    other = anndata.AnnData(
        sparse.csr_matrix(values[order]), obs=pd.DataFrame(index=adata.obs_names[order]), var=pd.DataFrame(index=names)
    )
    path = store(adata, tmp_path / "m", "h5mu", "csr")
    with h5py.File(path, "a") as file:
        write_elem(file["mod"], "prot", other)
    expected = values.copy()
    expected[np.setdiff1d(np.arange(57), order)] = 0
    with Query(path, "m") as query:
        assert (read_proteins(query, "prot").rows(0, 57) == expected).all()


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
@pytest.mark.parametrize("form", ["text", "nullable", "masked", "categories", "numbers"])
def test_names_of_cells_are_text_however_they_are_stored(tmp_path, monkeypatch, kind, form):
    """And read some at a time, whole chunks of the file."""
    monkeypatch.setattr(of_cells, "NAMES", 3)
    names = [f"cell-é{i}" for i in range(8)]
    stored = {
        "text": np.array(names, dtype=object),
        "nullable": pd.array(names, dtype="string"),
        "masked": pd.array([*names[:-1], None], dtype="string"),
        "categories": pd.Categorical(names),
        "numbers": np.arange(8),
    }[form]
    expected = {"masked": [*names[:-1], "<NA>"], "numbers": list(map(str, range(8)))}.get(form, names)
    path = tmp_path / f"q.{kind}"
    file = h5py.File(path, "w") if kind == "h5ad" else zarr.open_group(path, mode="w", zarr_format=2)
    file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    for part in ("obs", "var"):
        write_elem(file, part, pd.DataFrame(index=["x"] * 8))
    with anndata.settings.override(allow_write_nullable_strings=True):
        write_elem(file["obs"], "_index", stored, dataset_kwargs={"chunks": (2,)} if form == "text" else {})
    if kind == "h5ad":
        file.close()
    with Query(path) as query:
        assert query.obs_names.tolist() == expected and query.n_obs == 8
        assert query.obs_names.dtype == "str" and query.obs.index.tolist() == expected
