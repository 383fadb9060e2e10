"""TRAIN_SURGERY's command: several mappings in one task, and a GPU that is too small."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch
from mapping import map_cells, prepare, training_of
from refmap.common.errors import RefmapError
from refmap.common.folders import MappedFolder
from refmap.families.scvi import surgery as scvi_surgery
from rows import ROW
from runs import ROOT

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT / "bin")}
DIVERGING = {"max_epochs": 3, "early_stopping": False, "check_val_every_n_epoch": 1, "learning_rate": 1e30}


DYING = """
map_query = train_surgery.map_query

def map_or_die(prepared, training, card, model, mapped, updated):
    if prepared.folder.name == "lung~killed":
        updated.mkdir()
        os.kill(os.getpid(), signal.SIGKILL)
    if prepared.folder.name == "lung~odd":
        raise ZeroDivisionError
    map_query(prepared, training, card, model, mapped, updated)

train_surgery.map_query = map_or_die
"""


@pytest.fixture
def run(scvi_model, query, tmp_path, monkeypatch):
    """Map queries of some names and `train` settings in one task, after some meddling with the command."""
    monkeypatch.chdir(tmp_path)

    def run_command(settings: dict[str, dict], meddling: str):
        each = {}
        for number, (name, train) in enumerate(settings.items()):
            row = ROW | {"dataset": "lung", "file_id": name, "train": train}
            card, _ = prepare(query[number * 20 :].copy(), scvi_model, tmp_path / f"queries/lung~{name}", row)
            (tmp_path / f"queries/lung~{name}.h5ad").unlink()
            folder = f"queries/lung~{name}"
            each[f"lung~{name}"] = {"plan": f"{folder}/plan.json", "prepared": folder, "training": training_of(row)}
        Path("each.json").write_text(json.dumps(each))
        Path("card.json").write_text(json.dumps(card))
        options = {"each": "each.json", "model": str(scvi_model), "card": "card.json"}
        options |= {"output": "mapped/{}", "updated-model": "models/{}", "fault": "{}.fault.json"}
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        # In a process of its own: one that has computed with threads, as this one has, cannot be forked.
        code = f"import os, signal, train_surgery\n{meddling}\ntrain_surgery.train_surgery()"
        return subprocess.run([sys.executable, "-c", code, *words], env=ENVIRONMENT, text=True, capture_output=True, timeout=300)

    return run_command


def names(folder: str) -> list[str]:
    """What a workflow finds there: hidden names are what a process that was killed could not take away."""
    return sorted(path.name for path in Path(folder).iterdir() if not path.name.startswith("."))


def test_a_mapping_is_hurt_by_no_other_of_its_task(run, scvi_model, query, tmp_path):
    """One diverges, one is killed, one ends by a defect; the others are as if they had been alone."""
    train = ROW["train"]
    result = run({"a": train, "diverging": DIVERGING, "killed": train, "odd": train, "z": train}, DYING)

    assert result.returncode == 0, result.stderr
    assert names("mapped") == names("models") == ["lung~a", "lung~z"]
    fault = json.loads(Path("lung~diverging.fault.json").read_text())
    assert fault["file_id"] == "diverging" and "Training diverged" in fault["message"]
    assert [path.name for path in tmp_path.glob("*.fault.json")] == ["lung~diverging.fault.json"]
    assert "lung~killed ended with status -9" in result.stderr and "lung~odd ended with status 1" in result.stderr
    assert "Warning" not in result.stderr  # a library's advice to programmers
    for name, first in (("a", 0), ("z", 80)):
        alone = map_cells(query[first:].copy(), scvi_model, tmp_path / f"alone_{name}", dataset="lung", file_id=name)
        together = ad.read_zarr(MappedFolder(Path(f"mapped/lung~{name}")).embedding)
        np.testing.assert_array_equal(together.obsm["X_emb"], alone.latent)


def test_a_mapping_alone_ends_as_its_process_does(run):
    """So that a workflow sees a lack of memory, and tries again with more."""

    ended = run({"a": ROW["train"]}, "def map_query(*_):\n    raise MemoryError\ntrain_surgery.map_query = map_query")
    assert ended.returncode == 137 and "less memory than it needs" in ended.stderr
    assert names("mapped") == names("models") == [] and not list(Path().glob("*.fault.json"))


@pytest.fixture
def small_gpu(monkeypatch):
    """Let training run out of GPU memory with minibatches of more than some number of cells; returns those that were tried."""
    tried = []

    def of_memory(most: int) -> list[int]:
        run_training = scvi_surgery.run_training

        def run_or_not(model, arguments, log):
            tried.append(arguments.get("batch_size", 128))
            if tried[-1] > most:
                next(model.module.parameters()).data += 1  # what was begun must not be gone on with
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return run_training(model, arguments, log)

        monkeypatch.setattr(scvi_surgery, "run_training", run_or_not)
        return tried

    return of_memory


def test_minibatches_are_halved_until_the_gpu_suffices(small_gpu, scvi_model, query, tmp_path, capsys):
    tried = small_gpu(40)
    mapped = map_cells(query, scvi_model, tmp_path / "halved", engine="scvi")
    assert tried == [128, 64, 32]
    assert mapped.record["train"]["batch_size"] == 32
    assert [sentence for sentence in mapped.record["warnings"] if "memory" in sentence] == [
        "The memory of cpu did not suffice for minibatches of 64 cells: 32 were taken, which may change the result."
    ]
    assert "out of GPU memory with minibatches of 128 cells: from the start again with 64" in capsys.readouterr().out
    given = map_cells(query, scvi_model, tmp_path / "given", train=ROW["train"] | {"batch_size": 32}, engine="scvi")
    np.testing.assert_array_equal(mapped.latent, given.latent)
    assert given.record["train"]["batch_size"] == 32 and not any("memory" in sentence for sentence in given.record["warnings"])


def test_a_gpu_that_suffices_for_no_cell_is_told(small_gpu, scvi_model, query, tmp_path):
    tried = small_gpu(0)
    with pytest.raises(RefmapError, match="does not suffice for a single cell of the query: take a larger GPU, or none"):
        map_cells(query, scvi_model, tmp_path / "m", engine="scvi")
    assert tried == [128, 64, 32, 16, 8, 4, 2, 1] and not (tmp_path / "m/mapped").exists()
