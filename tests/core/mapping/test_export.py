"""The output holds the query as it was, to the dtype, and what its mapping gave."""

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from anndata.io import write_elem
from refmap.common import h5ad
from refmap.common.errors import RefmapError
from refmap.common.names import Names
from refmap.mapping import export as export_module
from refmap.mapping.export import copy_names, export
from refmap.query.contents import Contents
from refmap.query.query import Query
from scipy import sparse
from small_queries import make_row

CELLS = [f"cell{i}" for i in range(40)]


@pytest.fixture(scope="module")
def adata():
    """One of everything that an AnnData can hold."""
    rng = np.random.default_rng(0)
    x = sparse.random(40, 15, density=0.3, format="csr", random_state=0, dtype=np.float32)
    words = np.array(["x", "y"] * 20, dtype=object)
    obs = pd.DataFrame(
        {
            "category": pd.Categorical(["b", "a"] * 20, categories=["b", "a", "unused"]),
            "ordered": pd.Categorical([2, 1] * 20, ordered=True),
            "text": words,
            "gaps": pd.array(["x", None] * 20, dtype="str"),
            "nullable_text": pd.array(["x", None] * 20, dtype="string"),
            "integer": pd.array([1, None] * 20, dtype="Int32"),
            "boolean": pd.array([True, None] * 20, dtype="boolean"),
            "int8": np.arange(40, dtype=np.int8),
            "float16": np.arange(40, dtype=np.float16),
        },
        index=CELLS,
    )
    var = pd.DataFrame({"symbol": [f"s{i}" for i in range(15)]}, index=pd.Index([f"g{i}" for i in range(15)], name="gene"))
    adata = anndata.AnnData(
        x,
        obs=obs,
        var=var,
        layers={"csc": x.tocsc(), "dense": x.toarray().astype(np.float64), "int": x.astype(np.int64)},
        obsm={"X_pca": rng.normal(size=(40, 3)), "X_emb": np.ones((40, 2)), "frame": obs[["int8", "text"]]},
        varm={"loadings": rng.normal(size=(15, 3))},
        obsp={"distances": sparse.random(40, 40, density=0.1, format="csr", random_state=1)},
        varp={"links": np.eye(15)},
        uns={
            "text": "hello", "number": 3, "real": 0.5, "flag": True, "nothing": None, "empty": {}, "list": ["a", "b"],
            "nested": {"array": np.arange(5), "frame": pd.DataFrame({"a": [1, 2]}, index=["r", "s"])},
            "records": np.rec.fromarrays([[1.0, 2.0]], names="score"),
        },
    )  # fmt: skip
    adata.raw = anndata.AnnData(sparse.hstack([x, x]).tocsr(), obs=obs, var=pd.DataFrame(index=[f"r{i}" for i in range(30)]))
    return adata


@pytest.fixture
def embedding(tmp_path):
    result = anndata.AnnData(
        obs=pd.DataFrame(
            {
                "cell_type_predicted": pd.Categorical(["B", "T"] * 20),
                "cell_type_predicted_probability": np.linspace(0.5, 1, 40),
            },
            index=CELLS,
        ),
        obsm={
            "X_emb": np.random.default_rng(1).normal(size=(40, 10)).astype(np.float32),
            "cell_type_probabilities": np.full((40, 2), 0.5, np.float32),
        },
        uns={"cell_type_classes": np.array(["B", "T"], dtype=object)},
    )
    result.write_zarr(tmp_path / "embedding.zarr")
    return tmp_path / "embedding.zarr"


def assert_same(one, other, where=""):
    """The same values, dtypes and formats, all the way down."""
    assert type(one) is type(other), where
    if isinstance(one, pd.DataFrame):
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    elif sparse.issparse(one):
        assert one.dtype == other.dtype and one.shape == other.shape and (one != other).nnz == 0, where
    elif isinstance(one, np.ndarray):
        # anndata reads strings as objects from HDF5 and as numpy's strings from zarr.
        assert one.dtype == other.dtype or {one.dtype.kind, other.dtype.kind} == {"O", "T"}, where
        np.testing.assert_array_equal(one, other)
    elif hasattr(one, "keys"):
        assert sorted(one) == sorted(other), where
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    else:
        assert one == other, where


