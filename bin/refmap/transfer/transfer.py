"""What the reference's cells around those of a mapped query say of them."""

from __future__ import annotations

import shutil

import anndata as ad
import numpy as np

from ..common.cli import read_json, write_json
from ..common.errors import RefmapError
from ..common.folders import MappedFolder, ReferenceFolder
from ..common.layout import N_NEIGHBORS
from ..common.storage import read_zarr, write_zarr
from .columns import write_labels
from .labels import UNKNOWN
from .levels import find_levels, transfer_columns
from .neighbors import Index, Neighbors
from .novelty import distance_scores, p_values
from .separation import separation

DISTANCE, NOVELTY = "reference_distance", "novelty_pvalue"
SEPARATION, APART = "reference_separation", "separation_pvalue"
PLACE = "X_umap_reference"


def transfer(mapped: MappedFolder, reference: ReferenceFolder, threshold: float, probabilities: bool, out: MappedFolder) -> None:
    """Write what a mapping gave with labels from the reference's cells, and how far the query's lie from these.

    Adds to obs of the embedding, for each label column of the reference, ``<key>_transferred`` (categorical, `Unknown` above the
    threshold), ``<key>_ontology_term_id`` (categorical: see :mod:`refmap.transfer.ontology`) and ``<key>_uncertainty`` (float32, from
    0), for columns that are levels of one annotation ``<annotation>_best`` and ``<annotation>_best_level`` (categorical: see
    :mod:`refmap.transfer.levels`), ``reference_distance`` and ``novelty_pvalue`` (float32: see :mod:`refmap.transfer.novelty`),
    ``reference_separation`` and ``separation_pvalue`` (float32: see :mod:`refmap.transfer.separation`); to obsm ``X_umap_reference``
    (cells x 2: places in the reference's UMAP) and, on request, ``<key>_transferred_probabilities``; to the record ``transfer``.

    Parameters
    ----------
    threshold
        The uncertainty above which a label is `Unknown`.
    probabilities
        Whether those of all labels are kept.

    A cell that the model has no embedding of is `Unknown`, and has no numbers.

    Raises
    ------
    RefmapError
        If the query's embedding is not in the reference's latent space.
    """
    scale, cells = read_json(reference.record), read_zarr(reference.cells)
    embedding, record = read_zarr(mapped.embedding), read_json(mapped.record)
    latent = embedding.obsm["X_emb"][:, shared_dimensions(embedding, scale)]
    placed = np.isfinite(latent).all(axis=1)
    latent = latent[placed]
    neighbors = Index(cells.obsm["X_emb"]).search(latent, scale["neighbors"])

    own = {key: cells.obs[key] for key in scale["keys"]}
    levels = find_levels(own)
    transferred = transfer_columns(own, neighbors, levels)
    told = write_labels(
        embedding.obs,
        {key: given.classes for key, given in transferred.items()},
        {key: _spread(given.best, placed, UNKNOWN) for key, given in transferred.items()},
        {key: _spread(given.uncertainty <= threshold, placed, False) for key, given in transferred.items()},
        levels,
    )
    for key, given in transferred.items():
        embedding.obs[f"{key}_uncertainty"] = _spread(given.uncertainty, placed)
        embedding.uns[f"{key}_transferred_labels"] = np.array(given.classes, dtype=object)
        if probabilities:
            embedding.obsm[f"{key}_transferred_probabilities"] = _spread(given.probabilities, placed)
        told["labels"][key]["mean_uncertainty"] = float(given.uncertainty.mean())
        told["labels"][key]["calibrated_on"] = (scale["calibration"][key] or {}).get("calibrated_on")
    distance = distance_scores(neighbors)
    apart = separation(latent, cells.obsm["X_emb"], record["seed"])
    for name, scores in {
        DISTANCE: distance,
        NOVELTY: p_values(distance, np.array(scale["distances"])),
        SEPARATION: apart,
        APART: p_values(apart, np.array(scale["separations"])),
    }.items():
        embedding.obs[name] = _spread(scores.astype(np.float32), placed)
    embedding.obsm[PLACE] = _spread(place(neighbors, cells.obsm["X_umap"]), placed)
    record["transfer"] = {
        "reference": scale["reference"],
        "origin": scale["origin"],
        "source": scale["source"],
        "n_cells": cells.n_obs,
        "map": scale["map"],
        "neighbors": scale["neighbors"],
        "threshold": threshold,
        **told,
    }
    near = Neighbors(_spread(neighbors.indices, placed, 0), _spread(neighbors.distances, placed))
    _write(embedding, near, record, mapped, out)


def _spread(values: np.ndarray, placed: np.ndarray, missing: object = np.nan) -> np.ndarray:
    """What is known of the cells that are `placed` as values of all cells."""
    result = np.full((len(placed), *values.shape[1:]), missing, dtype=values.dtype)
    result[placed] = values
    return result


def shared_dimensions(embedding: ad.AnnData, scale: dict) -> np.ndarray:
    """Which dimensions of a query's embedding are those of its reference's, in their order: int.

    Surgery may add others: behind them, or where they have names, as gene programmes do, among them.

    Raises RefmapError if the embedding lacks some, as an embedding by another model does.
    """
    names, n_latent = list(embedding.uns.get("refmap", {}).get("latent_names", [])), scale["n_latent"]
    if names and set(scale["latent_names"]) <= set(names):
        return np.array([names.index(name) for name in scale["latent_names"]])
    if embedding.obsm["X_emb"].shape[1] < n_latent:
        raise RefmapError(
            f"The query's embedding has {embedding.obsm['X_emb'].shape[1]} dimensions and that of its reference cells "
            f"'{scale['reference']}' {n_latent}: name the embedding of these that the model gave, or none, and their counts are embedded."
        )
    return np.arange(n_latent)


def place(neighbors: Neighbors, positions: np.ndarray) -> np.ndarray:
    """Place cells in the reference's UMAP, where the nearest of its cells are: their weighted mean, float32 cells x 2.

    This is where UMAP's own transform starts from. It does not go on from there, so that the same cell has the same place in
    every run and beside whatever other cells. `positions` has no numbers for reference cells that were not placed.
    """
    near = Neighbors(neighbors.indices[:, :N_NEIGHBORS], neighbors.distances[:, :N_NEIGHBORS])
    at = positions[near.indices].astype(np.float64)
    placed = np.isfinite(at).all(axis=2)
    weights = np.where(placed, near.weights, 0)
    total = weights.sum(axis=1, keepdims=True)
    result = np.divide(
        (np.nan_to_num(at) * weights[..., None]).sum(axis=1), total, out=np.full((len(at), 2), np.nan), where=total > 0
    )
    return result.astype(np.float32)


def _write(embedding: ad.AnnData, neighbors: Neighbors, record: dict, mapped: MappedFolder, out: MappedFolder) -> None:
    shutil.copytree(mapped.folder, out.folder, ignore=lambda folder, names: [mapped.embedding.name, mapped.record.name])
    write_zarr(embedding, out.embedding)
    write_json(out.record, record)
    np.savez(out.neighbors, indices=neighbors.indices.astype(np.int32), distances=neighbors.distances.astype(np.float32))
