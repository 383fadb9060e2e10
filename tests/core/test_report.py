"""The page, the index and the summary over a run's mappings, of which some were mapped, some failed and some crashed."""

import base64
import csv
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from refmap.outcomes import Outcome, gather
from refmap.report import COLUMNS, index_line, summary
from refmap.report_page import put_pictures_in, read_history, recall, software_versions, training, warnings, write_sections
from write_report import main

CONFIG = Path(__file__).resolve().parents[2] / "assets" / "multiqc_config.yml"
# One dot.
PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
NO_COVARIATES = "model 'old' was trained without encode_covariates=True: surgery cannot move the query."
FEW_GENES = "query 'c.h5ad' has 300 of the model's 1,000 genes (30.0%, less than 60%): the others are filled with zeros."


def row(dataset, file_id, **changes):
    return {
        "dataset": dataset,
        "file_id": file_id,
        "query": f"{file_id}.h5ad",
        "model": None,
        "warn_gene_overlap": 0.6,
        **changes,
    }


def plan(row, found=900, faults=()):
    query = {"n_cells": 1200, "n_genes": 2000, "n_genes_found": found, "n_model_genes": 1000}
    return {"row": row, "query": query, "faults": list(faults), "warnings": []}


def write_qc(folder, row, matched=900, accuracy=0.875, epochs=40, more_warnings=()):
    folder = folder / f"{row['dataset']}~{row['file_id']}"
    folder.mkdir(parents=True)
    record = {
        "family": "scvi",
        "class_name": "SCANVI",
        "n_cells": 1200,
        "batches": {"new": ["d1", "d2"]},
        "train": {"epochs": epochs, "seconds": 12.34} if epochs else None,
        "device": "cpu",
        "versions": {"refmap": "0.1.0", "scvi-tools": "1.5.1"},
        "predictions": {"label": {"mean_uncertainty": 0.1}},
        "accuracy": None if accuracy is None else {"accuracy": accuracy},
        "warnings": list(more_warnings),
    }
    alignment = {"matched": matched, "padded": 1000 - matched, "n_model_genes": 1000, "n_query_genes": 2000, "dropped": 1050}
    composition = {"total": {"T <script>cell</script>": 1000, "B": 200}}
    for name, content in {"mapping": record, "alignment": alignment, "composition": composition}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "history.csv").write_text("epoch,elbo_train,elbo_validation\n1,30.5,\n2,20.25,21\n" if epochs else "epoch\n")
    (folder / "umap.png").write_bytes(PNG)
    if accuracy is not None:
        (folder / "confusion.csv").write_text("truth,B,T\nB,3,1\nT,0,5\n")


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """Six mappings: two mapped, one stopped by its check, one by a fault, one crashed in training, one before its check."""
    folder = tmp_path_factory.mktemp("run")
    rows = [
        row("lung", "a"),
        row("lung", "b"),
        row("gut", "c", model="old"),
        row("gut", "d.1"),
        row("gut", "e"),
        row("gut", "f", model="other"),
    ]
    (folder / "mappings.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in rows))
    for name in ("plans", "cards", "faults", "qc"):
        (folder / name).mkdir()
    plans = [
        plan(rows[0]),
        plan(
            rows[1],
            found=3,
            faults=["has 3 of the model's genes: its ids look like '<b>ENSG</b>'.", "has no obs column 'donor'."],
        ),
        plan(rows[2], found=300),
        plan(rows[3]),
        plan(rows[4]),
    ]
    for number, content in enumerate(plans):
        (folder / "plans" / f"{number}.json").write_text(json.dumps(content))
    cards = [
        {"model": "the reference trained in this run", "family": "scvi", "class_name": "SCANVI", "warnings": [], "fault": None},
        {"model": "old", "family": "scvi", "class_name": "SCANVI", "warnings": [NO_COVARIATES], "fault": None},
    ]
    for number, content in enumerate(cards):
        (folder / "cards" / f"{number}.json").write_text(json.dumps(content))
    fault = {"dataset": "gut", "file_id": "d.1", "stage": "ALIGN_GENES", "message": "X holds fractional values & <b>more</b>"}
    (folder / "faults" / "d.json").write_text(json.dumps(fault))
    write_qc(folder / "qc", rows[0], more_warnings=["a <i>mild</i> one", "a <i>mild</i> one"])
    write_qc(folder / "qc", rows[2], matched=300, accuracy=None, epochs=0, more_warnings=[NO_COVARIATES, FEW_GENES])
    reached = {"lung~a": "EXPORT_EMBEDDING", "lung~b": "CHECK_QUERY", "gut~c": "EXPORT_EMBEDDING"}
    reached |= {"gut~d.1": "CHECK_QUERY", "gut~e": "ALIGN_GENES"}
    (folder / "reached.json").write_text(json.dumps(reached))
    return folder


def invoke(folder, output, *more):
    options = {name: folder / name for name in ("plans", "cards", "faults", "qc")}
    options |= {"mappings": folder / "mappings.jsonl", "reached": folder / "reached.json", "config": CONFIG, "output": output}
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    result = CliRunner().invoke(main, [*words, *more], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return output


@pytest.fixture(scope="session")
def report(run):
    return invoke(run, run / "report", "--title", "My <run>", "--outdir", "results")


@pytest.fixture(scope="session")
def page(report):
    return (report / "multiqc_report.html").read_text()


@pytest.fixture(scope="session")
def outcomes(run):
    reached = json.loads((run / "reached.json").read_text())
    return gather(run / "mappings.jsonl", run / "plans", run / "cards", run / "faults", run / "qc", reached)


def test_index_has_a_line_a_mapping(report):
    with (report / "mappings.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    assert header == list(COLUMNS)
    trained = "the reference trained in this run"
    crashed = "TRAIN_SURGERY ended without a result: see its log in the work directory that pipeline_info/trace.txt names"
    assert lines == [
        [
            *[
                "lung",
                "a",
                "mapped",
                "",
                "",
                "a.h5ad",
                trained,
                "scvi",
                "SCANVI",
                "1200",
                "900",
                "0.9",
                "40",
                "12.34",
                "0.875",
                "a <i>mild</i> one",
            ],
            "reference_mapping/dataset~lung/file_id~a.zarr",
            "reference_mapping/model/dataset~lung/file_id~a",
            "reference_mapping/qc/dataset~lung/file_id~a",
        ],
        [
            *["lung", "b", "failed", "CHECK_QUERY"],
            "has 3 of the model's genes: its ids look like '<b>ENSG</b>'. | has no obs column 'donor'.",
            *["b.h5ad", trained, "scvi", "SCANVI", "1200", "3", "0.003", *[""] * 7],
        ],
        [
            *["gut", "c", "mapped", "", "", "c.h5ad", "old", "scvi", "SCANVI", "1200", "300", "0.3", "0", "0", ""],
            f"{NO_COVARIATES} | {FEW_GENES}",
            "reference_mapping/dataset~gut/file_id~c.zarr",
            "reference_mapping/model/dataset~gut/file_id~c",
            "reference_mapping/qc/dataset~gut/file_id~c",
        ],
        [
            *[
                "gut",
                "d.1",
                "failed",
                "ALIGN_GENES",
                "X holds fractional values & <b>more</b>",
                "d.1.h5ad",
                trained,
                "scvi",
                "SCANVI",
            ],
            *["1200", "900", "0.9", *[""] * 7],
        ],
        [
            "gut",
            "e",
            "failed",
            "TRAIN_SURGERY",
            crashed,
            "e.h5ad",
            trained,
            "scvi",
            "SCANVI",
            "1200",
            "900",
            "0.9",
            *[""] * 7,
        ],
        ["gut", "f", "failed", "INSPECT_MODEL", crashed.replace("TRAIN_SURGERY", "INSPECT_MODEL"), "f.h5ad", "other", *[""] * 12],
    ]


def test_number_of_failures(report):
    assert (report / "failed.txt").read_text() == "4\n"


def test_summary_is_a_table_and_a_block_of_failures(report):
    assert (
        (report / "summary.txt").read_text()
        == """\
6 mappings: 2 mapped, 4 failed

mapping  status  family  cells      genes  epochs  seconds  accuracy  where
lung/a   mapped  scvi    1,200  900/1,000      40       12     0.875  reference_mapping/dataset~lung/file_id~a.zarr
lung/b   FAILED  scvi    1,200    3/1,000       -        -         -
gut/c    mapped  scvi    1,200  300/1,000       0        0         -  reference_mapping/dataset~gut/file_id~c.zarr
gut/d.1  FAILED  scvi    1,200  900/1,000       -        -         -
gut/e    FAILED  scvi    1,200  900/1,000       -        -         -
gut/f    FAILED  -           -          -       -        -         -

Paths are relative to results.
Report: multiqc/multiqc_report.html    Index: reference_mapping/mappings.csv

4 of 6 mappings failed:
  lung/b at CHECK_QUERY
    has 3 of the model's genes: its ids look like '<b>ENSG</b>'.
    has no obs column 'donor'.
  gut/d.1 at ALIGN_GENES
    X holds fractional values & <b>more</b>
  gut/e at TRAIN_SURGERY
    TRAIN_SURGERY ended without a result: see its log in the work directory that pipeline_info/trace.txt names
  gut/f at INSPECT_MODEL
    INSPECT_MODEL ended without a result: see its log in the work directory that pipeline_info/trace.txt names
"""
    )


def test_summary_of_many_shows_the_first_and_all_failures():
    many = [Outcome(row("d", str(i)), stage="TRAIN_SURGERY" * (i >= 90), reason="word " * 60) for i in range(100)]
    lines = summary(many, "out").splitlines()
    assert lines[0] == "100 mappings: 90 mapped, 10 failed"
    assert "... and 40 more" in lines
    assert sum(line.endswith("at TRAIN_SURGERY") for line in lines) == 10
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize(
    ("reached", "stage"),
    [
        ("CHECK_QUERY", "ALIGN_GENES"),
        ("ALIGN_GENES", "TRAIN_SURGERY"),
        ("TRAIN_SURGERY", "EXPORT_EMBEDDING"),
        ("EXPORT_EMBEDDING", "QC_MAPPING"),
    ],
)
def test_a_crash_is_blamed_on_the_stage_after_the_last_that_finished(tmp_path, reached, stage):
    entry = row("lung", "a")
    (tmp_path / "mappings.jsonl").write_text(json.dumps(entry))
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / "a.json").write_text(json.dumps(plan(entry)))
    if reached == "TRAIN_SURGERY":
        # Its pictures came out, but not the query: that is no mapping.
        write_qc(tmp_path / "qc", entry)
    none = tmp_path / "none"
    (outcome,) = gather(tmp_path / "mappings.jsonl", tmp_path / "plans", none, none, tmp_path / "qc", {"lung~a": reached})
    assert (outcome.mapped, outcome.stage) == (False, stage)
    assert outcome.reason.startswith(f"{stage} ended without a result")


def test_a_fault_of_the_trained_reference_is_that_of_all_its_mappings(tmp_path):
    rows = [row("lung", "a"), row("lung", "b", model="old")]
    (tmp_path / "mappings.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "faults").mkdir()
    fault = {"dataset": None, "file_id": None, "stage": "TRAIN_REFERENCE", "message": "no counts"}
    (tmp_path / "faults" / "x.json").write_text(json.dumps(fault))
    none = tmp_path / "none"
    first, second = gather(tmp_path / "mappings.jsonl", none, none, tmp_path / "faults", none, {})
    assert (first.stage, first.reason) == ("TRAIN_REFERENCE", "no counts")
    assert second.stage == "INSPECT_MODEL"


def test_a_refused_model_is_the_reason_where_there_is_no_plan(tmp_path):
    (tmp_path / "mappings.jsonl").write_text(json.dumps(row("lung", "a", model="evil")))
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "x.json").write_text(json.dumps({"model": "evil", "fault": "wants os.system"}))
    none = tmp_path / "none"
    (outcome,) = gather(tmp_path / "mappings.jsonl", none, tmp_path / "cards", none, none, {})
    assert (outcome.stage, outcome.reason) == ("INSPECT_MODEL", "wants os.system")
    assert index_line(outcome)[2:5] == ["failed", "INSPECT_MODEL", "wants os.system"]


def test_page_has_every_section_and_every_mapping_by_its_full_name(page):
    headings = re.findall(r'<a href="#refmap_(\w+?)"', page)
    sections = list(dict.fromkeys(name.removesuffix("-module") for name in headings))
    assert sections == ["failures", "warnings", "mappings", "genes", "training", "labels", "accuracy", "pictures"]
    for name in ("lung/a", "lung/b", "gut/c", "gut/d.1", "gut/e", "gut/f"):
        assert f'data-original-sn="{name}"' in page


def test_page_tells_reasons_as_text(page):
    assert "<strong>gut/d.1</strong> at ALIGN_GENES<br>X holds fractional values &amp; &lt;b&gt;more&lt;/b&gt;" in page
    assert "&#x27;&lt;b&gt;ENSG&lt;/b&gt;&#x27;.<br>has no obs column" in page
    assert "a &lt;i&gt;mild&lt;/i&gt; one" in page
    assert "My &lt;run&gt;" in page
    for raw in ("My <run>", "<b>more</b>", "<b>ENSG</b>", "<i>mild</i>", "<script>cell"):
        assert raw not in page


def test_page_carries_its_pictures_and_needs_no_network(page):
    assert page.count(base64.b64encode(PNG).decode()) == 2
    assert 'src="picture:' not in page
    markup = re.sub(r"(<script[^>]*>).*?</script>", r"\1", page, flags=re.DOTALL)
    assert '<img src="data:image/png' in markup
    assert re.findall(r"<(?:script|img|iframe|video|source)[^>]*\ssrc=[\"'](?!data:)[^>]*>", markup) == []
    assert re.findall(r"<link[^>]*href=[\"'](?!data:|#)[^>]*>", markup) == []


def test_severe_warnings_come_first_and_each_once(outcomes):
    data = warnings(outcomes)["data"]
    order = [data.index(text) for text in ("encode_covariates", "300 of the model", "mild")]
    assert order == sorted(order)
    assert data.count("<strong>") == 2 and data.count("mild") == 1


def test_sections_hold_the_figures(outcomes, tmp_path):
    write_sections(outcomes, tmp_path)
    sections = {path.name: json.loads(path.read_text()) for path in tmp_path.iterdir()}
    (table,) = sections["refmap_mappings_mqc.json"]["data"]
    assert table["lung/a"] == {
        **{"status": "mapped", "family": "scvi", "model": "SCANVI", "cells": 1200, "genes": 90.0, "batches": 2, "epochs": 40},
        **{"seconds": 12.34, "accuracy": 0.875, "uncertainty": 0.1, "device": "cpu", "warnings": 1},
    }
    assert table["gut/f"] == {"status": "failed", "stage": "INSPECT_MODEL", "warnings": 0}
    model, query = sections["refmap_genes_mqc.json"]["data"]
    assert model == {"lung/a": {"found": 900, "padded": 100}, "gut/c": {"found": 300, "padded": 700}}
    assert query["lung/a"] == {"used": 950, "dropped": 1050}
    assert sections["refmap_training_mqc.json"]["data"] == [{"lung/a": [[1, 30.5], [2, 20.25]]}, {"lung/a": [[2, 21]]}]
    assert sections["refmap_labels_mqc.json"]["data"][0]["lung/a"] == {"T &lt;script&gt;cell&lt;/script&gt;": 1000, "B": 200}
    accuracy = sections["refmap_accuracy_mqc.json"]
    assert (accuracy["xcats"], accuracy["ycats"], accuracy["data"]) == (["B", "T"], ["lung/a"], [[0.75, 1.0]])
    assert sections["refmap_mqc_versions.yml"] == {"refmap": ["0.1.0"], "scvi-tools": ["1.5.1"]}


def test_nothing_mapped_leaves_the_failures_and_the_table(tmp_path):
    write_sections([Outcome(row("d", "x"), stage="TRAIN_SURGERY", reason="why")], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["refmap_failures_mqc.json", "refmap_mappings_mqc.json"]


def test_unknown_curves_are_shown_where_no_known_one_is(tmp_path):
    (tmp_path / "history.csv").write_text("epoch,my_loss\n1,3\n2,nan\n3,inf\n")
    outcome = Outcome(row("d", "x"), folder=tmp_path)
    assert read_history(tmp_path / "history.csv") == {"my_loss": [[1.0, 3.0]]}
    assert training([outcome])["data"] == [{"d/x": [[1.0, 3.0]]}]


def test_recall_counts_a_label_that_is_never_predicted(tmp_path):
    (tmp_path / "confusion.csv").write_text("truth,B,T\nB,3,1\nrare,2,0\n")
    assert recall(tmp_path / "confusion.csv") == {"B": 0.75, "rare": 0.0}
    assert recall(tmp_path / "none.csv") == {}


def test_versions_that_differ_are_all_listed(outcomes):
    one, two = (Outcome(row("d", "x"), record={"versions": {"torch": version}}) for version in ("2.5", "2.15"))
    assert software_versions([one, two, one]) == {"torch": ["2.5", "2.15"]}


def test_only_the_places_left_for_pictures_are_filled(outcomes):
    text = '<img src="picture:lung~a/umap.png"> picture:lung~a/umap.png src=&quot;picture:lung~a/umap.png&quot;'
    filled = put_pictures_in(text, outcomes)
    assert filled.count("data:image/png;base64,") == 1
    assert filled.endswith("picture:lung~a/umap.png src=&quot;picture:lung~a/umap.png&quot;")
