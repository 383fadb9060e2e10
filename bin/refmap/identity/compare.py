"""Both looks at the expression of a query beside a sample of its reference, from arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from .cells import LabelledCells
from .certainty import label_sets
from .expression import identity_weights
from .gene_view import gene_votes
from .groups import groups_table
from .learned import Learned, learn
from .novel import Null, Threshold, identity_scores, threshold
from .pairing import Pair, Side

# Fewer genes tell types apart by chance.
FEWEST_GENES = 10
# Fewer cells have no clusters of their own.
FEWEST_CELLS = 20


@dataclass(frozen=True)
class Novel:
    """Which of the query's own clusters differ from the reference beyond what the others' shift explains.

    scores       float64, query cells: 0 as the reference, 1 as different as two of its labels; NaN for cells that have none
    groups       object array of str, the group of each cell, None for cells that have none
    table        a row a group, ranked (:func:`refmap.identity.groups.groups_table`)
    threshold    the score above which a cell, or a group by its median, is flagged
    resemblance  how much of what tells the query's own clusters apart the reference cells matched to them have too, 0 to 1
    """

    scores: np.ndarray
    groups: np.ndarray
    table: pd.DataFrame
    threshold: Threshold
    resemblance: float


@dataclass(frozen=True)
class View:
    """What the genes of each cell say; NaN, None or no label for cells that have no counts, or no place.

    labels              object array of str, query cells: the label with the most votes
    share               float64, query cells: its share of them
    certainty           float64, query cells: how often such a label is right; NaN where that could not be learned
    latent_certainty    the same of the label that the latent gave; NaN where it gave none
    sets                bool, query cells x `names`: labels that hold the right one in 90 % of cells like the held-out ones
    names               object array of str: the reference's labels, sorted
    """

    labels: np.ndarray
    share: np.ndarray
    certainty: np.ndarray
    latent_certainty: np.ndarray
    sets: np.ndarray
    names: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """Both looks; of one that could not be had, None, and one sentence that says why.

    n_genes    how many genes query and reference share
    """

    n_genes: int
    learned: Learned | None
    novel: Novel | None
    no_novel: str | None
    view: View | None
    no_view: str | None


def compare(
    both: Pair,
    labels: np.ndarray | pd.Series,
    seed: int,
    latent_labels: np.ndarray | None = None,
    learned: Learned | None = None,
    view_alone: bool = False,
) -> Comparison:
    """Look at a query's expression beside that of its reference's cells.

    Parameters
    ----------
    both
        All of the query's cells beside a sample of the reference's: a few hundred of each label and batch say what all do.
    labels
        One of the reference's columns of labels: that of each cell of the sample, missing for none.
    latent_labels
        Object array of str, query cells: the labels whose certainty is asked for, such as the transferred ones; those that the
        reference does not know have none.
    learned
        What the reference said of itself (:func:`learn`), if that is known. It takes longer than the query, and says nearly the
        same of all of the reference's genes as of most of them.
    view_alone
        Whether to look for no groups that are unlike the reference: of several columns of labels one is enough for that.
    """
    reference, n_genes = both.reference.labelled(labels), len(both.genes)
    weights = identity_weights(reference) if len(reference) else np.zeros(n_genes)
    if reason := _no_view(reference, both, weights):
        return Comparison(n_genes, None, None, reason, None, reason)
    learned = learned or learn(reference, weights, seed, not view_alone)
    view = _view(reference, both.query, weights, learned, seed, latent_labels)
    if view_alone:
        return Comparison(n_genes, learned, None, None, view, None)
    novel, reason = _novel(reference, both, weights, learned.null, seed)
    return Comparison(n_genes, learned, novel, reason, view, None)


def _no_view(reference: LabelledCells, both: Pair, weights: np.ndarray) -> str | None:
    """Why nothing can be said of any cell, if so."""
    names, n_genes = reference.names, len(both.genes)
    if n_genes < FEWEST_GENES:
        return (
            f"The query shares {n_genes} gene{'s' if n_genes > 1 else ''} with the reference's sample, and fewer than "
            f"{FEWEST_GENES} tell no types apart."
        )
    if not len(both.query.cells):
        return f"No cell of the query has counts in the {n_genes:,} genes that it shares with the reference, and a place in the latent space."
    if len(names) < 2:
        return f"The reference's cells have {f'one label, {names[0]!r}' if len(names) else 'no label'}, so no gene tells labels apart."
    if not weights.any():
        return f"None of the {n_genes:,} shared genes tells the reference's labels apart."
    return None


def _novel(reference: LabelledCells, both: Pair, weights: np.ndarray, null: Null, seed: int) -> tuple[Novel | None, str | None]:
    query = both.query
    if len(query.cells) < FEWEST_CELLS:
        return None, (
            f"{len(query.cells)} cells of the query have counts in the shared genes, and fewer than {FEWEST_CELLS} have no clusters "
            "of their own."
        )
    found = identity_scores(query.cells, reference, weights, seed)
    if found.clustering.n_clusters < 2:
        return (
            None,
            "The query's cells are one cluster, so what it differs by cannot be told from what sets the whole query apart.",
        )
    limit = threshold(found, null)
    table, names = groups_table(found, limit, null, reference, weights, both.genes)
    scores, groups = np.full(query.n_cells, np.nan), np.full(query.n_cells, None, dtype=object)
    scores[query.rows], groups[query.rows] = found.cells, names
    return Novel(scores, groups, table, limit, found.resemblance), None


def _view(
    reference: LabelledCells, query: Side, weights: np.ndarray, learned: Learned, seed: int, latent_labels: np.ndarray | None
) -> View:
    names, rows, n_cells = reference.names, query.rows, query.n_cells
    votes = gene_votes(query.cells, reference, weights, seed)
    labels, share = np.full(n_cells, None, dtype=object), np.full(n_cells, np.nan)
    labels[rows], share[rows] = names[votes.argmax(axis=1)], votes.max(axis=1)
    certainty, of_latent = np.full(n_cells, np.nan), np.full(n_cells, np.nan)
    sets = np.zeros((n_cells, len(names)), dtype=bool)
    if learned.certainty:
        certainty[rows] = learned.certainty.own(share[rows])
        sets[rows] = label_sets(votes, learned.certainty.limit)
        if latent_labels is not None:
            codes = pd.Index(names).get_indexer(np.asarray(latent_labels, dtype=object)[rows])
            known = np.flatnonzero(codes >= 0)
            of_latent[rows[known]] = learned.certainty.of_any(votes[known, codes[known]])
    return View(labels, share, certainty, of_latent, sets, names)
