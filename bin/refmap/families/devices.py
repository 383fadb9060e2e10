"""The device that a model is trained on: the GPU, unless there is none that can be used."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from ..common.errors import brief

if TYPE_CHECKING:
    import torch


@cache
def check_gpu() -> tuple[str, ...]:
    """Compute something on the GPU, if there is one. Where that fails, let every library find none, and return a warning.

    A driver can show a GPU that this torch holds no kernels for, or that another process has filled: torch.cuda.is_available()
    is true, and the first computation fails.
    """
    import torch

    if not torch.cuda.is_available():
        return ()
    try:
        (torch.ones(2, 2, device="cuda") @ torch.ones(2, 2, device="cuda")).sum().item()
    except (RuntimeError, AssertionError) as error:  # torch's own errors of CUDA, and that of a torch without it
        # Each library asks torch for itself.
        torch.cuda.is_available = lambda: False
        torch.cuda.device_count = lambda: 0
        said, _, _advice = str(error).partition("\n")
        return (f"The GPU cannot be used and the CPU was taken, which is slower: {brief(said)}",)
    return ()


def device_of(module: torch.nn.Module) -> str:
    """``cpu``, or the name of the GPU that a module is on."""
    import torch

    device = next(module.parameters()).device
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type
