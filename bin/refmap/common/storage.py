"""The one form in which AnnData passes between environments."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import zarr

from .names import Names, write_names
from .stores import changed_store, fits, new_store

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
    from .stored_rows import StoredRows

    cells = _numbered(root)
    cells.X = StoredRows(root["X"])
    return cells


def read_numbered(path: Path) -> ad.AnnData:
    """Read what :func:`write_zarr` wrote of cells without X, but for their names: they are numbered instead, see :func:`take_names`."""
    return _numbered(zarr.open_group(path, mode="r"))


def _numbered(root: zarr.Group) -> ad.AnnData:
    from anndata.io import read_elem

    columns = {name: read_elem(root["obs"][name]) for name in root["obs"].attrs["column-order"]}
    parts = {name: read_elem(root[name]) for name in ("var", "obsm", "uns")}
    stored = root["obs"][root["obs"].attrs["_index"]]
    return _renamed(numbered(pd.DataFrame(columns, index=pd.RangeIndex(stored.shape[0])), **parts), given_name)


def numbered(obs: pd.DataFrame, **parts) -> ad.AnnData:
    """Cells of a table that numbers them: names are text, and of millions of cells most of what is held.

    `parts` are others of an AnnData. It is written with the numbers for names.
    """
    # anndata makes text of any numbers that it is given first, and compares all of it
    with ad.settings.override(restrict_index_types=False):
        cells = ad.AnnData(obs=obs.set_axis(pd.Index(np.zeros(len(obs), dtype=bool))), **parts)
    cells.obs_names = pd.RangeIndex(len(obs))
    return cells


def set_columns(cells: ad.AnnData, obs: pd.DataFrame) -> None:
    """Let cells have the columns of a table of the same rows: to set obs itself makes text of the numbers of :func:`numbered`."""
    cells.obs.drop(columns=cells.obs.columns.difference(obs.columns), inplace=True)
    for name in obs:
        cells.obs[name] = obs[name]


class _Members(Mapping):
    """The elements of a group by the names that they were given, read each time that one is asked for."""

    def __init__(self, group: zarr.Group, stored: list[str], rows: np.ndarray | None, as_read: Callable = lambda value: value):
        self._group, self._stored, self._rows, self._as_read = group, {given_name(name): name for name in stored}, rows, as_read

    def __getitem__(self, name: str):
        from anndata.io import read_elem

        values = read_elem(self._group[self._stored[name]])
        if self._rows is not None:
            values = values.iloc[self._rows] if isinstance(values, pd.DataFrame) else values[self._rows]
            values = values.remove_unused_categories() if isinstance(values, pd.Categorical) else values
        return self._as_read(values)

    def __contains__(self, name: object) -> bool:  # which else would read it
        return name in self._stored

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def block(self, name: str, start: int, stop: int):
        """The rows from one to another of all: of numbers and categories no more is read."""
        from anndata.io import read_elem

        elem = self._group[self._stored[name]]
        if isinstance(elem, zarr.Array) and elem.dtype.kind in "biuf":
            values = elem[start:stop]
        elif elem.attrs["encoding-type"] == "categorical":
            codes, categories = elem["codes"][start:stop], read_elem(elem["categories"])
            values = pd.Categorical.from_codes(codes, categories, ordered=bool(elem.attrs["ordered"]))
        else:
            values = read_elem(elem)[start:stop]
        return self._as_read(values)


class StoredCells:
    """What :func:`write_zarr` wrote of cells without genes, of which next to nothing is held.

    Attributes
    ----------
    obs
        Column -> its values, a Series whose rows are numbered, which are read each time that they are asked for.
    obsm
        Key -> array, which is read likewise.
    uns
        As AnnData has it.

    Parameters
    ----------
    rows
        Bool, a value a cell: those that are meant, without categories that none of them has; by default all.
    """

    def __init__(self, path: Path, rows: np.ndarray | None = None):
        from anndata.io import read_elem

        self._path, self._root = path, zarr.open_group(path, mode="r")
        self.obs = _Members(self._root["obs"], list(self._root["obs"].attrs["column-order"]), rows, pd.Series)
        self.obsm = _Members(self._root["obsm"], sorted(self._root["obsm"]), rows)
        self.uns = {given_name(name): value for name, value in read_elem(self._root["uns"]).items()}

    def some(self, rows: np.ndarray) -> StoredCells:
        """Those of all cells that a mask of booleans marks."""
        return StoredCells(self._path, rows)

    @property
    def names(self) -> Names:
        """The names of all cells."""
        from anndata.io import read_elem

        elem = self._root["obs"][self._root["obs"].attrs["_index"]]
        return Names(elem if isinstance(elem, zarr.Array) else np.asarray(read_elem(elem), dtype=object))


def add_to_zarr(path: Path, **parts: Mapping[str, object]) -> None:
    """Add columns (`obs`), arrays (`obsm`) and more (`uns`) by name to what :func:`write_zarr` wrote, of which nothing else is read.

    What is there of the same name is replaced, a column in its place.
    """
    from anndata.io import write_elem

    with changed_store(path) as store, ad.settings.override(allow_write_nullable_strings=False):
        root = zarr.open_group(store, mode="r+", use_consolidated=False)
        for part, added in parts.items():
            for name, value in added.items():
                write_elem(root[part], stored_name(name), value)
        columns = [*root["obs"].attrs["column-order"], *map(stored_name, parts.get("obs", ()))]
        root["obs"].attrs["column-order"] = list(dict.fromkeys(columns))
        zarr.consolidate_metadata(store)


def take_names(path: Path, of: Path, rows: np.ndarray | None = None) -> None:
    """Give the cells of a store, which are numbered, the names that those of another have.

    Or its cells in some `rows`, which are ascending places or a mask of booleans.
    """
    obs, named = (zarr.open_group(store, mode="r")["obs"] for store in (path, of))
    if rows is not None:
        names = Names(named[named.attrs["_index"]])
        give_names(path, names.index(np.flatnonzero(rows) if rows.dtype == bool else rows))
        return
    shutil.rmtree(path / "obs" / obs.attrs["_index"])
    shutil.copytree(of / "obs" / named.attrs["_index"], path / "obs" / obs.attrs["_index"])
    zarr.consolidate_metadata(zarr.open_group(path, mode="r+", use_consolidated=False).store)


def give_names(path: Path, names: pd.Index) -> None:
    """Give the cells of a store, which are numbered, names."""
    root = zarr.open_group(path, mode="r+", use_consolidated=False)
    write_names(root["obs"], names)
    zarr.consolidate_metadata(root.store)


def write_zarr(adata: ad.AnnData, path: Path) -> None:
    """Write zarr format 2 with plain strings, which anndata reads from 0.10 on. Names may hold slashes: see :func:`read_zarr`."""
    adata = _renamed(adata, stored_name)
    if not hasattr(getattr(ad, "settings", None), "zarr_write_format"):  # before 0.12 there was no other form
        adata.write_zarr(path)
        return
    settings = ad.settings.override(zarr_write_format=2, allow_write_nullable_strings=False)
    with new_store(path, fits(_bytes(adata))) as store, settings:
        adata.write_zarr(store, consolidate_metadata=False)
        if adata.raw is None:  # which is said in a way that anndata before 0.11 cannot read
            del zarr.open_group(store, use_consolidated=False)["raw"]
        zarr.consolidate_metadata(store)


def _bytes(adata: ad.AnnData) -> int:
    """What an AnnData holds, but for `uns`: roughly."""
    held = (getattr(adata, part).values() for part in ("layers", "obsm", "varm", "obsp", "varp"))
    tables = sum(len(table) * (CELL + 8 * table.shape[1]) for table in (adata.obs, adata.var))
    return tables + 8 * sum(getattr(values, "size", 0) for values in chain((adata.X,), *held))
