"""What every command of `bin/` does with its outputs and with faults."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from refmap.common.cli import JSON, OUTPUT, command, part, write_json
from refmap.common.errors import RefmapError
from refmap.common.exhaustion import NO_MEMORY, NO_SPACE
from threadpoolctl import threadpool_info

MORE_THAN_ANY = 1 << 60


def read_too_much():
    """What a reader makes of a file that does not fit into memory."""
    try:
        bytearray(MORE_THAN_ANY)
    except MemoryError as error:
        raise RefmapError("query 'q' cannot be read.") from error


FAILURES = {
    "memory": lambda: bytearray(MORE_THAN_ANY),
    "numpy": lambda: np.ones(MORE_THAN_ANY >> 4),
    "reader": read_too_much,
    "disk": lambda: Path("/dev/full").write_text("anything"),
    "crash": lambda: 1 / 0,
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
}


@command("STAGE")
@click.option("--plan", type=click.Path(path_type=Path))
@click.option("--table", type=OUTPUT, required=True)
@click.option("--folder", type=OUTPUT)
@click.option("--fail", type=click.Choice(["fault", *FAILURES]))
@click.option("--unwritten", is_flag=True)
def work(plan, table, folder, fail, unwritten):
    """Write a file and a folder, and fail between the two."""
    if unwritten:
        return
    write_json(table, "new")
    if fail == "fault":
        raise RefmapError("query 'q' is odd.")
    if fail:
        FAILURES[fail]()
    folder.mkdir()
    write_json(folder / "part.json", "new")


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_json(Path("plan.json"), {"row": {"dataset": "lung", "file_id": "a"}})
    outputs = ["--table", "table.json", "--folder", "folder"]
    return lambda *more: CliRunner().invoke(work, [*outputs, "--plan", "plan.json", *more])


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "plan.json" and not path.name.startswith("."))


def test_outputs_take_the_place_of_those_of_an_earlier_attempt(run, tmp_path):
    (tmp_path / "folder").mkdir()
    write_json(tmp_path / "folder/old.json", "old")
    write_json(tmp_path / "table.json", "old")
    assert run().exit_code == 0
    assert json.loads((tmp_path / "table.json").read_text()) == "new"
    assert left(tmp_path / "folder") == ["part.json"] and left(tmp_path) == ["folder", "table.json"]


@pytest.mark.parametrize("fail", ["fault", "crash"])
def test_nothing_half_written_stays(run, tmp_path, fail):
    result = run("--fail", fail)
    assert result.exit_code == 1 and left(tmp_path) == []


def test_a_fault_goes_to_its_file(run, tmp_path):
    result = run("--fail", "fault", "--fault", "fault.json")
    assert result.exit_code == 0 and left(tmp_path) == ["fault.json"]
    assert json.loads((tmp_path / "fault.json").read_text()) == {
        "dataset": "lung",
        "file_id": "a",
        "stage": "STAGE",
        "message": "query 'q' is odd.",
    }


@pytest.mark.parametrize("fail", ["memory", "numpy", "reader"])
def test_a_lack_of_memory_is_no_fault_of_the_mapping(run, tmp_path, fail):
    """Its exit status is that of a process that was killed for memory, which a workflow tries again."""
    write_json(tmp_path / "table.json", "old")
    result = run("--fail", fail, "--fault", "fault.json")
    assert result.exit_code == NO_MEMORY == 137 and left(tmp_path) == []
    assert result.stderr == "This task has less memory than it needs: give it more.\n"


@pytest.mark.parametrize("full", ["where it works", "where it keeps temporary files"])
def test_a_full_disk_is_named_and_no_fault_of_the_mapping(run, tmp_path, monkeypatch, full):
    """Of the two folders that are written to, that with the least space."""
    elsewhere = tmp_path.parent
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(elsewhere))
    disk = tmp_path if full == "where it works" else elsewhere
    usage = shutil.disk_usage(disk)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=0 if Path(folder) == disk else usage.free))
    result = run("--fail", "disk", "--fault", "fault.json")
    assert result.exit_code == NO_SPACE and left(tmp_path) == []
    assert result.stderr == f"No space is left on the disk that holds {disk}: free some, and run again with -resume.\n"


def test_two_attempts_in_one_folder_do_not_meet(run, tmp_path, monkeypatch):
    """The second starts when the first is half done, as after the loss of a workflow's head."""
    true_write, started = write_json, []

    def write_and_start_another(path, value):
        true_write(path, value)
        if not started:
            started.append("the second")
            started.append(run().exit_code)

    monkeypatch.setitem(work.callback.__wrapped__.__globals__, "write_json", write_and_start_another)
    assert run().exit_code == 0 and started == ["the second", 0]
    assert left(tmp_path) == ["folder", "table.json"] and left(tmp_path / "folder") == ["part.json"]


