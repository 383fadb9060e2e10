"""Queries and models of several modalities, and peaks that are called by where they lie."""

from __future__ import annotations

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from refmap.query.align import align
from refmap.query.checks import check
from refmap.query.peaks import overlapping, peak
from refmap.query.query import Query
from rows import ROW
from scipy import sparse
from small_queries import make_card

GENES = ["CD3D", "CD8A", "MS4A1"]
PEAKS = ["chr1:100-600", "chr1:1000-1500", "chr2:100-600"]
CARD = make_card(genes=GENES + PEAKS, modalities={"rna": 3, "atac": 3}, modality="rna", predicts=False)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("chr1:100-600", ("1", 100, 600)),
        ("chrX_100_600", ("X", 100, 600)),
        ("1-100-600", ("1", 100, 600)),
        ("GL000194.1:55758-56597", ("GL000194.1", 55758, 56597)),
        ("chr1.100.600", ("1", 100, 600)),
        ("chr1:600-100", None),
        ("HLA-A", None),
        ("MIR-100-5", None),
        ("peak_1", None),
    ],
)
def test_where_a_peak_lies(name, found):
    assert peak(name) == found


def test_a_peak_is_the_one_that_it_shares_most_with():
    wanted = ["chr1:100-600", "chr1:550-1600", "gene", "chr2:100-600", "chr1:2000-9000"]
    offered = ["chr1-110-590", "1:500-1000", "chr3:100-600", "chr1:590-610", "chr2:590-2000", "chr1:3000-3100", "chr1:8900-9500"]
    # The last but two shares ten of its bases, the last a hundred of six hundred.
    assert overlapping(wanted, offered) == {0: 0, 1: 1, 3: 1, 5: 4}


def cells(names, values, batch="d1"):
    names, values = list(names), np.array(values, dtype=np.float32)
    obs = pd.DataFrame({"donor": batch}, index=[f"cell{i}" for i in range(len(values))])
    return ad.AnnData(sparse.csr_matrix(values), obs=obs, var=pd.DataFrame(index=names))


def write_h5mu(path, modalities):
    """As mudata does, as far as it is read."""
    with h5py.File(path, "w") as file:
        for name, adata in modalities.items():
            ad.io.write_elem(file.require_group("mod"), name, adata)
        everyone = pd.Index(np.unique(np.concatenate([adata.obs_names for adata in modalities.values()]))).astype(object)
        ad.io.write_elem(file, "obs", pd.DataFrame(index=everyone))


def aligned(path, folder, card=CARD, **row):
    row = ROW | {"warn_gene_overlap": 0.5} | row
    plan = check(path, row, card)
    assert plan["faults"] == []
    with Query(path, "q", row["modality"]) as query:
        found = align(query, row, card, plan, folder)
    return ad.read_zarr(folder), found, plan["warnings"]


RNA = [[1, 0, 2], [0, 3, 0], [1, 1, 1]]
ATAC = [[0, 1, 0], [1, 1, 0], [0, 0, 4]]


def test_genes_and_peaks_in_one_var(tmp_path):
    adata = cells(["chr1_110_590", *GENES[::-1], "chr2-100-600", "chr1:1000-1500"], np.zeros((3, 6)))
    adata.X = sparse.csr_matrix(
        np.column_stack([np.array(ATAC)[:, 0], np.array(RNA)[:, ::-1], np.array(ATAC)[:, [2, 1]]]).astype("f4")
    )
    adata.write_h5ad(tmp_path / "q.h5ad")
    query, found, warnings = aligned(tmp_path / "q.h5ad", tmp_path / "q.zarr")
    np.testing.assert_array_equal(query.X.toarray(), np.hstack([RNA, ATAC]))
    assert found["modalities"] == {"rna": {"matched": 3, "of": 3}, "atac": {"matched": 3, "of": 3}}
    assert found["taken_for"] == {"chr2-100-600": "chr2:100-600", "chr1_110_590": "chr1:100-600"}
    assert any("has 1 peaks that are called as no peak of the model and lie over 1 of them" in said for said in warnings)


def test_modalities_of_one_file_are_read_beside_each_other(tmp_path):
    rna, atac = cells(GENES, RNA), cells(PEAKS, ATAC)[[2, 0]].copy()
    atac = ad.concat([atac, cells(PEAKS, [[9, 9, 9]]).copy()])
    atac.obs_names = ["cell2", "cell0", "elsewhere"]
    write_h5mu(tmp_path / "q.h5mu", {"rna": rna, "atac": atac, "activity": cells(GENES, RNA)})
    query, found, warnings = aligned(tmp_path / "q.h5mu", tmp_path / "q.zarr")
    np.testing.assert_array_equal(query.X.toarray(), np.hstack([RNA, [ATAC[0], [0, 0, 0], ATAC[2]]]))
    assert found["total_counts"] == 14
    assert [said for said in warnings if "elsewhere" in said or "not mapped" in said] == [
        "query 'donor_1.h5ad' has 1 cells in its modality 'atac' that 'rna' lacks: they are not mapped; a row with modality: atac maps "
        "that modality's cells."
    ]
    other, _, _ = aligned(tmp_path / "q.h5mu", tmp_path / "other.zarr", modality="atac")
    assert list(other.obs_names) == ["cell2", "cell0", "elsewhere"]
    np.testing.assert_array_equal(other.X.toarray(), np.hstack([[RNA[2], RNA[0], [0, 0, 0]], [ATAC[2], ATAC[0], [9, 9, 9]]]))


