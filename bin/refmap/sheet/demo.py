"""The demo: real PBMCs, split into a reference and three query files that differ in the ways that real queries do."""

from __future__ import annotations

import csv
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

from ..common.errors import RefmapError
from ..common.storage import write_zarr

if TYPE_CHECKING:
    from anndata import AnnData

REFERENCE_SHARE = 4 / 7

# How far the recovered counts may be from whole numbers: median, 99th percentile, worst (measured: 0, 0.0110, 0.112).
RESIDUE = (0.0, 0.0115, 0.12)

DATASETS_YAML = """\
# The format of scAtlasTb's DATASETS. Paths are relative to this file.
# No `model` is named, so that every query is mapped onto the reference that the run trains.
DATASETS:
  pbmc:
    input:
      reference_mapping:
        donor_1: donor_1.h5ad        # a fifth of the genes is missing, the rest is shuffled
        donor_2: donor_2.zarr        # extra genes, and genes in two columns; one batch is named as one of the reference
    reference_mapping:
      scarches:
        layer: layers/counts         # X holds log-normalised values
        model_params:
          batch_key: donor
        truth_key: cell_type         # only scores the predicted labels, the model never sees it
      umap_colors: [donor]
  clinic:
    input:
      reference_mapping:
        patient_1: patient_1.h5ad
    reference_mapping:
      scarches:
        var_key: gene_id             # Ensembl-style ids with versions (made up: the source file has symbols only)
        id_table: gene_ids.csv       # and what they are called in the reference
        model_params:
          batch_key: sample
        truth_key: cell_type
"""


def pbmc_counts() -> AnnData:
    """Return the 700 PBMCs x 765 genes that scanpy ships, as counts.

    The file's ``raw.X`` is the log1p of counts scaled by one factor a cell. Every cell has a gene that was counted once,
    so the smallest nonzero value of a cell is its factor, and dividing by it gives the counts back.

    X is CSR float32 of whole numbers; ``obs`` has ``bulk_labels`` (10 cell types) and ``batch`` (``ref_a`` or ``ref_b``,
    drawn with a fixed seed: the source names no donors). Only anndata is imported, not scanpy.

    Raises RefmapError when the file is not there or is not the one this was written for.
    """
    import anndata as ad

    source = ad.read_h5ad(_pbmc_file())
    batch = np.random.default_rng(0).choice(["ref_a", "ref_b"], size=source.n_obs)
    return ad.AnnData(
        X=_undo_scaling(sp.csr_matrix(source.raw.X, dtype=np.float64)),
        obs=pd.DataFrame(
            {"bulk_labels": _categorical(source.obs["bulk_labels"]), "batch": _categorical(batch)},
            index=_plain_index(source.obs_names),
        ),
        var=pd.DataFrame(index=_plain_index(source.raw.var_names)),
    )


def _pbmc_file() -> Path:
    """Return where scanpy keeps its small PBMC file, without the seconds that importing scanpy takes."""
    spec = find_spec("scanpy")
    path = Path(spec.origin).parent / "datasets" / "10x_pbmc68k_reduced.h5ad" if spec else None
    if path is None or not path.exists():
        raise RefmapError(
            "The demo needs the file 10x_pbmc68k_reduced.h5ad of the Python package scanpy, which is not installed."
        )
    return path


def _undo_scaling(logged: sp.csr_matrix) -> sp.csr_matrix:
    """Return the counts (cells x genes, float32) behind log1p values that were scaled by one factor a cell."""
    scaled = logged.expm1()
    smallest = np.minimum.reduceat(scaled.data, scaled.indptr[:-1])
    scaled.data /= np.repeat(smallest, np.diff(scaled.indptr))
    counts = np.rint(scaled.data)
    residue = np.abs(scaled.data - counts)
    found = [float(np.quantile(residue, q)) for q in (0.5, 0.99, 1)]
    if any(value > limit for value, limit in zip(found, RESIDUE, strict=True)):
        raise RefmapError(
            "The PBMC file of the installed scanpy does not hold scaled counts: they miss whole numbers by "
            f"{found[0]:.2g} (median), {found[1]:.2g} (99 %) and {found[2]:.2g} (worst), where at most {RESIDUE[0]}, "
            f"{RESIDUE[1]} and {RESIDUE[2]} were expected; install the scanpy that the lock names."
        )
    scaled.data = counts.astype(np.float32)
    return scaled.astype(np.float32)


