"""A SLURM of one node on this machine."""

from __future__ import annotations

import subprocess
from pathlib import Path


class Cluster:
    """What `tools/slurm_cluster` brought up in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}

    def ended(self) -> list[dict[str, str]]:
        """The jobs that ended, in that order: their fields by name, such as Name, Partition and JobState."""
        path = self.folder / "jobs.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        return [dict(field.split("=", 1) for field in line.split() if "=" in field) for line in lines]

    def queue(self) -> dict[str, list[str]]:
        """Name, state, partition and generic resources of each job that is pending or running, by its id."""
        ask = ["squeue", "--noheader", "--format=%i %j %T %P %b"]
        listed = subprocess.run(ask, env=self.environment | {"PATH": "/usr/bin:/bin"}, text=True, capture_output=True, check=True)
        return {line.split()[0]: line.split()[1:] for line in listed.stdout.splitlines()}
