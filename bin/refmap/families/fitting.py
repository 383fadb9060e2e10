"""Train a network of a reference whose library's own loop cannot be used: too much memory, no seed, or no best state."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..common.errors import RefmapError

if TYPE_CHECKING:
    import torch

# One cell in ten is held out, and training ends after this many epochs without a lower loss of theirs.
HELD_OUT, PATIENCE = 0.1, 20
# Below this number of cells a validation set would hold one cell or none.
FEWEST_FOR_VALIDATION = 20


def fit(
    network: torch.nn.Module,
    loss_of: Callable[[np.ndarray], torch.Tensor],
    optimizer: torch.optim.Optimizer,
    n_cells: int,
    max_epochs: int,
    batch_size: int,
    seed: int,
    log: Callable = print,
    after_step: Callable[[], None] = lambda: None,
) -> None:
    """Train until the loss of held-out cells no longer falls, and leave the network with the weights of its best epoch.

    Parameters
    ----------
    loss_of
        The mean loss of the cells at the given positions, in whatever mode the network is.
    n_cells
        Number of cells; with fewer than `FEWEST_FOR_VALIDATION` all of them train, for all epochs.
    seed
        Of the split and of the order of the cells; torch's own random numbers are the caller's.
    log
        Gets a line an epoch.
    after_step
        Called after each step of the optimiser, for a schedule of its learning rate.

    Raises
    ------
    RefmapError
        If the loss is no longer a number.
    """
    rng = np.random.default_rng(seed)
    cells = rng.permutation(n_cells)
    n_held_out = round(n_cells * HELD_OUT) if n_cells >= FEWEST_FOR_VALIDATION else 0
    held_out, cells = cells[:n_held_out], cells[n_held_out:]
    best, best_state, waited = math.inf, None, 0
    for epoch in range(1, max_epochs + 1):
        network.train()
        losses = {"train_loss": _epoch(loss_of, rng.permutation(cells), batch_size, optimizer, after_step)}
        network.eval()
        if n_held_out:
            losses["validation_loss"] = _validate(loss_of, held_out, batch_size)
        if not all(map(math.isfinite, losses.values())):
            raise RefmapError(
                f"Training diverged in epoch {epoch}: the loss is no longer a number. Look at the reference's values."
            )
        log(f"epoch {epoch}/{max_epochs}  " + "  ".join(f"{name} {loss:.4f}" for name, loss in losses.items()))
        if not n_held_out:
            continue
        waited += 1
        if losses["validation_loss"] < best:
            best, best_state, waited = losses["validation_loss"], copy.deepcopy(network.state_dict()), 0
        if waited == PATIENCE:
            break
    if best_state is not None:
        network.load_state_dict(best_state)


def _batches(cells: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Batches of equal size, give or take one: a last one of a single cell would have no batch statistics."""
    return np.array_split(cells, math.ceil(len(cells) / batch_size))


def _epoch(
    loss_of: Callable, cells: np.ndarray, batch_size: int, optimizer: torch.optim.Optimizer, after_step: Callable
) -> float:
    total = 0.0
    for batch in _batches(cells, batch_size):
        optimizer.zero_grad()
        loss = loss_of(batch)
        loss.backward()
        optimizer.step()
        after_step()
        total += loss.item() * len(batch)
    return total / len(cells)


def _validate(loss_of: Callable, cells: np.ndarray, batch_size: int) -> float:
    import torch

    with torch.no_grad():
        return sum(loss_of(batch).item() * len(batch) for batch in _batches(cells, batch_size)) / len(cells)
