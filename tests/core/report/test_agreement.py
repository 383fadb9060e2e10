"""How labels of one query's cells agree, from several references or several columns of one."""

import csv
import json

import anndata as ad
import pandas as pd
import pytest
from refmap.common.storage import StoredCells, write_zarr
from refmap.report.agreement import Agreement, agreements, write_agreements
from refmap.report.cell_table import write_cells
from refmap.report.outcomes import Outcome
from refmap.report.page import write_sections
from refmap.report.sections import agreement as section


def outcome(folder, dataset, query="q.h5ad", **columns):
    place = folder / dataset
    place.mkdir(parents=True)
    index = range(max((len(values) for values in columns.values()), default=1))
    obs = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()}, index=index)
    write_zarr(ad.AnnData(obs=obs.set_index(obs.index.astype(str))), folder / f"{dataset}.zarr")
    write_cells({}, StoredCells(folder / f"{dataset}.zarr"), place)
    row = {"dataset": dataset, "file_id": "d1", "query": query, "modality": None}
    return Outcome(row, record={"labels": list(columns)}, folder=place)


@pytest.fixture
def found(tmp_path):
    """One query on two atlases, the second of which has two label columns; and another query."""
    return agreements(
        [
            outcome(tmp_path, "lung", ct_predicted=["T", "T", "B", "NA", None]),
            outcome(tmp_path, "blood", ct_predicted=["T4", "T8", "B<1>", "x", "x"], ct_transferred=["T", "T", "B", "B", "B"]),
            outcome(tmp_path, "gut", "other.h5ad", ct_predicted=["T"]),
            outcome(tmp_path, "none", "other.h5ad"),
        ]
    )


def test_all_columns_of_a_query_are_compared_by_twos(found):
    assert [(one.query, one.first, one.second) for one in found] == [
        ("q.h5ad", ("lung/d1", "ct_predicted"), ("blood/d1", "ct_predicted")),
        ("q.h5ad", ("lung/d1", "ct_predicted"), ("blood/d1", "ct_transferred")),
        ("q.h5ad", ("blood/d1", "ct_predicted"), ("blood/d1", "ct_transferred")),
    ]
    # A label may be called NA; the cell without a label is left out.
    assert found[0].counts.to_dict("index") == {
        "B": {"B<1>": 1, "T4": 0, "T8": 0, "x": 0},
        "NA": {"B<1>": 0, "T4": 0, "T8": 0, "x": 1},
        "T": {"B<1>": 0, "T4": 1, "T8": 1, "x": 0},
    }
    assert found[2].counts.to_numpy().sum() == 5


def test_the_table_has_a_row_a_pair_of_labels_that_cells_have(found, tmp_path):
    write_agreements(found, tmp_path / "table.csv")
    with open(tmp_path / "table.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0][-3:] == ["cells", "share_of_first", "share_of_second"]
    mappings = ("q.h5ad", "lung/d1", "ct_predicted", "{}", "blood/d1", "ct_predicted", "{}")
    assert [",".join(mappings).format(*pair).split(",") for pair in (("B", "B<1>"), ("NA", "x"), ("T", "T4"), ("T", "T8"))] == [
        row[:7] for row in rows[1:5]
    ]
    assert [row[7:] for row in rows[3:5]] == [["1", "0.5", "1.0"], ["1", "0.5", "1.0"]]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([[5, 0], [0, 7]], 1.0),  # each tells the other, whatever they are called
        ([[4, 4], [4, 4]], 0.0),
        ([[4, 4], [0, 0]], 0.0),
        ([[3]], None),
        ([[2, 2, 0], [0, 0, 4]], 0.8),  # ln 2 of what both hold, of a mean of (1 + 1.5) / 2 ln 2
    ],
)
def test_their_mutual_information(counts, expected):
    found = Agreement("q", ("a", "x"), ("b", "y"), pd.DataFrame(counts)).information
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-9))


def test_the_page_shows_them_as_text(found, tmp_path, monkeypatch):
    write_sections([], [], [], found, tmp_path)
    page = json.loads((tmp_path / "refmap_agreement_mqc.json").read_text())
    assert page["plot_type"] == "html" and page["data"].count("<h4>q.h5ad") == 3
    assert "B&lt;1&gt;" in page["data"] and "<1>" not in page["data"] and "lung/d1, ct_predicted" in page["data"]
    monkeypatch.setattr(section, "MOST_PAIRS", 1)
    assert "and 2 more pairs of columns" in section.agreement(found)["data"]
    assert section.agreement([]) is None
