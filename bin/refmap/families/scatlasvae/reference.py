"""Train a new scAtlasVAE reference.

The library's `fit` (1.0.5.9) seeds a split of each epoch by a number of its own, holds out other cells in each, and learns the
labels in the last ten epochs alone; it keeps no copy of the best weights. Its loss is taken over here, and labels are learned
throughout.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...common.errors import RefmapError
from .. import freezing
from ..fitting import fit
from .files import DEFAULTS, Description, settings_of
from .loading import counted, save
from .network import Cells, heads, losses, make

if TYPE_CHECKING:
    import anndata as ad
    import torch

# The library's 5e-5 is for an atlas of some 20,000 cells and 400 epochs; this is what other autoencoders of single cells take.
LEARNING_RATE = 1e-3
# The KL divergence rises to its full weight over so many epochs, or over all where there are fewer.
ANNEALED = 400


def train_reference(reference: ad.AnnData, settings: dict, folder: Path, log: Callable = print) -> None:
    """Train a scAtlasVAE and save it to `folder`.

    Parameters
    ----------
    reference
        Counts, CSR, cells x genes; obs columns ``batch_key``, ``categorical_covariate_keys`` and ``labels_keys``, all text.
    settings
        ``batch_key``, ``categorical_covariate_keys``, ``labels_keys`` (may be empty), ``unlabeled_category``, ``n_latent``,
        ``n_layers``, ``max_epochs``, ``seed``, ``options``.

    Raises
    ------
    RefmapError
        If training diverges.
    """
    import torch

    freezing.seed_everything(settings["seed"])
    options, model = settings["options"], _describe(reference, settings)
    network = make(model, {})
    cells = Cells.of(reference.X, reference.obs, model.batches | model.labels)
    criteria = _criteria(cells, model, network.device)
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    steps, done = math.ceil(reference.n_obs / options["batch_size"]) * min(ANNEALED, settings["max_epochs"]), 0

    def loss_of(positions: np.ndarray) -> torch.Tensor:
        taken = cells.take(network, positions)
        terms = losses(network, model, taken)
        # Held-out cells are judged by the whole loss, lest an early epoch be the best for its lower weight.
        annealed = min(1.0, done / steps) if network.training else 1.0
        loss = (terms.reconstruction + annealed * terms.kl + terms.gate).mean()
        for key, head, criterion in zip(model.labels, heads(network), criteria):
            known = taken.codes[key] >= 0
            if known.any():
                loss = loss + options["label_weight"] * criterion(head(terms.latent[known]), taken.codes[key][known])
        return loss

    def count_step() -> None:
        nonlocal done
        done += 1

    try:
        fit(
            network,
            loss_of,
            optimizer,
            reference.n_obs,
            settings["max_epochs"],
            options["batch_size"],
            settings["seed"],
            log,
            count_step,
        )
    except ValueError as error:
        if "invalid values" not in str(error):
            raise
        raise RefmapError("Training diverged: the loss is no longer a number. Look at the reference's values.") from error
    save(folder, network, model, counted(reference.obs, [*model.batches, *model.labels]))


def _describe(reference: ad.AnnData, settings: dict) -> Description:
    """The model that is to be trained."""
    from torch.nn import ReLU

    options, unlabeled = settings["options"], settings["unlabeled_category"]
    batches = {key: _values(reference, key) for key in (settings["batch_key"], *settings["categorical_covariate_keys"])}
    labels = {key: [label for label in _values(reference, key) if label != unlabeled] for key in settings["labels_keys"]}
    labels = {key: values for key, values in labels.items() if values}

    config = {
        **settings_of("batch", batches, [len(values) for values in batches.values()]),
        **settings_of("label", labels, [len(values) for values in labels.values()]),
        "hidden_stacks": [options["n_hidden"]] * settings["n_layers"],
        "n_latent": settings["n_latent"],
        "batch_hidden_dim": options["batch_dims"],
        "dropout_rate": options["dropout"],
        "activation_fn": ReLU,
        "unlabel_key": unlabeled,
    }
    return Description(DEFAULTS | config, list(map(str, reference.var_names)), batches, labels, unlabeled)


def _values(reference: ad.AnnData, key: str) -> list[str]:
    return sorted(set(reference.obs[key].astype(str)))


def _criteria(cells: Cells, model: Description, device: str) -> list[torch.nn.Module]:
    """The cross entropy of each label column, in which a label's cells weigh less the more there are of them."""
    import torch

    criteria = []
    for key, labels in model.labels.items():
        codes = cells.codes[key]
        counts = np.bincount(codes[codes >= 0], minlength=len(labels))
        criteria.append(torch.nn.CrossEntropyLoss(torch.tensor(counts.sum() / counts, dtype=torch.float32, device=device)))
    return criteria
