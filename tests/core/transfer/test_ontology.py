"""Terms of the Cell Ontology for labels that are called as a term is."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from refmap.transfer.columns import write_labels
from refmap.transfer.labels import Given
from refmap.transfer.ontology import TABLE, CellOntology, form, term_column
from runs import ROOT

needs_table = pytest.mark.skipif(not TABLE.is_file(), reason=f"there is no {TABLE}: `containers/build core` makes it")

NAMES = [
    ("CL:0000001", "T cell", "name"),
    ("CL:0000001", "T-lymphocyte", "synonym"),
    ("CL:0000001", "thymus cell", "synonym"),
    ("CL:0000002", "CD14-positive monocyte", "name"),
    ("CL:0000003", "gamma-delta T cell", "name"),
    ("CL:0000004", "plasmacytoid dendritic cell", "name"),
    ("CL:0000004", "DC2", "synonym"),
    ("CL:0000005", "thymus cell", "synonym"),
    ("CL:0000005", "thymocyte", "name"),
    ("CL:0000006", "fibroblasts", "name"),
    ("CL:0000007", "fibroblast", "name"),
    ("CL:0000008", "platelet", "name"),
    ("CL:0000009", "platelet", "name"),
    ("CL:0000009", "T cell", "synonym"),
]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A table as the environment has it, of few terms."""
    path = tmp_path_factory.mktemp("ontology") / "cell_ontology.parquet"
    names = pd.DataFrame(NAMES, columns=["term", "name", "kind"])
    names.attrs["version"] = "v1"
    names.to_parquet(path, index=False)
    return CellOntology(path)


@pytest.mark.parametrize(
    ("label", "term"),
    [
        ("T cell", "CL:0000001"),  # though a synonym of another
        ("T_cells", "CL:0000001"),
        ("t-cell", "CL:0000001"),
        ("T lymphocytes", "CL:0000001"),
        ("CD14+ Monocyte", "CL:0000002"),
        ("CD14(+)  monocytes", "CL:0000002"),
        ("CD14- monocyte", None),
        ("CD14 monocyte", None),
        ("γδ T cells", "CL:0000003"),
        ("gamma.delta.T.cell", "CL:0000003"),
        ("DC2", None),  # an abbreviation
        ("thymus cell", None),  # of two terms
        ("fibroblasts", "CL:0000006"),  # as it stands, before it is taken for a plural
        ("Fibroblast", "CL:0000007"),
        ("platelet", None),
        ("T", None),
        ("T cell lineage", None),
        ("Unknown", None),
        ("", None),
    ],
)
def test_labels_are_found_by_their_words(small, label, term):
    assert small.terms([label]) == ({label: term} if term else {})


def test_forms_keep_the_signs_of_markers():
    assert form("CD4-CD8+ T-cell") == form("CD4-negative, CD8-positive T cell") == "cd4 negative cd8 positive t cell"
    assert form("CD8(-) NK cell") == form("CD8- NK cell") == "cd8 negative nk cell"
    assert form("CD16-") == "cd16 negative" and form("alpha-beta T cell") == "alpha beta t cell"
    assert form("NK/T cell") != form("NK T cell")


def test_without_a_table_no_label_has_a_term(tmp_path):
    found = CellOntology(tmp_path / "none.parquet")
    assert found.version is None and found.terms(["T cell"]) == {}


def test_terms_as_a_column():
    labels = pd.Categorical(["T cell", "Unknown", "B cell", "T cell"], categories=["B cell", "NK cell", "T cell", "Unknown"])
    found = term_column(labels, {"T cell": "CL:0000084", "NK cell": "CL:0000623", "B cell": "CL:0000236"})
    assert list(found.categories) == ["CL:0000084", "CL:0000236"]
    assert found.tolist()[0] == found.tolist()[3] == "CL:0000084" and found.tolist()[2] == "CL:0000236"
    assert found.isna().tolist() == [False, True, False, False]


@needs_table
def test_the_cell_ontology_of_the_environment():
    found = CellOntology()
    assert found.version.startswith("v20")
    labels = [
        "T cell",
        "B cells",
        "Mast cells",
        "CD14+ Monocyte",
        "natural killer cell",
        "NK cells",
        "Club cell",
        "Alveolar macrophages",
    ]
    assert list(found.terms([*labels, "DC2", "Dendritic", "doublet"]).items()) == list(
        zip(
            labels,
            [*("CL:0000084", "CL:0000236", "CL:0000097", "CL:0001054", "CL:0000623", "CL:0000623", "CL:0000158", "CL:0000583")],
        )
    )
    names = pd.read_parquet(TABLE)
    assert names["term"].str.fullmatch(r"CL:\d{7}").all() and set(names["kind"]) == {"name", "synonym"}
    assert names.loc[names["kind"] == "name", "term"].is_unique and not names["name"].str.startswith("obsolete").any()
    own = names[names["kind"] == "name"]
    assert found.terms(own["name"]) == dict(zip(own["name"], own["term"]))


@needs_table
def test_terms_are_written_beside_labels_and_told():
    obs = pd.DataFrame(index=["c1", "c2", "c3"])
    certainty = np.zeros(3, np.float32)
    given = {
        "type": Given(["B cell", "T cell", "odd"], np.array([1, 0, 2], np.int32), certainty),
        "zone": Given(["x", "y"], np.array([0, 1, 0], np.int32), certainty),
    }
    certain = {"type": [True, False, True], "zone": [True] * 3}
    told = write_labels(obs, given, certain, [])
    assert list(obs) == ["type_transferred", "type_ontology_term_id", "zone_transferred"]
    assert obs["type_ontology_term_id"].astype(object).tolist()[0] == "CL:0000084"
    assert obs["type_ontology_term_id"].isna().tolist() == [False, True, True]
    assert told["labels"]["type"]["terms"] == {"B cell": "CL:0000236", "T cell": "CL:0000084"}
    assert told["labels"]["zone"]["terms"] == {} and told["annotations"] == []
    assert told["ontology"] == CellOntology().version


def test_the_table_is_made_of_the_newest_release_without_what_is_obsolete(tmp_path):
    data = tmp_path / "packages/cellxgene_ontology_guide/data"
    data.mkdir(parents=True)
    versions = {"7.9.0": "v2025-01-01", "7.10.0": "v2026-01-01"}
    schemas = ", ".join(f'"{schema}": {{"ontologies": {{"CL": {{"version": "{cl}"}}}}}}' for schema, cl in versions.items())
    (data / "ontology_info.json").write_text(f"{{{schemas}}}")
    terms = (
        '{"CL:0000002": {"label": "T cell", "synonyms": ["T-cell", "T cell"], "deprecated": false},'
        ' "CL:0000001": {"label": "B cell", "deprecated": false}, "CL:0000003": {"label": "obsolete cell", "deprecated": true}}'
    )
    with pa.CompressedOutputStream(str(data / "CL-ontology-v2026-01-01.json.zst"), "zstd") as stream:
        stream.write(terms.encode())
    script, table = ROOT / "containers/core/cell_ontology.py", tmp_path / "share/table.parquet"
    subprocess.run([sys.executable, "-I", script, tmp_path / "packages", table], check=True)
    made = pd.read_parquet(table)
    assert made.attrs["version"] == "v2026-01-01"
    assert list(made.itertuples(index=False, name=None)) == [
        ("CL:0000001", "B cell", "name"),
        ("CL:0000002", "T cell", "name"),
        ("CL:0000002", "T-cell", "synonym"),
    ]
