"""Train a new mvTCR reference, by the library's networks and losses, and save it as the library does."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ...common.errors import RefmapError
from ...models.facts import write_facts
from ..fitting import HELD_OUT, fit
from ..freezing import seed_everything
from .card import ONE_HOT
from .network import Cells, Network
from .surgery import save_model
from .training import annealing

if TYPE_CHECKING:
    import anndata as ad
    import torch

# What a reference is made of below this number of cells with a receptor is chance.
FEWEST_CELLS = 10


def train_reference(reference: ad.AnnData, settings: dict, folder: Path, log: Callable = print) -> None:
    """Train a surgery-ready mvTCR on the cells with a whole receptor, and save it to `folder`.

    Parameters
    ----------
    reference
        Log-normalised values, CSR, cells x genes; the batch column in obs; the table of chains in ``uns['receptors']``.
    settings
        ``batch_key``, ``n_latent``, ``n_layers``, ``max_epochs``, ``seed``, ``normalization`` and the family's ``options``.
    folder
        Where the model goes.

    Raises
    ------
    RefmapError
        If too few cells have a receptor, if the options do not go together, or if training diverges.
    """
    import torch

    from .receptors import AA_TO_ID, encode, read_chains

    seed_everything(settings["seed"])
    options, key = settings["options"], settings["batch_key"]
    chains = read_chains(reference)
    padding = options["padding"] or _longest(chains)
    receptors = encode(chains, reference.obs_names, AA_TO_ID, padding, beta_only=False)
    rows = np.flatnonzero(receptors.known)
    without = ", ".join(f"{n:,} {reason}" for reason, n in receptors.without.items())
    if len(rows) < FEWEST_CELLS:
        raise RefmapError(
            f"Of the reference's {reference.n_obs:,} cells {len(rows):,} have a receptor that mvTCR can be trained on ({without}): look at "
            "--reference_airr."
        )
    if without:
        log(f"{len(rows):,} of the reference's {reference.n_obs:,} cells train the model: {without}.")
    batches = sorted(set(reference.obs[key].astype(str)))
    saved = {
        "train_history": {},
        "val_history": {},
        "aa_to_id": AA_TO_ID,
        "params_architecture": _architecture(options, settings, reference.n_vars, padding, len(batches)),
        "balanced_sampling": None,
        "metadata": [],
        "conditional": f"{key}{ONE_HOT}",
        "optimization_mode_params": None,
        "label_key": None,
        "model_type": "separate" if options["mixture"] == "concat" else options["mixture"],
    }
    network = Network(saved, len(batches))
    numbers = pd.Index(batches).get_indexer(reference.obs[key].astype(str)).astype(np.int64)
    cells = Cells(reference.X.tocsr(), receptors, numbers)
    # The KL divergence counts more from epoch to epoch, but not for held-out cells, by which epochs are compared.
    done, most = 0, settings["max_epochs"]
    steps = math.ceil(len(rows) * (1 - HELD_OUT) / options["batch_size"])

    def loss_of(chosen: np.ndarray) -> torch.Tensor:
        share = annealing(done // steps, most) if network.module.training else 1.0
        return network.losses(cells, rows[chosen], share)["loss"]

    def after_step() -> None:
        nonlocal done
        done += 1

    optimizer = torch.optim.Adam(network.module.parameters(), lr=options["learning_rate"])
    fit(network.module, loss_of, optimizer, len(rows), most, options["batch_size"], settings["seed"], log, after_step)

    folder.mkdir(parents=True, exist_ok=True)
    saved["state_dict"] = {name: tensor.cpu() for name, tensor in network.module.state_dict().items()}
    saved["params_architecture"] = network.parameters
    save_model(saved, folder)
    facts = {"genes": list(reference.var_names), "normalization": settings["normalization"], "batch_key": key, "batches": batches}
    write_facts(folder, **{name: fact for name, fact in facts.items() if fact})


def _longest(chains: ad.AnnData | None) -> int:
    """The length of the longest of the primary CDR3s."""
    import scirpy

    if chains is None:
        return 1
    lengths = scirpy.get.airr(chains, "junction_aa", ["VJ_1", "VDJ_1"]).astype(object).stack().str.len()
    return int(lengths.max()) if len(lengths) else 1


def _architecture(options: dict, settings: dict, n_genes: int, padding: int, n_batches: int) -> dict:
    """The settings of the network, under the library's names."""
    if options["residue_size"] % options["attention_heads"] or options["residue_size"] % 2:
        raise RefmapError(
            f"residue_size is {options['residue_size']}, but must be an even multiple of attention_heads, {options['attention_heads']}."
        )
    if options["n_hidden"] % 2:
        raise RefmapError(f"n_hidden is {options['n_hidden']}, but must be even: half of it is of each chain.")
    common = {"activation": "leakyrelu", "batch_norm": True, "dropout": options["dropout"]}
    layers = settings["n_layers"]
    return {
        "batch_size": options["batch_size"],
        "learning_rate": options["learning_rate"],
        "loss_weights": [1.0, options["tcr_weight"], options["kl_weight"]],
        "joint": common
        | {
            "hdim": options["n_hidden"],
            "losses": ["MSE", "CE"],
            "num_layers": layers,
            "shared_hidden": [options["n_hidden"]] * layers,
            "zdim": settings["n_latent"],
            "c_embedding_dim": options["batch_embedding"],
            "cond_dim": options["batch_embedding"],
            "cond_input": True,
            "num_conditional_labels": n_batches,
        },
        "rna": common
        | {
            "gene_hidden": [options["n_hidden_genes"]] * layers,
            "num_layers": layers,
            "output_activation": "linear",
            "xdim": n_genes,
        },
        "tcr": {
            "embedding_size": options["residue_size"],
            "num_heads": options["attention_heads"],
            "forward_expansion": 4,
            "encoding_layers": options["transformer_layers"],
            "decoding_layers": options["transformer_layers"],
            "dropout": options["dropout"],
            "max_tcr_length": padding,
            "num_seq_labels": 24,
        },
    }
