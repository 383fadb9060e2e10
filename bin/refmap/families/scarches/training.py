"""Run a trainer of scArches quietly: a line an epoch, our settings, our early stopping, and no NaN that goes unseen.

The trainers of trVAE, expiMap and scPoli (scarches 0.6.1) have one shape, and these are their faults that are mended here:

* their early stopping waits twice as long as its patience says, and for ever once the loss is no longer a number;
* "reload the best state" reloads nothing: the state that they keep is the live one, not a copy;
* the validation set is the last tenth of each batch's cells as they lie in the file, of one cell type where a file is sorted;
* a validation set of no cells, as with fewer than ten a batch, ends in a traceback;
* they seed torch with a number of their own, whatever the seed of the run;
* they take each cell out of the sparse matrix by itself, which takes more time than all the training.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ...common.errors import RefmapError, nearest
from ..base import BATCH_SIZE
from .loading import quietly

if TYPE_CHECKING:
    import anndata as ad
    from torch.utils.data import DataLoader

# Below this number of cells a validation set would hold one cell or none.
FEWEST_FOR_VALIDATION = 20
TRAIN_SIZE, LEARNING_RATE = 0.9, 1e-3
# Adam's epsilon of scArches' own `train` methods.
EPSILON = 0.01
# Those of scvi-tools: one setting means the same in every family.
PATIENCE, MONITOR = 45, "elbo_validation"

# What every one of these trainers takes beside what `settings` say; a family adds its own.
TRAINER_ARGUMENTS = frozenset(
    {"alpha_kl", "alpha_epoch_anneal", "alpha_iter_anneal", "n_samples", "use_stratified_sampling", "clip_value", "eps", "lr"}
)

# The trainers' names of their losses in those of scvi-tools, by which the report shows the curves of all families.
_CURVES = {"unweighted_loss": "elbo", "recon_loss": "reconstruction_loss", "kl_loss": "kl_local"}


def shuffled(adata: ad.AnnData, seed: int) -> ad.AnnData:
    """The cells in a random order, so that the last ones of a file are a fair validation set."""
    return adata[np.random.default_rng(seed).permutation(adata.n_obs)].copy()


def trainer_arguments(
    settings: dict,
    batches: Iterable,
    seed: int,
    warnings: list[str],
    known: Collection[str] = (),
    defaults: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Turn the sheet's ``train`` settings into arguments of a trainer's constructor.

    Parameters
    ----------
    settings
        What a mapping's `train` holds; see `Surgery.train`.
    batches
        The batch of each cell: the library splits each batch by itself.
    warnings
        Gets a sentence for what could not be done.
    known
        What `plan_kwargs` may hold beside `TRAINER_ARGUMENTS`.
    defaults
        Arguments of the family's own, which `plan_kwargs` override.

    Raises
    ------
    RefmapError
        If `plan_kwargs` holds an argument that the trainer does not have: the library would swallow it.
    """
    plan = dict(settings.get("plan_kwargs") or {})
    _check_plan(plan, known)
    sizes = np.unique(np.asarray(list(batches), dtype=str), return_counts=True)[1]
    train_frac = settings.get("train_size") or TRAIN_SIZE
    validated = int((sizes - np.ceil(train_frac * sizes)).sum())
    if train_frac < 1 and (validated == 0 or sizes.sum() < FEWEST_FOR_VALIDATION):
        warnings.append(
            f"With {sizes.sum()} cell{'s' * (sizes.sum() > 1)} in {len(sizes)} batch{'es' * (len(sizes) > 1)} there is no validation set: "
            "all of them train, for all the epochs, without early stopping."
        )
        train_frac = 1
    arguments = dict(defaults or {}) | {key: value for key, value in plan.items() if key not in ("eps", "lr")}
    return arguments | {
        "batch_size": settings.get("batch_size") or BATCH_SIZE,
        "train_frac": train_frac,
        "use_early_stopping": bool(settings.get("early_stopping")) and train_frac < 1,
        # Weight decay would pull at the frozen values too.
        "weight_decay": 0.0,
        "reload_best": False,
        "monitor": False,
        "seed": seed,
    }


def _check_plan(plan: dict, known: Collection[str]) -> None:
    takes = TRAINER_ARGUMENTS | {"weight_decay"} | set(known)
    for name in plan:
        if name not in takes:
            listed = ", ".join(sorted(takes - {"weight_decay"}))
            raise RefmapError(
                f"plan_kwargs has '{name}', which the model's trainer lacks: it takes {listed}.{nearest(name, takes)}"
            )


