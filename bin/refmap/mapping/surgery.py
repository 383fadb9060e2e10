"""One surgery: prepared, trained, embedded and predicted by, whatever the family; with the proof that the reference has not moved."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from ..common.errors import RefmapError
from ..common.storage import numbered
from ..families import by_name
from ..families.base import Decoder, Prediction, Settings, Surgery, add_prediction
from ..families.devices import check_gpu
from ..families.options import defaults as option_defaults
from ..models.folder import ModelFolder, carry_facts
from ..models.hidden import carry_hidden
from ..reference.inspection import inspect_model
from .decoded import Decoded, decode, hshare

# A saved model is opened again with so many cells.
REOPENED = 8


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
    card
        That of the grown model, by its files.
    decoded
        What the model expects of some of its cells; None of a model that expects no counts.
    batch, cells
        Where there is one surgery a batch: which it is, and the places of its cells in the query.
    """

    embedding: ad.AnnData
    labels_keys: list[str]
    history: pd.DataFrame
    facts: dict
    warnings: list[str]
    card: dict
    decoded: Decoded | None = None
    batch: str | None = None
    cells: np.ndarray | None = None


def operate(
    shown: str,
    train: dict | None,
    settings: Settings,
    read: Callable[[], tuple[ad.AnnData, dict]],
    folder: ModelFolder,
    updated: Path,
    results: Path | None,
) -> Part:
    """Do one surgery: train, embed and predict, prove that the reference has not moved, save the grown model and open it again.

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

    few, rows, trusted, batch_key = None, slice(REOPENED), False, None

    def prepare() -> tuple[ad.AnnData, Surgery]:
        nonlocal few, rows, trusted, batch_key
        query, card = read()
        few, trusted, batch_key = query[:REOPENED].copy(), card["trusted"], card["batch_key"]
        warnings = check_gpu()
        surgery_of = by_name(card["family"]).surgery()
        surgery_of.seed(settings.seed)
        surgery = surgery_of.prepare(folder.path, query, card, replace(settings, train=train))
        surgery.warnings += warnings
        if surgery.placed is not None:
            rows = np.flatnonzero(surgery.placed)[:REOPENED]
            few = query[rows].copy()
        print(f"{card['class_name']} on {surgery.device}: {query.n_obs} cells, {query.n_vars} genes,", end=" ")
        print(f"{surgery.parameters_trainable} of {surgery.parameters_total} parameters to train")
        return query, surgery

    query, surgery, before, history, trained = _trained(prepare, train)
    latent = surgery.embed()
    if not _are_finite(latent if surgery.placed is None else latent[surgery.placed]):
        raise RefmapError(f"The embedding of '{shown}' holds values that are no numbers: lower learning_rate.")
    predictions = surgery.predict()
    embedding = _embedding(query, latent, predictions)
    decoded, share = _decode(surgery.decoder(latent), query, batch_key, surgery.placed, settings.seed)
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
    carry_hidden(folder, updated)
    facts = {
        "model": None,
        "train": trained,
        "device": surgery.device,
        "parameters_total": surgery.parameters_total,
        "parameters_trainable": surgery.parameters_trainable,
        "frozen_sha256_before": before,
        "frozen_sha256_after": after,
        "hshare": share,
    }
    warnings = surgery.warnings
    # The model is held once
    del query, surgery
    card = _reopen(updated, folder.shown, trusted, few, settings, latent[rows])
    return Part(embedding, list(predictions), history, facts, warnings, card, decoded)


def _are_finite(values: np.ndarray) -> bool:
    """Whether there is neither NaN nor infinity among them, without an array that says so of each."""
    return bool(np.isfinite(values.min(initial=0)) and np.isfinite(values.max(initial=0)))


def _decode(
    decoder: Decoder | None, query: ad.AnnData, batch_key: str | None, placed: np.ndarray | None, seed: int
) -> tuple[Decoded | None, float | None]:
    """What the model expects of some of the query's cells, and the share of the encoder's signal that the query's genes carry."""
    if decoder is None:
        return None, None
    found = query.var["found"].to_numpy(dtype=bool)
    batches = pd.Categorical(query.obs[batch_key]).codes if batch_key else np.zeros(query.n_obs, dtype=np.int8)
    decoded = decode(decoder, found, batches, placed, seed)
    return decoded, hshare(decoder, decoded.cells, found, seed)


def _reopen(updated: Path, shown: str, trusted: bool, few: ad.AnnData, settings: Settings, latent: np.ndarray) -> dict:
    """Load the grown model from its files as the next mapping will, and return its card: it has to embed its cells where they lie.

    `few` are the first cells of the query that it embeds, aligned, and `latent` is theirs. Raises RefmapError if the model does not
    open or embeds them elsewhere.
    """
    card = inspect_model(updated, shown, trusted).to_json()
    if card["fault"]:
        raise RefmapError(f"The model that '{shown}' became cannot be opened again: {card['fault']}")
    settings = replace(settings, options=option_defaults(card["options"]), gmt=None)
    again = by_name(card["family"]).surgery().prepare(updated, few, card, settings).embed()
    if not np.allclose(again, latent, rtol=1e-3, atol=1e-3):
        raise RefmapError(
            f"The {card['class_name']} that '{shown}' became embeds cells elsewhere once it was saved and loaded again: it"
            " is not to be used. This is a defect of refmap: please report it with the model's class and version."
        )
    return card


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
    names, parts = query.obs_names, {"obsm": {"X_emb": latent}, "uns": {"refmap": {}}}
    if isinstance(names, pd.RangeIndex):
        result = numbered(pd.DataFrame(index=names), **parts)
    else:
        result = ad.AnnData(obs=pd.DataFrame(index=names.astype(object)), **parts)
    for key, prediction in predictions.items():
        add_prediction(result, key, prediction)
    return result
