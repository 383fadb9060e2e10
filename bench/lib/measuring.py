"""What a command takes, and two ways to the same thing by turns: CPU seconds and memory of child processes, as rows of one schema."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GB = 1 << 30
OURS = "refmap"
# Environment variables: the file that rows are added to, and the one that a child says its parts in
ROWS, PARTS = "REFMAP_BENCH_ROWS", "REFMAP_BENCH_PARTS"


class Failed(Exception):
    """A command that did not end well; its text is what it printed."""


@dataclass(frozen=True)
class Spent:
    """What a command took, its children included.

    cpu     seconds of CPU, from the start of Python to the end
    wall    seconds of the clock
    peak    the most bytes held at once
    parts   seconds of CPU of what it called a :func:`part`
    """

    cpu: float
    wall: float
    peak: int
    parts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One measured run of one way to do something, or why there is none.

    what      what was done: a step of the pipeline by its name, or a task that others do too
    way       `refmap`, or the library
    cells     of the query, or of the reference where the step is one of it
    round     from 0; rows of the same round were measured one after the other
    cpu       seconds of CPU; None where it was not run
    peak      the most bytes that the process held, Python and its libraries among them; None where it was not run
    note      why it was not run, or what is to be known of it
    of        so many of the cells were done, and `cpu` is extrapolated from these; None: all
    commit    of refmap
    machine   processor, cores and memory
    load      processes that wanted a core at the end, over the last minute: above the number of cores, others had a share
    """

    what: str
    way: str
    cells: int
    round: int = 0
    cpu: float | None = None
    peak: int | None = None
    note: str | None = None
    of: int | None = None
    commit: str = ""
    machine: str = ""
    load: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Something that refmap and a library do: medians over the rounds, and the least, median and greatest ratio of CPU in a round."""

    what: str
    library: str
    cells: int
    rounds: int
    ours: float
    theirs: float
    ratios: tuple[float, float, float]
    our_peak: int
    their_peak: int
    of: int | None = None

    def __str__(self) -> str:
        least, ratio, most = self.ratios
        return (
            f"{self.what:<34}{self.cells:>10,}  refmap {self.ours:>8.2f} s{self.our_peak / GB:>6.2f} GB   {self.library:<24}"
            f"{self.theirs:>8.2f} s{self.their_peak / GB:>6.2f} GB   {ratio:.2f} times ({least:.2f}-{most:.2f})"
        )


def _resident(pid: int) -> tuple[int, int]:
    """The bytes that a process and its descendants hold, and the most that one of them ever held."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it ended meanwhile
        return 0, 0
    fields = dict(line.split(":", 1) for line in status.splitlines())
    held, most = (int(fields.get(name, "0").split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    for child in children:
        more, one = _resident(int(child))
        held, most = held + more, max(most, one)
    return held, most


def run(env: str, command: str, threads: int = 1) -> Spent:
    """Run a command of `bin/`, or of `../bench/`, in an environment.

    Raises Failed if it ends with an error or writes a fault.
    """
    # Threads that wait sleep: else their waiting would count as CPU time on a busy machine
    settings = (
        f"OMP_NUM_THREADS={threads} NUMBA_NUM_THREADS={threads} OMP_WAIT_POLICY=passive MPLBACKEND=Agg PYTHONWARNINGS=ignore"
    )
    peak = 0
    with tempfile.TemporaryDirectory() as folder, open(f"{folder}/said", "w+") as said:
        script = (
            f". '{ROOT}/containers/activate' {env} && export {settings} {PARTS}={folder}/parts && exec '{ROOT}'/bin/{command}"
        )
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        process = subprocess.Popen(["bash", "-c", script], stdout=said, stderr=subprocess.STDOUT)
        while process.poll() is None:
            peak = max(peak, *_resident(process.pid))
            time.sleep(0.05)
        wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        said.seek(0)
        if process.returncode or list(Path().glob("*.fault.json")):
            raise Failed(f"{command}\n{said.read()}\nIt ended with status {process.returncode}.")
        told = Path(f"{folder}/parts")
        parts = dict(map(json.loads, told.read_text().splitlines())) if told.exists() else {}
    return Spent(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall, peak, parts)


@contextmanager
def part(what: str) -> Iterator[None]:
    """Within a child: a part of its work, whose CPU seconds are told to the one that measures it; imports are best left out."""
    start = time.process_time()
    yield
    tell(what, time.process_time() - start)


def tell(what: str, cpu: float) -> None:
    """Within a child: the CPU seconds of a part of its work, where these are more than it took, as of some cells alone."""
    if PARTS in os.environ:
        with open(os.environ[PARTS], "a") as told:
            told.write(json.dumps([what, cpu]) + "\n")


def commit() -> str:
    """The last one that changed what is measured, with a plus where it was changed since."""
    git, code = ["git", "-C", str(ROOT)], ["--", "bin", "containers"]
    said = subprocess.run([*git, "log", "-1", "--format=%h", *code], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", *code], capture_output=True).returncode == 1
    return (said or "unknown") + "+" * changed


def machine() -> str:
    """Its processor, cores and memory."""
    fields = [line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line]
    known = {name.strip(): value.strip() for name, value in fields}
    name = known.get("model name", platform.machine())
    model = f", family {known['cpu family']} model {known['model']}" if "cpu family" in known else ""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GB
    return f"{name}{model}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GB"


def record(row: Row) -> Row:
    """Add a row to the file that is asked for, if one is, with what it was measured on."""
    row = Row(**asdict(row) | {"commit": commit(), "machine": machine(), "load": round(os.getloadavg()[0], 1)})
    if ROWS in os.environ:
        with open(os.environ[ROWS], "a") as rows:
            rows.write(json.dumps(asdict(row)) + "\n")
    return row


def read_rows(path: Path) -> list[Row]:
    return [Row(**json.loads(line)) for line in path.read_text().splitlines()]


def alternate(
    what: str, cells: int, ways: dict[str, tuple[str, str]], rounds: int, of: dict[str, int] | None = None
) -> list[Row]:
    """Run ways to the same thing by turns, as children, in every other round in the other order; return and record the rows.

    Parameters
    ----------
    what
        What they do, where a command names no :func:`part`; else there is a row for each part.
    ways
        Environment and command by `refmap` and the libraries.
    of
        Cells that a way does, where these are not all, and of which it extrapolates what it tells.

    A way that fails once has a row that says so, and is not tried again.
    """
    rows, failed = [], set()
    for number in range(rounds):
        for way, (env, command) in list(ways.items())[:: -1 if number % 2 else 1]:
            if way in failed:
                continue
            try:
                spent = run(env, command)
            except Failed as error:
                failed.add(way)
                rows.append(record(Row(what, way, cells, number, note=str(error).splitlines()[-1])))
                print(f"{what}, {way}: {error}", flush=True)
                continue
            some = (of or {}).get(way, cells)
            for name, cpu in (spent.parts or {what: spent.cpu}).items():
                print(f"{name:<34}{cells:>10,}  {way:<24}{cpu:>8.2f} s of CPU{spent.peak / GB:>7.2f} GB", flush=True)
                rows.append(record(Row(name, way, cells, number, cpu, spent.peak, of=None if some == cells else some)))
    for comparison in compare(rows):
        print(comparison, flush=True)
    return rows


def compare(rows: Iterable[Row]) -> list[Comparison]:
    """What refmap and a library both did, of as many cells, in the order of the rows."""
    by_way: dict[tuple[str, int], dict[str, dict[int, Row]]] = {}
    for row in rows:
        if row.cpu is not None:
            by_way.setdefault((row.what, row.cells), {}).setdefault(row.way, {})[row.round] = row
    found = []
    for (what, cells), ways in by_way.items():
        own = ways.pop(OURS, {})
        for library, theirs in ways.items():
            both = sorted(own.keys() & theirs.keys())
            if not both:
                continue
            ratios = [theirs[number].cpu / own[number].cpu for number in both]
            cpu, peak = (
                [statistics.median(getattr(side[number], name) for number in both) for side in (own, theirs)]
                for name in ("cpu", "peak")
            )
            spread = (min(ratios), statistics.median(ratios), max(ratios))
            found.append(Comparison(what, library, cells, len(both), *cpu, spread, *peak, theirs[both[0]].of))
    return found
