"""Runs commands of `bin/` one after the other, each in a fork of this process, and counts what each of them imports and opens.

    python tests/counted.py calls.json > counted.json

`calls.json` lists [name of the command, words]; what is printed is, by the command's name, `imported`, the libraries that it holds at
its end beside those of this process before, and `opened`, how often each file of a zarr's array was opened. What a command would do
in processes of its own it does in this one.
"""

import importlib
import json
import multiprocessing
import re
import sys
from collections import Counter
from pathlib import Path

import anndata  # noqa: F401  which every command imports, once for all of them here

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bin"))


def call(name: str, words: list[str], into: Path) -> None:
    opened = Counter()

    def hear(event: str, arguments: tuple) -> None:
        if event == "open" and isinstance(arguments[0], str) and (found := re.search(r"[^/]+\.zarr/.*/\d+$", arguments[0])):
            opened[found[0]] += 1

    from refmap.common import cli

    cli.set_apart = lambda work: work() or 0
    before = set(sys.modules)
    sys.addaudithook(hear)
    module = importlib.import_module(name)
    (command,) = [value for value in vars(module).values() if hasattr(value, "params")]
    command.main(words, standalone_mode=False)
    imported = {module.partition(".")[0] for module in set(sys.modules) - before}
    into.write_text(json.dumps({"imported": sorted(imported), "opened": opened}))


if __name__ == "__main__":
    counted, into = {}, Path("counted.json")
    for name, words in json.loads(Path(sys.argv[1]).read_text()):
        process = multiprocessing.get_context("fork").Process(target=call, args=(name, words, into))
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(f"{name} ended with status {process.exitcode}.")
        counted[name] = json.loads(into.read_text())
    print(json.dumps(counted))