def test_an_output_that_is_not_written_leaves_no_old_one(run, tmp_path):
    write_json(tmp_path / "table.json", "old")
    assert run("--unwritten").exit_code == 0 and left(tmp_path) == []


def each(tmp_path: Path, mappings: dict[str, dict], *shared: str, at_once: int = 1) -> subprocess.CompletedProcess:
    """Call the command for several mappings, each with its plan, in a process that has not computed with threads."""
    for name in mappings:
        write_json(tmp_path / f"{name}.plan", {"row": {"dataset": "lung", "file_id": name}})
    write_json(tmp_path / "each.json", {name: {"plan": f"{name}.plan"} | own for name, own in mappings.items()})
    words = ["--each", "each.json", "--at-once", str(at_once)]
    words += ["--table", "tables/{}.json", "--folder", "folders/{}", "--fault", "{}.fault", *shared]
    return called(tmp_path, "work", words)


def started(command: str, words: list[str]) -> list[str]:
    """What starts a command of this file in a process of its own."""
    code = f"import sys; sys.path[:0] = {sys.path!r}; from test_cli import {command}; {command}()"
    return [sys.executable, "-c", code, *words]


def called(folder: Path, command: str, words: list[str], **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        started(command, words),
        cwd=folder,
        text=True,
        capture_output=True,
        timeout=100,
        env=os.environ | environment,
    )


@pytest.mark.parametrize("at_once", [1, 2, 9])
def test_a_mapping_is_hurt_by_no_other_of_its_call(tmp_path, at_once):
    own = {
        "a": {},
        "odd": {"fail": "fault"},
        "killed": {"fail": "killed"},
        "crashed": {"fail": "crash"},
        "z": {"unwritten": None},
    }
    done = each(tmp_path, own, at_once=at_once)
    assert done.returncode == 0, done.stderr
    assert [left(tmp_path / folder) for folder in ("tables", "folders")] == [["a.json", "z.json"], ["a", "z"]]
    assert json.loads((tmp_path / "odd.fault").read_text())["file_id"] == "odd"
    assert [path.name for path in tmp_path.glob("*.fault")] == ["odd.fault"]
    assert "killed ended with status -9" in done.stderr and "crashed ended with status 1" in done.stderr
    told = [line for line in done.stdout.splitlines() if line.startswith("==")]
    assert told == [f"== {name}" for name in own] if at_once == 1 else sorted(told) == sorted(f"== {name}" for name in own)
    # What each said at the same time stands under its name, and nowhere else
    assert "ZeroDivisionError" in (done.stderr if at_once == 1 else done.stdout.split("== crashed\n")[1].split("== ")[0])
    assert not list(tmp_path.glob("*.log"))


@command("STAGE")
@click.option("--own", required=True)
@click.option("--other", required=True)
@click.option("--table", type=OUTPUT, required=True)
def meet(own, other, table):
    """Wait for another mapping, which waits for this one; write the threads that both have."""
    Path(own).touch()
    print(f"{own} waits", flush=True)
    until = time.monotonic() + 60
    while not Path(other).exists():
        assert time.monotonic() < until, f"{other} has not come"
        time.sleep(0.01)
    numbers = {library["num_threads"] for library in threadpool_info()}
    write_json(table, [os.environ["OMP_NUM_THREADS"], os.environ["NUMBA_NUM_THREADS"], *numbers])


def test_mappings_that_are_done_at_once_share_the_threads(tmp_path):
    write_json(tmp_path / "each.json", {"a": {"own": "a.here", "other": "b.here"}, "b": {"own": "b.here", "other": "a.here"}})
    threads = {"OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "3"}
    done = called(tmp_path, "meet", ["--each", "each.json", "--at-once", "2", "--table", "{}.json"], **threads)
    assert done.returncode == 0 and sorted(done.stdout.split("== ")) == ["", "a\na.here waits\n", "b\nb.here waits\n"], done
    # numpy, which was there before, computes with as many
    assert [json.loads((tmp_path / f"{name}.json").read_text()) for name in "ab"] == [["1", "1", 1]] * 2


def test_of_what_is_done_at_once_the_log_is_read_meanwhile(tmp_path):
    """A task that is killed has what its mappings said."""
    calls = {name: {"own": f"{name}.here", "other": "never"} for name in "ab"}
    write_json(tmp_path / "each.json", calls)
    words = ["--each", "each.json", "--at-once", "2", "--table", "{}.json"]
    with subprocess.Popen(started("meet", words), cwd=tmp_path, start_new_session=True) as process:
        until = time.monotonic() + 60
        logs = [tmp_path / f"{name}.log" for name in "ab"]
        while not all(log.exists() and log.read_text() for log in logs):
            assert time.monotonic() < until
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    assert [log.read_text() for log in logs] == ["a.here waits\n", "b.here waits\n"]


@pytest.mark.parametrize("number", ["0", "many"])
def test_a_number_of_mappings_at_once_is_at_least_one(tmp_path, number):
    write_json(tmp_path / "each.json", {name: {} for name in "ab"})
    done = called(tmp_path, "work", ["--each", "each.json", "--at-once", number, "--table", "{}.json"])
    assert done.returncode == 2 and number in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.glob("?.json"))


