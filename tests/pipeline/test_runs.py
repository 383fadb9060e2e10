"""Whole runs: what comes out where, what a failure hurts, and what is done again."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import yaml
from refmap.sheet.demo import make_demo
from runs import ROOT, Run

MAPPINGS = {"pbmc": ["donor_1", "donor_2"], "clinic": ["patient_1"]}
IDS = [(dataset, file_id) for dataset, files in MAPPINGS.items() for file_id in files]
SUFFIX = {"donor_1": "h5ad", "donor_2": "zarr", "patient_1": "h5ad"}


# The demo


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory) -> Path:
    """The demo's input, made once more outside the run."""
    return make_demo(tmp_path_factory.mktemp("data")).parent


def test_the_demo_maps_everything_and_says_so(demo):
    assert demo.status == 0, demo.printed
    assert {row["status"] for row in demo.index().values()} == {"mapped"}
    assert "3 mappings: 3 mapped, 0 failed" in demo.printed
    lines = demo.printed.splitlines()
    for dataset, file_id in IDS:
        name = f"{dataset}/{file_id}"
        (line,) = [line for line in lines if line.startswith(name)]
        assert f"reference_mapping/dataset~{dataset}/file_id~{file_id}.zarr" in line
        assert f"{float(demo.index()[name]['accuracy']):.3f}" in line
    assert set(demo.tasks().values()) == {"COMPLETED"}


