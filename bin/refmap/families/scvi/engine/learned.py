"""What surgery may move of a module of scvi-tools, as leaves that an optimiser takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ...freezing import mask_gradients

if TYPE_CHECKING:
    from .module import Module


class Learned:
    """The values that surgery may move.

    Attributes
    ----------
    leaves
        The tensors that hold them, for an optimiser.
    tables
        Of those leaves that are columns of a parameter, a row each: its name, and from which column on.
    """

    def __init__(self, module: Module, masks: dict[str, torch.Tensor]):
        """`masks` tells of a parameter, by its name, which of its values are learned."""
        self._parameters = dict(module.named_parameters())
        self._masks = masks
        self.tables: list[tuple[str, int, torch.Tensor]] = []
        self.leaves: list[torch.Tensor] = []

    def table(self, name: str, start: int = 0) -> torch.Tensor:
        """The columns of a parameter from `start` on, a row each; those that are learned take gradients, the others none."""
        parameter = self._parameters[name]
        rows = parameter.detach()[:, start:].T.clone(memory_format=torch.contiguous_format)
        if name in self._masks:
            mask_gradients(rows, self._masks[name][:, start:].T.to(rows.device))
        if rows.requires_grad:
            self.leaves.append(rows)
            self.tables.append((name, start, rows))
        return rows

    def whole(self, name: str) -> torch.Tensor:
        """A parameter as it is, its own mask on it."""
        if self._parameters[name].requires_grad:
            self.leaves.append(self._parameters[name])
        return self._parameters[name]

    def put_back(self) -> None:
        """Give the module what was learned."""
        with torch.no_grad():
            for name, start, rows in self.tables:
                self._parameters[name][:, start:] = rows.T
