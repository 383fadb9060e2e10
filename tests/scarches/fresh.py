"""Run code in fresh processes, each of which has imported the libraries and nothing else: importing them takes the most time.

A line of JSON comes in: {"code", "arguments"}. A fork of this process, which runs no code itself, runs it with these arguments as
`sys.argv[1:]`. A line of JSON goes out: {"error"}, None if all went well and otherwise what the code said.
"""

import json
import os
import signal
import sys
import tempfile
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bin"))
# What the libraries and the code print must not get among the answers.
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import anndata  # noqa: E402, F401
import scarches.models  # noqa: E402, F401
import scHPL  # noqa: E402, F401

SECONDS = 300


def run(code: str, arguments: list[str], log: Path) -> None:
    """Run the code in this process, and end it."""
    signal.alarm(SECONDS)
    said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1), os.dup2(said, 2)
    sys.argv = ["-c", *arguments]
    status = 1
    try:
        exec(compile(code, "<code>", "exec"), {"__name__": "__main__"})
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)


with tempfile.TemporaryDirectory() as folder:
    log = Path(folder) / "said"
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if child == 0:
            run(asked["code"], asked["arguments"], log)
        status = os.waitpid(child, 0)[1]
        error = f"it ended with status {status}: {log.read_text()}" if status else None
        print(json.dumps({"error": error}), file=answers, flush=True)
