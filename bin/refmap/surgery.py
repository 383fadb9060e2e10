"""Map one aligned query onto its reference: surgery, training, embedding and predictions, whatever the family."""

from __future__ import annotations

import platform
import shutil
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from . import __version__
from .cli import remove, write_json
from .errors import RefmapError
from .families import ModelFolder, by_name, trainer_of
from .storage import write_zarr


def map_query(plan: dict, training: dict, card: dict, alignment: dict, model: Path, aligned: Path, out: dict[str, Path]) -> None:
    """Map a query and write the updated model, the embedding, the history and the record of the mapping.

    Parameters
    ----------
    plan, card, alignment
        What is known of the mapping, of its model and of its genes.
    training
        ``train``: settings of the training, None for inference only; ``seed``; ``freeze_dropout``.
    model
        The reference's folder or file: the very files that the card describes.
    aligned
        The aligned query, AnnData zarr: cells x the model's genes.
    out
        Paths to write: ``model``, ``embedding``, ``history``, ``record``.

    Raises
    ------
    RefmapError
        If the model is not the one that was inspected, cannot be loaded, diverges, or moved the reference.
    """
    row = plan["row"]
    folder = ModelFolder(model, card["model"])
    # Loading runs the model's pickle: what is loaded must be what was inspected, to the byte.
    if folder.sha256() != card["sha256"]:
        raise RefmapError(f"The model '{card['model']}' changed after it was inspected: run again with -resume.")
    # The libraries' advice to programmers would bury the line an epoch.
    warnings.filterwarnings("ignore", module="lightning|scvi|anndata|torch")
    query = ad.read_zarr(aligned)
    surgery_of = by_name(card["family"]).surgery()
    surgery_of.seed(training["seed"])
    surgery = surgery_of.prepare(folder.path, query, card, freeze_dropout=training["freeze_dropout"])
    print(f"{card['class_name']} on {surgery.device}: {query.n_obs} cells, {query.n_vars} genes,", end=" ")
    print(f"{surgery.parameters_trainable} of {surgery.parameters_total} parameters to train")

    before = surgery.reference_sha256()
    history, trained = _train(surgery, training["train"])
    after = surgery.frozen_sha256()
    if before != after:
        raise RefmapError(
            f"Surgery moved the reference '{card['model']}' (frozen parameters {before[:12]} became {after[:12]}):"
            " the mapping is not to be used. This is a defect of refmap: please report it with the model's class and version."
        )
    latent = surgery.embed()
    if not np.isfinite(latent).all():
        raise RefmapError(f"The embedding of '{row['query']}' holds values that are no numbers: lower learning_rate.")
    embedding, predictions = _embedding(query, latent, surgery.predict(), card["labels_key"])

    embedding.uns["refmap"] = {key: card[key] for key in ("model", "family", "class_name")} | {"model_sha256": card["sha256"]}
    history.to_csv(out["history"])
    write_zarr(embedding, out["embedding"])
    surgery.save(out["model"])
    write_json(
        out["record"],
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
            "parameters": row | training,
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


def _train(surgery, settings: dict | None) -> tuple[pd.DataFrame, dict | None]:
    """Train, unless there is nothing to be trained or nothing wanted."""
    nothing = pd.DataFrame(index=pd.Index([], name="epoch"))
    if settings is None or settings["max_epochs"] == 0:
        print("inference only: nothing is trained")
        return nothing, None
    if surgery.parameters_trainable == 0:
        surgery.warnings.append("Nothing was trained: the model has no batch or covariate that this query could add to.")
        print(surgery.warnings[-1])
        return nothing, None
    return surgery.train(settings, log=print)


def _embedding(
    query: ad.AnnData, latent: np.ndarray, probabilities: pd.DataFrame | None, labels_key: str | None
) -> tuple[ad.AnnData, dict | None]:
    """Put the latent and the model's predictions into an AnnData without genes; sum the predictions up."""
    result = ad.AnnData(obs=pd.DataFrame(index=query.obs_names.astype(object)), obsm={"X_emb": latent})
    if probabilities is None:
        return result, None
    classes = [str(name) for name in probabilities.columns]
    values = probabilities.to_numpy(dtype=np.float32)
    best = values.argmax(axis=1)
    result.obs[f"{labels_key}_predicted"] = pd.Categorical.from_codes(best, categories=classes)
    result.obs[f"{labels_key}_predicted_probability"] = values.max(axis=1)
    result.obsm[f"{labels_key}_probabilities"] = values
    result.uns[f"{labels_key}_classes"] = np.array(classes, dtype=object)
    counts = result.obs[f"{labels_key}_predicted"].value_counts()
    return result, {
        "labels_key": labels_key,
        "counts": {name: int(n) for name, n in counts.items() if n},
        "mean_probability": float(values.max(axis=1).mean()),
    }


def _batches(plan: dict, card: dict) -> dict:
    names = {value: batch["name"] for value, batch in plan["batches"].items()}
    return {
        "reference": len(card["batches"]),
        "query": len(names),
        "new": sorted(set(names.values()) - set(card["batches"])),
        "renamed": {value: name for value, name in names.items() if value != name},
    }


def train_reference(settings: dict, aligned: Path, folder: Path, log=print) -> None:
    """Train a reference that is ready for surgery from aligned counts; see the families for what `settings` hold.

    Raises
    ------
    RefmapError
        If the family cannot be trained from what is there, or training diverges.
    """
    family = trainer_of(settings["family"])
    work = folder.with_name(folder.name + ".part")
    remove(work)
    family.train_reference(ad.read_zarr(aligned), settings, work, log)
    remove(folder)
    shutil.move(work, folder)
