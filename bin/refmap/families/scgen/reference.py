"""Training of scGen references, and the correction of their own cells.

The library's trainer (scarches 0.6.1) makes the caller's X dense, splits by random numbers that nobody seeds, takes
`batch_size` for a share of the cells, and keeps no copy of the best weights: the network is trained here instead.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...common.storage import write_zarr
from ...models.facts import write_facts
from .. import freezing
from ..fitting import fit
from ..scarches.files import ATTRIBUTES, GENES, WEIGHTS
from .card import CORRECTED
from .correction import correct
from .network import decode_and_encode, encode, make, tensor_of
from .response import write_conditions
from .surgery import corrected_reference

if TYPE_CHECKING:
    import anndata as ad
    import torch

# The library's settings of its optimiser, Adam.
LEARNING_RATE = 0.001
# The label of cells whose column of labels nobody named.
ALL_CELLS = "all cells"


def train_reference(reference: ad.AnnData, settings: dict, folder: Path, log: Callable = print) -> None:
    """Train a network, correct the reference's labeled cells between its batches, and save both to `folder`.

    Parameters
    ----------
    reference
        Log-normalised values, CSR, cells x genes; obs columns ``batch_key``, ``categorical_covariate_keys`` and the first of
        ``labels_keys``.
    settings
        ``batch_key``, ``categorical_covariate_keys`` (further conditions), ``labels_keys`` (may be empty: then there is no correction by label), ``unlabeled_category``,
        ``n_latent``, ``n_layers``, ``max_epochs``, ``seed``, ``normalization``, ``options``.

    Raises
    ------
    RefmapError
        If training diverges.
    """
    import torch

    freezing.seed_everything(settings["seed"])
    options = settings["options"]
    attributes = {
        "x_dim_": reference.n_vars,
        "z_dim_": settings["n_latent"],
        "hidden_layer_sizes_": [options["n_hidden"]] * settings["n_layers"],
        "dr_rate_": options["dropout"],
        "is_trained_": True,
    }
    network = make(attributes)

    def loss_of(cells: np.ndarray) -> torch.Tensor:
        x = tensor_of(network, reference.X[cells])
        decoded, mean, log_variance = network(x)
        return network._loss_function(x, decoded, mean, log_variance)

    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    fit(network, loss_of, optimizer, reference.n_obs, settings["max_epochs"], options["batch_size"], settings["seed"], log)

    folder.mkdir(parents=True, exist_ok=True)
    (folder / ATTRIBUTES).write_bytes(pickle.dumps(attributes, protocol=4))
    torch.save({name: tensor.cpu() for name, tensor in network.state_dict().items()}, folder / WEIGHTS)
    (folder / GENES).write_text("".join(f"{gene}\n" for gene in reference.var_names))
    facts = {name: settings[name] for name in ("normalization", "batch_key", "unlabeled_category")}
    facts["batches"] = _values(reference, settings["batch_key"])
    latent = encode(network, reference.X)
    labels = _labels(reference, settings)
    labeled = labels != settings["unlabeled_category"]
    conditions = [settings["batch_key"], *settings["categorical_covariate_keys"]]
    columns = {key: reference.obs[key].astype(str).to_numpy()[labeled] for key in conditions}
    write_conditions(folder, latent[labeled], labels[labeled], columns)
    if settings["labels_keys"]:
        key = settings["labels_keys"][0]
        facts["labels"] = {key: [label for label in _values(reference, key) if label != settings["unlabeled_category"]]}
        write_zarr(_corrected(network, reference, latent, settings), folder / CORRECTED)
    write_facts(folder, **{name: fact for name, fact in facts.items() if fact is not None})


def _values(reference: ad.AnnData, key: str) -> list[str]:
    return sorted(set(reference.obs[key].astype(str)))


def _labels(reference: ad.AnnData, settings: dict) -> np.ndarray:
    """The label of each cell; without a column of labels all have one."""
    if not settings["labels_keys"]:
        return np.full(reference.n_obs, ALL_CELLS)
    return reference.obs[settings["labels_keys"][0]].astype(str).to_numpy()


def _corrected(network: torch.nn.Module, reference: ad.AnnData, latent: np.ndarray, settings: dict) -> ad.AnnData:
    """The reference's labeled cells, corrected between its batches as `batch_removal` of the library does, without sampling."""
    key, unlabeled = settings["labels_keys"][0], settings["unlabeled_category"]
    labels, batches = _labels(reference, settings), reference.obs[settings["batch_key"]].astype(str).to_numpy()
    latent = decode_and_encode(network, latent + correct(latent, labels, batches, unlabeled, {}).shift)
    labeled = labels != unlabeled
    return corrected_reference(key, labels[labeled], batches[labeled], reference.obs_names[labeled], latent[labeled])
