"""What an AnnData is stored as: attributes and encodings, tables that are read by the column, and the faults of a damaged file."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

import anndata
import h5py
import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem
from numcodecs.registry import codec_registry

from ..common.errors import RefmapError
from ..common.names import Names
from .causes import cause

# Reading an array of zarr must not run a pickle.
codec_registry.pop("pickle", None)

MODERN_FRAME = "0.2.0"
# What row names are called in a table that does not say it.
INDEX_NAMES = ("_index", "index", "rownames", "row_names")
OLD_CATEGORIES = "__categories"
# What is read whole may claim more than this (values) only if the file stores enough to fill it.
MOST_CLAIMED = 5 * 10**7
# Deflate shrinks a thousandfold at most.
MOST_SHRUNK = 1100


def text(value: object) -> str:
    """A stored string, which old files hold as bytes."""
    if not isinstance(value, bytes):
        return str(value)
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def encoding(elem) -> str:
    """The anndata encoding of a stored element; empty where none is written."""
    return text(elem.attrs.get("encoding-type", ""))


def is_group(elem) -> bool:
    return isinstance(elem, (h5py.Group, zarr.Group))


def is_folder(elem) -> bool:
    """Whether a stored element is a group that only parts the names of others at a slash, and is no element itself."""
    return is_group(elem) and encoding(elem) in ("", "dict") and "h5sparse_format" not in elem.attrs


def members(group, prefix: str = "") -> Iterator[tuple[str, object]]:
    """The elements of layers, obsm and their like with their names, which may hold slashes: then groups lie in groups.

    A link that leads nowhere comes with None.
    """
    for name in group:
        elem = group.get(name)
        if elem is not None and is_folder(elem):
            yield from members(elem, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", elem


def sparse_format(group) -> str:
    """'csr' or 'csc'; empty for a group that is no sparse matrix."""
    name = text(group.attrs.get("h5sparse_format", encoding(group)))
    return name.removesuffix("_matrix") if name.removesuffix("_matrix") in ("csr", "csc") else ""


def strings(values) -> np.ndarray:
    """Stored strings as an object array of str: see :func:`text`."""
    return np.array([text(value) for value in values], dtype=object)


def as_text(values: pd.Series) -> np.ndarray:
    """Values as an object array of str, '' where missing."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        return np.append(strings(values.cat.categories), "")[values.cat.codes]
    result = strings(values)
    result[values.isna().to_numpy()] = ""
    return result


def with_missing(names: np.ndarray) -> pd.Series:
    """Text as :func:`as_text` gives it, None where it is empty: object."""
    return pd.Series(np.where(names == "", None, names), dtype=object)


def is_number(values: pd.Series) -> bool:
    """Whether a column holds numbers: booleans are categories."""
    return pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(values.dtype)


def read_whole(elem):
    """Read an element as anndata does, unless it claims more than its file can hold.

    Raises ValueError if it does.
    """
    check_claim(elem)
    return read_elem(elem)


def check_claim(elem, by_chunk: bool = False) -> None:
    """Raises ValueError if an array, or one in a group, claims more values than what is stored of it can be.

    Of one that is read `by_chunk`, a chunk must not.
    """
    if is_group(elem):
        for name in elem:
            if (member := elem.get(name)) is not None:
                check_claim(member, by_chunk)
        return
    claims = [elem.chunks or ()] if by_chunk else [elem.chunks or (), elem.shape or ()]
    size = max(int(np.prod(claim, dtype=np.float64)) for claim in claims)
    if size > MOST_CLAIMED:
        stored = elem.id.get_storage_size() if isinstance(elem, h5py.Dataset) else elem.nbytes_stored()
        if size * elem.dtype.itemsize > MOST_SHRUNK * stored:
            raise ValueError(f"it claims {size:,} values{' a chunk' if by_chunk else ''}, of which {stored:,} bytes are stored")


class Unreadable(RefmapError):
    """A part of a file that cannot be read; `cause` is the phrase that says why."""

    def __init__(self, sentence: str, cause: str = ""):
        super().__init__(sentence)
        self.cause = cause


