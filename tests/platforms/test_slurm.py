"""The demo on a real SLURM: where its jobs go, started from a job too, and what is left when its head is ended midway."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from cluster import task_of
from demo_runs import BY_THE_MODEL, ROWS, assert_same_results, onto_reference, start

OPTIONS = ("--slurm_account=lab", "--slurm_qos=long", "--slurm_gpu_time=30.m", "--slurm_options=--wckey=atlas")


def test_jobs_go_where_they_are_sent_with_what_they_are_given(cluster, demo, tmp_path):
    head = start(cluster, tmp_path, *OPTIONS)
    seen = {}
    while head.process.poll() is None:
        seen.update((job.id, job) for job in cluster.queue())
        time.sleep(0.3)
    assert head.wait() == 0, head.log.read_text()

    jobs = {task_of(job): job for job in cluster.ended() if job["WorkDir"].startswith(str(tmp_path))}
    assert {job["JobState"] for job in jobs.values()} == {"COMPLETED"}
    assert {(job["Account"], job["WcKey"]) for job in jobs.values()} == {("lab", "atlas")}
    for name, job in jobs.items():
        by_the_model = name.startswith(BY_THE_MODEL)
        assert job["Partition"] == ("gpu" if by_the_model else "cpu"), name
        assert (job["TimeLimit"] == "30") == by_the_model, name
        # A scheduler without a database of accounts knows no QOS: what is left of it is what sbatch was told.
        assert " --qos=long" in Path(job["WorkDir"], ".command.run").read_text()
    for job in seen.values():
        assert ("gpu:1" in job.resources) == (job.partition == "gpu"), job.name
    assert sum(name.startswith("TRAIN_SURGERY") for name in jobs) == 3
    assert_same_results(head, demo)


@pytest.mark.parametrize("profile", ["test", "test,slurm"])
def test_a_head_that_is_a_job_of_four_tasks(cluster, demo, data, tmp_path, profile):
    (tmp_path / "job.sh").write_text('#!/bin/bash\necho "tasks: $SLURM_NTASKS"\n"$@"\n')
    job = ("sbatch", "--wait", "--ntasks=4", "--mem=6G", "--output=job.txt", "job.sh")
    sheet = onto_reference(tmp_path, demo, data, "pbmc/donor_1")
    head = start(cluster, tmp_path, *sheet, profile=profile, by=job)
    assert head.wait() == 0, (tmp_path / "job.txt").read_text()
    assert "tasks: 4\n" in (tmp_path / "job.txt").read_text()
    assert_same_results(head, demo, "pbmc/donor_1")


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGKILL])
def test_a_head_that_ends_midway_is_resumed(cluster, demo, data, tmp_path, by):
    sheet = onto_reference(tmp_path, demo, data, *ROWS)
    head = start(cluster, tmp_path, *sheet)
    results = tmp_path / "out/reference_mapping"
    head.wait_for(lambda: list(results.glob("qc/dataset~*/file_id~*/mapping.json")), "the first mapping")
    head.end(by)
    done = [(path.parent.name, path.stem) for path in results.glob("dataset~*/*.zarr")]
    assert done
    # Midway: the first mappings are through, and the last is not.
    assert 1 <= len(list(results.glob("qc/dataset~*/file_id~*/mapping.json"))) <= 2
    assert not (results / "mappings.csv").exists()
    if by == signal.SIGTERM:
        assert cluster.queue() == []

    again = start(cluster, tmp_path, *sheet, "-resume")
    assert again.wait() == 0, again.log.read_text()
    tasks = again.tasks()
    assert [status for name, status in tasks.items() if name.startswith("TRY_MODEL")] == ["CACHED"]
    for dataset, file_id in done:
        mapping = f"{dataset.removeprefix('dataset~')}~{file_id.removeprefix('file_id~')}"
        for stage in ("ALIGN_GENES", "TRAIN_SURGERY", "EXPORT_EMBEDDING"):
            assert tasks[f"{stage} ({mapping})"] == "CACHED"
    assert "COMPLETED" in {status for name, status in tasks.items() if name.startswith("QC_MAPPING")}
    assert_same_results(again, demo)
