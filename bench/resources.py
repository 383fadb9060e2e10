#!/usr/bin/env python
"""Memory and time that each step takes by the size of its query, beside what conf/base.config asks for (docs/scale.md).

Without options, small queries and one kind of model, in some minutes; `--full` measures all that docs/scale.md shows. `--cells N`,
which may be given again, measures queries and references of so many cells x 30,000 genes instead, with all that the reference's
cells are taken for (docs/performance.md); made ones, or real ones that are drawn again and thinned (`--source`):

    python bench/resources.py --cells 10000 --cells 100000 [--large 100000]
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import pandas as pd
from lib.made import GENES, Source, write_cells
from lib.measuring import GB, OURS, ROOT, Failed, Row, record, run
from lib.steps import Steps, ask_for_reference, cells_steps, mapping_steps, prepare, reference_steps
from scipy.optimize import nnls

UNITS = {"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": GB, "ms": 0.001, "s": 1, "m": 60, "h": 3600}
ENVS = {"scanvi": "scvi", "scpoli": "scarches", "treearches": "scvi"}
EPOCHS = 1


@dataclass(frozen=True)
class Data:
    """A query, or the atlas that a model is trained on: cells x genes."""

    cells: int
    genes: int = 2_000
    form: str = "h5ad"
    depth: int = 1_500
    source: Source | None = field(default=None, repr=False, compare=False)

    def write(self, path: str, *batches: str) -> None:
        # Of 2,000 genes, those that a model was trained on, a cell has fewer counts
        depth = min(self.depth, self.genes // 4)
        write_cells(Path(path), self.cells, self.genes, depth, batches or ("d1", "d2"), self.form, self.source)

    def __str__(self) -> str:
        return f"{self.cells:,} x {self.genes:,} {self.form}"


# (family, its atlas, queries)
QUICK = [("scanvi", Data(2_000), [Data(2_000), Data(20_000)])]
FULL = [
    (
        "scanvi",
        Data(2_000),
        [
            *(Data(cells) for cells in (2_000, 20_000, 100_000)),
            *(Data(20_000, 30_000, form) for form in ("h5ad", "zarr", "dense")),
            Data(200_000, 30_000),
        ],
    ),
    ("scanvi", Data(10_000, 8_000), [Data(20_000, 8_000)]),
    ("scpoli", Data(2_000), [Data(2_000), Data(30_000)]),
    ("treearches", Data(10_000), [Data(2_000), Data(30_000)]),
]


def requests(step: str, size: dict) -> tuple[float, float]:
    """The bytes and the seconds that conf/base.config asks for a step's first attempt, without a GPU and without job arrays.

    A step without a formula of its own has what stands first in the file.
    """
    text = (ROOT / "conf" / "base.config").read_text()
    own = [
        body
        for names, body in re.findall(r"withName: '([A-Z_|]+)' \{\n(.*?)\n    \}", text, re.DOTALL)
        if step in names.split("|")
    ]

    def asked(directive: str) -> float:
        closure = rf"^ +{directive} += \{{(.*?) \* task\.attempt\s+\}}"
        (formula, *_) = [found[1] for body in [*own, text] if (found := re.search(closure, body, re.DOTALL | re.MULTILINE))]
        # What an array asks for, and a GPU; the rest as Python has it
        formula = re.sub(r"task\.index \? (.+?) : [^()\n]*(\([^()]*\)[^()\n]*)*", r"\1", formula)
        formula = re.sub(r"\(params\.gpu\S* \? \S+ : (\S+?)\)", r"\1", formula).replace("Math.min", "min")
        formula = formula.replace("task.accelerator ? 1 : ", "")
        formula = re.sub(r"\[(.*?)\]\.max\(\)", r"max(\1)", formula)
        formula = re.sub(r"\b(\d[\d.]*)\.([A-Za-z]+)", lambda found: str(float(found[1]) * UNITS[found[2]]), formula)
        *definitions, last = [line.strip() for line in formula.strip().splitlines() if "params." not in line]
        known = {"size": SimpleNamespace(**size), "task": SimpleNamespace(cpus=2)}
        exec("\n".join(line.removeprefix("def ") for line in definitions), known)
        return eval(last, known)

    return asked("memory"), asked("time")


def stored(matrix: Path, epochs: int) -> dict:
    """The size of an aligned matrix and of its training, as the pipeline takes it."""
    cells, genes = json.loads((matrix / ".zattrs").read_text())["shape"]
    (values,) = json.loads((matrix / "data" / ".zarray").read_text())["shape"]
    return {
        "cells": cells,
        "genes": genes,
        "values": values,
        **dict.fromkeys(("passes", "all_passes"), cells * (epochs + 2)),
        "all_cells": cells,
        "mappings": 1,
    }


def measure(family: str, data: Data, steps: Steps, size_of: Callable[[str], dict]) -> list[dict]:
    """Run steps; a row of the table for each. `size_of` gives a step's size once it has been run.

    Raises Failed where a step does not end well.
    """
    rows = []
    for step, (env, command) in steps.items():
        try:
            spent = run(env, command)
        except Failed as error:
            record(Row(step, OURS, data.cells, note=str(error).splitlines()[-1]))
            raise
        record(Row(step, OURS, data.cells, cpu=spent.cpu, peak=spent.peak, note=epochs_of(step)))
        rows.append({"step": step, "family": family, "data": data, **size_of(step), "cpu": spent.cpu, "peak": spent.peak})
        print(f"{step:<20}{family:<11}{data!s:<26}{spent.peak / GB:>7.2f} GB{spent.cpu:>8.1f} s of CPU", flush=True)
    return rows


def epochs_of(step: str) -> str | None:
    """How long surgery trained, as early stopping may have ended it."""
    if step != "TRAIN_SURGERY":
        return None
    epochs = json.loads(Path("mapped/mapping.json").read_text())["train"]["epochs"]
    return f"{epochs} epoch{'s' * (epochs != 1)}"


def measure_reference(family: str, atlas: Data) -> list[dict]:
    """Train `model` in this folder."""
    atlas.write("atlas.h5ad")
    ask_for_reference(family=family)
    steps = reference_steps(ENVS[family], embedded=family == "treearches")
    if family == "treearches":
        command = "learn_hierarchy.py --model trained --embedding latent.zarr --settings reference.json --output model"
        steps["TRAIN_REFERENCE"] = (ENVS[family], steps["TRAIN_REFERENCE"][1].replace("--model model", "--model trained"))
        steps["LEARN_HIERARCHY"] = ("scarches", command)
    return measure(family, atlas, steps, lambda step: stored(Path("atlas.zarr/X"), epochs=1))


def measure_cells(family: str, cells: Data) -> list[dict]:
    """Take cells for those of the reference of `model`: what they say lies in `scale`."""
    cells.write("cells.h5ad", "d1", "d2")
    prepare("cells.h5ad", batch_key="donor", reference="cells.h5ad")
    remove("found", "latent.npz", "scale")
    return measure(family, cells, cells_steps("cells.h5ad", ENVS[family]), lambda step: stored(Path("found/aligned.zarr/X"), 0))


def measure_mapping(family: str, data: Data, epochs: int | None, scale: bool = False) -> list[dict]:
    """Map a query onto `model` in this folder, beside `scale` if it is there, and leave nothing of it."""
    query = f"query.{'zarr' if data.form == 'zarr' else 'h5ad'}"
    data.write(query, "q1", "q2")
    columns = {"labels_key": "cell_type"} if family == "treearches" else {}
    columns |= {"max_epochs": str(epochs)} if epochs else {}
    prepare(query, batch_key="donor", truth_key="cell_type", **columns)
    steps = mapping_steps(query, ENVS[family], scale)
    if family == "treearches":
        command = (
            "update_hierarchy.py --plan prepared/plan.json --prepared prepared --card card.json"
            " --model model --mapped mapped --updated-model updated_model --output placed --output-model placed_model"
        )
        steps["UPDATE_HIERARCHY"] = ("scarches", command)

    def size_of(step: str) -> dict:
        if step in ("TRAIN_SURGERY", "UPDATE_HIERARCHY"):
            return stored(Path("prepared/aligned.zarr/X"), epochs or 0)
        found = json.loads(Path("plan.json").read_text())["query"]
        cells, length = found["n_cells"], bytes_of(Path(query))
        known = {"genes": found["n_genes"], "values": found["n_values"], "mappings": 1}
        return known | dict.fromkeys(("cells", "all_cells"), cells) | dict.fromkeys(("bytes", "all_bytes"), length)

    rows = measure(family, data, steps, size_of)
    remove(query, "prepared", "mapped", "updated_model", "labelled", "placed", "placed_model", "out.zarr", "qc")
    return rows


def bytes_of(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def remove(*names: str) -> None:
    for path in map(Path, names):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def measure_all(plan: list) -> pd.DataFrame:
    """Measure models of several families and queries of several shapes."""
    rows = []
    for family, atlas, queries in plan:
        with working_folder():
            rows += measure_reference(family, atlas)
            for query in queries:
                rows += measure_mapping(family, query, EPOCHS)
    return pd.DataFrame(rows)


def measure_growth(sizes: tuple[int, ...], large: int, epochs: int | None, source: Source | None) -> pd.DataFrame:
    """Measure one family by the cells of its atlas, of its reference and of a query.

    Beyond `large` cells no model is trained on an atlas, and surgery is one epoch; a query is mapped beside the largest reference of
    up to so many. What fails is said, and ends what comes after it for so many cells.
    """
    small = sorted(size for size in sizes if size <= large)
    rows = []

    def grown(cells: int, work, *arguments) -> None:
        try:
            rows.extend(work("scanvi", Data(cells, GENES, depth=800, source=source), *arguments))
        except Failed as error:
            print(error, flush=True)

    with working_folder():
        for cells in small:
            grown(cells, measure_reference)
        if not Path("model").exists():
            sys.exit("No model was trained, so nothing is measured.")
        for cells in [size for size in sizes if size > large] + small:
            grown(cells, measure_cells)
        for cells in sorted(sizes):
            grown(cells, measure_mapping, 1 if cells > large else epochs, True)
    return pd.DataFrame(rows)


@contextmanager
def working_folder() -> Iterator[None]:
    """A folder of its own to be in."""
    start = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(start)


def fitted(table: pd.DataFrame, measured: str, keys: list[str]) -> dict[str, float]:
    """The terms, none below zero, of a sum that fits what was measured best: by key, `least` being what does not grow."""
    sizes = np.column_stack([np.ones(len(table)), *(table[key] for key in keys)]).astype(float)
    scale = sizes.max(axis=0)
    terms, _ = nnls(sizes / scale, table[measured].to_numpy(float))
    return dict(zip(["least", *keys], terms / scale, strict=True))


def print_fits(table: pd.DataFrame) -> None:
    for step, rows in table.groupby("step", sort=False):
        memory = fitted(rows, "peak", ["cells", "values"])
        time = fitted(rows, "cpu", ["all_passes" if rows["all_passes"].notna().all() else "cells", "values"])
        work, per = list(time.items())[1]
        print(
            f"{step:<17}{memory['least'] / GB:.2f} GB + {memory['cells']:,.0f} B a cell + {memory['values']:.1f} B a value; "
            f"{time['least']:.0f} s + {1000 * per:.3f} ms a {work.rstrip('es')} + {1e6 * time['values']:.3f} us a value"
        )


@click.command(context_settings={"show_default": True})
@click.option("--full", is_flag=True, help="Measure all that docs/scale.md shows: an hour on two cores, and 10 GB of disk.")
@click.option("--cells", "sizes", multiple=True, type=int, help="Measure queries and references of so many cells instead.")
@click.option("--large", default=100_000, help="With --cells: beyond so many no atlas is trained on, and surgery is one epoch.")
@click.option("--epochs", type=int, help="With --cells: most epochs of surgery; left out, the pipeline's default.")
@click.option(
    "--source", type=click.Path(exists=True, path_type=Path), help="With --cells: real ones to draw from, .h5ad with counts."
)
@click.option("--batch", default="batch", help="The column of their batches.")
@click.option("--labels", default="cell_type", help="The column of their labels.")
def bench(
    full: bool, sizes: tuple[int, ...], large: int, epochs: int | None, source: Path | None, batch: str, labels: str
) -> None:
    """Print what each step takes and what conf/base.config asks for; fail where it asks for less."""
    real = source and Source.read(source, batch, labels)
    table = measure_growth(sizes, large, epochs, real) if sizes else measure_all(FULL if full else QUICK)
    asked = [requests(row["step"], row) for row in table.to_dict("records")]
    table["asked"], table["limit"] = zip(*asked, strict=True)
    print(f"\n{'step':<20}{'family':<11}{'data':<26}{'values':>13}{'held GB':>9}{'asked GB':>9}{'CPU s':>8}{'asked s':>9}")
    for row in table.itertuples():
        print(
            f"{row.step:<20}{row.family:<11}{row.data!s:<26}{row.values:>13,}{row.peak / GB:>9.2f}{row.asked / GB:>9.2f}"
            f"{row.cpu:>8.1f}{row.limit:>9,.0f}"
        )
    if full:
        print()
        print_fits(table)
    sys.exit(bool((table["peak"] > table["asked"]).any() or (table["cpu"] > table["limit"]).any()))


if __name__ == "__main__":
    bench()
