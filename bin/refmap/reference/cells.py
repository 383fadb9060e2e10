"""The cells of a reference: where they are to be had, which of their labels are wanted, and what their embedding takes."""

from __future__ import annotations

import re
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from anndata.io import read_elem

from ..common.cli import write_json
from ..common.errors import RefmapError, listed, nearest
from ..common.folders import ReferenceFolder
from ..common.storage import write_zarr
from ..models.folder import DATA
from ..query.align import align
from ..query.categories import categories
from ..query.checks import Check
from ..query.elements import encoding
from ..query.query import Query

# What scvi-tools calls the latent of a model's own cells once their counts are dropped (a minified model), behind the name of
# its class; `X_latent_qzm` is what users call it before.
MINIFIED = re.compile(r"(?!X_)\w+_latent_qzm")
# Reference cells that lack more of the model's genes than this are those of another reference.
FEWEST_GENES = 0.9


def prepare_reference(request: dict, source: Path | None, model: Path | None, card: dict, folder: ReferenceFolder) -> None:
    """Find the cells of a reference and write what their embedding takes, or their embedding where it is to be had.

    Parameters
    ----------
    request
        What a row of the sheet says of them: ``reference`` (path as the user wrote it, or None), ``layer``, ``var_key``,
        ``embedding`` (a key of obsm, or None: counts are embedded by the model) and ``transfer_keys``.
    source
        Where `request['reference']` lies; None if it does not exist.
    model
        The model's folder, in which scvi-tools saves its cells if it is told to.
    card
        The model's card.
    folder
        The folder to make: its record says under ``source`` where the cells come from, ``fault`` what is wrong with them; one of
        the two is None, or both where there are no cells.
    """
    folder.folder.mkdir()
    record = {"reference": request["reference"], "source": None, "fault": None, "warnings": [], "keys": []}
    saved = _saved_cells(model)
    try:
        if card["fault"]:
            pass  # which all of its mappings stop at
        elif request["reference"]:
            with Query(source or Path("does not exist"), request["reference"], called="reference") as cells:
                record |= _prepare(cells, request, card, folder)
        elif saved:
            with Query(saved, f"{card['model']}/{saved.name}", called="reference") as cells:
                record |= _prepare(cells, request, card, folder)
    except RefmapError as error:
        record["fault"] = str(error)
    write_json(folder.record, record)


def _saved_cells(model: Path | None) -> Path | None:
    """The cells that scvi-tools saved beside a model."""
    files = sorted(model.iterdir()) if model and model.is_dir() else []
    return next((path for path in files if path.name.endswith(DATA)), None)


def _prepare(cells: Query, request: dict, card: dict, folder: ReferenceFolder) -> dict:
    """Write the cells; return what to record of them."""
    if not cells.n_obs:
        raise cells.fault("has no cells: give the cells of the reference.")
    keys, warnings = _label_keys(cells, request["transfer_keys"], card)
    obs = pd.DataFrame(index=pd.Index(cells.obs_names, dtype=object))
    for key in keys:
        obs[key], spelt = _labels(cells, key, card)
        warnings += spelt
    batch_key = card["batch_key"] if card["batch_key"] in cells.obs_columns else None
    if batch_key and batch_key not in keys:
        obs[batch_key] = pd.Categorical(categories(cells.obs_column(batch_key), card["batches"]).values)
    latent, source = _embedding(cells, request["embedding"], card)
    if latent is None:
        warnings += _align(cells, request, card, folder)
        source = "counts"
    write_zarr(ad.AnnData(obs=obs, obsm={} if latent is None else {"X_emb": latent}), folder.cells)
    return {
        "reference": cells.shown_as,
        "source": source,
        "n_cells": cells.n_obs,
        "batch_key": batch_key,
        "keys": keys,
        "warnings": warnings,
    }


def _label_keys(cells: Query, wanted: list[str], card: dict) -> tuple[list[str], list[str]]:
    """The columns whose labels are transferred: those asked for, else those of the model's own labels that are there."""
    for key in wanted:
        if key not in cells.obs_columns:
            raise RefmapError(
                f"reference '{cells.shown_as}' has no obs column '{key}', which transfer_keys names: its columns are "
                f"{listed(cells.obs_columns)}.{nearest(key, cells.obs_columns)}"
            )
    keys = list(dict.fromkeys(wanted)) or [key for key in card["labels"] if key in cells.obs_columns]
    if keys:
        return keys, []
    return [], [
        f"No labels are transferred from reference '{cells.shown_as}': name the columns of its obs with transfer_keys, out of "
        f"{listed(cells.obs_columns)}."
    ]


