"""Alignment: against the plain definition, for any genes and any storage; and the refusal of what is no count."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest
import zarr
from align_genes import align_genes
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from refmap.common.errors import RefmapError
from refmap.common.folders import PreparedFolder
from refmap.query.align import align
from refmap.query.checks import check
from refmap.query.columns import pair_covariates
from refmap.query.counts import check_values
from refmap.query.genes import read_id_table, resolve
from refmap.query.query import Query
from small_queries import MODEL, make_card, make_query, make_row


def run(path, out, row=None, card=None, chunk_rows=4, table=None):
    """Plan and align; return the aligned AnnData and the alignment's JSON."""
    row, card = row or make_row(), card or make_card()
    plan = check(path, row, card)
    with Query(path, row["query"], row["modality"]) as query:
        alignment = align(query, row, card, plan, out, chunk_rows, table=table)
    return anndata.read_zarr(out), json.loads(json.dumps(alignment))


def plain_definition(counts, resolved):
    """Sum by gene with pandas; genes of the model that are absent are zero."""
    frame = pd.DataFrame(counts.T, index=pd.Index(resolved, dtype=object))
    return frame.groupby(level=0).sum().reindex(MODEL, fill_value=0).to_numpy().T


# A gene of the model, one with a version, or one that the model has not.
gene = st.one_of(
    st.sampled_from(MODEL), st.sampled_from([f"{g}.7" for g in MODEL]), st.sampled_from(["x", "y", "ENSG99999999999"])
)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_gene_that_the_model_has_twice_is_filled_in_both_places(tmp_path, times):
    """By the query's columns in their order if it has it twice as well, else by their sum."""
    twice = [MODEL[1], *MODEL, MODEL[0]]
    query = make_query([*MODEL, *[MODEL[1]] * (times - 1), "x"])
    query.write_h5ad(tmp_path / "query")
    aligned, alignment = run(tmp_path / "query", tmp_path / "out", card=make_card(genes=twice))
    counts, n = query.X.toarray(), len(MODEL)
    of_gene = counts[:, [1, *range(n, n + times - 1)]]
    values = aligned.X.toarray()
    np.testing.assert_array_equal(values[:, 0], of_gene[:, 0] if times == 2 else of_gene.sum(axis=1))
    np.testing.assert_array_equal(values[:, 2], of_gene[:, 1] if times == 2 else of_gene.sum(axis=1))
    np.testing.assert_array_equal(values[:, [1, -1]], counts[:, [0, 0]])
    assert aligned.X.has_sorted_indices and aligned.var["found"].all()
    assert (alignment["matched"], alignment["padded"], alignment["dropped"]) == (n + 2, 0, 1)
    assert alignment["summed"] == {1: 0, 2: 0, 3: 2}[times] and alignment["ambiguous"] == 0
    named = f"'{MODEL[0]}'" if times == 2 else ", ".join(f"'{gene}'" for gene in sorted(MODEL[:2]))
    sentence = f"the model has {named} more than once: each of these places gets the query's values of that gene."
    assert sentence in alignment["warnings"]


@settings(max_examples=30, deadline=None)
@given(
    genes=st.lists(gene, min_size=2, max_size=30).filter(lambda genes: any(g.split(".")[0] in MODEL for g in genes)),
    matrix=st.sampled_from(["csr", "csc", "dense"]),
    kind=st.sampled_from(["h5ad", "zarr"]),
    chunk_rows=st.integers(1, 12),
    seed=st.integers(0, 100),
)
def test_any_genes_give_the_plain_definition(tmp_path_factory, genes, matrix, kind, chunk_rows, seed):
    folder = tmp_path_factory.mktemp("align")
    adata = make_query(genes, seed=seed)
    counts = adata.X.toarray()
    adata.X = {"csr": adata.X, "csc": adata.X.tocsc(), "dense": counts}[matrix]
    adata.write_h5ad(folder / "query") if kind == "h5ad" else adata.write_zarr(folder / "query")

    aligned, alignment = run(folder / "query", folder / "aligned.zarr", make_row(min_gene_overlap=0.0), chunk_rows=chunk_rows)

    resolved = [g.split(".")[0] for g in genes]
    assert (aligned.X.toarray() == plain_definition(counts, resolved)).all()
    assert aligned.X.has_canonical_format and (aligned.X.data != 0).all() and aligned.X.dtype == np.float32
    assert list(aligned.var_names) == MODEL and list(aligned.obs_names) == list(adata.obs_names)
    assert list(aligned.var["found"]) == [g in resolved for g in MODEL]
    known = [g for g in resolved if g in MODEL]
    assert alignment["matched"] == len(set(known)) and alignment["padded"] == len(MODEL) - len(set(known))
    assert alignment["dropped"] == len(genes) - len(known) and alignment["summed"] == len(known) - len(set(known))
    assert alignment["versions_stripped"] == sum(g.endswith(".7") and g.split(".")[0] in MODEL for g in genes)
    assert alignment["total_counts"] == aligned.X.sum()


