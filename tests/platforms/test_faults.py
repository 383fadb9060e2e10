"""Faults of the machines, of the data and of the users: what becomes of a run, what is left, and that it can be taken up again."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from cluster import Job, task_of
from demo_runs import assert_same_results, onto_reference, start
from runs import Head, Run

PBMC = ("pbmc/donor_1", "pbmc/donor_2")
# Nowhere near enough for what comes first, enough for what comes next.
TOO_LITTLE = "process.'withName:EXPORT_EMBEDDING'.memory = { task.attempt == 1 ? 60.MB : 2.GB }"

UNANSWERED = "sbatch: error: Batch job submission failed: Unable to contact slurm controller"


def published(run: Run | Head) -> list[str]:
    """The paths of all results, beside what a run says of itself."""
    parts = [path for path in run.out.iterdir() if path.name not in ("pipeline_info", ".refmap.lock")]
    return sorted(str(path.relative_to(run.out)) for part in parts for path in [part, *part.rglob("*")])


class Troubled:
    """A run whose training jobs are cancelled and lose their node, whose exports have too little memory at first, and whose
    scheduler does not answer for a while."""

    def __init__(self, cluster, folder: Path, arguments: tuple[str, ...]):
        self.cluster = cluster
        self.head = start(cluster, folder, *arguments, config=TOO_LITTLE)
        running, pending = self.training("RUNNING"), self.training("PENDING")
        cluster.tell("scancel", pending.id)
        cluster.tell("scancel", running.id)
        self.cancelled = {running.id, pending.id}

        lost = self.training("RUNNING", but=self.cancelled)
        cluster.set_node("down")
        self.head.wait_for(lambda: lost.id in self.states(), "the loss of a job with its node")
        self.states_when_down = self.states()
        cluster.set_node("resume")
        self.lost = lost.id

        self.training("RUNNING", but=self.cancelled | {lost.id})
        with cluster.unanswered():
            self.head.wait_for(lambda: UNANSWERED in self.head.log.read_text(), "a submission without an answer")
        self.status = self.head.wait()

    def training(self, state: str, but: frozenset[str] | set[str] = frozenset()) -> Job:
        """The first training job that is seen in a state; one that runs has begun its command."""
        found: list[Job] = []

        def look() -> list[Job]:
            jobs = [
                job for job in self.cluster.queue() if "TRAIN_SURGERY" in job.name and job.state == state and job.id not in but
            ]
            found[:] = [job for job in jobs if state != "RUNNING" or Path(job.folder, ".command.err").exists()]
            return found

        self.head.wait_for(look, f"a training job that is {state}")
        return found[0]

    def jobs(self) -> list[dict[str, str]]:
        """What the scheduler wrote of the run's jobs that ended."""
        return [job for job in self.cluster.ended() if job["WorkDir"].startswith(str(self.head.folder))]

    def states(self) -> dict[str, str]:
        return {job["JobId"]: job["JobState"] for job in self.jobs()}


