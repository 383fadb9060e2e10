"""What an AnnData is stored as: attributes and encodings, tables that are read by the column, and the faults of a damaged file."""

from __future__ import annotations

import errno
import warnings
from contextlib import contextmanager
from functools import cached_property

import anndata
import h5py
import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem

from ..common.errors import RefmapError

MODERN_FRAME = "0.2.0"


def text(value: object) -> str:
    """An attribute, which old files hold as bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)


def encoding(elem) -> str:
    """The anndata encoding of a stored element; empty where none is written."""
    return text(elem.attrs.get("encoding-type", ""))


def is_group(elem) -> bool:
    return isinstance(elem, (h5py.Group, zarr.Group))


def _strings(values) -> np.ndarray:
    return np.array([str(value) for value in values], dtype=object)


def as_text(values: pd.Series) -> np.ndarray:
    """Values as an object array of str, '' where missing."""
    result = _strings(values)
    result[values.isna().to_numpy()] = ""
    return result


class Source:
    """A file that is read: `called` is what messages call it, `shown_as` its path as the user wrote it."""

    def __init__(self, shown_as: str, called: str):
        self.shown_as, self.called = shown_as, called

    def fault(self, found: str) -> RefmapError:
        return RefmapError(f"{self.called} '{self.shown_as}' {found}")

    @contextmanager
    def reading(self, what: str):
        """Turn whatever the file libraries raise on a damaged file into one sentence."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", anndata.OldFormatWarning)
                yield
        except (RefmapError, MemoryError):
            raise
        except Exception as error:  # h5py, zarr, numcodecs and anndata share no base class
            if getattr(error, "errno", None) == errno.ENOSPC:
                raise
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise self.fault(
                f"cannot be read at {what} ({reason}): the file seems damaged, so copy it again or write it anew with anndata."
            ) from error


class Frame:
    """`obs` or `var`: a table whose columns are read one at a time."""

    def __init__(self, elem, query: Source):
        self._elem, self._query = elem, query

    @cached_property
    def whole(self) -> pd.DataFrame | None:
        """The table of a file too old to be read by the column (before anndata 0.8); else None."""
        if isinstance(self._elem, pd.DataFrame):
            return self._elem
        if text(self._elem.attrs.get("encoding-version", "")) == MODERN_FRAME:
            return None
        return read_elem(self._elem)

    @cached_property
    def columns(self) -> list[str]:
        with self._query.reading("the columns of obs and var"):
            if self.whole is not None:
                return [str(column) for column in self.whole.columns]
            return [text(column) for column in self._elem.attrs["column-order"]]

    @cached_property
    def index(self) -> np.ndarray:
        """The row names: an object array of str."""
        with self._query.reading("the names of its cells and genes"):
            if self.whole is not None:
                names = self.whole.index
            else:
                names = read_elem(self._elem[text(self._elem.attrs["_index"])])
            return _strings(names)

    def __contains__(self, column: str) -> bool:
        return column in self.columns

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, column: str) -> pd.Series:
        with self._query.reading(f"column '{column}'"):
            values = self._elem[column] if self.whole is None else self.whole[column].array
            return pd.Series(read_elem(values) if self.whole is None else values)
