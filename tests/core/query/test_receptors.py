"""Tables of receptors, and their barcodes against the names of a query's cells."""

import gzip
from types import SimpleNamespace

import numpy as np
import pytest
from refmap.common.errors import RefmapError
from refmap.query.receptors import find_receptors, match_barcodes

A, B, C = "AAACCTGAGTACGACG", "AAACCTGCAACACGCC", "AAACGGGTCTCCAGGG"
CONTIGS = "barcode,chain,productive,cdr3,umis\n"


def query(*names, called="query"):
    return SimpleNamespace(
        obs_names=np.array(names, dtype=object),
        called=called,
        shown_as="q.h5ad",
        fault=lambda found: RefmapError(f"{called} 'q.h5ad' {found}"),
    )


def found(tmp_path, text, *names, takes="taken", called="query", name="contigs.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return find_receptors(query(*names, called=called), {"airr": name}, {"receptors": takes, "class_name": "mvTCR PoE"}, path)


@pytest.mark.parametrize(
    ("barcodes", "cells", "matched", "how"),
    [
        ([f"{A}-1", f"{B}-1"], [f"{A}-1", f"{C}-1"], {f"{A}-1": f"{A}-1"}, ""),
        ([f"{A}-1", f"{B}-1"], [A, B], {f"{A}-1": A, f"{B}-1": B}, "without their number"),
        ([f"{A}-1"], [f"s1_{A}-1-0"], {f"{A}-1": f"s1_{A}-1-0"}, "by the barcode alone"),
        ([f"s1#{A}"], [f"{A}-1"], {f"s1#{A}": f"{A}-1"}, "by the barcode alone"),
        # Two samples' cells of one barcode are nobody's, as are two samples' barcodes of one cell.
        ([f"{A}-1", f"{B}-1"], [f"s1_{A}-1", f"s2_{A}-1", f"s1_{B}-1"], {f"{B}-1": f"s1_{B}-1"}, "by the barcode alone"),
        ([f"{A}-1", f"{A}-2", f"{B}-1"], [A, B], {f"{B}-1": B}, "without their number"),
        # What matches as it is goes before what a looser look adds.
        ([f"s1_{A}", f"s1_{B}"], [f"s1_{A}", f"s2_{B}"], {f"s1_{A}": f"s1_{A}"}, ""),
        (["x1", "x2"], ["y1", "y2"], {}, ""),
    ],
)
def test_barcodes_are_matched_the_strictest_way_that_does(barcodes, cells, matched, how):
    pairs, words = match_barcodes(barcodes, cells)
    assert pairs == matched and words.strip().startswith(how)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_the_chains_of_the_querys_cells_are_kept_under_its_names(pack, tmp_path):
    text = CONTIGS + f"{A}-1,TRA,True,CAAF,3\n{A}-1,TRB,True,CSSF,4\n{C}-1,TRB,True,CSSF,1\n"
    receptors = found(tmp_path, pack(b"\xef\xbb\xbf" + text.encode()), f"s_{A}-1", f"s_{B}-1")
    assert list(receptors.table["barcode"]) == [f"s_{A}-1"] * 2 and list(receptors.table["cdr3"]) == ["CAAF", "CSSF"]
    assert set(receptors.table["is_cell"]) == {"True"} and set(receptors.table["cdr3_nt"]) == {""}
    assert receptors.warnings == [
        "1 of the 2 cells of query 'q.h5ad' (50%) are in airr 'contigs.csv', 50% of its 2 barcodes; names were compared by the "
        "barcode alone, without sample and number."
    ]


def test_rearrangements_keep_the_columns_that_mean_something_where_they_are(tmp_path):
    text = f"cell_id\tproductive\tjunction_aa\tv_call\tumi_count\tother\n{A}\tT\tCAAF\tTRAV1\t3\tx\n"
    table = found(tmp_path, text, A, name="airr.tsv").table
    assert list(table.columns) == [
        "cell_id",
        "productive",
        "junction_aa",
        "v_call",
        "junction",
        "d_call",
        "j_call",
        "c_call",
        "umi_count",
    ]
    assert table.iloc[0].tolist() == [A, "T", "CAAF", "TRAV1", "", "", "", "", "3"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "barcode,cdr3\nx,y\n",
            r"has the columns 'barcode', 'cdr3', which are those of no table of receptors: a 10x contig table has",
        ),
        ("", "is no table that can be read"),
        (b"\xff\xfe\x00", "is no table that can be read"),
        (b"\x1f\x8b\x08\x00broken", "is no table that can be read"),
        (CONTIGS, "has no chain of a cell in its column 'barcode'"),
        (
            CONTIGS + f"{C}-1,TRA,True,CAAF,3\n",
            rf"has no cell of airr 'contigs.csv': its cells are called '{A}', those of the table '{C}-1'",
        ),
    ],
)
def test_what_is_no_table_of_these_cells_is_said_in_a_sentence(text, sentence, tmp_path):
    with pytest.raises(RefmapError, match=sentence):
        found(tmp_path, text, A)


def test_what_a_model_takes_decides(tmp_path):
    row, taken = {"airr": "contigs.csv"}, {"receptors": "taken", "class_name": "mvTCR PoE"}
    none = taken | {"receptors": None}
    assert find_receptors(query(A), row, none, None).warnings == ["The model takes no receptors: airr 'contigs.csv' is not used."]
    assert find_receptors(query(A), {"airr": None}, none, None).warnings == []
    with pytest.raises(RefmapError, match=r"^airr 'contigs.csv' does not exist\.$"):
        find_receptors(query(A), row, taken, None)
    (warning,) = find_receptors(query(A, called="reference"), {"airr": None}, taken, None).warnings
    assert warning.startswith("reference 'q.h5ad' has no table of receptors: set reference_airr, or all")
    with pytest.raises(RefmapError, match="needs receptors, as mvTCR PoE embeds no cell without: set airr"):
        find_receptors(query(A), {"airr": None}, taken | {"receptors": "needed"}, None)


def test_a_table_that_shares_next_to_nothing_is_doubted(tmp_path):
    rng = np.random.default_rng(0)
    names = ["".join(rng.choice(list("ACGT"), 16)) for _ in range(99)]
    text = CONTIGS + "".join(f"{name},TRA,True,CAAF,3\n" for name in names[:50])
    (warning,) = found(tmp_path, text, *names[49:]).warnings
    assert warning.endswith("barcodes: make sure that it is the table of these cells.")
