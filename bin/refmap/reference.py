"""Bring an atlas into the form that a reference is trained on: as if it were mapped onto itself."""

from __future__ import annotations

from pathlib import Path

from .align import align
from .checks import check
from .errors import RefmapError
from .query import Query, as_text


def align_reference(atlas: Path, settings: dict, out: Path) -> dict:
    """Check an atlas as a query is checked, and write its counts as an AnnData zarr.

    Parameters
    ----------
    atlas
        .h5ad, .zarr or .h5mu with counts, cells x genes.
    settings
        The pipeline's parameters ``reference``, ``reference_*``, ``family`` and ``seed``.
    out
        Path of the AnnData zarr: X counts (cells x distinct gene ids), obs and obsm under the atlas's own keys.

    Returns
    -------
    The settings under the names that a family's training takes.

    Raises
    ------
    RefmapError
        With all that is wrong with the atlas, a line each.
    """
    trained = {
        "family": settings["family"],
        "seed": settings["seed"],
        "batch_key": settings["reference_batch_key"],
        "labels_key": settings["reference_labels_key"],
        "unlabeled_category": settings["reference_unlabeled_category"],
        "categorical_covariate_keys": _several(settings["reference_categorical_covariate_keys"]),
        "continuous_covariate_keys": _several(settings["reference_continuous_covariate_keys"]),
        "protein_key": settings["reference_protein_key"],
        "n_latent": settings["reference_n_latent"],
        "n_layers": settings["reference_n_layers"],
        "max_epochs": settings["reference_max_epochs"],
    }
    shown_as = settings["reference"] or "the demo's atlas"
    row = _row(settings, trained, shown_as)
    with Query(atlas, shown_as) as query:
        card = _card(query, row, trained["unlabeled_category"])
        plan = check(atlas, row, card)
        if plan["faults"]:
            raise RefmapError("\n".join(plan["faults"]))
        align(query, row, card, plan, out)
    return trained


def _several(value: str | None) -> list[str]:
    return [part.strip() for part in (value or "").split(";") if part.strip()]


def _row(settings: dict, trained: dict, shown_as: str) -> dict:
    """The atlas as a row of a sheet."""
    return {
        "dataset": "reference",
        "file_id": "reference",
        "query": shown_as,
        "layer": settings["reference_layer"],
        "var_key": settings["reference_var_key"],
        "id_table": None,
        "modality": None,
        "truth_key": None,
        "size_factor_key": None,
        "one_batch": False,
        "umap_colors": [],
        "min_gene_overlap": 0.0,
        "warn_gene_overlap": 0.0,
        **{key: trained[key] for key in ("batch_key", "labels_key", "protein_key")},
        **{key: trained[key] for key in ("categorical_covariate_keys", "continuous_covariate_keys")},
    }


def _card(query: Query, row: dict, unlabeled_category: str) -> dict:
    """The card of a model that wants just what the atlas has."""
    labels = []
    if row["labels_key"] in query.obs_columns:
        labels = sorted(set(as_text(query.obs_column(row["labels_key"]))) - {""})
    return {
        "fault": None,
        "warnings": [],
        "input": "counts",
        "genes": list(dict.fromkeys(query.gene_ids(row["layer"], row["var_key"]))),
        "batch_key": row["batch_key"],
        "batches": [],
        "fixed_batches": False,
        "labels_key": row["labels_key"],
        "labels": labels,
        "unlabeled_category": unlabeled_category,
        "categorical_covariates": {key: [] for key in row["categorical_covariate_keys"]},
        "continuous_covariates": row["continuous_covariate_keys"],
        "size_factor_key": None,
        "protein_key": row["protein_key"],
        "proteins": list(query.proteins(row["protein_key"]).names) if row["protein_key"] else [],
    }
