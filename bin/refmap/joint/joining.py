"""A reference's cells and all queries that were mapped onto it, in one AnnData without expression."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from .. import __version__
from ..common.cli import read_json, write_json
from ..common.errors import RefmapError
from ..common.folders import JointFiles, MappedFolder, ReferenceFolder
from ..common.h5ad import zarr_to_h5ad
from ..common.layout import FEWEST_FOR_UMAP, N_NEIGHBORS, neighbor_weights, umap
from ..common.storage import read_zarr, write_zarr
from ..report.cell_table import CELLS
from ..transfer.maps import draw_map
from ..transfer.neighbors import Neighbors, nearest_among
from ..transfer.transfer import PLACE, shared_dimensions
from .columns import Columns
from .page import write_joint_page

# Where a cell comes from, and what is known of the mapping that brought it.
ORIGIN, DATASET, FILE_ID, BATCH, *LIGHTS = OWN_COLUMNS = (
    "origin",
    "dataset",
    "file_id",
    "batch",
    "labels_light",
    "embedding_light",
)
REFERENCE, QUERY = "reference", "query"


@dataclass(frozen=True)
class MappedQuery:
    """One of the queries: what surgery and label transfer gave for it, and its QC folder."""

    mapped: MappedFolder
    qc: Path


@dataclass(frozen=True)
class Part:
    """Cells of one origin: names, latent (cells x dimensions), places in the map (cells x 2) and the columns that they have.

    Those that the model has no embedding of are not among them: `left_out` is their number.
    """

    names: list[str]
    latent: np.ndarray
    place: np.ndarray
    columns: dict[str, pd.Series]
    left_out: int

    @classmethod
    def of(cls, names: list[str], latent: np.ndarray, place: np.ndarray, columns: dict[str, pd.Series]) -> Part:
        placed = np.isfinite(latent).all(axis=1)
        if not placed.all():
            names, latent, place = list(compress(names, placed)), latent[placed], place[placed]
            columns = {name: values[placed] for name, values in columns.items()}
        return cls(names, latent, place, columns, int((~placed).sum()))


def join(
    name: str, model: str, reference: ReferenceFolder | None, queries: list[MappedQuery], with_umap: bool, seed: int, folder: Path
) -> None:
    """Write the joint atlas of a reference.

    Parameters
    ----------
    name, model
        What its files are called, and the model as the sheet has it.
    reference
        The reference's cells and the scale that they set; None where there are none, and the queries stand alone.
    queries
        One or more, in the order in which they are to stand.
    with_umap
        Whether a UMAP is computed anew of all cells (obsm ``X_umap_joint``).
    folder
        The folder to make. In it ``<name>.zarr`` and ``<name>.h5ad``, ``<name>.html`` (see :mod:`refmap.joint.page`) and
        ``<name>.json``: ``name``, ``model``, ``n_reference_cells``, ``n_query_cells``, ``n_left_out`` and ``mappings``.

    The AnnData has the reference's cells first, then the queries', less those that the model has no embedding of. obs holds
    `origin`, `dataset`, `file_id`, `batch`, `labels_light`, `embedding_light`; the reference's labels under their names; and all that the mappings added to
    obs. obsm holds ``X_emb`` (cells x the reference's latent dimensions) and ``X_umap``: the reference's UMAP with the queries in
    their places, or without reference cells one computed of the queries. obsp holds the ``distances`` and ``connectivities`` of
    the 15 nearest neighbours, as scanpy keeps them, unless there are fewer than 16 cells.

    Raises RefmapError if a query's embedding is not in one space with the others.
    """
    folder.mkdir(parents=True)
    files = JointFiles(folder, name)
    scale = read_json(reference.record) if reference else None
    parts = [_reference_part(read_zarr(reference.cells), scale)] if reference else []
    own = sum(len(part.names) for part in parts)
    parts += [_query_part(query, scale) for query in queries]
    if len({part.latent.shape[1] for part in parts}) > 1:
        raise RefmapError(
            f"What was mapped onto '{model}' has {_listed({part.latent.shape[1] for part in parts})} latent dimensions: queries that "
            "learned dimensions of their own share a space through the reference's cells alone, so name these in the sheet."
        )
    joint = _assemble(parts)
    left_out = sum(part.left_out for part in parts)
    del parts
    lay_out(joint, reference is None, with_umap, seed)
    about = {
        "name": name,
        "model": model,
        "n_reference_cells": own,
        "n_query_cells": joint.n_obs - own,
        "n_left_out": left_out,
        "mappings": [query.qc.name for query in queries],
    }
    joint.uns["refmap"] = {**about, "mappings": np.array(about["mappings"], dtype=object), "version": __version__}
    write_zarr(joint, files.zarr)
    zarr_to_h5ad(files.zarr, files.h5ad)
    write_joint_page(joint, label_names(scale["keys"]) if scale else {}, scale and scale["map"], seed, files.page)
    write_json(files.about, about)


def label_names(keys: list[str]) -> dict[str, str]:
    """What each column of the reference's labels is called in the joint atlas."""
    return {key: f"{key}_reference" if key in OWN_COLUMNS else key for key in keys}


def _listed(numbers: set[int]) -> str:
    return " and ".join(map(str, sorted(numbers)))


def _reference_part(cells: ad.AnnData, scale: dict) -> Part:
    columns = {name: _repeated(REFERENCE, cells.n_obs) for name in (ORIGIN, DATASET)}
    if scale["batch_key"]:
        columns[BATCH] = cells.obs[scale["batch_key"]]
    columns |= {name: cells.obs[key] for key, name in label_names(scale["keys"]).items()}
    return Part.of([f"{name}-{REFERENCE}" for name in cells.obs_names], cells.obsm["X_emb"], cells.obsm["X_umap"], columns)


def _query_part(query: MappedQuery, scale: dict | None) -> Part:
    embedded, record = read_zarr(query.mapped.embedding), read_json(query.qc / "mapping.json")
    latent = embedded.obsm["X_emb"]
    said = {ORIGIN: QUERY, DATASET: record["dataset"], FILE_ID: record["file_id"]}
    said |= {name: record["trust"][name.removesuffix("_light")]["light"] for name in LIGHTS}
    columns = {name: _repeated(value, embedded.n_obs) for name, value in said.items()}
    batch = _batch_column(query.qc / CELLS, record["parameters"]["batch_key"])
    if batch is not None:
        columns[BATCH] = batch
    return Part.of(
        [f"{name}-{query.qc.name}" for name in embedded.obs_names],
        latent[:, shared_dimensions(latent.shape[1], embedded.uns, scale)] if scale else latent,
        embedded.obsm.get(PLACE, np.full((embedded.n_obs, 2), np.nan)),
        columns | {name: embedded.obs[name] for name in embedded.obs},
    )


def _batch_column(table: Path, key: str | None) -> pd.Series | None:
    """The query's batches out of the table of its cells, where the column gives way to one of the mapping's own."""
    known = pq.read_schema(table).names
    column = next((name for name in (f"{key}_query", key) if name in known), None)
    return None if column is None else pq.read_table(table, columns=[column])[column].to_pandas()


def _repeated(value: str, n: int) -> pd.Series:
    return pd.Series(pd.Categorical.from_codes(np.zeros(n, dtype=np.int8), categories=[value]))


def _assemble(parts: list[Part]) -> ad.AnnData:
    names = [name for part in parts for name in part.names]
    columns, start = Columns(len(names)), 0
    for part in parts:
        for name, values in part.columns.items():
            columns.add(name, slice(start, start + len(part.names)), values)
        start += len(part.names)
    return ad.AnnData(
        obs=columns.frame(pd.Index(names, dtype=object)),
        obsm={
            "X_emb": np.concatenate([part.latent for part in parts]).astype(np.float32),
            "X_umap": np.concatenate([part.place for part in parts]).astype(np.float32),
        },
    )


def lay_out(joint: ad.AnnData, alone: bool, with_umap: bool, seed: int) -> None:
    """Add the neighbours of all cells, the UMAP where no reference gives one, and on request one of all."""
    latent = joint.obsm["X_emb"]
    if alone:
        joint.obsm["X_umap"] = draw_map(latent, seed)
    if joint.n_obs < FEWEST_FOR_UMAP:
        return
    near = nearest_among(latent, N_NEIGHBORS - 1, seed)
    nearest = near.distances, near.indices
    if with_umap:
        joint.obsm["X_umap_joint"] = umap(latent, seed, nearest).astype(np.float32)
    joint.obsp["distances"] = _as_graph(near)
    joint.obsp["connectivities"] = neighbor_weights(latent, nearest)
    # What scanpy.pp.neighbors leaves, so that all that builds on it goes on from here.
    params = {"n_neighbors": N_NEIGHBORS, "method": "umap", "metric": "euclidean", "use_rep": "X_emb", "random_state": seed}
    joint.uns["neighbors"] = {"connectivities_key": "connectivities", "distances_key": "distances", "params": params}


def _as_graph(near: Neighbors):
    """The distances of each cell's nearest neighbours: CSR float32, cells x cells."""
    from scipy.sparse import csr_matrix

    n, k = near.indices.shape
    values, indices = near.distances.astype(np.float32).ravel(), near.indices.astype(np.int32).ravel()
    return csr_matrix((values, indices, np.arange(0, n * k + 1, k)), shape=(n, n))