def test_real_cells_shuffled_and_cut(pbmc, tmp_path):
    rng = np.random.default_rng(0)
    genes = list(rng.permutation(pbmc.var_names)[:600])
    query = pbmc[:, rng.permutation(pbmc.n_vars)[:700]].copy()
    query.write_h5ad(tmp_path / "query")
    aligned, alignment = run(tmp_path / "query", tmp_path / "a.zarr", make_row(batch_key="batch"), make_card(genes=genes), 100)
    common = [g for g in genes if g in query.var_names]
    assert alignment["matched"] == len(common) < 600
    assert (aligned[:, common].X.toarray() == query[:, common].X.toarray()).all()
    assert aligned[:, [g for g in genes if g not in common]].X.nnz == 0


def test_resolve_exact_before_stripped_before_table():
    model = ["TP53", "ENSG00000000001.2", "ENSG00000000002", "A.1"]
    query = ["TP53", "ENSG00000000001.9", "ENSG00000000002", "symbol", "A.2", "ENSG00000141510.3"]
    table = [("symbol", "ENSG00000000002.4"), ("TP53", "ENSG00000141510")]
    found = resolve(query, model, table)
    assert list(found.target) == [0, 1, 2, 2, -1, 0]  # 'A.2' is no Ensembl id: its '.2' is part of the name
    assert (found.stripped, found.translated, found.ambiguous) == (1, 2, 0)
    assert (found.matched, found.summed, found.dropped, found.overlap) == (3, 2, 1, 0.75)


def test_resolve_drops_what_is_ambiguous():
    model = ["ENSG00000000001.1", "ENSG00000000001.2", "g1", "g2"]
    found = resolve(["ENSG00000000001", "both", "g1"], model, [("both", "g1"), ("g2", "both")])
    assert list(found.target) == [-1, -1, 2]
    assert found.ambiguous == 2 and found.dropped == 2


@pytest.mark.parametrize("content", ["symbol,id\na,1\nb,2\n", "a\t1\nb\t2\n", '\ufeff"a","1"\n\nb, 2\n'])
def test_id_table(tmp_path, content):
    path = tmp_path / "ids"
    path.write_text(content, encoding="utf-8")
    assert read_id_table(path)[-2:] == [("a", "1"), ("b", "2")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "id_table 'ids.csv' is empty"),
        (b"a,b\na,b,c\n", "id_table 'ids.csv' has 3 columns in row 2"),
        (b"\xff\xfe\x00", "id_table 'ids.csv' cannot be read"),
    ],
)
def test_bad_id_table(tmp_path, content, message):
    (tmp_path / "ids").write_bytes(content)
    with pytest.raises(RefmapError, match=message):
        read_id_table(tmp_path / "ids", "ids.csv")


def test_translation_through_a_table(tmp_path):
    adata = make_query([f"s{i}" for i in range(12)])
    adata.write_h5ad(tmp_path / "query")
    table = [(f"s{i}", MODEL[11 - i]) for i in range(12)]
    (tmp_path / "ids.csv").write_text("\n".join(map(",".join, table)))
    row = make_row(id_table="ids.csv")
    with Query(tmp_path / "query") as query:
        plan = check(tmp_path / "query", row, make_card(), tmp_path / "ids.csv")
        assert plan["faults"] == []
        alignment = align(query, row, make_card(), plan, tmp_path / "a.zarr", table=table)
    assert alignment["translated"] == 12
    assert (anndata.read_zarr(tmp_path / "a.zarr").X.toarray() == adata.X.toarray()[:, ::-1]).all()


