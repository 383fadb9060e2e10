"""Runs of the pipeline itself, with the Nextflow on PATH or the one in .tools."""

from __future__ import annotations

import csv
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{os.environ['PATH']}:{ROOT}/.tools/bin",
    "NXF_ANSI_LOG": "false",
    "NXF_OPTS": "-XX:TieredStopAtLevel=1",  # short runs: compiling less starts them sooner
    "REFMAP_ENVS": os.environ.get("REFMAP_ENVS", f"{ROOT}/.tools/envs"),
}


class Run:
    """A finished run: its exit status, what it printed, and what it published below `out`."""

    def __init__(self, folder: Path, *arguments: str, project: Path = ROOT):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.out = folder, folder / "out"
        done = subprocess.run(
            ["nextflow", "run", str(project), "--outdir", "out", *arguments],
            cwd=folder,
            env=ENVIRONMENT,
            text=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=1500,
        )
        self.status, self.printed = done.returncode, done.stdout + done.stderr

    def tasks(self) -> dict[str, str]:
        """How each task ended, by name: COMPLETED, CACHED or FAILED."""
        with open(self.out / "pipeline_info" / "trace.txt") as stream:
            return {row["name"].removeprefix("MAP:"): row["status"] for row in csv.DictReader(stream, delimiter="\t")}

    def index(self) -> dict[str, dict]:
        """The rows of mappings.csv by ``dataset/file_id``."""
        with open(self.out / "reference_mapping" / "mappings.csv") as stream:
            return {f"{row['dataset']}/{row['file_id']}": row for row in csv.DictReader(stream)}


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> Run:
    """The demo with a handful of epochs."""
    return Run(tmp_path_factory.mktemp("demo"), "-profile", "test")