def _labels(cells: Query, key: str, card: dict) -> tuple[pd.Categorical, list[str]]:
    """The labels of a column, sorted categories, and warnings; missing where empty or called as the model calls cells without one."""
    found = categories(cells.obs_column(key), card["labels"].get(key, ()))
    without = (found.values == "") | (found.values == card["unlabeled_category"])
    return pd.Categorical(np.where(without, None, found.values)), found.warnings(f"reference '{cells.shown_as}', column '{key}'")


def _embedding(cells: Query, wanted: str | None, card: dict) -> tuple[np.ndarray | None, str]:
    """The latent that the file itself holds, float32, cells x dimensions, and where; None where counts are to be embedded.

    One that nobody named is taken only if it is known to be this model's.
    """
    obsm = cells.root["obsm"] if "obsm" in cells.root else {}
    key, source = wanted, f"obsm['{wanted}']"
    if key and key not in obsm:
        raise cells.fault(
            f"has no obsm '{key}', which reference_embedding names: it has {listed(obsm)}.{nearest(key, list(obsm))}"
        )
    if not key:
        if key := next(filter(MINIFIED.fullmatch, obsm), None):
            source = "the latent of a minified model"
        elif "X_emb" in obsm and _own(cells, card):
            key, source = "X_emb", "obsm['X_emb'], embedded by this model"
    if not key:
        return None, ""
    with cells.reading(f"obsm '{key}'"):
        latent = np.asarray(read_elem(obsm[key]), dtype=np.float32)
    if latent.ndim != 2 or (card["n_latent"] and latent.shape[1] != card["n_latent"]):
        raise cells.fault(
            f"has {' x '.join(map(str, latent.shape))} values in obsm '{key}', but the model's latent has {card['n_latent']} "
            "dimensions: name the embedding that this model gave, or none, and the counts are embedded."
        )
    if not np.isfinite(latent).all():
        raise cells.fault(f"has values in obsm '{key}' that are no numbers: mend it, or name none, and the counts are embedded.")
    return latent, source


def _own(cells: Query, card: dict) -> bool:
    """Whether refmap wrote the embedding of these cells, by this very model."""
    try:
        return encoding(cells.root["uns/refmap"]) == "dict" and read_elem(cells.root["uns/refmap/model_sha256"]) == card["sha256"]
    except KeyError:
        return False


def _align(cells: Query, request: dict, card: dict, folder: ReferenceFolder) -> list[str]:
    """Write the counts under the model's genes and columns, as a query's are; return what is to be said of it."""
    row = {
        "dataset": "reference",
        "file_id": "reference",
        "query": cells.shown_as,
        "layer": request["layer"],
        "var_key": request["var_key"],
        "id_table": None,
        "modality": None,
        "batch_key": card["batch_key"],
        "labels_keys": [],
        "truth_key": None,
        "one_batch": False,
        "round_counts": False,
        "gene_prefix": None,
        "categorical_covariate_keys": list(card["categorical_covariates"]),
        "continuous_covariate_keys": card["continuous_covariates"],
        "size_factor_key": card["size_factor_key"],
        "protein_key": card["protein_key"] if card["proteins"] else None,
        "umap_colors": [],
        "gmt": None,
        "options": {},
        "min_gene_overlap": FEWEST_GENES,
        "warn_gene_overlap": 1.0,
    }
    if card["batch_key"]:
        names = categories(cells.obs_column(card["batch_key"]), card["batches"]).values
        if foreign := sorted(set(names) - set(card["batches"])):
            raise cells.fault(
                f"has {listed(foreign, 3)} in batch column '{card['batch_key']}', which the model does not know: give the cells "
                "that it was trained on, or name their embedding with reference_embedding."
            )
    # Its batches are the model's own, and keep their names.
    own = card | {"fixed_batches": True, "warnings": []}
    plan = Check(cells, row, own, None, None).plan()
    if plan["faults"]:
        raise RefmapError(" ".join(plan["faults"]))
    return align(cells, row, own, plan, folder.aligned)["warnings"]
