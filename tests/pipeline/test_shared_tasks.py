"""Several mappings in one task of each step, one of which is killed, in a run that is started within a job and another Python."""

import os
import signal
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from callers import JOBS, SETTINGS, THREADS, other_python
from runs import Head


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


# Two mappings at once, each with as many threads as one alone
AT_ONCE = """
process {
    withName: 'TRAIN_SURGERY|EXPORT_EMBEDDING' {
        resourceLimits = [cpus: 2, memory: '4.GB', time: '4.h']
        cpus           = { ids.size() > 1 ? 2 : 1 }
    }
}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Head:
    """The demo with all mappings in one task of each step, two at once; the first is killed while it trains; started within a job and
    another Python."""
    folder = tmp_path_factory.mktemp("shared")
    environment = JOBS | THREADS | SETTINGS | other_python(folder / "other")
    config = folder / "at_once.config"
    config.write_text(AT_ONCE)
    options = ("-c", str(config))
    head = Head(folder / "run", "-profile", "test", "--mappings_per_task", "3", options=options, environment=environment)
    found = []

    def child() -> bool:
        found.append(mapping_process(head.folder.resolve()))
        return found[-1] is not None

    head.wait_for(child, "a mapping in a task of several", every=0.05)
    os.kill(found[-1], signal.SIGKILL)
    assert head.wait() == 0, head.log.read_text()
    return head


def test_a_mapping_that_is_killed_in_a_shared_task_is_done_alone(run):
    tasks = run.tasks()
    shared, left = {"ALIGN_GENES", "TRAIN_SURGERY"}, {"EXPORT_EMBEDDING"}
    assert {f"{step} (clinic~patient_1 and 2 more)" for step in shared} <= tasks.keys()
    assert {f"{step} (pbmc~donor_1 and 1 more)" for step in left} <= tasks.keys()
    assert {f"{step} (clinic~patient_1)" for step in shared | left} - tasks.keys() == {"ALIGN_GENES (clinic~patient_1)"}
    assert set(tasks.values()) == {"COMPLETED"}


def test_neither_a_shared_task_nor_a_job_nor_another_python_changes_a_digit(run, demo):
    measured = {"seconds"}
    for name, row in demo.index().items():
        own = run.index()[name]
        assert own["status"] == "mapped" and (run.out / own["updated_model"] / "model.pt").exists()
        assert {key: own[key] for key in row.keys() - measured} == {key: row[key] for key in row.keys() - measured}
        ours, theirs = (ad.read_zarr(one.out / row["embedding"]) for one in (run, demo))
        assert ours.obsm.keys() == theirs.obsm.keys() and "X_emb" in ours.obsm
        for key in ours.obsm:
            np.testing.assert_array_equal(ours.obsm[key], theirs.obsm[key], err_msg=f"{name}: {key}")
        assert ours.obs.equals(theirs.obs)
