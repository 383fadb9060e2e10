"""The demo on a SLURM of two nodes, one of which is lost midway with all that runs there."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster import Cluster, Job
from demo_runs import ROWS, assert_same_results, onto_reference, start

LOST = "n2"


@pytest.fixture(scope="module")
def nodes(public):
    """A SLURM of two nodes, each with a GPU: two tasks of training run at a time."""
    cluster = Cluster(public / "nodes", nodes=2, port=6917)
    yield cluster
    cluster.down()


@pytest.fixture(scope="module")
def run(nodes, demo, data, tmp_path_factory):
    """The demo's mappings, which lose a node while it trains; and the job that was lost with it."""
    folder = tmp_path_factory.mktemp("nodes")
    head = start(nodes, folder, *onto_reference(folder, demo, data, *ROWS))
    found: list[Job] = []

    def trains() -> list[Job]:
        jobs = [job for job in nodes.queue() if "TRAIN_SURGERY" in job.name and job.node == LOST]
        found[:] = [job for job in jobs if Path(job.folder, ".command.err").exists()]
        return found

    head.wait_for(trains, f"training on {LOST}")
    nodes.kill_node(LOST)
    assert head.wait() == 0, head.log.read_text()
    return head, found[0]


def test_what_ran_on_a_node_that_is_lost_is_done_on_another(nodes, run):
    head, lost = run
    jobs = [job for job in nodes.ended() if job["WorkDir"].startswith(str(head.folder))]
    assert [(job["JobId"], job["NodeList"]) for job in jobs if job["JobState"] == "NODE_FAIL"] == [(lost.id, LOST)]
    again = [job for job in jobs if job["Name"] == lost.name and job["JobId"] != lost.id]
    assert [(job["JobState"], job["NodeList"]) for job in again] == [("COMPLETED", "n1")]
    assert "down" in nodes.tell("sinfo", "--noheader", f"--nodes={LOST}", "--format=%T")


def test_the_results_are_those_of_one_machine(run, demo):
    head, _lost = run
    assert_same_results(head, demo)
