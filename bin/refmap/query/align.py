"""Alignment of a query to a model: its genes, in its order, as counts, and the columns it was set up with.

The plain definition: `aligned[c, g]` is the sum of `X[c, v]` over the query's columns v that resolve to the model's gene g.
It is done by chunks of cells: memory follows the chunk and not the query.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import zarr
from anndata.io import write_elem
from scipy import sparse

from ..common.errors import RefmapError, listed
from ..common.names import write_names
from ..common.storage import stored_name
from ..common.stores import COMPRESSOR, is_small, new_anndata
from .beside import read_beside
from .columns import model_obs
from .counts import Values, counts_elsewhere, looks_like_counts, normalize
from .gene_names import Translation
from .genes import Resolution, resolve_query
from .matrix import Matrix
from .modalities import wanted_layers
from .overlap import overlap_fault, overlap_warnings, repeat_warnings
from .proteins import find_proteins, write_proteins
from .query import Query
from .receptors import KEY as RECEPTORS
from .receptors import find_receptors

CHUNK_ROWS = 2048
CHUNK_VALUES = 1 << 20


class CsrWriter:
    """Appends CSR chunks to a zarr group in anndata's csr_matrix encoding, whole zarr chunks at a time."""

    def __init__(self, group: zarr.Group, shape: tuple[int, int], most_values: int):
        # scipy wants one type for indices and indptr.
        self.index_dtype = np.int32 if most_values < np.iinfo(np.int32).max else np.int64
        self.group = group
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": [int(size) for size in shape]})
        self.arrays = {"data": self._array("data", np.float32), "indices": self._array("indices", self.index_dtype)}
        self.waiting = {"data": [], "indices": []}
        self.lengths = [np.zeros(1, dtype=np.int64)]

    def _array(self, name: str, dtype, size: int = 0) -> zarr.Array:
        array = self.group.create_array(name, shape=(size,), chunks=(CHUNK_VALUES,), dtype=dtype, compressors=COMPRESSOR)
        array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        return array

    def append(self, chunk: sparse.csr_matrix) -> None:
        self.lengths.append(np.diff(chunk.indptr))
        for name in self.arrays:
            self.waiting[name].append(getattr(chunk, name))
        if sum(map(len, self.waiting["data"])) >= CHUNK_VALUES:
            self._flush(whole_chunks=True)

    def _flush(self, whole_chunks: bool) -> None:
        for name, array in self.arrays.items():
            values = np.concatenate(self.waiting[name]) if self.waiting[name] else np.empty(0, array.dtype)
            cut = len(values) // CHUNK_VALUES * CHUNK_VALUES if whole_chunks else len(values)
            held = array.shape[0]
            array.resize((held + cut,))
            array[held:] = values[:cut].astype(array.dtype, copy=False)
            self.waiting[name] = [values[cut:].copy()]

    def close(self) -> None:
        self._flush(whole_chunks=False)
        indptr = np.cumsum(np.concatenate(self.lengths))
        self._array("indptr", self.index_dtype, len(indptr))[:] = indptr.astype(self.index_dtype)


def project(chunk: sparse.csr_matrix, resolution: Resolution) -> sparse.csr_matrix:
    """A chunk's columns as the model's genes (see the module's definition): float32, sorted indices, no explicit zeros.

    A gene that the model has several times has the same values in each place, unless the query has it as often.
    """
    column = resolution.target[chunk.indices]
    kept = column >= 0
    indptr = np.concatenate([[0], np.cumsum(kept)])[chunk.indptr]
    shape = (chunk.shape[0], len(resolution.found))
    aligned = sparse.csr_matrix((chunk.data[kept].astype(np.float32), column[kept], indptr), shape=shape)
    aligned.sum_duplicates()
    aligned.eliminate_zeros()
    if (resolution.first != np.arange(shape[1])).any():
        aligned = aligned[:, resolution.first]
        aligned.sort_indices()
    return aligned


