"""The page, the index and the summary over a run's mappings, of which some were mapped, some failed and some crashed."""

import base64
import csv
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from refmap.report.outcomes import Outcome, gather, read_references, software_versions
from refmap.report.page import put_pictures_in, write_sections
from refmap.report.report import COLUMNS, index_line, summary
from refmap.report.sections.calibration import calibration, reliability
from refmap.report.sections.gallery import pictures
from refmap.report.sections.labels import recall
from refmap.report.sections.mappings import mappings
from refmap.report.sections.training import read_history, training
from refmap.report.sections.verdicts import trust, warnings
from write_report import main

CONFIG = Path(__file__).resolve().parents[3] / "assets" / "multiqc_config.yml"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
# One dot.
PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
NO_COVARIATES = "model 'old' was trained without encode_covariates=True: surgery cannot move the query."
NAMES = {
    "query": {"kind": "symbols", "species": "human"},
    "model": {"kind": "Ensembl ids", "species": "human"},
    "columns": {"gene_ids": 1300},
    "found": {"synonym": 2, "id_or_symbol": 40},
}
FEW_GENES = "query 'c.h5ad' has 300 of the model's 1,000 genes (30.0%, less than 60%): the others are filled with zeros."

NO_KEYS = "No labels are transferred from reference '<u>atlas</u>.h5ad': name the columns of its obs with transfer_keys."
# Of ten cells, half are certain and right but for one, and half are not and wrong but for two.
BINS = [
    {"low": 0.3, "high": 0.4, "n": 5, "confidence": 0.35, "accuracy": 0.4},
    {"low": 0.9, "high": 1.0, "n": 5, "confidence": 0.95, "accuracy": 0.8},
]
CALIBRATION = {
    **{"n": 10, "n_foreign": 0, "threshold": 0.2, "accuracy": 0.6, "unknown_share": 0.5, "accuracy_kept": 0.8},
    **{"accuracy_unknown": 0.4, "ece": 0.1, "bins": BINS},
}

EVALUATION = {
    "query": {"n_cells": 9, "n_labels": 2, "n_batches": 1}
    | {"asw_label": 0.75, "nmi": 0.5, "ari": 0.5, "knn_purity": 1.0, "asw_batch": None, "ebm": None},
    **dict.fromkeys(("joint", "predicted", "transferred")),
}


def row(dataset, file_id, **changes):
    return {
        "dataset": dataset,
        "file_id": file_id,
        "query": f"{file_id}.h5ad",
        "model": None,
        "strategy": "joint",
        "warn_gene_overlap": 0.6,
        **changes,
    }


SEPARATION = {"value": 1.5, "labels": {"<T>": {"value": 1.25, "n_cells": 900}, "B": {"value": 3.0, "n_cells": 200}}}


GROUPS = """group,n_cells,n_novel,matched_label,score,threshold,null_quantile,genes,like_label,like,apart,own_score,reading,about
novel_1,1200,1100,T <cell>,0.456,0.1,1.0,+IL7R -GNLY,NK & co,0.7,0.8,0.01,type,"1,200 cells matched to T <cell>."
novel_2,30,30,B,0.3,0.1,0.99,+MS4A1,,,0.2,0.1,state,30 cells matched to B.
cluster_3,500,0,B,0.01,0.1,0.5,+CD79A,,,0.01,0.01,,500 cells matched to B.
"""


def plan(row, found=900, faults=()):
    query = {"n_cells": 1200, "n_genes": 2000, "n_genes_found": found, "n_model_genes": 1000}
    return {"row": row, "query": query, "faults": list(faults), "warnings": []}


def verdict(light, reasons=("because",), missing=(), novel=None, separation=None):
    figures = {"novel": {"value": novel}, "separation": separation or {"value": None, "labels": {}}}
    of_labels = {"light": light, "reasons": list(reasons), "missing": list(missing)}
    return {
        "labels": of_labels,
        "embedding": {"light": "amber", "reasons": ["It lies apart."], "missing": []},
        "figures": figures,
    }


def judged(file_id, light, **more):
    """A mapping that was judged, as far as sections need it that read no files."""
    return Outcome(row("lung", file_id), record={"trust": verdict(light, **more), "transfer": {"labels": {}}})


