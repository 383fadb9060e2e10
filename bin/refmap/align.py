"""Alignment of a query to a model: its genes, in its order, as counts, and the columns it was set up with.

The plain definition: `aligned[c, g]` is the sum of `X[c, v]` over the query's columns v that resolve to the model's gene g.
It is done by chunks of cells: memory follows the chunk and not the query.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import anndata
import numcodecs
import numpy as np
import pandas as pd
import zarr
from anndata.io import write_elem
from scipy import sparse

from .errors import RefmapError
from .query import Matrix, Proteins, Query, as_text, layer_name, listed, spans

ENSEMBL_VERSION = re.compile(r"(ENS[A-Z]*[GTP]\d{6,})\.\d+")
PROTEIN_SUFFIX = re.compile(r"[_-]TotalSeq[-_]?[ABCD]?$", re.IGNORECASE)
# How far a count may lie from a whole number, relative to its size: what float32 leaves of one that was scaled and scaled back.
FRACTION = 1e-6
# Where the model knows no name for 'no label'.
UNLABELED = "Unknown"
CHUNK_ROWS = 2048
CHUNK_VALUES = 1 << 20
PROTEIN_ROWS = 1 << 16
COMPRESSOR = numcodecs.Blosc(cname="lz4", clevel=5, shuffle=numcodecs.Blosc.SHUFFLE)


# Which gene is which


@dataclass(frozen=True)
class Resolution:
    """For each column of the query, the index of the model's gene it counts for, or -1; and how that came about, in columns."""

    target: np.ndarray  # (query columns,) int32
    found: np.ndarray  # (model genes,) bool
    stripped: int
    translated: int
    ambiguous: int

    @property
    def matched(self) -> int:
        """Genes of the model that the query has."""
        return int(self.found.sum())

    @property
    def dropped(self) -> int:
        """Columns of the query that count for no gene of the model."""
        return int((self.target < 0).sum())

    @property
    def summed(self) -> int:
        """Columns of the query that are merged into another."""
        return len(self.target) - self.dropped - self.matched

    @property
    def overlap(self) -> float:
        """The share of the model's genes that the query has."""
        return self.matched / len(self.found)


def strip_version(gene: str) -> str:
    """ENSG00000141510.18 -> ENSG00000141510; anything that is no versioned Ensembl id stays as it is."""
    match = ENSEMBL_VERSION.fullmatch(gene)
    return match.group(1) if match else gene


class _Genes:
    """The model's genes by id: exactly, or else with the versions stripped on both sides."""

    def __init__(self, genes: Sequence[str]):
        self.exact: dict[str, int] = {}
        self.stripped: dict[str, set[int]] = defaultdict(set)
        for index, gene in enumerate(genes):
            self.exact.setdefault(gene, index)
            self.stripped[strip_version(gene)].add(index)

    def find(self, gene: str) -> set[int]:
        if gene in self.exact:
            return {self.exact[gene]}
        return self.stripped.get(strip_version(gene), set())


def resolve(
    query_ids: Sequence[str], model_genes: Sequence[str], table: Iterable[tuple[str, str]] | None = None
) -> Resolution:
    """Find the model's gene for each column of a query.

    An id is looked up exactly; else with Ensembl versions stripped; else through the pairs of `table`, in either direction.
    An id that leads to several genes of the model is ambiguous and counts for none.
    """
    genes = _Genes(model_genes)
    partners = defaultdict(set)
    for one, other in table or ():
        partners[strip_version(one)].add(other)
        partners[strip_version(other)].add(one)

    target = np.full(len(query_ids), -1, dtype=np.int32)
    stripped = translated = ambiguous = 0
    for column, gene in enumerate(query_ids):
        hits = genes.find(gene)
        through_table = not hits
        if through_table:
            hits = set().union(*(genes.find(partner) for partner in partners.get(strip_version(gene), ())))
        if len(hits) == 1:
            (target[column],) = hits
            translated += through_table
            stripped += not through_table and gene not in genes.exact
        ambiguous += len(hits) > 1
    found = np.zeros(len(model_genes), dtype=bool)
    found[target[target >= 0]] = True
    return Resolution(target, found, stripped, translated, ambiguous)