def align(
    query: Query,
    row: dict,
    card: dict,
    plan: dict,
    out: Path,
    chunk_rows: int = CHUNK_ROWS,
    progress: Callable[[int, int], None] | None = None,
    table: list[tuple[str, str]] | None = None,
    airr: Path | None = None,
) -> dict:
    """Write the aligned query to `out` (AnnData zarr, format 2) and return what alignment.json holds.

    `row`, `card` and `plan` are those of the mapping; `table` the pairs of its id table, `airr` the table of its receptors, whose
    chains of the query's cells go into ``uns['receptors']``. X is CSR float32 (cells x the model's genes) with sorted indices and
    no explicit zeros; so are further layers that the model takes. `progress` is called with the cells done and the cells in all.
    Of a query whose plan has no counts there is no gene.

    Raises RefmapError if too few genes are found or if values are not what the model wants.
    """
    with new_anndata(out, is_small(query.path)) as root:
        if plan["counted"]:
            return _align_counts(query, row, card, plan, root, chunk_rows, progress, table, airr)
        return _without_counts(query, row, card, plan, root)


def _align_counts(
    query: Query,
    row: dict,
    card: dict,
    plan: dict,
    root: zarr.Group,
    chunk_rows: int,
    progress: Callable[[int, int], None] | None,
    table: list[tuple[str, str]] | None,
    airr: Path | None,
) -> dict:
    """Write the cells and their counts; return what alignment.json holds."""
    read_beside(query, card, row["protein_key"])
    layer, *further = wanted_layers(query, row, card)
    matrix = query.matrix(layer)
    resolution = resolve_query(query, row, card, table)
    fault = overlap_fault(query, row, card, resolution, table)
    if fault:
        raise RefmapError(fault)
    warnings = overlap_warnings(query, row, card, resolution) + repeat_warnings(card, resolution)

    # Plain strings: older environments cannot read pandas' nullable ones.
    with anndata.settings.override(allow_write_nullable_strings=False):
        obs = _begin(query, row, card, plan, root, pd.DataFrame({"found": resolution.filled}, index=card["genes"]))
        proteins = _align_proteins(root, query, row, card, obs) if card["proteins"] else None
        receptors = find_receptors(query, row, card, airr)
        if receptors.table is not None:
            write_elem(root["uns"], RECEPTORS, receptors.table)
        warnings += receptors.warnings
    normalization = (
        card["normalization"] if card["input"] == "lognorm" and looks_like_counts(matrix, row["round_counts"]) else None
    )
    wants = "counts" if normalization else card["input"]
    values = Values(query, matrix, layer, wants, row["round_counts"])
    total, empty_cells = _align_matrix(
        root.create_group("X"), matrix, query, card, values, normalization, resolution, chunk_rows, progress
    )
    warnings += values.warnings
    for name in further:  # of the same values' kind
        other = query.matrix(name)
        values = Values(query, other, name, wants, row["round_counts"])
        group = root["layers"].create_group(stored_name(name))
        _align_matrix(group, other, query, card, values, None, resolution, chunk_rows, None)
        warnings += values.warnings

    if total == 0 and query.n_obs:
        raise query.fault(f"has no count in any of the model's genes in {matrix.name}; {counts_elsewhere(query, layer)}.")
    if proteins:
        warnings += proteins.pop("warnings")
    if empty_cells:
        warnings.append(
            f"query '{query.shown_as}' has {empty_cells:,} cells without a count in the model's genes: they are kept."
        )
    if normalization:
        genes = "the model's genes" if normalization.get("genes") == "model" else "all genes"
        warnings.append(
            f"query '{query.shown_as}' holds counts in {matrix.name}, and the model wants log-normalised values: they were "
            f"normalised as the reference was, log1p of counts per {normalization['target_sum']:,.0f} over {genes}."
        )
    padded = [gene for gene, found in zip(card["genes"], resolution.filled, strict=True) if not found]
    return {
        "n_cells": query.n_obs,
        "n_query_genes": len(resolution.target),
        "n_model_genes": resolution.n_wanted,
        "modalities": {name: {"matched": found, "of": of} for name, (found, of) in resolution.found_by_modality.items()},
        "matched": resolution.matched,
        "padded": len(padded),
        "dropped": resolution.dropped,
        "summed": resolution.summed,
        "ambiguous": resolution.ambiguous,
        "overlap": resolution.overlap,
        "padded_genes": padded[:200],
        "versions_stripped": resolution.stripped,
        "translated": resolution.translated,
        "taken_for": dict(list((resolution.guessed | resolution.overlapping).items())[:200]),
        "names": resolution.names.to_json(),
        "total_counts": total,
        "normalization": normalization,
        "proteins": proteins,
        "warnings": warnings,
    }


