"""What the commands in `bin/` share: options, and how a fault in the input is reported."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import multiprocessing.connection
import os
import resource
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
from threadpoolctl import threadpool_limits

from .errors import RefmapError
from .exhaustion import MachineFault, exhaustion

INPUT = click.Path(exists=True, path_type=Path)
OUTPUT = click.Path(path_type=Path)
AT_ONCE = click.IntRange(min=1)
FORK = multiprocessing.get_context("fork")
# What says how many threads a library computes with, where it says so.
THREADS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")
# How every command shows its help.
STYLE = {"context_settings": {"show_default": True, "help_option_names": ["-h", "--help"]}}


class JsonObject(click.ParamType):
    """A JSON object: the text itself, or the file that holds it."""

    name = "json"

    def convert(self, value, param, context):
        if isinstance(value, dict):
            return value
        return json.loads(value if value.startswith("{") else Path(value).read_text())


JSON = JsonObject()


def read_json(path: Path) -> dict:
    return json.loads(Path(path).read_text())


def write_json(path: Path, value: object) -> None:
    Path(path).write_text(json.dumps(value, indent=2) + "\n")


def remove(path: Path) -> None:
    """Remove a file or a folder if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def attempt(stage: str, outputs: dict[str, Path], fault: Path | None, row: dict, work: Callable[..., object]) -> None:
    """Call `work` with a path to write each of the `outputs` to, all of which then appear whole or not at all.

    The folders that they lie in are made where they are not there. They take the place of what an earlier attempt left: a workflow
    that lost its head runs a task again in the folder where the first may still be running. A :class:`RefmapError` is told as
    :func:`command` says.
    """
    try:
        with ExitStack() as scratch:
            for path in outputs.values():
                path.parent.mkdir(parents=True, exist_ok=True)
            folders = {
                parent: Path(scratch.enter_context(tempfile.TemporaryDirectory(prefix=".", dir=parent)))
                for parent in {path.parent for path in outputs.values()}
            }
            written = {name: folders[path.parent] / path.name for name, path in outputs.items()}
            with exhaustion():
                work(**written)
            for name, path in outputs.items():
                remove(path)
                if written[name].exists():
                    written[name].rename(path)
    except (RefmapError, MachineFault) as error:
        for path in outputs.values():
            remove(path)
        print(error, file=sys.stderr)
        if fault is None or isinstance(error, MachineFault):
            sys.exit(getattr(error, "status", 1))
        stage = getattr(error, "stage", stage)
        write_json(fault, {"dataset": row.get("dataset"), "file_id": row.get("file_id"), "stage": stage, "message": str(error)})


@contextmanager
def part(stage: str) -> Iterator[None]:
    """A part of a command's work, of which a :class:`RefmapError` names `stage` as where it came up."""
    try:
        yield
    except RefmapError as error:
        error.stage = stage
        raise


def hush_libraries() -> None:
    """Keep the libraries' advice to programmers out of a log that says a line an epoch."""
    warnings.filterwarnings("ignore", module="lightning|scvi|anndata|torch|scarches")
    warnings.filterwarnings("ignore", message="Sparse (invariant|CSR)")  # torch's, of the module that calls it


def set_apart(work: Callable[[], object]) -> int:
    """Call `work` in a process of its own, which holds what this one has imported; return its exit status, negative for a signal."""
    process = FORK.Process(target=work)
    process.start()
    process.join()
    return process.exitcode


def side_by_side(works: dict[str, Callable[[], object]], at_once: int) -> Iterator[tuple[str, int]]:
    """Call each of `works` in a process of its own, so many of them at once; yield the names and exit statuses as they end.

    What each says is told under its name. Of several at once it is in the file ``NAME.log`` until then.
    """
    waiting, running = list(works.items()), {}
    while waiting or running:
        while waiting and len(running) < at_once:
            name, work = waiting.pop(0)
            log = Path(f"{name}.log") if at_once > 1 else None
            if not log:
                print(f"== {name}", flush=True)
            process = FORK.Process(target=functools.partial(_saying_into, log, work) if log else work)
            process.start()
            running[process.sentinel] = name, log, process
        for sentinel in multiprocessing.connection.wait(running):
            name, log, process = running.pop(sentinel)
            process.join()
            if log:
                print(f"== {name}\n{log.read_text(errors='replace')}", end="", flush=True)
                log.unlink()
            yield name, process.exitcode


def _saying_into(log: Path, work: Callable[[], object]) -> None:
    """Call `work`, with all that is said on the way written to a file."""
    with log.open("wb") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    work()


def divide_threads(by: int) -> None:
    """Leave each of so many processes that are forked from this one its part of the threads that this one has, at least one.

    The variables are for the libraries that are imported from here on, the limit is for those that are there.
    """
    shares = {name: max(1, int(os.environ[name]) // by) for name in THREADS if name in os.environ}
    os.environ.update({name: str(share) for name, share in shares.items()})
    threadpool_limits(min(shares.values(), default=None))


def _told(status: int) -> int:
    """The exit status that tells of that of a process set apart."""
    return status if status >= 0 else 128 - status


def within(seconds: int, work: Callable[[], object]) -> bool:
    """Call `work` in a process of its own that has so many seconds of CPU time; whether they sufficed.

    A library may go round in circles over a damaged file, where nothing else can stop it.
    """

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 60))
        try:
            with exhaustion():
                work()
        except MachineFault as error:
            print(error, file=sys.stderr)
            sys.exit(error.status)

    status = set_apart(limited)
    if status not in (0, -signal.SIGXCPU):
        sys.exit(_told(status))
    return status == 0


