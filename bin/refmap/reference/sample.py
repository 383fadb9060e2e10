"""Some of a reference's cells with their counts: what the looks at a query's expression compare it with."""

from __future__ import annotations

import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem

from ..common.cli import read_json
from ..common.folders import ReferenceFolder
from ..common.storage import read_numbered, take_names, write_zarr
from ..query.query import Query
from .selection import sample_by_group

# Cells of the sample: of each label and batch, and of all of them.
MOST_OF_EACH, MOST_SAMPLED = 200, 20_000


def write_sample(prepared: ReferenceFolder, latent: Path | None, scale: ReferenceFolder, seed: int) -> None:
    """Put a sample of the reference's cells beside its scale: up to 200 of each label and batch, 20,000 in all.

    Parameters
    ----------
    prepared
        As :func:`refmap.reference.cells.prepare_reference` wrote it: with a sample that was kept beside the model, or with all of
        its cells' counts. There is no sample of others, nor of a model that takes no counts.
    latent
        The embedding of all of these (.npz); None where they came with it, and all have one.
    scale
        Which holds the cells with their embedding, and the record of those.
    """
    if prepared.sample.exists():
        shutil.copytree(prepared.sample, scale.sample)
        return
    record = read_json(scale.record)
    if record["input"] != "counts" or not prepared.aligned.exists():
        return
    cells = read_numbered(scale.cells)
    columns = list(dict.fromkeys([*record["keys"], *filter(None, [record["batch_key"]])]))
    drawn = sample_by_group(_groups(cells.obs, columns), MOST_SAMPLED, seed, MOST_OF_EACH)
    rows = placed_rows(latent)[drawn] if latent else drawn
    with Query(prepared.aligned, "the aligned reference", called="reference") as query:
        counts = query.matrix("X").take(rows)
    genes = read_elem(zarr.open_group(prepared.aligned, mode="r")["var"])
    some = cells[drawn]
    obs = some.obs.set_axis(np.arange(len(drawn)).astype(str).astype(object))
    write_zarr(ad.AnnData(counts, obs=obs, var=genes, obsm=dict(some.obsm)), scale.sample)
    take_names(scale.sample, scale.cells, drawn)


def placed_rows(latent: Path) -> np.ndarray:
    """The rows of the cells that the model has an embedding of: int64, ascending. `latent` holds that of all (.npz)."""
    with np.load(latent) as embedded:
        return np.flatnonzero(~np.isnan(embedded["X_emb"]).all(axis=1))


def _groups(obs: pd.DataFrame, columns: list[str]) -> np.ndarray:
    """The number of each cell's combination of values: int64; a missing value is one of them."""
    return obs.groupby(columns, dropna=False, observed=True).ngroup().to_numpy() if columns else np.zeros(len(obs), dtype=int)
