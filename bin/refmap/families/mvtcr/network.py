"""mvTCR's networks: made from a saved model, and what they give for cells with and without a receptor.

The library's own classes hold the networks and say what their losses are. Around them, of mvtcr 0.2.1.2:

* its data loader wants every cell to have a receptor: here one without is embedded by its RNA alone, where the model has a
  posterior of that: the other expert is left out of the product, or out of the mixture;
* its training goes on moving the statistics of batch norm in surgery: see `hold_batch_norm`;
* its surgery leaves the number of conditions in the settings as it was, and cannot grow a model with one-hot conditions.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..scarches.loading import quietly, to_best_device
from .card import kind_of

if TYPE_CHECKING:
    import torch
    from scipy import sparse

    from .receptors import Encoded

# Cells that are embedded at once.
BLOCK = 1024
# Weights of the losses of RNA, of the receptor and of the KL divergence, where a file has none.
LOSS_WEIGHTS = (1.0, 0.1, 1e-5)


@dataclass
class Cells:
    """What a network takes of cells: log-normalised CSR, cells x genes; CDR3s; the number of each cell's condition, if there are any."""

    rna: sparse.csr_matrix
    receptors: Encoded
    conditions: np.ndarray | None

    def __len__(self) -> int:
        return self.rna.shape[0]


