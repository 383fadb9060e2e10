"""Loom files: a dense matrix of genes x cells with layers, and attributes of both."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from anndata.io import write_elem
from scipy import sparse

from ..common.errors import listed
from .converted import CsrFile, write_tables
from .elements import Source, check_claim, text
from .matrix import BLOCK_VALUES, spans

# How the attribute of names is called, by those who write such files.
CELLS = ("CellID", "obs_names", "cell_id", "cell_names", "barcode", "barcodes")
GENES = ("Gene", "var_names", "gene_symbols", "gene_names", "Accession", "gene_ids")


def is_loom(file: h5py.File) -> bool:
    return {"matrix", "row_attrs", "col_attrs"} <= set(file) and isinstance(file["matrix"], h5py.Dataset)


def write_loom(source: Source, path: Path, out: h5py.File) -> None:
    """Write the AnnData of a loom file, whose matrices become sparse. It is read by blocks of cells.

    Raises RefmapError, or whatever h5py raises, if it is not as a loom file is.
    """
    with h5py.File(path, "r", locking=False) as file:
        n_genes, n_cells = file["matrix"].shape
        obs, obsm = _attributes(source, file["col_attrs"], n_cells, CELLS, "cells")
        var, _ = _attributes(source, file["row_attrs"], n_genes, GENES, "genes")
        write_tables(out, obs, var)
        write_elem(out, "obsm", obsm)
        _write_cells(file["matrix"], out.create_group("X"))
        layers = file.get("layers", {})
        for name in layers:
            if layers[name].shape != (n_genes, n_cells):
                raise source.fault(
                    f"is damaged: its layer '{name}' is {layers[name].shape} and not {(n_genes, n_cells)}: copy it again."
                )
            _write_cells(layers[name], out.create_group(f"layers/{name}"))


def _attributes(
    source: Source, group: h5py.Group, size: int, names: tuple[str, ...], what: str
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """The attributes as a table, of which one holds the names, and those of several numbers each."""
    columns, wide = {}, {}
    for name, stored in group.items():
        check_claim(stored)
        values = stored[...]
        if len(values) != size:
            raise source.fault(
                f"is damaged: its attribute '{name}' has {len(values):,} values for {size:,} {what}: copy it again."
            )
        if values.ndim > 1:
            wide[name] = values
        else:
            columns[name] = values if values.dtype.kind in "biuf" else np.array([text(value) for value in values], dtype=object)
    named = next((name for name in names if name in columns), None)
    if named is None:
        raise source.fault(
            f"has no names of its {what}: none of {listed(names)} is among {listed(columns)}; add one of these attributes."
        )
    index = pd.Index([str(value) for value in columns[named]], dtype=object)
    return pd.DataFrame({name: values for name, values in columns.items() if name != named}, index=index), wide


def _write_cells(stored: h5py.Dataset, group: h5py.Group) -> None:
    check_claim(stored, by_chunk=True)
    n_genes, n_cells = stored.shape
    # Whole chunks at a time, as each is unpacked as a whole
    wide = (stored.chunks or (1, 1))[1]
    step = max(1, BLOCK_VALUES // max(1, n_genes) // wide) * wide
    writer = CsrFile(group, n_genes, stored.dtype)
    for start, stop in spans(n_cells, step):
        writer.append(sparse.csr_matrix(stored[:, start:stop].T))
    writer.close()