class MappingCommand(click.Command):
    """A command for one mapping, which ``--each FILE`` as its first words calls for several: see :func:`command`."""

    libraries: Callable[[dict], Iterable[str]]

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        if args[:1] == ["--each"] and len(args) > 1:
            at_once, shared = 1, args[2:]
            if shared[:1] == ["--at-once"] and len(shared) > 1:
                at_once, shared = AT_ONCE.convert(shared[1], None, context), shared[2:]
            self.call_each(read_json(Path(args[1])), at_once, shared)
            context.exit()
        return super().parse_args(context, args)

    def call_each(self, mappings: dict[str, dict], at_once: int, shared: list[str]) -> None:
        calls = {name: [*_words(options), *(word.replace("{}", name) for word in shared)] for name, options in mappings.items()}
        if len(calls) == 1:  # which exits by itself, with its own status
            self.main(*calls.values())
        at_once = min(at_once, len(calls))
        divide_threads(at_once)
        for library in self.libraries(self.make_context(self.name, [*next(iter(calls.values()))]).params):
            importlib.import_module(library)
        for name, status in side_by_side({name: functools.partial(self.main, words) for name, words in calls.items()}, at_once):
            if status:
                print(f"{name} ended with status {status}, without a result", file=sys.stderr)


def _words(options: dict) -> list[str]:
    """Options as they would stand on a command line; what is null or false is not given."""
    words = []
    for name, value in options.items():
        if value is not None and value is not False:
            words.append(f"--{name.replace('_', '-')}")
            words += [] if value is True else [json.dumps(value) if isinstance(value, dict) else str(value)]
    return words


def command(
    stage: str, libraries: Callable[[dict], Iterable[str]] = lambda options: (), then: tuple[str, Callable] | None = None
) -> Callable:
    """Make a click command whose :class:`RefmapError` stops one mapping and not the run.

    With ``--fault PATH`` the sentence goes into that JSON file (``dataset``, ``file_id``, ``stage``, ``message``) and the
    command succeeds, so that a workflow can go on and a resumed one need not try again; without it the sentence goes to
    stderr and the exit status is 1. A command that serves one mapping has an option ``row``, or ``plan`` whose JSON holds it.
    Where the machine is at fault, as when memory or disk space ran out, there is a sentence on stderr, an exit status that says
    so, and never a fault.

    What the options declared as `OUTPUT` name appears whole, at the end, or not at all.

    `then` is a second stage and its function, which has of the options those that it names, the outputs of the first where they
    are by then. Each of the two runs in a process of its own, so that whatever ends the second leaves the outputs of the first
    whole, and both hold the modules that `libraries` names; with ``--last-attempt`` the command succeeds then.

    Several mappings are one call: ``--each FILE``, a JSON object of their names with the options that each has for itself, and
    ``--at-once N``, 1 where it is not said; then the options that all have, in which ``{}`` stands for the name. Each is done in
    a process of its own, N of them at a time, which share this one's threads, and hold the modules that `libraries` names by the
    options of the first, beside those that the command imports: one that is killed hurts no other, and leaves neither a result
    nor a fault. The exit status is 0 then, and that of the one where there is one.
    """

    def decorate(function: Callable) -> click.Command:
        @click.option("--fault", type=OUTPUT, help="Write what is wrong with the input to this file and exit with 0.")
        @click.option(
            "--each", type=INPUT, help="First of all: the mappings, JSON of options by name; {} is then a mapping's name."
        )
        @click.option("--at-once", type=AT_ONCE, help="Right after --each FILE: how many of the mappings are done at a time.")
        @functools.wraps(function)
        def run(fault: Path | None, each: Path | None, at_once: int | None, last_attempt: bool = False, **options):
            if each or at_once:
                raise click.UsageError("--each stands before all other options, and --at-once right after it.")
            # A log is read while its task runs
            sys.stdout.reconfigure(line_buffering=True)
            outputs = {
                parameter.name: options.pop(parameter.name)
                for parameter in click.get_current_context().command.params
                if parameter.type is OUTPUT and parameter.name != "fault" and options[parameter.name]
            }
            row = options.get("row") or (read_json(options["plan"])["row"] if options.get("plan") else {})

            def work(stage: str, function: Callable) -> Callable[[], None]:
                named = inspect.signature(function).parameters
                own = {name: outputs.pop(name) for name in outputs.keys() & named}
                given = {name: value for name, value in options.items() if name in named}
                options.update(own)
                return functools.partial(attempt, stage, own, fault, row, functools.partial(function, **given))

            if not then:
                work(stage, function)()
                return
            if fault:
                remove(fault)
            for library in libraries(options):
                importlib.import_module(library)
            if status := set_apart(work(stage, function)):
                sys.exit(_told(status))
            if fault and fault.exists():
                return
            if status := set_apart(work(*then)):
                print(f"{then[0]} ended with status {status}, without a result", file=sys.stderr)
                sys.exit(0 if last_attempt else _told(status))

        if then:
            run = click.option("--last-attempt", is_flag=True, help=f"Succeed even if {then[0]} ends without a result.")(run)
        made = click.command(cls=MappingCommand, **STYLE)(run)
        made.libraries = libraries
        return made

    return decorate