def test_comes_back_whole(adata, embedding, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "CHUNK_BYTES", 64)  # several blocks of everything
    monkeypatch.setattr(export_module, "BLOCK_VALUES", 64)
    for kind in ("h5ad", "zarr2", "zarr3"):
        path, out = tmp_path / f"query_{kind}", tmp_path / f"{kind}.zarr"
        if kind == "h5ad":
            adata.write_h5ad(path, convert_strings_to_categoricals=False)
            query = anndata.read_h5ad(path)
        else:
            write_elem(zarr.open_group(path, mode="w", zarr_format=int(kind[-1])), "/", adata)
            query = anndata.read_zarr(path)
        with Query(path) as opened:
            export(opened, make_row(), embedding, out)
        assert not list(out.rglob("zarr.json")) and list(tmp_path.glob(".*")) == []

        got = anndata.read_zarr(out)
        result = anndata.read_zarr(embedding)
        assert_same(result.obsm["X_emb"], got.obsm.pop("X_emb"))
        assert_same(query.obsm.pop("X_emb"), got.obsm.pop("X_emb_query"))
        assert_same(result.obsm["cell_type_probabilities"], got.obsm.pop("cell_type_probabilities"))
        assert_same(result.obs, got.obs[list(result.obs)])
        assert got.uns.pop("refmap")["classes"].keys() == {"cell_type"}
        got.obs = got.obs.drop(columns=list(result.obs))
        for part in ("X", "obs", "var"):
            assert_same(getattr(query, part), getattr(got, part), part)
        for part in ("layers", "obsm", "varm", "obsp", "varp", "uns"):
            one, other = getattr(query, part), getattr(got, part)
            assert sorted(map(str, one)) == sorted(map(str, other)), part
            for key in one.keys() - {None}:  # layers[None] is X
                assert_same(one[key], other[key], f"{part}/{key}")
        assert_same(query.raw.X, got.raw.X)
        assert_same(query.raw.var, got.raw.var)


def test_the_same_as_h5ad_is_what_anndata_reads_of_the_zarr(adata, embedding, tmp_path, monkeypatch):
    monkeypatch.setattr(h5ad, "BLOCK_BYTES", 64)  # several blocks of everything
    monkeypatch.setattr(h5ad, "LEAST_PACKED", 16)
    adata.write_h5ad(tmp_path / "q", convert_strings_to_categoricals=False)
    with Query(tmp_path / "q") as query:
        export(query, make_row(), embedding, tmp_path / "o.zarr")
    h5ad.zarr_to_h5ad(tmp_path / "o.zarr", tmp_path / "o.h5ad")
    export_module.open_once(tmp_path / "o.h5ad")
    one, other = anndata.read_h5ad(tmp_path / "o.h5ad"), anndata.read_zarr(tmp_path / "o.zarr")
    for part in ("X", "obs", "var"):
        assert_same(getattr(one, part), getattr(other, part), part)
    for part in ("layers", "obsm", "varm", "obsp", "varp", "uns"):
        for key in getattr(other, part).keys() - {None}:
            assert_same(getattr(one, part)[key], getattr(other, part)[key], f"{part}/{key}")
    assert_same(one.raw.X, other.raw.X)
    with h5py.File(tmp_path / "o.h5ad") as file:
        assert file["X/data"].compression == "gzip" and len(file["X/data"]) > 64


@pytest.mark.parametrize("form", ["zarr", "h5ad"])
def test_of_a_large_result_no_more_is_held_than_its_names_once_all_of_it_was_read(adata, embedding, tmp_path, monkeypatch, form):
    adata.write_h5ad(tmp_path / "q", convert_strings_to_categoricals=False)
    with Query(tmp_path / "q") as query:
        export(query, make_row(), embedding, tmp_path / "o.zarr")
    h5ad.zarr_to_h5ad(tmp_path / "o.zarr", tmp_path / "o.h5ad")
    monkeypatch.setattr(export_module, "READ_WHOLE", 20)
    opened = export_module.open_once(tmp_path / f"o.{form}")
    assert list(opened.obs_names) == list(adata.obs_names) and list(opened.var_names) == list(adata.var_names)
    assert list(opened.obs) == list(opened.obsm["frame"]) == [] and opened.uns["nested"]["frame"].shape == (2, 1)
    if form == "zarr":
        root = zarr.open_group(tmp_path / "o.zarr", use_consolidated=False)
        root["obs/int8"].resize((39,))
        zarr.consolidate_metadata(root.store)
    else:
        with h5py.File(tmp_path / "o.h5ad", "r+") as file:
            del file["obs/int8"]
            file["obs"].create_dataset("int8", data=np.zeros(39, dtype=np.int8)).attrs.update(
                {"encoding-type": "array", "encoding-version": "0.2.0"}
            )
    with pytest.raises(RefmapError, match="cannot be opened with anndata .*column 'int8' has 39 rows, and its table 40"):
        export_module.open_once(tmp_path / f"o.{form}")


def test_names_of_cells_are_plain_strings_for_older_versions(adata, embedding, tmp_path):
    adata.write_h5ad(tmp_path / "q", convert_strings_to_categoricals=False)
    with Query(tmp_path / "q") as query:
        export(query, make_row(), embedding, tmp_path / "o.zarr")
    root = zarr.open_group(tmp_path / "o.zarr", mode="r")
    names = ("obs/_index", "var/gene", "raw/var/_index", "obs/category/categories")
    assert {root[name].attrs["encoding-type"] for name in names} == {"string-array"}


