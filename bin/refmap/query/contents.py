"""What of a query is published with its mapping, and under which names.

The result must open with anndata, which opens less than other programs write: a part that it would stumble over is mended, renamed
or left out, and :attr:`Contents.said` tells what became of it. CHECK_QUERY walks through the same contents, and reads of each
what shows whether it can be read, so that this is told before any training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import anndata
import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem, write_elem
from scipy import sparse

from ..common.errors import RefmapError
from ..common.names import Names
from .elements import Frame, Unreadable, check_claim, encoding, is_folder, is_group, members, read_whole, sparse_format
from .matrix import Matrix
from .query import Query

ALIGNED = ("layers", "obsm", "varm", "obsp", "varp")
# Names that a table or a zarr store keeps for itself.
RESERVED = ("_index",)
FILES_OF_ZARR = (".zgroup", ".zattrs", ".zarray", ".zmetadata", "zarr.json")
# File systems take 255 bytes.
LONGEST_NAME = 200
NUMBERS = "biufc"


def fitting_name(name: str, reserved: tuple[str, ...] = ()) -> str:
    """A name under which zarr and anndata can keep an element, as like the one given as may be."""
    fitting = name.replace("/", "_").encode(errors="replace")[:LONGEST_NAME].decode(errors="ignore")
    return f"{fitting}_query" if fitting in (*reserved, *FILES_OF_ZARR) or not fitting.strip(".") else fitting


def fitting_names(names: list[str], reserved: tuple[str, ...] = ()) -> dict[str, str]:
    """The name of each in the result; one that must be renamed takes none that another has."""
    kept = {name for name in names if fitting_name(name, reserved) == name}
    fitting = {name: name for name in names if name in kept}
    for name in names:
        if name not in kept:
            fitting[name] = new_name(fitting_name(name, reserved), kept | set(fitting.values()))
    return {name: fitting[name] for name in names}


def new_name(name: str, taken: set[str]) -> str:
    """`name`, or with the first of -2, -3… that is not taken."""
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}-{number}"
    return candidate


@dataclass
class Table:
    """A table as it is published: its columns with their new names, and the names of its rows, which `order` puts in order."""

    frame: Frame
    index: Names
    columns: dict[str, str]
    order: np.ndarray | None = None

    def order_as(self, names: np.ndarray) -> bool:
        """Put the rows in the order of `names`, if they are called so, each once."""
        order = pd.Index(self.frame.index)
        if order.is_unique and (found := order.get_indexer(names)).min(initial=0) >= 0:
            self.order = found
        return self.order is not None

    def column(self, name: str) -> pd.Series:
        values = self.frame[name]
        return values if self.order is None else values.take(self.order).reset_index(drop=True)


@dataclass
class Said:
    """What became of the parts that cannot be published as they are: (part, name) -> what."""

    renamed: dict[str, str] = field(default_factory=dict)
    changed: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def sentences(self, query: Query) -> list[str]:
        result = []
        if self.renamed:
            named = [f"{old} as '{new}'" for old, new in self.renamed.items()]
            result.append(f"are renamed in the result, since anndata opens no such names: {_some(named)}.")
        if self.changed:
            result.append(
                f"are changed in the result, so that anndata opens it: {_some([f'{what} ({how})' for what, how in self.changed.items()])}."
            )
        if self.left_out:
            result.append(f"are left out of the result: {_some([f'{what} ({why})' for what, why in self.left_out.items()])}.")
        return [f"Parts of query '{query.shown_as}' {sentence}" for sentence in result]


def _some(phrases: list[str], most: int = 5) -> str:
    more = f" and {len(phrases) - most:,} more" if len(phrases) > most else ""
    return ", ".join(phrases[:most]) + more


class Contents:
    """The parts of a query as they are published, and what is said of those that are not as they were."""

    def __init__(self, query: Query):
        self.query, self.said = query, Said()

    @property
    def _shape(self) -> tuple[int, int]:
        return self.query.n_obs, len(self.query.var)

    @cached_property
    def _shell(self) -> anndata.AnnData:
        """An AnnData with the query's names alone, which says whether a part fits them."""
        return anndata.AnnData(obs=pd.DataFrame(index=self.query.obs_names), var=pd.DataFrame(index=self.query.var.index))

    def walk(self) -> None:
        """Read of each part what shows whether it can be published. Nothing is raised: what cannot is said."""
        if self.query.prehistoric:
            return
        for part in ("obs", "var"):
            self.try_table(self.table(part), part)
        for part, matrix in self.matrices():
            self.attempt(part, matrix.try_block)
        for part in ALIGNED:
            for name, _, elem in self.aligned(part):
                self.attempt(f"{part} '{name}'", lambda elem=elem: self.try_element(elem))
        for name, _, elem in self.raw_varm():
            self.attempt(f"raw.varm '{name}'", lambda elem=elem: self.try_element(elem))
        for name, _, elem in self.unstructured():
            self.attempt(f"uns '{name}'", lambda elem=elem: self.try_element(elem))
        if (raw := self.raw_var()) is not None:
            self.try_table(raw, "raw.var")

    def attempt(self, what: str, work: Callable[[], object]) -> bool:
        """Do what may show that a part cannot be read or written, and then say it is left out."""
        try:
            with self.query.reading(what):
                work()
        except RefmapError as error:
            # The sentence about the result says the rest
            self.said.left_out[what] = error.cause if isinstance(error, Unreadable) else str(error)
        return what not in self.said.left_out

    def try_table(self, table: Table, part: str) -> None:
        for column in list(table.columns):
            if not self.attempt(f"{part} '{column}'", lambda column=column: table.frame[column]):
                del table.columns[column]

    def try_element(self, elem) -> None:
        """Read an element as it is read when it is published: numbers in part, tables by the column, all else whole."""
        if isinstance(elem, dict):
            return
        if isinstance(elem, Table):
            for column in elem.columns:
                elem.frame[column]
        elif isinstance(elem, Matrix):
            elem.try_block()
        elif is_numbers(elem):
            check_claim(elem, by_chunk=True)
            if elem.shape[0]:
                elem[:1], elem[-1:]
        else:
            through_memory(elem)

    # Tables

    def table(self, part: str) -> Table:
        """obs or var."""
        frame = getattr(self.query, part)
        return self._table(frame, frame.names, part)

    def raw_var(self) -> Table | None:
        if not self.raw_fits:
            return None
        frame = self.query.gene_frame("raw")
        return self._table(frame, frame.names, "raw.var")

    def _table(self, frame: Frame, index: Names, where: str) -> Table:
        columns = fitting_names(frame.columns, RESERVED)
        self.said.renamed.update({f"{where} '{old}'": new for old, new in columns.items() if old != new})
        return Table(frame, index, columns)

    # Matrices

    @cached_property
    def raw_fits(self) -> bool:
        if "raw" not in self.query.layers:
            return False
        return self.attempt("raw", lambda: self.query.own_matrix("raw"))

    def matrices(self) -> Iterator[tuple[str, Matrix]]:
        """X and the matrix of raw, where they are there and fit."""
        if "X" in self.query.layers and self.attempt("X", lambda: self.query.own_matrix("X")):
            yield "X", self._as_known("X", self.query.own_matrix("X"))
        if self.raw_fits:
            yield "raw", self._as_known("raw", self.query.own_matrix("raw"))

    def _as_known(self, what: str, matrix: Matrix) -> Matrix:
        """A matrix, of whose sparse values scipy may know no such type."""
        if matrix.format != "dense" and matrix.dtype != matrix.values.dtype:
            self.said.changed[what] = f"its values, {matrix.values.dtype}, become {matrix.dtype}"
        return matrix

    def raw_varm(self) -> Iterator[tuple[str, str, object]]:
        raw = self.query.root.get("raw")
        group = raw.get("varm") if raw is not None and is_group(raw) else self.query.root.get("raw.varm")
        if self.raw_fits and group is not None and is_group(group):
            n_vars = len(self.query.gene_frame("raw"))
            yield from self._named("raw.varm", self._members("raw.varm", group), lambda elem: self._fitted(elem, "varm", n_vars))

    # What is aligned to them

    def aligned(self, part: str) -> Iterator[tuple[str, str, object]]:
        """(name, new name, element) of what of layers, obsm… can be published: a Table, a Matrix, or a stored element."""
        group = self.query.root.get(part)
        if group is not None and is_group(group):
            yield from self._named(part, self._members(part, group), lambda elem: self._fitted(elem, part))

    def _members(self, what: str, group) -> dict[str, object]:
        """The elements of a group by name; none of one whose names cannot be read, which is said."""
        found: dict[str, object] = {}
        return found if self.attempt(what, lambda: found.update(members(group))) else {}

    def _named(self, part: str, elems: dict[str, object], fit: Callable) -> Iterator[tuple[str, str, object]]:
        for name, new in fitting_names(list(elems)).items():
            what, made = f"{part} '{name}'", []
            if elems[name] is None:
                self.said.left_out[what] = "its link leads nowhere"
            elif self.attempt(what, lambda name=name, made=made: made.append(fit(elems[name]))) and made:
                elem, how = made[0]
                elem = self._as_known(what, elem) if isinstance(elem, Matrix) else elem
                if how:
                    self.said.changed[what] = how
                if new != name:
                    self.said.renamed[what] = new
                yield name, new, elem

    def _fitted(self, elem, part: str, rows: int | None = None) -> tuple[object, str]:
        """An element as it fits the query's cells and genes, and how it was changed for that.

        Raises whatever anndata raises where it does not fit, and RefmapError where it cannot be read.
        """
        if encoding(elem) == "dataframe":
            frame, how = Frame(elem, self.query), ""
            if rows is not None:
                return self._table(frame, frame.names, elem.name.strip("/")), how
            whose = self.query.obs if part in ("layers", "obsm", "obsp") else self.query.var
            names = whose.names
            if len(frame) != len(names):
                raise ValueError(f"it has {len(frame):,} rows for {len(names):,}")
            table = self._table(frame, names, elem.name.strip("/"))
            if not frame.names.same_as(names):
                called = "cells" if part == "obsm" else "genes"
                if table.order_as(whose.index):
                    how = f"its rows are put in the order of the {called}"
                else:
                    how = f"its rows are not called as the {called}, whose names they get"
            return table, how
        if is_group(elem) and (sparse_format(elem) or {"data", "indices", "indptr"} <= set(elem)):
            matrix = Matrix(elem, elem.name.strip("/"), self.query, tuple(elem.attrs.get("shape", self._shape)))
            self._ask(part, sparse.csr_matrix(matrix.shape, dtype=np.float32), rows)
            return matrix, ""
        self._ask(part, elem if is_numbers(elem) else read_whole(elem), rows)
        return elem, ""

    def _ask(self, part: str, value, rows: int | None) -> None:
        """Raises ValueError, or what anndata raises, where it takes no such value in this part."""
        n_obs, n_vars = self._shape
        ends = {"layers": (n_obs, n_vars), "obsm": (n_obs,), "obsp": (n_obs, n_obs), "varm": (n_vars,), "varp": (n_vars, n_vars)}
        wanted = ends[part] if rows is None else (rows,)
        shape = tuple(getattr(value, "shape", ()))
        if shape[: len(wanted)] != wanted:
            raise ValueError(f"its shape is {shape} where {wanted} is wanted")
        # A table of numbers is taken everywhere; an AnnData to ask would hold the names of all cells
        if rows is not None or (len(shape) == 2 and (sparse.issparse(value) or is_numbers(value))):
            return
        held = getattr(self._shell, part)
        held["asked"] = value
        del held["asked"]

    # What is not

    def unstructured(self) -> Iterator[tuple[str, tuple[str, ...], object]]:
        """(name, path of new names, element) of what of uns can be published; an empty group comes as an empty dict."""
        uns = self.query.root.get("uns")
        if uns is not None and is_group(uns):
            yield from self._branch(uns, "", ())

    def _branch(self, group, name: str, path: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...], object]]:
        held: dict[str, object] = {}
        if not self.attempt(
            f"uns '{name.rstrip('/')}'" if name else "uns", lambda: held.update((key, group.get(key)) for key in group)
        ):
            return
        for member, new in fitting_names(list(held)).items():
            elem, full = held[member], f"{name}{member}"
            if elem is None:
                self.said.left_out[f"uns '{full}'"] = "its link leads nowhere"
                continue
            if new != member:
                self.said.renamed[f"uns '{full}'"] = new
            if is_folder(elem):
                yield full, (*path, new), {}
                yield from self._branch(elem, f"{full}/", (*path, new))
                continue
            made: list = []
            if self.attempt(f"uns '{full}'", lambda elem=elem, made=made: made.append(self._loose(elem))):
                yield full, (*path, new), made[0]

    def _loose(self, elem):
        if encoding(elem) == "dataframe":
            frame = Frame(elem, self.query)
            return self._table(frame, frame.names, elem.name.strip("/"))
        if is_group(elem) and sparse_format(elem):
            return Matrix(elem, elem.name.strip("/"), self.query, (0, 0))
        return elem


def is_numbers(elem) -> bool:
    """Whether an element is an array of numbers, which is copied by blocks."""
    return not is_group(elem) and encoding(elem) in ("", "array") and elem.shape not in (None, ()) and elem.dtype.kind in NUMBERS


def through_memory(elem):
    """The value of an element, of which anndata can read again what it writes; raises what it raises where it cannot."""
    value = read_whole(elem)
    trial = zarr.open_group(zarr.storage.MemoryStore(), mode="w", zarr_format=2)
    with anndata.settings.override(allow_write_nullable_strings=False):
        write_elem(trial, "trial", value)
    read_elem(trial["trial"])
    return value
