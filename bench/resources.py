#!/usr/bin/env python
"""Memory and time that each step takes by the size of its query, beside what conf/base.config asks for (docs/scale.md).

Without options, small queries and one kind of model, in some minutes; `--full` measures all that docs/scale.md shows.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import pandas as pd
from align import make_query
from overhead import REFERENCE, ROOT, mapping_steps, prepare, reference_steps, run
from scipy.optimize import nnls

GB = 1 << 30
BYTES = {"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": GB}
SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
ENVS = {"scanvi": "scvi", "scpoli": "scarches", "treearches": "scvi"}
EPOCHS = 1
MOST_CELLS_DRAWN = 50_000


@dataclass(frozen=True)
class Data:
    """A query, or the atlas that a model is trained on: cells x genes."""

    cells: int
    genes: int = 2_000
    form: str = "h5ad"

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
    """The bytes and the seconds that conf/base.config asks for a step's first attempt, without a GPU.

    A step without a formula of its own has what stands first in the file.
    """
    text = (ROOT / "conf" / "base.config").read_text()
    own = re.search(rf"withName: '{step}' \{{(.*?)\n    \}}", text, re.DOTALL)

    def asked(directive: str, units: dict) -> float:
        formula = re.search(rf"{directive} += \{{ (.*) \* task\.attempt \}}", own[1] if own else text)[1]
        formula = re.sub(r"\(params\.gpu \? \S+ : (\S+)\)", r"\1", formula)
        terms = re.findall(r"(\d[\d.]*)\.([A-Za-z]+)(?: \* size\.(\w+))?", formula)
        return sum(float(number) * units[unit] * (size[key] if key else 1) for number, unit, key in terms)

    return asked("memory", BYTES), asked("time", SECONDS)


def stored(matrix: Path, epochs: int) -> dict:
    """The size of an aligned matrix and of its training, as the pipeline takes it."""
    cells, genes = json.loads((matrix / ".zattrs").read_text())["shape"]
    (values,) = json.loads((matrix / "data" / ".zarray").read_text())["shape"]
    return {
        "cells": cells,
        "genes": genes,
        "values": values,
        "all_passes": cells * (epochs + 2),
        "all_cells": cells,
        "mappings": 1,
    }


def measure(family: str, data: Data, steps: dict[str, tuple[str, str]], size_of) -> list[dict]:
    """Run steps; a row of the table for each. `size_of` gives a step's size once it has been run."""
    rows = []
    for step, (env, command) in steps.items():
        spent = run(env, command)
        rows.append({"step": step, "family": family, "data": data, **size_of(step), **vars(spent)})
        print(f"{step:<17}{family:<11}{data!s:<26}{spent.peak / GB:>7.2f} GB{spent.cpu:>8.1f} s of CPU", flush=True)
    return rows


def measure_reference(family: str, atlas: Data) -> list[dict]:
    """Train `model` in this folder."""
    make_query(Path("atlas.h5ad"), atlas.cells, atlas.genes)
    parameters = {"family": family, "reference_batch_key": "donor", "reference_labels_key": "cell_type"}
    Path("reference.json").write_text(json.dumps(REFERENCE | parameters))
    steps = reference_steps(ENVS[family], embedded=family == "treearches")
    if family == "treearches":
        command = "learn_hierarchy.py --model trained --embedding latent.zarr --settings reference.json --output model"
        steps["TRAIN_REFERENCE"] = (ENVS[family], steps["TRAIN_REFERENCE"][1].replace("--model model", "--model trained"))
        steps["LEARN_HIERARCHY"] = ("scarches", command)
    return measure(family, atlas, steps, lambda step: stored(Path("atlas.zarr/X"), epochs=1))


def measure_mapping(family: str, data: Data) -> list[dict]:
    """Map a query onto `model` in this folder, and leave nothing of it."""
    query = f"query.{'zarr' if data.form == 'zarr' else 'h5ad'}"
    make_query(Path(query), data.cells, data.genes, data.form)
    labels = {"labels_key": "cell_type"} if family == "treearches" else {}
    prepare(query, batch_key="donor", truth_key="cell_type", max_epochs=str(EPOCHS), **labels)
    steps = mapping_steps(query, ENVS[family])
    if data.form != "h5ad" or data.cells > MOST_CELLS_DRAWN:
        del steps["QC_MAPPING"]  # it looks at a sample of the aligned matrix, and does not draw more cells
    if family == "treearches":
        command = (
            "update_hierarchy.py --plan prepared/plan.json --prepared prepared --card card.json"
            " --model model --mapped mapped --updated-model updated_model --output placed --output-model placed_model"
        )
        steps["UPDATE_HIERARCHY"] = ("scarches", command)

    def size_of(step: str) -> dict:
        if step in ("TRAIN_SURGERY", "UPDATE_HIERARCHY"):
            return stored(Path("prepared/aligned.zarr/X"), EPOCHS)
        found = json.loads(Path("plan.json").read_text())["query"]
        cells = found["n_cells"]
        return {"cells": cells, "all_cells": cells, "genes": found["n_genes"], "values": found["n_values"], "mappings": 1}

    rows = measure(family, data, steps, size_of)
    for name in (query, "prepared", "mapped", "updated_model", "placed", "placed_model", "out.zarr", "qc"):
        path = Path(name)
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return rows


def measure_all(plan: list) -> pd.DataFrame:
    rows = []
    start = Path.cwd()
    for family, atlas, queries in plan:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            rows += measure_reference(family, atlas)
            for query in queries:
                rows += measure_mapping(family, query)
            os.chdir(start)
    return pd.DataFrame(rows)


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
def bench(full: bool) -> None:
    """Print what each step takes and what conf/base.config asks for; fail where it asks for less."""
    table = measure_all(FULL if full else QUICK)
    asked = [requests(row["step"], row) for row in table.to_dict("records")]
    table["asked"], table["limit"] = zip(*asked, strict=True)
    print(f"\n{'step':<17}{'family':<11}{'data':<26}{'values':>13}{'held GB':>9}{'asked GB':>9}{'CPU s':>8}{'asked s':>9}")
    for row in table.itertuples():
        print(
            f"{row.step:<17}{row.family:<11}{row.data!s:<26}{row.values:>13,}{row.peak / GB:>9.2f}{row.asked / GB:>9.2f}"
            f"{row.cpu:>8.1f}{row.limit:>9,.0f}"
        )
    if full:
        print()
        print_fits(table)
    sys.exit(bool((table["peak"] > table["asked"]).any() or (table["cpu"] > table["limit"]).any()))


if __name__ == "__main__":
    bench()
