"""Groups of a query's cells, types that the reference seems to lack first, and the genes that set them apart."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist

from .cells import LabelledCells
from .expression import group_means
from .novel import Null, Scores, Threshold

# What the names of groups above the limit begin with, and how they are read: as a type that the reference lacks, or as cells of
# their label in another state.
NOVEL = "novel_"
TYPE, STATE = "type", "state"
# A type is set apart by so much of what sets its label apart from the nearest other one, and by so many times as much as the tenth of
# the cells matched to that label that differ least: by less where it stands out the more. Where all of these cells are in such groups,
# none may be of the label, and it is enough to be apart by so much.
APART_AND_TIMES, APART_ALONE, OWN = ((0.3, 2.0), (0.1, 4.0)), 0.5, 0.1
# Clusters above the limit are one group where all of them are set apart from one label by the same genes: so like each other, as
# a cosine.
ALIKE = 0.8
# Genes that a sentence names of either kind.
NAMED_GENES = 3
# Genes that a group is told by, and how like a label's profile what sets it apart must be, as a cosine.
MOST_GENES, LEAST_LIKE = 10, 0.5


def groups_table(
    scores: Scores, limit: Threshold, null: Null, reference: LabelledCells, weights: np.ndarray, genes: np.ndarray
) -> tuple[pd.DataFrame, np.ndarray]:
    """Describe groups of the query's cells: those read as types first, then all others, by what they score beyond their label's least.

    A condition sets all cells of a label apart, and one label by more than another: by their score alone whole labels would stand first.
    Cells of a type that the reference lacks lie beside those of the label that they were matched to, which differ little, and exceed
    these even where their score is not above the threshold.

    A group is one of the query's own clusters. Of those above the threshold it is all that are one finding (:func:`findings`), so that
    a type of many cells, which fine clustering cuts in pieces, does not fill the table.

    Returns
    -------
    The table, a row a group: ``group`` (``novel_1``, … for those whose score is above the threshold, and ``cluster_3``, … by
    their rank for the others), ``n_cells``, ``n_novel`` (cells above the threshold), ``matched_label``, ``score`` (the median of
    its cells), ``threshold``, ``null_quantile`` (the share of held-out reference cells that score less; NaN without any),
    ``genes`` (up to ten that set it apart, those that count most first, with + where the query has more and - where less) and
    ``like_label`` with ``like`` (the label of the reference whose difference from the matched one is most like what sets it
    apart, and the cosine of both, if that is 0.5; None and NaN otherwise), ``apart`` and ``own_score``, by which groups above the
    threshold are read, ``reading`` (:func:`read`; None below it), and ``about``, sentences. And the group of each cell (object array of
    str).
    """
    medians, matched, clusters = scores.medians, scores.matched, scores.clustering.clusters
    profiles = group_means(reference.values, reference.labels, len(reference.names)) * np.sqrt(weights)
    far, flagged, sizes = far_apart(profiles), medians > limit.value, np.bincount(clusters)
    own = {label: float(np.quantile(scores.cells[(matched == label)[clusters]], OWN)) for label in np.unique(matched)}
    readings = np.array(
        [
            read(score, score * far[label], own[label], flagged[matched == label].all()) if above else None
            for score, label, above in zip(medians, matched, flagged)
        ],
        dtype=object,
    )
    parts = findings(scores.residuals, matched, readings)
    of_parts = [float(np.median(scores.cells[np.isin(clusters, part)])) for part in parts]
    firsts = [part[0] for part in parts]
    beyond = np.array([score - own[matched[first]] for score, first in zip(of_parts, firsts)])
    n_null = len(null.scores)
    rows, names = [], np.empty(len(sizes), dtype=object)
    for rank, place in enumerate(np.lexsort((-beyond, readings[firsts] != TYPE)), 1):
        part, first, score = parts[place], firsts[place], of_parts[place]
        members = np.isin(clusters, part)
        label, reading = matched[first], readings[first]
        names[part] = f"{NOVEL if flagged[first] else 'cluster_'}{rank}"
        residual = np.average(scores.residuals[part], axis=0, weights=sizes[part])
        like, cosine = most_like(residual, profiles, label)
        rows.append(
            {
                "group": names[first],
                "n_cells": int(members.sum()),
                "n_novel": int((scores.cells[members] > limit.value).sum()),
                "matched_label": reference.names[label],
                "score": score,
                "threshold": limit.value,
                "null_quantile": float(np.searchsorted(null.scores, score) / n_null) if n_null else np.nan,
                "genes": signed_genes(residual, genes),
                "like_label": None if like is None else reference.names[like],
                "like": cosine,
                "apart": score * far[label],
                "own_score": own[label],
                "reading": reading,
            }
        )
        rows[-1]["about"] = sentence(rows[-1])
    table = pd.DataFrame(rows)
    # Without which pandas would make NaN of None among text.
    for name in ("like_label", "reading"):
        table[name] = pd.Series([row[name] for row in rows], dtype=object)
    return table, names[clusters]


def findings(residuals: np.ndarray, matched: np.ndarray, readings: np.ndarray) -> list[list[int]]:
    """Put clusters that are one finding together: those above the limit, matched to one label, read alike and set apart alike.

    Parameters
    ----------
    residuals
        float64, clusters x genes: what sets each apart. Any two clusters of a finding have a cosine above `ALIKE` (complete linkage).
    matched, readings
        The label of each cluster, and how it is read, None below the limit: such a cluster stays alone.

    Returns
    -------
    The clusters of each finding, ascending: all clusters once.
    """
    found = []
    for label in np.unique(matched):
        for reading in (TYPE, STATE, None):
            members = np.array([i for i in np.flatnonzero(matched == label) if readings[i] == reading], dtype=int)
            if reading is None or len(members) < 2:
                found += [[cluster] for cluster in members.tolist()]
                continue
            # A residual of nothing is like none; rounding may leave less than 0.
            distances = np.nan_to_num(pdist(residuals[members], "cosine"), nan=1.0).clip(0)
            joined = fcluster(linkage(distances, "complete"), 1 - ALIKE, "distance")
            found += [members[joined == one].tolist() for one in np.unique(joined)]
    return found


def far_apart(profiles: np.ndarray) -> np.ndarray:
    """Return the mean squared distance of two labels (profiles: labels x genes) by that of each to its nearest: float64, labels.

    A score times it is in units of the latter. Infinite for a label that another has the profile of.
    """
    squares = ((profiles[:, None] - profiles) ** 2).sum(axis=2)
    n = len(squares)
    np.fill_diagonal(squares, np.inf)
    nearest = squares.min(axis=1)
    mean = squares[~np.eye(n, dtype=bool)].mean()
    return np.divide(mean, nearest, out=np.full(n, np.inf), where=nearest > 0)


def read(score: float, apart: float, own: float, alone: bool) -> str:
    """Say what a group above the threshold is most likely: `type`, one that the reference lacks, or `state`, one of a known type's.

    A condition or protocol acts on all cells of a type, if not alike, and by less than what sets types apart. Cells of a type that the
    reference lacks lie beside those of the label that they were matched to, which differ from the reference little.

    Parameters
    ----------
    apart
        The score in units of the squared distance of the matched label to its nearest.
    own
        The score that a tenth of the cells matched to the label have at most.
    alone
        Whether all clusters that were matched to the label are above the threshold.
    """
    stands_out = any(apart > least and score > times * own for least, times in APART_AND_TIMES)
    return TYPE if stands_out or (alone and apart > APART_ALONE) else STATE


def sentence(row: dict) -> str:
    """Say of a row of the table what its cells were called, and what speaks against it; of a state, why it is taken for one."""
    more, less = ([gene[1:] for gene in row["genes"] if gene[0] == sign][:NAMED_GENES] for sign in "+-")
    genes = ", ".join([f"more of {' and '.join(more)}"] * bool(more) + [f"less of {' and '.join(less)}"] * bool(less))
    like = f"; most like {row['like_label']}" if row["like_label"] is not None else ""
    against = f"{row['score']:.2f} of what sets two of its labels apart, where {row['threshold']:.2f} is the limit"
    found = f"{row['n_cells']:,} cells matched to {row['matched_label']}, from which they differ by {against}{': ' * bool(genes)}{genes}{like}."
    if row["reading"] != STATE:
        return found
    if row["score"] > APART_AND_TIMES[0][1] * row["own_score"]:
        return f"{found} A type would differ by more: {row['matched_label']} differs from its nearest label {1 / row['apart']:.0f} times as much."
    return f"{found} So do the other cells that were matched to {row['matched_label']}, as a condition or a protocol makes them."


def signed_genes(residual: np.ndarray, genes: np.ndarray) -> list[str]:
    """Return the genes that count most in a residual (float64, genes), each after + or -: at most ten, none that counts nothing."""
    largest = np.argsort(-np.abs(residual), kind="stable")[:MOST_GENES]
    return [f"{'+' if residual[gene] > 0 else '-'}{genes[gene]}" for gene in largest if residual[gene]]


def most_like(residual: np.ndarray, profiles: np.ndarray, matched: int) -> tuple[int | None, float]:
    """Find the label whose profile (labels x genes) less the matched label's points most where a residual does.

    Both are taken without what all other labels have in common beside the matched one: cells that merely lack its markers are
    like none of them.

    Returns
    -------
    The label, and the cosine; None and NaN where no cosine is 0.5, as of something that is none of the reference's labels, and
    where there are not two other labels.
    """
    others = np.delete(np.arange(len(profiles)), matched)
    if len(others) < 2:
        return None, np.nan
    directions = profiles[others] - profiles[matched]
    common = directions.mean(axis=0)
    directions = directions - common
    length = common @ common
    own = residual - (residual @ common) / length * common if length else residual
    lengths = np.linalg.norm(directions, axis=1) * np.linalg.norm(own)
    cosines = np.divide(directions @ own, lengths, out=np.zeros(len(others)), where=lengths > 0)
    best = int(cosines.argmax())
    return (int(others[best]), float(cosines[best])) if cosines[best] >= LEAST_LIKE else (None, np.nan)