def read_id_table(path: Path, shown_as: str | None = None) -> list[tuple[str, str]]:
    """Pairs of ids from a CSV or TSV of two columns; a header does no harm, since no gene is called like it.

    Raises RefmapError if it cannot be read or has not two columns.
    """
    shown_as = shown_as or str(path)
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RefmapError(
            f"id_table '{shown_as}' cannot be read ({error}): give a CSV or TSV of two columns."
        ) from error
    delimiter = "\t" if any("\t" in line for line in lines[:1]) else ","
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter) if any(row)]
    if not rows:
        raise RefmapError(f"id_table '{shown_as}' is empty: give a CSV or TSV of two columns.")
    for number, row in enumerate(rows, 1):
        if len(row) != 2:
            raise RefmapError(
                f"id_table '{shown_as}' has {len(row)} columns in row {number}: give a CSV or TSV of two columns."
            )
    return [(one, other) for one, other in rows if one and other]


def overlap_fault(
    query: Query, row: dict, card: dict, resolution: Resolution, table: list[tuple[str, str]] | None
) -> str | None:
    """The sentence that refuses a query with too few of the model's genes, or None.

    It names the columns of var whose values would do better.
    """
    if resolution.overlap >= row["min_gene_overlap"] and resolution.matched:
        return None
    ids = query.gene_ids(row["layer"], row["var_key"])
    where = f"var column '{row['var_key']}'" if row["var_key"] else "the var index"
    if resolution.matched:
        found = (
            f"has {resolution.matched:,} of the model's {len(card['genes']):,} genes ({resolution.overlap:.1%}), "
            f"fewer than min_gene_overlap ({row['min_gene_overlap']:.0%})"
        )
    else:
        found = f"has none of the model's {len(card['genes']):,} genes: {where} has {listed(ids[:3])}, the model has {listed(card['genes'][:3])}"
    better = {
        key: gain
        for key, gain in _gene_columns(query, row, card, table).items()
        if gain > resolution.matched and key != row["var_key"]
    }
    if better:
        fix = "set var_key: " + " or ".join(f"'{key}' (gives {gain:,} genes)" for key, gain in better.items())
    else:
        fix = "set var_key to a column of var with the model's kind of ids, give an id_table, or use a model of the same species and ids"
    return str(query.fault(f"{found}; {fix}."))


def _gene_columns(query: Query, row: dict, card: dict, table) -> dict[str, int]:
    """How many of the model's genes each text column of var would give, best first."""
    frame = query.gene_frame(row["layer"])
    gains = {}
    for column in frame.columns:
        values = frame[column]
        if not pd.api.types.is_numeric_dtype(values.dtype):
            gains[column] = resolve(as_text(values), card["genes"], table).matched
    return dict(sorted(((key, gain) for key, gain in gains.items() if gain), key=lambda item: -item[1])[:3])


# Are counts counts?


def check_values(values: np.ndarray, wants: str) -> str | None:
    """What is wrong with values of a matrix for a model that wants 'counts', 'lognorm' or 'any': a phrase, or None."""
    if values.dtype.kind in "iub":
        wrong = {"negative": values < 0} if wants == "counts" else {}
    else:
        wrong = {"NaN or infinite": ~np.isfinite(values)}
        if wants == "counts":
            with np.errstate(invalid="ignore"):
                wrong["negative"] = values < 0
                wrong["fractional"] = np.abs(values - np.rint(values)) > FRACTION * np.maximum(1, np.abs(values))
    for what, bad in wrong.items():
        if bad.any():
            return (
                f"{int(bad.sum()):,} {what} value{'s' if bad.sum() > 1 else ''} (such as {values[np.argmax(bad)]:.6g})"
            )
    return None


def counts_elsewhere(query: Query, layer: str) -> str:
    """What to do when a layer holds no counts: the other layers that look like counts, by a sample of each."""
    fixes = []
    for other in query.layers:
        if other != layer:
            values = query.matrix(other).sample()
            if values.any() and check_values(values, "counts") is None:
                fixes.append(f"{layer_name(other)} looks like counts: set layer: {other}")
    return "; ".join(fixes) or "no other layer looks like counts: give a query with raw counts"


