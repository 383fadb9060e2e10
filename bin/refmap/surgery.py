"""Map one aligned query onto its reference: surgery, training, embedding and predictions, whatever the family."""

from __future__ import annotations

import gc
import platform
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from . import __version__
from .cards import inspect_model
from .cli import read_json, remove, write_json
from .errors import RefmapError
from .families import ModelFolder, by_name, trainer_of
from .families.base import Prediction, Settings, Surgery, carry_facts
from .folders import MappedFolder, PreparedFolder
from .hierarchy import below_hierarchy
from .options import defaults as option_defaults
from .storage import write_zarr


def map_query(prepared: PreparedFolder, training: dict, card: dict, model: Path, mapped: MappedFolder, updated: Path) -> None:
    """Map a query and write what it gave and the updated model.

    Parameters
    ----------
    prepared
        The query, ready for its model.
    training
        ``train``: settings of the training, None for inference only; ``seed``; ``freeze_dropout``.
    card
        What is known of the model.
    model
        The reference's folder or file: the very files that the card describes.
    mapped
        Where to write what the mapping gives; the folder is made.
    updated
        The folder to write the updated model to.

    Raises
    ------
    RefmapError
        If the model is not the one that was inspected, cannot be loaded, diverges, or moved the reference.
    """
    plan, alignment = read_json(prepared.plan), read_json(prepared.alignment)
    row = plan["row"]
    folder = ModelFolder(model, card["model"])
    folder.verify(card["sha256"])
    # The libraries' advice to programmers would bury the line an epoch.
    warnings.filterwarnings("ignore", module="lightning|scvi|anndata|torch|scarches")
    surgery_of = by_name(card["family"]).surgery()
    settings = Settings(training["freeze_dropout"], training["seed"], plan["options"], prepared.gmt if row["gmt"] else None)

    def prepare() -> tuple[ad.AnnData, Surgery]:
        query = ad.read_zarr(prepared.aligned)
        query.obs, model_card = below_hierarchy(query.obs, card)
        surgery_of.seed(training["seed"])
        surgery = surgery_of.prepare(folder.path, query, model_card, settings)
        print(f"{card['class_name']} on {surgery.device}: {query.n_obs} cells, {query.n_vars} genes,", end=" ")
        print(f"{surgery.parameters_trainable} of {surgery.parameters_total} parameters to train")
        return query, surgery

    query, surgery, before, history, trained = _trained(prepare, training["train"])
    latent = surgery.embed()
    if not np.isfinite(latent).all():
        raise RefmapError(f"The embedding of '{row['query']}' holds values that are no numbers: lower learning_rate.")
    embedding, predictions = _embedding(query, latent, surgery.predict())
    embedding.uns["refmap"] = {key: card[key] for key in ("model", "family", "class_name")} | {"model_sha256": card["sha256"]}
    surgery.annotate(embedding)
    mapped.results.mkdir(parents=True)
    surgery.write_results(mapped.results)
    # After the embedding, which can move statistics of batch norm as well as training can.
    after = surgery.frozen_sha256()
    if before != after:
        raise RefmapError(
            f"Surgery moved the reference '{card['model']}' (frozen parameters {before[:12]} became {after[:12]}):"
            " the mapping is not to be used. This is a defect of refmap: please report it with the model's class and version."
        )
    history.to_csv(mapped.history)
    write_zarr(embedding, mapped.embedding)
    surgery.save(updated)
    if not surgery.holds_facts:
        carry_facts(folder, updated)
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
            "n_cells": query.n_obs,
            "n_genes": {key: alignment[key] for key in ("matched", "padded", "dropped", "summed")},
            "batches": _batches(plan, card),
            "covariates": plan["covariates"],
            "parameters": row | training | {"options": plan["options"]},
            "train": trained,
            "device": surgery.device,
            "parameters_total": surgery.parameters_total,
            "parameters_trainable": surgery.parameters_trainable,
            "frozen_sha256_before": before,
            "frozen_sha256_after": after,
            "seed": training["seed"],
            "versions": {"refmap": __version__, "python": platform.python_version(), **surgery.versions()},
            "predictions": predictions,
            # The alignment sees again some of what the plan saw.
            "warnings": list(dict.fromkeys([*plan["warnings"], *alignment["warnings"], *surgery.warnings])),
        },
    )


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


def _embedding(query: ad.AnnData, latent: np.ndarray, predictions: dict[str, Prediction]) -> tuple[ad.AnnData, dict]:
    """Put the latent and the model's predictions into an AnnData without genes; sum the predictions up."""
    result = ad.AnnData(obs=pd.DataFrame(index=query.obs_names.astype(object)), obsm={"X_emb": latent})
    sums = {}
    for key, prediction in predictions.items():
        add_prediction(result, key, prediction)
        counts = result.obs[f"{key}_predicted"].value_counts()
        sums[key] = {
            "counts": {name: int(n) for name, n in counts.items() if n},
            "mean_uncertainty": float(prediction.uncertainty.mean()),
        }
    return result, sums


def add_prediction(result: ad.AnnData, key: str, prediction: Prediction) -> None:
    """Add what a model says of the label column `key` to an AnnData of the query's cells."""
    beyond = sorted(set(prediction.labels) - set(prediction.classes))
    result.obs[f"{key}_predicted"] = pd.Categorical(prediction.labels, categories=[*prediction.classes, *beyond])
    result.obs[f"{key}_predicted_uncertainty"] = prediction.uncertainty.astype(np.float32)
    result.uns[f"{key}_classes"] = np.array(prediction.classes, dtype=object)
    if prediction.probabilities is not None:
        result.obs[f"{key}_predicted_probability"] = prediction.probabilities.max(axis=1)
        result.obsm[f"{key}_probabilities"] = prediction.probabilities


def _batches(plan: dict, card: dict) -> dict:
    names = {value: batch["name"] for value, batch in plan["batches"].items()}
    return {
        "reference": len(card["batches"]),
        "query": len(names),
        "new": sorted(set(names.values()) - set(card["batches"])),
        "renamed": {value: name for value, name in names.items() if value != name},
    }


def train_reference(settings: dict, aligned: Path, folder: Path, embedding: Path | None = None, log=print) -> None:
    """Train a reference that is ready for surgery; see the families for what `settings` hold.

    Parameters
    ----------
    aligned
        AnnData zarr: cells x genes, as :func:`refmap.reference.align_reference` writes it.
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
        latent = embed_reference(cells, folder, settings["seed"])
        write_zarr(ad.AnnData(obs=cells.obs, obsm={"X_emb": latent}), embedding)


def embed_reference(cells: ad.AnnData, folder: Path, seed: int) -> np.ndarray:
    """Return the latent of aligned cells whose batches a model knows: float32, cells x latent dimensions."""
    card = inspect_model(folder)
    # Some families leave genes out of what they train on.
    cells = cells[:, card.genes].copy()
    surgery_of: type[Surgery] = by_name(card.family).surgery()
    surgery_of.seed(seed)
    return surgery_of.prepare(folder, cells, card.to_json(), Settings(seed=seed, options=option_defaults(card.options))).embed()
