"""Train a new trVAE reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..freezing import seed_everything
from ..scarches.loading import quietly, save
from ..scarches.training import run_trainer, shuffled, trainer_arguments

if TYPE_CHECKING:
    import anndata as ad

# The weight of the KL divergence rises to its full value over so many epochs: scArches' tutorial of trVAE.
ANNEALED = 200


def train_reference(reference: ad.AnnData, settings: dict, folder: Path, log: Callable = print) -> None:
    """Train a surgery-ready trVAE and save it to `folder`.

    Parameters
    ----------
    reference
        Cells x genes: counts, or log-normalised values for ``recon_loss=mse``; the batch column in obs.
    settings
        ``batch_key``, ``n_latent``, ``n_layers``, ``max_epochs``, ``seed``, ``normalization`` and the family's ``options``.
    folder
        Where the model goes.

    Raises
    ------
    RefmapError
        If training diverges.
    """
    options, key = settings["options"], settings["batch_key"]
    seed_everything(settings["seed"])
    cells = shuffled(reference, settings["seed"])
    training = {"max_epochs": settings["max_epochs"], "early_stopping": True}
    with quietly():
        from scarches.models import TRVAE
        from scarches.trainers import trVAETrainer

        model = TRVAE(
            cells,
            condition_key=key,
            conditions=sorted(set(cells.obs[key].astype(str))),
            hidden_layer_sizes=[options["n_hidden"]] * settings["n_layers"],
            latent_dim=settings["n_latent"],
            dr_rate=options["dropout"],
            use_mmd=options["use_mmd"],
            mmd_on=options["mmd_on"],
            beta=options["mmd_weight"],
            recon_loss=options["recon_loss"],
        )
        warnings: list[str] = []
        annealed = {"alpha_epoch_anneal": min(ANNEALED, settings["max_epochs"])}
        arguments = trainer_arguments(training, cells.obs[key], settings["seed"], warnings, defaults=annealed)
        trainer = trVAETrainer(model.model, cells, condition_key=key, **arguments)
    for sentence in warnings:
        log(sentence)
    run_trainer(trainer, training, log)
    save(model, folder, normalization=settings["normalization"])
