"""Map one aligned query onto its reference, by one surgery or one a batch, and write what it gave."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from .. import __version__
from ..common.cli import hush_libraries, read_json, remove, write_json
from ..common.errors import RefmapError
from ..common.folders import MappedFolder, PreparedFolder
from ..common.storage import read_zarr, set_columns, take_names, write_zarr
from ..common.strategies import JOINT, PER_BATCH, SEQUENTIAL, in_order, same_as_joint
from ..families import by_name
from ..families.base import AUTO, Settings
from ..hierarchy import below_hierarchy
from ..models.folder import ModelFolder
from .decoded import Decoded, joined
from .surgery import Part, operate

# In a warning about some of a query's batches.
MOST_NAMED = 10


def map_query(prepared: PreparedFolder, training: dict, card: dict, model: Path, mapped: MappedFolder, updated: Path) -> None:
    """Map a query and write what it gave and the updated model.

    Parameters
    ----------
    prepared
        The query, ready for its model.
    training
        ``train``: settings of the training, None for inference only; ``seed``; ``freeze_dropout``; ``strategy``: see
        :mod:`refmap.common.strategies`, joint unless given; ``engine``: auto unless given.
    card
        What is known of the model.
    model
        The reference's folder or file: the very files that the card describes.
    mapped
        Where to write what the mapping gives; the folder is made.
    updated
        The folder to write the updated model to; with the strategy ``per_batch`` it gets a folder ``batch_<number>`` for the
        model of each batch, the largest batch first.

    Raises
    ------
    RefmapError
        If the model is not the one that was inspected, cannot be loaded, cannot be mapped onto by this strategy, diverges, or
        moved the reference.
    """
    plan, alignment = read_json(prepared.plan), read_json(prepared.alignment)
    row, train, strategy = plan["row"], training["train"], training.get("strategy", JOINT)
    if refused := plan["refused"].get(strategy):
        raise RefmapError(refused)
    folder = ModelFolder(model, card["model"])
    folder.verify(card["sha256"])
    hush_libraries()
    settings = Settings(
        training["freeze_dropout"],
        training["seed"],
        training.get("engine", AUTO),
        plan["options"],
        prepared.gmt if row["gmt"] else None,
    )

    are_numbered = False

    def read() -> tuple[ad.AnnData, dict]:
        nonlocal are_numbered
        query = read_zarr(prepared.aligned, card["most_in_memory"])
        are_numbered = not sparse.issparse(query.X)  # but left on disk, as their names are
        obs, model_card = below_hierarchy(query.obs, card)
        set_columns(query, obs)
        return query, model_card

    operate_on = partial(operate, row["query"], train, settings)
    advice = []
    if strategy != JOINT and (why := same_as_joint(plan, card, train)):
        advice, strategy = [f"strategy '{strategy}' is the same as '{JOINT}' here, as {why}."], JOINT
    if strategy == JOINT:
        parts = [operate_on(read, folder, updated, mapped.results)]
    else:
        parts = _by_batch(strategy, in_order(plan), operate_on, read, folder, updated, mapped.results)
    first, last = parts[0], parts[-1]

    embedding = _joined(parts)
    who = {key: card[key] for key in ("model", "family", "class_name")} | {"model_sha256": card["sha256"]}
    embedding.uns["refmap"] = who | embedding.uns["refmap"]
    _history(parts).to_csv(mapped.history)
    write_zarr(embedding, mapped.embedding)
    if are_numbered:
        take_names(mapped.embedding, prepared.aligned)
    if decoded := _decoded(parts, training["seed"]):
        decoded.write(mapped.decoded)
    start = start_record(plan, alignment, card)
    write_json(
        mapped.record,
        start
        | {
            "n_cells": embedding.n_obs,
            "parameters": row | training | {"options": plan["options"]},
            "strategy": strategy,
            "surgeries": [{"batch": part.batch, "n_cells": part.embedding.n_obs, **part.facts} for part in parts],
            "train": _train_of_all([part.facts["train"] for part in parts]),
            "hshare": _hshare(parts),
            "device": last.facts["device"],
            "parameters_total": last.facts["parameters_total"],
            "parameters_trainable": sum(part.facts["parameters_trainable"] for part in parts),
            "frozen_sha256_before": first.facts["frozen_sha256_before"],
            "frozen_sha256_after": first.facts["frozen_sha256_after"],
            "seed": training["seed"],
            "versions": start["versions"] | by_name(card["family"]).surgery().versions(),
            "predictions": {key: _sums(embedding.obs, key) for key in first.labels_keys},
            "warnings": list(dict.fromkeys([*start["warnings"], *advice, *_warnings(parts)])),
        },
    )


def start_record(plan: dict, alignment: dict, card: dict) -> dict:
    """What is to be recorded of a mapping before anything of it was done."""
    row = plan["row"]
    return {
        "id": f"{row['dataset']}~{row['file_id']}",
        "dataset": row["dataset"],
        "file_id": row["file_id"],
        "query": row["query"],
        "model": card["model"],
        "family": card["family"],
        "class_name": card["class_name"],
        "model_sha256": card["sha256"],
        "model_origin": card["origin"],
        "surgery_moves": card["surgery_ready"],
        "n_genes": {key: alignment[key] for key in ("matched", "padded", "dropped", "summed")},
        "batches": _batches(plan, card),
        "covariates": plan["covariates"],
        "versions": {"refmap": __version__, "python": platform.python_version()},
        # The alignment sees again some of what the plan saw.
        "warnings": list(dict.fromkeys([*plan["warnings"], *alignment["warnings"]])),
    }


def _by_batch(
    strategy: str,
    batches: list[str],
    operate_on: Callable[..., Part],
    read: Callable[[], tuple[ad.AnnData, dict]],
    folder: ModelFolder,
    updated: Path,
    results: Path,
) -> list[Part]:
    """Do one surgery a batch, in the order of `batches`: on the reference, or sequentially on what the one before left."""
    query, card = read()
    batch_of = query.obs[card["batch_key"]].to_numpy()
    parts = []
    with tempfile.TemporaryDirectory() as scratch:
        for number, batch in enumerate(batches, start=1):
            print(f"batch '{batch}' ({number} of {len(batches)}):", end=" ")
            name, is_last = f"batch_{number}", number == len(batches)
            if strategy == PER_BATCH:
                target = updated / name
            else:
                target = updated if is_last else Path(scratch) / name
            cells = np.flatnonzero(batch_of == batch)
            # Beside the cells, the families whose batches can be parted find what does not hang on the batch.
            part = operate_on(partial(_some, query, cells, card), folder, target, results if is_last else None)
            part.batch, part.cells = batch, cells
            part.facts["model"] = name if strategy == PER_BATCH else None
            parts.append(part)
            if strategy == SEQUENTIAL and not is_last:
                if number > 1:
                    remove(folder.path)
                folder = ModelFolder(target, folder.shown)
                card = part.card
    return parts


def _some(query: ad.AnnData, cells: np.ndarray, card: dict) -> tuple[ad.AnnData, dict]:
    return query[cells].copy(), card


def _batches(plan: dict, card: dict) -> dict:
    names = {value: batch["name"] for value, batch in plan["batches"].items()}
    return {
        "reference": len(card["batches"]),
        "query": len(names),
        "new": sorted(set(names.values()) - set(card["batches"])),
        "renamed": {value: name for value, name in names.items() if value != name},
    }


def _sums(obs: pd.DataFrame, key: str) -> dict:
    """How many cells each label was predicted of, and the mean uncertainty."""
    counts = obs[f"{key}_predicted"].value_counts()
    return {
        "counts": {name: int(n) for name, n in counts.items() if n},
        "mean_uncertainty": float(obs[f"{key}_predicted_uncertainty"].mean()),
    }


def _joined(parts: list[Part]) -> ad.AnnData:
    """The cells of all surgeries, in the query's order."""
    if len(parts) == 1:
        return parts[0].embedding
    joined = ad.concat([part.embedding for part in parts])
    order = np.argsort(np.concatenate([part.cells for part in parts]))
    # Not `joined[order].copy()`, which drops the labels that no cell has.
    obsm = {key: values.iloc[order] if isinstance(values, pd.DataFrame) else values[order] for key, values in joined.obsm.items()}
    return ad.AnnData(obs=joined.obs.iloc[order], obsm=obsm, uns=parts[0].embedding.uns)


