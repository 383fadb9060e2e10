"""Read saved models of scvi-tools, old ones too, and give them data of the form that they were set up from."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ...errors import RefmapError

if TYPE_CHECKING:
    import anndata as ad
    import mudata


def model_class(name: str) -> type:
    """Return the class of scvi-tools of that name.

    Raises
    ------
    RefmapError
        If this version of scvi-tools has no such class.
    """
    import scvi

    for module in (scvi.model, scvi.external):
        if hasattr(module, name):
            return getattr(module, name)
    raise RefmapError(f"The model is a {name}, which scvi-tools {scvi.__version__} does not have: update the environment.")


def read_saved(folder: Path, kind: type) -> dict:
    """Read a saved model, today's format or that of before 0.15, as ``model_state_dict``, ``var_names``, ``attr_dict``.

    This runs the file's pickle: only a model that passed inspection, a card without a fault, may come here.
    """
    import torch

    with tempfile.TemporaryDirectory() as scratch:
        if not (folder / "model.pt").exists():
            kind.convert_legacy_save(str(folder), scratch, overwrite=True)
            folder = Path(scratch)
        saved = torch.load(folder / "model.pt", map_location="cpu", weights_only=False)
    _complete(saved)
    return saved


def as_mudata(query: ad.AnnData, setup: dict, protein_key: str) -> mudata.MuData:
    """Take an aligned query apart into the modalities of genes and proteins that a totalVI was set up from.

    Parameters
    ----------
    query
        Counts of genes in X, of proteins in ``obsm[protein_key]``, both cells x features.
    setup
        Arguments of the reference's ``setup_mudata``.
    protein_key
        The key of the proteins in obsm.
    """
    import anndata as ad
    import mudata

    proteins = query.obsm[protein_key]
    modalities = {
        setup["modalities"]["rna_layer"]: ad.AnnData(query.X, obs=query.obs.copy(), var=query.var[[]]),
        setup["modalities"]["protein_layer"]: ad.AnnData(
            proteins.to_numpy(), obs=query.obs.copy(), var=pd.DataFrame(index=proteins.columns)
        ),
    }
    for modality, layer in (("rna_layer", setup["rna_layer"]), ("protein_layer", setup["protein_layer"])):
        if layer:
            adata = modalities[setup["modalities"][modality]]
            adata.layers[layer] = adata.X
    # Each obs column may have been registered from a modality or from the whole: it is in all of them.
    result = mudata.MuData(modalities)
    for column in query.obs:
        result.obs[column] = query.obs[column]
    return result


def _complete(saved: dict) -> None:
    """Add what models of older versions lack and today's scvi-tools expects."""
    import torch

    registry = saved["attr_dict"]["registry_"]
    registry.setdefault("setup_method_name", "setup_anndata")
    state = saved["model_state_dict"]
    background = state.get("background_pro_alpha")
    # totalVI up to 1.1: scvi-tools' own conversion of old models fills in zeros as well.
    if background is not None and "log_per_batch_efficiency" not in state:
        state["log_per_batch_efficiency"] = torch.zeros_like(background)
