"""Train a new expiMap reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...common.errors import RefmapError
from ..freezing import seed_everything
from ..gmt import programs_of, read_gmt
from ..scarches.loading import quietly, save
from ..scarches.training import run_trainer, shuffled, trainer_arguments

if TYPE_CHECKING:
    import anndata as ad

# The weight of the KL divergence rises to its full value over so many epochs: scArches' tutorial of expiMap.
ANNEALED = 100


def train_reference(reference: ad.AnnData, settings: dict, folder: Path, log: Callable = print) -> None:
    """Train a surgery-ready expiMap, and save it to `folder` with the names of its programmes.

    As its authors do, genes in no programme are left out of a model of counts: nothing in its latent could explain them, yet
    they would share in the softmax of its decoder. A model of log-normalised values keeps them, for the totals that these
    were scaled by are over all genes; there each gene is explained by itself.

    Parameters
    ----------
    reference
        Cells x genes: counts, or log-normalised values for ``recon_loss=mse``; the batch column in obs.
    settings
        ``batch_key``, ``gmt``, ``n_layers``, ``max_epochs``, ``seed``, ``normalization`` and the family's ``options``. The
        number of latent dimensions is that of the programmes.
    folder
        Where the model goes.

    Raises
    ------
    RefmapError
        If no programme has enough genes of the reference, or training diverges.
    """
    options, key = settings["options"], settings["batch_key"]
    seed_everything(settings["seed"])
    names, members = _programs(reference, settings, log)
    in_any = members.any(axis=0)
    log(f"{len(names)} gene programmes over {in_any.sum()} of {reference.n_vars} genes")
    kept = in_any | (options["recon_loss"] == "mse")
    cells = shuffled(reference[:, kept], settings["seed"])
    training = {"max_epochs": settings["max_epochs"], "early_stopping": True}
    with quietly():
        from scarches.models import EXPIMAP
        from scarches.trainers import expiMapTrainer

        model = EXPIMAP(
            cells,
            condition_key=key,
            conditions=sorted(set(cells.obs[key].astype(str))),
            hidden_layer_sizes=[options["n_hidden"]] * settings["n_layers"],
            dr_rate=options["dropout"],
            recon_loss=options["recon_loss"],
            mask=members[:, kept].astype(int),
        )
        warnings: list[str] = []
        kl = {"alpha_kl": options["alpha_kl"], "alpha_epoch_anneal": min(ANNEALED, settings["max_epochs"])}
        arguments = trainer_arguments(training, cells.obs[key], settings["seed"], warnings, defaults=kl)
        trainer = expiMapTrainer(model.model, cells, alpha=options["alpha"], condition_key=key, **arguments)
    for sentence in warnings:
        log(sentence)
    run_trainer(trainer, training, log)
    log(f"{int(model.nonzero_terms().sum())} of {len(names)} gene programmes are active")
    save(model, folder, normalization=settings["normalization"], latent_names=names)


def _programs(reference: ad.AnnData, settings: dict, log: Callable) -> tuple[list[str], np.ndarray]:
    """The programmes with enough genes of the reference: names, and bool, programmes x genes."""
    gmt, least = Path(settings["gmt"]), settings["options"]["min_genes"]
    names, members = programs_of(reference.var_names, read_gmt(gmt, "--reference_gmt"))
    kept = members.sum(axis=1) >= least
    if not kept.any():
        raise RefmapError(
            f"No programme of --reference_gmt has {least} of the reference's {reference.n_vars} genes or more: give one whose "
            "genes are named as the reference's, or lower min_genes in --reference_options."
        )
    if not kept.all():
        log(f"{(~kept).sum()} of {len(names)} programmes have fewer than {least} of the reference's genes and are left out")
    return [name for name, keep in zip(names, kept, strict=True) if keep], members[kept]