@pytest.mark.parametrize(("dataset", "file_id"), IDS)
def test_the_zarr_holds_the_whole_query_and_its_embedding(demo, demo_data, dataset, file_id):
    mapped = ad.read_zarr(demo.out / "reference_mapping" / f"dataset~{dataset}" / f"file_id~{file_id}.zarr")
    path = demo_data / f"{file_id}.{SUFFIX[file_id]}"
    query = ad.read_zarr(path) if path.suffix == ".zarr" else ad.read_h5ad(path)
    assert list(mapped.obs_names) == list(query.obs_names) and list(mapped.var_names) == list(query.var_names)
    assert set(mapped.layers) == set(query.layers)
    for ours, theirs in [(mapped.X, query.X), *((mapped.layers[name], query.layers[name]) for name in query.layers)]:
        assert ours.dtype == theirs.dtype and abs(ours - theirs).max() == 0
    for column in query.obs:
        assert list(mapped.obs[column]) == list(query.obs[column])
    assert mapped.obsm["X_emb"].shape == (query.n_obs, 10) and np.isfinite(mapped.obsm["X_emb"]).all()
    probabilities = mapped.obsm["bulk_labels_probabilities"]
    assert mapped.uns["refmap"]["class_name"] == "SCANVI"
    assert set(mapped.uns["refmap"]["classes"]) == {"bulk_labels"}
    classes = np.asarray(mapped.uns["refmap"]["classes"]["bulk_labels"])
    assert probabilities.shape == (query.n_obs, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert list(mapped.obs["bulk_labels_predicted"]) == list(classes[probabilities.argmax(axis=1)])


@pytest.mark.parametrize(("dataset", "file_id"), IDS)
def test_what_is_recorded_of_a_mapping(demo, demo_data, dataset, file_id):
    qc = demo.out / "reference_mapping" / "qc" / f"dataset~{dataset}" / f"file_id~{file_id}"
    assert {"alignment.json", "history.csv", "mapping.json", "composition.json", "umap.png"} <= {p.name for p in qc.iterdir()}
    record = json.loads((qc / "mapping.json").read_text())
    assert record["frozen_sha256_before"] == record["frozen_sha256_after"]
    assert 0 < record["parameters_trainable"] < record["parameters_total"]
    assert record["parameters"]["train"]["max_epochs"] == 3 and record["train"]["epochs"] == 3
    assert record["seed"] == 0 and {"scvi-tools", "torch", "anndata", "refmap"} <= set(record["versions"])
    # The accuracy, counted again from what was published
    mapped = ad.read_zarr(demo.out / "reference_mapping" / f"dataset~{dataset}" / f"file_id~{file_id}.zarr")
    right = (mapped.obs["bulk_labels_predicted"].astype(str) == mapped.obs["cell_type"].astype(str)).mean()
    assert record["accuracy"]["accuracy"] == pytest.approx(right, abs=1e-4)
    assert (demo.out / "reference_mapping" / "model" / f"dataset~{dataset}" / f"file_id~{file_id}" / "model.pt").is_file()


def test_genes_of_the_demo_are_aligned_as_they_were_changed(demo):
    def alignment(dataset, file_id):
        qc = demo.out / "reference_mapping" / "qc" / f"dataset~{dataset}" / f"file_id~{file_id}"
        return json.loads((qc / "alignment.json").read_text())

    missing, extra, ids = (alignment(*mapping) for mapping in IDS)
    assert (missing["matched"], missing["padded"]) == (612, 153)
    assert (extra["matched"], extra["dropped"], extra["summed"]) == (765, 40, 20)
    assert (ids["matched"], ids["translated"]) == (765, 765)


def test_the_batch_named_as_the_references_is_told_from_it(demo):
    qc = demo.out / "reference_mapping" / "qc" / "dataset~pbmc" / "file_id~donor_2"
    assert json.loads((qc / "mapping.json").read_text())["batches"]["renamed"] == {"ref_a": "ref_a@pbmc.donor_2"}


def test_one_page_over_all_mappings(demo):
    page = (demo.out / "multiqc" / "multiqc_report.html").read_text()
    for dataset, file_id in IDS:
        assert f"{dataset}/{file_id}" in page
    for name in ("trace.txt", "timeline.html", "report.html", "dag.html"):
        assert (demo.out / "pipeline_info" / name).is_file()


# Failures


def few_cells(demo_data: Path, n: int = 40) -> ad.AnnData:
    return ad.read_h5ad(demo_data / "reference.h5ad")[:n].copy()


def rename_weights(model: Path, copy: Path) -> Path:
    """A copy of a model whose attributes say what they did, and whose weights are those of other layers."""
    with zipfile.ZipFile(model) as whole, zipfile.ZipFile(copy, "w") as changed:
        for item in whole.infolist():
            changed.writestr(item, whole.read(item).replace(b"z_encoder.", b"y_encoder."))
    return copy


# The trial of one model is killed for memory, whatever it is given
KILLED = """
process {
    withName: TRY_MODEL {
        beforeScript = { (name.endsWith('killed') ? 'exit 137; ' : '') + ". '${projectDir}/containers/activate' ${task.ext.env}; . '${projectDir}/containers/isolate'" }
    }
}
"""


@pytest.fixture(scope="session")
def many(demo, demo_data, tmp_path_factory) -> Run:
    """12 mappings of which 8 are bad; the good ones map onto the demo's reference and onto a model updated by the demo."""
    folder = tmp_path_factory.mktemp("many")
    # Without what its cells say, which would be reference cells for all
    reference = shutil.copytree(demo.out / "reference_model", folder / "reference", ignore=shutil.ignore_patterns("refmap"))
    updated = demo.out / "reference_mapping" / "model" / "dataset~pbmc" / "file_id~donor_1"
    rows = []

    def add(name, adata=None, model=reference, file=None, **columns):
        file = folder / (file or f"{name}.h5ad")
        if adata is not None:
            adata.write_h5ad(file)
        rows.append({"dataset": "many", "file_id": name, "query": file.name, "model": str(model), "batch_key": "batch"} | columns)

    good = few_cells(demo_data)
    add("onto_updated", good, updated)
    add("onto_file", good, reference / "model.pt", train="false")
    add("hostile", good, file="a b; touch pwned 'x' \"y\" (z) & `touch pwned`.h5ad", one_batch="true")
    add("with_cells", good, reference=str(demo_data / "reference.h5ad"))
    add("other_weights", good, rename_weights(reference / "model.pt", folder / "other_weights.pt"))
    add("killed", good, shutil.copytree(reference, folder / "killed"))
    strange = good.copy()
    strange.var_names = [f"gene_{i}" for i in range(strange.n_vars)]
    add("no_overlap", strange)
    fractional = good.copy()
    fractional.X = fractional.X * np.float32(0.5)
    add("fractional", fractional)
    batchless = good.copy()
    del batchless.obs["batch"]
    add("no_batch", batchless)
    add("no_cells", good, reference="nowhere.h5ad")
    whole = (demo_data / "donor_1.h5ad").read_bytes()
    (folder / "cut.h5ad").write_bytes(whole[: len(whole) // 2])
    add("cut_file", file="cut.h5ad", batch_key="donor", layer="counts")
    chunk = shutil.copytree(demo_data / "donor_2.zarr", folder / "cut.zarr") / "layers/counts/data/0"
    chunk.write_bytes(chunk.read_bytes()[: chunk.stat().st_size // 2])
    add("cut_store", file="cut.zarr", batch_key="donor", layer="counts")
    with open(folder / "sheet.csv", "w", newline="") as stream:
        table = csv.DictWriter(stream, [*rows[0], "train", "one_batch", "reference", "layer"])
        table.writeheader()
        table.writerows(rows)
    (folder / "killed.config").write_text(KILLED)
    return Run(folder, "-c", "killed.config", "--input", "sheet.csv", "--max_epochs", "1", "--max_cpus", "1")


BAD = {
    "many/no_overlap": ("CHECK_QUERY", "has none of the model's 765 genes"),
    "many/fractional": ("ALIGN_GENES", "fractional"),
    "many/no_batch": ("CHECK_QUERY", "batch"),
    "many/other_weights": ("CHECK_QUERY", "scvi-tools could not load the SCANVI"),
    "many/killed": ("CHECK_QUERY", "was loaded and tried by TRY_MODEL, which ended without a word"),
    "many/no_cells": ("CHECK_QUERY", "reference file 'nowhere.h5ad' does not exist."),
    "many/cut_file": ("CHECK_QUERY", "it is cut off: "),
    "many/cut_store": ("CHECK_QUERY", "the file seems damaged"),
}


def test_bad_mappings_hurt_only_themselves(many):
    assert many.status != 0
    index = many.index()
    assert len(index) == 12
    assert {name for name, row in index.items() if row["status"] == "failed"} == set(BAD)
    for name, (stage, reason) in BAD.items():
        assert index[name]["stage"] == stage and reason in index[name]["reason"]
    for name, row in index.items():
        published = [many.out / row[key] for key in ("embedding", "updated_model", "qc") if row[key]]
        assert len(published) == (0 if name in BAD else 3)
        assert all(path.exists() for path in published)
        file_id = name.split("/")[1]
        assert name not in BAD or not list((many.out / "reference_mapping").rglob(f"file_id~{file_id}*"))


def test_faults_are_told_before_training_and_again_in_one_block_at_the_end(many):
    lines = many.printed.splitlines()
    early = next(i for i, line in enumerate(lines) if "8 of 12 mappings cannot be done" in line)
    told = "".join(lines[early : early + 17])
    assert all(f"{name}:" in told for name in BAD)
    training = [i for i, line in enumerate(lines) if "TRAIN_SURGERY" in line]
    assert early < min(training)
    end = next(i for i, line in enumerate(lines) if "12 mappings: 4 mapped, 8 failed" in line)
    assert max(training) < end
    block = "\n".join(lines[end:])
    assert all(name in block for name in BAD)
    page = (many.out / "multiqc" / "multiqc_report.html").read_text()
    assert all(name in page for name in BAD)


def test_a_query_that_is_cut_off_is_told_with_the_place(many):
    for name, file in (("cut_file", "cut.h5ad"), ("cut_store", "cut.zarr")):
        assert many.index()[f"many/{name}"]["reason"].startswith(f"query '{file}' cannot be read at ")


def test_names_from_the_sheet_reach_no_shell(many):
    assert many.index()["many/hostile"]["status"] == "mapped"
    assert not list(many.folder.rglob("pwned"))


def test_a_model_is_inspected_and_tried_once(many):
    inspected = [name for name in many.tasks() if name.startswith("INSPECT_MODEL")]
    assert len(inspected) == 5  # the reference as a folder and as a file, the updated model, and those that cannot be used
    tried = [name for name, status in many.tasks().items() if name.startswith("TRY_MODEL") and status == "COMPLETED"]
    assert len(tried) == 4


def test_a_mapping_without_reference_cells_has_no_labels_from_them_and_no_verdict(many):
    labelled = {name for name in many.tasks() if name.startswith(("EMBED_", "CALIBRATE_"))}
    assert sorted(name.split(" ")[0] for name in labelled) == ["CALIBRATE_REFERENCE", "EMBED_REFERENCE"]
    for name, row in many.index().items():
        if name in BAD:
            continue
        near = name == "many/with_cells"
        mapped = ad.read_zarr(many.out / row["embedding"])
        assert {"bulk_labels_transferred", "bulk_labels_uncertainty", "novelty_pvalue"}.isdisjoint(mapped.obs) != near
        trust = json.loads((many.out / row["qc"] / "mapping.json").read_text())["trust"]
        assert (trust["figures"]["certain"]["value"] is not None) == near and trust["labels"]["reasons"]
        assert (many.out / row["qc"] / "joint.png").exists() == near


def test_an_updated_model_is_a_reference(many):
    record = many.out / "reference_mapping" / "qc" / "dataset~many" / "file_id~onto_updated" / "mapping.json"
    batches = json.loads(record.read_text())["batches"]
    assert batches["reference"] == 4  # two of the reference, two that the demo added
    assert batches["renamed"] == {name: f"{name}@many.onto_updated" for name in ("ref_a", "ref_b")}


# What stops a run at once


def sheet(folder: Path, text: str) -> str:
    path = folder / "sheet.csv"
    if not path.exists() or path.read_text() != text:  # a file written again is a file changed
        path.write_text(text)
    return "sheet.csv"


def test_all_faults_of_a_sheet_and_of_the_parameters_at_once(tmp_path):
    text = "dataset,file_id,query,model,batchkey\nlung,../x,q.h5ad,m,donor\nlung,a;b,q.h5ad,m,donor\n"
    run = Run(tmp_path, "--input", sheet(tmp_path, text), "--max_epoch", "3")
    assert run.status != 0
    for said in ("Did you mean 'batch_key'?", "'../x'", "'a;b'", "Did you mean 'max_epochs'?"):
        assert said in run.printed
    assert "INSPECT_MODEL" not in run.printed and not (run.out / "reference_mapping").exists()


# What `--name value` gives is text for some versions of Nextflow
GIVEN = {
    **{"max_epochs": 4, "min_gene_overlap": 0.1, "seed": 7, "transfer_neighbors": 20, "max_cpus": 2},
    **{"gpu": False, "trust_models": False, "early_stopping": False, "transfer_probabilities": True},
    **{"slurm_account": "42", "multiqc_title": "two words", "max_memory": "4.GB"},
}


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> dict[str, Run]:
    """A run of one mapping without a model, with its parameters given in each of the ways that Nextflow has."""
    runs = {}
    for way in ("command line", "file", "configuration"):
        folder = tmp_path_factory.mktemp("given")
        text = "dataset,file_id,query,model,batch_key\nlung,a,nowhere.h5ad,no_model,donor\n"
        arguments = ["--input", sheet(folder, text)]
        if way == "command line":
            arguments += [
                word
                for name, value in GIVEN.items()
                for word in (f"--{name}", str(value).lower() if isinstance(value, bool) else str(value))
            ]
        elif way == "file":
            (folder / "parameters.json").write_text(json.dumps(GIVEN))
            arguments += ["-params-file", "parameters.json"]
        else:
            lines = [f"    {name} = {json.dumps(value)}\n" for name, value in GIVEN.items()]
            (folder / "mine.config").write_text("params {\n" + "".join(lines) + "}\n")
            arguments += ["-c", "mine.config"]
        runs[way] = Run(folder, *arguments)
    return runs


def test_parameters_are_the_same_however_they_are_given(given):
    checked = {way: json.loads((run.out / "pipeline_info/parameters.json").read_text()) for way, run in given.items()}
    for way, parameters in checked.items():
        assert {name: parameters[name] for name in GIVEN} == GIVEN, way
        assert parameters == checked["file"]


def test_a_missing_query_and_a_missing_model_fail_alone(given):
    for run in given.values():
        assert run.status != 0
        assert "There is no model at no_model" in run.index()["lung/a"]["reason"]
        assert re.search(r"\b1 mappings?: 0 mapped, 1 failed", run.printed)


def test_no_is_not_taken_for_yes(given):
    for way, run in given.items():
        (command,) = [
            text for path in run.folder.glob("work/*/*/.command.sh") if "inspect_model.py" in (text := path.read_text())
        ]
        assert "--trust-models" not in command, way


def test_help_names_every_parameter(tmp_path):
    run = Run(tmp_path, "--help")
    groups = json.loads((ROOT / "nextflow_schema.json").read_text())["$defs"].values()
    assert run.status == 0
    for name, about in ((name, about) for group in groups for name, about in group["properties"].items()):
        assert f"--{name} " in run.printed and about["description"] in run.printed


def test_the_list_of_references_is_a_table_of_what_anyone_may_add_to(tmp_path):
    run = Run(tmp_path, "--list_references")
    assert run.status == 0
    (head,) = [line for line in run.printed.splitlines() if line.startswith("name ")]
    columns = ["name", "address", "organism", "tissue", "genes", "batch", "labels", "licence"]
    assert head.split() == columns
    starts = [head.index(column) for column in columns]
    printed = {line[: starts[1]].strip(): line for line in run.printed.splitlines()}
    for reference in yaml.safe_load((ROOT / "assets/references.yml").read_text()):
        line = printed[reference["name"]]
        cells = [line[start:end].strip() for start, end in zip(starts, [*starts[1:], None], strict=True)]
        assert cells == [reference.get(column, "?") for column in columns]


# What is done again


@pytest.fixture(scope="session")
def project(tmp_path_factory) -> Path:
    """A copy of the project to edit, below a path with a space."""
    copy = tmp_path_factory.mktemp("a copy") / "refmap"
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
    )
    for name in tracked.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    return copy


def test_resume_does_again_exactly_what_changed(project, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.pt").write_text("one")
    (tmp_path / "q.zarr").mkdir()
    (tmp_path / "q.zarr" / "chunk").write_text("one")
    header, rows = "dataset,file_id,query,model,batch_key,layer\n", ["d,a,q.zarr,model,b,X\n", "d,b,q.zarr,model,b,X\n"]

    def done(*arguments, rows=rows) -> set[str]:
        """What was not taken from the cache. VERDICT is no task with a cache; REPORT follows whatever changed."""
        given = ["--input", sheet(tmp_path, header + "".join(rows)), "--mappings_per_task", "1", *arguments]
        run = Run(tmp_path, "-stub-run", *given, project=project)
        assert run.status == 0, run.printed
        return {name for name, status in run.tasks().items() if status != "CACHED"} - {"VERDICT", "REPORT"}

    steps = ("ALIGN_GENES", "TRAIN_SURGERY", "EXPORT_EMBEDDING")
    cells = {f"{step}_REFERENCE (model)" for step in ("PREPARE", "EMBED", "CALIBRATE")}

    def stages(*ids, steps=steps):
        """Those of some mappings, and what joins all of them."""
        return {f"{step} ({id})" for step in steps for id in ids} | {"JOIN_MAPPINGS (model)"}

    first = done()
    assert first == {"CHECK_INPUT", "INSPECT_MODEL (model)", "TRY_MODEL (model)"} | cells | stages("d~a", "d~b")
    # One row
    assert done("-resume", rows=[rows[0], "d,b,q.zarr,model,b,counts\n"]) == {"CHECK_INPUT"} | stages("d~b")
    # Another training: nothing is aligned again, and what is published is this run's
    assert done("-resume", "--max_epochs", "7") == {"CHECK_INPUT"} | stages("d~a", "d~b", steps=steps[1:])
    # Nothing, and what the run before trained is not taken for this one's
    assert done("-resume", "--max_epochs", "100") <= {"CHECK_INPUT"}  # which sees a sheet that was written anew
    assert json.loads((tmp_path / "out" / "pipeline_info" / "parameters.json").read_text())["max_epochs"] == 100
    # What a label's uncertainty may be: nothing is trained again, nor embedded
    labelled = {"CHECK_INPUT", "CALIBRATE_REFERENCE (model)"} | stages("d~a", "d~b", steps=steps[2:])
    assert done("-resume", "--unknown_threshold", "0.5") == labelled
    # What stands inside a query's or a model's folder, whose own date stays
    folder = os.stat(tmp_path / "model").st_mtime_ns
    (tmp_path / "model" / "model.pt").write_text("another")
    assert os.stat(tmp_path / "model").st_mtime_ns == folder
    assert done("-resume") >= {"INSPECT_MODEL (model)"} | cells | stages("d~a", "d~b")
    # A comment in the package
    with open(project / "bin" / "refmap" / "errors.py", "a") as stream:
        stream.write("\n# an edit\n")
    assert done("-resume") == first
