"""The demo on a real SLURM: where its jobs go, started from a job too, and what is left when its head is ended midway."""

from __future__ import annotations

import signal
from pathlib import Path

from cluster import task_of
from demo_runs import BY_THE_MODEL, ROWS, assert_same_results, by_a_job, onto_reference, start


def test_jobs_of_a_job_go_where_they_are_sent_with_what_they_are_given(cluster, demo, as_jobs):
    _head, seen = as_jobs
    assert (demo.folder / "job.txt").read_text().startswith("tasks: 4\n")
    jobs = {task_of(job): job for job in cluster.ended() if job["WorkDir"].startswith(f"{demo.folder}/work/")}
    assert {job["JobState"] for job in jobs.values()} == {"COMPLETED"}
    assert {(job["Account"], job["WcKey"]) for job in jobs.values()} == {("lab", "atlas")}
    for name, job in jobs.items():
        by_the_model = name.startswith(BY_THE_MODEL)
        assert job["Partition"] == ("gpu" if by_the_model else "cpu"), name
        assert (job["TimeLimit"] == "30") == by_the_model, name
        # A scheduler without a database of accounts knows no QOS: what is left of it is what sbatch was told.
        assert " --qos=long" in Path(job["WorkDir"], ".command.run").read_text()
    assert seen
    for job in seen.values():
        assert ("gpu:1" in job.resources) == (job.partition == "gpu"), job.name
    assert sum(name.startswith("TRAIN_SURGERY") for name in jobs) == 3


def test_a_head_whose_tasks_run_in_its_own_job_of_four_tasks(cluster, demo, data, tmp_path):
    sheet = onto_reference(tmp_path, demo, data, "pbmc/donor_1")
    head = start(cluster, tmp_path, *sheet, profile="test", by=by_a_job(tmp_path))
    assert head.wait() == 0, (tmp_path / "job.txt").read_text()
    assert (tmp_path / "job.txt").read_text().startswith("tasks: 4\n")
    assert_same_results(head, demo, "pbmc/donor_1")


def test_a_head_that_ends_midway_twice_is_resumed(cluster, demo, data, tmp_path):
    sheet = onto_reference(tmp_path, demo, data, *ROWS)
    results = tmp_path / "out/reference_mapping"

    def published() -> list[str]:
        paths = results.glob("dataset~*/*.zarr")
        return [f"{path.parent.name.removeprefix('dataset~')}~{path.stem.removeprefix('file_id~')}" for path in paths]

    def described() -> list[Path]:
        return list(results.glob("qc/dataset~*/file_id~*/mapping.json"))

    head = start(cluster, tmp_path, *sheet)
    head.wait_for(described, "the first mapping")
    head.end(signal.SIGTERM)
    # Midway: the first mappings are through, and the last is not.
    assert published() and len(described()) in (1, 2)
    assert not (results / "mappings.csv").exists()
    assert cluster.queue() == []

    head = start(cluster, tmp_path, *sheet, "-resume")
    head.wait_for(
        lambda: any("EXPORT_EMBEDDING" in job.name and job.state == "RUNNING" for job in cluster.queue()), "the next mapping"
    )
    head.end(signal.SIGKILL)
    done = published()
    assert done and not (results / "mappings.csv").exists()
    assert cluster.queue() != []

    head = start(cluster, tmp_path, *sheet, "-resume")
    assert head.wait() == 0, head.log.read_text()
    tasks = head.tasks()
    assert [status for name, status in tasks.items() if name.startswith("TRY_MODEL")] == ["CACHED"]
    for mapping in done:
        for stage in ("ALIGN_GENES", "TRAIN_SURGERY", "EXPORT_EMBEDDING"):
            assert tasks[f"{stage} ({mapping})"] == "CACHED"
    assert "COMPLETED" in {status for name, status in tasks.items() if name.startswith("EXPORT_EMBEDDING")}
    assert_same_results(head, demo)