class Values:
    """Checks the values of a matrix chunk by chunk."""

    def __init__(self, query: Query, matrix: Matrix, layer: str, wants: str):
        self.query, self.matrix, self.layer, self.wants = query, matrix, layer, wants
        self.only_whole = True

    def check(self, start: int, chunk: sparse.csr_matrix) -> None:
        """Raises RefmapError naming the layer, what was found in these cells, and the fix."""
        wrong = check_values(chunk.data, self.wants)
        if wrong:
            found = f"{wrong} in cells {start + 1:,} to {start + chunk.shape[0]:,}"
            if self.wants == "counts":
                raise self.query.fault(
                    f"holds no counts in {self.matrix.name}: {found}; {counts_elsewhere(self.query, self.layer)}."
                )
            raise self.query.fault(f"has {found} of {self.matrix.name}: remove or replace them.")
        if self.wants == "lognorm" and self.only_whole:
            self.only_whole = bool((chunk.data == np.rint(chunk.data)).all())

    def finish(self, any_value: bool) -> None:
        """Raises RefmapError if counts were given to a model that wants log-normalised values."""
        if self.wants == "lognorm" and self.only_whole and any_value:
            raise self.query.fault(
                f"holds only whole numbers in {self.matrix.name}, but the model wants log-normalised values: "
                "set layer to one that holds log1p of counts scaled per cell."
            )


# The columns the model was set up with


def pair_covariates(row_keys: Sequence[str], model_keys: Sequence[str]) -> dict[str, str]:
    """The query's column for each of the model's covariates: of the same name, else the next in order. Equal numbers of both."""
    rest = iter([key for key in row_keys if key not in model_keys])
    return {key: key if key in row_keys else next(rest) for key in model_keys}


def unlabeled(card: dict) -> str:
    return UNLABELED if card["unlabeled_category"] is None else card["unlabeled_category"]


def model_obs(query: Query, row: dict, card: dict, plan: dict) -> pd.DataFrame:
    """The columns of obs that the model reads, under its own keys; the index holds the query's cells, in order."""
    obs = pd.DataFrame(index=pd.Index(query.obs_names, dtype=object))
    if card["batch_key"]:
        obs[card["batch_key"]] = pd.Categorical(_batches(query, row, plan))
    if card["labels_key"]:
        obs[card["labels_key"]] = pd.Categorical(_labels(query, row, card))
    for key, column in pair_covariates(row["categorical_covariate_keys"], card["categorical_covariates"]).items():
        obs[key] = pd.Categorical(as_text(query.obs_column(column)))
    for key, column in pair_covariates(row["continuous_covariate_keys"], card["continuous_covariates"]).items():
        obs[key] = query.obs_column(column).to_numpy(float)
    if card["size_factor_key"]:
        obs[card["size_factor_key"]] = query.obs_column(row["size_factor_key"]).to_numpy(float)
    return obs


def _batches(query: Query, row: dict, plan: dict) -> np.ndarray:
    names = {value: batch["name"] for value, batch in plan["batches"].items()}
    if row["one_batch"]:
        return np.full(query.n_obs, next(iter(names.values())), dtype=object)
    return np.array([names[value] for value in as_text(query.obs_column(row["batch_key"]))], dtype=object)


def _labels(query: Query, row: dict, card: dict) -> np.ndarray:
    """The query's labels. One that is missing, or that a classifier cannot know, is the unlabeled category."""
    if not row["labels_key"]:
        return np.full(query.n_obs, unlabeled(card), dtype=object)
    labels = as_text(query.obs_column(row["labels_key"]))
    usable = labels != ""
    if card["unlabeled_category"] is not None:
        usable &= np.isin(labels, card["labels"])
    labels[~usable] = unlabeled(card)
    return labels


# Proteins


@dataclass(frozen=True)
class ProteinMatch:
    """For each protein of the model the query's column, or -1; the model's proteins that are missing; and warnings."""

    source: np.ndarray  # (model proteins,) int64
    missing: list[str]
    warnings: list[str]


def match_proteins(query: Query, names: Sequence[str], wanted: Sequence[str]) -> ProteinMatch:
    """Match proteins by name: exactly, else without regard to case and to 10x's `_TotalSeqB` where that leaves no doubt.

    Raises RefmapError if none is found.
    """

    def plain(name: str) -> str:
        return PROTEIN_SUFFIX.sub("", name).casefold()

    exact = {name: column for column, name in enumerate(names)}
    loose = defaultdict(list)
    for column, name in enumerate(names):
        loose[plain(name)].append(column)
    unique_in_model = pd.Series([plain(name) for name in wanted]).duplicated(keep=False)

    source, guessed = np.full(len(wanted), -1, dtype=np.int64), []
    for index, name in enumerate(wanted):
        alike = loose.get(plain(name), [])
        if name in exact:
            source[index] = exact[name]
        elif len(alike) == 1 and names[alike[0]] not in wanted and not unique_in_model[index]:
            source[index] = alike[0]
            guessed.append(f"{names[alike[0]]} as {name}")
    missing = [name for name, column in zip(wanted, source, strict=True) if column < 0]
    if len(missing) == len(wanted):
        raise query.fault(
            f"has none of the model's {len(wanted)} proteins: it has {listed(names[:3])}, the model has {listed(wanted[:3])}; "
            "rename them to the model's names."
        )
    warnings = []
    if guessed:
        warnings.append(f"{len(guessed)} proteins were matched by similar names: {', '.join(guessed[:5])}.")
    if missing:
        warnings.append(
            f"{len(missing)} of the model's {len(wanted)} proteins are not in the query: {listed(missing, 5)}."
        )
    return ProteinMatch(source, missing, warnings)


