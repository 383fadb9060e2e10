"""The partitions of a tissue that cells with coordinates lie in. igraph and scikit-learn are imported where they are used."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem, write_elem
from scipy import sparse

from ..common.errors import listed, nearest
from ..common.leiden import seeded
from ..common.storage import stored_name
from ..query.elements import as_text, encoding
from ..query.query import Query

# Neighbours in the tissue, as squidpy joins cells that lie on no grid.
NEIGHBORS = 6
# A section of fewer cells has no neighbourhoods.
FEWEST_CELLS = 20
# What Leiden is stopped at.
ITERATIONS = 10


def cut_tissue(query: Query, key: str, batch_key: str | None, resolutions: list[float], seed: int, out: Path) -> dict[str, dict]:
    """Cut a tissue into partitions, add these to obs of an aligned atlas, and return what they are.

    Each section is cut by itself: Leiden, with each of the resolutions, on the graph of the cells' nearest neighbours in the
    tissue, as SageNet's authors do (Heidari et al. 2022, doi:10.1101/2022.04.14.488419).

    Parameters
    ----------
    query
        The atlas.
    key
        Of its obsm: coordinates, cells x 2 or 3.
    batch_key
        The column of obs that says which section each cell is of; None: they are of one.
    out
        The aligned atlas, whose obs gets a column for each section and resolution; cells of other sections have no label in it.

    Returns
    -------
    By column, ``section`` (None if there is but one) and ``places``, the mean coordinates of each label's cells.

    Raises
    ------
    RefmapError
        If there are no coordinates, too few cells of a section, or a column of the atlas that is called as one of these.
    """
    at = coordinates(query, key)
    sections = as_text(query.obs_column(batch_key)) if batch_key else np.full(query.n_obs, "", dtype=object)
    found, columns = {}, {}
    taken = set(zarr.open_group(out, mode="r")["obs"])
    names = sorted(set(sections) - {""} if batch_key else {""})
    for section in names:
        cells = np.flatnonzero(sections == section)
        if len(cells) < FEWEST_CELLS:
            raise query.fault(
                f"has {len(cells)} cells of section '{section}' in column '{batch_key}', and {FEWEST_CELLS} are the fewest that a "
                "tissue is cut of: leave them out, or name another column with --reference_batch_key."
            )
        graph = tissue_graph(at[cells])
        for resolution in resolutions:
            column = f"leiden_{resolution:g}" + (f"@{section}" if len(names) > 1 else "")
            if stored_name(column) in taken:
                raise query.fault(
                    f"has a column '{column}', which is asked for beside the partition of that name that --reference_spatial_key "
                    "cuts: call the column otherwise, leave it out, or give other resolutions in --reference_options."
                )
            numbers = partition(graph, resolution, seed)
            labels = np.full(query.n_obs, None, dtype=object)
            labels[cells] = numbers.astype(str)
            places = {str(i): at[cells[numbers == i]].mean(axis=0).tolist() for i in range(numbers.max() + 1)}
            if len(places) < 2:
                where = f" of section '{section}'" if len(names) > 1 else ""
                raise query.fault(
                    f"is one partition{where} at resolution {resolution:g}: give higher resolutions in --reference_options."
                )
            columns[column] = pd.Categorical(labels, categories=list(places))
            found[column] = {"section": section if len(names) > 1 else None, "places": places}
            print(f"{column}: {len(places)} partitions of {len(cells):,} cells")
    _add_to_obs(columns, out)
    return found


def coordinates(query: Query, key: str) -> np.ndarray:
    """The coordinates of the cells: float64, cells x 2 or 3. Raises RefmapError if they are not there."""
    elem = query.obsm().get(key)
    if elem is None:
        raise query.fault(
            f"has no obsm '{key}', which --reference_spatial_key names: it has {listed(query.obsm()) or 'none'}.{nearest(key, list(query.obsm()))}"
        )
    with query.reading(f"obsm '{key}'"):
        found = read_elem(elem)
    if encoding(elem) == "dataframe":
        found = found.select_dtypes("number").to_numpy()
    elif sparse.issparse(found):
        found = found.toarray()
    if getattr(found, "ndim", 0) != 2 or found.shape[1] not in (2, 3) or found.dtype.kind not in "fiu":
        shape = " x ".join(map(str, getattr(found, "shape", ())))
        raise query.fault(f"has {shape} values in obsm '{key}', which are no coordinates: give 2 or 3 numbers a cell.")
    if not np.isfinite(found).all():
        raise query.fault(f"has cells without coordinates in obsm '{key}': leave them out.")
    return found.astype(np.float64)


def tissue_graph(at: np.ndarray):
    """The graph that joins each cell to its nearest neighbours in the tissue: an edge of either side is one of both."""
    import igraph
    from sklearn.neighbors import NearestNeighbors

    near = NearestNeighbors(n_neighbors=min(NEIGHBORS, len(at) - 1)).fit(at).kneighbors(return_distance=False)
    edges = np.column_stack([np.repeat(np.arange(len(at)), near.shape[1]), near.ravel()])
    return igraph.Graph(len(at), np.unique(np.sort(edges, axis=1), axis=0))


def partition(graph, resolution: float, seed: int) -> np.ndarray:
    """The partition of each cell by Leiden (Traag, Waltman & van Eck 2019): int, 0 is the largest."""
    with seeded(seed):
        found = graph.community_leiden("modularity", resolution=resolution, n_iterations=ITERATIONS).membership
    sizes = np.bincount(found)
    rank = np.empty(len(sizes), dtype=np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    return rank[found]


def _add_to_obs(columns: dict[str, pd.Categorical], out: Path) -> None:
    root = zarr.open_group(out, mode="r+", use_consolidated=False)
    obs = read_elem(root["obs"])
    for name, values in columns.items():
        obs[stored_name(name)] = values
    with anndata.settings.override(allow_write_nullable_strings=False):  # which other environments do not read
        write_elem(root, "obs", obs)
    zarr.consolidate_metadata(root.store)