def spoil(value):
    def change(adata):
        adata.X = adata.X.toarray()
        adata.X[5, 3] = value

    return change


def normalise(adata):
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X.multiply(0.3).tocsr()


def keep_raw(adata):
    adata.raw = adata.copy()
    adata.X = adata.X.multiply(0.3).tocsr()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            spoil(np.nan),
            r"query 'data/q.h5ad' holds no counts in X: 1 NaN or infinite value \(such as nan\) in cells 5 to 8; no other layer",
        ),
        (spoil(np.inf), r"1 NaN or infinite value \(such as inf\)"),
        (spoil(-2), r"holds no counts in X: 1 negative value \(such as -2\) in cells 5 to 8"),
        (spoil(1.5), r"holds no counts in X: 1 fractional value \(such as 1.5\)"),
        (normalise, r"fractional values \(such as 0.3\) .*; layers/counts looks like counts: set layer: counts\."),
        (keep_raw, r"raw.X looks like counts: set layer: raw\."),
    ],
)
def test_what_is_no_count_is_refused(tmp_path, change, message):
    adata = make_query(MODEL)
    change(adata)
    adata.write_h5ad(tmp_path / "query")
    with pytest.raises(RefmapError, match=message):
        run(tmp_path / "query", tmp_path / "a.zarr")


def test_bad_values_in_genes_the_model_has_not_are_refused_too(tmp_path):
    adata = make_query([*MODEL, "other"])
    adata.X = adata.X.toarray()
    adata.X[0, 12] = 0.5
    adata.write_h5ad(tmp_path / "query")
    with pytest.raises(RefmapError, match="1 fractional value"):
        run(tmp_path / "query", tmp_path / "a.zarr")


def test_rounding_noise_is_no_fraction():
    assert check_values(np.array([3.0000002, 1e5 + 0.01], dtype=np.float32), "counts") is None
    assert "1 fractional" in check_values(np.array([3.001, 2]), "counts")
    assert "1 negative" in check_values(np.array([-1, 2]), "counts")
    assert check_values(np.array([-1.5, 2]), "any") is None
    assert "1 NaN" in check_values(np.array([np.nan, 2]), "any")


def test_a_query_without_a_single_count(tmp_path):
    adata = make_query(MODEL)
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X * 0
    adata.write_h5ad(tmp_path / "query")
    with pytest.raises(
        RefmapError, match="has no count in any of the model's genes in X; layers/counts looks like counts: set layer"
    ):
        run(tmp_path / "query", tmp_path / "aligned.zarr")


def test_dense_values_of_half_precision(tmp_path):
    adata = make_query(MODEL)
    expected = adata.X.toarray()
    adata.X = expected.astype(np.float16)
    adata.write_h5ad(tmp_path / "query")
    aligned, _ = run(tmp_path / "query", tmp_path / "aligned.zarr")
    np.testing.assert_array_equal(aligned.X.toarray(), expected)


def test_a_model_of_log_values_wants_no_counts(tmp_path):
    adata = make_query(MODEL)
    adata.write_h5ad(tmp_path / "counts")
    card = make_card(input="lognorm")
    with pytest.raises(RefmapError, match="holds only whole numbers in X, but the model wants log-normalised values"):
        run(tmp_path / "counts", tmp_path / "a.zarr", card=card)
    adata.X = adata.X.log1p()
    adata.write_h5ad(tmp_path / "logs")
    aligned, _ = run(tmp_path / "logs", tmp_path / "a.zarr", card=card)
    assert (aligned.X != adata.X).nnz == 0


def test_layer_raw_has_genes_of_its_own(tmp_path):
    whole = make_query(MODEL)
    adata = whole[:, :4].copy()
    adata.raw = whole
    adata.write_h5ad(tmp_path / "query")
    aligned, alignment = run(tmp_path / "query", tmp_path / "a.zarr", make_row(layer="raw"))
    assert alignment["matched"] == 12 and (aligned.X.toarray() == whole.X.toarray()).all()


