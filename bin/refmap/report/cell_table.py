"""The cells of a mapping as a table, for whoever has no AnnData at hand."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

CELLS = "cells.parquet"
CELLS_CSV = "cells.csv.gz"
# Places in the reference's UMAP, by their key in obsm.
PLACES = {"X_umap_reference": ("umap_reference_1", "umap_reference_2")}


def write_cells(names: np.ndarray, columns: dict[str, pd.Series], embedded: ad.AnnData, folder: Path) -> None:
    """Write a row a cell in the query's order: its name, what is known of it, and what the mapping says of it.

    Parameters
    ----------
    names
        Of the cells.
    columns
        The columns of the query that the mapping's row names; one that is called as what the mapping says is called `<name>_query`.
    embedded
        Its cells x 0, with what the mapping says of them in obs, and their places in obsm.
    folder
        Where ``cells.parquet`` and ``cells.csv.gz`` go.
    """
    said = embedded.obs.reset_index(drop=True)
    for key, axes in PLACES.items():
        if key in embedded.obsm:
            said[list(axes)] = np.asarray(embedded.obsm[key])
    known = {f"{key}_query" if key in said or key == "cell" else key: values for key, values in columns.items()}
    table = pd.concat([pd.DataFrame({"cell": names.astype(str)}), pd.DataFrame(known, index=said.index), said], axis=1)
    table.to_parquet(folder / CELLS, index=False)
    # Without the time of its writing, the file is the same whenever it is made.
    table.to_csv(folder / CELLS_CSV, index=False, compression={"method": "gzip", "mtime": 0})
