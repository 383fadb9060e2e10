"""Train a reference on an aligned atlas, and embed the cells of one by its model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from ..common.cli import remove
from ..common.storage import read_zarr, write_zarr
from ..families import by_name, trainer_of
from ..families.base import Settings
from ..families.devices import check_gpu
from ..families.options import defaults as option_defaults
from ..hierarchy import below_hierarchy
from ..models.folder import ModelFolder
from ..models.hidden import draw_hidden, hide, write_hidden
from .inspection import inspect_model


def train_reference(settings: dict, aligned: Path, folder: Path, embedding: Path | None = None, log: Callable = print) -> None:
    """Train a reference that is ready for surgery; see the families for what `settings` hold.

    A share ``hidden_labels`` of the cells trains without labels, where it is above 0: see :mod:`refmap.models.hidden`.

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
    for warning in check_gpu():
        log(warning)
    cells = read_zarr(aligned)
    hidden = _hide_labels(cells, settings, log)
    family.train_reference(cells, settings, folder, log)
    if len(hidden):
        write_hidden(folder, hidden, settings["hidden_labels"], settings["seed"])
    if embedding:
        cells = read_zarr(aligned)  # again, as training may have changed those that it was given
        embedded = embed_reference(cells, folder, inspect_model(folder).to_json(), settings["seed"])
        write_zarr(ad.AnnData(obs=cells.obs, obsm=embedded), embedding)


def _hide_labels(cells: ad.AnnData, settings: dict, log: Callable) -> pd.Index:
    """Hide the labels of some of the cells that a model is to be trained on; return the names of these."""
    keys, unlabeled, fraction = settings["labels_keys"], settings["unlabeled_category"], settings["hidden_labels"]
    if not (keys and fraction):
        return cells.obs_names[:0]
    hidden = draw_hidden(cells.obs, keys, settings["batch_key"], unlabeled, fraction, settings["seed"])
    hide(cells.obs, keys, unlabeled, hidden)
    if hidden.any():
        log(
            f"The model does not see the labels of {hidden.sum():,} of {len(hidden):,} cells: on these it is measured how often labels "
            "are right (--reference_hidden_labels)."
        )
    return cells.obs_names[hidden]


def embed_reference(cells: ad.AnnData, model: Path, card: dict, seed: int) -> dict[str, np.ndarray]:
    """Return what goes into obsm of aligned cells whose batches a model knows: float32, cells x latent dimensions.

    ``X_emb`` is their latent, and ``X_emb_var``, of families that compare cells by it, its variance.

    Raises RefmapError if the model is not the one that `card` describes, or cannot be loaded.
    """
    folder = ModelFolder(model, card["model"])
    folder.verify(card["sha256"])
    for warning in check_gpu():
        print(warning)
    surgery_of = by_name(card["family"]).surgery()
    surgery_of.seed(seed)
    # Some families leave genes out of what they train on; a hierarchy's labels are none of the model's below it.
    if list(cells.var_names) != card["genes"]:
        cells = cells[:, card["genes"]].copy()
    cells.obs, model_card = below_hierarchy(cells.obs, card)
    surgery = surgery_of.prepare(folder.path, cells, model_card, Settings(seed=seed, options=option_defaults(card["options"])))
    found = {"X_emb": surgery.embed(), "X_emb_var": surgery.variance()}
    return {name: values for name, values in found.items() if values is not None}