class EarlyStopping:
    """Whether a curve has made no progress for a while.

    Parameters
    ----------
    monitor
        Name of the curve: the lower, the better.
    patience
        Validations without progress after which training stops.
    least
        The least change that counts as progress.
    """

    def __init__(self, monitor: str, patience: int, least: float) -> None:
        self.monitor, self.patience, self.least = monitor, patience, least
        self.best, self.waited = math.inf, 0

    def goes_on(self, curves: dict[str, float]) -> bool:
        """Look at the curves of one validated epoch. Raises `RefmapError` where the watched one is not among them."""
        if self.monitor not in curves:
            raise RefmapError(f"early_stopping_monitor is '{self.monitor}', but training has {', '.join(sorted(curves))}.")
        progress = curves[self.monitor] < self.best - self.least
        self.waited = 0 if progress else self.waited + 1
        self.best = min(self.best, curves[self.monitor])
        return self.waited < self.patience


def run_trainer(trainer: Any, settings: dict, log: Callable = print) -> tuple[pd.DataFrame, dict]:
    """Run a trainer that was made with `trainer_arguments`: one line an epoch to `log`, and nothing else.

    The weights are those of the last epoch.

    Returns
    -------
    The history (a row an epoch, index ``epoch`` from 1; curves are named as those of scvi-tools: ``elbo`` is the
    reconstruction loss and the KL divergence plus the family's further losses, unweighted), and ``epochs``, ``max_epochs``,
    ``stopped_early``, ``seconds``.

    Raises
    ------
    RefmapError
        If the loss is no longer a number.
    """
    most, every = int(settings["max_epochs"]), int(settings.get("check_val_every_n_epoch") or 1)
    stopping = EarlyStopping(
        settings.get("early_stopping_monitor") or MONITOR,
        settings.get("early_stopping_patience") or PATIENCE,
        settings.get("early_stopping_min_delta") or 0.0,
    )
    rows: list[dict[str, float]] = []
    end_epoch, validate, initialize_loaders = trainer.on_epoch_end, trainer.validate, trainer.initialize_loaders
    plan = settings.get("plan_kwargs") or {}
    start = time.monotonic()

    def validated() -> bool:
        return trainer.valid_data is not None and (trainer.epoch + 1) % every == 0

    def on_epoch_end() -> None:
        trainer.logs.clear()
        end_epoch()
        rows.append({_curve(name): float(values[-1]) for name, values in trainer.logs.items()})
        if not all(math.isfinite(value) for value in rows[-1].values()):
            raise _diverged(len(rows))
        shown = "  ".join(f"{name} {rows[-1][name]:.1f}" for name in ("elbo_train", MONITOR) if name in rows[-1])
        with aloud():
            log(f"epoch {len(rows)}/{most}  {shown}")

    def load_by_batches() -> None:
        initialize_loaders()
        trainer.dataloader_train = by_batches(trainer.dataloader_train)
        if trainer.dataloader_valid is not None:
            trainer.dataloader_valid = by_batches(trainer.dataloader_valid)

    trainer.initialize_loaders = load_by_batches
    trainer.on_epoch_end = on_epoch_end
    trainer.validate = lambda: validate() if validated() else None
    trainer.check_early_stop = lambda: stopping.goes_on(rows[-1]) if validated() else True
    with quietly() as aloud:
        try:
            trainer.train(most, settings.get("learning_rate") or plan.get("lr") or LEARNING_RATE, plan.get("eps") or EPSILON)
        except ValueError as error:
            # torch's distributions refuse what is no number before any loss is seen.
            if "invalid values" not in str(error):
                raise
            raise _diverged(len(rows) + 1) from error
    return finished(rows, most, start)


def finished(rows: list[dict], most: int, start: float) -> tuple[pd.DataFrame, dict]:
    """What a family's `train` returns: the history, of a row an epoch, and the record of a training that began at `start`."""
    history = pd.DataFrame(rows, index=pd.RangeIndex(1, len(rows) + 1, name="epoch"))
    return history, {
        "epochs": len(rows),
        "max_epochs": most,
        "stopped_early": len(rows) < most,
        "seconds": round(time.monotonic() - start, 2),
    }


def by_batches(loader: DataLoader) -> DataLoader:
    """The very minibatches of a loader, each taken out of the matrix at once."""
    from torch.utils.data import BatchSampler, DataLoader

    if loader.batch_size is None:  # a family's own loader does so already
        return loader

    def with_rows(batch: dict) -> dict:
        # The library squeezes a batch of one cell into a vector.
        return batch | {"x": batch["x"].reshape(-1, loader.dataset.data.shape[1])}

    sampler = BatchSampler(loader.sampler, loader.batch_size, drop_last=False)
    return DataLoader(loader.dataset, sampler=sampler, batch_size=None, collate_fn=with_rows)


def _curve(name: str) -> str:
    """The name of a curve in scvi-tools' terms: ``epoch_unweighted_loss`` is ``elbo_train``."""
    kind, _, loss = name.partition("_")
    if loss == "loss":
        return "train_loss_epoch" if kind == "epoch" else "validation_loss"
    return f"{_CURVES.get(loss, loss)}_{'train' if kind == 'epoch' else 'validation'}"


def _diverged(epoch: int) -> RefmapError:
    return RefmapError(
        f"Training diverged in epoch {epoch}: the loss is no longer a number. Lower learning_rate, or look at the query's counts."
    )
