"""A SLURM of one node on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """A job that is pending or running."""

    id: str
    name: str
    state: str
    partition: str
    resources: str
    folder: str


class Cluster:
    """What `tools/slurm_cluster` brought up in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}

    def tell(self, *command: str) -> str:
        """What one of SLURM's own commands prints."""
        environment = self.environment | {"PATH": "/usr/bin:/bin"}
        return subprocess.run(command, env=environment, text=True, capture_output=True, check=True).stdout

    def ended(self) -> list[dict[str, str]]:
        """The jobs that ended, in that order: their fields by name, such as Name, Partition and JobState."""
        path = self.folder / "jobs.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        return [dict(field.split("=", 1) for field in line.split() if "=" in field) for line in lines]

    def queue(self) -> list[Job]:
        """The jobs that are pending or running."""
        return [Job(*line.split()) for line in self.tell("squeue", "--noheader", "--format=%i %j %T %P %b %Z").splitlines()]

    def set_node(self, state: str) -> None:
        """Set the one node down, or let it resume."""
        (node,) = self.tell("sinfo", "--noheader", "--format=%n", "--partition=cpu").split()
        self.tell("scontrol", "update", f"nodename={node}", f"state={state}", "reason=tests")

    @contextmanager
    def unanswered(self) -> Iterator[None]:
        """While it lasts, there is no scheduler to ask; jobs run on."""
        pid = int((self.folder / "slurmctld.pid").read_text())
        os.kill(pid, signal.SIGTERM)
        while Path(f"/proc/{pid}").exists():
            time.sleep(0.1)
        yield
        subprocess.run(["/usr/sbin/slurmctld", "-f", self.environment["SLURM_CONF"]], check=True)
