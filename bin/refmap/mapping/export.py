"""The output of a mapping: the query as it was, with its embedding and predictions, as an AnnData zarr of format 2.

The stored elements are copied as they are stored, arrays by blocks: dtypes stay, and memory does not follow the query.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numcodecs
import numpy as np
import pandas as pd
import zarr
from anndata.experimental import read_dispatched
from anndata.io import read_elem, sparse_dataset, write_elem

from .. import __version__
from ..common.errors import RefmapError
from ..common.names import NAMES, Names
from ..common.storage import StoredCells, given_name
from ..common.stores import COMPRESSOR, is_small, new_anndata
from ..query.causes import cause
from ..query.contents import ALIGNED, RESERVED, Contents, Table, fitting_name, fitting_names, is_numbers, through_memory
from ..query.elements import encoding, is_group, read_whole, strings, text
from ..query.matrix import BLOCK_VALUES, Matrix, spans
from ..query.query import Query

PARTS = ("X", "obs", "var", *ALIGNED, "uns", "raw")
CHUNK_BYTES = 4 << 20
# Of an array or table of more values no more is held than need be when the result is opened to see whether it can be.
READ_WHOLE = 1 << 22


def export(query: Query, row: dict, embedding: Path, out: Path) -> list[str]:
    """Write the query with what its mapping gave to `out`; of an .h5mu, the modality that was mapped.

    Return what is to be said of parts of the query that anndata could not open, which are renamed, mended or left out.

    Raises RefmapError if the cells of the embedding are not the query's, in its order, or if the result cannot be opened.
    """
    result, names = zarr.open_group(embedding, mode="r"), StoredCells(embedding).names
    if not query.has_cells(names):
        raise query.fault(
            f"has {query.n_obs:,} cells that are not the {len(names):,} of its embedding, in the same order: map it again."
        )
    contents = Contents(query)
    small = is_small(query.path, embedding)
    with new_anndata(out, small) as root, anndata.settings.override(allow_write_nullable_strings=False):
        copy_query(contents, root)
        said = contents.said.sentences(query)
        add_results(query, root, result, row, said)
    open_once(out)
    return said


def open_once(path: Path) -> anndata.AnnData:
    """Open a result as anndata does: all of it, but the values of large arrays stay on disk, and of large tables the names alone are
    kept.

    Raises RefmapError if anndata cannot.
    """

    def read(function, _name, elem, iospec):
        if iospec.encoding_type == "dataframe" and _n_values(elem) > READ_WHOLE:
            return _opened_table(elem)
        if iospec.encoding_type in ("csr_matrix", "csc_matrix") and elem["data"].shape[0] > READ_WHOLE:
            return sparse_dataset(elem)
        if iospec.encoding_type == "array" and elem.shape and np.prod(elem.shape, dtype=float) > READ_WHOLE:
            return elem
        return function(elem)

    try:
        if path.is_file():
            with h5py.File(path) as file:
                return read_dispatched(file, read)
        return read_dispatched(zarr.open_group(path, mode="r"), read)
    except Exception as error:  # whatever anndata stumbles over
        found, _ = cause(error)
        raise RefmapError(
            f"The result cannot be opened with anndata ({found}): take out of the query what this names, and map it again."
        ) from error


def _n_values(table: zarr.Group | h5py.Group) -> int:
    return table[table.attrs["_index"]].shape[0] * (1 + len(table.attrs["column-order"]))


def _opened_table(table: zarr.Group | h5py.Group) -> pd.DataFrame:
    """The names of a table that :func:`copy_table` wrote, once each of its columns was read. Raises ValueError for one of another length."""
    stored = table[table.attrs["_index"]]
    for name in table.attrs["column-order"]:
        if (found := len(read_elem(table[name]))) != stored.shape[0]:
            raise ValueError(f"column {name!r} has {found:,} rows, and its table {stored.shape[0]:,}")
    return pd.DataFrame(index=Names(stored, strings).index())


def copy_query(contents: Contents, root: zarr.Group) -> None:
    """Copy every part of the query that can be published; those it has not are written empty."""
    query = contents.query
    if query.prehistoric:
        copy_prehistoric(contents, root)
    else:
        for part in ("obs", "var"):
            copy_table(contents, contents.table(part), root, part, part)
        for part, matrix in contents.matrices():
            if part == "X":
                _copied(contents, "X", root, "X", lambda matrix=matrix: copy_matrix(query, matrix, root, "X"))
            else:
                _copied(contents, "raw", root, "raw", lambda matrix=matrix: copy_raw(contents, matrix, root))
        for part in ALIGNED:
            group = _mapping(root, part)
            for name, new, elem in contents.aligned(part):
                copy(contents, elem, group, new, f"{part} '{name}'")
        uns = _mapping(root, "uns")
        for name, path, elem in contents.unstructured():
            group = uns
            for above in path[:-1]:
                group = group[above] if above in group else _mapping(group, above)
            copy(contents, elem, group, path[-1], f"uns '{name}'")
    for part in (*ALIGNED, "uns"):
        if part not in root:
            write_elem(root, part, {})
    add_further_obs(query, root)


def _mapping(parent: zarr.Group, name: str) -> zarr.Group:
    group = parent.create_group(name)
    group.attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
    return group


def _copied(contents: Contents, what: str, parent: zarr.Group, name: str, work: Callable[[], object]) -> bool:
    """Whether a part could be copied; what is left of one that could not is removed, and said."""
    done = contents.attempt(what, work)
    if not done and name in parent:
        del parent[name]
    return done


def copy_raw(contents: Contents, matrix: Matrix, root: zarr.Group) -> None:
    raw = root.create_group("raw")
    raw.attrs.update({"encoding-type": "raw", "encoding-version": "0.1.0"})
    copy_matrix(contents.query, matrix, raw, "X")
    copy_table(contents, contents.raw_var(), raw, "var", "raw.var")
    varm = _mapping(raw, "varm")
    for name, new, elem in contents.raw_varm():
        copy(contents, elem, varm, new, f"raw.varm '{name}'")


def copy(contents: Contents, elem, parent: zarr.Group, name: str, what: str) -> None:
    """Copy an element of the contents, or say why it is left out."""
    query = contents.query
    if isinstance(elem, Table):
        copy_table(contents, elem, parent, name, what)
    elif isinstance(elem, Matrix):
        _copied(contents, what, parent, name, lambda: copy_matrix(query, elem, parent, name))
    elif isinstance(elem, dict):
        _mapping(parent, name)
    elif is_numbers(elem):
        _copied(contents, what, parent, name, lambda: copy_numbers(elem, parent, name))
    else:
        _copied(contents, what, parent, name, lambda: write_elem(parent, name, through_memory(elem)))


def copy_table(contents: Contents, table: Table, parent: zarr.Group, name: str, what: str) -> None:
    """Copy a table column by column: those that are stored as anndata stores them now, as they are."""
    group = parent.create_group(name)
    key = "_index" if table.frame.whole is not None else fitting_name(table.frame.index_key)
    key = "_index" if key in table.columns.values() else key
    copy_names(table.index, group, key)
    columns = []
    for column, new in table.columns.items():

        def work(column=column, new=new) -> None:
            values, stored = table.column(column), table.frame.stored(column)
            if table.order is None and _as_today(stored, values):
                copy_stored(stored, group, new)
            else:
                write_elem(group, new, _writable(values))

        if _copied(contents, f"{what} '{column}'", group, new, work):
            columns.append(new)
    group.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.2.0", "_index": key, "column-order": columns})


def copy_names(names: Names, parent: zarr.Group, name: str) -> None:
    """Write names as anndata does, a block at a time."""
    chunks, text = (min(NAMES, max(1, len(names))),), {"filters": [numcodecs.VLenUTF8()], "fill_value": ""}
    array = parent.create_array(name, shape=(len(names),), chunks=chunks, dtype=zarr.dtype.VariableLengthUTF8(), **text)
    array.attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})
    start = 0
    for block in names.blocks():
        array[start : start + len(block)] = block
        start += len(block)


def _as_today(stored, values: pd.Series) -> bool:
    """Whether a column is stored in a way that anndata opens now, and its categories needed no mending."""
    if encoding(stored) == "categorical":
        return "ordered" in stored.attrs and len(values.cat.categories) == stored["categories"].shape[0]
    return encoding(stored).startswith("nullable-") or (is_numbers(stored) and len(stored.shape) == 1)


def _writable(values: pd.Series):
    # Text with gaps is written as categories.
    values = values.astype("category") if values.dtype == object and values.isna().any() else values
    return values.array if isinstance(values.dtype, pd.api.extensions.ExtensionDtype) else values.to_numpy()


def add_further_obs(query: Query, root: zarr.Group) -> None:
    """The columns of obs that several modalities share and the one copied lacks, and those that were added from a table.

    What the query had under the name of one that was added stays as `<name>_query`.
    """
    columns = [text(column) for column in root["obs"].attrs["column-order"]]
    for column in query.added:
        if column in columns:
            columns[columns.index(column)] = _move_aside(root["obs"], column)
    further = [column for column in query.obs_columns if column not in query.obs.columns or column in query.added]
    for column, new in fitting_names(further, ("_index", *columns)).items():
        values = query.obs_column(column)
        write_elem(root["obs"], new, _writable(values.astype("category") if values.dtype == object else values))
        columns.append(new)
    root["obs"].attrs["column-order"] = columns


def copy_prehistoric(contents: Contents, root: zarr.Group) -> None:
    """A file from before anndata 0.7 must pass through anndata as a whole."""
    query, renamed = contents.query, contents.said.renamed
    with query.reading("its stored elements"):
        adata = anndata.read_h5ad(query.path) if query.format == "h5ad" else anndata.read_zarr(query.container)
    for part in ("obs", "var"):
        table = getattr(adata, part)
        names = fitting_names([str(column) for column in table], RESERVED)
        renamed.update({f"{part} '{old}'": new for old, new in names.items() if old != new})
        write_elem(root, part, table.set_axis(list(names.values()), axis=1))
    for part in ("X", "raw"):
        if getattr(adata, part) is not None:
            _copied(contents, part, root, part, lambda part=part: write_elem(root, part, getattr(adata, part)))
    for part in (*ALIGNED, "uns"):
        held = {str(key): value for key, value in getattr(adata, part).items() if key is not None}  # layers[None] is X
        group = _mapping(root, part)
        for name, new in fitting_names(list(held)).items():
            what = f"{part} '{name}'"
            done = _copied(
                contents, what, group, new, lambda held=held, group=group, name=name, new=new: write_elem(group, new, held[name])
            )
            if done and new != name:
                renamed[what] = new


def copy_stored(source, parent: zarr.Group, name: str) -> None:
    """Copy a stored element as it is stored: groups member by member, numbers by blocks."""
    if is_group(source):
        group = parent.create_group(name)
        group.attrs.update({key: jsonable(value) for key, value in source.attrs.items()})
        for member in source:
            copy_stored(source[member], group, member)
    elif is_numbers(source):
        copy_numbers(source, parent, name)
    else:
        write_elem(parent, name, read_whole(source))


def jsonable(value: object) -> object:
    """An HDF5 attribute as zarr can hold it."""
    if isinstance(value, (np.ndarray, np.generic)):
        return jsonable(value.tolist())
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    return text(value) if isinstance(value, bytes) else value


def copy_matrix(query: Query, matrix: Matrix, parent: zarr.Group, name: str) -> None:
    """Copy a matrix as it is stored; a sparse one, of a type that scipy knows."""
    if matrix.format == "dense":
        copy_numbers(matrix.elem, parent, name)
        return
    group = parent.create_group(name)
    group.attrs.update({"encoding-type": f"{matrix.format}_matrix", "encoding-version": "0.1.0", "shape": list(matrix.shape)})
    copy_numbers(matrix.values, group, "data", matrix.dtype)
    copy_numbers(matrix.elem["indices"], group, "indices", check=matrix.check_indices)
    copy_numbers(matrix.elem["indptr"], group, "indptr")


def copy_numbers(
    source: h5py.Dataset | zarr.Array,
    parent: zarr.Group,
    name: str,
    dtype: np.dtype | None = None,
    check: Callable[[np.ndarray], None] = lambda block: None,
) -> None:
    """Copy an array of numbers by blocks of rows, which are whole chunks of the copy; `check` may raise at one of them."""
    width = max(1, int(np.prod(source.shape[1:])))
    rows = max(1, CHUNK_BYTES // (width * source.dtype.itemsize))
    chunks = (min(rows, max(1, source.shape[0])), *(max(1, size) for size in source.shape[1:]))
    array = parent.create_array(name, shape=source.shape, chunks=chunks, dtype=dtype or source.dtype, compressors=COMPRESSOR)
    array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    for start, stop in spans(source.shape[0], rows * max(1, BLOCK_VALUES // 4 // (rows * width))):
        block = source[start:stop]
        check(block)
        array[start:stop] = block.astype(array.dtype, copy=False)


def add_results(query: Query, root: zarr.Group, result: zarr.Group, row: dict, said: list[str]) -> None:
    """Add the columns and arrays of the embedding; what the query had under their names stays as `<name>_query`."""
    for part in ("obsm", "obsp"):
        for stored in result[part] if part in result else ():
            name = fitting_name(given_name(stored))
            _move_aside(root[part], name)
            write_elem(root[part], name, read_elem(result[part][stored]))
    columns = [text(column) for column in root["obs"].attrs["column-order"]]
    for stored in result["obs"].attrs["column-order"]:
        name = fitting_name(given_name(stored))
        moved = _move_aside(root["obs"], name)
        columns = [moved if column == name else column for column in columns] + [name]
        write_elem(root["obs"], name, read_elem(result["obs"][stored]))
    root["obs"].attrs["column-order"] = columns
    found = provenance(result, row)
    if said:
        found["parts_of_the_query"] = np.array(said, dtype=object)
    write_elem(root["uns"], "refmap", found)


def _move_aside(group: zarr.Group, name: str) -> str | None:
    if name not in group:
        return None
    aside = f"{name}_query"
    while aside in group:
        aside += "_query"
    copy_stored(group[name], group, aside)
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
            found.setdefault("classes", {})[fitting_name(given_name(name.removesuffix("_classes")))] = np.asarray(
                value, dtype=object
            )
    return found
