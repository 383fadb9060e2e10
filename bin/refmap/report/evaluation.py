"""How well a mapping did where the truth is known: the measures by which scArches is evaluated (Lotfollahi et al. 2022).

Labels should lie apart in the latent space and batches together, and the labels that cells got should be the true ones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ..common.layout import neighbor_weights
from ..common.leiden import seeded
from ..transfer.neighbors import Index
from ..transfer.regions import FEWEST, NEIGHBORHOOD, sample
from .mapped_cells import Cells, Labels, Reference

# Cells that are measured: all of the query's or, of query and reference together, half of them of either.
MOST_CELLS = 5_000
# Neighbours of the library's own functions.
EBM_NEIGHBORS, PURITY_NEIGHBORS = 50, 30
# Of the clusterings that labels are compared with, as scib-metrics takes them.
RESOLUTIONS = np.arange(1, 11) / 5
# The batch of reference cells that have none.
REFERENCE = "reference"


@dataclass
class Truth:
    """Cells whose label is known.

    latent     float, cells x latent dimensions
    labels     the true label of each
    batches    the batch of each: of any type that tells batches apart
    """

    latent: np.ndarray
    labels: np.ndarray
    batches: np.ndarray

    def draw(self, most: int, rng: np.random.Generator) -> Truth:
        rows = sample(len(self.latent), most, rng)
        return Truth(self.latent[rows], self.labels[rows], self.batches[rows])


def evaluate(cells: Cells, row: dict, batches: pd.Series, around: Reference | None, seed: int) -> dict | None:
    """Measure a mapping against the true labels of the query's cells; `batches` is the batch of each.

    Returns
    -------
    None where no cell has a true label. Else, ready for JSON:

    ``truth_key``
        The column of true labels.
    ``query``, ``joint``
        What :func:`measure` says of the query's cells, and of these and the reference's together, whose labels are those of the
        column that knows most of the true ones; ``joint`` is None without such a reference.
    ``predicted``, ``transferred``
        What :func:`f1` says of the model's own labels and of those from the reference's cells; None where there are none.
    ``foreign``
        What :func:`tell_foreign` says of cells of labels that the reference lacks; None where there are none.
    """
    truth = cells.columns.get(row["truth_key"])
    if truth is None or truth.isna().all():
        return None
    rng = np.random.default_rng(seed)
    known = truth.notna().to_numpy()
    query = Truth(cells.latent[known], truth[known].to_numpy(object), pd.factorize(batches[known])[0])
    transferred = next((labels for labels in cells.labels if labels.made == "transferred"), None)
    joint = around and _joint(replace(query, latent=cells.shared[known]), transferred, around, rng)
    scores = {labels.made: f1(truth, labels) for labels in cells.labels}
    return {
        "truth_key": row["truth_key"],
        "query": measure(query.draw(MOST_CELLS, rng), seed),
        "joint": joint and measure(joint, seed),
        "predicted": scores.get("predicted"),
        "transferred": scores.get("transferred"),
        "foreign": transferred and tell_foreign(truth, transferred.classes, cells.novelty, cells.separation),
    }


def tell_foreign(
    truth: pd.Series, classes: Collection[str], novelty: pd.Series | None, separation: pd.Series | None
) -> dict | None:
    """How cells whose true label the reference lacks are told from the others.

    Returns
    -------
    None where no cell, or every one, is such. Else their ``labels``, how many there are of them and of others (``n_cells``,
    ``n_others``), and the area under the ROC curve by which their ``novelty`` (p-value) and their ``separation`` tell them, 1 if
    wholly and 0.5 if not at all; None of a figure that no cell has.
    """
    from sklearn.metrics import roc_auc_score

    known = truth.notna().to_numpy()
    foreign = known & ~truth.isin([*classes]).to_numpy()
    others = known & ~foreign
    if not foreign.any() or not others.any():
        return None

    def told(scores: pd.Series | None) -> float | None:
        values = np.full(len(truth), np.nan) if scores is None else scores.to_numpy(float)
        rows = known & np.isfinite(values)
        both = len(np.unique(foreign[rows])) == 2
        return float(roc_auc_score(foreign[rows], values[rows])) if both else None

    return {
        "labels": sorted(set(truth[foreign])),
        "n_cells": int(foreign.sum()),
        "n_others": int(others.sum()),
        "novelty": told(None if novelty is None else -novelty),
        "separation": told(separation),
    }


def _joint(query: Truth, transferred: Labels | None, around: Reference, rng: np.random.Generator) -> Truth | None:
    """As many cells of the query as of the reference at most; None where the reference has none of the true labels."""
    if transferred is None:
        return None
    labels = around.labels(transferred.key).astype(object)
    known = labels.notna().to_numpy()
    if set(pd.unique(query.labels)).isdisjoint(labels[known].unique()):
        return None
    batches = pd.Series(REFERENCE, index=labels.index) if around.batches is None else around.batches.astype(object)
    # The reference's batches come after the query's, of which one may have the same name.
    numbers = pd.factorize(batches.fillna(REFERENCE))[0] + query.batches.max() + 1
    reference = Truth(np.asarray(around.cells.obsm["X_emb"])[known], labels[known].to_numpy(), numbers[known])
    mine, theirs = (truth.draw(MOST_CELLS // 2, rng) for truth in (query, reference))
    return Truth(
        np.concatenate([mine.latent, theirs.latent]),
        np.concatenate([mine.labels, theirs.labels]),
        np.concatenate([mine.batches, theirs.batches]),
    )


def measure(truth: Truth, seed: int) -> dict:
    """Measure how labels lie apart and batches together; all figures run from 0 to 1, and 1 is best.

    Returns
    -------
    ``n_cells``, ``n_labels``, ``n_batches``
        What was measured. All figures are None of fewer than 20 cells.
    ``asw_label``, ``asw_batch``
        The average silhouette width by label and, within labels, by batch, scaled as by Luecken et al. 2022
        (doi:10.1038/s41592-021-01336-8).
    ``nmi``, ``ari``
        Normalised mutual information and adjusted Rand index of the labels with clusters: Leiden on UMAP's weights of the
        nearest neighbours, of ten resolutions (0.2 to 2) the one with the highest nmi.
    ``knn_purity``
        The share of a cell's 30 nearest neighbours that have its label: the mean over labels of the mean over cells.
    ``ebm``
        The entropy of batch mixing: that of the batches of a cell's 50 nearest neighbours, by that of equally frequent batches.

    What compares labels is None where there is but one or as many as cells, and what compares batches likewise; ``asw_batch`` is None, too, where
    no label has cells of two batches.
    """
    n_labels, n_batches = len(np.unique(truth.labels)), len(np.unique(truth.batches))
    found = dict.fromkeys(("asw_label", "asw_batch", "nmi", "ari", "knn_purity", "ebm"))
    if len(truth.latent) >= FEWEST:
        if 1 < n_labels < len(truth.latent):
            found |= _of_labels(truth, seed)
        if n_batches > 1:
            found["asw_batch"] = _silhouette_by_batch(truth)
            found["ebm"] = float(batch_entropy(truth.latent, truth.batches).mean())
    sizes = {"n_cells": len(truth.latent), "n_labels": n_labels, "n_batches": n_batches}
    return sizes | {name: None if value is None else round(float(value), 4) for name, value in found.items()}


def _of_labels(truth: Truth, seed: int) -> dict[str, float]:
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_score

    found = [(normalized_mutual_info_score(truth.labels, clusters), clusters) for clusters in _clusterings(truth.latent, seed)]
    nmi, clusters = max(found, key=lambda one: one[0])
    return {
        "asw_label": (silhouette_score(truth.latent, truth.labels) + 1) / 2,
        "nmi": nmi,
        "ari": adjusted_rand_score(truth.labels, clusters),
        "knn_purity": label_purity(truth.latent, truth.labels),
    }


def _clusterings(latent: np.ndarray, seed: int) -> Iterator[list[int]]:
    """The cluster of each cell by each of the resolutions."""
    import igraph
    from scipy.sparse import triu

    weights = triu(neighbor_weights(latent), 1)
    graph = igraph.Graph(len(latent), np.column_stack([weights.row, weights.col]))
    for resolution in RESOLUTIONS:
        with seeded(seed):
            yield graph.community_leiden("modularity", weights=weights.data, resolution=resolution).membership


def _silhouette_by_batch(truth: Truth) -> float | None:
    """The silhouette of batches within labels that have several, of at least one of them more cells than one."""
    from sklearn.metrics import silhouette_samples

    within = []
    for label in np.unique(truth.labels):
        cells = truth.labels == label
        if 1 < len(np.unique(truth.batches[cells])) < cells.sum():
            within.append(np.abs(silhouette_samples(truth.latent[cells], truth.batches[cells])).mean())
    return 1 - np.mean(within) if within else None


def _nearest(latent: np.ndarray, k: int) -> np.ndarray:
    # In a smaller dataset a smaller neighbourhood, lest it is all of it.
    return Index(latent).search_own(min(k, max(NEIGHBORHOOD, len(latent) // 5))).indices


def label_purity(latent: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of neighbours of a cell's own label, the mean over labels, each of the same weight."""
    same = labels[_nearest(latent, PURITY_NEIGHBORS)] == labels[:, None]
    return float(pd.Series(same.mean(axis=1)).groupby(labels).mean().mean())


