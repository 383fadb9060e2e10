"""The commands of the pipeline's steps, in the order and with the settings that it runs them: for benchmarks of single steps."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from .measuring import ROOT, run

Steps = dict[str, tuple[str, str]]


def ask_for_reference(**parameters) -> None:
    """Write `reference.json`: the pipeline's parameters for a reference that is trained on `atlas.h5ad`, these and its defaults.

    The batches of its cells are in obs `donor`, their labels in `cell_type`.
    """
    sys.path.insert(0, str(ROOT / "bin"))
    from refmap.sheet.parameters import defaults, load_schema

    own = {"reference": "atlas.h5ad", "reference_batch_key": "donor", "reference_labels_key": "cell_type", "reference_layer": "X"}
    whole = defaults(load_schema(ROOT / "nextflow_schema.json")) | own | {"family": "scanvi", "reference_max_epochs": 1}
    Path("reference.json").write_text(json.dumps(whole | parameters))


def reference_steps(env: str, embedded: bool = False) -> Steps:
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


def cells_steps(cells: str, env: str) -> Steps:
    """The steps that make the folder `scale` of the reference's cells, once a mapping was prepared."""
    return {
        "PREPARE_REFERENCE": (
            "core",
            f"prepare_reference.py --request request.json --cells {cells} --model model --card card.json --output found",
        ),
        "EMBED_REFERENCE": (
            env,
            "embed_reference.py --aligned found/aligned.zarr --model model --card card.json --output latent.npz",
        ),
        "CALIBRATE_REFERENCE": (
            "core",
            "calibrate_reference.py --prepared found --latent latent.npz --threshold 0.2 --output scale",
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
    training = {key: row[key] for key in ("train", "seed", "freeze_dropout", "strategy", "engine")}
    Path("training.json").write_text(json.dumps(training))
    Path("request.json").write_text(json.dumps(row["cells"]))
    run("core", "inspect_model.py --model model --shown-as model --card card.json")


def mapping_steps(query: str, env: str, scale: bool = False) -> Steps:
    """The steps of a mapping that was prepared, onto a model of the environment `env`, beside the folder `scale` if there is one."""
    steps = {
        "ALIGN_GENES": (
            "core",
            f"align_genes.py --row row.json --query {query} --card card.json --plan plan.json --output prepared --mapped brought",
        ),
        "TRAIN_SURGERY": (
            env,
            "train_surgery.py --plan plan.json --prepared prepared --training training.json --model model --card card.json"
            " --output mapped --updated-model updated_model",
        ),
    }
    # Labels, results and figures in one
    beside = " --reference scale --correction auto" * scale
    steps["EXPORT_EMBEDDING"] = (
        "core",
        f"export_embedding.py --plan plan.json --query {query} --prepared prepared --mapped mapped{beside} --unknown-by certainty"
        " --certainty 0.8 --threshold 0.2 --labelled labelled --output out.zarr --qc qc",
    )
    return steps