class Source:
    """A file that is read: `called` is what messages call it, `shown_as` its path as the user wrote it."""

    def __init__(self, shown_as: str, called: str):
        self.shown_as, self.called = shown_as, called

    def fault(self, found: str) -> RefmapError:
        return RefmapError(f"{self.called} '{self.shown_as}' {found}")

    @contextmanager
    def reading(self, what: str):
        """Turn whatever the file libraries raise into one sentence that says the cause, and what to do."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", anndata.OldFormatWarning)
                yield
        except (RefmapError, MemoryError):
            raise
        except Exception as error:  # h5py, zarr, numcodecs and anndata share no base class
            found, advice = cause(error)
            raise Unreadable(str(self.fault(f"cannot be read at {what} ({found}): {advice}.")), found) from error


class Frame:
    """`obs` or `var`: a table whose columns are read one at a time.

    What writers other than anndata leave out or write twice is made up for: the name of the index, the order of the columns.
    """

    def __init__(self, elem, query: Source):
        self._elem, self._query = elem, query

    @property
    def whole(self) -> pd.DataFrame | None:
        """The table of a file from before anndata 0.7, which is read whole; else None."""
        return self._elem if isinstance(self._elem, pd.DataFrame) else None

    @cached_property
    def index_key(self) -> str:
        """The member that holds the row names."""
        if named := self._elem.attrs.get("_index"):
            return text(named)
        held = list(self._elem)
        if named := next(filter(held.__contains__, INDEX_NAMES), None):
            return named
        columns = {text(column) for column in np.atleast_1d(self._elem.attrs.get("column-order", []))}
        left = [name for name in held if name not in columns and not is_group(self._elem[name]) and name != OLD_CATEGORIES]
        if len(left) == 1:
            return left[0]
        raise self._query.fault(
            f"has no names in {self._elem.name.strip('/')}: its attribute '_index', which says where they are, is missing, and none of "
            f"its members is called {' or '.join(INDEX_NAMES[:2])}: write it anew with anndata."
        )

    @cached_property
    def columns(self) -> list[str]:
        with self._query.reading("the columns of obs and var"):
            if self.whole is not None:
                return [str(column) for column in self.whole.columns]
            order = self._elem.attrs.get("column-order")
            if order is None:
                return [name for name in self._elem if name not in (self.index_key, OLD_CATEGORIES)]
            return list(dict.fromkeys(text(column) for column in np.atleast_1d(order)))

    @cached_property
    def names(self) -> Names:
        """The row names, of which a block at a time is read where they are stored as text."""
        with self._query.reading("the names of its cells and genes"):
            if self.whole is not None:
                return Names(strings(self.whole.index))
            elem = self._elem[self.index_key]
            if is_group(elem) and encoding(elem) == "nullable-string-array" and not read_whole(elem["mask"]).any():
                elem = elem["values"]
            if not is_group(elem) and "categories" not in elem.attrs and len(elem.shape) == 1 and elem.dtype.kind in "OST":
                check_claim(elem)
                return Names(elem, lambda block: strings(np.asarray(block, dtype=object)))
            return Names(strings(_read_column(elem)))  # categories and numbers serve as names too

    @cached_property
    def row_names(self) -> pd.Index:
        """The row names: text, of which each takes few bytes more than its letters."""
        with self._query.reading("the names of its cells and genes"):
            return self.names.index()

    @cached_property
    def index(self) -> np.ndarray:
        """The row names: an object array of str, which for millions of rows is large."""
        return self.row_names.to_numpy(object)

    def __contains__(self, column: str) -> bool:
        return column in self.columns

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, column: str) -> pd.Series:
        with self._query.reading(f"column '{column}'"):
            if self.whole is not None:
                return pd.Series(self.whole[column].array)
            values = _read_column(self._elem[column])
            if len(values) != len(self):
                raise ValueError(f"it has {len(values):,} values for {len(self):,} rows")
            return pd.Series(values)

    def stored(self, column: str):
        """The stored element of a column; None where the table is read whole."""
        return None if self.whole is not None else self._elem[column]


def _read_column(elem):
    """A column's values, one a row: an array, or an extension array of pandas."""
    if is_group(elem) and {"codes", "categories"} <= set(elem):
        check_claim(elem)
        return _categories(elem["codes"][...], read_elem(elem["categories"]), elem.attrs.get("ordered", False))
    if not is_group(elem) and "categories" in elem.attrs:  # before anndata 0.8
        check_claim(elem)
        where = elem.attrs["categories"]
        parent = (
            elem.parent
            if isinstance(elem, h5py.Dataset)
            else zarr.open_group(elem.store, path=elem.path.rpartition("/")[0], mode="r")
        )
        stored = parent[where]
        return _categories(elem[...], read_elem(stored), stored.attrs.get("ordered", False))
    values = read_whole(elem)
    if isinstance(values, np.ndarray):
        if values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
        if values.dtype.kind == "S" or (values.dtype == object and any(isinstance(value, bytes) for value in values[:100])):
            values = strings(values)
    if getattr(values, "ndim", 0) != 1 or getattr(getattr(values, "dtype", None), "names", None):
        raise TypeError(f"{type(values).__name__} of no single column")
    return values


def _categories(codes: np.ndarray, categories, ordered) -> pd.Categorical:
    """Categories of which some may be named twice, or be missing, as other writers than pandas leave them."""
    codes, categories = np.asarray(codes).ravel(), pd.Index(np.asarray(categories))
    if categories.dtype == object:
        categories = pd.Index(strings(categories), dtype=object)
    if len(codes) and not -1 <= int(codes.min()) <= int(codes.max()) < len(categories):
        raise ValueError("a code leads to none of its categories")
    if categories.is_unique and not categories.hasnans:
        return pd.Categorical.from_codes(codes, categories, ordered=bool(ordered))
    values = categories.take(np.maximum(codes, 0)).to_series().reset_index(drop=True)
    return pd.Categorical(values.where(codes >= 0), categories.dropna().unique(), ordered=bool(ordered))