def test_empty_cells_stay(tmp_path):
    adata = make_query(MODEL)
    adata.X = adata.X.toarray()
    adata.X[[2, 7]] = 0
    adata.write_h5ad(tmp_path / "query")
    aligned, alignment = run(tmp_path / "query", tmp_path / "a.zarr")
    assert aligned.n_obs == 9
    assert alignment["warnings"] == ["query 'data/q.h5ad' has 2 cells without a count in the model's genes: they are kept."]


def test_no_overlap_shows_both_sides_and_the_column_that_would_do(tmp_path):
    adata = make_query([f"s{i}" for i in range(12)])
    adata.var["stable"] = [f"{g}.3" for g in MODEL]
    adata.var["half"] = [*MODEL[:6], *"abcdef"]
    adata.write_h5ad(tmp_path / "query")
    with pytest.raises(
        RefmapError,
        match="has none of the model's 12 genes: the var index has 's0', 's1', 's2', the model has 'ENSG00000000000', ",
    ) as caught:
        run(tmp_path / "query", tmp_path / "a.zarr")
    assert str(caught.value).endswith("set var_key: 'stable' (gives 12 genes) or 'half' (gives 6 genes).")
    _, alignment = run(tmp_path / "query", tmp_path / "a.zarr", make_row(var_key="stable"))
    assert alignment["matched"] == alignment["versions_stripped"] == 12
    _, alignment = run(tmp_path / "query", tmp_path / "a.zarr", make_row(var_key="half"))
    assert alignment["overlap"] == 0.5 and "6 of the model's 12 genes (50.0%, less than 80%)" in alignment["warnings"][0]
    with pytest.raises(
        RefmapError, match=r"has 6 of the model's 12 genes \(50.0%\), fewer than min_gene_overlap \(60%\).*'stable'"
    ):
        run(tmp_path / "query", tmp_path / "a.zarr", make_row(var_key="half", min_gene_overlap=0.6))


def test_columns_stand_under_the_models_keys(tmp_path):
    adata = make_query(
        MODEL,
        type=["B", "T", None] * 3,
        assay=pd.Categorical(["v2", "v3", "v3"] * 3),
        lane=[1, 2, 3] * 3,
        age=np.arange(9),
        depth=np.linspace(1, 2, 9),
    )
    adata.obs["donor"] = ["r1", "new", "r2"] * 3
    adata.write_h5ad(tmp_path / "query")
    card = make_card(
        labels={"cell_type": ["B", "NK"]}, unlabeled_category="Unknown", categorical_covariates={"chip": ["1"], "assay": ["v2"]},
        continuous_covariates=["years"], size_factor_key="sf",
    )  # fmt: skip
    row = make_row(
        labels_keys=["type"],
        categorical_covariate_keys=["assay", "lane"],
        continuous_covariate_keys=["age"],
        size_factor_key="depth",
    )
    obs = run(tmp_path / "query", tmp_path / "a.zarr", row, card)[0].obs
    assert list(obs.columns) == ["batch", "cell_type", "chip", "assay", "years", "sf"]
    assert list(obs["batch"]) == ["r1@lung.donor_1", "new", "r2@lung.donor_1"] * 3
    assert list(obs["cell_type"]) == ["B", "Unknown", "Unknown"] * 3
    assert list(obs["chip"]) == ["1", "2", "3"] * 3 and list(obs["assay"]) == ["v2", "v3", "v3"] * 3
    assert list(obs["years"]) == list(range(9)) and list(obs["sf"]) == list(adata.obs["depth"])

    obs = run(tmp_path / "query", tmp_path / "b.zarr", row | {"one_batch": True, "labels_keys": []}, card)[0].obs
    assert set(obs["batch"]) == {"lung.donor_1"} and set(obs["cell_type"]) == {"Unknown"}


def test_pair_covariates():
    assert pair_covariates(["x", "b"], ["a", "b"]) == {"a": "x", "b": "b"}
    assert pair_covariates([], []) == {}