def batch_entropy(latent: np.ndarray, batches: np.ndarray) -> np.ndarray:
    """Return the entropy of the batches around each cell: 0 for one batch alone, 1 where all (two at least) are as frequent."""
    names, numbers = np.unique(batches, return_inverse=True)
    near = numbers[_nearest(latent, EBM_NEIGHBORS)]
    entropy = np.zeros(len(latent))
    for batch in range(len(names)):
        share = (near == batch).mean(axis=1)
        entropy -= share * np.log(np.where(share > 0, share, 1))
    return entropy / np.log(len(names))


def f1(truth: pd.Series, labels: Labels) -> dict | None:
    """Score labels by F1, the harmonic mean of how many of a label are found and how many that have it are of it.

    Cells are left out whose true label is not known, or none that the labels could have been: see :func:`refmap.report.qc.score`.

    Returns
    -------
    None where no cell is left. Else ``labels_key``, ``n_cells``, ``macro`` (the mean over the true labels), ``weighted`` (the mean
    over cells) and ``by_label``: of each true label ``f1``, ``precision``, ``recall`` and ``n_cells``.
    """
    from sklearn.metrics import precision_recall_fscore_support

    known = truth.isin(labels.classes)
    if not known.any():
        return None
    names = sorted(truth[known].unique())
    # By their places among these: -1 for none of them
    true, given = (pd.Index(names, dtype=object).get_indexer(some[known].astype(object)) for some in (truth, labels.values))
    columns = precision_recall_fscore_support(true, given, labels=range(len(names)), zero_division=0)
    table = pd.DataFrame(dict(zip(("precision", "recall", "f1", "n_cells"), columns, strict=True)), index=names)
    return {
        "labels_key": labels.key,
        "n_cells": int(known.sum()),
        "macro": round(float(table["f1"].mean()), 4),
        "weighted": round(float(np.average(table["f1"], weights=table["n_cells"])), 4),
        "by_label": {
            name: {"n_cells": int(of["n_cells"])} | {key: round(float(of[key]), 4) for key in ("f1", "precision", "recall")}
            for name, of in table.iterrows()
        },
    }