@pytest.fixture(scope="session")
def troubled(cluster, demo, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("troubled")
    return Troubled(cluster, folder, onto_reference(folder, demo, data, *PBMC))


def test_training_that_is_cancelled_running_or_pending_is_done_again(troubled, demo):
    assert troubled.status == 0, troubled.head.log.read_text()
    assert {troubled.states()[job] for job in troubled.cancelled} == {"CANCELLED"}
    said = troubled.head.log.read_text()
    assert "terminated with an error exit status (143) -- Execution is retried (1)" in said
    assert (
        "terminated for an unknown reason -- Likely it has been terminated by the external system -- Execution is retried" in said
    )
    assert_same_results(troubled.head, demo, *PBMC)


def test_training_whose_node_goes_down_is_done_again_when_it_is_back(troubled):
    assert troubled.states_when_down[troubled.lost] == "NODE_FAIL"
    completed = [task_of(job) for job in troubled.jobs() if job["JobState"] == "COMPLETED" and "TRAIN_SURGERY" in job["Name"]]
    assert sorted(completed) == [f"TRAIN_SURGERY ({name.replace('/', '~')})" for name in PBMC]


def test_a_job_that_is_killed_for_memory_asks_for_more(troubled):
    exports = [job for job in troubled.jobs() if "EXPORT_EMBEDDING" in job["Name"]]
    asked = {job["JobState"]: job["Tres"].split(",")[1] for job in exports}
    assert asked == {"FAILED": "mem=60M", "COMPLETED": "mem=2G"} and len(exports) == 4
    for job in exports:
        killed = "exceeded memory limit" in Path(job["WorkDir"], ".command.log").read_text()
        assert killed == (job["JobState"] == "FAILED")


def test_a_job_that_is_submitted_while_the_scheduler_is_restarted_is_submitted_again(troubled):
    said = troubled.head.log.read_text()
    assert "WARN: Failed to submit process" in said and UNANSWERED in said
    assert "Error is ignored" not in said


@pytest.fixture
def small_disk(tmp_path):
    """A file system that holds all before the training, and not what that writes; call it to let it grow."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2500k", "tmpfs", folder], check=True)
    yield lambda: subprocess.run(["mount", "-o", "remount,size=200m", folder], check=True)
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_ends_the_run_with_a_sentence_and_leaves_nothing_half_written(small_disk, demo, data, tmp_path):
    arguments = (*onto_reference(tmp_path, demo, data, PBMC[0]), "-profile", "test", "-work-dir", "small", "-resume")
    run = Run(tmp_path, *arguments)
    assert run.status != 0
    assert f"No space is left on the disk that holds {tmp_path}/small/" in run.printed
    assert published(run) == []

    small_disk()
    again = Run(tmp_path, *arguments)
    assert again.status == 0, again.printed
    assert again.tasks()["ALIGN_GENES (pbmc~donor_1)"] == "CACHED"
    assert_same_results(again, demo, PBMC[0])


@pytest.fixture
def large(demo, data, tmp_path) -> tuple[str, ...]:
    """The arguments of a run whose one result takes a while to be copied."""
    query = ad.read_zarr(data / "donor_2.zarr")
    query.obsm["large"] = np.random.default_rng(0).random((query.n_obs, 500_000), dtype=np.float32)
    query.write_zarr(tmp_path / "large.zarr")
    return (*onto_reference(tmp_path, demo, data, large=tmp_path / "large.zarr"), "-profile", "test", "--max_epochs", "0")


def test_one_run_at_a_time_publishes_and_leaves_nothing_half_written_when_it_is_killed(large, tmp_path):
    head = Head(tmp_path, *large)
    place = tmp_path / "out/reference_mapping/dataset~pbmc/file_id~large.zarr"
    partial = place.with_name(f".{place.name}.partial")
    head.wait_for(lambda: "Submitted process" in head.log.read_text(), "its first task")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "out").symlink_to(tmp_path / "out")
    shutil.copy(tmp_path / "sheet.csv", elsewhere)
    other = Run(elsewhere, *large)
    assert other.status != 0
    assert "Another run is writing to --outdir 'out': wait for its end, or choose another folder." in other.printed
    assert "Submitted process" not in other.printed
    head.wait_for(partial.exists, "the copy of a result", every=0.005)
    head.end(signal.SIGKILL)
    assert partial.exists() and not place.exists()
    assert not (tmp_path / "out/reference_mapping/mappings.csv").exists()

    again = Head(tmp_path, *large, "-resume")
    assert again.wait() == 0, again.log.read_text()
    # The export itself may have ended too shortly before the kill for Nextflow to have noted it
    assert again.tasks()["TRAIN_SURGERY (pbmc~large)"] == "CACHED"
    result = max(tmp_path.glob("work/*/*/exported/pbmc~large.zarr"), key=lambda path: path.stat().st_mtime)
    subprocess.run(["diff", "--recursive", result, place], check=True)
    assert again.index()["pbmc/large"]["status"] == "mapped"
    assert not [path for path in published(again) if path.endswith((".partial", ".replaced"))]
