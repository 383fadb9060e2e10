"""What the engine does not do, which scvi-tools then does."""

from __future__ import annotations

from .likelihood import KINDS

# What it knows of the arguments of `train`, with their defaults there, and of those of its plan; by class where they differ.
ARGUMENTS = {
    "max_epochs": None,
    "batch_size": 128,
    "train_size": None,
    "check_val_every_n_epoch": None,
    "early_stopping": False,
    "early_stopping_monitor": "elbo_validation",
    "early_stopping_min_delta": 0.0,
    "early_stopping_patience": 45,
    "plan_kwargs": None,
}
PLAN = {
    "lr": 1e-3,
    "eps": 0.01,
    "weight_decay": 1e-6,
    "n_epochs_kl_warmup": 400,
    "n_steps_kl_warmup": None,
    "min_kl_weight": 0.0,
    "max_kl_weight": 1.0,
}
ARGUMENTS_OF = {"SCVI": ARGUMENTS, "SCANVI": ARGUMENTS | {"train_size": 0.9}}
PLAN_OF = {"SCVI": PLAN, "SCANVI": PLAN | {"classification_ratio": 50}}
# What early stopping may watch.
MONITORS = {"elbo_validation", "reconstruction_loss_validation", "kl_local_validation", "validation_loss"}
# What may be told of parts of a model.
OF_PARTS = {
    "classifier_parameters": {"n_layers", "n_hidden", "dropout_rate"},
    "batch_embedding_kwargs": {"embedding_dim"},
}


def beyond(kind: str, settings: dict, has_labels: bool) -> str | None:
    """What of a model the engine does not do, in a few words; None if it does all of it.

    `settings` are those of the model's constructor; `has_labels` tells whether any cell of the query is labelled.
    """
    likelihood, batches = settings.get("gene_likelihood", "zinb"), settings.get("batch_representation", "one-hot")
    if likelihood not in KINDS:
        return f"gene_likelihood '{likelihood}'"
    for name, known in OF_PARTS.items():
        if unknown := sorted((settings.get(name) or {}).keys() - known):
            return f"{name}.{unknown[0]}"
    if has_labels and batches == "embedding":
        return "labels beside embedded batches"
    return None


def untrainable(kind: str, arguments: dict) -> str | None:
    """What of a training the engine does not do; `arguments` are those of the model's ``train``."""
    plan = arguments["plan_kwargs"]
    unknown = sorted(arguments.keys() - ARGUMENTS.keys()) + [
        f"plan_kwargs.{name}" for name in sorted(plan.keys() - PLAN_OF[kind].keys())
    ]
    if unknown:
        return ", ".join(unknown)
    if arguments.get("early_stopping_monitor", "elbo_validation") not in MONITORS:
        return f"early_stopping_monitor '{arguments['early_stopping_monitor']}'"
    if not 0 < (arguments.get("train_size") or 1) <= 1:
        return f"train_size {arguments['train_size']}"
    return None
