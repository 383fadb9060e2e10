"""What a query's data are to a saved SCVI or SCANVI: its registry, grown by the query as scvi-tools' `load_query_data` grows it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING
from uuid import uuid4

import numpy as np
import pandas as pd
from scipy import sparse

from ....common.stored_rows import StoredRows

if TYPE_CHECKING:
    import anndata as ad

# The arguments of `setup_anndata` with their defaults, in its order.
_SHARED = dict.fromkeys(("size_factor_key", "categorical_covariate_keys", "continuous_covariate_keys"))
SETUP = {
    "SCVI": dict.fromkeys(("layer", "batch_key", "labels_key")) | _SHARED,
    "SCANVI": dict.fromkeys(("labels_key", "unlabeled_category", "layer", "batch_key")) | _SHARED | {"use_minified": True},
}


class Unserved(Exception):
    """What of a surgery the engine does not do, in a few words: scvi-tools does it then."""


@dataclass
class Data:
    """The query's cells by the codes of a model's registry.

    Attributes
    ----------
    counts
        Cells x genes.
    batches, labels
        The code of each cell: integers no wider than their number asks for.
    covariates
        Those of categorical covariates, likewise, cells x covariates.
    continuous
        Continuous covariates, cells x covariates.
    sizes
        Size factors, None for a model without.
    is_labelled
        Bool, a cell: whether it is one of a SCANVI that has a label.
    """

    counts: sparse.csr_matrix | StoredRows
    batches: np.ndarray
    labels: np.ndarray
    covariates: np.ndarray
    continuous: np.ndarray
    sizes: np.ndarray | None
    is_labelled: np.ndarray

    def __len__(self) -> int:
        return self.counts.shape[0]


def category_mapping(registry: dict, field: str) -> np.ndarray:
    """The categories of a registry's batches or labels, in the order of their codes."""
    return registry["field_registries"][field]["state_registry"]["categorical_mapping"]


def grown_registry(registry: dict, query: ad.AnnData, kind: str) -> tuple[dict, Data]:
    """Register a query by the registry of its reference, extended by batches and categories that are new.

    Parameters
    ----------
    registry
        Of the saved model; left as it is.
    query
        Cells x the model's genes in its order, obs columns under the model's keys.
    kind
        ``SCVI`` or ``SCANVI``.

    Raises
    ------
    Unserved
        If the data are anything but what is known here.
    """
    if unknown := sorted(registry["setup_args"].keys() - SETUP[kind].keys()):
        raise Unserved(f"data set up with {', '.join(unknown)}")
    setup = SETUP[kind] | registry["setup_args"]
    growing = _Growing(registry, query)
    labels = growing.labels(setup["labels_key"], setup["unlabeled_category"]) if kind == "SCANVI" else None
    fields = defaultdict(dict)
    fields["X"] = growing.counts(setup["layer"])
    batches, fields["batch"] = growing.categories("batch", setup["batch_key"])
    labels, fields["labels"] = labels or growing.categories("labels", setup["labels_key"])
    sizes, fields["size_factor"] = growing.sizes(setup["size_factor_key"])
    covariates, fields["extra_categorical_covs"] = growing.covariates(setup["categorical_covariate_keys"] or [])
    continuous, fields["extra_continuous_covs"] = growing.continuous(setup["continuous_covariate_keys"] or [])
    is_labelled = labels != len(category_mapping({"field_registries": fields}, "labels")) - 1
    if kind == "SCVI":
        is_labelled[:] = False
    counts = query.X if isinstance(query.X, StoredRows) else sparse.csr_matrix(query.X)
    grown = {
        "scvi_version": version("scvi-tools"),
        "model_name": kind,
        "setup_args": setup,
        "field_registries": fields,
        "setup_method_name": "setup_anndata",
        "_scvi_uuid": str(uuid4()),
    }
    return grown, Data(counts, batches, labels, covariates, continuous, sizes, is_labelled)


def _field(state: dict, summary: dict, **place: str | None) -> dict:
    return {"data_registry": place, "state_registry": state, "summary_stats": summary}


