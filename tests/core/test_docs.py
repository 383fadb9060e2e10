"""The documents say what is there: links, parameters, profiles, paths, columns, fields and examples."""

import re
import shlex
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml
from refmap import __version__
from refmap.common.storage import write_zarr
from refmap.families.base import Family, Surgery
from refmap.families.scvi.card import CLASSES
from refmap.joint.joining import lay_out
from refmap.mapping.export import export
from refmap.query.query import Query
from refmap.report.outcomes import Outcome
from refmap.report.report import COLUMNS, write_index
from refmap.sheet.demo import make_demo
from refmap.sheet.fields import FIELDS, YAML_ONLY
from refmap.sheet.parameters import defaults, load_schema, properties
from refmap.sheet.sheet import read_sheet

ROOT = Path(__file__).resolve().parents[2]
README, USAGE, OUTPUTS = ROOT / "README.md", ROOT / "docs/usage.md", ROOT / "docs/outputs.md"
DOCS = [README, ROOT / "CITATIONS.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {path: path.read_text(encoding="utf-8") for path in DOCS}
SCHEMA = load_schema(ROOT / "nextflow_schema.json")
MODULES = {path.parent.name: path.read_text(encoding="utf-8") for path in (ROOT / "modules").glob("*/main.nf")}

each_document = pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", TEXTS[path], flags=re.M | re.S)


def anchors(path: Path) -> set[str]:
    """What links can point at within a document: its headings, as they are made into anchors."""
    text = path.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def first_column(text: str, head: str) -> list[str]:
    """The names in backticks in the first column of the table whose head starts with this cell."""
    table = re.search(rf"^\| {re.escape(head)} \|.*\n\| ---.*\n((?:\|.*\n)+)", text, flags=re.M)
    assert table, f"no table with the first column '{head}'"
    return [name for line in table[1].splitlines() for name in re.findall(r"`([^`]+)`", line.split(" | ")[0])]


def section(path: Path, heading: str) -> str:
    """A section of a document, from its heading to the next one."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", TEXTS[path], flags=re.M | re.S)
    assert found, f"{path.name} has no section '{heading}'"
    return found[1]


# --- what the documents point at ------------------------------------------------------------------------------------------


@each_document
def test_every_relative_link_resolves(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXTS[path]):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked), target


@each_document
def test_no_host_is_named_but_those_of_papers_and_of_scvi_tools(path):
    hosts = set(re.findall(r"https?://([^/\s)]+)", TEXTS[path]))
    assert hosts <= {"doi.org", "scvi-tools.org"}


def test_every_script_and_folder_that_is_named_is_there():
    for path, text in TEXTS.items():
        for name in re.findall(r"`((?:bin|tools|conf|containers|modules|tests|docs)/[\w./]+)`", text):
            assert (ROOT / name).exists(), f"{path.name}: {name}"


def test_every_make_target_that_is_named_is_there():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    named = {name for text in TEXTS.values() for name in re.findall(r"(?:`|^)make ([\w-]+)", text, flags=re.M)}
    assert {"demo", "test", "setup"} <= named <= targets


@each_document
def test_every_parameter_that_is_named_is_there(path):
    text = re.sub(r"`?(?:bench/\w+\.py|tools/publish_model)[^`\n]*", "", TEXTS[path])  # which have options of their own
    assert set(re.findall(r"--([a-z]\w+)", text)) <= set(properties(SCHEMA))


@each_document
def test_every_profile_that_is_named_is_there(path):
    profiles = set(re.findall(r"^    (\w+) +\{", (ROOT / "nextflow.config").read_text(), flags=re.M))
    assert {"docker", "slurm", "test_full"} <= profiles
    assert {name for given in re.findall(r"-profile ([\w,]+)", TEXTS[path]) for name in given.split(",")} <= profiles
    if path == USAGE:
        assert set(first_column(TEXTS[path], "profile")) == profiles


def test_the_commands_are_of_options_that_nextflow_has():
    """A misspelt option with one hyphen would be taken for one of Nextflow's."""
    for path in DOCS:
        for command in "\n".join(blocks(path, "bash")).replace("\\\n", " ").splitlines():
            words = shlex.split(command, comments=True)
            if words[:3] == ["nextflow", "run", "."]:
                single = {word for word in words if re.match(r"-\w", word)}
                assert single <= {"-profile", "-work-dir", "-resume"}, command


@pytest.mark.parametrize("name", sorted({name.upper() for name in MODULES} - {"MAKE_DEMO"}))
def test_every_process_is_in_the_picture(name):
    picture = (ROOT / "docs/images/flow.svg").read_text(encoding="utf-8")
    assert re.search(rf"\b{name}\b.*</text>", picture)
    assert name in TEXTS[README]


def environment(code: str) -> str:
    """Where the tasks of a module run, in the words of docs/flow.md."""
    named = re.search(r"ext env: (?:'(\w+)'|\{ env \})", code)
    if "executor 'local'" in code:
        return "Nextflow itself"
    where = (f"`{named[1]}`" if named[1] else "the family's") if named else "`core`"
    return where + ", on a GPU if any" * ("label 'process_gpu'" in code)


def test_every_process_is_in_the_table_with_where_it_runs():
    rows = re.findall(r"^\| `([A-Z_]+)` \|.* \| (.*?) \|$", TEXTS[ROOT / "docs/flow.md"], flags=re.M)
    assert sorted(rows) == sorted((name.upper(), environment(code)) for name, code in MODULES.items())


def test_every_part_of_the_flow_is_in_the_table():
    parts = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "subworkflows").glob("*.nf"))
    assert sorted(first_column(TEXTS[ROOT / "docs/flow.md"], "part")) == parts


