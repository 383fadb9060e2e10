"""All figures of one mapping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import sparse

from ..mapping.decoded import Decoded
from ..transfer.labels import UNKNOWN
from ..transfer.regions import sample
from .by_expression import NO_COUNTS, certain, groups, panel, resemblance
from .explained import explained
from .figures import NO_CELLS, figure, genes, hshare, novel, separation, unknown
from .mixing import batch_mixing
from .space import mixing, presence
from .structure import cluster_preservation, log_normalize

# Cells whose expression is read.
MOST_CELLS = 20_000


@dataclass
class QueryCells:
    """The cells of a query, all in one order.

    latent        float, cells x latent dimensions
    expression    the model's genes: CSR, cells x genes, or what gives one for an array of rows, such as anndata's sparse_dataset;
                  None if there is none
    normalized    whether `expression` holds log-normalised or other values that are used as they are, and not counts
    batches       the batch of each cell; None if the model knows none: then all are one
    labels        column -> the label transferred from the reference, `Unknown` for none
    predicted     the model's own label of each cell, None if it predicts none; used where no label was transferred
    novelty       float, the p-value of each cell against the reference's held-out cells; None without reference cells
    separation    float, of each cell (see :mod:`refmap.transfer.separation`); None without reference cells
    decoded       what the model expects of some of the cells, by their places here; None of a model that expects no counts
    hshare        the share of the encoder's signal that the query's genes carry; None if it is not known
    """

    latent: np.ndarray
    expression: sparse.csr_matrix | None = None
    normalized: bool = False
    batches: pd.Series | None = None
    labels: Mapping[str, pd.Series] = field(default_factory=dict)
    predicted: pd.Series | None = None
    novelty: np.ndarray | None = None
    separation: np.ndarray | None = None
    decoded: Decoded | None = None
    hshare: float | None = None


@dataclass
class ReferenceCells:
    """The cells of a reference, all in one order.

    latent         float, cells x latent dimensions
    labels         column -> the label of each cell, missing for none
    batches        the batch of each cell, missing for none; None if there are none
    held_out       column -> what its held-out cells showed: ``unknown_of_all`` and ``accuracy_kept``; either may be absent
    separations    those of its held-out cells: float, empty if there are none
    """

    latent: np.ndarray
    labels: Mapping[str, pd.Series] = field(default_factory=dict)
    batches: pd.Series | None = None
    held_out: Mapping[str, Mapping] = field(default_factory=dict)
    separations: np.ndarray = field(default_factory=lambda: np.empty(0))


def measure(
    query: QueryCells, reference: ReferenceCells | None, alignment: Mapping, seed: int, expression: Mapping | None = None
) -> dict[str, dict]:
    """Measure one mapping.

    Parameters
    ----------
    reference
        None if the reference has no cells to be had.
    alignment
        What alignment.json holds.
    seed
        Of all that is drawn: the same seed, the same figures.
    expression
        What the cells' expression says of them, as the record of :func:`refmap.identity.mapped.compare_mapping` has it; None where
        nothing is known of it.

    Returns
    -------
    ``certain``, ``groups``, ``panel``, ``genes``, ``hshare``, ``resemblance``, ``explained``, ``unknown``, ``novel``, ``separation``,
    ``presence``, ``mixing``, ``clusters``, ``batches``: each a figure, ready for JSON, as :func:`refmap.trust.figures.figure` makes them. One without a meaning has no value, and a note that says why.
    """
    _check(query)
    rows = sample(len(query.latent), MOST_CELLS, np.random.default_rng(seed))
    values = _values(query, rows)
    batches = np.zeros(len(rows), dtype=int) if query.batches is None else pd.factorize(query.batches)[0][rows]
    if reference is None:
        near = {
            "unknown": figure(note=NO_CELLS, worst=None, levels={}),
            "novel": figure(note=NO_CELLS),
            "separation": figure(note=NO_CELLS, labels={}),
            "presence": figure(note=NO_CELLS, labels={}),
            "mixing": figure(note=NO_CELLS),
        }
    else:
        classes = {key: labels.dropna().nunique() for key, labels in reference.labels.items()}
        shown = next(iter(reference.labels.values()), None)
        near = {
            "unknown": unknown(query.labels, classes, reference.held_out),
            "novel": novel(query.novelty),
            "separation": separation(query.separation, reference.separations, next(iter(query.labels.values()), None)),
            "presence": presence(query.latent, reference.latent, shown, seed),
            "mixing": mixing(query.latent, reference.latent, reference.batches, seed),
        }
    no_values = figure(note="The query's expression is not at hand, so it has no clusters of its own.")
    labels = _labels(query)
    nothing = NO_CELLS if reference is None else NO_COUNTS
    return {
        "certain": certain(expression, nothing),
        "groups": groups(expression, nothing),
        "panel": panel(expression, nothing),
        "genes": genes(alignment),
        "hshare": hshare(query.hshare),
        "resemblance": resemblance(expression, nothing),
        "explained": _explained(query, seed),
        **near,
        "clusters": no_values if values is None else cluster_preservation(values, query.latent[rows], batches, seed),
        "batches": batch_mixing(values, query.latent[rows], batches, None if labels is None else labels[rows], seed),
    }


def _check(query: QueryCells) -> None:
    """Raise ValueError unless all is of the same number of cells."""
    n = len(query.latent)
    columns = {
        **query.labels,
        "batches": query.batches,
        "predicted": query.predicted,
        "novelty": query.novelty,
        "separation": query.separation,
    }
    wrong = {name: len(column) for name, column in columns.items() if column is not None and len(column) != n}
    if query.expression is not None and query.expression.shape[0] != n:
        wrong["expression"] = query.expression.shape[0]
    if wrong:
        raise ValueError(f"The latent has {n} cells, but there are {wrong}.")


def _values(query: QueryCells, rows: np.ndarray) -> sparse.csr_matrix | None:
    """Return the log-normalised expression of the rows."""
    if query.expression is None:
        return None
    chosen = sparse.csr_matrix(query.expression[rows])
    return chosen if query.normalized else log_normalize(chosen)


def _explained(query: QueryCells, seed: int) -> dict:
    """Compare what the model expects of the cells with their counts, if both are at hand."""
    if query.decoded is None:
        return figure(note="This model says nothing of counts that the query's could be compared with.", clusters={})
    if query.expression is None or query.normalized:
        return figure(note="The query's counts are not at hand to be compared with what the model expects.", clusters={})
    rows = query.decoded.cells
    counts = sparse.csr_matrix(query.expression[rows])[:, query.decoded.genes]
    batches = np.zeros(len(rows), dtype=int) if query.batches is None else pd.factorize(query.batches)[0][rows]
    labels = next(iter(query.labels.values()), query.predicted)
    return explained(counts, query.decoded, batches, None if labels is None else labels.iloc[rows].astype(object), seed)


def _labels(query: QueryCells) -> np.ndarray | None:
    """Return the labels that batches are compared within: transferred ones, else the model's; None for none."""
    labels = next(iter(query.labels.values()), query.predicted)
    if labels is None:
        return None
    labels = labels.astype(object).to_numpy()
    labels = np.where(pd.isna(labels) | (labels == UNKNOWN), None, labels)
    return None if pd.isna(labels).all() else labels
