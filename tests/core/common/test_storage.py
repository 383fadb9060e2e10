"""What passes between the environments."""

import shutil

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import zarr
from refmap.common import names as of_cells
from refmap.common import stores
from refmap.common.names import Names
from refmap.common.storage import (
    StoredCells,
    add_to_zarr,
    give_names,
    numbered,
    read_numbered,
    read_zarr,
    set_columns,
    take_names,
    write_zarr,
)


def test_no_raw_is_written_as_none(tmp_path):
    """anndata before 0.11 cannot read how later versions say so."""
    cells = pd.DataFrame({"label": pd.Categorical(["B", "T"])}, index=["a", "b"])
    adata = ad.AnnData(obs=cells, obsm={"X_emb": np.arange(4, dtype=np.float32).reshape(2, 2)})
    write_zarr(adata, tmp_path / "cells.zarr")
    for consolidated in (True, False):
        root = zarr.open_group(tmp_path / "cells.zarr", mode="r", use_consolidated=consolidated)
        assert "raw" not in root and "obsm" in root and root.metadata.zarr_format == 2
    read = ad.read_zarr(tmp_path / "cells.zarr")
    assert list(read.obs["label"]) == ["B", "T"] and (read.obsm["X_emb"] == adata.obsm["X_emb"]).all()


def files_of(folder):
    """Each file below a folder, and what it holds."""
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("written", ["new", "added to"])
def test_a_store_held_in_memory_is_that_which_zarr_writes_to_disk(tmp_path, monkeypatch, written):
    cells = pd.DataFrame({"label": pd.Categorical(["B", "T"]), "score": [0.5, 1]}, index=["a", "b"])
    adata = ad.AnnData(np.eye(2, dtype=np.float32), obs=cells, obsm={"X_emb": np.ones((2, 2))}, uns={"who": {"by": "scvi"}})
    for name, most in (("memory", stores.HELD), ("disk", 0)):
        monkeypatch.setattr(stores, "HELD", most)
        write_zarr(adata, tmp_path / name)
        if written == "added to":  # one that is there with fewer pieces, and one more
            add_to_zarr(tmp_path / name, obs={"label": np.ones(2), "further": pd.Categorical(["x", "y"])}, uns={"n": 3})
    assert files_of(tmp_path / "memory") == files_of(tmp_path / "disk")


def test_raw_is_kept_where_there_is_one(tmp_path):
    adata = ad.AnnData(np.ones((2, 3), dtype=np.float32))
    adata.raw = adata.copy()
    write_zarr(adata, tmp_path / "cells.zarr")
    assert ad.read_zarr(tmp_path / "cells.zarr").raw.shape == (2, 3)


def test_names_with_slashes_pass_between_steps(tmp_path):
    names = ["Sample/Donor", "50%", "a%2Fb"]
    cells = pd.DataFrame({name: [1, 2] for name in names}, index=["a", "b"])
    adata = ad.AnnData(obs=cells, obsm={"x/y": np.ones((2, 1))}, uns={"Cell/Type_classes": np.array(["B", "T"], dtype=object)})
    write_zarr(adata, tmp_path / "cells.zarr")
    read = read_zarr(tmp_path / "cells.zarr")
    assert list(read.obs) == names and list(read.obsm) == ["x/y"] and list(read.uns) == ["Cell/Type_classes"]
    assert list(adata.obs) == names and list(adata.uns) == ["Cell/Type_classes"]


@pytest.fixture
def cells(monkeypatch):
    """Seven cells whose names are written three at a time, as table and obsm."""
    monkeypatch.setattr(of_cells, "NAMES", 3)
    obs = pd.DataFrame({"label": pd.Categorical(list("BTBTTBB"))}, index=[f"cell-é{i}" for i in range(7)])
    return ad.AnnData(obs=obs, obsm={"X_emb": np.arange(14, dtype=np.float32).reshape(7, 2)}, uns={"of": {"model": "m"}})


def test_cells_without_their_names_are_the_same_cells(cells, tmp_path):
    """And get the names that they had, all or those of some rows, so that what is written is what anndata writes of them."""
    write_zarr(cells, tmp_path / "named.zarr")
    read = read_numbered(tmp_path / "named.zarr")
    assert isinstance(read.obs_names, pd.RangeIndex) and read.uns == cells.uns
    assert list(read.obs["label"]) == list(cells.obs["label"]) and (read.obsm["X_emb"] == cells.obsm["X_emb"]).all()
    kept = np.array([1, 0, 1, 1, 0, 1, 1], dtype=bool)
    for rows in (None, kept, np.flatnonzero(kept)):
        expected = cells if rows is None else cells[rows].copy()
        out = tmp_path / "again.zarr"
        write_zarr(read if rows is None else read[rows].copy(), out)
        take_names(out, tmp_path / "named.zarr", rows)
        again = ad.read_zarr(out)
        pd.testing.assert_frame_equal(again.obs, expected.obs, check_index_type=False)
        np.testing.assert_array_equal(again.obsm["X_emb"], expected.obsm["X_emb"])
        shutil.rmtree(out)
    stored = zarr.open_group(tmp_path / "named.zarr", mode="r")["obs/_index"]
    given = numbered(read.obs, obsm=dict(read.obsm))
    write_zarr(given, out)
    give_names(out, pd.Index(cells.obs_names, dtype="str"))
    for consolidated in (True, False):
        names = zarr.open_group(out, mode="r", use_consolidated=consolidated)["obs/_index"]
        assert names[:].tolist() == cells.obs_names.tolist() and names.dtype == stored.dtype
        assert dict(names.attrs) == dict(stored.attrs) and names.filters == stored.filters


