"""Categories and gene ids that another program spelt: what is taken for what, what stays apart, and what is said."""

import anndata
import pytest
from refmap.common.errors import RefmapError
from refmap.query.align import align
from refmap.query.checks import check
from refmap.query.genes import resolve
from refmap.query.overlap import common_prefix
from refmap.query.query import Query
from small_queries import MODEL, make_card, make_query, make_row


def plan_of(adata, tmp_path, card=None, **row):
    adata.write_h5ad(tmp_path / "query")
    return check(tmp_path / "query", make_row(**row), card or make_card())


def test_missing_batches_that_are_text_are_missing(tmp_path):
    plan = plan_of(make_query(MODEL, donor=["d1"] * 6 + ["nan"] * 2 + ["NA"]), tmp_path)
    assert plan["faults"] == [
        "query 'data/q.h5ad' has 3 of 9 cells without a value (or 'nan', 'NA', which says that none is known) in batch column 'donor': "
        "fill them, remove these cells, or set one_batch: true."
    ]
    assert list(plan["batches"]) == ["d1"]


def test_levels_of_covariates_and_labels_are_those_of_the_model(tmp_path):
    card = make_card(
        categorical_covariates={"stage": ["1", "2"]},
        labels={"type": ["B cell"]},
        unlabeled_category="Unknown",
        learns_labels=True,
    )
    adata = make_query(MODEL, stage=[1.0, 2.0, 3.0] * 3, type=["b cell"] * 5 + ["n/a"] * 4)
    plan = plan_of(adata, tmp_path, card, categorical_covariate_keys=["stage"], labels_keys=["type"])
    assert plan["covariates"] == {"stage": {"new": ["3.0"]}} and not plan["faults"]
    with Query(tmp_path / "query") as query:
        align(query, plan["row"], card, plan, tmp_path / "o.zarr")
    obs = anndata.read_zarr(tmp_path / "o.zarr").obs
    assert list(obs["stage"]) == ["1", "2", "3.0"] * 3
    assert list(obs["type"]) == ["B cell"] * 5 + ["Unknown"] * 4


def test_ids_as_r_and_others_write_them():
    model = ["HLA-A", "HLA-B", "7SK", "CD4", "MT-CO1", "A-1", "A_1"]
    found = resolve(["HLA.A", "HLA-B", "X7SK", " CD4", "MT.CO1", "A.1"], model)
    assert [model[index] if index >= 0 else None for index in found.target] == ["HLA-A", "HLA-B", "7SK", "CD4", "MT-CO1", None]
    assert found.guessed == {"HLA.A": "HLA-A", "X7SK": "7SK", " CD4": "CD4", "MT.CO1": "MT-CO1"}


def test_exact_ids_go_before_those_that_are_alike():
    found = resolve(["HLA.A", "HLA-A"], ["HLA-A"])
    assert list(found.target) == [-1, 0] and not found.guessed


def test_ids_of_another_species_stay_apart(tmp_path):
    few = resolve(["CD4", "CD8A", "c1orf112"], ["CD4", "CD8A", "C1orf112"])
    assert few.matched == 3 and few.guessed == {"c1orf112": "C1orf112"}
    mouse = resolve(["Cd4", "Cd8a", "B2M"], ["CD4", "CD8A", "B2M"])
    assert mouse.matched == 1 and mouse.other_case == 2
    # Of names that are no gene's it cannot be told whose they are
    plan = plan_of(make_query(["Mine1", "Mine2"]), tmp_path, make_card(genes=["MINE1", "MINE2"]))
    assert "2 are there but for upper and lower case, as those of another species" in plan["faults"][0]
    plan = plan_of(make_query(["Mine1", "MINE2"]), tmp_path, make_card(genes=["MINE1", "MINE2"]))
    assert plan["faults"] == [] and "has 1 of them but for upper and lower case" in plan["warnings"][-1]


@pytest.mark.parametrize("sign", ["_", "___", "-", ":"])
def test_a_prefix_is_named_and_taken_off_where_told(tmp_path, sign):
    prefix = f"GRCh38{sign}"
    genes = [prefix + gene for gene in MODEL] + [f"mm10{sign}Gene{i}" for i in range(30)]
    assert common_prefix(genes, MODEL) == (prefix, 12)
    (fault,) = plan_of(make_query(genes), tmp_path)["faults"]
    assert fault.endswith(f"ids start with '{prefix}', which the model's do not: set gene_prefix: '{prefix}' (gives 12 genes).")
    plan = plan_of(make_query(genes), tmp_path, gene_prefix=prefix)
    assert not plan["faults"] and plan["query"]["n_genes_found"] == 12


def test_counts_are_rounded_where_told(tmp_path):
    adata = make_query(MODEL)
    adata.X.data[:3] = [0.3, 1.6, 30.2]
    adata.write_h5ad(tmp_path / "q")
    row, card = make_row(), make_card()
    with Query(tmp_path / "q", "q.h5ad") as query:
        plan = check(tmp_path / "q", row, card)
        with pytest.raises(
            RefmapError,
            match="3 fractional values .* raw counts, or set round_counts: true if these are counts that were corrected",
        ):
            align(query, row, card, plan, tmp_path / "o.zarr")
        alignment = align(query, row | {"round_counts": True}, card, plan, tmp_path / "o.zarr")
    assert alignment["warnings"][-1].startswith(
        f"query 'q.h5ad': 3 of {adata.X.nnz} counts in X ({3 / adata.X.nnz:.1%}) are no whole numbers and were rounded, as round_counts "
        "says; 1 of them became 0."
    )
    adata.X.data[:3] = [0, 2, 30]
    assert alignment["total_counts"] == adata.X.sum()
