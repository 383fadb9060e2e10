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
from .labels import Given
from .levels import Annotation, find_levels
from .neighbors import HELD, Index, Neighbors
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
    latent, placed = shared_latent(embedding, scale)
    latent = latent if placed.all() else latent[placed]
    own = {key: cells.obs[key] for key in scale["keys"]}
    levels = find_levels(own)
    around = _Around(Index(cells.obsm["X_emb"]), Annotation(own, levels), cells.obsm["X_umap"], scale["neighbors"], probabilities)
    for start in range(0, len(latent), HELD):
        around.look(latent[start : start + HELD])
    given = {key: _whole(found, placed) for key, found in around.given().items()}
    told = write_labels(
        embedding.obs,
        given,
        {key: found.uncertainty <= threshold for key, found in given.items()},
        levels,
    )
    for key, found in given.items():
        embedding.obs[f"{key}_uncertainty"] = found.uncertainty
        embedding.uns[f"{key}_transferred_labels"] = np.array(found.classes, dtype=object)
        if probabilities:
            embedding.obsm[f"{key}_transferred_probabilities"] = _spread(np.concatenate(around.probabilities[key]), placed)
        told["labels"][key]["mean_uncertainty"] = float(found.uncertainty[placed].mean())
        told["labels"][key]["calibrated_on"] = (scale["calibration"][key] or {}).get("calibrated_on")
    distance = np.concatenate(around.distances)
    apart = separation(latent, cells.obsm["X_emb"], record["seed"])
    for name, scores in {
        DISTANCE: distance,
        NOVELTY: p_values(distance, np.array(scale["distances"])),
        SEPARATION: apart,
        APART: p_values(apart, np.array(scale["separations"])),
    }.items():
        embedding.obs[name] = _spread(scores.astype(np.float32), placed)
    embedding.obsm[PLACE] = _spread(np.concatenate(around.positions), placed)
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
    shutil.copytree(mapped.folder, out.folder, ignore=lambda folder, names: [mapped.embedding.name, mapped.record.name])
    write_zarr(embedding, out.embedding)
    write_json(out.record, record)
    np.save(out.labels, np.array([found.places for found in given.values()], dtype=np.int32))


class _Around:
    """What the reference cells around some cells after the others say: of each cell a few numbers, and not its neighbours."""

    def __init__(self, index: Index, annotation: Annotation, positions: np.ndarray, k: int, keep: bool):
        self._index, self._annotation, self._umap, self._k, self._keep = index, annotation, positions, k, keep
        self._given: dict[str, list[Given]] = {}
        self.probabilities: dict[str, list[np.ndarray]] = {}
        self.distances, self.positions = [], []

    def look(self, latent: np.ndarray) -> None:
        near = self._index.search(latent, self._k)
        for key, found in self._annotation.transfer(near).items():
            self._given.setdefault(key, []).append(found.given)
            if self._keep:
                self.probabilities.setdefault(key, []).append(found.probabilities)
        self.distances.append(distance_scores(near))
        self.positions.append(place(near, self._umap))

    def given(self) -> dict[str, Given]:
        """The labels of all cells that were looked at, by column."""
        return {
            key: Given(
                parts[0].classes, *(np.concatenate([getattr(part, name) for part in parts]) for name in ("places", "uncertainty"))
            )
            for key, parts in self._given.items()
        }


def read_labels(mapped: MappedFolder, embedding: ad.AnnData, keys: list[str]) -> dict[str, Given]:
    """Read the labels that :func:`transfer` gave the cells of an embedding, whatever their certainty, by column.

    `keys` are the reference's columns, in their order.
    """
    return {
        key: Given(
            [str(name) for name in embedding.uns[f"{key}_transferred_labels"]],
            places,
            embedding.obs[f"{key}_uncertainty"].to_numpy(),
        )
        for key, places in zip(keys, np.load(mapped.labels), strict=True)
    }


def _whole(given: Given, placed: np.ndarray) -> Given:
    return Given(given.classes, _spread(given.places, placed, -1), _spread(given.uncertainty, placed))


def _spread(values: np.ndarray, placed: np.ndarray, missing: object = np.nan) -> np.ndarray:
    """What is known of the cells that are `placed` as values of all cells."""
    result = np.full((len(placed), *values.shape[1:]), missing, dtype=values.dtype)
    result[placed] = values
    return result


def shared_latent(embedding: ad.AnnData, scale: dict) -> tuple[np.ndarray, np.ndarray]:
    """A query's embedding (float32, cells x dimensions) in its reference's dimensions, and which of its cells have one (bool).

    Raises RefmapError as :func:`shared_dimensions` does.
    """
    latent, dimensions = np.asarray(embedding.obsm["X_emb"], dtype=np.float32), shared_dimensions(embedding, scale)
    # Of millions of cells not twice
    latent = latent if np.array_equal(dimensions, np.arange(latent.shape[1])) else latent[:, dimensions]
    return latent, np.isfinite(latent).all(axis=1)


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
