"""Prototypes: the mean latent of the cells of one label, or of one cluster of cells without labels.

A cell gets the label of the nearest prototype, and its distance from it, Euclidean in the latent space, is the uncertainty of
scPoli (De Donno et al. 2023).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from ...common.layout import FEWEST_FOR_UMAP, neighbor_weights

if TYPE_CHECKING:
    import torch

# The neighbours of a cell are looked for among these: with fewer cells, a cluster would be all of them.
FEWEST_FOR_CLUSTERS = 2 * FEWEST_FOR_UMAP
# A cluster is the mean of its cells, for which so many of them do.
MOST_FOR_CLUSTERS = 50_000


def add_labels(cell_types: dict[str, list[str]], obs: pd.DataFrame, keys: Iterable[str], unlabeled: Collection[str]) -> None:
    """Add the labels of the columns `keys` to the label columns by label; those of `unlabeled` are none."""
    for key in keys:
        for label in sorted(set(obs[key].astype(str)) - set(unlabeled)):
            columns = cell_types.setdefault(label, [])
            if key not in columns:
                columns.append(key)


def label_codes(obs: pd.DataFrame, keys: Iterable[str], cell_types: Iterable[str]) -> np.ndarray:
    """The position of each cell's labels in `cell_types`, cells x keys; -1 for a cell without one."""
    order = list(cell_types)
    codes = [pd.Categorical(obs[key].astype(str), categories=order).codes.astype(int) for key in keys]
    return np.stack(codes, axis=1) if codes else np.empty((len(obs), 0), dtype=int)


def labeled_cells(codes: np.ndarray) -> list[int]:
    """The positions of cells with a label in at least one column."""
    return np.flatnonzero((codes >= 0).any(axis=1)).tolist()


def label_prototypes(latent: torch.Tensor, codes: torch.Tensor, wanted: Iterable[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean and the covariance of the latent of each label: labels x dimensions, labels x dimensions x dimensions.

    `codes` are cells x columns. The covariance of a single cell is not a number.
    """
    import torch

    means, covariances = [], []
    for code in wanted:
        cells = latent[(codes == code).any(dim=1)]
        means.append(cells.mean(dim=0))
        beyond = cells - means[-1]
        covariances.append(beyond.T @ beyond / (len(cells) - 1 or float("nan")))
    return torch.stack(means), torch.stack(covariances)


def distances(latent: np.ndarray, means: torch.Tensor) -> np.ndarray:
    """Euclidean distances, cells x prototypes, float32; infinite from a prototype that is no number, as of a label without cells."""
    import torch

    # Not by matrix products, which torch takes for many prototypes: they lose the digits of a short distance.
    exact = torch.cdist(torch.as_tensor(latent), means.detach().cpu(), compute_mode="donot_use_mm_for_euclid_dist")
    return exact.nan_to_num(nan=torch.inf).numpy()


def cluster_prototypes(latent: np.ndarray, resolution: float, seed: int) -> torch.Tensor:
    """The means of clusters of cells, clusters x dimensions, the largest first.

    The clusters are Leiden's (Traag et al. 2019, https://doi.org/10.1038/s41598-019-41695-z) of the graph of UMAP's weights,
    as scArches has them by scanpy.
    """
    import random

    import igraph
    import torch

    rng = np.random.default_rng(seed)
    if len(latent) > MOST_FOR_CLUSTERS:
        latent = latent[np.sort(rng.choice(len(latent), MOST_FOR_CLUSTERS, replace=False))]
    weights = sparse.triu(neighbor_weights(latent), 1)
    graph = igraph.Graph(len(latent), np.column_stack([weights.row, weights.col]))
    random.seed(seed)  # igraph draws from it
    found = graph.community_leiden("modularity", weights=weights.data.tolist(), resolution=resolution, n_iterations=-1)
    members = np.array(found.membership)
    order = pd.Series(members).value_counts(sort=True).index
    return torch.as_tensor(np.stack([latent[members == cluster].mean(axis=0) for cluster in order]))


def spread(covariances: torch.Tensor) -> np.ndarray:
    """The root mean square distance of a prototype's own cells from it, a value a prototype."""
    return covariances.diagonal(dim1=-2, dim2=-1).sum(dim=-1).sqrt().detach().cpu().numpy()