class Network:
    """A network of the library, its kind (see `card.NAMES`), and the loss that it is trained with."""

    def __init__(self, saved: dict[str, Any], n_conditions: int) -> None:
        """Make the network with random weights and room for `n_conditions`; on the GPU where there is one."""
        self.kind = kind_of(saved)
        self.parameters = copy.deepcopy(saved["params_architecture"])
        joint, tcr = self.parameters["joint"], self.parameters["tcr"]
        joint["num_conditional_labels"] = n_conditions
        with quietly():
            wrapper, network = _classes(self.kind)
            from mvtcr.models.losses.kld import KLD

            self.module: torch.nn.Module = network(tcr, self.parameters["rna"], joint)
        self.one_hot = n_conditions if n_conditions and getattr(self.module, "cond_emb", None) is None else 0
        to_best_device(self.module)
        self._wrapper = wrapper
        self._losses = _losses(self, KLD(), saved["aa_to_id"]["_"], self.parameters.get("loss_weights") or LOSS_WEIGHTS)

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    def _inputs(self, cells: Cells, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        import torch

        rna = torch.from_numpy(cells.rna[rows].toarray().astype(np.float32, copy=False))
        tcr = torch.from_numpy(cells.receptors.residues[rows].reshape(len(rows), -1))
        conditions = None if cells.conditions is None else torch.from_numpy(cells.conditions[rows]).to(self.device)
        return rna.to(self.device), tcr.to(self.device), conditions

    def embed(self, cells: Cells) -> np.ndarray:
        """The mean of each cell's posterior: float32, cells x latent dimensions; no numbers where the model has none."""
        import torch

        latent = []
        self.module.eval()
        with torch.no_grad():
            for rows in _blocks(len(cells)):
                _, mean, log_variance, _, _ = self._forward(*self._inputs(cells, rows))
                joint = {"poe": lambda m=mean: m[2], "moe": lambda m=mean: (m[0] + m[1]) / 2}.get(self.kind, lambda m=mean: m)()
                known = torch.from_numpy(cells.receptors.known[rows]).to(self.device)
                latent.append(torch.where(known[:, None], joint, self._alone(mean, log_variance)).cpu().numpy())
        return np.concatenate(latent).astype(np.float32)

    def _forward(self, rna: torch.Tensor, tcr: torch.Tensor, conditions: torch.Tensor | None) -> tuple:
        import torch

        # Its transformers have no use for the lengths.
        return self.module(rna, tcr, torch.zeros((len(rna), 2), dtype=torch.long, device=self.device), conditions)

    def _alone(self, mean: Any, log_variance: Any) -> torch.Tensor:
        """The posterior's mean by RNA alone."""
        import torch

        if self.kind == "separate":
            return torch.full_like(mean, torch.nan)
        return mean[0] if self.kind == "moe" else _with_prior(mean[0], log_variance[0])[0]

    # ---------------------------------------------------------------------------------------------------------------- training

    def losses(self, cells: Cells, rows: np.ndarray, annealing: float) -> dict[str, torch.Tensor]:
        """The losses of some cells, each a mean over them: ``rna``, ``tcr``, ``kl``, and ``loss``, in which the KL divergence counts `annealing`.

        Of cells with a receptor they are the library's; of those without, what is left of these.
        """
        import torch

        parts: list[tuple[float, tuple]] = []
        known = cells.receptors.known[rows]
        for chosen, losses_of in ((rows[known], self._of_both), (rows[~known], self._of_rna)):
            if len(chosen):
                parts.append((len(chosen) / len(rows), losses_of(*self._inputs(cells, chosen))))
        rna, tcr, kl = (torch.stack([share * losses[i].squeeze() for share, losses in parts]).sum() for i in range(3))
        return {"rna": rna, "tcr": tcr, "kl": kl, "loss": rna + tcr + annealing * kl}

    def _of_both(self, rna: torch.Tensor, tcr: torch.Tensor, conditions: torch.Tensor | None) -> tuple:
        _, mean, log_variance, rna_predicted, tcr_predicted = self._forward(rna, tcr, conditions)
        of_rna, of_tcr = self._wrapper.calculate_loss(self._losses, rna_predicted, rna, tcr_predicted, tcr)
        kl, _ = self._wrapper.calculate_kld_loss(self._losses, mean, log_variance, 0)
        return of_rna, of_tcr, kl

    def _of_rna(self, rna: torch.Tensor, _tcr: torch.Tensor, conditions: torch.Tensor | None) -> tuple:
        import torch

        module, losses, given = self.module, self._losses, self._conditions(conditions)
        hidden = torch.cat([module.rna_encoder(rna), *given], dim=1)
        mean, log_variance = module.rna_vae_encoder(hidden).chunk(2, dim=1)
        posteriors = [(mean, log_variance)]
        if self.kind == "poe":
            posteriors.append(_with_prior(mean, log_variance))
        reconstruction, kl = [], []
        for posterior in posteriors:
            z = torch.cat([module.reparameterize(*posterior), *given], dim=1)
            reconstruction.append(losses.loss_function_rna(module.rna_decoder(module.rna_vae_decoder(z)), rna))
            kl.append(losses.loss_function_kld(*posterior))
        weights = losses.loss_weights
        return (
            weights[0] * torch.stack(reconstruction).mean(),
            torch.zeros((), device=self.device),
            weights[2] * torch.stack(kl).mean(),
        )

    def _conditions(self, conditions: torch.Tensor | None) -> list[torch.Tensor]:
        import torch

        if conditions is None:
            return []
        if self.one_hot:
            return [torch.nn.functional.one_hot(conditions, self.one_hot)]
        return [self.module.cond_emb(conditions)]


def _with_prior(mean: torch.Tensor, log_variance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The product of one expert and the prior: mean and log variance."""
    precision = (-log_variance).exp()
    return mean * precision / (precision + 1), -(precision + 1).log()


def _classes(kind: str) -> tuple[type, type]:
    """The library's class of that kind, and that of its network."""
    if kind == "poe":
        from mvtcr.models.mixture_modules.poe import PoEModel, PoEModelTorch

        return PoEModel, PoEModelTorch
    if kind == "moe":
        from mvtcr.models.mixture_modules.moe import MoEModel, MoEModelTorch

        return MoEModel, MoEModelTorch
    from mvtcr.models.mixture_modules.separate_model import SeparateModel, SeparateModelTorch

    return SeparateModel, SeparateModelTorch


def _losses(network: Network, kld: torch.nn.Module, padding: int, weights: Any) -> SimpleNamespace:
    """What the library's methods of losses take of its model, which it cannot make without data."""
    import torch

    tcr = network.parameters["tcr"]
    return SimpleNamespace(
        model=network.module,
        device=network.device,
        params_tcr=tcr,
        beta_only=tcr.get("beta_only", False),
        loss_weights=list(weights),
        loss_function_rna=torch.nn.MSELoss(),
        loss_function_tcr=torch.nn.CrossEntropyLoss(ignore_index=padding),
        loss_function_kld=kld,
        get_kl_annealing_factor=lambda epoch: 1.0,
    )


def _blocks(n_cells: int) -> Iterator[np.ndarray]:
    return (np.arange(start, min(start + BLOCK, n_cells)) for start in range(0, n_cells, BLOCK))
