"""The engine's training: what scvi-tools' trainer does, with its split of the cells, its optimiser and its figures."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch.optim.adam import adam

from ..training import diverged, log_epoch
from .cells import Cells, minibatches
from .limits import ARGUMENTS_OF, PLAN_OF
from .network import Losses
from .splitting import split

if TYPE_CHECKING:
    from .model import Model

# How Adam's averages fade in a step, as torch has it, which scvi-tools leaves alone.
BETAS = 0.9, 0.999
# Where nobody chose how to train, so many of scvi-tools' steps are made at once. With the short steps that surgery takes the path of
# the few values that are free is smooth, and hardly another if each step is five times as long, and the averages fade and the weight
# of the KL divergence grows five times as fast (docs/engine.md).
STRIDE = 5
# And training ends where so many passes over the cells do not lower the negative ELBO of the held-out ones by this share.
PATIENCE, FLAT = 4, 2e-5


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


class Adam:
    """torch's Adam in one pass over the leaves; to make its own class imports torch's compiler, which takes seconds."""

    def __init__(self, leaves: list[torch.Tensor], lr: float, betas: tuple[float, float], eps: float, weight_decay: float):
        self.leaves, self._lr, self._betas, self._eps, self._weight_decay = leaves, lr, betas, eps, weight_decay
        self._means, self._squares = ([torch.zeros_like(leaf) for leaf in leaves] for _ in range(2))
        self._steps = [torch.zeros(()) for _ in leaves]

    def zero_grad(self) -> None:
        for leaf in self.leaves:
            leaf.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move the leaves by their gradients."""
        held = (self.leaves, [leaf.grad for leaf in self.leaves], self._means, self._squares, [], self._steps)
        rates = {"lr": self._lr, "eps": self._eps, "weight_decay": self._weight_decay}
        beta1, beta2 = self._betas
        adam(*held, fused=True, amsgrad=False, maximize=False, beta1=beta1, beta2=beta2, **rates)


class Trainer:
    """What is to be done with a grown model.

    Attributes
    ----------
    settings, plan
        All arguments of the training and of its plan.
    stride
        Steps of scvi-tools' training that are made at once.
    """

    def __init__(self, model: Model, cells: Cells, arguments: dict, seed: int = 0, free: bool = False):
        """Train `cells`, which are the model's data for its network.

        `arguments` are those of the model's ``train``, as far as the engine knows them (:mod:`.limits`); `seed` is of the split.
        Where nobody chose any of them, it is `free` to go the same way in fewer steps.
        """
        self.model, self.network, self.cells, self.seed = model, cells.network, cells, seed
        self.stride = STRIDE if free else 1
        self.settings = ARGUMENTS_OF[model.kind] | arguments
        self.plan = PLAN_OF[model.kind] | arguments["plan_kwargs"]
        self.kl_weight, self.steps = 0.0, 0

    def run(self, log: Callable = print) -> tuple[int, dict[str, pd.DataFrame]]:
        """Train, and leave the model as scvi-tools' own training does; returns the number of epochs and tables of their figures.

        Raises
        ------
        RefmapError
            If the loss is no longer a number.
        """
        settings, plan, epochs = self.settings, self.plan, self.max_epochs
        places = split(self.model.data, settings["train_size"], settings["batch_size"], self.seed)
        optimizer = Adam(
            self.network.learned.leaves,
            lr=plan["lr"] * self.stride,
            betas=tuple(beta**self.stride for beta in BETAS),
            eps=plan["eps"],
            weight_decay=plan["weight_decay"],
        )
        stopping, every = None, settings["check_val_every_n_epoch"] or (1 if settings["early_stopping"] else math.inf)
        if settings["early_stopping"]:
            stopping = Stopping(*(settings[f"early_stopping_{name}"] for name in ("monitor", "patience", "min_delta")))
            if self.stride > 1:
                stopping, every = Stopping("elbo_validation", PATIENCE, 0.0, FLAT), 1
        history, known = [], {}
        for epoch in range(1, epochs + 1):
            figures = self._train(places.train, epoch, optimizer).figures("train")
            is_validated = epoch % every == 0 and len(places.validation) > 0
            if is_validated:
                figures |= self._validate(places.validation).figures("validation")
            if not all(map(math.isfinite, figures.values())):
                raise diverged(epoch)
            history.append(figures)
            known |= figures
            log_epoch(log, epoch, epochs, known)
            if is_validated and stopping and stopping.stops(figures):
                break
        self.network.learned.put_back()
        tables = _tables(history)
        self.model.attributes |= {"history_": tables, "is_trained_": True}
        self.model.split = places
        self.network.module.eval()
        return len(history), tables

    @property
    def max_epochs(self) -> int:
        return math.ceil(self.settings["max_epochs"] / self.stride)

    def _train(self, places: np.ndarray, epoch: int, optimizer: Adam) -> Sums:
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
        with torch.no_grad(), evaluating(self.network.module), same_noise() if self.stride > 1 else contextlib.nullcontext():
            for minibatch in self._minibatches(self.cells.in_order(places)):
                sums.add(self.losses(*minibatch))
        return sums

    def _minibatches(self, places: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Cells in their order, each time with as many of their run that have labels, from their first again where these run out."""
        size = self.settings["batch_size"]
        for run in self.cells.runs(places, size):
            labelled = minibatches(run[self.model.data.is_labelled[run]], size) or [None]
            yield from zip(minibatches(run, size), itertools.cycle(labelled), strict=False)

    def losses(self, places: np.ndarray, labelled: np.ndarray | None = None) -> Losses:
        """Those of cells by their places, and of some that have labels."""
        with_labels = None if labelled is None else self.cells[labelled]
        return self.network.losses(self.cells[places], self.kl_weight, with_labels, self.plan.get("classification_ratio", 0))


def _kl_weight(plan: dict, epoch: int, step: int) -> float:
    """The weight of the KL divergence, which rises by epochs or by steps, where either is told."""
    least, most = plan["min_kl_weight"], plan["max_kl_weight"]
    done, warmup = (epoch, plan["n_epochs_kl_warmup"]) if plan["n_epochs_kl_warmup"] else (step, plan["n_steps_kl_warmup"])
    return (most - least) * (done / warmup) + least if warmup and done < warmup else most


@contextlib.contextmanager
def same_noise() -> Iterator[None]:
    """Draw the same numbers each time, so that what differs is no chance; others are as if none had been drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@contextlib.contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Switch dropout off for a while."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _tables(history: list[dict[str, float]]) -> dict[str, pd.DataFrame]:
    """As scvi-tools keeps what an epoch, of which each is a row of `history`, came to."""
    table = pd.DataFrame(history)
    table.index.name = "epoch"
    return {name: table[[name]].dropna() for name in table}
