"""What the engine does not do, which scvi-tools' own trainer then does."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from .likelihood import KINDS

if TYPE_CHECKING:
    from scvi.model.base import BaseModelClass

    from .network import Network

# What it knows of the arguments of `train`, and of those of its plan.
ARGUMENTS = {
    "max_epochs",
    "batch_size",
    "train_size",
    "check_val_every_n_epoch",
    "early_stopping",
    "early_stopping_monitor",
    "early_stopping_min_delta",
    "early_stopping_patience",
    "plan_kwargs",
}
PLAN = {
    "lr",
    "eps",
    "weight_decay",
    "n_epochs_kl_warmup",
    "n_steps_kl_warmup",
    "min_kl_weight",
    "max_kl_weight",
    "classification_ratio",
}
# What early stopping may watch.
MONITORS = {"elbo_validation", "reconstruction_loss_validation", "kl_local_validation", "validation_loss"}


def beyond(model: BaseModelClass, arguments: dict) -> str | None:
    """What of a surgery the engine does not do, in a few words; None if it does all of it.

    `arguments` are those of the model's `train`.
    """
    from scvi.model import SCANVI, SCVI
    from scvi.module import SCANVAE, VAE
    from scvi.nn import DecoderSCVI

    module = model.module
    if {SCVI: VAE, SCANVI: SCANVAE}.get(type(model)) is not type(module) or type(module.decoder) is not DecoderSCVI:
        return f"a {type(model).__name__}"
    if module.device.type != "cpu":
        return "a GPU"
    if module.gene_likelihood not in KINDS:
        return f"gene_likelihood '{module.gene_likelihood}'"
    if module.minified_data_type is not None:
        return "minified data"
    plan = arguments["plan_kwargs"]
    taken = PLAN & inspect.signature(type(model)._training_plan_cls).parameters.keys()
    unknown = sorted(arguments.keys() - ARGUMENTS) + [f"plan_kwargs.{name}" for name in sorted(plan.keys() - taken)]
    if unknown:
        return ", ".join(unknown)
    if arguments.get("early_stopping_monitor", "elbo_validation") not in MONITORS:
        return f"early_stopping_monitor '{arguments['early_stopping_monitor']}'"
    if _has_labels(model) and module.batch_representation == "embedding":
        return "labels beside embedded batches"
    return None


def not_taken(network: Network) -> str | None:
    """The first of what the network is made of, or is to train, that it knows nothing of; None if there is none."""
    for layers in network.frozen_layers:
        if layers.unknown:
            return f"layers with {layers.unknown}"
    for name, parameter in network.module.named_parameters():
        if parameter.requires_grad and name not in network.learned.known:
            return f"training '{name}'"
    return None


def _has_labels(model: BaseModelClass) -> bool:
    return len(getattr(model, "_labeled_indices", ())) > 0
