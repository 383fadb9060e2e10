"""A SLURM of one node or several on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from runs import ROOT, task_name


@dataclass(frozen=True)
class Job:
    """A job that is pending or running."""

    id: str
    name: str
    state: str
    partition: str
    resources: str
    folder: str
    node: str


def task_of(job: dict[str, str]) -> str:
    """The name of the task that a job ran, of the first one where it was an element of an array."""
    script = Path(job["WorkDir"], ".command.run").read_text()
    return task_name(script.split("### name: '", 1)[1].split("'", 1)[0])


class Cluster:
    """What `tools/slurm_cluster` brings up in a folder, with so many nodes and its ports from one on."""

    def __init__(self, folder: Path, nodes: int = 1, port: int = 6817):
        self.folder = folder
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        subprocess.run(
            [ROOT / "tools/slurm_cluster", "up", folder, str(nodes)], env=os.environ | {"SLURM_PORT": str(port)}, check=True
        )

    def down(self) -> None:
        subprocess.run([ROOT / "tools/slurm_cluster", "down", self.folder], check=True)

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
        """The jobs that are pending or running; each element of an array is one, and a pending one has no node."""
        lines = self.tell("squeue", "--array", "--noheader", "--format=%i|%j|%T|%P|%b|%Z|%N").splitlines()
        return [Job(*line.split("|")) for line in lines]

    def set_node(self, state: str) -> None:
        """Set the one node down, or let it resume."""
        self.tell("scontrol", "update", "nodename=n1", f"state={state}", "reason=tests")

    def kill_node(self, node: str) -> None:
        """Kill a node's daemon and all that runs there, as if the machine had lost its power."""
        lost = [int((self.folder / f"slurmd.{node}.pid").read_text())]
        parents = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                told = (path / "environ").read_bytes().split(b"\0")
            except OSError:  # it has just ended
                continue
            if f"SLURMD_NODENAME={node}".encode() in told and f"SLURM_CONF={self.environment['SLURM_CONF']}".encode() in told:
                lost.append(int(path.name))
        # A job's first process is the child of what watches over it
        lost += [parents[pid] for pid in lost[1:] if is_watcher(parents[pid])]
        for pid in lost:
            lost += [child for child, parent in parents.items() if parent == pid and child not in lost]
        for pid in lost:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @contextmanager
    def unanswered(self) -> Iterator[None]:
        """While it lasts, there is no scheduler to ask; jobs run on."""
        pid = int((self.folder / "slurmctld.pid").read_text())
        os.kill(pid, signal.SIGTERM)
        while Path(f"/proc/{pid}").exists():
            time.sleep(0.1)
        yield
        subprocess.run(["/usr/sbin/slurmctld", "-f", self.environment["SLURM_CONF"]], check=True)


def is_watcher(process: int) -> bool:
    return Path(f"/proc/{process}/comm").read_text().strip() == "slurmstepd"