@pytest.mark.parametrize(("names", "values", "missing", "held"), [(GENES, RNA, "atac", "rna"), (PEAKS, ATAC, "rna", "atac")])
def test_a_query_of_one_modality(names, values, missing, held, tmp_path):
    """Its overlap is that of the modality that it has, however many features the other would have."""
    cells(names, values).write_h5ad(tmp_path / "q.h5ad")
    query, found, warnings = aligned(tmp_path / "q.h5ad", tmp_path / "q.zarr")
    assert query.X.sum() == np.sum(values) and (found["overlap"], found["n_model_genes"], found["matched"]) == (1.0, 3, 3)
    assert warnings == [
        f"query 'donor_1.h5ad' has no feature of the model's modality '{missing}': it is masked as missing in all cells, which are "
        f"embedded by '{held}' alone."
    ]


def test_too_few_of_one_modality_stop_a_mapping(tmp_path):
    cells([*GENES, PEAKS[0]], np.hstack([RNA, np.array(ATAC)[:, :1]])).write_h5ad(tmp_path / "q.h5ad")
    (fault,) = check(tmp_path / "q.h5ad", ROW | {"min_gene_overlap": 0.5}, CARD)["faults"]
    assert (
        "has of the model's features 3 of 3 in 'rna' (100.0%) and 1 of 3 in 'atac' (33.3%), fewer than min_gene_overlap (50%)"
        in fault
    )


# A protein that is called as a gene: the model calls it otherwise.
ANTIBODIES = ["CD3D", "CD8A", "CD19"]
CITE = make_card(genes=[*GENES, "CD3D-1", "CD8A-1", "CD19"], modalities={"rna": 3, "adt": 3}, modality="rna", predicts=False)
ADT = [[7, 0, 0], [0, 8, 0], [1, 2, 9]]


def in_obsm(path, key, kind):
    adata, order = cells(GENES, RNA), [2, 0, 1]
    table = pd.DataFrame(np.array(ADT)[:, order], index=adata.obs_names, columns=[ANTIBODIES[place] for place in order])
    if kind == "table":
        adata.obsm[key] = table
    else:
        adata.uns[f"{key}_names"] = np.array(table.columns, dtype=object)
        adata.obsm[key] = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": np.array}[kind](
            table.to_numpy(np.float32)
        )
    adata.write_h5ad(path)


@pytest.mark.parametrize("kind", ["table", "csr", "csc", "dense"])
def test_a_modality_in_obsm(kind, tmp_path):
    in_obsm(tmp_path / "q.h5ad", "antibodies", kind)
    query, found, warnings = aligned(tmp_path / "q.h5ad", tmp_path / "q.zarr", CITE, protein_key="antibodies")
    np.testing.assert_array_equal(query.X.toarray(), np.hstack([RNA, ADT]))
    assert found["modalities"] == {"rna": {"matched": 3, "of": 3}, "adt": {"matched": 3, "of": 3}} and warnings == []
    in_obsm(tmp_path / "named.h5ad", "adt", kind)
    query, found, warnings = aligned(tmp_path / "named.h5ad", tmp_path / "named.zarr", CITE)
    # A matrix that nothing names may be an embedding.
    assert found["matched"] == (6 if kind == "table" else 3) and bool(warnings) == (kind != "table")


@pytest.mark.parametrize("names", [("rna", "adt"), ("gex", "prot")])
def test_a_protein_is_none_of_the_gene_of_its_name(names, tmp_path):
    write_h5mu(tmp_path / "q.h5mu", {names[0]: cells(GENES, RNA), names[1]: cells(ANTIBODIES, ADT)})
    query, _, _ = aligned(tmp_path / "q.h5mu", tmp_path / "q.zarr", CITE, modality=names[0])
    np.testing.assert_array_equal(query.X.toarray(), np.hstack([RNA, ADT]))


def test_a_modality_that_is_another_is_left(tmp_path):
    write_h5mu(tmp_path / "q.h5mu", {"rna": cells(GENES, RNA), "atac": cells(PEAKS, ATAC)})
    _, found, warnings = aligned(tmp_path / "q.h5mu", tmp_path / "q.zarr", CITE)
    assert found["matched"] == 3 and "no feature of the model's modality 'adt'" in warnings[0]


def test_what_the_row_names_must_be_there(tmp_path):
    in_obsm(tmp_path / "q.h5ad", "antibodies", "table")
    (fault,) = check(tmp_path / "q.h5ad", ROW | {"protein_key": "antibody"}, CITE)["faults"]
    assert "has no protein data 'antibody' (protein_key): its obsm keys and modalities are 'antibodies'" in fault
    adata = ad.read_h5ad(tmp_path / "q.h5ad")
    adata.obsm["X_pca"] = np.zeros((3, 2))
    adata.write_h5ad(tmp_path / "q.h5ad")
    (fault,) = check(tmp_path / "q.h5ad", ROW | {"protein_key": "X_pca"}, CITE)["faults"]
    assert "has no names for the 2 proteins of obsm 'X_pca'" in fault
