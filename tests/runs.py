"""Runs of the pipeline itself, with the Nextflow on PATH or the one in .tools."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{os.environ['PATH']}:{ROOT}/.tools/bin",
    "NXF_ANSI_LOG": "false",
    "NXF_OPTS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",  # short runs: compiling less starts them sooner
    "REFMAP_ENVS": os.environ.get("REFMAP_ENVS", f"{ROOT}/.tools/envs"),
}


def task_name(name: str) -> str:
    """A task's name in Nextflow's trace, without the workflows that its process is in."""
    return re.sub(r"^(\w+:)+", "", name)


class Published:
    """What runs left below a folder's `out`."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.out = folder, folder / "out"

    def tasks(self) -> dict[str, str]:
        """How each task ended, by name: COMPLETED, CACHED or FAILED."""
        with open(self.out / "pipeline_info" / "trace.txt") as stream:
            return {task_name(row["name"]): row["status"] for row in csv.DictReader(stream, delimiter="\t")}

    def index(self) -> dict[str, dict]:
        """The rows of mappings.csv by ``dataset/file_id``."""
        with open(self.out / "reference_mapping" / "mappings.csv") as stream:
            return {f"{row['dataset']}/{row['file_id']}": row for row in csv.DictReader(stream)}


class Run(Published):
    """A finished run: its exit status, what it printed, and what it published."""

    def __init__(self, folder: Path, *arguments: str, project: Path = ROOT, environment: dict[str, str] | None = None):
        super().__init__(folder)
        done = subprocess.run(
            ["nextflow", "run", str(project), "--outdir", "out", *arguments],
            cwd=folder,
            env=ENVIRONMENT | (environment or {}),
            text=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=1500,
        )
        self.status, self.printed = done.returncode, done.stdout + done.stderr


class Head(Published):
    """A run that is going on. `options` go before Nextflow's `run`, `environment` to all that it starts; `by` is a command that
    starts Nextflow, if not this process."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        options: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
        by: tuple[str, ...] = (),
    ):
        super().__init__(folder)
        self.log = folder / "printed.txt"
        with self.log.open("a") as printed:
            self.process = subprocess.Popen(
                [*by, "nextflow", *options, "run", str(ROOT), "--outdir", "out", *arguments],
                cwd=folder,
                env=ENVIRONMENT | (environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self) -> int:
        """The exit status, once it has ended."""
        return self.process.wait(timeout=1500)

    def wait_for(self, happened: Callable[[], object], what: str, every: float = 0.25) -> None:
        """Wait until something has happened, looking every so many seconds; raises AssertionError if the run ends, or minutes pass, before."""
        deadline = time.monotonic() + 600
        while not happened():
            assert self.process.poll() is None, f"the run ended before {what}:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"in ten minutes {what} did not happen"
            time.sleep(every)

    def end(self, by: signal.Signals) -> None:
        """Send a signal to Nextflow and to what started it, and wait for their end."""
        os.killpg(self.process.pid, by)
        self.process.wait(timeout=300)
