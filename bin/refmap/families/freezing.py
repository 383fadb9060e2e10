"""What every family does to keep a reference as it is, and to prove it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def mask_gradients(parameter: torch.nn.Parameter, trainable: torch.Tensor) -> None:
    """Let surgery move the marked values of a parameter, by a mask of its shape, and none of the others.

    An optimiser with weight decay would move them all the same: there must be none.
    """
    parameter.requires_grad = bool(trainable.any())
    if not parameter.requires_grad or trainable.all():
        return
    mask = trainable

    def masked(gradient: torch.Tensor) -> torch.Tensor:
        nonlocal mask  # the network may have been moved to a GPU since
        mask = mask.to(gradient.device)
        return gradient * mask

    parameter.register_hook(masked)


def sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    """Hash the names, shapes, types and values of tensors."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def seed_everything(seed: int) -> None:
    """Fix the random numbers of Python, NumPy and torch."""
    import random

    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of the packages that decide a result."""
    from importlib.metadata import version

    return {name: version(name) for name in packages}
