#!/usr/bin/env python
"""What the fan-out over many mappings costs: the memory of Nextflow's head, and the time a task takes beyond its own work.

`--stub N` runs N mappings with `-stub-run` on this machine: all of Nextflow, none of the work. `--real N M A` maps N queries of
40 cells, M to a task of training, in job arrays of A, on a SLURM of one node (as root; tools/slurm_cluster). Run with any
environment.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bin"))

CELLS, EPOCHS = 40, 2
# A test cluster of one node answers at once; few jobs wait there, beside those of one array.
CONFIG = """
executor { queueSize = %d; pollInterval = '1 sec'; queueStatInterval = '2 sec' }
trace { fields = 'name,status,native_id,submit,start,complete,realtime,%%cpu,peak_rss'; raw = true }
"""


class Head:
    """A run of the pipeline, watched: `seconds`, `memory` (the head's peak, MB), its `tasks` and how often it `submitted`."""

    def __init__(self, folder: Path, *arguments: str, array: int = 0, environment: dict[str, str] | None = None):
        (folder / "bench.config").write_text(CONFIG % (16 + array))
        start = time.monotonic()
        log = (folder / "log.txt").open("w")
        given = ("--outdir", "out", "--input", "sheet.csv", "--job_array", str(array), *arguments)
        run = subprocess.Popen(
            ["nextflow", "-c", "bench.config", "run", str(ROOT), *given],
            cwd=folder,
            env=os.environ | {"PATH": f"{os.environ['PATH']}:{ROOT}/.tools/bin", "NXF_ANSI_LOG": "false"} | (environment or {}),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        self.memory = 0.0
        watcher = threading.Thread(target=self._watch, args=(run,))
        watcher.start()
        if run.wait():
            sys.exit((folder / "log.txt").read_text())
        watcher.join()
        self.seconds = time.monotonic() - start
        with open(folder / "out/pipeline_info/trace.txt") as stream:
            self.tasks = list(csv.DictReader(stream, delimiter="\t"))
        # The elements of an array bear its number: 12_0, 12_1 and so on.
        self.submitted = len({task["native_id"].split("_")[0] for task in self.tasks} - {"-"})

    def _watch(self, run: subprocess.Popen) -> None:
        """Follow the process that tools/nextflow becomes."""
        while run.poll() is None:
            try:
                status = Path(f"/proc/{run.pid}/status").read_text()
                self.memory = max(self.memory, int(status.split("VmRSS:")[1].split()[0]) / 1024)
            except (OSError, IndexError):  # it has just ended
                return
            time.sleep(0.2)

    def cpu_seconds(self) -> float:
        """The CPU time of all tasks."""
        known = [task for task in self.tasks if task["%cpu"] not in ("", "-")]
        return sum(float(task["realtime"]) / 1000 * float(task["%cpu"]) / 100 for task in known)

    def row(self, what: str, mappings: int) -> str:
        return (
            f"{what:<38}{mappings:>9,}{len(self.tasks):>8,}{self.submitted:>11,}{self.seconds:>9,.0f}"
            f"{1000 * self.seconds / len(self.tasks):>13,.0f}{self.cpu_seconds():>12,.0f}{self.memory:>12,.0f}"
        )


def write_sheet(folder: Path, mappings: int, queries: list[str], model: str, batch_key: str) -> None:
    with open(folder / "sheet.csv", "w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["dataset", "file_id", "query", "model", "batch_key"])
        for number in range(mappings):
            table.writerow([f"set{number % 10}", f"file{number}", queries[number % len(queries)], model, batch_key])


def stub(mappings: int, per_task: int) -> Head:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model").mkdir()
        (folder / "query.h5ad").touch()
        write_sheet(folder, mappings, ["query.h5ad"], "model", "donor")
        return Head(folder, "-stub-run", "--mappings_per_task", str(per_task))


def real(mappings: int, per_task: int, array: int, data: Path, cluster: Path) -> Head:
    with tempfile.TemporaryDirectory(dir=data) as name:
        folder = Path(name)
        write_sheet(folder, mappings, [f"../query{i}.h5ad" for i in range(5)], "../out/reference_model", "batch")
        return Head(
            folder, "-profile", "slurm", "--max_epochs", str(EPOCHS), "--mappings_per_task", str(per_task),
            array=array, environment={"SLURM_CONF": str(cluster / "slurm.conf")},
        )  # fmt: skip


def make_data(folder: Path) -> None:
    """A small reference, and five queries of 40 cells; in a process of its own, as the commands' libraries are not ours."""
    code = (
        "from pathlib import Path; from refmap.sheet.demo import make_demo, pbmc_counts\n"
        "make_demo(Path('demo')); cells = pbmc_counts()\n"
        f"[cells[{CELLS} * i : {CELLS} * (i + 1)].copy().write_h5ad(f'query{{i}}.h5ad') for i in range(5)]"
    )
    script = f". '{ROOT}/containers/activate' core && PYTHONPATH='{ROOT}/bin' python -c \"$CODE\""
    subprocess.run(["bash", "-c", script], cwd=folder, env=os.environ | {"CODE": code}, check=True)
    given = ["--reference", "demo/reference.h5ad", "--reference_batch_key", "batch", "--reference_labels_key", "bulk_labels"]
    subprocess.run(
        ["nextflow", "-q", "run", str(ROOT), "-profile", "test_full", "--demo", "false", *given, "--reference_max_epochs", "3", "--outdir", "out"],
        cwd=folder,
        env=os.environ | {"PATH": f"{os.environ['PATH']}:{ROOT}/.tools/bin"},
        check=True,
    )  # fmt: skip


@click.command()
@click.option("--stub", "stubs", multiple=True, type=int, help="Mappings of a stub run; may be given again.")
@click.option(
    "--real",
    "reals",
    multiple=True,
    type=(int, int, int),
    help="Real mappings, how many share a task, and how many tasks a job array (0: none); may be given again.",
)
def main(stubs: tuple[int, ...], reals: tuple[tuple[int, int, int], ...]) -> None:
    if not stubs and not reals:
        stubs = (20, 100)
    print(f"{'':<38}{'mappings':>9}{'tasks':>8}{'submitted':>11}{'seconds':>9}{'ms a task':>13}{'CPU s':>12}{'head, MB':>12}")
    for mappings in stubs:
        print(stub(mappings, 1).row("stub run, on this machine", mappings), flush=True)
    if not reals:
        return
    with tempfile.TemporaryDirectory() as name:
        data, cluster = Path(name), Path(name) / "cluster"
        make_data(data)
        subprocess.run([ROOT / "tools/slurm_cluster", "up", cluster], check=True)
        try:
            for mappings, per_task, array in reals:
                what = f"SLURM, {per_task} to a task, arrays of {array}"
                print(real(mappings, per_task, array, data, cluster).row(what, mappings), flush=True)
        finally:
            subprocess.run([ROOT / "tools/slurm_cluster", "down", cluster], check=True)


if __name__ == "__main__":
    main()