class _Growing:
    """The fields of a query's registry, one by one."""

    def __init__(self, registry: dict, query: ad.AnnData):
        self.registry, self.query = registry, query

    def _state(self, field: str) -> dict:
        return self.registry["field_registries"].get(field, {}).get("state_registry") or {}

    def _column(self, key: str) -> pd.Series:
        if key not in self.query.obs:
            raise Unserved(f"a query without '{key}'")
        return self.query.obs[key]

    def _all_of(self, category: object) -> pd.Series:
        return pd.Series(pd.Categorical.from_codes(np.zeros(self.query.n_obs, dtype=np.int8), [category]))

    def counts(self, layer: str | None) -> dict:
        query, known = self.query, self._state("X").get("n_vars")
        if known != query.n_vars:
            raise Unserved(f"a registry of {known} genes")
        names = np.asarray(query.var_names)
        return _field(
            {"n_obs": query.n_obs, "n_vars": query.n_vars, "column_names": names},
            {"n_vars": query.n_vars, "n_cells": query.n_obs},
            attr_name="layers" if layer else "X",
            attr_key=layer,
        )

    def categories(self, field: str, key: str | None) -> tuple[np.ndarray, dict]:
        """Codes of the cells, and the field; where the model has no column all are of its one category."""
        if "categorical_mapping" not in self._state(field):
            raise Unserved(f"a registry without '{field}'")
        values = self._all_of(0) if key is None else self._column(key)
        known = self._state(field)["categorical_mapping"]
        new = pd.Index(np.asarray(values.unique())).dropna().difference(pd.Index(known)).to_numpy()
        codes, mapping = _coded(values, np.concatenate([known, new]), key)
        state = {"categorical_mapping": mapping, "original_key": key or f"_scvi_{field}"}
        summary = {f"n_{field}": len(np.unique(mapping))}
        return codes, _field(state, summary, attr_name="obs", attr_key=f"_scvi_{field}")

    def labels(self, key: str, unlabeled: str) -> tuple[np.ndarray, dict]:
        """Those of a SCANVI, whose last category is that of cells without a label; none is added."""
        known = self._state("labels").get("categorical_mapping", ())
        if len(known) < 2 or known[-1] != unlabeled:
            raise Unserved("labels without a last category that stands for none")
        values = self.query.obs.get(key)
        if values is None:
            values = self._all_of(unlabeled)
        codes, mapping = _coded(values, known, key)
        state = {"categorical_mapping": mapping, "original_key": key, "unlabeled_category": unlabeled}
        return codes, _field(state, {"n_labels": len(np.unique(mapping))}, attr_name="obs", attr_key="_scvi_labels")

    def sizes(self, key: str | None) -> tuple[np.ndarray | None, dict]:
        if key is None:
            return None, _field({}, {})
        return self._column(key).to_numpy(dtype=np.float32), _field({}, {}, attr_name="obs", attr_key=key)

    def covariates(self, keys: list[str]) -> tuple[np.ndarray, dict]:
        name, n_cells = "extra_categorical_covs", self.query.n_obs
        summary = {f"n_{name}": len(keys)}
        if not keys:
            return np.zeros((n_cells, 0), dtype=np.int8), _field({}, summary)
        mappings, codes = dict(self._state(name).get("mappings", {})), []
        if list(mappings) != list(keys):
            raise Unserved("other covariates than the data were set up with")
        for key in keys:
            values = self._column(key)
            for value in np.unique(np.asarray(values.unique())):
                if value not in mappings[key]:
                    mappings[key] = np.concatenate([mappings[key], [value]])
            codes.append(_coded(values, mappings[key], key)[0])
        state = {"mappings": mappings, "field_keys": keys, "n_cats_per_key": [len(mappings[key]) for key in keys]}
        return np.stack(codes, axis=1), _field(state, summary, attr_name="obsm", attr_key=f"_scvi_{name}")

    def continuous(self, keys: list[str]) -> tuple[np.ndarray, dict]:
        name = "extra_continuous_covs"
        summary = {f"n_{name}": len(keys)}
        if not keys:
            return np.zeros((self.query.n_obs, 0), dtype=np.float32), _field({}, summary)
        values = np.stack([self._column(key).to_numpy(dtype=np.float32) for key in keys], axis=1)
        return values, _field({"columns": np.array(keys, dtype=object)}, summary, attr_name="obsm", attr_key=f"_scvi_{name}")


def _coded(values: pd.Series, categories: np.ndarray, key: str | None) -> tuple[np.ndarray, np.ndarray]:
    """The code of each cell, and the categories as pandas holds them."""
    coded = values.astype(pd.CategoricalDtype(categories=categories, ordered=True)).cat
    codes = coded.codes.to_numpy(copy=True)
    if (codes < 0).any():
        raise Unserved(f"values of '{key}' that it does not know")
    return codes, coded.categories.to_numpy(copy=True)