def test_every_environment_can_read_it(tmp_path):
    """Format 2, and no encoding that is younger than anndata 0.10."""
    make_query(MODEL).write_h5ad(tmp_path / "query")
    run(tmp_path / "query", tmp_path / "a.zarr")
    root = zarr.open_group(tmp_path / "a.zarr", mode="r")
    assert root.metadata.zarr_format == 2 and not list((tmp_path / "a.zarr").rglob("zarr.json"))
    encodings = {value.attrs["encoding-type"] for _, value in root.members(max_depth=None)}
    assert encodings == {"array", "csr_matrix", "dataframe", "categorical", "string-array", "dict"}
    assert root["X/indices"].dtype == root["X/indptr"].dtype == np.int32


def test_long_matrices_are_appended_without_a_seam(tmp_path, monkeypatch):
    monkeypatch.setattr("refmap.query.align.CHUNK_VALUES", 7)
    adata = make_query(MODEL, cells=60)
    adata.write_h5ad(tmp_path / "query")
    aligned, _ = run(tmp_path / "query", tmp_path / "a.zarr", chunk_rows=1)
    assert (aligned.X.toarray() == adata.X.toarray()).all()


@pytest.fixture
def cite(tmp_path):
    adata = make_query(MODEL)
    adata.obsm["adt"] = pd.DataFrame(np.arange(27).reshape(9, 3), index=adata.obs_names, columns=["CD4_TotalSeqB", "cd3", "CD8"])
    adata.write_h5ad(tmp_path / "query")
    return tmp_path / "query"


def test_proteins_in_the_models_order(cite, tmp_path):
    card = make_card(proteins=["CD8", "CD19", "CD3", "CD4"], protein_key="proteins")
    aligned, alignment = run(cite, tmp_path / "a.zarr", make_row(protein_key="adt"), card)
    values = aligned.obsm["proteins"]
    assert list(values.columns) == card["proteins"] and list(values.index) == list(aligned.obs_names)
    assert (values.to_numpy() == np.column_stack([range(2, 27, 3), [0] * 9, range(1, 27, 3), range(0, 27, 3)])).all()
    assert set(values.dtypes) == {np.dtype("float32")}
    assert list(aligned.uns["proteins_missing"]) == ["CD19"]
    assert alignment["proteins"] == {"matched": 3, "missing": ["CD19"]}
    assert "2 proteins were matched by similar names: cd3 as CD3, CD4_TotalSeqB as CD4." in alignment["warnings"]
    full = run(cite, tmp_path / "b.zarr", make_row(protein_key="adt"), card | {"proteins": ["CD8"]})[0]
    assert list(full.uns["proteins_missing"]) == []


def test_similar_protein_names_that_leave_a_doubt_do_not_match(cite, tmp_path):
    card = make_card(proteins=["CD8", "CD4", "Cd4"], protein_key="adt")
    _, alignment = run(cite, tmp_path / "a.zarr", card=card)
    assert alignment["proteins"]["missing"] == ["CD4", "Cd4"]


def test_proteins_that_a_query_lacks_altogether_or_in_a_batch(tmp_path):
    """As joining a batch with one panel and a batch with another leaves them, one without proteins beside."""
    adata = make_query(MODEL, donor=["d1", "d2", "d3"] * 3)
    values = np.arange(1.0, 10)
    gone = {
        name: np.where(adata.obs["donor"] == donor, fill, values)
        for name, donor, fill in (("CD3", "d1", 0), ("CD4", "d2", np.nan))
    }
    adata.obsm["adt"] = pd.DataFrame(gone | {"CD8": values}, index=adata.obs_names)
    adata.write_h5ad(tmp_path / "query")
    card = make_card(proteins=["CD19", "CD8", "CD4", "CD3"], protein_key="adt")
    aligned, alignment = run(tmp_path / "query", tmp_path / "a.zarr", card=card)
    assert (aligned.obsm["adt"].to_numpy().T == [[0] * 9, values, np.nan_to_num(gone["CD4"]), gone["CD3"]]).all()
    assert list(aligned.uns["proteins_missing"]) == ["CD19"]
    assert list(aligned.uns["proteins_incomplete"]) == ["CD19", "CD4", "CD3"]
    assert (
        "query 'data/q.h5ad' has no count of 2 of the model's proteins in a whole batch (CD4 in 'd2', CD3 in 'd1'): there they are "
        "treated as missing, not as zero."
    ) in alignment["warnings"]

    bare, alignment = run(tmp_path / "query", tmp_path / "b.zarr", card=card | {"protein_key": "prot"})
    assert list(bare.obsm["prot"].columns) == card["proteins"] and (bare.obsm["prot"] == 0).all(axis=None)
    assert list(bare.uns["proteins_missing"]) == list(bare.uns["proteins_incomplete"]) == card["proteins"]
    assert alignment["proteins"]["matched"] == 0