def _decoded(parts: list[Part], seed: int) -> Decoded | None:
    return parts[0].decoded if len(parts) == 1 else joined([(part.cells, part.decoded) for part in parts], seed)


def _hshare(parts: list[Part]) -> float | None:
    """That of all surgeries: the mean over their cells; None if it is not known of all."""
    shares = [part.facts["hshare"] for part in parts]
    return None if None in shares else float(np.average(shares, weights=[part.embedding.n_obs for part in parts]))


def _history(parts: list[Part]) -> pd.DataFrame:
    """The curves of all surgeries: where there are several, with the batch of each row, and epochs that are counted on."""
    if len(parts) == 1:
        return parts[0].history
    tables = []
    for part in parts:
        tables.append(part.history.copy())
        tables[-1].insert(0, "batch", part.batch)
    table = pd.concat(tables)
    table.index = pd.RangeIndex(1, len(table) + 1, name="epoch")
    return table


def _train_of_all(trained: list[dict | None]) -> dict | None:
    """What to record of the training of all surgeries: sums, and the smallest minibatch."""
    done = [facts for facts in trained if facts]
    if len(done) < 2:
        return done[0] if done else None
    return {
        "epochs": sum(facts["epochs"] for facts in done),
        "max_epochs": sum(facts["max_epochs"] for facts in done),
        "stopped_early": any(facts["stopped_early"] for facts in done),
        "seconds": round(sum(facts["seconds"] for facts in done), 2),
        "batch_size": min(facts["batch_size"] for facts in done),
        # Of families that have an engine: the same of all surgeries of a mapping, as each is of the same model
        **{key: done[0][key] for key in ("engine", "engine_reason", "stride") if key in done[0]},
    }


def _warnings(parts: list[Part]) -> list[str]:
    """The warnings of all surgeries, each once, with the batches that it is about unless it is about all of them."""
    batches: dict[str, list[str]] = {}
    for part in parts:
        for sentence in part.warnings:
            batches.setdefault(sentence, []).append(f"'{part.batch}'")
    told = []
    for sentence, of in batches.items():
        names = ", ".join(of[:MOST_NAMED]) + (f" and {len(of) - MOST_NAMED} more" if len(of) > MOST_NAMED else "")
        told.append(sentence if len(of) == len(parts) else f"Batch{'es' * (len(of) > 1)} {names}: {sentence}")
    return told
