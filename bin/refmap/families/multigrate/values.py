"""What the modalities' counts are made into before the networks see them.

All of it is done cell by cell, and leaves zeros as they are: a query's values hang on none of its other cells, and a modality
whose values are all zero stays the library's mark of one that was not measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from scipy import sparse

from ...common.errors import RefmapError
from .card import OF_COUNTS

TARGET_SUM = 1e4


def columns_of(modalities: Mapping[str, int]) -> Iterator[tuple[str, slice]]:
    """The columns of each modality in a matrix of all of them."""
    start = 0
    for name, size in modalities.items():
        yield name, slice(start, start + size)
        start += size


def log_normalized(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """log1p of counts per `TARGET_SUM` of the modality."""
    totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    scale = np.divide(TARGET_SUM, totals, out=np.zeros(len(totals)), where=totals > 0)
    return _with(counts, np.log1p(counts.data * np.repeat(scale, np.diff(counts.indptr))))


def centred_log_ratio(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """log1p of counts over the geometric mean of the cell's, of 1 more each: what Seurat and muon (axis=1) call CLR."""
    logs = _with(counts, np.log1p(counts.data))
    means = np.exp(np.asarray(logs.sum(axis=1, dtype=np.float64)).ravel() / counts.shape[1])
    return _with(counts, np.log1p(counts.data / np.repeat(means, np.diff(counts.indptr))))


def _with(matrix: sparse.csr_matrix, values: np.ndarray) -> sparse.csr_matrix:
    return sparse.csr_matrix((values.astype(np.float32), matrix.indices, matrix.indptr), shape=matrix.shape)


def make_values(counts: sparse.csr_matrix, modalities: Mapping[str, int], made_of: Mapping[str, str]) -> sparse.csr_matrix:
    """The values that a model takes, of a matrix of all its modalities; `made_of` says what of each (`facts.MODALITY_VALUES`)."""
    make = {"lognorm": log_normalized, "clr": centred_log_ratio}
    counts = counts.tocsr()
    parts = [
        make[made_of[name]](counts[:, columns]) if made_of[name] in make else counts[:, columns]
        for name, columns in columns_of(modalities)
    ]
    return sparse.hstack(parts, format="csr", dtype=np.float32)


def doubts(values: sparse.csr_matrix, modalities: Mapping[str, int], losses: list[str], made_of: Mapping[str, str]) -> list[str]:
    """What may be wrong with values that are taken as they are.

    Raises RefmapError where they are no counts, and the model takes counts.
    """
    said = []
    for (name, columns), loss in zip(columns_of(modalities), losses, strict=True):
        part = values[:, columns].data
        whole = bool((part == np.rint(part)).all() and (part >= 0).all())
        if loss in OF_COUNTS and not whole:
            raise RefmapError(
                f"The query holds no counts in the features of modality '{name}', of which the model takes counts (loss {loss}): set "
                "layer to one that holds them."
            )
        if made_of[name] == "any" and loss == "mse" and len(part) and whole and part.max() > 1:
            said.append(
                f"The query's values in modality '{name}' are whole numbers, as counts are: the model was most likely trained on "
                "normalised ones, and embeds cells elsewhere by counts."
            )
    return said


def size_factors(counts: sparse.csr_matrix, n_rna: int) -> np.ndarray:
    """The total of each cell's genes, as the library has it; of all features where a cell has no gene."""
    genes, everything = (np.asarray(part.sum(axis=1, dtype=np.float64)).ravel() for part in (counts[:, :n_rna], counts))
    return np.where(genes > 0, genes, everything)
