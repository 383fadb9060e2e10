"""Proteins that a query lacks: masked in surgery, and imputed after it, by totalVI.

Gayoso et al. 2021, https://doi.org/10.1038/s41592-020-01050-x. scvi-tools takes a protein without a count in a batch for missing there
and leaves it out of the loss.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import anndata as ad

FIELD, MASK = "proteins", "protein_batch_mask"


def read_masks(registry: dict) -> dict[int, np.ndarray]:
    """In which batches (by their code) a saved model's proteins were measured, bool; batches where all were may be left out."""
    masks = registry["field_registries"].get(FIELD, {}).get("state_registry", {}).get(MASK) or {}
    return {int(batch): np.asarray(mask, dtype=bool) for batch, mask in masks.items()}


def mask_missing(model, reference: dict[int, np.ndarray], n_reference: int, missing: Collection[str]) -> dict[int, np.ndarray]:
    """Leave out of the grown model's loss what the query lacks, and let its registry tell of every batch what was measured there.

    scvi-tools masks what has no count in a batch, unless the model was made with `override_missing_proteins`, for which a zero is
    a zero: that holds for what was measured, not for the proteins that the query's panel lacks. And it forgets what it knew of
    the reference's batches.

    Parameters
    ----------
    model
        The grown model.
    reference
        :func:`read_masks` of the reference, whose batches are the first `n_reference`.
    missing
        The names of the proteins that the query lacks altogether.

    Returns
    -------
    For each batch of the grown model, whether each protein was measured there.
    """
    registry = model.adata_manager.registry["field_registries"][FIELD]["state_registry"]
    lacks = np.isin([str(name) for name in registry["column_names"]], list(missing))
    codes = {int(code) for code in np.unique(model.adata_manager.get_from_registry("batch"))}
    if model.init_params_["non_kwargs"].get("override_missing_proteins"):
        query = dict.fromkeys(codes, ~lacks)
        if lacks.any():
            model.module.protein_batch_mask = {str(code): mask for code, mask in query.items()}
    else:
        query = read_masks(model.adata_manager.registry)
    measured = {code: np.ones(len(lacks), dtype=bool) for code in {*range(n_reference), *codes}} | reference
    for code, mask in query.items():
        # A batch of the reference's stays what it was there.
        if code >= n_reference:
            measured[code] = mask
    if not all(mask.all() for mask in measured.values()):
        registry[MASK] = {str(code): mask for code, mask in measured.items()} | {str(code): mask for code, mask in query.items()}
    return measured


def impute(model, proteins: np.ndarray, measured: dict[int, np.ndarray], samples: int) -> tuple[np.ndarray, np.ndarray]:
    """What the model expects of proteins in each cell of its query, had they been measured as in batches of the reference.

    The mean over samples of the cell's latent and over batches, of each protein over those that have it measured. By minibatches:
    memory goes by the result.

    Parameters
    ----------
    model
        A totalVI or totalANVI.
    proteins
        The places of the wanted proteins among the model's, (n,).
    measured
        The batches, by code, to impute for, and which of the model's proteins each has measured.
    samples
        How often each cell's latent is sampled.

    Returns
    -------
    Denoised values and probabilities of the foreground, float32, cells x n: what scvi-tools' `get_normalized_expression` and
    `get_protein_foreground_probability` give with `transform_batch`, of which the latter is not averaged by chunks there.
    """
    import torch

    module, cells = model.module, model.adata.n_obs
    values, foreground = (np.zeros((cells, len(proteins)), dtype=np.float32) for _ in range(2))
    weights = np.stack([mask[proteins] for mask in measured.values()]).astype(np.float32)
    weights[:, weights.sum(axis=0) == 0] = 1  # measured in none of the batches that were chosen
    weights /= weights.sum(axis=0)
    start = 0
    with torch.inference_mode():
        for tensors in model._make_data_loader(adata=model.adata):
            inferred = module.inference(**module._get_inference_input(tensors), n_samples=samples)
            given = module._get_generative_input(tensors, inferred)
            stop = start + len(given["batch_index"])
            for code, weight in zip(measured, weights, strict=True):
                if not weight.any():
                    continue
                expected = module.generative(**given, transform_batch=code)["py_"]
                probability = torch.sigmoid(-expected["mixing"])
                for table, tensor in ((values, expected["rate_fore"] * probability), (foreground, probability)):
                    mean = tensor.reshape(samples, stop - start, -1).mean(dim=0)
                    table[start:stop] += mean[:, proteins].float().cpu().numpy() * weight
            start = stop
    return values, foreground


def incomplete(query: ad.AnnData) -> list[str]:
    """The model's proteins that the query, or one of its batches, lacks, in the model's order."""
    return [str(name) for name in query.uns.get("proteins_incomplete", ())]