def test_one_mapping_alone_ends_as_its_process_does(tmp_path):
    done = each(tmp_path, {"a": {}}, "--fail", "memory")
    assert done.returncode == NO_MEMORY and "less memory than it needs" in done.stderr
    assert each(tmp_path, {"a": {"unwritten": True}}).returncode == 0 and left(tmp_path / "tables") == []


def draw(table, picture, fail):
    """The second stage: a picture of the table that the first wrote."""
    write_json(picture, [json.loads(table.read_text())])
    if fail:
        raise RefmapError("query 'q' is odd.") if fail == "fault" else FAILURES[fail]()


@command("STAGE", then=("SECOND", draw))
@click.option("--plan", type=click.Path(path_type=Path))
@click.option("--table", type=OUTPUT, required=True)
@click.option("--picture", type=OUTPUT, required=True)
@click.option("--fail")
@click.option("--fail-first", type=click.Choice(["fault", *FAILURES]))
def twice(plan, table, fail_first):
    """Write a table, and fail or not; then draw it, and fail or not."""
    with part("PART"):
        write_json(table, "new")
        if fail_first:
            raise RefmapError("query 'q' is odd.") if fail_first == "fault" else FAILURES[fail_first]()


@pytest.mark.parametrize(
    ("words", "status", "stays", "stage"),
    [
        ([], 0, ["picture", "table"], None),
        (["--fail", "fault"], 0, ["fault", "table"], "SECOND"),
        (["--fail", "killed"], 137, ["table"], None),
        (["--fail", "memory"], NO_MEMORY, ["table"], None),
        (["--fail", "killed", "--last-attempt"], 0, ["table"], None),
        (["--fail-first", "fault"], 0, ["fault"], "PART"),
        (["--fail-first", "killed", "--last-attempt"], 137, [], None),
    ],
    ids=["both", "fault", "killed", "memory", "killed at last", "fault of a part", "killed before"],
)
def test_what_ends_a_second_stage_leaves_what_the_first_wrote(tmp_path, monkeypatch, words, status, stays, stage):
    monkeypatch.chdir(tmp_path)
    write_json(Path("plan.json"), {"row": {"dataset": "lung", "file_id": "a"}})
    write_json(Path("fault"), "that of an earlier attempt")
    outputs = [word for name in ("table", "picture", "fault") for word in (f"--{name}", name)]
    done = CliRunner().invoke(twice, ["--plan", "plan.json", *outputs, *words])
    assert done.exit_code == status and left(tmp_path) == stays
    if "picture" in stays:
        assert json.loads(Path("picture").read_text()) == ["new"]
    assert (json.loads(Path("fault").read_text())["stage"] if "fault" in stays else None) == stage


def test_mappings_are_named_before_all_else(run, tmp_path):
    assert "--each stands before all other options" in run("--each", "plan.json").output


def test_an_object_is_given_as_text_or_as_a_file(tmp_path):
    write_json(tmp_path / "row.json", {"a": [1, None]})
    assert (
        JSON.convert('{"a": [1, null]}', None, None) == JSON.convert(str(tmp_path / "row.json"), None, None) == {"a": [1, None]}
    )


def test_a_line_is_in_the_log_as_soon_as_it_is_said():
    """A task that is killed, or still running, has said what it said."""
    program = """
import os, sys
sys.path.insert(0, sys.argv.pop(1))
from refmap.common.cli import command
@command("TRAIN_SURGERY")
def train():
    print("epoch 1/100")
    os._exit(0)
train()
"""
    root = Path(__file__).resolve().parents[3] / "bin"
    assert subprocess.run([sys.executable, "-c", program, root], capture_output=True, text=True).stdout == "epoch 1/100\n"
