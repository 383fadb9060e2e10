"""Surgery's training of an mvTCR: a line an epoch, the settings of a mapping, and an end where the loss is no longer a number.

The library's loop (mvtcr 0.2.1.2) wants a validation set by a column of obs, saves a file whenever the loss falls, and divides by
zero where there are fewer than four epochs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import pandas as pd

from ...common.errors import RefmapError
from ..base import Settings
from ..scarches.training import FEWEST_FOR_VALIDATION, MONITOR, PATIENCE, TRAIN_SIZE, EarlyStopping, finished
from .network import Cells, Network

LEARNING_RATE = 3e-4  # the library's
# The KL divergence counts fully after this share of the epochs.
ANNEALED = 0.3


def annealing(epoch: int, max_epochs: int) -> float:
    """How much the KL divergence counts in an epoch, the first being 0."""
    return min(1.0, epoch / max(1, int(ANNEALED * max_epochs)))


def train(
    network: Network, cells: Cells, rows: np.ndarray, settings: dict, how: Settings, warnings: list[str], log: Callable = print
) -> tuple[pd.DataFrame, dict]:
    """Train what of the network is not frozen, whose batch norm is held, on the cells in `rows`; for what is returned see `Surgery.train`.

    Curves are named as those of scvi-tools: ``elbo`` is the sum of the weighted losses. Raises `RefmapError` where the loss is no
    longer a number, or where `settings` hold what there is not.
    """
    import torch

    if plan := settings.get("plan_kwargs"):
        raise RefmapError(
            f"plan_kwargs has '{next(iter(plan))}', but training of an mvTCR takes none: set learning_rate or batch_size."
        )
    most, size, every = (
        int(settings["max_epochs"]),
        int(settings["batch_size"]),
        int(settings.get("check_val_every_n_epoch") or 1),
    )
    rng = np.random.default_rng(how.seed)
    rows, held_out = _split(rng.permutation(rows), settings.get("train_size") or TRAIN_SIZE, warnings)
    stopping = EarlyStopping(
        settings.get("early_stopping_monitor") or MONITOR,
        settings.get("early_stopping_patience") or PATIENCE,
        settings.get("early_stopping_min_delta") or 0.0,
    )
    trainable = [parameter for parameter in network.module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trainable, lr=settings.get("learning_rate") or LEARNING_RATE)
    curves: list[dict[str, float]] = []
    start = time.monotonic()
    for epoch in range(most):
        share = annealing(epoch, most)
        network.module.train(not how.freeze_dropout)
        found = {
            f"{name}_train": value
            for name, value in _epoch(network, cells, rng.permutation(rows), size, share, optimizer).items()
        }
        network.module.eval()
        validated = len(held_out) and (epoch + 1) % every == 0
        if validated:
            with torch.no_grad():
                found |= {f"{name}_validation": value for name, value in _epoch(network, cells, held_out, size, share).items()}
        curves.append(found)
        if not all(map(math.isfinite, found.values())):
            raise RefmapError(
                f"Training diverged in epoch {epoch + 1}: the loss is no longer a number. Lower learning_rate, or look at the query's "
                "values."
            )
        shown = "  ".join(f"{name} {found[name]:.4f}" for name in ("elbo_train", MONITOR) if name in found)
        log(f"epoch {epoch + 1}/{most}  {shown}")
        if validated and settings.get("early_stopping") and not stopping.goes_on(found):
            break
    return finished(curves, most, start)


def _split(rows: np.ndarray, train_size: float, warnings: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The cells that train, and those that are held out for validation."""
    n_train = math.ceil(train_size * len(rows))
    if train_size < 1 and (n_train == len(rows) or len(rows) < FEWEST_FOR_VALIDATION):
        n_train = len(rows)
        warnings.append(
            f"With {len(rows)} cell{'s' * (len(rows) > 1)} there is no validation set: all of them train, for all the epochs, without "
            "early stopping."
        )
    return rows[:n_train], rows[n_train:]


def _epoch(
    network: Network, cells: Cells, rows: np.ndarray, size: int, annealed: float, optimizer: object | None = None
) -> dict[str, float]:
    """One pass over cells, in which they train if there is an optimiser; the mean of each curve."""
    sums: dict[str, float] = dict.fromkeys(("elbo", "reconstruction_loss", "kl_local"), 0.0)
    for batch in np.array_split(rows, math.ceil(len(rows) / size)):
        losses = network.losses(cells, batch, annealed)
        if optimizer:
            optimizer.zero_grad()
            losses["loss"].backward()
            optimizer.step()
        reconstruction, kl = (losses["rna"] + losses["tcr"]).item(), losses["kl"].item()
        for name, value in {"elbo": reconstruction + kl, "reconstruction_loss": reconstruction, "kl_local": kl}.items():
            sums[name] += value * len(batch) / len(rows)
    return sums