def find_proteins(query: Query, row: dict, card: dict) -> tuple[Proteins, ProteinMatch]:
    """The query's proteins and how they match the model's.

    Raises RefmapError if the query has none.
    """
    key = row["protein_key"] or card["protein_key"]
    if not key:
        raise query.fault(
            f"needs proteins, for the model has {len(card['proteins'])}: set protein_key to where the query holds them."
        )
    proteins = query.proteins(key)
    return proteins, match_proteins(query, proteins.names, card["proteins"])


# Writing


class CsrWriter:
    """Appends CSR chunks to a zarr group in anndata's csr_matrix encoding, whole zarr chunks at a time."""

    def __init__(self, group: zarr.Group, shape: tuple[int, int], most_values: int):
        # scipy wants one type for indices and indptr.
        self.index_dtype = np.int32 if most_values < np.iinfo(np.int32).max else np.int64
        self.group = group
        group.attrs.update(
            {"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": [int(size) for size in shape]}
        )
        self.arrays = {"data": self._array("data", np.float32), "indices": self._array("indices", self.index_dtype)}
        self.waiting = {"data": [], "indices": []}
        self.lengths = [np.zeros(1, dtype=np.int64)]

    def _array(self, name: str, dtype, size: int = 0) -> zarr.Array:
        array = self.group.create_array(
            name, shape=(size,), chunks=(CHUNK_VALUES,), dtype=dtype, compressors=COMPRESSOR
        )
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
    """A chunk's columns as the model's genes (see the module's definition): float32, sorted indices, no explicit zeros."""
    column = resolution.target[chunk.indices]
    kept = column >= 0
    indptr = np.concatenate([[0], np.cumsum(kept)])[chunk.indptr]
    shape = (chunk.shape[0], len(resolution.found))
    aligned = sparse.csr_matrix((chunk.data[kept].astype(np.float32), column[kept], indptr), shape=shape)
    aligned.sum_duplicates()
    aligned.eliminate_zeros()
    return aligned


def write_proteins(
    group: zarr.Group, query: Query, proteins: Proteins, match: ProteinMatch, names: Sequence[str]
) -> None:
    """Write a table (cells x the model's proteins, float32) by blocks of cells; a missing protein is zero in every cell.

    Raises RefmapError if the values are no counts.
    """
    size, rows = proteins.n_obs, PROTEIN_ROWS
    group.attrs.update(
        {"encoding-type": "dataframe", "encoding-version": "0.2.0", "_index": "_index", "column-order": list(names)}
    )
    write_elem(group, "_index", query.obs_names)
    columns = []
    for name in names:
        columns.append(
            group.create_array(name, shape=(size,), chunks=(rows,), dtype=np.float32, compressors=COMPRESSOR)
        )
        columns[-1].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    for start, stop in spans(size, rows):
        with query.reading(proteins.name):
            block = proteins.rows(start, stop)
        used = np.zeros((stop - start, len(names)))
        used[:, match.source >= 0] = block[:, match.source[match.source >= 0]]
        wrong = check_values(used.ravel(), "counts")
        if wrong:
            raise query.fault(
                f"holds no protein counts in {proteins.name}: {wrong}; set protein_key to where the raw counts are."
            )
        for column, values in zip(columns, np.rint(used).T, strict=True):
            column[start:stop] = values.astype(np.float32)


def overlap_warnings(query: Query, row: dict, card: dict, resolution: Resolution) -> list[str]:
    """Sentences about genes that are no reason to stop."""
    warnings = []
    if resolution.overlap < row["warn_gene_overlap"]:
        warnings.append(
            f"query '{query.shown_as}' has {resolution.matched:,} of the model's {len(card['genes']):,} genes "
            f"({resolution.overlap:.1%}, less than {row['warn_gene_overlap']:.0%}): the others are filled with zeros."
        )
    if resolution.ambiguous:
        warnings.append(
            f"query '{query.shown_as}' has {resolution.ambiguous:,} gene ids that lead to several genes of the model: they are left out."
        )
    return warnings