def test_no_text_is_made_of_the_numbers_of_cells(monkeypatch):
    """Which anndata would do with those that it is given first."""
    made = []
    monkeypatch.setattr(
        pd.RangeIndex, "astype", lambda self, dtype: made.append(len(self)) or pd.Index(list(map(str, self)), dtype=dtype)
    )
    assert numbered(pd.DataFrame({"label": ["B", "T"]}, index=pd.RangeIndex(2))).obs["label"].tolist() == ["B", "T"]
    assert made == [0]  # of the genes


def test_an_entry_is_added_to_a_store(cells, tmp_path):
    write_zarr(cells, tmp_path / "cells.zarr")
    add_to_zarr(tmp_path / "cells.zarr", uns={"refmap": {"model_sha256": "0f"}})
    assert ad.read_zarr(tmp_path / "cells.zarr").uns == {"of": {"model": "m"}, "refmap": {"model_sha256": "0f"}}


def stored_cells(path) -> ad.AnnData:
    """Seven cells, of whose labels the last alone is c."""
    columns = {"a/label": pd.Categorical(["b", None, "a", "b", "a", "b", "c"]), "share": np.linspace(0, 1, 7, dtype=np.float32)}
    obs = pd.DataFrame(columns, index=[f"cell {i}" for i in range(7)])
    cells = ad.AnnData(obs=obs, obsm={"X_emb": np.arange(14.0).reshape(7, 2)}, uns={"refmap": {"family": "scvi"}})
    write_zarr(cells, path)
    return cells


def test_stored_cells_are_read_as_anndata_reads_them(tmp_path):
    cells = stored_cells(tmp_path / "cells.zarr")
    stored = StoredCells(tmp_path / "cells.zarr")
    assert list(stored.obs) == list(cells.obs) and "label" not in stored.obs and stored.uns == cells.uns
    for name in cells.obs:
        pd.testing.assert_series_equal(stored.obs[name], cells.obs[name].reset_index(drop=True), check_names=False)
        part = cells.obs[name][2:5].reset_index(drop=True)
        pd.testing.assert_series_equal(stored.obs.block(name, 2, 5), part, check_names=False)
    np.testing.assert_array_equal(stored.obsm["X_emb"], cells.obsm["X_emb"])
    # As anndata does, categories go that none of the cells has
    some = np.arange(7) < 5
    assert list(stored.some(some).obs["a/label"].cat.categories) == ["a", "b"]
    np.testing.assert_array_equal(stored.some(some).obsm["X_emb"], cells.obsm["X_emb"][:5])


def test_names_are_read_and_compared_by_blocks(tmp_path, monkeypatch):
    stored_cells(tmp_path / "cells.zarr")
    monkeypatch.setattr(of_cells, "NAMES", 3)
    names = StoredCells(tmp_path / "cells.zarr").names
    assert list(names.take(np.array([6, 0, 3, 3, 2]))) == ["cell 6", "cell 0", "cell 3", "cell 3", "cell 2"]
    own = np.array([f"cell {i}" for i in range(7)], dtype=object)
    assert [list(block) for block in Names(own).blocks()] == [list(own[:3]), list(own[3:6]), list(own[6:])]
    assert list(names.index()) == list(np.concatenate([*names.blocks()])) == list(own)
    assert Names(own[:0]).index().dtype == names.index().dtype == "str" and len(Names(own[:0]).index()) == 0
    other = own.copy()
    other[5] = "cell"
    assert names.same_as(Names(own)) and not names.same_as(Names(other)) and not names.same_as(Names(own[:6]))


def test_what_is_added_takes_the_place_of_what_is_called_so(tmp_path):
    cells = stored_cells(tmp_path / "cells.zarr")
    new = pd.Categorical(["x", "y", None, "x", "x", "x", "x"])
    add_to_zarr(
        tmp_path / "cells.zarr", obs={"b/more": np.arange(7), "a/label": new}, obsm={"at": np.ones((7, 1))}, uns={"c/d": 1}
    )
    read = read_zarr(tmp_path / "cells.zarr")
    assert list(read.obs) == ["a/label", "share", "b/more"] and list(read.obs["b/more"]) == list(range(7))
    pd.testing.assert_extension_array_equal(read.obs["a/label"].array, new)
    assert list(read.obs_names) == list(cells.obs_names) and read.uns["c/d"] == 1 and set(read.obsm) == {"X_emb", "at"}
    np.testing.assert_array_equal(read.obs["share"], cells.obs["share"])


def test_columns_are_set_without_naming_cells():
    cells = numbered(pd.DataFrame({"batch": ["a", "b"], "label": ["B", "T"]}, index=pd.RangeIndex(2)))
    set_columns(cells, cells.obs.drop(columns="batch").assign(label=["Unknown", "T"]))
    assert isinstance(cells.obs_names, pd.RangeIndex)
    assert list(cells.obs) == ["label"] and cells.obs["label"].tolist() == ["Unknown", "T"]
