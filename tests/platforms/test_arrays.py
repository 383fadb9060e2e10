"""Job arrays on a real SLURM: how often it is called, what becomes of an element that is cancelled, and that nothing else changes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from cluster import Job, task_of
from demo_runs import ROWS, assert_same_results, onto_reference, start


def steps(jobs: list[dict[str, str]]) -> Counter:
    """How many jobs each step of a mapping had."""
    return Counter(task_of(job).split(" ")[0] for job in jobs)


class InArrays:
    """The demo's mappings in arrays of two, two to a task; one element is cancelled."""

    def __init__(self, cluster, demo, data, folder: Path):
        sheet = onto_reference(folder, demo, data, *ROWS)
        self.head = start(cluster, folder, *sheet, "--job_array", "2", profile="test,slurm", together=2)
        running: list[Job] = []

        def element() -> list[Job]:
            jobs = [job for job in cluster.queue() if "TRAIN_SURGERY" in job.name and job.state == "RUNNING"]
            running[:] = [job for job in jobs if "_" in job.id]
            return running

        self.head.wait_for(element, "an element of an array that trains")
        self.cancelled = running[0].id
        cluster.tell("scancel", self.cancelled)
        self.status = self.head.wait()
        self.jobs = [job for job in cluster.ended() if job["WorkDir"].startswith(str(folder))]


@pytest.fixture(scope="module")
def in_arrays(cluster, demo, data, tmp_path_factory):
    run = InArrays(cluster, demo, data, tmp_path_factory.mktemp("arrays"))
    assert run.status == 0, run.head.log.read_text()
    return run


def test_an_array_is_submitted_by_one_call(in_arrays):
    # Whatever was submitted has a folder, an array one for all of its elements
    calls = {job["WorkDir"]: job for job in in_arrays.jobs}
    called, ran = steps(list(calls.values())), steps(in_arrays.jobs)
    for step in ("ALIGN_GENES", "EXPORT_EMBEDDING"):
        # An array of two tasks, of two mappings and of one
        assert (called[step], ran[step]) == (1, 2), step
    # An array of two, and the one that was cancelled by itself
    assert (called["TRAIN_SURGERY"], ran["TRAIN_SURGERY"]) == (2, 3)


def test_an_element_that_is_cancelled_is_done_again_by_itself(in_arrays):
    array, element = in_arrays.cancelled.split("_")
    states = {job["ArrayTaskId"]: job["JobState"] for job in in_arrays.jobs if job.get("ArrayJobId") == array}
    assert states == {number: "CANCELLED" if number == element else "COMPLETED" for number in "01"}
    others = [job["JobState"] for job in in_arrays.jobs if job.get("ArrayJobId") != array]
    assert set(others) == {"COMPLETED"}
    again = [job for job in in_arrays.jobs if "TRAIN_SURGERY" in job["Name"] and "ArrayJobId" not in job]
    assert len(again) == 1


def test_the_results_are_those_of_single_jobs(in_arrays, demo):
    assert_same_results(in_arrays.head, demo)
