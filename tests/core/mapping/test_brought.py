"""A query that brings its embedding, from its check to its figures, as the pipeline's steps do it one after another."""

import json
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from align_genes import align_genes
from calibrate_reference import calibrate_reference
from click.testing import CliRunner
from export_embedding import export_embedding
from inspect_model import main as inspect_model
from prepare_reference import prepare_reference
from refmap.query.checks import check
from refmap.query.columns import model_obs
from refmap.query.query import Query
from refmap.reference.brought import describe_embedding
from rows import ROW
from scipy import sparse

GENES = [f"GENE{number}" for number in range(60)]
REQUEST = ROW["cells"] | {"reference": "atlas.h5ad", "embedding": "X_pca", "batch_key": "study", "transfer_keys": ["cell_type"]}
NAME = "X_pca of atlas.h5ad"
EMBEDDED = {
    "model": NAME,
    "query": "q.h5ad",
    "query_embedding": "X_own",
    "train": None,
    "cells": REQUEST,
    "min_gene_overlap": 0.2,
}
# Dimensions of the genes of each type, and two of others
LOADINGS = np.zeros((60, 5))
for start in range(5):
    LOADINGS[12 * start : 12 * start + 12, start] = 12**-0.5


def cells(n, seed, key="X_pca", shift=0.0):
    """Cells of three types with counts of 60 genes, and 5 linear dimensions of their logarithms, which a batch effect shifts."""
    rng = np.random.default_rng(seed)
    types = np.arange(n) % 3
    means = np.full((3, 60), 0.6)
    for kind in range(3):
        means[kind, 12 * kind : 12 * kind + 12] = 5
    counts = rng.poisson(means[types]).astype(np.float32)
    obs = {"study": np.array(["s1", "s2"])[np.arange(n) // 3 % 2], "cell_type": np.array(["B", "NK", "T"])[types]}
    names = [f"{key}{number}" for number in range(n)]
    found = ad.AnnData(sparse.csr_matrix(counts), obs=pd.DataFrame(obs, index=names), var=pd.DataFrame(index=GENES))
    found.obsm[key] = np.log1p(counts) @ LOADINGS + shift
    return found


def card_of(path, **changes):
    return describe_embedding(path, NAME, REQUEST | changes).to_json()


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    path = tmp_path_factory.mktemp("atlas") / "atlas.h5ad"
    cells(450, 0).write_h5ad(path)
    return path


def plan_of(tmp_path, query, card, **changes):
    query.write_h5ad(tmp_path / "q.h5ad")
    return check(tmp_path / "q.h5ad", ROW | EMBEDDED | {"batch_key": "study"} | changes, card)


# --- the card -------------------------------------------------------------------------------------------------------------


def test_the_reference_s_cells_stand_for_a_model(atlas):
    card = card_of(atlas)
    assert (card["model"], card["family"], card["env"], card["class_name"], card["fault"]) == (
        NAME,
        "embedding",
        "core",
        "embedding",
        None,
    )
    assert (card["n_latent"], card["genes"], card["layer"], card["batch_key"], card["batches"]) == (
        5,
        GENES,
        "X",
        "study",
        ["s1", "s2"],
    )
    assert not card["surgery_ready"] and not card["predicts"] and card["warnings"] == []
    assert len(card["sha256"]) == 64 and card["sha256"] == card_of(atlas, batch_key=None)["sha256"]
    assert card_of(atlas, batch_key=None)["batch_key"] is None


def test_a_reference_without_counts_has_no_genes(tmp_path):
    reference = cells(60, 0)
    reference.X = reference.X * 0.7
    reference.write_h5ad(tmp_path / "a.h5ad")
    card = card_of(tmp_path / "a.h5ad")
    assert (card["fault"], card["genes"], card["n_latent"]) == (None, [], 5)
    (told,) = card["warnings"]
    assert told.startswith("reference 'atlas.h5ad' holds no counts in X, layers and raw: nothing is told by the expression")
    # Nor are those of the query looked at, and this is told once
    plan = plan_of(tmp_path, cells(30, 1, "X_own"), card)
    assert not plan["counted"] and plan["faults"] == [] and plan["warnings"] == card["warnings"]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"embedding": "X_pcb"}, "reference 'atlas.h5ad' has no obsm 'X_pcb', which reference_embedding names: it has 'X_pca'. Did you mean 'X_pca'?"),
        ({"batch_key": "stud"}, "reference 'atlas.h5ad' has no obs column 'stud'"),
        ({"layer": "counts"}, "reference 'atlas.h5ad' has no layer 'counts'"),
        ({"var_key": "ensembl"}, "reference 'atlas.h5ad' has no var column 'ensembl'"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_wrong_with_the_reference_is_its_fault(atlas, changes, fault):
    assert card_of(atlas, **changes)["fault"].startswith(fault)


def test_a_reference_that_is_not_there_or_was_not_fetched(tmp_path):
    assert card_of(None)["fault"] == "reference file 'atlas.h5ad' does not exist."
    assert describe_embedding(None, NAME, REQUEST, {"fault": "not found: 404"}).fault == "not found: 404"


# --- the check ------------------------------------------------------------------------------------------------------------


def test_a_query_that_brings_its_embedding_has_a_plan(atlas, tmp_path):
    plan = plan_of(tmp_path, cells(30, 1, "X_own"), card_of(atlas))
    assert (plan["faults"], plan["warnings"], plan["counted"], plan["batch_column"]) == ([], [], True, "study")
    assert plan["query"]["n_genes_found"] == 60 and plan["batches"]["s1"]["name"] == "s1@lung.donor_1"
    # Of a reference without batches the query's are known all the same
    plan = plan_of(tmp_path, cells(30, 1, "X_own"), card_of(atlas, batch_key=None))
    assert (plan["faults"], plan["warnings"], plan["batch_column"], plan["batches"]) == ([], [], "refmap_batch", {})


@pytest.mark.parametrize(("key", "n_told"), [(None, 0), ("donor", 1)])
def test_a_query_that_brings_its_embedding_needs_no_batches(atlas, tmp_path, key, n_told):
    plan = plan_of(tmp_path, cells(30, 1, "X_own"), card_of(atlas), batch_key=key)
    assert plan["faults"] == [] and plan["batches"] == {"lung.donor_1": {"cells": 30, "name": "lung.donor_1"}}
    assert [told for told in plan["warnings"] if "has no obs column 'donor', which batch_key names" in told] == plan["warnings"]
    assert len(plan["warnings"]) == n_told
    with Query(tmp_path / "q.h5ad", "q.h5ad") as query:
        obs = model_obs(query, plan["row"], card_of(atlas), plan)
    assert obs["study"].tolist() == ["lung.donor_1"] * 30


def test_embeddings_of_two_sizes_are_not_of_one_model(atlas, tmp_path):
    query = cells(30, 1, "X_own")
    query.obsm["X_own"] = query.obsm["X_own"][:, :4]
    assert plan_of(tmp_path, query, card_of(atlas))["faults"] == [
        "query 'q.h5ad' has 4 dimensions in obsm 'X_own', and the reference's embedding, X_pca of atlas.h5ad, has 5: both must be by one "
        "model, of the same size."
    ]


def test_an_embedding_that_is_not_there_is_told_with_those_that_are(atlas, tmp_path):
    plan = plan_of(tmp_path, cells(30, 1, "X_other"), card_of(atlas))
    assert plan["faults"] == ["query 'q.h5ad' has no obsm 'X_own', which query_embedding names: it has 'X_other'."]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda query: setattr(query, "X", query.X * 0.7), "there are no counts in X; name where they are with layer."),
        (
            lambda query: setattr(query, "var_names", [f"OTHER{n}" for n in range(60)]),
            "query 'q.h5ad' has none of the model's 60 genes",
        ),
        (lambda query: setattr(query, "X", None), "query 'q.h5ad' holds no matrix at all"),
    ],
    ids=["no counts", "other genes", "nothing"],
)
def test_without_fitting_counts_expression_is_not_compared(atlas, tmp_path, change, why):
    query = cells(30, 1, "X_own")
    change(query)
    plan = plan_of(tmp_path, query, card_of(atlas))
    assert plan["faults"] == [] and not plan["counted"]
    (told,) = plan["warnings"]
    assert told.startswith(f"The expression of query 'q.h5ad' is not compared with the reference's: {why}")


