"""The one form in which AnnData passes between environments."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numcodecs
import pandas as pd
import zarr

# What passes between steps is read once: quick matters more than small.
COMPRESSOR = numcodecs.Blosc(cname="lz4", clevel=5, shuffle=numcodecs.Blosc.SHUFFLE)

# What is held of a cell beside its counts where a matrix is in memory, in values of these.
CELL = 64


def stored_name(name: str) -> str:
    """A name as it is stored: of a column or key of a model, which may hold a slash, which is none for zarr."""
    return name.replace("%", "%25").replace("/", "%2F")


def given_name(name: str) -> str:
    """The name that was stored so."""
    return name.replace("%2F", "/").replace("%25", "%")


def _renamed(adata: ad.AnnData, rename: Callable[[str], str]) -> ad.AnnData:
    """The same data under other names of columns and keys; itself where no name changes."""
    parts = ("obsm", "varm", "obsp", "varp", "layers", "uns")
    names = [*adata.obs, *adata.var, *(name for part in parts for name in getattr(adata, part) if name is not None)]
    if all(rename(str(name)) == name for name in names):
        return adata
    adata = adata.copy()
    adata.obs, adata.var = adata.obs.rename(columns=rename), adata.var.rename(columns=rename)
    for part in parts:
        held = getattr(adata, part)
        for name in [name for name in held if name is not None and rename(name) != name]:
            held[rename(name)] = held[name]
            del held[name]
    return adata


def read_zarr(path: Path, most: int | None = None) -> ad.AnnData:
    """Read what :func:`write_zarr` wrote, under the names that it was given.

    A sparse X of which more than `most` values would have to be held is left on disk, as :class:`.stored_rows.StoredRows`, where
    there are no further layers; so are the names of its cells, which are numbered instead: see :func:`take_names`. A cell counts as
    `CELL` values.
    """
    if most is not None:
        root = zarr.open_group(path, mode="r")
        n_cells = root["X"].attrs["shape"][0]
        if root["X/data"].shape[0] + CELL * n_cells > most and not len(root["layers"]):
            return _without_x(root)
    return _renamed(ad.read_zarr(path), given_name)


def _without_x(root: zarr.Group) -> ad.AnnData:
    """What a store holds, its X and the names of its cells left where they are."""
    from anndata.io import read_elem

    from .stored_rows import StoredRows

    columns = {name: read_elem(root["obs"][name]) for name in root["obs"].attrs["column-order"]}
    obs = pd.DataFrame(columns, index=pd.RangeIndex(root["X"].attrs["shape"][0]).astype(str))
    parts = {name: read_elem(root[name]) for name in ("var", "obsm", "uns")}
    cells = _renamed(ad.AnnData(obs=obs, **parts), given_name)
    cells.X = StoredRows(root["X"])
    return cells


def take_names(path: Path, of: Path) -> None:
    """Give the cells of a store, which are numbered, the names that those of another have."""
    obs, named = (zarr.open_group(store, mode="r")["obs"].attrs["_index"] for store in (path, of))
    shutil.rmtree(path / "obs" / obs)
    shutil.copytree(of / "obs" / named, path / "obs" / obs)
    zarr.consolidate_metadata(zarr.open_group(path, mode="r+", use_consolidated=False).store)


def write_zarr(adata: ad.AnnData, path: Path) -> None:
    """Write zarr format 2 with plain strings, which anndata reads from 0.10 on. Names may hold slashes: see :func:`read_zarr`."""
    adata = _renamed(adata, stored_name)
    if not hasattr(getattr(ad, "settings", None), "zarr_write_format"):  # before 0.12 there was no other form
        adata.write_zarr(path)
        return
    with ad.settings.override(zarr_write_format=2, allow_write_nullable_strings=False):
        adata.write_zarr(path)
    if adata.raw is None:  # which is said in a way that anndata before 0.11 cannot read
        root = zarr.open_group(path, use_consolidated=False)
        del root["raw"]
        zarr.consolidate_metadata(root.store)
