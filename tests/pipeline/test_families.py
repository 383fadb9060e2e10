"""Families of scArches through the pipeline: their environment, their files, and what they find beside the embedding."""

from __future__ import annotations

import csv
import json

import anndata as ad
import numpy as np
import pytest
from refmap.sheet.demo import make_demo
from runs import ROOT, Run

GMT = ROOT / "assets/pbmc_programs.gmt"
SHEET = """\
dataset,file_id,query,model,batch_key,layer,truth_key,labels_key,gmt,options
pbmc,labelled,donor_2.zarr,,donor,counts,,cell_type,,groups=cell_type
pbmc,with_programs,donor_1.h5ad,,donor,counts,cell_type,,new.gmt,min_genes=5;new_programs=1
pbmc,misspelt,donor_1.h5ad,,donor,counts,,,,new_program=1
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """A hierarchy on top of an expiMap reference, and three queries: one with labels, one with programmes, one with a fault."""
    folder = tmp_path_factory.mktemp("families")
    data = make_demo(folder / "data").parent
    (data / "sheet.csv").write_text(SHEET)
    (data / "new.gmt").write_text(GMT.read_text().splitlines()[0].replace("T_CELL", "NEW") + "\n")
    return Run(
        folder,
        *["--input", "data/sheet.csv", "--reference", "data/reference.h5ad", "--family", "treearches"],
        *["--reference_options", "base=expimap;min_genes=8", "--reference_gmt", str(GMT), "--reference_max_epochs", "20"],
        *["--reference_batch_key", "batch", "--reference_labels_key", "bulk_labels", "--max_epochs", "3", "--max_cpus", "1"],
    )


def test_each_task_runs_in_the_environment_of_its_family(run):
    tasks = run.tasks()
    assert run.status != 0  # the misspelt row
    done = {"ALIGN_REFERENCE (1)", "TRAIN_REFERENCE (1)", "LEARN_HIERARCHY (1)", "UPDATE_HIERARCHY (pbmc~labelled and 1 more)"}
    done |= {"EMBED_REFERENCE (the reference trained in this run)", "EXPORT_EMBEDDING (pbmc~labelled and 1 more)"}
    assert done <= {name for name, status in tasks.items() if status == "COMPLETED"}
    record = json.loads((run.out / "reference_mapping/qc/dataset~pbmc/file_id~labelled/mapping.json").read_text())
    assert (record["family"], record["class_name"]) == ("expimap", "expiMap")
    assert record["versions"]["scarches"] == "0.6.1" and record["versions"]["python"].startswith("3.11.")


def test_a_wrong_option_is_told_before_training_and_stops_its_row_alone(run):
    index = run.index()
    assert index["pbmc/misspelt"]["stage"] == "CHECK_QUERY"
    assert "there is no option 'new_program' for expiMap models" in index["pbmc/misspelt"]["reason"]
    assert "Did you mean 'new_programs'?" in index["pbmc/misspelt"]["reason"]
    assert [index[f"pbmc/{name}"]["status"] for name in ("labelled", "with_programs")] == ["mapped", "mapped"]


def test_the_query_is_in_the_hierarchy_and_in_the_updated_model(run):
    mapped = ad.read_zarr(run.out / "reference_mapping/dataset~pbmc/file_id~labelled.zarr")
    predicted = mapped.obs["bulk_labels_tree_predicted"].astype(str)
    assert mapped.obs["bulk_labels_tree_predicted_uncertainty"].between(0, 1).all()
    known = set(ad.read_h5ad(run.folder / "data/reference.h5ad").obs["bulk_labels"])
    assert set(predicted) - known <= {"root", "Rejection (dist)", "Rejected (RE)"}
    assert (predicted == mapped.obs["cell_type"].astype(str)).mean() > 0.3
    before, after = (
        json.loads((run.out / model / "hierarchy/hierarchy.json").read_text())
        for model in ("reference_model", "reference_mapping/model/dataset~pbmc/file_id~labelled")
    )
    assert before != after
    qc = run.out / "reference_mapping/qc/dataset~pbmc/file_id~labelled"
    assert {"tree.json", "tree.nwk", "tree.png", "matches.csv", "programs.csv", "programs.png"} <= {p.name for p in qc.iterdir()}
    page = (run.out / "multiqc/multiqc_report.html").read_text()
    assert "hierarchy of the labels of pbmc/labelled" in page and "gene programmes by group of pbmc/labelled" in page


def test_programmes_of_the_query_are_added_and_named(run):
    mapped = ad.read_zarr(run.out / "reference_mapping/dataset~pbmc/file_id~with_programs.zarr")
    names = list(mapped.uns["refmap"]["latent_names"])
    reference = [line.split("\t")[0] for line in GMT.read_text().splitlines() if len(line.split("\t")) >= 10]
    assert set(names[:-2]) <= set(reference) and names[-2] == "NEW"
    assert mapped.obsm["X_emb"].shape == (100, len(names)) and np.isfinite(mapped.obsm["X_emb"]).all()
    # The query's latent has dimensions that the reference's lacks; labels come from those that they share
    assert mapped.obs["bulk_labels_uncertainty"].between(0, 1).all() and mapped.obs["reference_distance"].gt(0).all()
    with (run.out / "reference_mapping/qc/dataset~pbmc/file_id~with_programs/programs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["programme"] for row in rows} == set(names)
