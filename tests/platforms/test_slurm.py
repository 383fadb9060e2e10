"""The demo on a real SLURM: where its jobs go, and what is left when its head is ended midway."""

from __future__ import annotations

import signal
import time

import pytest
from demo_runs import assert_same_results, start

TRAINING = ("TRAIN_REFERENCE", "TRAIN_SURGERY")


def test_training_goes_to_the_gpus_and_all_else_to_the_cpus(cluster, demo, tmp_path):
    head = start(cluster, tmp_path)
    seen: dict[str, list[str]] = {}

    def ended() -> bool:
        seen.update(cluster.queue())
        return head.process.poll() is not None

    while not ended():
        time.sleep(0.3)
    assert head.wait() == 0, head.log.read_text()
    jobs = {job["Name"].removeprefix("nf-MAP_"): job for job in cluster.ended()}
    assert {job["JobState"] for job in jobs.values()} == {"COMPLETED"}
    for name, job in jobs.items():
        assert job["Partition"] == ("gpu" if name.startswith(TRAINING) else "cpu"), name
    for name, _state, partition, resources in seen.values():
        assert ("gpu:1" in resources) == (partition == "gpu"), name
    assert sum(name.startswith("TRAIN_SURGERY") for name in jobs) == 3
    assert_same_results(head, demo)


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGKILL])
def test_a_head_that_ends_midway_is_resumed(cluster, demo, tmp_path, by):
    head = start(cluster, tmp_path)
    done = tmp_path / "out/reference_mapping/dataset~pbmc"
    head.wait_for(lambda: list(done.glob("*.zarr")), "the first mapping")
    head.end(by)
    if by == signal.SIGTERM:
        assert cluster.queue() == {}
    assert not list((tmp_path / "out").rglob(".*.partial"))

    again = start(cluster, tmp_path, "-resume")
    assert again.wait() == 0, again.log.read_text()
    tasks = again.tasks()
    assert tasks["TRAIN_REFERENCE (1)"] == "CACHED"
    assert "CACHED" in {status for name, status in tasks.items() if name.startswith("EXPORT_EMBEDDING")}
    assert_same_results(again, demo)
