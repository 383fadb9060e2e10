"""The engine's training: what scvi-tools' trainer does, with its split of the cells, its optimiser and its figures."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from ..training import diverged, log_epoch
from .cells import Cells, minibatches
from .limits import beyond, not_taken
from .network import Losses, Network

if TYPE_CHECKING:
    from scvi.model.base import BaseModelClass

# How Adam's averages fade in a step, as torch has it, which scvi-tools leaves alone.
BETAS = 0.9, 0.999
# Where nobody chose how to train, so many of scvi-tools' steps are made at once. With the short steps that surgery takes the path of
# the few values that are free is smooth, and hardly another if each step is ten times as long, and the averages fade and the weight
# of the KL divergence grows ten times as fast (docs/engine.md).
STRIDE = 10
# And training ends where two passes over the cells do not lower the negative ELBO of the held-out ones by this share.
FLAT = 2e-5


@dataclass
class Sums:
    """What the minibatches of an epoch add up to.

    Means over cells of what a loss is made of, and over minibatches, by their cells, of the loss itself, as scvi-tools has them.
    """

    n_cells: int = 0
    of: dict[str, float] = field(default_factory=dict)

    def add(self, losses: Losses) -> None:
        n_cells = len(losses.reconstruction)
        self.n_cells += n_cells
        terms = {
            "loss": losses.loss * n_cells,
            "reconstruction_loss": losses.reconstruction.sum(),
            "kl_local": losses.kl_local.sum(),
        }
        if losses.classification is not None:
            terms |= {"classification_loss": losses.classification * n_cells, "accuracy": losses.accuracy * n_cells}
        for name, value in terms.items():
            self.of[name] = self.of.get(name, 0) + float(value.detach())

    def figures(self, stage: str) -> dict[str, float]:
        """By the names that scvi-tools gives them in the ``train`` and the ``validation`` of its history."""
        means = {name: total / self.n_cells for name, total in self.of.items()}
        figures = {
            f"{stage}_loss": means["loss"],
            f"elbo_{stage}": means["reconstruction_loss"] + means["kl_local"],
            f"reconstruction_loss_{stage}": means["reconstruction_loss"],
            f"kl_local_{stage}": means["kl_local"],
        }
        return figures | {f"{stage}_{name}": means[name] for name in ("classification_loss", "accuracy") if name in means}


class Stopping:
    """Early stopping, as Lightning does it; `min_share` is progress that counts as a share of what is watched."""

    def __init__(self, monitor: str, patience: int, min_delta: float, min_share: float = 0.0):
        self.monitor, self.patience, self.min_delta, self.min_share = monitor, patience, min_delta, min_share
        self.best, self.waited = math.inf, 0

    def stops(self, figures: dict[str, float]) -> bool:
        """Whether a validation with these figures is the last."""
        figure = figures[self.monitor]
        if figure + self.min_delta + self.min_share * abs(figure) < self.best:
            self.best, self.waited = figure, 0
        else:
            self.waited += 1
        return self.waited >= self.patience


def trainer_of(
    model: BaseModelClass, masks: dict[str, torch.Tensor], arguments: dict, free: bool = False
) -> tuple[Trainer | None, str | None]:
    """The engine's trainer of a grown model, or None and what of its training the engine does not do.

    Parameters
    ----------
    masks
        Which values of each parameter surgery may move, by its name; of one that is not named all, where it asks for a gradient.
    arguments
        Those of the model's ``train``.
    free
        Whether nobody chose any of these, so that training may go the same way in fewer steps.
    """
    if reason := beyond(model, arguments):
        return None, reason
    network = Network(model.module, masks)
    if reason := not_taken(network):
        return None, reason
    return Trainer(model, network, arguments, STRIDE if free else 1), None


class Trainer:
    """What is to be done with a grown model.

    Attributes
    ----------
    settings, plan
        All arguments of the model's ``train`` and of its plan.
    stride
        Steps of scvi-tools' training that are made at once.
    """

    def __init__(self, model: BaseModelClass, network: Network, arguments: dict, stride: int = 1):
        """`arguments` are those of the model's ``train``, as far as the engine knows them."""
        from scvi.train import Trainer as Lightning
        from scvi.train import TrainingPlan

        self.model, self.network = model, network
        self.settings = _defaults(Lightning) | _defaults(type(model).train) | arguments
        self.plan = _defaults(TrainingPlan) | _defaults(type(model)._training_plan_cls) | arguments["plan_kwargs"]
        self.cells = Cells.of(model.adata_manager, network)
        self.is_labelled = np.zeros(len(self.cells), dtype=bool)
        self.is_labelled[getattr(model, "_labeled_indices", [])] = True
        self.kl_weight, self.steps = 0.0, 0
        self.stride = stride

    def run(self, log: Callable = print) -> int:
        """Train, and leave the model as scvi-tools' own training does; returns the number of epochs.

        Raises
        ------
        RefmapError
            If the loss is no longer a number.
        """
        settings, plan, epochs = self.settings, self.plan, self.max_epochs
        splitter = _split(self.model, settings)
        optimizer = torch.optim.Adam(
            self.network.learned.leaves,
            lr=plan["lr"] * self.stride,
            betas=[beta**self.stride for beta in BETAS],
            eps=plan["eps"],
            weight_decay=plan["weight_decay"],
            fused=True,
        )
        stopping, every = None, settings["check_val_every_n_epoch"] or (1 if settings["early_stopping"] else math.inf)
        if settings["early_stopping"]:
            stopping = Stopping(*(settings[f"early_stopping_{name}"] for name in ("monitor", "patience", "min_delta")))
            if self.stride > 1:
                stopping, every = Stopping("elbo_validation", 2, 0.0, FLAT), 1
        history, known = [], {}
        for epoch in range(1, epochs + 1):
            figures = self._train(splitter.train_idx, epoch, optimizer).figures("train")
            is_validated = epoch % every == 0 and len(splitter.val_idx) > 0
            if is_validated:
                figures |= self._validate(splitter.val_idx).figures("validation")
            if not all(map(math.isfinite, figures.values())):
                raise diverged(epoch)
            history.append(figures)
            known |= figures
            log_epoch(log, epoch, epochs, known)
            if is_validated and stopping and stopping.stops(figures):
                break
        self.network.learned.put_back()
        _leave(self.model, splitter, history)
        return len(history)

    @property
    def max_epochs(self) -> int:
        return math.ceil(self.settings["max_epochs"] / self.stride)

    def _train(self, places: np.ndarray, epoch: int, optimizer: torch.optim.Optimizer) -> Sums:
        sums = Sums()
        for minibatch in self._minibatches(self.cells.shuffled(places, self.settings["batch_size"])):
            epochs = epoch - 1 + sums.n_cells / len(places)
            self.kl_weight = _kl_weight(self.plan, int(epochs * self.stride), self.steps * self.stride)
            losses = self.losses(*minibatch)
            optimizer.zero_grad()
            losses.loss.backward()
            optimizer.step()
            self.steps += 1
            sums.add(losses)
        return sums

    def _validate(self, places: np.ndarray) -> Sums:
        sums = Sums()
        with torch.no_grad(), _evaluating(self.network.module), _same_noise() if self.stride > 1 else contextlib.nullcontext():
            for minibatch in self._minibatches(self.cells.in_order(places)):
                sums.add(self.losses(*minibatch))
        return sums

    def _minibatches(self, places: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Cells in their order, each time with as many of their run that have labels, from their first again where these run out."""
        size = self.settings["batch_size"]
        for run in self.cells.runs(places, size):
            labelled = minibatches(run[self.is_labelled[run]], size) or [None]
            yield from zip(minibatches(run, size), itertools.cycle(labelled), strict=False)

    def losses(self, places: np.ndarray, labelled: np.ndarray | None = None) -> Losses:
        """Those of cells by their places, and of some that have labels."""
        with_labels = None if labelled is None else self.cells[labelled]
        return self.network.losses(self.cells[places], self.kl_weight, with_labels, self.plan.get("classification_ratio", 0))


def _defaults(function: Callable) -> dict:
    """The defaults of a function's or a class's arguments."""
    return {name: argument.default for name, argument in inspect.signature(function).parameters.items()}


def _split(model: BaseModelClass, settings: dict):
    """scvi-tools' own split of the cells: ``train_idx``, ``val_idx``, ``test_idx``."""
    splitter = model._data_splitter_cls(model.adata_manager, train_size=settings["train_size"], batch_size=settings["batch_size"])
    splitter.setup()
    return splitter


def _kl_weight(plan: dict, epoch: int, step: int) -> float:
    from scvi.train._trainingplans import _compute_kl_weight

    names = ("n_epochs_kl_warmup", "n_steps_kl_warmup", "max_kl_weight", "min_kl_weight")
    return _compute_kl_weight(epoch, step, *(plan[name] for name in names))


@contextlib.contextmanager
def _same_noise() -> Iterator[None]:
    """Draw the same numbers each time, so that what differs is no chance; others are as if none had been drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@contextlib.contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Switch dropout off for a while."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _leave(model: BaseModelClass, splitter: object, history: list[dict[str, float]]) -> None:
    """What scvi-tools leaves of a training."""
    table = pd.DataFrame(history)
    table.index.name = "epoch"
    model.history_ = {name: table[[name]].dropna() for name in table}
    model.train_indices, model.validation_indices, model.test_indices = splitter.train_idx, splitter.val_idx, splitter.test_idx
    model.module.eval()
    model.is_trained_ = True
