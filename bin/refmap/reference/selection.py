"""Which genes of an atlas a reference is trained on. scanpy is imported where it is used: it takes its time."""

from __future__ import annotations

import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from ..common.errors import RefmapError, listed
from ..families.gmt import programs_of, read_gmt
from ..query.align import CHUNK_ROWS, project
from ..query.counts import Values, looks_like_counts
from ..query.elements import as_text
from ..query.genes import resolve, resolve_query
from ..query.query import Query

# The genes of an atlas rank the same on so many of its cells, whose counts are a few hundred MB; an atlas has no bound.
MOST_CELLS = 30_000
# A batch of fewer ranks genes by chance.
FEWEST_IN_BATCH = 20


def variable_genes(query: Query, row: dict, card: dict, candidates: np.ndarray, n_top: int, seed: int) -> np.ndarray:
    """Choose the genes that vary most within the batches of an atlas, as scanpy ranks them.

    Of counts by the variance of their Pearson residuals (Lause, Berens & Kobak 2021, doi:10.1186/s13059-021-02451-7): scanpy
    computes these on sparse counts, gene by gene, and needs no library but its own, where seurat_v3 needs scikit-misc. Of
    log-normalised values, by their dispersion. Both count in how many batches a gene is among the first. They are computed on a
    sample of at most `MOST_CELLS` cells, the same number of each batch where it has as many.

    Parameters
    ----------
    query, row, card
        The atlas, as what it is aligned to.
    candidates
        Int, places in the card's genes that are chosen from.
    n_top
        How many to choose; all where there are no more.

    Returns
    -------
    Places in the card's genes, ascending.

    Raises
    ------
    RefmapError
        If values are not what the card's model wants.
    """
    if n_top >= len(candidates):
        return candidates
    batches = as_text(query.obs_column(row["batch_key"])) if row["batch_key"] else np.full(query.n_obs, "")
    drawn = sample_by_group(batches, MOST_CELLS, seed)
    cells, counts = _read(query, row, card, candidates, drawn)
    batches = batches[drawn]
    names, sizes = np.unique(batches, return_counts=True)
    large = np.isin(batches, names[sizes >= FEWEST_IN_BATCH])
    if not large.any():  # then there are no batches to speak of
        batches, large = np.full(len(batches), ""), np.full(len(batches), True)
    found = ad.AnnData(cells[large], obs=pd.DataFrame({"batch": pd.Categorical(batches[large])}, index=_names(large.sum())))
    return candidates[np.flatnonzero(_rank(found, n_top, counts))]


def _names(n: int) -> pd.Index:
    return pd.Index([str(i) for i in range(n)], dtype=object)


def _rank(cells: ad.AnnData, n_top: int, counts: bool) -> np.ndarray:
    import scanpy as sc

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if counts:
            table = sc.experimental.pp.highly_variable_genes(
                cells, flavor="pearson_residuals", n_top_genes=n_top, batch_key="batch", check_values=False, inplace=False
            )
        else:
            table = sc.pp.highly_variable_genes(cells, flavor="seurat", n_top_genes=n_top, batch_key="batch", inplace=False)
    return table["highly_variable"].to_numpy(bool)


def sample_by_group(groups: np.ndarray, most: int, seed: int, of_each: int | None = None) -> np.ndarray:
    """Draw at most `most` cells, the same number of each group (at most `of_each`), and of those that have fewer all.

    Returns their rows, ascending.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(groups))
    codes = np.unique(groups, return_inverse=True)[1]
    # The first cells of all groups come before the second ones, and so on
    shuffled = codes[order]
    by_group = np.argsort(shuffled, kind="stable")
    starts = np.searchsorted(shuffled[by_group], shuffled[by_group], side="left")
    turn = np.empty(len(groups), dtype=np.int64)
    turn[by_group] = np.arange(len(groups)) - starts
    wanted = np.argsort(turn, kind="stable")[:most]
    return np.sort(order[wanted if of_each is None else wanted[turn[wanted] < of_each]])


def _read(query: Query, row: dict, card: dict, candidates: np.ndarray, drawn: np.ndarray) -> tuple[sparse.csr_matrix, bool]:
    """The values of the drawn cells (CSR float32, cells x candidates), read in one pass; and whether they are counts."""
    matrix, resolution = query.matrix(row["layer"]), resolve_query(query, row, card)
    counts = card["input"] == "counts" or looks_like_counts(matrix)
    values = Values(query, matrix, row["layer"], "counts" if counts else card["input"], False)
    parts = []
    for start, chunk in matrix.chunks(CHUNK_ROWS):
        values.check(start, chunk)
        here = drawn[(start <= drawn) & (drawn < start + chunk.shape[0])] - start
        parts.append(project(chunk[here], resolution)[:, candidates])
    return sparse.vstack(parts, format="csr"), counts


def listed_genes(path: Path, shown: str, genes: list[str]) -> tuple[np.ndarray, list[str]]:
    """Find the genes of a list, one id a line, among an atlas's.

    Returns
    -------
    Places in `genes`, ascending, and what is to be said of those that are not there.

    Raises
    ------
    RefmapError
        If the file is no text, or holds none of the genes.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise RefmapError(f"reference_genes '{shown}' is no text: give one id of a gene a line.") from None
    wanted = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    target = resolve(wanted, genes).target if wanted else np.empty(0, dtype=np.int32)
    found = np.unique(target[target >= 0]).astype(np.int64)
    if not len(found):
        raise RefmapError(
            f"reference_genes '{shown}' names {listed(wanted, 3)}, and none of the reference's genes, such as {listed(genes[:3])}: "
            "give one id a line, of the kind that the reference has, or name the column of its var that holds others with reference_var_key."
        )
    unknown = [gene for gene, place in zip(wanted, target, strict=True) if place < 0]
    if not unknown:
        return found, []
    return found, [
        f"reference_genes '{shown}' names {len(unknown):,} of {len(wanted):,} genes that the reference has not "
        f"({listed(unknown, 3)}): it is trained on the other {len(found):,}."
    ]


def genes_of_programs(path: Path, shown: str, genes: list[str]) -> np.ndarray:
    """Places in `genes` of those that are in a gene programme of a GMT file; all where none is, which the training tells."""
    _, members = programs_of(genes, read_gmt(path, shown))
    return np.flatnonzero(members.any(axis=0)) if members.any() else np.arange(len(genes))
