"""Training of references that surgery can map onto later."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .training import check_machine, run_training, seed_library

if TYPE_CHECKING:
    import anndata as ad

# What surgery needs: an encoder that sees the batch, and no batch statistics (Lotfollahi et al. 2022; the tutorial
# "Reference mapping with scvi-tools").
SURGERY_READY = {"encode_covariates": True, "use_layer_norm": "both", "use_batch_norm": "none"}
# scANVI is trained on top of scVI and needs no more than this (its tutorial, and Sikkema et al. 2023 for the HLCA).
SCANVI_EPOCHS = 20


def train_reference(reference: ad.AnnData, settings: dict, folder: Path, log: Callable = print) -> None:
    """Train a surgery-ready reference and save it to `folder`.

    Parameters
    ----------
    reference
        Counts, cells x genes, with the obs columns (and proteins in obsm) that `settings` name.
    settings
        ``family``, ``batch_key``, ``labels_keys``, ``unlabeled_category``, ``categorical_covariate_keys``,
        ``continuous_covariate_keys``, ``protein_key``, ``n_latent``, ``n_layers``, ``max_epochs``, ``seed``.
    folder
        Where the model goes.

    Raises
    ------
    RefmapError
        If training diverges.
    MachineFault
        If scvi-tools can train nothing here.
    """
    import scvi

    check_machine()
    seed_library(settings["seed"])
    family = settings["family"]
    setup = {
        "batch_key": settings["batch_key"],
        "categorical_covariate_keys": settings["categorical_covariate_keys"] or None,
        "continuous_covariate_keys": settings["continuous_covariate_keys"] or None,
    }
    epochs = settings["max_epochs"]
    shape = {"n_latent": settings["n_latent"]}
    if family == "totalvi":
        scvi.model.TOTALVI.setup_anndata(reference, protein_expression_obsm_key=settings["protein_key"], **setup)
        model = scvi.model.TOTALVI(
            reference,
            **shape,
            n_layers_encoder=settings["n_layers"],
            n_layers_decoder=settings["n_layers"],
            **SURGERY_READY,
        )
        run_training(model, _settings(epochs), log)
    else:
        labels = {"labels_key": settings["labels_keys"][0]} if family == "scanvi" else {}
        scvi.model.SCVI.setup_anndata(reference, **setup, **labels)
        model = scvi.model.SCVI(reference, **shape, n_layers=settings["n_layers"], **SURGERY_READY)
        run_training(model, _settings(epochs), log)
        if family == "scanvi":
            model = scvi.model.SCANVI.from_scvi_model(model, unlabeled_category=settings["unlabeled_category"])
            run_training(model, _settings(min(epochs, SCANVI_EPOCHS)), log)
    model.save(str(folder), overwrite=True, save_anndata=False)


def _settings(epochs: int) -> dict:
    return {"max_epochs": epochs, "early_stopping": True, "check_val_every_n_epoch": 1}
