"""Map one aligned query onto its reference: surgery, training, embedding and predictions, whatever the family."""

from __future__ import annotations

import gc
import platform
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from .. import __version__
from ..common.cli import read_json, remove, write_json
from ..common.errors import RefmapError
from ..common.folders import MappedFolder, PreparedFolder
from ..common.storage import write_zarr
from ..common.strategies import JOINT, PER_BATCH, SEQUENTIAL, in_order, same_as_joint
from ..families import by_name, trainer_of
from ..families.base import Prediction, Settings, Surgery, add_prediction
from ..families.options import defaults as option_defaults
from ..hierarchy import below_hierarchy
from ..models.folder import ModelFolder, carry_facts
from ..reference.inspection import inspect_model

# In a warning about some of a query's batches.
MOST_NAMED = 10


@dataclass
class Part:
    """What one surgery gave.

    Attributes
    ----------
    embedding
        Its cells x 0 genes, with embedding and predictions.
    labels_keys
        The columns of labels that the model predicts.
    history
        The training's curves, a row an epoch.
    facts
        What the record of the mapping says of it.
    warnings
        Sentences for the user.
    batch, cells
        Where there is one surgery a batch: which it is, and the places of its cells in the query.
    """

    embedding: ad.AnnData
    labels_keys: list[str]
    history: pd.DataFrame
    facts: dict
    warnings: list[str]
    batch: str | None = None
    cells: np.ndarray | None = None


