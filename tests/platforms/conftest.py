"""What the tests of the platforms share."""

import subprocess

import pytest
from cluster import Cluster
from runs import ROOT


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run([ROOT / "tools/slurm_cluster", "up", folder], check=True)
    yield Cluster(folder)
    subprocess.run([ROOT / "tools/slurm_cluster", "down", folder], check=True)
