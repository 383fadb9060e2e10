"""The output of a mapping: the query as it was, with its embedding and predictions, as an AnnData zarr of format 2.

The stored elements are copied as they are stored, arrays by blocks: dtypes stay, and memory does not follow the query.
"""

from __future__ import annotations

from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem, write_elem

from .. import __version__
from ..common.storage import COMPRESSOR
from ..query.elements import MODERN_FRAME, encoding, is_group, text
from ..query.matrix import BLOCK_VALUES, spans
from ..query.query import Query

MAPPINGS = ("layers", "obsm", "varm", "obsp", "varp", "uns")
PARTS = ("X", "obs", "var", *MAPPINGS, "raw")
CHUNK_BYTES = 4 << 20


def export(query: Query, row: dict, embedding: Path, out: Path) -> None:
    """Write the query with what its mapping gave to `out`; of an .h5mu, the modality that was mapped.

    Raises RefmapError if the cells of the embedding are not the query's, in its order.
    """
    result = zarr.open_group(embedding, mode="r")
    cells = np.asarray(read_elem(result["obs"]).index, dtype=object)
    if not np.array_equal(cells, query.obs_names):
        raise query.fault(
            f"has {query.n_obs:,} cells that are not the {len(cells):,} of its embedding, in the same order: map it again."
        )
    root = zarr.open_group(out, mode="w", zarr_format=2)
    root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    with anndata.settings.override(allow_write_nullable_strings=False):
        copy_query(query, root)
        add_results(query, root, result, row)
    zarr.consolidate_metadata(root.store)


def copy_query(query: Query, root: zarr.Group) -> None:
    """Copy every part of the query; those it has not are written empty."""
    if query.prehistoric:
        copy_prehistoric(query, root)
    else:
        for part in PARTS:
            if part in query.root:
                copy(query, query.root[part], root, part)
        if "raw" not in root and "raw.X" in query.root:
            raw = root.create_group("raw")
            raw.attrs.update({"encoding-type": "raw", "encoding-version": "0.1.0"})
            for part in ("X", "var", "varm"):
                if f"raw.{part}" in query.root:
                    copy(query, query.root[f"raw.{part}"], raw, part)
    for part in MAPPINGS:
        if part not in root:
            write_elem(root, part, {})
    add_shared_obs(query, root)


def add_shared_obs(query: Query, root: zarr.Group) -> None:
    """Of several modalities: the columns of obs that they share and that the one copied lacks."""
    columns = [text(column) for column in root["obs"].attrs["column-order"]]
    for column in query.obs_columns:
        if column not in columns:
            values = query.obs_column(column)
            # Text with gaps, which cells that another modality alone has leave, is written as categories.
            values = values.astype("category") if values.dtype == object else values
            extension = isinstance(values.dtype, pd.api.extensions.ExtensionDtype)
            write_elem(root["obs"], column, values.array if extension else values.to_numpy())
            columns.append(column)
    root["obs"].attrs["column-order"] = columns


def copy_prehistoric(query: Query, root: zarr.Group) -> None:
    """A file from before anndata 0.7 must pass through anndata as a whole."""
    with query.reading("its stored elements"):
        adata = anndata.read_h5ad(query.path) if query.format == "h5ad" else anndata.read_zarr(query.path)
    for part in PARTS:
        value = getattr(adata, part)
        if part in MAPPINGS:
            value = {key: member for key, member in value.items() if key is not None}  # layers[None] is X
        if value is not None:
            write_elem(root, part, value)


def copy(query: Query, source, parent: zarr.Group, name: str) -> None:
    """Copy a stored element into a zarr group, with its encoding: groups member by member, numbers by blocks.

    Raises RefmapError if the query cannot be read there.
    """
    if _through_anndata(source):
        with query.reading(source.name):
            value = read_elem(source)
        write_elem(parent, name, value)
    elif encoding(source) == "nullable-string-array" and parent.attrs.get("_index") == name:
        # An index reads the same from plain strings, which older versions of anndata know too.
        with query.reading(source.name):
            value = read_elem(source["values"]).astype(object)
        write_elem(parent, name, value)
    elif is_group(source):
        group = parent.create_group(name)
        group.attrs.update({key: jsonable(value) for key, value in source.attrs.items()})
        if not encoding(source):
            group.attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
        for member in source:
            copy(query, source[member], group, member)
    else:
        copy_numbers(query, source, parent, name)


def _through_anndata(source) -> bool:
    """Whether only anndata knows how to read it: strings, scalars, records, and the encodings of old versions."""
    if is_group(source):
        old_frame = encoding(source) == "dataframe" and text(source.attrs["encoding-version"]) != MODERN_FRAME
        return old_frame or "h5sparse_format" in source.attrs
    return encoding(source) not in ("", "array") or source.shape in (None, ()) or source.dtype.kind not in "biufc"


def jsonable(value: object) -> object:
    """An HDF5 attribute as zarr can hold it."""
    if isinstance(value, (np.ndarray, np.generic)):
        return jsonable(value.tolist())
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    return text(value) if isinstance(value, bytes) else value


def copy_numbers(query: Query, source: h5py.Dataset | zarr.Array, parent: zarr.Group, name: str) -> None:
    """Copy an array of numbers by blocks of rows, which are whole chunks of the copy."""
    width = max(1, int(np.prod(source.shape[1:])))
    rows = max(1, CHUNK_BYTES // (width * source.dtype.itemsize))
    chunks = (min(rows, max(1, source.shape[0])), *(max(1, size) for size in source.shape[1:]))
    array = parent.create_array(name, shape=source.shape, chunks=chunks, dtype=source.dtype, compressors=COMPRESSOR)
    array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    for start, stop in spans(source.shape[0], rows * max(1, BLOCK_VALUES // 4 // (rows * width))):
        with query.reading(source.name):
            block = source[start:stop]
        array[start:stop] = block


def add_results(query: Query, root: zarr.Group, result: zarr.Group, row: dict) -> None:
    """Add the columns and arrays of the embedding; what the query had under their names stays as `<name>_query`."""
    for part in ("obsm", "obsp"):
        for name in result[part] if part in result else ():
            _move_aside(query, root[part], name)
            write_elem(root[part], name, read_elem(result[part][name]))
    columns = [text(column) for column in root["obs"].attrs["column-order"]]
    for name in result["obs"].attrs["column-order"]:
        moved = _move_aside(query, root["obs"], name)
        columns = [moved if column == name else column for column in columns] + [name]
        write_elem(root["obs"], name, read_elem(result["obs"][name]))
    root["obs"].attrs["column-order"] = columns
    write_elem(root["uns"], "refmap", provenance(result, row))


def _move_aside(query: Query, group: zarr.Group, name: str) -> str | None:
    if name not in group:
        return None
    aside = f"{name}_query"
    while aside in group:
        aside += "_query"
    copy(query, group[name], group, aside)
    del group[name]
    return aside


def provenance(result: zarr.Group, row: dict) -> dict:
    """What `uns['refmap']` says: refmap's version, the mapping, its model, and the classes of its predictions."""
    uns = read_elem(result["uns"]) if "uns" in result else {}
    found = {
        "version": __version__,
        "dataset": row["dataset"],
        "file_id": row["file_id"],
        "model": row["model"],
        **uns.pop("refmap", {}),
    }
    for name, value in uns.items():
        if name.endswith("_classes"):
            found.setdefault("classes", {})[name.removesuffix("_classes")] = np.asarray(value, dtype=object)
    return found