def reference(name="atlas.h5ad", calibration=None, **changes):
    keys = list(calibration or {})
    return {
        **{"reference": name, "source": "counts", "fault": None, "warnings": [], "keys": keys, "n_cells": 400},
        **{"held_out": {"by": "batch", "n": 400}, "distances": [0.5, 1.0], "calibration": calibration or {}, **changes},
    }


def write_references(folder, *references):
    folder.mkdir()
    for number, content in enumerate(references, start=1):
        (folder / f"{number}.json").write_text(json.dumps(content))
    return folder


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
    if accuracy is None:
        record["trust"] = verdict("grey", ["It cannot be said <s>how far</s>.", "What is known: 30 %."], ["<q>No</q> labels."])
    else:
        levels = {"fine": {"unknown": 0.5, "counts": {}}, "coarse": {"unknown": 0.125, "counts": {}}}
        record["transfer"] = {"reference": "atlas.h5ad", "threshold": 0.2, "labels": levels}
        few = {**CALIBRATION, "n": 2, "accuracy": 0.0}
        record["calibration"] = {"label_predicted": few, "fine_transferred": few, "coarse_transferred": CALIBRATION}
        record["trust"] = verdict("amber", ["Some are new.", "Others are not."], novel=0.30004, separation=SEPARATION)
        record["evaluation"] = EVALUATION
        record["trust"]["figures"]["groups"] = {"value": 0.1, "groups": {"novel_1": {}}}
        record["expression"] = {"novel": {"groups": {"novel_1": {}, "novel_2": {}}}}
        (folder / "groups.csv").write_text(GROUPS)
        (folder / "explore.html").write_text("<!doctype html>")
        (folder / "joint.png").write_bytes(PNG)
    alignment = {"matched": matched, "padded": 1000 - matched, "n_model_genes": 1000, "n_query_genes": 2000, "dropped": 1050}
    if accuracy is not None:
        alignment["names"] = NAMES
    composition = {"total": {"T <script>cell</script>": 1000, "B": 200}}
    for name, content in {"mapping": record, "alignment": alignment, "composition": composition}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "history.csv").write_text("epoch,elbo_train,elbo_validation\n1,30.5,\n2,20.25,21\n" if epochs else "epoch\n")
    (folder / "umap.png").write_bytes(PNG)
    if accuracy is not None:
        (folder / "confusion.csv").write_text("truth,B,T\nB,3,1\nT,0,5\n")
        (folder / "confusion_transferred.csv").write_text("truth,B,T,Unknown\nB,2,1,1\nT,0,4,1\n")


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
    hostile = reference("<u>atlas</u>.h5ad", warnings=[NO_KEYS])
    own = {**CALIBRATION, "by": "batch", "calibrated_on": "seen"}
    named = reference("atlas.h5ad", {"coarse": own, "<em>fine</em>": own, "empty": None}, warnings=[FEW_GENES])
    write_references(folder / "references", hostile, named, hostile)
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
    passed = [("lung~a", "EXPORT_EMBEDDING"), ("lung~b", "CHECK_QUERY"), ("gut~c", "EXPORT_EMBEDDING")]
    passed += [("gut~e", "ALIGN_GENES"), ("gut~d.1", "CHECK_QUERY"), ("gut~e", "CHECK_QUERY")]
    (folder / "passed.json").write_text(json.dumps(passed))
    return folder