# --- the whole way --------------------------------------------------------------------------------------------------------


def run(command, *arguments, **options):
    arguments = [*arguments, *(str(part) for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value))]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output


@pytest.fixture(scope="module")
def reference(atlas, tmp_path_factory):
    """What is found out about a reference before any query is there: a folder."""
    folder = tmp_path_factory.mktemp("reference")
    (folder / "request.json").write_text(json.dumps(REQUEST))
    known = {"card": folder / "card.json"}
    run(inspect_model, model=atlas, shown_as=NAME, embedding=folder / "request.json", **known)
    run(prepare_reference, request=folder / "request.json", cells=atlas, **known, output=folder / "prepared")
    run(calibrate_reference, prepared=folder / "prepared", threshold=0.2, output=folder / "scale")
    return folder


@pytest.mark.parametrize("counted", [True, False], ids=["with counts", "without"])
def test_an_embedding_is_judged_as_that_of_any_model(reference, tmp_path, monkeypatch, in_one_process, counted):
    monkeypatch.chdir(tmp_path)
    query = cells(240, 1, "X_own", shift=np.array([1.5, -1, 1, -1.5, 1]))
    own = np.asarray(query.obsm["X_own"], dtype=np.float32)
    if not counted:
        query.X = query.X * 0.7
    query.write_h5ad("q.h5ad")
    Path("row.json").write_text(json.dumps(ROW | EMBEDDED | {"batch_key": "study", "truth_key": "cell_type"}))
    card = reference / "card.json"
    run(align_genes, row="row.json", query="q.h5ad", card=card, plan="plan.json", output="aligned", mapped="mapped")
    assert (reference / "scale/sample.zarr").exists() and sorted(path.name for path in Path("mapped").iterdir()) == [
        "embedding.zarr", "history.csv", "mapping.json", "results",
    ]  # fmt: skip
    given = {"plan": "plan.json", "query": "q.h5ad", "prepared": "aligned", "mapped": "mapped", "reference": reference / "scale"}
    limits = {"unknown_by": "certainty", "certainty": 0.8, "threshold": 0.2}
    run(export_embedding, **given, correction="auto", **limits, labelled="labelled", output="out.zarr", qc="qc")

    out, record = ad.read_zarr("out.zarr"), json.loads(Path("qc/mapping.json").read_text())
    np.testing.assert_array_equal(out.obsm["X_emb_uncorrected"], own)
    assert record["correction"]["method"] == "symphony" and not record["surgery_moves"]
    assert (out.obs["cell_type_transferred"].astype(str) == out.obs["cell_type"].astype(str)).mean() > 0.9
    assert (record["family"], record["model"], record["train"], record["frozen_sha256_before"]) == ("embedding", NAME, None, None)
    figures = record["trust"]["figures"]
    assert figures["hshare"]["value"] is None and figures["explained"]["value"] is None and figures["mixing"]["value"] > 0.2
    assert (figures["groups"]["value"] is not None) == counted and ("cell_type_by_genes" in out.obs) == counted
    assert (figures["genes"]["value"], figures["clusters"]["value"] is None) == ((1.0, False) if counted else (None, True))
    assert record["trust"]["embedding"]["light"] in ("green", "amber")
