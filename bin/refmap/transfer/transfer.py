"""What the reference's cells around those of a mapped query say of them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping

import numpy as np

from ..common.cli import read_json, write_json
from ..common.errors import RefmapError
from ..common.folders import MappedFolder, ReferenceFolder
from ..common.layout import N_NEIGHBORS
from ..common.storage import StoredCells, add_to_zarr, read_zarr
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
    embedding, record = StoredCells(mapped.embedding), read_json(mapped.record)
    latent, placed = shared_latent(embedding, scale)
    own = {key: cells.obs[key] for key in scale["keys"]}
    levels = find_levels(own)
    index = Index(cells.obsm["X_emb"])
    around = _Around(len(latent), index, Annotation(own, levels), cells.obsm["X_umap"], scale["neighbors"], probabilities)
    rows = np.flatnonzero(placed)
    for start in range(0, len(rows), HELD):
        around.look(rows[start : start + HELD], latent[rows[start : start + HELD]])
    given, obs, obsm, uns = around.given, {}, {}, {}
    told = write_labels(
        obs,
        given,
        {key: found.uncertainty <= threshold for key, found in given.items()},
        levels,
    )
    for key, found in given.items():
        obs[f"{key}_uncertainty"] = found.uncertainty
        uns[f"{key}_transferred_labels"] = np.array(found.classes, dtype=object)
        if probabilities:
            obsm[f"{key}_transferred_probabilities"] = around.probabilities[key]
        told["labels"][key]["mean_uncertainty"] = float(found.uncertainty[placed].mean())
        told["labels"][key]["calibrated_on"] = (scale["calibration"][key] or {}).get("calibrated_on")
    apart = np.full(len(latent), np.nan)
    apart[rows] = separation(latent if placed.all() else latent[placed], index.latent, record["seed"])
    for name, held_out, scores, p_value in (
        (DISTANCE, "distances", around.distances, NOVELTY),
        (SEPARATION, "separations", apart, APART),
    ):
        obs[name] = scores.astype(np.float32)
        obs[p_value] = p_values(scores, np.array(scale[held_out])).astype(np.float32)
    obsm[PLACE] = around.positions
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
    shutil.copytree(mapped.folder, out.folder, ignore=lambda folder, names: [mapped.record.name])
    add_to_zarr(out.embedding, obs=obs, obsm=obsm, uns=uns)
    write_json(out.record, record)
    np.save(out.labels, np.array([found.places for found in given.values()], dtype=np.int32))


class _Around:
    """What the reference cells around each of `n` cells say: a few numbers, and not its neighbours; of none before it is looked at.

    given            column -> the label of each cell
    probabilities    column -> what each label weighs: float32, cells x labels; only if they are kept
    distances        float64, cells
    positions        float32, cells x 2: places in the reference's UMAP
    """

    def __init__(self, n: int, index: Index, annotation: Annotation, umap: np.ndarray, k: int, keep: bool):
        self._index, self._annotation, self._umap, self._k, self._keep = index, annotation, umap, k, keep
        self.given: dict[str, Given] = {}
        self.probabilities: dict[str, np.ndarray] = {}
        self.distances, self.positions = np.full(n, np.nan), np.full((n, 2), np.nan, dtype=np.float32)

    def look(self, rows: np.ndarray, latent: np.ndarray) -> None:
        """Look at the cells in some rows, whose places are `latent`."""
        n, near = len(self.distances), self._index.search(latent, self._k)
        for key, found in self._annotation.transfer(near).items():
            if key not in self.given:
                self.given[key] = Given(found.classes, np.full(n, -1, dtype=np.int32), np.full(n, np.nan, dtype=np.float32))
                if self._keep:
                    self.probabilities[key] = np.full((n, len(found.classes)), np.nan, dtype=np.float32)
            self.given[key].places[rows], self.given[key].uncertainty[rows] = found.places, found.uncertainty
            if self._keep:
                self.probabilities[key][rows] = found.probabilities
        self.distances[rows] = distance_scores(near)
        self.positions[rows] = place(near, self._umap)


def read_labels(mapped: MappedFolder, embedding: StoredCells, keys: list[str]) -> dict[str, Given]:
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


def shared_latent(embedding: StoredCells, scale: dict) -> tuple[np.ndarray, np.ndarray]:
    """A query's embedding (float32, cells x dimensions) in its reference's dimensions, and which of its cells have one (bool).

    Raises RefmapError as :func:`shared_dimensions` does.
    """
    latent = np.asarray(embedding.obsm["X_emb"], dtype=np.float32)
    dimensions = shared_dimensions(latent.shape[1], embedding.uns, scale)
    # Of millions of cells not twice
    latent = latent if np.array_equal(dimensions, np.arange(latent.shape[1])) else latent[:, dimensions]
    return latent, np.isfinite(latent).all(axis=1)


def shared_dimensions(n_latent: int, uns: Mapping, scale: dict) -> np.ndarray:
    """Which of the `n_latent` dimensions of a query's embedding are those of its reference's, in their order: int.

    Surgery may add others: behind them, or where they have names, as gene programmes do, among them.

    Raises RefmapError if the embedding lacks some, as an embedding by another model does.
    """
    names, wanted = list(uns.get("refmap", {}).get("latent_names", [])), scale["n_latent"]
    if names and set(scale["latent_names"]) <= set(names):
        return np.array([names.index(name) for name in scale["latent_names"]])
    if n_latent < wanted:
        raise RefmapError(
            f"The query's embedding has {n_latent} dimensions and that of its reference cells "
            f"'{scale['reference']}' {wanted}: name the embedding of these that the model gave, or none, and their counts are embedded."
        )
    return np.arange(wanted)


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