def test_a_protein_that_some_cells_of_a_batch_lack_is_refused(tmp_path):
    adata = make_query(MODEL, donor=["d1", "d2", "d3"] * 3)
    adata.obsm["adt"] = pd.DataFrame({"CD3": [np.nan, 2, 3, 4, 5, 6, 7, 8, 9]}, index=adata.obs_names)
    adata.write_h5ad(tmp_path / "query")
    with pytest.raises(RefmapError, match="no number in obsm 'adt' for protein 'CD3' in 1 of the 3 cells of batch 'd1'"):
        run(tmp_path / "query", tmp_path / "a.zarr", card=make_card(proteins=["CD3"], protein_key="adt"))


def test_proteins_must_be_counts(tmp_path):
    adata = make_query(MODEL)
    adata.obsm["adt"] = pd.DataFrame({"CD8": np.linspace(0, 1, 9)}, index=adata.obs_names)
    adata.write_h5ad(tmp_path / "query")
    with pytest.raises(RefmapError, match=r"holds no protein counts in obsm 'adt': 7 fractional values \(such as 0.125\)"):
        run(tmp_path / "query", tmp_path / "a.zarr", card=make_card(proteins=["CD8"], protein_key="adt"))


def test_command_writes_or_leaves_a_fault(tmp_path, in_one_process):
    adata, card = make_query(MODEL), make_card()
    adata.write_h5ad(tmp_path / "query")
    plan = check(tmp_path / "query", make_row(), card)

    def invoke(**row):
        (tmp_path / "row").write_text(json.dumps(make_row(**row)))
        (tmp_path / "card").write_text(json.dumps(card))
        options = {
            "row": "row",
            "plan": "plan",
            "query": "query",
            "card": "card",
            "output": "prepared",
            "mapped": "mapped",
            "fault": "fault.json",
        }
        arguments = [word for key, name in options.items() for word in (f"--{key}", str(tmp_path / name))]
        return CliRunner().invoke(align_genes, [*arguments, "--chunk-rows", "2"], catch_exceptions=False)

    result = invoke()
    assert result.exit_code == 0 and "aligned 9 of 9 cells" in result.stderr
    prepared = PreparedFolder(tmp_path / "prepared")
    assert json.loads(prepared.alignment.read_text())["matched"] == 12 and anndata.read_zarr(prepared.aligned).n_obs == 9
    assert json.loads(prepared.plan.read_text()) == json.loads((tmp_path / "plan").read_text()) == plan
    assert not prepared.gmt.exists()
    assert not (tmp_path / "fault.json").exists() and not (tmp_path / "mapped").exists()

    # What the check finds is said by the plan, and nothing is aligned
    result = invoke(layer="none")
    assert result.exit_code == 0 and not (tmp_path / "fault.json").exists()
    assert [path.name for path in prepared.folder.iterdir()] == ["plan.json"]
    (found,) = json.loads(prepared.plan.read_text())["faults"]
    assert "no layer 'none'" in found

    # What only all values tell
    adata.obsm["adt"] = pd.DataFrame({"CD8": np.linspace(0, 1, 9)}, index=adata.obs_names)
    adata.write_h5ad(tmp_path / "query")
    card = make_card(proteins=["CD8"], protein_key="adt")
    result = invoke()
    assert result.exit_code == 0 and not prepared.folder.exists() and (tmp_path / "plan").exists()
    fault = json.loads((tmp_path / "fault.json").read_text())
    assert (fault["dataset"], fault["file_id"], fault["stage"]) == ("lung", "donor_1", "ALIGN_GENES")
    assert "holds no protein counts" in fault["message"]