def invoke(folder, output, *more):
    options = {name: folder / name for name in ("plans", "cards", "faults", "qc", "references", "joint")}
    options |= {"mappings": folder / "mappings.jsonl", "passed": folder / "passed.json", "config": CONFIG, "output": output}
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
    passed = json.loads((run / "passed.json").read_text())
    return gather(run / "mappings.jsonl", run / "plans", run / "cards", run / "faults", run / "qc", passed)


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
            ],
            *[
                "0.6",
                "0.1",
                "0.125",
                "0.3",
                "1",
                "",
                "",
                "",
                "amber",
                "amber",
                "Some are new. | Others are not. | It lies apart.",
            ],
            "a <i>mild</i> one",
            "reference_mapping/dataset~lung/file_id~a.zarr",
            "reference_mapping/model/dataset~lung/file_id~a",
            "reference_mapping/qc/dataset~lung/file_id~a",
            "reference_mapping/qc/dataset~lung/file_id~a/explore.html",
        ],
        [
            *["lung", "b", "failed", "CHECK_QUERY"],
            "has 3 of the model's genes: its ids look like '<b>ENSG</b>'. | has no obs column 'donor'.",
            *["b.h5ad", trained, "scvi", "SCANVI", "1200", "3", "0.003", *[""] * 19],
        ],
        [
            *["gut", "c", "mapped", "", "", "c.h5ad", "old", "scvi", "SCANVI", "1200", "300", "0.3", "0", "0", "", *[""] * 8],
            *["grey", "amber", "It cannot be said <s>how far</s>. | What is known: 30 %. | It lies apart."],
            f"{NO_COVARIATES} | {FEW_GENES}",
            "reference_mapping/dataset~gut/file_id~c.zarr",
            "reference_mapping/model/dataset~gut/file_id~c",
            "reference_mapping/qc/dataset~gut/file_id~c",
            "",
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
            *["1200", "900", "0.9", *[""] * 19],
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
            *[""] * 19,
        ],
        ["gut", "f", "failed", "INSPECT_MODEL", crashed.replace("TRAIN_SURGERY", "INSPECT_MODEL"), "f.h5ad", "other", *[""] * 24],
    ]


def test_number_of_failures(report):
    assert (report / "failed.txt").read_text() == "4\n"


