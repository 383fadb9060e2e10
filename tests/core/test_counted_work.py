"""Work that is counted, not timed: how many tasks a mapping is, what the step before surgery imports, and how often it reads counts."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from refmap.common.storage import write_zarr
from refmap.models.card import ModelCard
from refmap.sheet.parameters import defaults, load_schema
from refmap.sheet.sheet import read_sheet

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))

from lib.steps import mapping_steps  # noqa: E402

# How often it opens the counts, one chunk of a file: a block of what is aligned and of what is published is tried, and all are read once
OPENED = {"ALIGN_GENES": 3}
# Each is up to some seconds of CPU a task
HEAVY = {
    "torch",
    "jax",
    "scib_metrics",
    "scanpy",
    "umap",
    "numba",
    "pynndescent",
    "matplotlib",
    "sklearn",
    "mapqc",
    "igraph",
    "faiss",
}


@pytest.fixture(scope="module")
def counted(tmp_path_factory, pbmc) -> dict[str, dict]:
    """What each of the steps imports and opens for a query of 100 real cells, a zarr."""
    folder, query = tmp_path_factory.mktemp("counted"), pbmc[:100].copy()
    query.obs["donor"] = ["one", "other"] * 50
    write_zarr(query, folder / "query.zarr")
    card = ModelCard("model", "scvi", "scvi", class_name="SCVI", genes=list(pbmc.var_names), batch_key="donor", n_latent=5)
    sheet = {"dataset": "a", "file_id": "b", "query": "query.zarr", "model": "model", "batch_key": "donor"}
    pd.DataFrame([sheet]).to_csv(folder / "sheet.csv", index=False)
    (row,) = read_sheet(folder / "sheet.csv", defaults(load_schema(ROOT / "nextflow_schema.json")))
    taken = mapping_steps("query.zarr", "scvi")
    calls = {step: shlex.split(taken[step][1].replace(".py", "", 1)) for step in OPENED}
    written = {"card": card.to_json(), "row": row, "calls": [[name, words] for name, *words in calls.values()]}
    for name, content in written.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    done = subprocess.run([sys.executable, ROOT / "tests/counted.py", "calls.json"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    return {step: found[name] for step, (name, *_words) in calls.items()}


def test_a_mapping_is_three_tasks():
    """And one more onto a model with a hierarchy: 10,000 mappings, 20 to a task, are 1,500."""
    modules = {path.parent.name.upper(): path.read_text() for path in (ROOT / "modules").glob("*/main.nf")}
    steps = {name for name, text in modules.items() if "tuple val(ids), val(size), val(mappings)" in text}
    assert (
        steps - {"UPDATE_HIERARCHY"} == set(mapping_steps("query", "scvi"))
        and 10_000 / 20 * len(steps - {"UPDATE_HIERARCHY"}) == 1_500
    )


@pytest.mark.parametrize("step", OPENED)
def test_a_step_that_computes_nothing_imports_nothing_that_computes(counted, step):
    assert not HEAVY & set(counted[step]["imported"])


@pytest.mark.parametrize("step", OPENED)
def test_the_counts_of_a_query_are_tried_and_read_once(counted, step):
    opened = {name: times for name, times in counted[step]["opened"].items() if name.startswith("query.zarr/X/data/")}
    assert sum(opened.values()) == OPENED[step]