def map_query(prepared: PreparedFolder, training: dict, card: dict, model: Path, mapped: MappedFolder, updated: Path) -> None:
    """Map a query and write what it gave and the updated model.

    Parameters
    ----------
    prepared
        The query, ready for its model.
    training
        ``train``: settings of the training, None for inference only; ``seed``; ``freeze_dropout``; ``strategy``: see
        :mod:`.strategies`, joint unless given.
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
    # The libraries' advice to programmers would bury the line an epoch.
    warnings.filterwarnings("ignore", module="lightning|scvi|anndata|torch|scarches")
    settings = Settings(training["freeze_dropout"], training["seed"], plan["options"], prepared.gmt if row["gmt"] else None)

    def read() -> tuple[ad.AnnData, dict]:
        query = ad.read_zarr(prepared.aligned)
        query.obs, model_card = below_hierarchy(query.obs, card)
        return query, model_card

    operate = partial(_operate, row["query"], train, settings)
    advice = []
    if strategy != JOINT and (why := same_as_joint(plan, card, train)):
        advice, strategy = [f"strategy '{strategy}' is the same as '{JOINT}' here, as {why}."], JOINT
    if strategy == JOINT:
        parts = [operate(read, folder, updated, mapped.results)]
    else:
        parts = _by_batch(strategy, in_order(plan), operate, read, folder, updated, mapped.results)
    first, last = parts[0], parts[-1]

    embedding = _joined(parts)
    who = {key: card[key] for key in ("model", "family", "class_name")} | {"model_sha256": card["sha256"]}
    embedding.uns["refmap"] = who | embedding.uns["refmap"]
    _history(parts).to_csv(mapped.history)
    write_zarr(embedding, mapped.embedding)
    write_json(
        mapped.record,
        {
            "id": f"{row['dataset']}~{row['file_id']}",
            "dataset": row["dataset"],
            "file_id": row["file_id"],
            "query": row["query"],
            "model": card["model"],
            "family": card["family"],
            "class_name": card["class_name"],
            "model_sha256": card["sha256"],
            "n_cells": embedding.n_obs,
            "n_genes": {key: alignment[key] for key in ("matched", "padded", "dropped", "summed")},
            "batches": _batches(plan, card),
            "covariates": plan["covariates"],
            "parameters": row | training | {"options": plan["options"]},
            "strategy": strategy,
            "surgeries": [{"batch": part.batch, "n_cells": part.embedding.n_obs, **part.facts} for part in parts],
            "train": _train_of_all([part.facts["train"] for part in parts]),
            "device": last.facts["device"],
            "parameters_total": last.facts["parameters_total"],
            "parameters_trainable": sum(part.facts["parameters_trainable"] for part in parts),
            "frozen_sha256_before": first.facts["frozen_sha256_before"],
            "frozen_sha256_after": first.facts["frozen_sha256_after"],
            "seed": training["seed"],
            "versions": {
                "refmap": __version__,
                "python": platform.python_version(),
                **by_name(card["family"]).surgery().versions(),
            },
            "predictions": {key: _sums(embedding.obs, key) for key in first.labels_keys},
            # The alignment sees again some of what the plan saw.
            "warnings": list(dict.fromkeys([*plan["warnings"], *alignment["warnings"], *advice, *_warnings(parts)])),
        },
    )


def _by_batch(
    strategy: str,
    batches: list[str],
    operate: Callable[..., Part],
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
            part = operate(partial(_some, query, cells, card), folder, target, results if is_last else None)
            part.batch, part.cells = batch, cells
            part.facts["model"] = name if strategy == PER_BATCH else None
            parts.append(part)
            if strategy == SEQUENTIAL and not is_last:
                if number > 1:
                    remove(folder.path)
                folder = ModelFolder(target, folder.shown)
                card = inspect_model(target, folder.shown, card["trusted"]).to_json()
    return parts


def _some(query: ad.AnnData, cells: np.ndarray, card: dict) -> tuple[ad.AnnData, dict]:
    return query[cells].copy(), card


def _operate(
    shown: str,
    train: dict | None,
    settings: Settings,
    read: Callable[[], tuple[ad.AnnData, dict]],
    folder: ModelFolder,
    updated: Path,
    results: Path | None,
) -> Part:
    """Do one surgery: train, embed and predict, prove that the reference has not moved, and save the grown model.

    Parameters
    ----------
    shown
        What the user calls the query.
    train, settings
        How it is done; without `train` there is inference only.
    read
        Gives the aligned cells, and the card of the model as its family takes it.
    folder
        The model that is grown.
    updated
        Where the grown model goes.
    results
        The folder for what the family finds beside the cells, which is made; None if it is not wanted.
    """

    def prepare() -> tuple[ad.AnnData, Surgery]:
        query, card = read()
        surgery_of = by_name(card["family"]).surgery()
        surgery_of.seed(settings.seed)
        surgery = surgery_of.prepare(folder.path, query, card, settings)
        print(f"{card['class_name']} on {surgery.device}: {query.n_obs} cells, {query.n_vars} genes,", end=" ")
        print(f"{surgery.parameters_trainable} of {surgery.parameters_total} parameters to train")
        return query, surgery

    query, surgery, before, history, trained = _trained(prepare, train)
    latent = surgery.embed()
    if not np.isfinite(latent).all():
        raise RefmapError(f"The embedding of '{shown}' holds values that are no numbers: lower learning_rate.")
    predictions = surgery.predict()
    embedding = _embedding(query, latent, predictions)
    surgery.annotate(embedding)
    if results:
        results.mkdir(parents=True)
        surgery.write_results(results)
    # After the embedding, which can move statistics of batch norm as well as training can.
    after = surgery.frozen_sha256()
    if before != after:
        raise RefmapError(
            f"Surgery moved the reference '{folder.shown}' (frozen parameters {before[:12]} became {after[:12]}):"
            " the mapping is not to be used. This is a defect of refmap: please report it with the model's class and version."
        )
    surgery.save(updated)
    if not surgery.holds_facts:
        carry_facts(folder, updated)
    facts = {
        "model": None,
        "train": trained,
        "device": surgery.device,
        "parameters_total": surgery.parameters_total,
        "parameters_trainable": surgery.parameters_trainable,
        "frozen_sha256_before": before,
        "frozen_sha256_after": after,
    }
    return Part(embedding, list(predictions), history, facts, surgery.warnings)


def _trained(
    prepare: Callable[[], tuple[ad.AnnData, Surgery]], settings: dict | None
) -> tuple[ad.AnnData, Surgery, str, pd.DataFrame, dict | None]:
    """Prepare a surgery and train it, from its start again with half the minibatch as often as the GPU's memory does not suffice.

    Returns the query, the surgery, the hash of its reference before the training, the history, and what to record.
    """
    import torch

    halved = []
    while True:
        query, surgery = prepare()
        before = surgery.reference_sha256()
        try:
            history, trained = _train(surgery, settings)
        except torch.OutOfMemoryError as error:
            size = surgery.batch_size(settings)
            if size == 1:
                raise RefmapError(
                    f"The memory of {surgery.device} does not suffice for a single cell of the query: take a larger GPU, or none."
                ) from error
            settings = settings | {"batch_size": size // 2}
            halved = [
                f"The memory of {surgery.device} did not suffice for minibatches of {size} cells: {size // 2} were taken, which may "
                "change the result."
            ]
            print(f"out of GPU memory with minibatches of {size} cells: from the start again with {size // 2}")
            # Freed only once nothing holds the old model, the error's traceback included.
            del query, surgery, error
            gc.collect()
            torch.cuda.empty_cache()
            continue
        surgery.warnings += halved
        if trained:
            trained["batch_size"] = surgery.batch_size(settings)
        return query, surgery, before, history, trained


def _train(surgery: Surgery, settings: dict | None) -> tuple[pd.DataFrame, dict | None]:
    """Train, unless there is nothing to be trained or nothing wanted."""
    nothing = pd.DataFrame(index=pd.Index([], name="epoch"))
    if settings is None or settings["max_epochs"] == 0:
        print("inference only: nothing is trained")
        return nothing, None
    if surgery.parameters_trainable == 0:
        print("nothing is trained")
        if surgery.untrained:
            surgery.warnings.append(surgery.untrained)
        return nothing, None
    return surgery.train(settings, log=print)


def _embedding(query: ad.AnnData, latent: np.ndarray, predictions: dict[str, Prediction]) -> ad.AnnData:
    """Put the latent and the model's predictions into an AnnData without genes."""
    result = ad.AnnData(obs=pd.DataFrame(index=query.obs_names.astype(object)), obsm={"X_emb": latent}, uns={"refmap": {}})
    for key, prediction in predictions.items():
        add_prediction(result, key, prediction)
    return result


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
    obsm = {key: values[order] for key, values in joined.obsm.items()}
    return ad.AnnData(obs=joined.obs.iloc[order], obsm=obsm, uns=parts[0].embedding.uns)


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