# --- outputs --------------------------------------------------------------------------------------------------------------


def published() -> set[str]:
    """The places below outdir that the workflows and Nextflow write to."""
    workflows = (ROOT / "main.nf").read_text() + (ROOT / "subworkflows/results.nf").read_text()
    places = re.findall(r"\[path, '([^']+)'\]|publish\((?:path|m\.\w+), ['\"]([^'\"]+)['\"]\)", workflows)
    named = {re.sub(r"\$\{(?:m|path)\.(\w+)\}", r"<\1>", "".join(place)) for place in places}
    # The folder that Nextflow writes to is explained as one.
    assert "${params.outdir}/pipeline_info/" in (ROOT / "nextflow.config").read_text()
    return {place for place in named if not place.startswith("pipeline_info/")} | {"pipeline_info"}


def test_the_documents_and_the_modules_agree_on_every_path():
    there = published()
    readme = {path.rstrip("/") for path in re.findall(r"^<outdir>/(\S+)", section(README, "Outputs"), flags=re.M)}
    table = {name.rstrip("/") for name in first_column(TEXTS[OUTPUTS], "path")}
    assert len(there) == 10
    assert readme == table == there


def test_every_column_of_the_index_is_explained():
    assert first_column(section(OUTPUTS, "mappings.csv"), "column") == COLUMNS


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory):
    """What the demo leaves of pbmc/donor_1, made without training, in the folder that the examples read."""
    folder = tmp_path_factory.mktemp("docs")
    row = {"dataset": "pbmc", "file_id": "donor_1", "query": "donor_1.h5ad", "model": None}
    make_demo(folder / "demo")
    with Query(folder / "demo/donor_1.h5ad") as query:
        classes = ["B", "T"]
        probabilities = np.tile(np.array([[0.6, 0.4], [0.45, 0.55]], dtype=np.float32), (query.n_obs // 2, 1))
        embedding = ad.AnnData(
            obs=pd.DataFrame(index=pd.Index(query.obs_names, dtype=object)),
            obsm={"X_emb": np.ones((query.n_obs, 10), dtype=np.float32), "bulk_labels_probabilities": probabilities},
            uns={
                "bulk_labels_classes": np.array(classes, dtype=object),
                "refmap": {"family": "scvi", "class_name": "SCANVI", "model_sha256": "0" * 64},
            },
        )
        best = probabilities.argmax(axis=1)
        embedding.obs["bulk_labels_predicted"] = pd.Categorical.from_codes(best, categories=classes)
        embedding.obs["bulk_labels_predicted_uncertainty"] = 1 - probabilities.max(axis=1)
        embedding.obs["bulk_labels_predicted_probability"] = probabilities.max(axis=1)
        write_zarr(embedding, folder / "embedding.zarr")
        outcome = Outcome(row)
        out = folder / "results/demo" / outcome.paths()[0]
        out.parent.mkdir(parents=True)
        export(query, row, folder / "embedding.zarr", out)
    failed = Outcome({**row, "file_id": "001"}, stage="CHECK_QUERY", reason="has no cells.")
    write_index([outcome, failed], folder / "results/demo/reference_mapping/mappings.csv")
    return folder


def test_the_first_example_reads_the_query(demo_run, monkeypatch):
    monkeypatch.chdir(demo_run)
    found = {}
    exec(blocks(OUTPUTS, "python")[0], found)
    assert found["latent"].shape == (100, 10)
    assert list(found["probabilities"].columns) == ["B", "T"]
    assert list(found["probabilities"].idxmax(axis=1)) == list(found["query"].obs["bulk_labels_predicted"])
    assert len(found["doubtful"]) == 0


def test_the_second_example_reads_the_joint_atlas(demo_run, monkeypatch):
    labels = pd.Categorical(["B", "T"] * 20)
    atlas = ad.AnnData(
        obs=pd.DataFrame({"dataset": pd.Categorical(["x"] * 40), "bulk_labels": labels, "bulk_labels_transferred": labels}),
        obsm={"X_emb": np.random.default_rng(0).normal(size=(40, 10)).astype(np.float32), "X_umap": np.zeros((40, 2))},
    )
    lay_out(atlas, alone=False, with_umap=False, seed=0)
    (demo_run / "results/demo/reference_mapping/joint").mkdir()
    atlas.write_h5ad(demo_run / "results/demo/reference_mapping/joint/reference_model.h5ad")
    monkeypatch.chdir(demo_run)
    found = {}
    exec(blocks(OUTPUTS, "python")[1], found)
    assert found["atlas"].obs["leiden"].notna().all()


def test_the_third_example_reads_the_index(demo_run, monkeypatch):
    monkeypatch.chdir(demo_run)
    found = {}
    exec(blocks(OUTPUTS, "python")[2], found)
    assert found["failed"].values.tolist() == [["pbmc", "001", "CHECK_QUERY", "has no cells."]]
    assert {name: latent.shape for name, latent in found["latents"].items()} == {"pbmc/donor_1": (100, 10)}


def test_what_is_added_to_the_query_is_explained(demo_run):
    query = ad.read_zarr(demo_run / "results/demo" / Outcome({"dataset": "pbmc", "file_id": "donor_1"}).paths()[0])
    before = ad.read_h5ad(demo_run / "demo/donor_1.h5ad")
    added = {f"obs['{name}']" for name in query.obs if name not in before.obs}
    added |= {f"obsm['{name}']" for name in query.obsm if name not in before.obsm}
    added |= {f"uns['{name}']" for name in query.uns if name not in before.uns}
    explained = first_column(TEXTS[OUTPUTS], "where")
    assert added == {name.replace("<labels_key>", "bulk_labels") for name in explained}
    for name in query.uns["refmap"]:
        assert f"`{name}`" in section(OUTPUTS, r"The query: file_id~\<file_id\>.zarr")


def keys_of(source: str, after: str) -> list[str]:
    """The keys of the dictionary that stands in a source file after some text, at its first level of indentation."""
    text = (ROOT / source).read_text()
    text = text[text.index(after) + len(after) :]
    indent = re.search(r'\n( +)"', text)[1]
    return re.findall(rf'^{indent}"(\w+)":', text[: text.index(f"\n{indent[:-4]}}}")], flags=re.M)


def test_every_field_of_mapping_json_is_explained():
    fields = {
        *keys_of("bin/refmap/mapping/mapping.py", "start\n        | {"),
        *keys_of("bin/refmap/mapping/mapping.py", 'row = plan["row"]\n    return {'),
    }
    assert len(fields) > 20
    assert sorted(first_column(section(OUTPUTS, "mapping.json"), "field")) == sorted(
        [*fields, "accuracy", "hierarchy", "correction"]
    )


def test_every_field_of_alignment_json_is_explained():
    fields = keys_of("bin/refmap/query/align.py", "padded = [gene for gene, found in")
    assert len(fields) > 10
    assert sorted(first_column(section(OUTPUTS, "alignment.json"), "field")) == sorted(fields)


# --- input ----------------------------------------------------------------------------------------------------------------


def test_every_key_and_column_of_the_sheet_is_explained():
    table = first_column(section(USAGE, "All keys and columns"), "name")
    assert table == list(FIELDS)
    assert table[-len(YAML_ONLY) :] == list(YAML_ONLY)


@pytest.mark.parametrize("path", [README, USAGE], ids=lambda path: path.name)
def test_the_sheets_shown_can_be_read_and_mean_the_same(path, tmp_path):
    rows = {}
    for kind in ("yaml", "csv"):
        (text,) = blocks(path, kind)
        (tmp_path / f"sheet.{kind}").write_text(text)
        rows[kind] = read_sheet(tmp_path / f"sheet.{kind}", defaults(SCHEMA))
    assert [row["file_id"] for row in rows["yaml"]] == ["donor_1", "donor_2"]
    if path == README:
        assert rows["yaml"] == rows["csv"]


def test_no_default_is_repeated_in_the_tables_of_usage():
    """There is one place for them, docs/parameters.md."""
    assert "default" not in section(USAGE, "All keys and columns").split("| name |")[1]


# --- models and versions --------------------------------------------------------------------------------------------------


def test_the_classes_that_map_are_those_of_the_code():
    shown = {}
    for line in section(README, "Which models").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and cells[1] in ("yes", "no"):
            shown |= dict.fromkeys(cells[0].split(", "), (cells[1] == "yes", cells[2]))
    assert {name: maps for name, (maps, _) in shown.items()} == {name: not kind.unfit for name, kind in CLASSES.items()}
    assert {name for name, (_, note) in shown.items() if "predicts" in note} == {
        name for name, kind in CLASSES.items() if kind.predicts and not kind.unfit
    }


def test_the_protocol_is_explained():
    text = TEXTS[ROOT / "docs/adding_a_family.md"]
    for protocol in (Family, Surgery):
        members = [*protocol.__annotations__, *(name for name in vars(protocol) if not name.startswith("_"))]
        assert members
        for name in members:
            assert re.search(rf"`{name}\b", text), name


def test_the_changelog_has_this_version():
    assert re.search(r"^## (\S+)$", TEXTS[ROOT / "CHANGELOG.md"], flags=re.M)[1] == __version__


def test_the_two_commands_stand_at_the_top():
    assert re.match(r"make demo\b.*\nmake test\b", blocks(README, "bash")[0])


# --- the list of references ------------------------------------------------------------------------------------------------


def test_the_references_have_what_the_list_is_printed_by():
    references = yaml.safe_load((ROOT / "assets/references.yml").read_text(encoding="utf-8"))
    for reference in references:
        assert {"name", "address"} <= reference.keys() <= {*"name address organism tissue genes batch labels licence".split()}
        assert all(isinstance(value, str) and value.strip() == value for value in reference.values()), reference["name"]
        assert re.fullmatch(r"(hf://[\w.-]+/|zenodo:\d+|https://|s3://)\S+", reference["address"])
    for key in ("name", "address"):
        assert len({reference[key] for reference in references}) == len(references)


def test_principal_components_of_a_reference_are_put_into_both_files(tmp_path, monkeypatch):
    """By the lines of the page on embeddings, against the projection by another library."""
    from sklearn.decomposition import PCA

    monkeypatch.chdir(tmp_path)
    make_demo(tmp_path)
    (lines,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/families/embedding.md").read_text(), flags=re.M | re.S)
    (tmp_path / "reference.h5ad").rename("atlas.h5ad")
    query = ad.read_h5ad("donor_1.h5ad")  # shuffled genes, some of them missing
    query.X = query.layers["counts"]
    query.write_h5ad("donor_1.h5ad")
    exec(compile(lines, "embedding.md", "exec"), {})
    atlas, query = ad.read_h5ad("atlas.h5ad"), ad.read_h5ad("donor_1.h5ad")
    genes = [gene for gene in atlas.var_names if gene in query.var_names]

    def logged(cells):
        counts = cells[:, genes].X.toarray().astype(float)
        return np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)

    assert query.obsm["X_pca"].shape == (100, 30) and query.n_vars == 612 and atlas.n_vars == 765
    fitted = PCA(n_components=30, svd_solver="full").fit(logged(atlas))
    for cells in (atlas, query):
        # The last components, of like variance, differ between solvers
        expected, found = fitted.transform(logged(cells))[:, :10], cells.obsm["X_pca"][:, :10]
        np.testing.assert_allclose(np.abs(found), np.abs(expected), rtol=0.02, atol=0.02)  # a component's sign is free
