"""Run the training of scvi-tools' models: quietly, a line an epoch, and with the settings where each class looks for them."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING

import pandas as pd

from ...common.errors import RefmapError
from ...common.exhaustion import MachineFault

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ...common.stored_rows import StoredRows

# Below this number of cells a validation set would hold one cell or none.
FEWEST_FOR_VALIDATION = 20
# Classes whose `train` gives its runner a patience and a quantity to watch of its own, and fails where it is given others.
OWN_STOPPING = ("MULTIVI",)
# What of an epoch's figures is logged.
SHOWN = ("train_loss_epoch", "elbo_train", "validation_loss", "elbo_validation")


def check_machine() -> None:
    """Let Lightning look at where it is to train, as it does when a model is loaded, before any model can be blamed for it.

    Raises
    ------
    MachineFault
        If it cannot train there, as in a cluster's job of several tasks, which it would join.
    """
    from scvi.model._utils import parse_device_args

    try:
        parse_device_args(return_device="torch")
    except Exception as error:  # Lightning's own, RuntimeError, KeyError: whatever it is, there is no model yet
        raise MachineFault(
            f"Lightning cannot train where this was started, whatever the model: {error} A run of the pipeline keeps the variables"
            " of a cluster's job from its tasks (containers/isolate): without it, unset them."
        ) from error


def seed_library(seed: int) -> None:
    """Fix every random number generator that scvi-tools uses."""
    import scvi

    scvi.settings.seed = seed


def taken_by(kind: type) -> Collection[str]:
    """The names of what a class of models takes to train."""
    return inspect.signature(kind.train).parameters.keys()


def training_arguments(taken: Collection[str], settings: dict, n_cells: int, warnings: list[str]) -> dict:
    """Turn the sheet's ``train`` settings into arguments of a model's ``train``, `taken` by it beside those of its plan."""
    arguments = {name: value for name, value in settings.items() if name != "free"}
    plan = dict(arguments.pop("plan_kwargs", None) or {})
    # Weight decay would pull at the frozen weights too.
    plan["weight_decay"] = 0.0
    learning_rate = arguments.pop("learning_rate", None)
    if learning_rate is not None:
        plan["lr"] = learning_rate
    # Some classes have a few of the plan's settings as arguments of `train`, whose defaults win over the plan.
    for name in plan.keys() & set(taken):
        arguments[name] = plan.pop(name)
    few = n_cells < FEWEST_FOR_VALIDATION
    if few or arguments.get("train_size") == 1:
        why = f"{n_cells} cell{'s' * (n_cells > 1)}" if few else "a train_size of 1"
        if few or arguments.get("early_stopping"):
            warnings.append(
                f"With {why} there is no validation set: all cells train, for all the epochs, without early stopping."
            )
        for name in [name for name in arguments if name.startswith("early_stopping_")]:
            del arguments[name]
        arguments |= {"train_size": 1.0, "early_stopping": False, "check_val_every_n_epoch": None}
        if "reduce_lr_on_plateau" in taken:
            arguments["reduce_lr_on_plateau"] = False  # totalVI's own choice, which looks at the validation set
    return arguments | {"plan_kwargs": plan}


def run_training(model, arguments: dict, log: Callable = print) -> tuple[pd.DataFrame, dict]:
    """Run ``model.train``: one line an epoch to `log`, no progress bar, nothing written beside it.

    Raises
    ------
    RefmapError
        If the loss is no longer a number.
    """
    from lightning.pytorch.callbacks import Callback

    class LogEpoch(Callback):
        epoch = 0

        def on_train_epoch_start(self, trainer, module):
            self.epoch = trainer.current_epoch + 1

        def on_train_epoch_end(self, trainer, module):
            numbers = {key: float(value) for key, value in trainer.callback_metrics.items() if key in SHOWN}
            if not all(math.isfinite(value) for value in numbers.values()):
                raise diverged(self.epoch)
            log_epoch(log, self.epoch, trainer.max_epochs, numbers)

    progress = LogEpoch()
    if type(model).__name__ in OWN_STOPPING:
        stopping = {name: value for name, value in arguments.items() if name.startswith("early_stopping_")}
        arguments = {name: value for name, value in arguments.items() if name not in stopping}
        runner = type(model)._train_runner_cls
        model._train_runner_cls = lambda *of_class, **by_class: runner(*of_class, **by_class | stopping)

    def train() -> tuple[int, dict[str, pd.DataFrame]]:
        # A loaded model carries its reference's history, to which scvi-tools would append.
        model.history_ = None
        try:
            model.train(**arguments, enable_progress_bar=False, callbacks=[progress])
        except ValueError as error:
            # torch's distributions refuse what is no number before any loss is seen.
            if "invalid values" not in str(error):
                raise
            raise diverged(progress.epoch) from error
        return int(model.trainer.current_epoch), model.history

    return recorded(arguments["max_epochs"], train)


def reading_in_runs(splitter: type, counts: StoredRows) -> type:
    """A model's splitter of its cells whose loaders, of cells without labels, take them as `counts` on disk are quickly read."""
    import numpy as np
    import torch

    from .engine.cells import minibatches, permutation

    class Batches(torch.utils.data.Sampler):
        def __init__(self, places: np.ndarray, size: int, shuffle: bool):
            self.places, self.size, self.shuffle = places, size, shuffle

        def __len__(self) -> int:
            return math.ceil(len(self.places) / self.size)

        def __iter__(self) -> Iterator[np.ndarray]:
            order = np.sort(self.places)
            if self.shuffle:
                order = counts.shuffled(order, self.size, permutation)
            for run in counts.runs(order, self.size):
                yield from minibatches(run, self.size)

    class InRuns(splitter):
        def _loader(self, places: np.ndarray, shuffle: bool) -> torch.utils.data.DataLoader:
            batches = Batches(places, self.data_loader_kwargs["batch_size"], shuffle)
            dataset = self.adata_manager.create_torch_dataset()
            return torch.utils.data.DataLoader(dataset, sampler=batches, batch_size=None, pin_memory=self.pin_memory)

        def train_dataloader(self) -> torch.utils.data.DataLoader:
            return self._loader(self.train_idx, shuffle=True)

        def val_dataloader(self) -> torch.utils.data.DataLoader | None:
            return self._loader(self.val_idx, shuffle=False) if len(self.val_idx) else None

    return InRuns


def recorded(max_epochs: int, train: Callable[[], tuple[int, dict[str, pd.DataFrame]]]) -> tuple[pd.DataFrame, dict]:
    """Run a training, which returns the number of its epochs and tables of figures, and return these as one, and what to record."""
    start = time.monotonic()
    epochs, tables = train()
    history = pd.concat([frame.astype(float) for name, frame in tables.items() if not name.endswith("_step")], axis=1)
    history.index = history.index.astype(int) + 1
    history.index.name = "epoch"
    return history, {
        "epochs": epochs,
        "max_epochs": int(max_epochs),
        "stopped_early": epochs < int(max_epochs),
        "seconds": round(time.monotonic() - start, 2),
    }


def log_epoch(log: Callable, epoch: int, max_epochs: int, figures: dict[str, float]) -> None:
    """Log the line of an epoch."""
    log(f"epoch {epoch}/{max_epochs}  " + "  ".join(f"{name} {figures[name]:.1f}" for name in SHOWN if name in figures))


def diverged(epoch: int) -> RefmapError:
    """What is said of a training whose loss is no longer a number."""
    return RefmapError(
        f"Training diverged in epoch {epoch}: the loss is no longer a number. Lower learning_rate, or look at the query's counts."
    )
