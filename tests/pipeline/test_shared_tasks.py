"""Several mappings in one task of training, one of which is killed."""

import os
import signal
from pathlib import Path

import anndata as ad
import numpy as np
from runs import Head

MAPPINGS = {"pbmc~donor_1", "pbmc~donor_2", "clinic~patient_1"}


def mapping_process(work: Path) -> int | None:
    """The id of a process that maps one of several queries, the child of one that runs the command, below a work folder."""
    commands = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if b"train_surgery.py" in (path / "cmdline").read_bytes() and (path / "cwd").resolve().is_relative_to(work):
                commands[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has just ended
            continue
    pythons = {child for child, parent in commands.items() if parent in commands and is_python(child) and is_python(parent)}
    return min(pythons, default=None)


def is_python(process: int) -> bool:
    return "python" in Path(f"/proc/{process}/exe").resolve().name


def test_a_mapping_that_is_killed_in_a_shared_task_is_done_alone(demo, tmp_path):
    head = Head(tmp_path, "-profile", "test", "--mappings_per_task", "3")
    found = []

    def child() -> bool:
        found.append(mapping_process(tmp_path.resolve()))
        return found[-1] is not None

    head.wait_for(child, "a mapping in a task of several", every=0.05)
    os.kill(found[-1], signal.SIGKILL)
    assert head.wait() == 0, head.log.read_text()

    tasks = head.tasks()
    assert [name for name in tasks if name.startswith("TRAIN_SURGERY")] == ["TRAIN_SURGERY (clinic~patient_1 and 2 more)"]
    assert [name for name in tasks if name.startswith("TRAIN_ALONE")] == ["TRAIN_ALONE (clinic~patient_1)"]
    assert set(tasks.values()) == {"COMPLETED"}
    assert {row["status"] for row in head.index().values()} == {"mapped"}
    for mapping in MAPPINGS:
        dataset, file_id = mapping.split("~")
        path = f"reference_mapping/dataset~{dataset}/file_id~{file_id}.zarr"
        together, alone = (ad.read_zarr(run.out / path).obsm["X_emb"] for run in (head, demo))
        np.testing.assert_array_equal(together, alone)
        assert (head.out / f"reference_mapping/model/dataset~{dataset}/file_id~{file_id}/model.pt").exists()
