"""Train a query's batches for the decoder of a scAtlasVAE: the library's `fit` (1.0.5.9) moves the reference, as it trains all.

Its settings are those of every family; the curves have the names of scvi-tools'.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ...common.errors import RefmapError, nearest
from ..base import BATCH_SIZE, Settings
from ..scarches.training import FEWEST_FOR_VALIDATION, MONITOR, PATIENCE, TRAIN_SIZE, EarlyStopping, finished
from .files import Description
from .network import Cells, losses

if TYPE_CHECKING:
    import torch

# An embedding of a few numbers, which starts between the reference's, is learned at a greater rate than a whole network.
LEARNING_RATE = 0.01
# What `plan_kwargs` may hold, beside a weight decay, which would pull at the reference.
_PLAN = ("lr", "gate_weight")


def train_batches(
    network: torch.nn.Module,
    model: Description,
    cells: Cells,
    settings: dict,
    of_mapping: Settings,
    warnings: list[str],
    log: Callable = print,
) -> tuple[pd.DataFrame, dict]:
    """Train what the network's gradients are let through to; see `Surgery.train`.

    Raises
    ------
    RefmapError
        If the loss is no longer a number, or a setting names something that training does not have.
    """
    import torch

    plan = settings.get("plan_kwargs") or {}
    if unknown := [name for name in plan if name not in (*_PLAN, "weight_decay")]:
        raise RefmapError(
            f"plan_kwargs has '{unknown[0]}', which the training of a scAtlasVAE lacks: it takes {', '.join(_PLAN)}.{nearest(unknown[0], _PLAN)}"
        )
    rng = np.random.default_rng(of_mapping.seed)
    trained, held_out = _split(rng.permutation(cells.x.shape[0]), settings, warnings)
    most, every = int(settings["max_epochs"]), int(settings.get("check_val_every_n_epoch") or 1)
    size = settings.get("batch_size") or BATCH_SIZE
    stopping = EarlyStopping(
        settings.get("early_stopping_monitor") or MONITOR,
        settings.get("early_stopping_patience") or PATIENCE,
        settings.get("early_stopping_min_delta") or 0.0,
    )
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, settings.get("learning_rate") or plan.get("lr") or LEARNING_RATE)
    _set_dropout(network, not of_mapping.freeze_dropout)
    rows, start, goes_on = [], time.monotonic(), True
    while goes_on and len(rows) < most:
        epoch = _Epoch(network, model, cells, size, plan.get("gate_weight", 1.0))
        rows.append(_named(epoch.run(rng.permutation(trained), optimizer, len(rows) + 1), "train"))
        if len(held_out) and (len(rows)) % every == 0:
            rows[-1] |= _named(epoch.run(held_out, None, len(rows)), "validation")
            goes_on = not settings.get("early_stopping") or stopping.goes_on(rows[-1])
        shown = "  ".join(f"{name} {rows[-1][name]:.1f}" for name in ("elbo_train", MONITOR) if name in rows[-1])
        log(f"epoch {len(rows)}/{most}  {shown}")
    _set_dropout(network, False)
    return finished(rows, most, start)


def _split(cells: np.ndarray, settings: dict, warnings: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The cells that train, and those that are held out, of cells in a random order."""
    share = settings.get("train_size") or TRAIN_SIZE
    n_held_out = len(cells) - math.ceil(share * len(cells))
    if share < 1 and (n_held_out == 0 or len(cells) < FEWEST_FOR_VALIDATION):
        warnings.append(
            f"With {len(cells)} cell{'s' * (len(cells) > 1)} there is no validation set: all of them train, for all the epochs, without "
            "early stopping."
        )
        n_held_out = 0
    return cells[n_held_out:], cells[:n_held_out]


def _set_dropout(network: torch.nn.Module, on: bool) -> None:
    """Batch norm stays in the mode for evaluation, with the reference's statistics."""
    import torch

    for part in network.modules():
        if isinstance(part, torch.nn.Dropout):
            part.train(on)


def _named(means: dict[str, float], what: str) -> dict[str, float]:
    whole = f"{what}_loss_epoch" if what == "train" else "validation_loss"
    return {whole if name == "loss" else f"{name}_{what}": value for name, value in means.items()}


class _Epoch:
    """One pass over cells, whose losses are averaged over them."""

    def __init__(self, network: torch.nn.Module, model: Description, cells: Cells, size: int, gate_weight: float) -> None:
        self.network, self.model, self.cells, self.size, self.gate_weight = network, model, cells, size, gate_weight

    def run(self, cells: np.ndarray, optimizer: torch.optim.Optimizer | None, number: int) -> dict[str, float]:
        """The mean of each loss; without an optimiser nothing is trained."""
        import torch

        total = dict.fromkeys(("loss", "elbo", "reconstruction_loss", "kl_local"), 0.0)
        with torch.set_grad_enabled(optimizer is not None):
            for start in range(0, len(cells), self.size):
                batch = cells[start : start + self.size]
                found = self._losses(batch, number)
                for name, loss in found.items():
                    total[name] += loss.item() * len(batch)
                if not math.isfinite(total["loss"]):
                    raise _diverged(number)
                if optimizer:
                    optimizer.zero_grad()
                    found["loss"].backward()
                    optimizer.step()
        return {name: value / len(cells) for name, value in total.items()}

    def _losses(self, batch: np.ndarray, number: int) -> dict[str, torch.Tensor]:
        try:
            terms = losses(self.network, self.model, self.cells.take(self.network, batch))
        except ValueError as error:
            # torch's distributions refuse what is no number before any loss is seen.
            if "invalid values" not in str(error):
                raise
            raise _diverged(number) from error
        reconstruction, kl, gate = (term.mean() for term in (terms.reconstruction, terms.kl, terms.gate))
        return {
            "loss": reconstruction + kl + self.gate_weight * gate,
            "elbo": reconstruction + kl,
            "reconstruction_loss": reconstruction,
            "kl_local": kl,
        }


def _diverged(epoch: int) -> RefmapError:
    return RefmapError(
        f"Training diverged in epoch {epoch}: the loss is no longer a number. Lower learning_rate, or look at the query's counts."
    )
