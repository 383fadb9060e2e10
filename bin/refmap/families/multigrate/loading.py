"""Read a saved Multigrate model and make the same with more categories.

The library (1.0.1) loads a model with its reference's cells alone; all that it takes of them is how many categories there were,
which the file says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .values import size_factors

if TYPE_CHECKING:
    import anndata as ad
    import torch
    from multigrate.model import MultiVAE

SIZE_FACTORS = "size_factors"


def set_up(data: ad.AnnData, setup: Mapping, modalities: Mapping[str, int], registry: dict | None = None) -> None:
    """Register cells with `MultiVAE` by the arguments of a reference's setup, and add what is new to its `registry`.

    The library makes the genes dense to sum them up: it is told the sums.
    """
    from multigrate.model import MultiVAE

    data.uns["modality_lengths"] = list(modalities.values())
    key = setup.get("size_factor_key")
    if key is None:
        key = SIZE_FACTORS
        data.obs[key] = size_factors(data.X, setup["rna_indices_end"])
    transfer = {"source_registry": registry, "extend_categories": True, "allow_missing_labels": True} if registry else {}
    given = {name: value for name, value in setup.items() if name not in ("size_factor_key", "rna_indices_end")}
    MultiVAE.setup_anndata(data, size_factor_key=key, rna_indices_end=None, **given, **transfer)


def keep_setup(model: MultiVAE, setup: Mapping) -> None:
    """Have the model's file say how the library is to set up its cells."""
    model.adata_manager.registry["setup_args"] = dict(setup)


def grow(saved: dict, query: ad.AnnData, card: dict) -> MultiVAE:
    """A model as `saved` with the query's new categories, which the query is set up for; its weights are still random."""
    from multigrate.model import MultiVAE
    from scvi.model.base._save_load import _initialize_model

    attributes = dict(saved["attr_dict"])
    registry = attributes.pop("registry_")
    setup = registry["setup_args"]
    set_up(query, setup, card["modalities"], registry)
    model = _initialize_model(MultiVAE, query, registry, attributes, datamodule=None)
    model.is_trained_ = False  # it begins a history of its own
    keep_setup(model, setup)
    embed_empty_cells(model)
    return model


def embed_empty_cells(model: MultiVAE) -> None:
    """Take cells without any value for measured in all modalities: a mixture of none is no number."""
    mix = model.module._mixture_of_experts

    def mix_some(mus: torch.Tensor, logvars: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return mix(mus, logvars, masks | ~masks.any(dim=1, keepdim=True))

    model.module._mixture_of_experts = mix_some
