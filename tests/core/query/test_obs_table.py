"""Columns of the cells from a table beside the query."""

import gzip

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import zarr
from refmap.common.errors import RefmapError
from refmap.mapping.export import export
from refmap.query.obs_table import add_obs_table, read_obs_table
from refmap.query.query import Query

CELLS = [f"AACGTTCGATTA{base}-1" for base in "ACGT"]
TABLE = pd.DataFrame({"cell": CELLS, "donor": ["01", "01", "02", "02"], "age": [40, 41, 42.5, 43], "site": ["x", None, "y", "y"]})


@pytest.fixture
def query(tmp_path):
    obs = pd.DataFrame({"site": ["own"] * 4, "n": np.arange(4)}, index=CELLS)
    ad.AnnData(np.ones((4, 2), np.float32), obs=obs, var=pd.DataFrame(index=["a", "b"])).write_h5ad(tmp_path / "query")
    with Query(tmp_path / "query", "q.h5ad") as opened:
        yield opened


def row(key=None):
    return {"obs_table": "cells.csv", "obs_table_key": key}


def written(table, path, kind):
    if kind == "parquet":
        table.set_index("cell").to_parquet(path)
    else:
        text = table.to_csv(index=False, sep="\t" if "tsv" in kind else ",")
        path.write_bytes(gzip.compress(text.encode()) if "gz" in kind else text.encode())
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "csv.gz", "parquet"])
def test_columns_by_the_names_of_cells(query, tmp_path, kind):
    said = add_obs_table(query, row(), written(TABLE[::-1], tmp_path / "table", kind))
    assert list(query.obs_column("donor")) == ["01", "01", "02", "02"]
    assert list(query.obs_column("age")) == [40, 41, 42.5, 43]
    assert query.obs_column("site").fillna("").tolist() == ["x", "", "y", "y"]
    assert query.obs_columns == ["site", "n", "donor", "age"]
    assert said == [
        "obs_table 'cells.csv' and query 'q.h5ad' both have 'site': the table's are taken, and in the result the query's own are "
        "called 'site_query'."
    ]


def test_names_in_another_column_and_other_suffixes(query, tmp_path):
    table = TABLE[["donor", "cell"]].assign(cell=[f"s1_{cell[:-2]}" for cell in CELLS]).iloc[:3]
    said = add_obs_table(query, row("cell"), written(table, tmp_path / "table", "csv"))
    assert query.obs_column("donor").fillna("").tolist() == ["01", "01", "02", ""]
    assert said == [
        "obs_table 'cells.csv' is matched with the cells of query 'q.h5ad' by the barcode alone, without sample and number.",
        f"obs_table 'cells.csv' has no row of 1 of the 4 cells of query 'q.h5ad' (such as '{CELLS[3]}'): they have no value in its columns.",
    ]


def test_a_table_that_r_wrote(query, tmp_path):
    (tmp_path / "table").write_text('"donor","age"\n' + "".join(f'"{cell}","d{i}",{i}\n' for i, cell in enumerate(CELLS)))
    assert add_obs_table(query, row(), tmp_path / "table") == []
    assert list(query.obs_column("donor")) == ["d0", "d1", "d2", "d3"]


def test_the_result_has_the_columns(query, tmp_path):
    add_obs_table(query, row(), written(TABLE, tmp_path / "table", "csv"))
    result = ad.AnnData(obs=pd.DataFrame(index=CELLS), obsm={"X_emb": np.zeros((4, 2), np.float32)})
    with ad.settings.override(allow_write_nullable_strings=False):
        result.write_zarr(tmp_path / "embedding.zarr")
    export(query, {"dataset": "d", "file_id": "f", "model": "m"}, tmp_path / "embedding.zarr", tmp_path / "out.zarr")
    obs = ad.read_zarr(zarr.open_group(tmp_path / "out.zarr", mode="r")).obs
    assert list(obs["donor"]) == ["01", "01", "02", "02"] and list(obs["age"]) == [40, 41, 42.5, 43]
    assert list(obs["site_query"]) == ["own"] * 4 and obs["site"].astype(object).fillna("").tolist() == ["x", "", "y", "y"]


@pytest.mark.parametrize(
    ("content", "key", "message"),
    [
        (
            b"cell,donor\n" + 2 * f"{CELLS[0]},a\n".encode() + f"{CELLS[0]},b\n".encode(),
            None,
            "several rows that differ of 1 cells",
        ),
        (b"cell,donor\nX,a\n", None, "query 'q.h5ad' has no cell of obs_table 'cells.csv'"),
        (b"cell,donor\nX,a\n", "cells", "has no column 'cells' .*Did you mean 'cell'"),
        (b"cell\nX\n", None, "has the column 'cell' alone"),
        (b"", None, "is no table that can be read"),
        (b"PAR1 and no more", None, "is no table that can be read"),
        (gzip.compress(b"cell,donor\n" * 99)[:25], None, "is no table that can be read"),
        (b"\x80\x81\x82,\xff\n", None, "is no table that can be read"),
    ],
)
def test_tables_that_are_none(query, tmp_path, content, key, message):
    (tmp_path / "table").write_bytes(content)
    with pytest.raises(RefmapError, match=message):
        add_obs_table(query, row(key), tmp_path / "table")
    with pytest.raises(RefmapError, match="obs_table 'cells.csv' does not exist"):
        add_obs_table(query, row(key), None)


def test_rows_that_are_alike_are_one(tmp_path):
    (tmp_path / "table").write_text("cell,donor\nX,a\nX,a\n")
    assert read_obs_table(tmp_path / "table", "t", None)["donor"].to_dict() == {"X": "a"}
