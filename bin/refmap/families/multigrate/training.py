"""Run the training of Multigrate as that of scvi-tools' models is run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..scvi.training import run_training

if TYPE_CHECKING:
    import pandas as pd
    from multigrate.model import MultiVAE


def run(model: MultiVAE, arguments: dict, log: Callable = print) -> tuple[pd.DataFrame, dict]:
    """Run ``model.train``; see `run_training`. Early stopping watches what the caller names, not what the library does.

    Raises `RefmapError` if the loss is no longer a number.
    """
    from multigrate.model import _multivae

    stopping = {name: value for name, value in arguments.items() if name.startswith("early_stopping_")}
    rest = {name: value for name, value in arguments.items() if name not in stopping}
    runner, hook = _multivae.TrainRunner, model.module.register_forward_pre_hook(_twice)
    _multivae.TrainRunner = lambda *of_class, **by_class: runner(*of_class, **by_class | stopping)
    try:
        history, trained = run_training(model, rest, log)
        return history.rename(columns={"train_loss": "train_loss_epoch"}), trained  # as all others have it
    finally:
        _multivae.TrainRunner = runner
        hook.remove()


def _twice(_module: object, inputs: tuple) -> tuple:
    """A minibatch of one cell as two of it, of the same mean loss: a zero-inflated loss fails for one (multigrate 1.0.1)."""
    tensors, *rest = inputs
    if len(tensors["X"]) > 1:
        return inputs
    return ({name: tensor.repeat(2, *[1] * (tensor.dim() - 1)) for name, tensor in tensors.items()}, *rest)
