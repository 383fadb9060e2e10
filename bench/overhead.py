#!/usr/bin/env python
"""What one mapping costs over and above its training: CPU seconds of every step, for the 700 PBMCs that scanpy ships.

The training step is run for inference only: what is left is its start, the surgery, the embedding and the saving.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bin"))

REFERENCE = {
    "reference": "atlas.h5ad",
    "family": "scanvi",
    "seed": 0,
    "reference_batch_key": "batch",
    "reference_labels_key": "bulk_labels",
    "reference_layer": "X",
    "reference_var_key": None,
    "reference_protein_key": None,
    "reference_unlabeled_category": "Unknown",
    "reference_hidden_labels": 0.1,
    "reference_airr": None,
    "reference_gmt": None,
    "reference_genes": None,
    "reference_spatial_key": None,
    "reference_categorical_covariate_keys": None,
    "reference_continuous_covariate_keys": None,
    "reference_options": None,
    "reference_max_epochs": 1,
    "reference_n_latent": 10,
    "reference_n_layers": 2,
}


@dataclass
class Spent:
    """What a command took, its children included: seconds of CPU and of the clock, and the most bytes held at once."""

    cpu: float
    wall: float
    peak: int


def resident(pid: int) -> tuple[int, int]:
    """The bytes that a process and its descendants hold, and the most that one of them ever held."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it ended meanwhile
        return 0, 0
    fields = dict(line.split(":", 1) for line in status.splitlines())
    held, most = (int(fields.get(name, "0").split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    for child in children:
        more, one = resident(int(child))
        held, most = held + more, max(most, one)
    return held, most


def run(env: str, command: str) -> Spent:
    """Run a command of `bin/` in an environment, on two threads."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    # Threads that wait sleep: else their waiting would count as CPU time on a busy machine
    settings = "OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive MPLBACKEND=Agg"
    script = f". '{ROOT}/containers/activate' {env} && export {settings} && exec '{ROOT}'/bin/{command}"
    peak = 0
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(["bash", "-c", script], stdout=said, stderr=subprocess.STDOUT)
        while process.poll() is None:
            peak = max(peak, *resident(process.pid))
            time.sleep(0.1)
        wall = time.monotonic() - start
        said.seek(0)
        if process.returncode or list(Path().glob("*.fault.json")):
            sys.exit(f"{command}\n{said.read()}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Spent(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall, peak)


def reference_steps(env: str, embedded: bool = False) -> dict[str, tuple[str, str]]:
    """The steps that make `model` of `atlas.h5ad` and `reference.json`: their environments and commands."""
    return {
        "ALIGN_REFERENCE": (
            "core",
            "align_reference.py --atlas atlas.h5ad --parameters reference.json --output atlas.zarr --settings settings.json",
        ),
        "TRAIN_REFERENCE": (
            env,
            f"train_reference.py --aligned atlas.zarr --settings settings.json --model model {'--embedding latent.zarr' * embedded}",
        ),
    }


def prepare(query: str, **columns: str) -> None:
    """Write what the steps of a mapping of `query` onto `model` read: its row, the model's card, how to train."""
    sheet = {"dataset": "bench", "file_id": "query", "query": query, "model": "model", **columns}
    Path("sheet.csv").write_text(",".join(sheet) + "\n" + ",".join(sheet.values()) + "\n")
    Path("params.json").write_text(json.dumps({"input": "sheet.csv"}))
    run(
        "core",
        f"check_input.py --sheet sheet.csv --parameters params.json --schema '{ROOT}/nextflow_schema.json' --output row.json",
    )
    row = json.loads(Path("row.json").read_text())
    Path("training.json").write_text(
        json.dumps({key: row[key] for key in ("train", "seed", "freeze_dropout", "strategy", "engine")})
    )
    run("core", "inspect_model.py --model model --shown-as model --card card.json")


def mapping_steps(query: str, env: str) -> dict[str, tuple[str, str]]:
    """The steps of a mapping that was prepared, onto a model of the environment `env`: their environments and commands."""
    return {
        "CHECK_QUERY": ("core", f"check_query.py --row row.json --query {query} --card card.json --output plan.json"),
        "ALIGN_GENES": (
            "core",
            f"align_genes.py --plan plan.json --query {query} --card card.json --output prepared --mapped brought",
        ),
        "TRAIN_SURGERY": (
            env,
            "train_surgery.py --plan plan.json --prepared prepared --training training.json --model model --card card.json"
            " --output mapped --updated-model updated_model",
        ),
        "EXPORT_EMBEDDING": (
            "core",
            f"export_embedding.py --plan plan.json --query {query} --mapped mapped --output out.zarr",
        ),
        "QC_MAPPING": (
            "core",
            f"qc_mapping.py --plan plan.json --query {query} --prepared prepared --mapped mapped --threshold 0.2 --output qc",
        ),
    }


def main() -> None:
    from refmap.sheet.demo import pbmc_counts

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        pbmc_counts().write_h5ad("atlas.h5ad")
        Path("reference.json").write_text(json.dumps(REFERENCE))
        for env, command in reference_steps("scvi").values():
            run(env, command)
        prepare("atlas.h5ad", batch_key="batch", truth_key="bulk_labels", train="false")
        print("One mapping of 700 cells, without its training:\n")
        print(f"{'step':<18}{'CPU s':>8}{'wall s':>8}")
        total = [0.0, 0.0]
        for name, (env, command) in mapping_steps("atlas.h5ad", "scvi").items():
            spent = run(env, command)
            if name == "QC_MAPPING":  # the first one in an environment compiles UMAP, and keeps it for all that follow
                first, spent = spent, run(env, command.replace("--output qc", "--output again"))
            total = [total[0] + spent.cpu, total[1] + spent.wall]
            print(f"{name:<18}{spent.cpu:>8.1f}{spent.wall:>8.1f}", flush=True)
        print(f"{'in all':<18}{total[0]:>8.1f}{total[1]:>8.1f}")
        print(
            f"\nQC_MAPPING was run twice: {first.cpu:.1f} s of CPU the first time, which compiles UMAP where that is not yet done."
        )


if __name__ == "__main__":
    main()