def _begin(query: Query, row: dict, card: dict, plan: dict, root: zarr.Group, var: pd.DataFrame) -> pd.DataFrame:
    """Write all but the matrices of an aligned query; return its obs."""
    obs = model_obs(query, row, card, plan)
    write_elem(root, "obs", obs.rename(columns=stored_name))
    write_names(root["obs"], query.obs_names)
    write_elem(root, "var", var.set_axis(var.index.astype(object)))
    for empty in ("obsm", "varm", "obsp", "varp", "layers", "uns"):
        write_elem(root, empty, {})
    return obs


def _without_counts(query: Query, row: dict, card: dict, plan: dict, root: zarr.Group) -> dict:
    """Write the cells alone; return what alignment.json holds, in which no gene was looked for."""
    with anndata.settings.override(allow_write_nullable_strings=False):
        _begin(query, row, card, plan, root, pd.DataFrame({"found": np.zeros(0, dtype=bool)}, index=[]))
        write_elem(root, "X", sparse.csr_matrix((query.n_obs, 0), dtype=np.float32))
    counted = (
        "n_query_genes",
        "n_model_genes",
        "matched",
        "padded",
        "dropped",
        "summed",
        "ambiguous",
        "versions_stripped",
        "translated",
    )
    lists = {"modalities": {}, "padded_genes": [], "taken_for": {}, "names": Translation().to_json(), "warnings": []}
    unknown = dict.fromkeys(("overlap", "total_counts", "normalization", "proteins"))
    return {"n_cells": query.n_obs, **dict.fromkeys(counted, 0), **unknown, **lists}


def _align_proteins(root: zarr.Group, query: Query, row: dict, card: dict, obs: pd.DataFrame) -> dict:
    proteins, match = find_proteins(query, row, card)
    group = root["obsm"].create_group(stored_name(card["protein_key"]))
    batches = obs[card["batch_key"]] if card["batch_key"] else pd.Series("all", index=obs.index, dtype="category")
    uncounted = write_proteins(group, query, proteins, match, card["proteins"], batches.array)
    if uncounted:
        match.warnings.append(
            f"query '{query.shown_as}' has no count of {len(uncounted)} of the model's proteins in a whole batch ("
            + ", ".join(f"{name} in {listed(where, 2)}" for name, where in list(uncounted.items())[:3])
            + (f" and {len(uncounted) - 3} more" if len(uncounted) > 3 else "")
            + "): there they are treated as missing, not as zero."
        )
    # In the model's order: what the query lacks altogether, and what it lacks in a batch at least.
    incomplete = [name for name in card["proteins"] if name in match.missing or name in uncounted]
    write_elem(root["uns"], "proteins_missing", np.array(match.missing, dtype=object))
    write_elem(root["uns"], "proteins_incomplete", np.array(incomplete, dtype=object))
    return {"matched": len(card["proteins"]) - len(match.missing), "missing": match.missing, "warnings": match.warnings}


def _align_matrix(
    group: zarr.Group,
    matrix: Matrix,
    query: Query,
    card: dict,
    values: Values,
    normalization: dict | None,
    resolution: Resolution,
    chunk_rows: int,
    progress: Callable[[int, int], None] | None,
) -> tuple[float, int]:
    """Write X by chunks of cells; return the sum of the values before `normalization`, and the number of cells without any."""
    shape = (query.n_obs, len(card["genes"]))
    most_values = matrix.most_values * int(np.bincount(resolution.first).max())
    writer = CsrWriter(group, shape, min(most_values, shape[0] * shape[1]))
    total, empty_cells = 0.0, 0
    for start, chunk in matrix.chunks(chunk_rows):
        values.check(start, chunk)
        aligned = project(chunk, resolution)
        total += float(aligned.data.sum(dtype=np.float64))
        if normalization:
            counted = aligned if normalization.get("genes") == "model" else chunk
            totals = np.asarray(counted.sum(axis=1, dtype=np.float64)).ravel()
            aligned = normalize(aligned, totals, normalization["target_sum"])
        writer.append(aligned)
        empty_cells += int((np.diff(aligned.indptr) == 0).sum())
        if progress:
            progress(start + chunk.shape[0], query.n_obs)
    writer.close()
    values.finish(any_value=total != 0)
    return total, empty_cells