def align(
    query: Query,
    row: dict,
    card: dict,
    plan: dict,
    out: Path,
    chunk_rows: int = CHUNK_ROWS,
    progress: Callable[[int, int], None] | None = None,
    table: list[tuple[str, str]] | None = None,
) -> dict:
    """Write the aligned query to `out` (AnnData zarr, format 2) and return what alignment.json holds.

    `row`, `card` and `plan` are those of the mapping; `table` the pairs of its id table. X is CSR float32 (cells x the model's
    genes) with sorted indices and no explicit zeros. `progress` is called with the cells done and the cells in all.

    Raises RefmapError if too few genes are found or if values are not what the model wants.
    """
    matrix = query.matrix(row["layer"])
    resolution = resolve(query.gene_ids(row["layer"], row["var_key"]), card["genes"], table)
    fault = overlap_fault(query, row, card, resolution, table)
    if fault:
        raise RefmapError(fault)
    warnings = overlap_warnings(query, row, card, resolution)

    root = zarr.open_group(out, mode="w", zarr_format=2)
    root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    # Plain strings: older environments cannot read pandas' nullable ones.
    with anndata.settings.override(allow_write_nullable_strings=False):
        write_elem(root, "obs", model_obs(query, row, card, plan))
        write_elem(root, "var", pd.DataFrame({"found": resolution.found}, index=pd.Index(card["genes"], dtype=object)))
        for empty in ("obsm", "varm", "obsp", "varp", "layers", "uns"):
            write_elem(root, empty, {})
        proteins = _align_proteins(root, query, row, card) if card["proteins"] else None
    total, empty_cells = _align_matrix(
        root.create_group("X"), matrix, query, row, card, resolution, chunk_rows, progress
    )

    if proteins:
        warnings += proteins.pop("warnings")
    if empty_cells:
        warnings.append(
            f"query '{query.shown_as}' has {empty_cells:,} cells without a count in the model's genes: they are kept."
        )
    padded = [gene for gene, found in zip(card["genes"], resolution.found, strict=True) if not found]
    return {
        "n_cells": query.n_obs,
        "n_query_genes": len(resolution.target),
        "n_model_genes": len(card["genes"]),
        "matched": resolution.matched,
        "padded": len(padded),
        "dropped": resolution.dropped,
        "summed": resolution.summed,
        "ambiguous": resolution.ambiguous,
        "overlap": resolution.overlap,
        "padded_genes": padded[:200],
        "versions_stripped": resolution.stripped,
        "translated": resolution.translated,
        "total_counts": total,
        "proteins": proteins,
        "warnings": warnings,
    }


def _align_proteins(root: zarr.Group, query: Query, row: dict, card: dict) -> dict:
    proteins, match = find_proteins(query, row, card)
    group = root["obsm"].create_group(card["protein_key"])
    write_proteins(group, query, proteins, match, card["proteins"])
    write_elem(root["uns"], "proteins_missing", np.array(match.missing, dtype=object))
    return {"matched": len(card["proteins"]) - len(match.missing), "missing": match.missing, "warnings": match.warnings}


def _align_matrix(
    group: zarr.Group,
    matrix: Matrix,
    query: Query,
    row: dict,
    card: dict,
    resolution: Resolution,
    chunk_rows: int,
    progress: Callable[[int, int], None] | None,
) -> tuple[float, int]:
    """Write X by chunks of cells; return the sum of its values and the number of cells without any."""
    shape = (query.n_obs, len(card["genes"]))
    writer = CsrWriter(group, shape, min(matrix.most_values, shape[0] * shape[1]))
    values = Values(query, matrix, row["layer"], card["input"])
    total, empty_cells = 0.0, 0
    for start, chunk in matrix.chunks(chunk_rows):
        values.check(start, chunk)
        if card["input"] == "counts" and chunk.dtype.kind == "f":
            np.rint(chunk.data, out=chunk.data)
        aligned = project(chunk, resolution)
        writer.append(aligned)
        total += float(aligned.data.sum(dtype=np.float64))
        empty_cells += int((np.diff(aligned.indptr) == 0).sum())
        if progress:
            progress(start + chunk.shape[0], query.n_obs)
    writer.close()
    values.finish(any_value=total != 0)
    return total, empty_cells
