"""Training of a scPoli, a new reference as well as one that is grown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..scarches.loading import quietly
from .prototypes import label_prototypes

if TYPE_CHECKING:
    import anndata as ad
    import torch

# The weight of the KL divergence rises to its full value over so many epochs: scArches' default.
ANNEALED = 100


def phases(pretraining: int, eta: float, labeled: bool) -> dict[str, Any]:
    """Arguments of the trainer: prototypes of labels from epoch `pretraining` on. Unlabeled ones train nothing, and come later."""
    return {
        "pretraining_epochs": pretraining,
        "eta": eta,
        "prototype_training": labeled,
        "unlabeled_prototype_training": False,
        "alpha_epoch_anneal": ANNEALED,
    }


def split_groups(obs: pd.DataFrame, model: Any, labeled: Iterable[int]) -> np.ndarray:
    """By what the library splits cells for validation: the labels of the column that has most of them, or the samples."""
    keys = model.cell_type_keys_
    if not keys:
        return obs["conditions_combined"].to_numpy(dtype=object)
    finest = max(reversed(keys), key=lambda key: obs[key].nunique())
    groups = np.full(len(obs), "", dtype=object)
    groups[list(labeled)] = obs[finest].to_numpy(dtype=object)[list(labeled)]
    return groups


def new_trainer(model: Any, cells: ad.AnnData, labeled: list[int], arguments: dict) -> Any:
    """A trainer of these cells, which must have the obs column that the model's constructor adds."""
    with quietly():
        from .trainer import Trainer

        return Trainer(
            model.model,
            cells,
            condition_keys=model.condition_keys_,
            cell_type_keys=model.cell_type_keys_,
            labeled_indices=labeled,
            **arguments,
        )


def complete_prototypes(network: torch.nn.Module, latent: np.ndarray, labels: np.ndarray, n_fixed: int) -> None:
    """Put the prototypes of the labels from `n_fixed` on where all of their cells are after training, or without any."""
    import torch

    n_labels = len(network.cell_types)
    if n_fixed == n_labels:
        return
    new = label_prototypes(torch.as_tensor(latent), torch.as_tensor(labels), range(n_fixed, n_labels))
    for name, values in zip(("mean", "cov"), new):
        fixed = [network.prototypes_labeled[name][:n_fixed].cpu()] if n_fixed else []
        network.prototypes_labeled[name] = torch.cat([*fixed, values])


def finish(model: Any, clusters: torch.Tensor | None) -> None:
    """Make a model ready to be saved: tensors on the CPU, and nothing of single cells."""
    state = model.model.prototypes_labeled
    model.prototypes_labeled_ = {name: None if value is None else value.detach().cpu() for name, value in state.items()}
    model.prototypes_unlabeled_ = {"mean": clusters}
    model.labeled_indices_, model.obs_metadata_ = [], pd.DataFrame()