def test_summary_is_a_table_and_a_block_of_failures(report):
    assert (
        (report / "summary.txt").read_text()
        == """\
6 mappings: 2 mapped, 4 failed

mapping  status  lights        family  cells      genes  epochs  seconds  accuracy  where
lung/a   mapped  amber, amber  scvi    1,200  900/1,000      40       12     0.875  reference_mapping/dataset~lung/file_id~a.zarr
lung/b   FAILED  -             scvi    1,200    3/1,000       -        -         -
gut/c    mapped  grey, amber   scvi    1,200  300/1,000       0        0         -  reference_mapping/dataset~gut/file_id~c.zarr
gut/d.1  FAILED  -             scvi    1,200  900/1,000       -        -         -
gut/e    FAILED  -             scvi    1,200  900/1,000       -        -         -
gut/f    FAILED  -             -           -          -       -        -         -

The lights are of the labels and of the embedding.
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
        (None, "CHECK_QUERY"),
        ("CHECK_QUERY", "ALIGN_GENES"),
        ("ALIGN_GENES", "TRAIN_SURGERY"),
        ("TRAIN_SURGERY", "EXPORT_EMBEDDING"),
        ("EXPORT_EMBEDDING", "QC_MAPPING"),
    ],
)
def test_a_crash_is_blamed_on_the_stage_after_the_last_that_finished(tmp_path, reached, stage):
    entry = row("lung", "a", model="atlas")
    (tmp_path / "mappings.jsonl").write_text(json.dumps(entry))
    (tmp_path / "plans").mkdir()
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "a.json").write_text(json.dumps({"model": "atlas", "fault": None}))
    if reached:
        (tmp_path / "plans" / "a.json").write_text(json.dumps(plan(entry)))
    none, passed = tmp_path / "none", [["lung~a", reached]] * bool(reached)
    (outcome,) = gather(tmp_path / "mappings.jsonl", tmp_path / "plans", tmp_path / "cards", none, tmp_path / "qc", passed)
    assert (outcome.mapped, outcome.stage) == (False, stage)
    tasks = {"CHECK_QUERY": "the log of ALIGN_GENES", "QC_MAPPING": "the log of EXPORT_EMBEDDING"}
    task = tasks.get(stage, "its log")
    assert outcome.reason.startswith(f"{stage} ended without a result: see {task} in the work directory")


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
    assert sections == [
        *["failures", "trust", "groups", "warnings", "mappings", "calibration", "reliability", "separation"],
        *["genes", "training", "labels", "accuracy", "evaluation", "pictures"],
    ]
    for name in ("lung/a", "lung/b", "gut/c", "gut/d.1", "gut/e", "gut/f"):
        assert f'data-original-sn="{name}"' in page


def test_page_tells_reasons_as_text(page):
    assert "<strong>gut/d.1</strong> at ALIGN_GENES<br>X holds fractional values &amp; &lt;b&gt;more&lt;/b&gt;" in page
    assert "&#x27;&lt;b&gt;ENSG&lt;/b&gt;&#x27;.<br>has no obs column" in page
    assert "a &lt;i&gt;mild&lt;/i&gt; one" in page
    assert "My &lt;run&gt;" in page
    assert "It cannot be said &lt;s&gt;how far&lt;/s&gt;.<br>What is known: 30 %." in page
    assert "<small>Not measured: &lt;q&gt;No&lt;/q&gt; labels.</small>" in page
    assert "<td>atlas.h5ad</td><td>&lt;em&gt;fine&lt;/em&gt;</td>" in page
    assert "reference '<u>" not in page and "reference &#x27;&lt;u&gt;atlas" in page
    hostile = ("My <run>", "<b>more</b>", "<b>ENSG</b>", "<i>mild</i>", "<script>cell", "<s>how", "<q>No", "<em>fine", "<u>atlas")
    for raw in hostile:
        assert raw not in page


def test_page_carries_its_pictures_and_needs_no_network(page):
    assert page.count(base64.b64encode(PNG).decode()) == 3
    assert 'src="picture:' not in page
    markup = re.sub(r"(<script[^>]*>).*?</script>", r"\1", page, flags=re.DOTALL)
    assert '<img src="data:image/png' in markup
    assert re.findall(r"<(?:script|img|iframe|video|source)[^>]*\ssrc=[\"'](?!data:)[^>]*>", markup) == []
    assert re.findall(r"<link[^>]*href=[\"'](?!data:|#)[^>]*>", markup) == []


def test_severe_warnings_come_first_and_each_once(outcomes):
    data = warnings(outcomes, [])["data"]
    order = [data.index(text) for text in ("encode_covariates", "300 of the model", "mild")]
    assert order == sorted(order)
    assert data.count("<strong>") == 2 and data.count("mild") == 1


ATLAS = {
    **{"name": "lung_2", "model": "models/<lung>", "n_reference_cells": 1234, "n_query_cells": 5678, "n_left_out": 0},
    "mappings": ["lung~a", "gut~c"],
}


def test_sections_hold_the_figures(outcomes, tmp_path):
    write_sections(outcomes, [], [ATLAS], [], tmp_path)
    sections = {path.name: json.loads(path.read_text()) for path in tmp_path.iterdir()}
    (table,) = sections["refmap_mappings_mqc.json"]["data"]
    assert table["lung/a"] == {
        **{"status": "mapped", "family": "scvi", "model": "SCANVI", "cells": 1200, "genes": 90.0, "batches": 2, "epochs": 40},
        **{"seconds": 12.34, "accuracy": 0.875, "uncertainty": 0.1, "device": "cpu", "warnings": 1},
        **{
            "labels": "amber",
            "embedding": "amber",
            "groups": 1,
            "unknown": 12.5,
            "novel": 30.0,
            "transferred": 60.0,
            "kept": 80.0,
            "ece": 0.1,
        },
    }
    assert table["gut/f"] == {"status": "failed", "stage": "INSPECT_MODEL", "warnings": 0}
    model, query = sections["refmap_genes_mqc.json"]["data"]
    assert model == {"lung/a": {"found": 900, "padded": 100}, "gut/c": {"found": 300, "padded": 700}}
    assert query["lung/a"] == {"used": 950, "dropped": 1050}
    assert sections["refmap_genes_mqc.json"]["description"].endswith(
        "which are left out. By other names than the model's, genes were found in 1 of 2 mappings: 1,300 in further columns of var, 40 by "
        "Ensembl id or current symbol, 2 by synonym or former symbol (human symbols for human Ensembl ids); which they are is in "
        "alignment.json."
    )
    assert sections["refmap_training_mqc.json"]["data"] == [{"lung/a": [[1, 30.5], [2, 20.25]]}, {"lung/a": [[2, 21]]}]
    assert sections["refmap_labels_mqc.json"]["data"][0]["lung/a"] == {"T &lt;script&gt;cell&lt;/script&gt;": 1000, "B": 200}
    accuracy = sections["refmap_accuracy_mqc.json"]
    assert accuracy["xcats"] == ["B", "T"] and accuracy["ycats"] == ["lung/a: predicted", "lung/a: transferred"]
    assert accuracy["data"] == [[0.75, 1.0], [0.5, 0.8]]
    groups = sections["refmap_groups_mqc.json"]["data"]
    assert groups.startswith("<h4>lung/a</h4>") and groups.count("<h4>") == 1
    assert [re.findall("<td>(.*?)</td>", line) for line in re.findall("<tr>(<td>.*?)</tr>", groups)] == [
        ["novel_1", "type", "1,200 cells matched to T &lt;cell&gt;.", "+IL7R -GNLY"],
        ["novel_2", "state", "30 cells matched to B.", "+MS4A1"],
    ]
    joint = sections["refmap_joint_mqc.json"]["data"]
    assert 'href="../reference_mapping/joint/lung_2.html"' in joint
    assert re.findall("<td>(.*?)</td>", joint)[:5] == ["lung_2", "models/&lt;lung&gt;", "1,234", "2", "5,678"]
    apart = sections["refmap_separation_mqc.json"]
    assert apart["xcats"] == ["all cells", "&lt;T&gt;", "B"] and apart["ycats"] == ["lung/a"]
    assert apart["data"] == [[1.5, 1.25, 3.0]] and apart["pconfig"]["xlab"] == "transferred label"
    assert sections["refmap_mqc_versions.yml"] == {"refmap": ["0.1.0"], "scvi-tools": ["1.5.1"]}


def test_nothing_mapped_leaves_the_failures_and_the_table(tmp_path):
    write_sections([Outcome(row("d", "x"), stage="TRAIN_SURGERY", reason="why")], [], [], [], tmp_path)
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


def test_the_worst_mappings_come_first_and_many_green_ones_are_folded():
    lights = ["green", "amber", "red", "grey"] * 50
    data = trust([judged(str(number), light) for number, light in enumerate(lights)])["data"]
    groups = re.findall(
        r'<details class="refmap-light" data-open="(\w+)"( open)?.*?<span[^>]*>(\w+)</span> <strong>(.*?)</strong>', data
    )
    assert groups == [
        ("true", " open", "red", "50 mappings"),
        ("true", " open", "grey", "50 mappings"),
        ("true", " open", "amber", "50 mappings"),
        ("false", "", "green", "50 mappings"),
    ]
    assert data.count('class="refmap-mapping"') == 200
    # Whose box stands in which group: the second of four is amber, and so on.
    order = [int(number) for number in re.findall(r"<strong>lung/(\d+)</strong>", data)]
    assert order == [*range(2, 200, 4), *range(3, 200, 4), *range(1, 200, 4), *range(0, 200, 4)]
    assert data.count('<input type="search"') == 1


@pytest.mark.skipif(CHROMIUM is None, reason="neither chromium nor google-chrome is on PATH: no page was opened")
@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        # Of four groups, in order: whether it is hidden and unfolded, and the boxes that are left in it.
        ("", ["false true 1", "false true 1", "false true 1", "false false 5"]),
        ("LUNG/G2", ["true true 0", "true true 0", "true true 0", "false true 1"]),
        ("few genes", ["false true 1", "true true 0", "true true 0", "true true 0"]),
    ],
)
def test_the_filter_leaves_the_mappings_with_what_is_typed(tmp_path, typed, shown):
    many = [judged("r", "red", reasons=["Few genes."]), judged("y", "grey"), judged("a", "amber")]
    many += [judged(f"g{number}", "green") for number in range(5)]
    script = f"""
      const box = document.querySelector('input');
      for (const value of ['x', {json.dumps(typed)}]) {{ box.value = value; box.dispatchEvent(new Event('input')); }}
      const groups = [...document.querySelectorAll('details')];
      const left = (group) => group.querySelectorAll('.refmap-mapping:not([hidden])').length;
      document.title = groups.map((group) => `${{group.hidden}} ${{group.open}} ${{left(group)}}`).join(', ');
    """
    (tmp_path / "page.html").write_text(f"<title></title>{trust(many)['data']}<script>{script}</script>")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    dom = subprocess.run([*command, f"file://{tmp_path / 'page.html'}"], capture_output=True, text=True, timeout=60).stdout
    assert re.search("<title>(.*)</title>", dom)[1].split(", ") == shown


def test_few_mappings_are_all_unfolded_and_need_no_filter():
    data = trust([judged("a", "green"), judged("b", "red", reasons=["No <genes>."], missing=["No batches."])])["data"]
    assert data.count(' open style="') == 2 and "<input" not in data
    assert "<br><strong>labels</strong>: No &lt;genes&gt;.<br><strong>embedding</strong>: It lies apart.<br>" in data
    assert "<br><small>Not measured: No batches.</small>" in data
    assert "Without cells of the reference" not in data


def test_the_clusters_of_a_query_are_told_with_what_the_model_explains_of_each():
    figures = {
        "explained": {
            "clusters": {
                "1": {"value": 0.876, "n_cells": 1234, "label": "T <naive>", "label_share": 0.914},
                "2": {"value": 0.0, "n_cells": 6, "label": None, "label_share": None},
                "3": {"value": 0.5, "n_cells": 6, "label": None, "label_share": 1.0},
            }
        }
    }
    data = trust([Outcome(row("lung", "a"), record={"trust": verdict("green") | {"figures": figures}})])["data"]
    assert "<summary>3 clusters of its own</summary>" in data
    rows = [re.findall("<td>(.*?)</td>", line) for line in re.findall("<tr>(<td>.*?)</tr>", data)]
    assert rows == [
        ["1", "1,234", "0.88", "T &lt;naive&gt;", "91 %"],
        ["2", "6", "0.00", "", ""],
        ["3", "6", "0.50", "none", "100 %"],
    ]
    assert "of its own" not in trust([judged("a", "green")])["data"]


@pytest.mark.parametrize(
    ("figure", "told"),
    [
        (
            {"value": 0.0312, "n_cells": 1234, "cases": 0.5, "n_cases": 2000},
            "<br><strong>mapQC</strong>: 3.1 % of 1,234 control cells, and 50.0 % of 2,000 others lie farther from the reference than "
            "its 12 samples usually do from each other (score above 2), by 60 of 100 neighbourhoods.",
        ),
        (
            {"value": 1.0, "n_cells": 1, "cases": None, "n_cases": 0},
            "<br><strong>mapQC</strong>: 100.0 % of 1 control cell lie farther from the reference than ",
        ),
        ({"value": None, "note": "Too <few>."}, "<br><small>mapQC: Too &lt;few&gt;.</small>"),
    ],
)
def test_what_mapqc_says_stands_beside_the_lights(figure, told):
    figure = {"n_reference_samples": 12, "n_passed": 60, "n_neighborhoods": 100, **figure}
    light = {"light": "green", "reasons": [], "missing": []}

    def shown(figures):
        record = {"trust": {"labels": light, "embedding": light, "figures": figures}}
        return trust([Outcome(row("lung", "a"), record=record)])["data"]

    assert told in shown({"mapqc": figure})
    assert "mapQC" not in shown({})


def test_a_light_is_told_by_a_word_and_not_by_its_colour_alone():
    for light in ("red", "amber", "green", "grey"):
        data = trust([judged("a", light)])["data"]
        assert data.count(f'font-weight: bold">{light}</span>') == 2 + (light == "amber")  # as its embedding is


def test_what_the_lack_of_a_reference_costs_is_said_once_of_all_mappings_without():
    alone = [Outcome(row("gut", f"<{number}>"), record={"trust": verdict("grey")}) for number in range(22)]
    data = trust([judged("a", "green"), *alone])["data"]
    assert data.count("<strong>Without cells of the reference: 22 mappings.</strong>") == 1
    assert "no labels were transferred" in data and "as <code>reference</code> in the sheet" in data
    (names,) = re.findall(r"<small>(gut/.*?)</small>", data)
    assert names == ", ".join(f"gut/&lt;{number}&gt;" for number in range(20)) + " and 2 more"


def test_a_page_to_look_around_in_is_linked_from_where_the_report_lies(tmp_path):
    (tmp_path / "explore.html").touch()
    there = Outcome(row('l"<', "a 1"), record={"trust": verdict("green")}, folder=tmp_path)
    (tmp_path / "umap.png").write_bytes(PNG)
    link = '<a href="../reference_mapping/qc/dataset~l%22%3C/file_id~a%201/explore.html" target="_blank">'
    assert trust([there])["data"].count(link) == pictures([there])["data"].count(link) == 1
    (tmp_path / "explore.html").unlink()
    assert "<a " not in trust([there])["data"] + pictures([there])["data"]
    assert there.explore == index_line(Outcome(there.row, stage="CHECK_QUERY"))[-1] == ""


def test_of_several_columns_the_share_of_unknown_is_the_least_and_the_accuracy_that_of_most_true_labels(outcomes):
    first = outcomes[0]
    assert (first.unknown, first.novel, first.labels_light) == (0.125, 0.30004, "amber")
    assert first.transferred == CALIBRATION
    none = outcomes[2]
    assert (none.unknown, none.novel, none.labels_light, none.transferred, none.alone) == (None, None, "grey", {}, True)
    failed = outcomes[1]
    assert (failed.unknown, failed.novel, failed.labels_light, failed.transferred, failed.alone) == (None, None, None, {}, False)


def test_a_mapping_without_label_columns_of_its_reference_has_no_share_of_unknown():
    assert judged("a", "grey").unknown is None


def test_references_are_in_one_order_and_told_apart(tmp_path):
    two, other = reference("b.h5ad", n_cells=5), reference("b.h5ad", n_cells=6)
    one = read_references(write_references(tmp_path / "one", two, other, reference("a.h5ad")))
    assert [(record["name"], record["n_cells"]) for record in one] == [("a.h5ad", 400), ("b.h5ad", 5), ("b.h5ad (2)", 6)]
    assert read_references(write_references(tmp_path / "again", other, reference("a.h5ad"), two)) == one
    assert read_references(tmp_path / "none") == []


def test_a_warning_of_a_reference_is_told_once_with_whose_it_is(run, outcomes):
    data = warnings(outcomes, read_references(run / "references"))["data"]
    assert data.count("No labels are transferred from") == 1
    assert "<small>reference &lt;u&gt;atlas&lt;/u&gt;.h5ad, reference &lt;u&gt;atlas&lt;/u&gt;.h5ad (2)</small>" in data
    # Few genes make a mapping's result doubtful, and are as plain a warning of a reference.
    assert data.count("300 of the model") == 2


def test_calibration_says_in_words_what_the_threshold_does():
    known = {"kept": CALIBRATION, "all": {**CALIBRATION, "unknown_share": 0.0, "accuracy_unknown": None, "accuracy_kept": 0.75}}
    known |= {"none": {**CALIBRATION, "unknown_share": 1.0, "accuracy_kept": None}, "empty": None}
    known = {key: of and {**of, "by": "batch", "calibrated_on": "unseen"} for key, of in known.items()}
    record = {**reference("x & y", known), "name": "x & y"}
    text = re.sub("<[^>]+>", "", calibration([], [record])["data"])
    of = "Of 10 cells of x &amp; y that got their label by {} from the cells of other batches, 60.0 % got the right one."
    assert (
        of.format("kept")
        + (
            " At the threshold of 0.2, 50.0 % keep their labels, of which 80.0 % are right; of those that become Unknown 40.0 % would"
            " have been."
        )
        in text
    )
    assert of.format("all") + " At the threshold of 0.2, all keep their labels, and 75.0 % of these are right." in text
    assert of.format("none") + " At the threshold of 0.2, none of them keeps its label" in text
    assert "empty" not in text
    alone = {"kept": {**known["kept"], "by": "cell"}}
    assert "from the other cells, 60.0 %" in calibration([], [{**record, "calibration": alone}])["data"]


@pytest.mark.parametrize(
    ("basis", "said"),
    [
        ("hidden", "The model did not see the labels of these cells."),
        ("seen", "The model has seen the labels of these cells, so this is optimistic: those of a query are right less often."),
        ("unseen", None),
    ],
)
def test_calibration_says_whether_the_model_saw_the_labels(basis, said):
    known = {"type": {**CALIBRATION, "by": "batch", "calibrated_on": basis}}
    text = calibration([], [{**reference("x", known), "name": "x"}])["data"]
    assert said in text if said else "The model" not in text


def test_calibration_has_a_row_a_column_of_labels_and_whose_they_are(run, outcomes):
    data = calibration([outcome for outcome in outcomes if outcome.mapped], read_references(run / "references"))["data"]
    rows = [re.findall("<td>(.*?)</td>", line) for line in re.findall("<tr>(<td>.*?)</tr>", data)]
    figures = ["60.0 %", "50.0 %", "80.0 %", "40.0 %", "0.100"]
    few = ["2", "0.0 %", *figures[1:]]
    assert rows == [
        ["atlas.h5ad", "coarse", "held-out reference cells", "10", *figures],
        ["atlas.h5ad", "&lt;em&gt;fine&lt;/em&gt;", "held-out reference cells", "10", *figures],
        ["lung/a", "fine", "transferred labels", *few],
        ["lung/a", "coarse", "transferred labels", "10", *figures],
        ["lung/a", "label", "predicted labels", *few],
    ]


def test_reliability_shows_certainty_against_accuracy_beside_the_diagonal(run, outcomes):
    section = reliability([outcome for outcome in outcomes if outcome.mapped], read_references(run / "references"))
    line = [[0.35, 0.4], [0.95, 0.8]]
    assert section["data"] == [
        {"atlas.h5ad: coarse": line, "atlas.h5ad: &lt;em&gt;fine&lt;/em&gt;": line},
        {"lung/a: fine": line, "lung/a: coarse": line},
        {"lung/a: label": line},
    ]
    names = [plot["name"] for plot in section["pconfig"]["data_labels"]]
    assert names == ["held-out reference cells", "transferred labels", "predicted labels"]
    assert section["pconfig"]["extra_series"][0]["pairs"] == [[0, 0], [1, 1]]


def test_without_references_and_truths_there_is_no_calibration():
    assert (
        calibration([judged("a", "green")], []) is reliability([judged("a", "green")], [{**reference("x"), "name": "x"}]) is None
    )


def test_long_tables_of_calibration_are_folded():
    many = [Outcome(row("d", str(n)), record={"calibration": {"label_transferred": CALIBRATION}}) for n in range(200)]
    data = calibration(many, [])["data"]
    assert data.startswith("<details><summary>200 rows</summary>") and data.count("<tr><td>") == 200
    assert not calibration(many[:12], [])["data"].startswith("<details>")


def test_the_table_of_mappings_colours_each_light(outcomes):
    table = mappings(outcomes)
    assert list(table["headers"]["labels"]["bgcols"]) == ["red", "grey", "amber", "green"]
    assert table["data"][0]["gut/c"]["labels"] == "grey" and "labels" not in table["data"][0]["gut/f"]


def test_pictures_begin_with_the_joint_one_and_leave_out_the_training(tmp_path):
    names = ["calibration", "composition", "confusion", "confusion_transferred", "joint", "training", "tree", "umap"]
    for name in names:
        (tmp_path / f"{name}.png").write_bytes(PNG)
    data = pictures([Outcome(row("d", "x"), folder=tmp_path)])["data"]
    assert re.findall(r'src="picture:d~x/(\w+)\.png"', data) == [
        *["joint", "umap", "composition", "confusion", "confusion_transferred", "calibration", "tree"]
    ]


def test_pictures_are_those_of_as_many_mappings_as_a_browser_can_open(tmp_path, monkeypatch):
    (tmp_path / "umap.png").write_bytes(PNG)
    many = [Outcome(row("d", str(number)), folder=tmp_path) for number in range(200)]
    monkeypatch.setattr("refmap.report.sections.gallery.MOST_BYTES", 30 * len(PNG))
    data = pictures(many)["data"]
    assert data.count("<img") == 30 and "<p>30 of 200, as many as a browser can open." in data
    monkeypatch.setattr("refmap.report.sections.gallery.MOST_BYTES", 1)
    assert pictures(many)["data"].count("<img") == 1
    monkeypatch.undo()
    assert pictures(many)["data"].count("<img") == 200


def test_a_run_of_200_mappings_without_references_makes_a_page(tmp_path):
    rows = [row("lung", f"q{number}") for number in range(200)]
    (tmp_path / "mappings.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in rows))
    (tmp_path / "passed.json").write_text(json.dumps([(f"lung~q{number}", "EXPORT_EMBEDDING") for number in range(200)]))
    for entry in rows:
        write_qc(tmp_path / "qc", entry, accuracy=None)
    out = invoke(tmp_path, tmp_path / "report")
    page = (out / "multiqc_report.html").read_text()
    assert page.count('class="refmap-mapping"') == 200
    assert "Without cells of the reference: 200 mappings." in page
    assert 'href="#refmap_calibration' not in page
    with (out / "mappings.csv").open(newline="") as file:
        assert {line["labels_light"] for line in csv.DictReader(file)} == {"grey"}
