"""Train a new Multigrate reference of genes and a second modality."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ...models.facts import write_facts
from ..scvi.training import check_machine, seed_library, taken_by, training_arguments
from .card import are_peaks
from .loading import embed_empty_cells, keep_setup, set_up
from .training import run
from .values import columns_of, make_values

if TYPE_CHECKING:
    import anndata as ad

PATIENCE = 20


def train_reference(reference: ad.AnnData, settings: dict, folder: Path, log: Callable = print) -> None:
    """Train a Multigrate model and save it to `folder`, with what its file lacks in `refmap.yaml`.

    Parameters
    ----------
    reference
        Counts, CSR: cells x the features of both modalities, in the order of ``modalities``; obs columns ``batch_key`` and the
        covariates.
    settings
        ``batch_key``, ``categorical_covariate_keys``, ``continuous_covariate_keys``, ``modalities`` (their sizes by name),
        ``n_latent``, ``n_layers``, ``max_epochs``, ``seed``, ``options``.

    Raises
    ------
    RefmapError
        If training diverges.
    MachineFault
        If scvi-tools can train nothing here.
    """
    from multigrate.model import MultiVAE

    check_machine()
    seed_library(settings["seed"])
    options, modalities = settings["options"], settings["modalities"]
    genes, second = modalities
    columns = dict(columns_of(modalities))[second]
    made_into = options["values"] or ("lognorm" if are_peaks(list(reference.var_names[columns])) else "clr")
    made_of = {genes: "counts", second: made_into}
    reference.X = make_values(reference.X, modalities, made_of)
    setup = {
        "size_factor_key": None,
        "rna_indices_end": modalities[genes],
        "categorical_covariate_keys": [settings["batch_key"], *settings["categorical_covariate_keys"]],
        "continuous_covariate_keys": settings["continuous_covariate_keys"] or None,
    }
    set_up(reference, setup, modalities)
    # The library counts the layer of an encoder that gives the latent.
    model = MultiVAE(
        reference,
        losses=["nb", "mse"],
        z_dim=settings["n_latent"],
        mix=options["mix"],
        dropout=options["dropout"],
        cond_dim=options["batch_embedding"],
        n_layers_encoders=[settings["n_layers"] + 1] * 2,
        n_layers_decoders=[settings["n_layers"]] * 2,
        n_hidden_encoders=[options["n_hidden"]] * 2,
        n_hidden_decoders=[options["n_hidden"]] * 2,
        loss_coefs={"kl": options["kl_weight"], "1": options["second_weight"]},
    )
    keep_setup(model, setup)
    embed_empty_cells(model)
    wanted = {
        "max_epochs": settings["max_epochs"],
        "batch_size": options["batch_size"],
        "early_stopping": True,
        "early_stopping_patience": PATIENCE,
        "check_val_every_n_epoch": 1,
    }
    warnings: list[str] = []
    run(model, training_arguments(taken_by(MultiVAE), wanted, reference.n_obs, warnings), log)
    for warning in warnings:
        log(warning)
    model.save(str(folder), overwrite=True, save_anndata=False)
    write_facts(folder, modality_values=made_of)
