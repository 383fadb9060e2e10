"""What every surgery on models of scvi-tools has, by whatever it is done: a grown model whose reference is frozen and proven unmoved."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .. import base
from ..devices import device_of
from ..freezing import mask_gradients, seed_everything, sha256, versions
from .growth import Growth
from .training import seed_library

if TYPE_CHECKING:
    import torch

# The encoder of the library size belongs to no category: where a model uses one, scvi-tools trains it whole in surgery.
# The latent does not depend on it.
LIBRARY_ENCODER = "l_encoder"
# Counts its calls and nothing else.
COUNTERS = "num_batches_tracked"


def retrained(module: torch.nn.Module) -> str | None:
    """The part of a module that surgery trains whole, if there is one."""
    return None if getattr(module, "use_observed_lib_size", True) else LIBRARY_ENCODER


@dataclass
class Grown(base.Surgery):
    """A reference of scvi-tools grown by a query, and what is needed to prove it unmoved.

    Attributes
    ----------
    model
        The grown model, whose `module` holds its weights.
    reference
        The reference's tensors by name, as its file holds them.
    growths
        Where each of these lies in the grown model.
    label_key
        Column of the labels that the model predicts, None if it predicts none.
    retrained
        Name of the one part that surgery may train whole, None if there is none.
    n_batches
        Of the reference; 1 if it has no column of them.
    warnings
        Sentences for the user.
    """

    model: Any
    reference: dict
    growths: dict[str, Growth]
    label_key: str | None = None
    retrained: str | None = None
    n_batches: int = 1
    warnings: list[str] = field(default_factory=list)

    def _lay_out(self) -> None:
        """Put the reference's values where they belong in the grown model."""
        state = self.model.module.state_dict()
        for name, growth in self.growths.items():
            growth.lay_out(self.reference[name], state[name])
        self.model.module.load_state_dict(state)

    def _freeze(self) -> None:
        """Let gradients through to what the query adds and to nothing else."""
        for name, parameter in self.model.module.named_parameters():
            if self._retrained(name):
                continue
            growth = self.growths.get(name)
            idle = name.split(".")[0] == LIBRARY_ENCODER
            if idle or growth is None or not growth.trainable.any():
                parameter.requires_grad = False
                continue
            mask_gradients(parameter, growth.trainable)

    @property
    def parameters_total(self) -> int:
        return sum(p.numel() for p in self.model.module.parameters())

    @property
    def parameters_trainable(self) -> int:
        """Number of single values that training may move."""
        return sum(
            parameter.numel() if self._retrained(name) else int(self.growths[name].trainable.sum())
            for name, parameter in self.model.module.named_parameters()
            if parameter.requires_grad
        )

    def reference_sha256(self) -> str:
        """Hash the reference's tensors as its file holds them."""
        return sha256({name: tensor for name, tensor in self.reference.items() if self._frozen(name)})

    def frozen_sha256(self) -> str:
        """Hash the same tensors as the grown model holds them: equal to :meth:`reference_sha256` if nothing moved."""
        state = self.model.module.state_dict()
        return sha256({name: state[name][self.growths[name].place] for name in self.reference if self._frozen(name)})

    def _frozen(self, name: str) -> bool:
        return name in self.growths and not self._retrained(name) and not name.endswith(COUNTERS)

    def _retrained(self, name: str) -> bool:
        return name.split(".")[0] == self.retrained

    @property
    def device(self) -> str:
        """``cpu``, or the name of the GPU that the model is on."""
        return device_of(self.model.module)

    def switch_dropout(self) -> None:
        """Let dropout act, where it is not frozen.

        A loaded module is in evaluation, and Lightning leaves each part of it as it is: batch norm keeps the reference's statistics,
        as it should, and dropout has to be told. Where it is frozen, its rate is 0 by now.
        """
        from torch.nn import Dropout

        for part in self.model.module.modules():
            if isinstance(part, Dropout):
                part.train()

    def learned(self) -> dict[str, torch.Tensor]:
        """Which values surgery may move, of the parameters that the reference holds and that are not trained whole."""
        return {name: growth.trainable for name, growth in self.growths.items() if not self._retrained(name)}

    @staticmethod
    def seed(seed: int) -> None:
        """Fix every random number generator; scvi-tools' own, too, where it was imported."""
        seed_everything(seed)
        if "scvi" in sys.modules:
            seed_library(seed)

    @staticmethod
    def versions() -> dict[str, str]:
        """Return the versions of the libraries that decide a result."""
        return versions("scvi-tools", "torch", "lightning", "anndata", "numpy")