def test_what_was_there_moves_aside(adata, embedding, tmp_path):
    adata = adata.copy()
    adata.obs["cell_type_predicted"] = "before"
    adata.obsm["X_emb_query"] = np.zeros((40, 1))
    adata.write_h5ad(tmp_path / "q")
    with Query(tmp_path / "q") as query:
        export(query, make_row(model=None), embedding, tmp_path / "o.zarr")
    got = anndata.read_zarr(tmp_path / "o.zarr")
    assert set(got.obs["cell_type_predicted_query"]) == {"before"} and set(got.obs["cell_type_predicted"]) == {"B", "T"}
    assert got.obsm["X_emb_query"].shape == (40, 1) and (got.obsm["X_emb_query_query"] == 1).all()
    assert got.obsm["X_emb"].shape == (40, 10)
    assert list(got.uns["refmap"]["classes"]["cell_type"]) == ["B", "T"]


def test_a_modality_and_an_old_file(adata, embedding, tmp_path):
    with h5py.File(tmp_path / "m", "w") as file:
        write_elem(file, "obs", pd.DataFrame({"visit": ["one", "two"] * 20, "rna:donor": 0}, index=CELLS[::-1]))
        write_elem(file.create_group("mod"), "rna", adata)
    x = adata.X
    with h5py.File(tmp_path / "old", "w") as file:
        file["obs"] = np.rec.fromarrays([np.array(CELLS, dtype="S"), np.arange(40) % 2], names="index,donor")
        file["var"] = np.rec.fromarrays([adata.var_names.to_numpy().astype("S")], names="index")
        file["uns/.zattrs"] = 3
        file["uns/donor_categories"] = np.array(["a", "b"], dtype=h5py.string_dtype())
        group = file.create_group("X")
        group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = "csr", x.shape
        for part in ("data", "indices", "indptr"):
            group[part] = getattr(x, part)
    for name in ("m", "old"):
        with Query(tmp_path / name) as query:
            export(query, make_row(), embedding, tmp_path / f"{name}.zarr")
        got = anndata.read_zarr(tmp_path / f"{name}.zarr")
        assert_same(got.X, x)
        assert list(got.obs_names) == CELLS and got.obsm["X_emb"].shape == (40, 10)
    assert list(got.obs["donor"]) == ["a", "b"] * 20 and got.uns[".zattrs_query"] == 3
    # What the modalities share comes along, cell by cell.
    assert list(anndata.read_zarr(tmp_path / "m.zarr").obs["visit"]) == ["two", "one"] * 20


STRING = h5py.string_dtype()


def odd_columns(file, adata):
    """SeuratDisk's reserved column, a slash, a column of other length, categories named twice, one that is not there."""
    file["var"]["_index"] = np.array([f"s{i}" for i in range(15)], STRING)
    file["var"].attrs["column-order"] = np.array(["symbol", "_index"], STRING)
    obs = file["obs"]
    obs.create_group("a")["b"] = np.arange(40)
    obs["short"] = np.arange(39)
    twice = obs.create_group("twice")
    twice["codes"], twice["categories"] = np.arange(40) % 2, np.array(["a", "a"], STRING)
    twice.attrs.update({"encoding-type": "categorical", "encoding-version": "0.2.0", "ordered": False})
    obs.attrs["column-order"] = np.array(["text", "a/b", "short", "twice", "gone"], STRING)


def odd_keys(file, adata):
    file["layers"].create_group("a")
    file.move("layers/dense", "layers/a/b")
    file["layers/a_b"] = file["layers/int/data"][:1].repeat(600).reshape(40, 15)
    file["obsm"].create_group("x")
    file.copy("obsm/X_pca", "obsm/x/y")
    file["uns/.zattrs"], file["uns/" + "n" * 300] = 1, 2
    file["obsm/lost"] = h5py.SoftLink("/nowhere")


def odd_tables(file, adata):
    """Other row names, another order of the rows, another number of them."""
    for name, index in (("other", np.arange(40).astype(str)), ("turned", CELLS[::-1]), ("short", CELLS[:30])):
        write_elem(file["obsm"], name, pd.DataFrame({"x": np.arange(len(index))}, index=pd.Index(index, dtype=object)))


def odd_values(file, adata):
    """What anndata cannot open, or not in this place."""
    file["uns/strange"] = 1
    file["uns/strange"].attrs.update({"encoding-type": "of-tomorrow", "encoding-version": "9"})
    file["obsm/flat"] = np.arange(39)
    file["layers/csc/indices"][0] = 4000
    half = file["layers/csc/data"][...].astype("f2")
    file.copy("layers/csc", "layers/half")
    del file["layers/half/data"]
    file["layers/half/data"] = half
    file["layers/half/indices"][0] = 0
    del file["raw/X/indptr"]


