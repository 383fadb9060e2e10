#!/usr/bin/env python
"""All benchmarks of time and memory in one run, and docs/performance.md with its picture from what they found: `make bench`.

An hour or two on two free cores; `--quick` takes fewer cells and some minutes, and leaves the page below results/quick. Rows are added
to a file, where the last of its kind counts: what was measured before stays, `--only` measures a part anew, and `--page-only` writes
the page again. Run with the core environment, beside which the environments `scvi` and `scarches` have to be:

    python bench/performance.py [--quick] [--only files] [--rows results/performance.jsonl]
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import click
from lib.measuring import ROOT, ROWS, read_rows
from lib.page import write_page

SIZES = [10_000, 100_000, 1_000_000]
# Environment and commands of each benchmark: of fewer cells, and of those that the page is for
PLAN = {
    "engine": ("scvi", ["--rounds 2"], ["--cells 20000 --rounds 2"]),
    "files": ("core", ["--cells 5000 --rounds 2"], ["--cells 10000 --cells 100000 --rounds 3"]),
    "labels": (
        "core",
        ["--reference 50000 --query 10000 --tried 500 --rounds 2"],
        ["--reference 500000 --query 100000 --tried 1000 --rounds 2"],
    ),
    "figures": ("core", ["--cells 5000 --rounds 2"], ["--cells 20000 --rounds 2"]),
    "joint": ("core", ["--cells 10000"], ["--cells 20000 --cells 200000 --plain 200000"]),
    "mapping": ("core", ["--rounds 1"], ["--rounds 2", "--cells 10000 --rounds 1"]),
    "resources": ("core", ["--cells 2000 --cells 10000"], [" ".join(f"--cells {size}" for size in SIZES)]),
}


@click.command(context_settings={"show_default": True})
@click.option("--quick", is_flag=True, help="Fewer cells; rows and page below results/quick.")
@click.option("--only", multiple=True, type=click.Choice(list(PLAN)), help="A benchmark; may be given again.")
@click.option("--page-only", is_flag=True, help="Measure nothing.")
@click.option("--rows", type=click.Path(path_type=Path), help="What was measured: JSON lines, by default below results/.")
@click.option("--page", type=click.Path(path_type=Path), help="The page to write, by default docs/performance.md.")
def main(quick: bool, only: tuple[str, ...], page_only: bool, rows: Path | None, page: Path | None) -> None:
    """Run the benchmarks and write the page; fail if one of them failed."""
    below = ROOT / "results/quick" if quick else ROOT / "results"
    rows = (rows or below / "performance.jsonl").resolve()
    page = (page or (below if quick else ROOT / "docs") / "performance.md").resolve()
    picture, failed = page.parent / "images/performance.svg", []
    for folder in (rows.parent, picture.parent):
        folder.mkdir(parents=True, exist_ok=True)
    for name in () if page_only else only or PLAN:
        env, *commands = PLAN[name]
        for options in commands[0 if quick else 1]:
            print(f"== bench/{name}.py {options}", flush=True)
            script = (
                f". '{ROOT}/containers/activate' {env} && export OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1"
                f" && python '{ROOT}/bench/{name}.py' {options}"
            )
            if subprocess.run(["bash", "-c", script], env=os.environ | {ROWS: str(rows)}).returncode:
                failed.append(f"{name}.py {options}")
    write_page(read_rows(rows), SIZES, page, picture)
    print(f"{page} and {picture} are written, from {rows}")
    if failed:
        raise SystemExit(f"These failed: {', '.join(failed)}.")


if __name__ == "__main__":
    main()
