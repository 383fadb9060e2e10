"""An SCVI or a SCANVI as its file holds it, grown by a query and saved again without scvi-tools, which loads what is saved."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .limits import beyond
from .module import SETTINGS, Module
from .registry import Data, Unserved, grown_registry
from .splitting import Split

if TYPE_CHECKING:
    import anndata as ad

# The arguments of each class's constructor that have names there, with their defaults, in its order, and what it calls the others.
_SHARED = {
    "n_hidden": 128,
    "n_latent": 10,
    "n_layers": 1,
    "dropout_rate": 0.1,
    "dispersion": "gene",
    "gene_likelihood": "zinb",
    "use_observed_lib_size": True,
}
NAMED = {
    "SCVI": (_SHARED | {"latent_distribution": "normal"}, "kwargs"),
    "SCANVI": (_SHARED | {"linear_classifier": False, "datamodule": None}, "model_kwargs"),
}
# What older versions kept among these, and none takes any more.
GONE = ("use_cuda", "unlabeled_category", "pretrained_model")
# The one version of scvi-tools from which on its classifier gives logits.
LOGITS_SINCE = (1, 1)


@dataclass
class Model:
    """What of a model of scvi-tools the engine works with.

    Attributes
    ----------
    kind
        ``SCVI`` or ``SCANVI``.
    module
        Its weights, with room for the query's batches and categories, in evaluation.
    registry, attributes
        What scvi-tools saves of a model: its registry, and what else.
    genes
        Their names, in its order.
    data
        The query.
    split
        That of its cells as the model was trained on them; None where it was not.
    """

    kind: str
    module: Module
    registry: dict
    attributes: dict[str, Any]
    genes: np.ndarray
    data: Data
    split: Split | None = None

    @classmethod
    def grown(cls, saved: dict, query: ad.AnnData, kind: str, freeze_dropout: bool) -> Model:
        """The model of a file, with the shapes of one grown by `query`; of its values those of the file are not there yet.

        Parameters
        ----------
        saved
            What :func:`refmap.families.scvi.loading.read_saved` gave.
        query
            Cells x the model's genes in its order, obs columns under the model's keys.
        kind
            ``SCVI`` or ``SCANVI``.
        freeze_dropout
            Whether dropout is off during surgery.

        Raises
        ------
        Unserved
            If the model is not known to be what the engine takes it for.
        """
        held, genes = saved["attr_dict"], np.asarray(query.var_names).astype(str)
        if not np.array_equal(np.asarray(saved["var_names"]).astype(str), genes):
            raise Unserved("other genes than the query's")
        registry, data = grown_registry(held["registry_"], query, kind)
        given = _constructor(held.get("init_params_"), kind)
        settings = given["non_kwargs"] | given["kwargs"][NAMED[kind][1]]
        settings.pop("datamodule", None)
        if reason := beyond(kind, settings, data.is_labelled.any()):
            raise Unserved(reason)
        with torch.random.fork_rng(devices=[]):
            reference = _module(held["registry_"], query.n_vars, kind, settings)
        found = {name: values.shape for name, values in saved["model_state_dict"].items() if hasattr(values, "shape")}
        if found != {name: values.shape for name, values in reference.state_dict().items()}:
            raise Unserved("weights other than its settings tell")
        module = _module(registry | {"scvi_version": held["registry_"]["scvi_version"]}, query.n_vars, kind, settings).eval()
        if not module.use_observed_lib_size:
            module.library_log_means[0], module.library_log_vars[0] = _sizes_of_batches(data, module.library_log_means.shape[1])
        for part in module.modules():
            if isinstance(part, torch.nn.Dropout) and freeze_dropout:
                part.p = 0.0
        if kind == "SCANVI" and not module.classifier.logits:  # so that the next to load it makes the same of it
            registry["scvi_version"] = held["registry_"]["scvi_version"]
        return cls(kind, module, registry, _attributes(held, kind, query, registry) | {"init_params_": given}, genes, data)

    def save(self, folder: Path) -> None:
        """Write the file that scvi-tools would write of it."""
        folder.mkdir(parents=True, exist_ok=True)
        state = self.module.state_dict()
        state["pyro_param_store"] = {"params": {}, "constraints": {}}
        attributes = self.attributes | {"registry_": self.registry}
        if self.split is not None:
            attributes |= {f"{name}_indices_": places.astype(np.int64) for name, places in vars(self.split).items()}
        saved = {
            "model_state_dict": state,
            "var_names": self.genes.astype(object),
            "attr_dict": {name: attributes[name] for name in sorted(attributes)},
        }
        torch.save(saved, folder / "model.pt")


def _constructor(given: dict | None, kind: str) -> dict:
    """What a model was made with, as scvi-tools keeps it today."""
    if given is None:
        raise Unserved("a file without the settings of its model")
    if "non_kwargs" in given:
        held, nested = dict(given["non_kwargs"]), given["kwargs"]
    else:  # as of before 0.8
        nested = {name: value for name, value in given.items() if isinstance(value, dict)}
        held = {name: value for name, value in given.items() if name not in nested}
    held |= {name: value for keywords in nested.values() for name, value in keywords.items()}
    for name in GONE:
        held.pop(name, None)
    defaults, others = NAMED[kind]
    if unknown := sorted(held.keys() - SETTINGS - defaults.keys()):
        raise Unserved(f"a model made with {', '.join(unknown)}")
    non_kwargs = {name: held.pop(name, default) for name, default in defaults.items()}
    return {"kwargs": {others: held}, "non_kwargs": non_kwargs}


def _module(registry: dict, n_genes: int, kind: str, settings: dict) -> Module:
    """The module that scvi-tools makes for data of a registry."""
    fields, setup = registry["field_registries"], registry["setup_args"]
    states = {name: field["state_registry"] for name, field in fields.items()}
    n_labels = len(np.unique(states["labels"]["categorical_mapping"]))
    return Module(
        n_genes,
        n_batch=len(np.unique(states["batch"]["categorical_mapping"])),
        n_labels=n_labels - (kind == "SCANVI"),
        n_continuous=len(setup.get("continuous_covariate_keys") or ()),
        covariates=list(states.get("extra_categorical_covs", {}).get("n_cats_per_key", ())),
        is_sized=setup.get("size_factor_key") is not None,
        is_scanvi=kind == "SCANVI",
        logits=_version(registry) >= LOGITS_SINCE,
        **settings,
    )


def _version(registry: dict) -> tuple[int, int]:
    major, minor = str(registry["scvi_version"]).split(".")[:2]
    return int(major), int(minor)


def _sizes_of_batches(data: Data, n_batches: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of the logarithm of the sizes of each batch's cells; 0 and 1 of a batch without cells."""
    means, variances = torch.zeros(n_batches), torch.ones(n_batches)
    sums = np.asarray(data.counts.sum(axis=1), dtype=np.float32).ravel()
    logs = np.log(sums, out=np.zeros_like(sums), where=sums > 0)
    for batch in np.unique(data.batches):
        of = logs[data.batches == batch]
        means[batch], variances[batch] = float(of.mean()), float(of.var())
    return means, variances


def _attributes(held: dict, kind: str, query: ad.AnnData, registry: dict) -> dict[str, Any]:
    """What else scvi-tools keeps of a model: what it begins with, unless the reference had it, which tells it of its own cells."""
    own = {
        "get_normalized_function_name_": "get_normalized_expression",
        "history_": None,
        "run_id_": "",
        "run_name_": f"run_{time.strftime('%Y-%m-%d_%H-%M-%S')}",
        **dict.fromkeys(("train_indices_", "validation_indices_", "test_indices_")),
    }
    if kind == "SCANVI":
        setup = registry["setup_args"]
        own |= {
            "unlabeled_category_": setup["unlabeled_category"],
            **dict.fromkeys(("semisupervised_history_", "unsupervised_history_")),
        }
        labels = query.obs.get(setup["labels_key"])
        own["labels_"] = np.full(query.n_obs, setup["unlabeled_category"], object) if labels is None else np.asarray(labels)
    left = {name: value for name, value in held.items() if name.endswith("_") and name not in ("registry_", "init_params_")}
    return own | left | {"is_trained_": False}