@pytest.mark.parametrize(
    ("change", "said", "there", "gone"),
    [
        (
            odd_columns,
            ["obs 'a/b' as 'a_b'", "var '_index' as '_index_query'", "obs 'short' (39 values for 40 rows)", "obs 'gone' ("],
            ["obs/a_b", "var/_index_query", "obs/twice"],
            ["obs/short", "obs/gone"],
        ),
        (
            odd_keys,
            [
                "layers 'a/b' as 'a_b-2'",
                "obsm 'x/y' as 'x_y'",
                "uns '.zattrs' as '.zattrs_query'",
                "obsm 'lost' (its link leads nowhere)",
            ],
            ["layers/a_b", "layers/a_b-2", "obsm/x_y", "uns/.zattrs_query", f"uns/{'n' * 200}"],
            ["obsm/lost"],
        ),
        (
            odd_tables,
            [
                "obsm 'other' (its rows are not called as the cells, whose names they get)",
                "obsm 'turned' (its rows are put in the order",
                "obsm 'short' (30 rows for 40)",
            ],
            ["obsm/other/x", "obsm/turned/x"],
            ["obsm/short"],
        ),
        (
            odd_values,
            [
                "uns 'strange' (",
                "obsm 'flat' (",
                "layers 'csc' (an index is out of range)",
                "layers 'half' (its values, float16, become float32)",
                "raw (",
            ],
            ["layers/half/data"],
            ["uns/strange", "obsm/flat", "layers/csc", "raw"],
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_anndata_cannot_open_is_renamed_mended_or_left_out_and_said(adata, embedding, tmp_path, change, said, there, gone):
    adata.write_h5ad(tmp_path / "q")
    with h5py.File(tmp_path / "q", "r+") as file:
        change(file, adata)
    with Query(tmp_path / "q", "q.h5ad") as query:
        contents = Contents(query)
        contents.walk()  # as before any training
        sentences = export(query, make_row(), embedding, tmp_path / "o.zarr")
        assert contents.said.sentences(query) == sentences
    told = " ".join(sentences)
    assert [phrase for phrase in said if phrase not in told.replace("it has ", "")] == [], told
    root, got = zarr.open_group(tmp_path / "o.zarr", mode="r"), anndata.read_zarr(tmp_path / "o.zarr")
    assert [name for name in there if name not in root] == [name for name in gone if name in root] == []
    assert_same(got.X, adata.X)
    assert list(got.uns["refmap"]["parts_of_the_query"]) == sentences
    if change is odd_tables:
        assert list(got.obsm["turned"]["x"]) == list(range(40))[::-1] and list(got.obsm["other"]["x"]) == list(range(40))


def test_a_block_that_is_lost_in_a_layer_costs_that_layer_alone(adata, embedding, tmp_path, monkeypatch):
    write_elem(zarr.open_group(tmp_path / "q", mode="w", zarr_format=2), "/", adata)
    monkeypatch.setattr(Contents, "try_element", lambda self, elem: None)  # as where only a block further on is lost
    (tmp_path / "q/layers/dense/0.0").write_bytes(b"lost")
    with Query(tmp_path / "q") as query:
        (sentence,) = export(query, make_row(), embedding, tmp_path / "o.zarr")
    assert "are left out of the result: layers 'dense' (" in sentence
    assert sorted(name for name in anndata.read_zarr(tmp_path / "o.zarr").layers if name) == ["csc", "int"]


def test_cells_must_be_those_of_the_embedding(adata, embedding, tmp_path):
    adata[::-1].copy().write_h5ad(tmp_path / "q")
    with (
        Query(tmp_path / "q", "mine.h5ad") as query,
        pytest.raises(
            RefmapError, match="query 'mine.h5ad' has 40 cells that are not the 40 of its embedding, in the same order"
        ),
    ):
        export(query, make_row(), embedding, tmp_path / "o.zarr")
    assert not (tmp_path / "o.zarr").exists()


def test_names_are_copied_whatever_the_chunks_of_their_file(tmp_path, monkeypatch):
    monkeypatch.setattr("refmap.common.names.NAMES", 3)
    names = np.array([f"cell {i}" for i in range(12)], dtype=object)
    root = zarr.open_group(tmp_path / "names.zarr", mode="w", zarr_format=2)
    write_elem(root, "stored", names, dataset_kwargs={"chunks": (5,)})
    copy_names(Names(root["stored"]), root, "copied")
    assert list(root["copied"][:]) == list(names)
