"""Read saved models of scvi-tools, old ones too, and give them data of the form that they were set up from."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ...common.errors import RefmapError
from ...models.pickles import allowed_pickle, trusted_pickle

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


def read_saved(folder: Path, kind: str, trusted: bool) -> dict:
    """Read a saved model, today's format or that of before 0.15, as ``model_state_dict``, ``var_names``, ``attr_dict``.

    This runs the file's pickle: only a model that passed inspection, a card without a fault, may come here. Unless the
    user vouched for it (`trusted`), it can import no more than inspection lets pass. `kind` is the name of its class; scvi-tools is
    imported for models of before 0.14 alone.
    """
    import torch

    unpickler = trusted_pickle() if trusted else allowed_pickle()

    def load(name: str) -> object:
        return torch.load(folder / name, map_location="cpu", weights_only=False, pickle_module=unpickler)

    if (folder / "model.pt").exists():
        saved = load("model.pt")
    else:
        with open(folder / "attr.pkl", "rb") as stream:
            attributes = unpickler.load(stream)
        # A name may have a # in it, which begins no comment.
        names = np.atleast_1d(np.genfromtxt(folder / "var_names.csv", delimiter=",", dtype=str, comments=None))
        saved = {"model_state_dict": load("model_params.pt"), "var_names": names, "attr_dict": attributes}
    _complete(saved, kind)
    return saved


def as_mudata(query: ad.AnnData, setup: dict, card: dict) -> mudata.MuData:
    """Take an aligned query apart into the modalities that a model was set up from.

    Parameters
    ----------
    query
        Counts of the features of all modalities beside each other in X and, where the model takes more than one layer, in these;
        of proteins in obsm; all of them cells x features.
    setup
        Arguments of the reference's ``setup_mudata``.
    card
        The model's card.
    """
    import anndata as ad
    import mudata

    def modality(counts: object, names: pd.Index) -> ad.AnnData:
        return ad.AnnData(counts, obs=query.obs.copy(), var=pd.DataFrame(index=names))

    modalities, start = {}, 0
    for name, size in (card["modalities"] or {card["modality"]: query.n_vars}).items():
        features = query[:, start : start + size]
        modalities[name] = modality(features.X, features.var_names)
        for layer in card["layers"]:
            modalities[name].layers[layer] = features.layers[layer] if layer in features.layers else features.X
        start += size
    if card["protein_key"]:
        proteins = query.obsm[card["protein_key"]]
        modalities[setup["modalities"]["protein_layer"]] = modality(proteins.to_numpy(), proteins.columns)
    for argument, name in (setup["modalities"] or {}).items():
        if name in modalities and setup.get(argument) and argument.endswith("_layer"):
            modalities[name].layers[setup[argument]] = modalities[name].X
    # Each obs column may have been registered from a modality or from the whole: it is in all of them.
    result = mudata.MuData(modalities)
    for column in query.obs:
        result.obs[column] = query.obs[column]
    return result


def _complete(saved: dict, kind: str) -> None:
    """Add what models of older versions lack, and make text of categories and names that were none, as they are in a query."""
    attributes = saved["attr_dict"]
    if "scvi_setup_dict_" in attributes:
        _as_registry(attributes, model_class(kind))
    registry = attributes["registry_"]
    registry.setdefault("setup_method_name", "setup_anndata")
    if kind == "MULTIVI" and registry["setup_method_name"] == "setup_anndata":
        _as_of_mudata(saved)
    _categories_as_text(registry, attributes)
    _proteins_as_text(registry)
    state = saved["model_state_dict"]
    background = state.get("background_pro_alpha")
    # totalVI up to 1.1: scvi-tools' own conversion of old models fills in zeros as well.
    if background is not None and kind in ("TOTALVI", "TOTALANVI") and "log_per_batch_efficiency" not in state:
        state["log_per_batch_efficiency"] = background.new_zeros(background.shape)


def _as_registry(attributes: dict, kind: type) -> None:
    """Make a registry of what came before it, up to 0.14."""
    from scvi.data._compat import registry_from_setup_dict

    attributes["registry_"] = registry_from_setup_dict(
        kind, attributes.pop("scvi_setup_dict_"), unlabeled_category=attributes.get("unlabeled_category_")
    )
    # Data were set up for any class then, with labels for those that take none today: these now have one of their own.
    if "labels_key" not in inspect.signature(kind.setup_anndata).parameters:
        labels = attributes["registry_"]["field_registries"].get("labels", {}).get("state_registry", {})
        labels |= {"original_key": "_scvi_labels", "categorical_mapping": np.zeros(1, dtype=int)}


def _as_of_mudata(saved: dict) -> None:
    """Make of a MULTIVI of an AnnData, which scvi-tools from 1.4 on sets up no more, what it is when set up from a MuData.

    Its AnnData had the genes first and the peaks behind them; the weights are the same.
    """
    registry, names = saved["attr_dict"]["registry_"], list(saved["var_names"])
    settings = saved["attr_dict"]["init_params_"]
    n_genes = settings.get("non_kwargs", settings)["n_genes"]
    saved["var_names"] = {"rna": np.array(names[:n_genes], dtype=object), "atac": np.array(names[n_genes:], dtype=object)}
    setup, fields = registry["setup_args"], registry["field_registries"]
    shared = {key: setup.get(key) for key in ("batch_key", "categorical_covariate_keys", "continuous_covariate_keys")}
    layers = {"rna_layer": "rna", "atac_layer": "atac"}
    registry["setup_method_name"] = "setup_mudata"
    registry["setup_args"] = dict.fromkeys([*layers, "protein_layer", "size_factor_key", "idx_layer"]) | shared
    registry["setup_args"]["modalities"] = layers | {key: "rna" for key, named in shared.items() if named}
    for field, modality in (("X", "rna"), ("atac", "atac")):
        columns = saved["var_names"][modality]
        state = fields["X"]["state_registry"] | {"n_vars": len(columns), "column_names": columns}
        place = {"attr_name": "X", "attr_key": None, "mod_key": modality}
        fields[field] = {"data_registry": place, "state_registry": state, "summary_stats": {}}


def _categories_as_text(registry: dict, attributes: dict) -> None:
    fields = registry["field_registries"]

    def text(values: object) -> np.ndarray:
        return np.array([str(value) for value in values], dtype=object)

    for name in ("batch", "labels"):
        state = fields.get(name, {}).get("state_registry", {})
        # Where the user named no column, scvi-tools has one of its own, which stays as it is.
        if not str(state.get("original_key", "_scvi")).startswith("_scvi"):
            state["categorical_mapping"] = text(state["categorical_mapping"])
    mappings = fields.get("extra_categorical_covs", {}).get("state_registry", {}).get("mappings", {})
    for key in mappings:
        mappings[key] = text(mappings[key])
    labels = fields.get("labels", {}).get("state_registry", {})
    places = ((labels, "unlabeled_category"), (registry["setup_args"], "unlabeled_category"), (attributes, "unlabeled_category_"))
    for holder, key in places:
        if holder.get(key) is not None:
            holder[key] = str(holder[key])


def _proteins_as_text(registry: dict) -> None:
    """Name the proteins by a list, as a table of them does: out of `uns`, or numbered, they are an array, which equals no list."""
    state = registry["field_registries"].get("proteins", {}).get("state_registry", {})
    if "column_names" in state:
        state["column_names"] = [str(name) for name in state["column_names"]]