def make_demo(folder: Path, seed: int = 0) -> Path:
    """Write the demo's reference, its two datasets with three queries and its ``datasets.yaml``; return the YAML's path.

    reference.h5ad   401 cells, counts in X, obs ``batch`` and ``bulk_labels``
    donor_1.h5ad     100 cells, a fifth of the genes missing, shuffled; log-normalised X, counts in the layer ``counts``
    donor_2.zarr     100 cells, 40 extra genes, 20 genes in two columns; a batch named as one of the reference
    patient_1.h5ad   99 cells , counts in X, var ``gene_id`` with Ensembl-style ids and versions
    gene_ids.csv     those ids, without versions, and the symbols

    The queries' cells are not in the reference; their labels stand in obs ``cell_type``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    cells = pbmc_counts()
    in_reference = stratified(cells.obs["bulk_labels"], REFERENCE_SHARE, rng)
    held_out = rng.permutation(np.flatnonzero(~in_reference))
    first, second, third = (cells[np.sort(part)].copy() for part in np.array_split(held_out, 3))

    cells[in_reference].copy().write_h5ad(folder / "reference.h5ad")
    _normalised(_fewer_genes(_query(first, "donor", ["donor_1a", "donor_1b"], rng), rng)).write_h5ad(folder / "donor_1.h5ad")
    write_zarr(_normalised(_more_columns(_query(second, "donor", ["donor_2", "ref_a"], rng), rng)), folder / "donor_2.zarr")
    _with_gene_ids(_query(third, "sample", ["visit_1", "visit_2"], rng)).write_h5ad(folder / "patient_1.h5ad")
    _write_id_table(folder / "gene_ids.csv", cells.var_names)
    path = folder / "datasets.yaml"
    path.write_text(DATASETS_YAML)
    return path


def stratified(labels: pd.Series, share: float, rng: np.random.Generator) -> np.ndarray:
    """Return a mask (cells) that holds this share of every label."""
    mask = np.zeros(len(labels), dtype=bool)
    for label in labels.cat.categories:
        members = np.flatnonzero(labels == label)
        mask[rng.choice(members, size=round(share * len(members)), replace=False)] = True
    return mask


def _query(cells: AnnData, batch_key: str, batches: list[str], rng: np.random.Generator) -> AnnData:
    """Give the cells batches of their own, and their labels under another name than the reference's."""
    cells.obs = pd.DataFrame(
        {batch_key: _categorical(rng.choice(batches, size=cells.n_obs)), "cell_type": _categorical(cells.obs["bulk_labels"])},
        index=cells.obs_names,
    )
    return cells


def _fewer_genes(cells: AnnData, rng: np.random.Generator) -> AnnData:
    return cells[:, rng.permutation(cells.n_vars)[: round(0.8 * cells.n_vars)]].copy()


def _more_columns(cells: AnnData, rng: np.random.Generator) -> AnnData:
    """Add 40 genes that the reference lacks, and part the counts of 20 genes into two columns of the same name."""
    import anndata as ad

    twice = np.sort(rng.choice(cells.n_vars, size=20, replace=False))
    whole = cells.X[:, twice].toarray()
    part = rng.binomial(whole.astype(int), 0.5)
    kept = cells.X.toarray()
    kept[:, twice] -= part
    extra = rng.poisson(0.5, size=(cells.n_obs, 40))
    names = [*cells.var_names, *(f"EXTRA{i}" for i in range(1, 41)), *cells.var_names[twice]]
    order = rng.permutation(len(names))
    counts = sp.csr_matrix(np.hstack([kept, extra, part])[:, order], dtype=np.float32)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Variable names are not unique")
        return ad.AnnData(counts, obs=cells.obs, var=pd.DataFrame(index=_plain_index(names[i] for i in order)))


def _normalised(cells: AnnData) -> AnnData:
    """Move the counts to the layer ``counts`` and put log1p of counts per 10,000 into X."""
    cells.layers["counts"] = cells.X.copy()
    cells.X = sp.csr_matrix(cells.X.multiply(1e4 / cells.X.sum(axis=1)), dtype=np.float32).log1p()
    return cells


def _gene_ids(genes: pd.Index) -> list[str]:
    """Return Ensembl-style ids. They are made up, ENSG999 and the rank of the symbol: no real gene has such a number."""
    rank = {gene: i for i, gene in enumerate(sorted(genes), start=1)}
    return [f"ENSG999{rank[gene]:08d}" for gene in genes]


def _with_gene_ids(cells: AnnData) -> AnnData:
    """Name the genes by Ensembl-style ids with versions in var ``gene_id``; the index becomes mere numbers."""
    versioned = [f"{gene_id}.{1 + i % 9}" for i, gene_id in enumerate(_gene_ids(cells.var_names))]
    cells.var = pd.DataFrame({"gene_id": np.array(versioned, dtype=object)}, index=_plain_index(range(cells.n_vars)))
    return cells


def _write_id_table(path: Path, genes: pd.Index) -> None:
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["gene_id", "symbol"])
        table.writerows(zip(_gene_ids(genes), genes, strict=True))


def _categorical(values: object) -> pd.Categorical:
    """Return the values as a categorical of plain Python strings, which every version of anndata reads."""
    codes, categories = pd.factorize(np.asarray(values, dtype=object), sort=True)
    return pd.Categorical.from_codes(codes, categories=pd.Index(categories, dtype=object))


def _plain_index(names: object) -> pd.Index:
    return pd.Index([str(name) for name in names], dtype=object)