def train_reference(settings: dict, aligned: Path, folder: Path, embedding: Path | None = None, log=print) -> None:
    """Train a reference that is ready for surgery; see the families for what `settings` hold.

    Parameters
    ----------
    aligned
        AnnData zarr: cells x genes, as :func:`refmap.reference.atlas.align_reference` writes it.
    folder
        Where the model goes.
    embedding
        Where the latent of the reference's own cells goes, if it is wanted: AnnData zarr, obsm ``X_emb``, obs as aligned.

    Raises
    ------
    RefmapError
        If the family cannot be trained from what is there, or training diverges.
    """
    family = trainer_of(settings["family"])
    remove(folder)
    family.train_reference(ad.read_zarr(aligned), settings, folder, log)
    if embedding:
        cells = ad.read_zarr(aligned)  # again, as training may have changed those that it was given
        latent = embed_reference(cells, folder, inspect_model(folder).to_json(), settings["seed"])
        write_zarr(ad.AnnData(obs=cells.obs, obsm={"X_emb": latent}), embedding)


def embed_reference(cells: ad.AnnData, model: Path, card: dict, seed: int) -> np.ndarray:
    """Return the latent of aligned cells whose batches a model knows: float32, cells x latent dimensions.

    Raises RefmapError if the model is not the one that `card` describes, or cannot be loaded.
    """
    folder = ModelFolder(model, card["model"])
    folder.verify(card["sha256"])
    surgery_of = by_name(card["family"]).surgery()
    surgery_of.seed(seed)
    # Some families leave genes out of what they train on; a hierarchy's labels are none of the model's below it.
    cells = cells[:, card["genes"]].copy()
    cells.obs, model_card = below_hierarchy(cells.obs, card)
    return surgery_of.prepare(
        folder.path, cells, model_card, Settings(seed=seed, options=option_defaults(card["options"]))
    ).embed()