# ---------------------------------------------------------------------------------------------------------- normalised values


@pytest.mark.parametrize("genes", ["all", "model"])
def test_counts_are_normalised_as_the_reference_was(tmp_path, genes):
    """Against scanpy's own normalisation, of all the query's genes or of the model's alone."""
    import scanpy as sc

    adata = make_query([*MODEL[::-1], *(f"extra{i}" for i in range(30))], seed=3)
    adata.X[0] = 0
    adata.write_h5ad(tmp_path / "query")
    card = make_card(input="lognorm", normalization={"target_sum": 500, "genes": genes})
    aligned, alignment = run(tmp_path / "query", tmp_path / "out.zarr", card=card)

    theirs = adata.copy() if genes == "all" else adata[:, MODEL].copy()
    sc.pp.normalize_total(theirs, target_sum=500)
    sc.pp.log1p(theirs)
    np.testing.assert_allclose(aligned.X.toarray(), theirs[:, MODEL].X.toarray(), rtol=1e-6)
    assert aligned.X.dtype == np.float32
    assert alignment["normalization"] == card["normalization"]
    assert alignment["total_counts"] == adata[:, MODEL].X.sum()
    assert any("log1p of counts per 500" in warning for warning in alignment["warnings"])


def test_values_that_are_normalised_already_stay(tmp_path):
    adata = make_query(MODEL)
    adata.X = adata.X.log1p()
    adata.write_h5ad(tmp_path / "query")
    card = make_card(input="lognorm", normalization={"target_sum": 500})
    aligned, alignment = run(tmp_path / "query", tmp_path / "out.zarr", card=card)
    assert (aligned.X != adata.X).nnz == 0
    assert alignment["normalization"] is None and alignment["warnings"] == []


def test_centred_values_are_not_log_normalised(tmp_path):
    adata = make_query(MODEL)
    adata.X = adata.X.toarray() - 0.5
    adata.write_h5ad(tmp_path / "query")
    with pytest.raises(RefmapError, match=r"has \d+ negative values \(such as -0.5\) in cells 1 to 4 of X"):
        run(tmp_path / "query", tmp_path / "out.zarr", card=make_card(input="lognorm"))


def test_counts_whose_normalisation_nobody_knows_are_refused(tmp_path):
    make_query(MODEL).write_h5ad(tmp_path / "query")
    with pytest.raises(RefmapError, match="holds only whole numbers in X, but the model wants log-normalised.*refmap.yaml"):
        run(tmp_path / "query", tmp_path / "out.zarr", card=make_card(input="lognorm"))


def test_values_that_only_begin_like_counts_are_refused(tmp_path, monkeypatch):
    """What is normalised is checked to be counts to its last cell."""
    adata = make_query(MODEL)
    adata.X.data[-1] = 0.5
    adata.write_h5ad(tmp_path / "query")
    monkeypatch.setattr("refmap.query.align.looks_like_counts", lambda *_: True)
    with pytest.raises(RefmapError, match="holds no counts in X: 1 fractional value"):
        run(tmp_path / "query", tmp_path / "out.zarr", card=make_card(input="lognorm", normalization={"target_sum": 1}))


# ------------------------------------------------------------------------------------------------------------ several labels


def test_several_label_columns_are_paired_by_name_then_by_order(tmp_path):
    adata = make_query(MODEL, cells=3, fine=["B", "x", "T"], type=["b", "t", ""])
    adata.write_h5ad(tmp_path / "query")
    card = make_card(labels={"coarse": ["b", "t"], "fine": ["B", "T"], "third": ["1"]}, unlabeled_category="Unknown")
    row = make_row(labels_keys=["fine", "type"])
    obs = run(tmp_path / "query", tmp_path / "a.zarr", row, card)[0].obs
    assert obs["fine"].tolist() == ["B", "Unknown", "T"]
    assert obs["coarse"].tolist() == ["b", "t", "Unknown"]
    assert obs["third"].tolist() == ["Unknown"] * 3
    obs = run(tmp_path / "query", tmp_path / "b.zarr", row, card | {"takes_new_labels": True})[0].obs
    assert obs["fine"].tolist() == ["B", "x", "T"]
