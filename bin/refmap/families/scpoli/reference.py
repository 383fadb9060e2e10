"""Train a new scPoli reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ...common.errors import RefmapError
from ..freezing import seed_everything
from ..scarches.loading import quietly, save, to_best_device
from ..scarches.training import run_trainer, shuffled, trainer_arguments
from .prototypes import add_labels, label_codes, labeled_cells
from .training import ANNEALED, complete_prototypes, finish, new_trainer, phases, split_groups

if TYPE_CHECKING:
    import anndata as ad


def train_reference(reference: ad.AnnData, settings: dict, folder: Path, log: Callable = print) -> None:
    """Train a surgery-ready scPoli and save it to `folder`.

    Parameters
    ----------
    reference
        Cells x genes: counts, or log-normalised values for ``recon_loss=mse``; the condition and label columns in obs.
    settings
        ``batch_key``, ``categorical_covariate_keys`` (further conditions), ``labels_keys``, ``unlabeled_category``,
        ``n_latent``, ``n_layers``, ``max_epochs``, ``seed``, ``normalization`` and the family's ``options``.
    folder
        Where the model goes.

    Raises
    ------
    RefmapError
        If no cell has a label, a continuous covariate is asked for, or training diverges.
    """
    options, keys = settings["options"], settings["labels_keys"]
    if settings["continuous_covariate_keys"]:
        raise RefmapError("scPoli has no continuous covariates: leave reference_continuous_covariate_keys out.")
    seed_everything(settings["seed"])
    cells = shuffled(reference, settings["seed"])
    cell_types: dict[str, list[str]] = {}
    add_labels(cell_types, cells.obs, keys, {settings["unlabeled_category"]})
    if not cell_types:
        raise RefmapError(f"No cell of the reference has a label in {', '.join(keys)}: scPoli learns prototypes of labels.")
    labels = label_codes(cells.obs, keys, cell_types)
    labeled, epochs = labeled_cells(labels), settings["max_epochs"]
    conditions = [settings["batch_key"], *settings["categorical_covariate_keys"]]
    training = {"max_epochs": epochs, "early_stopping": True}
    with quietly():
        from scarches.models import scPoli

        model = scPoli(
            cells,
            share_metadata=False,
            obs_metadata=pd.DataFrame(),
            condition_keys=conditions,
            conditions={key: sorted(set(cells.obs[key].astype(str))) for key in conditions},
            cell_type_keys=keys,
            cell_types=cell_types,
            unknown_ct_names=[settings["unlabeled_category"]],
            labeled_indices=labeled,
            hidden_layer_sizes=[options["n_hidden"]] * settings["n_layers"],
            latent_dim=settings["n_latent"],
            embedding_dims=options["embedding_dim"],
            dr_rate=options["dropout"],
            recon_loss=options["recon_loss"],
        )
    defaults = phases(int(epochs * options["pretraining"]), options["eta"], True) | {"alpha_epoch_anneal": min(ANNEALED, epochs)}
    warnings: list[str] = []
    groups = split_groups(cells.obs, model, labeled)
    arguments = trainer_arguments(training, groups, settings["seed"], warnings, defaults=defaults)
    for sentence in warnings:
        log(sentence)
    run_trainer(new_trainer(model, cells, labeled, arguments), training, log)
    to_best_device(model.model)
    model.model.eval()
    latent = np.asarray(model.get_latent(cells, mean=True), dtype=np.float32)
    complete_prototypes(model.model, latent, labels, n_fixed=0)
    finish(model, clusters=None)
    save(model, folder, normalization=settings["normalization"])
