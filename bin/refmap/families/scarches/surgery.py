"""Surgery on models with one condition column, trVAE and expiMap (Lotfollahi et al. 2022, https://doi.org/10.1038/s41587-021-01001-7).

The network sees the batch as a one-hot in its first layers and, where it models counts, as a column of dispersions. Each new
batch adds such columns; these alone are trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..base import Decoder, Settings, Surgery
from ..devices import device_of
from ..freezing import mask_gradients, sha256, versions
from .loading import Growth, growth_of, held, hold_batch_norm, lay_out, quietly, save, to_best_device
from .training import run_trainer, shuffled, trainer_arguments

if TYPE_CHECKING:
    import anndata as ad
    import torch

# Tensors with one column a batch.
_BY_BATCH = ("cond_L.weight", "theta")
# The losses of models that expect shares of a cell's counts.
_OF_COUNTS = ("nb", "zinb", "nb_dist")


class ConditionSurgery(Surgery):
    """A reference grown by a query's batches, and what is needed to prove it unmoved.

    Attributes
    ----------
    model
        The library's grown model; its network is `model.model`.
    reference
        The reference's tensors by name, as its file holds them.
    growths
        Where each of these lies in the grown network.
    facts
        What the updated model's `refmap.yaml` is to say.
    """

    # Arguments of the family's trainer that `plan_kwargs` may hold beside those of all.
    trainer_takes: tuple[str, ...] = ()

    def __init__(self, model: Any, query: ad.AnnData, card: dict, settings: Settings, reference: Mapping[str, torch.Tensor]):
        self.model, self.query, self.card, self.settings = model, query, card, settings
        self.reference = dict(reference)
        self.warnings: list[str] = []
        self.facts = {"normalization": card["normalization"]}
        network = model.model
        shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
        self.growths = {name: self.grow(name, tensor.shape, shapes[name]) for name, tensor in self.reference.items()}
        lay_out(network, self.reference, self.growths)
        self._start_batches()
        self._freeze()
        to_best_device(network)
        network.eval()
        self.device = device_of(network)

    def grow(self, name: str, old: torch.Size, new: torch.Size) -> Growth:
        """Where the reference's tensor lies in the grown one: at its beginning, as the library appends new batches."""
        return growth_of(old, new)

    def trainable(self, name: str) -> torch.Tensor:
        """The mask of a parameter that says what surgery may move; one that the reference lacks is all new."""
        import torch

        growth = self.growths.get(name)
        return growth.trainable if growth else torch.ones(self.model.model.state_dict()[name].shape, dtype=torch.bool)

    def _start_batches(self) -> None:
        """A new batch starts as the mean of the reference's, so that nothing hangs on random numbers before training."""
        state = self.model.model.state_dict()
        for name, old in self.reference.items():
            if name.endswith(_BY_BATCH) and state[name].shape[1] > old.shape[1]:
                state[name][:, old.shape[1] :] = old.mean(dim=1, keepdim=True)

    def _freeze(self) -> None:
        for name, parameter in self.model.model.named_parameters():
            mask_gradients(parameter, self.trainable(name))
        hold_batch_norm(self.model.model)

    @property
    def parameters_total(self) -> int:
        return sum(parameter.numel() for parameter in self.model.model.parameters())

    @property
    def parameters_trainable(self) -> int:
        """Number of single values that training may move."""
        named = self.model.model.named_parameters()
        return sum(int(self.trainable(name).sum()) for name, parameter in named if parameter.requires_grad)

    def trainer(self, adata: ad.AnnData, max_epochs: int, arguments: dict) -> Any:
        """The family's trainer for these cells; `arguments` are those of its constructor."""
        raise NotImplementedError

    def trainer_defaults(self, max_epochs: int) -> dict[str, Any]:
        """What the trainer gets where `plan_kwargs` do not say otherwise."""
        return {}

    def train(self, settings: dict, log: Callable = print) -> tuple[pd.DataFrame, dict]:
        adata = shuffled(self.query, self.settings.seed)
        batches = adata.obs[self.card["batch_key"]]
        defaults = self.trainer_defaults(int(settings["max_epochs"]))
        arguments = trainer_arguments(settings, batches, self.settings.seed, self.warnings, self.trainer_takes, defaults)
        with quietly():
            trainer = self.trainer(adata, int(settings["max_epochs"]), arguments)
        return run_trainer(trainer, settings, log)

    def posterior(self) -> tuple[np.ndarray, np.ndarray]:
        """The mean and the variance of each cell's latent posterior: float32, cells x latent dimensions."""
        self.model.model.eval()
        means, variances = self.model.get_latent(mean_var=True)
        return np.asarray(means, dtype=np.float32), np.asarray(variances, dtype=np.float32)

    def embed(self) -> np.ndarray:
        """The means of the latent posterior."""
        return self.posterior()[0]

    def decoder(self, latent: np.ndarray) -> Decoder | None:
        network = self.model.model
        if network.recon_loss not in _OF_COUNTS:
            return None

        def decode(cells: np.ndarray, batches: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
            import torch

            with torch.no_grad():
                z = torch.as_tensor(latent[cells], device=next(network.parameters()).device)
                expected = network.decoder(z, self._given(cells, batches))[0]
                # An expiMap may end in another function than a softmax.
                shares = (expected / expected.sum(dim=1, keepdim=True)).float().cpu().numpy()
                return shares, None if batches is None else self._dispersion(batches)

        layers = network.encoder.FC
        weights = None if layers is None else layers.L0.expr_L.weight.detach().float().cpu().numpy()
        return Decoder(decode, len(self.card["batches"]), weights)

    def _given(self, cells: np.ndarray, batches: np.ndarray | None) -> torch.Tensor | None:
        """What the decoder is given of the cells' own batches, or of those of the reference by their numbers."""
        import torch

        if batches is None:
            codes = self.model.model.condition_encoder
            batches = self.query.obs[self.card["batch_key"]].iloc[cells].astype(str).map(codes).to_numpy(dtype=np.int64)
        return torch.as_tensor(batches, device=next(self.model.model.parameters()).device)

    def _dispersion(self, batches: np.ndarray) -> np.ndarray:
        """The inverse dispersions of the reference's batches: float32, cells x genes."""
        return self.reference["theta"].exp().cpu().numpy().T[batches]

    def save(self, folder: Path) -> None:
        save(self.model, folder, **self.facts)

    def frozen_sha256(self) -> str:
        return sha256(held(self.model.model, self.growths))

    @staticmethod
    def versions() -> dict[str, str]:
        return versions("scarches", "torch", "anndata", "numpy")


def with_text_conditions(attributes: dict) -> dict:
    """The attributes with the batches as text, as they are in a query."""
    return attributes | {"conditions_": [str(condition) for condition in attributes["conditions_"]]}
