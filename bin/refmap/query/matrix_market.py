"""Matrix Market files of counts, genes x cells or cells x genes, read as a stream of text."""

from __future__ import annotations

from typing import BinaryIO

import h5py
import numpy as np
import pandas as pd

from .converted import append, growing, mark_sparse
from .elements import Source

LINES = 1 << 20


def write_market(source: Source, stream: BinaryIO, name: str, shape: tuple[int, int], out: h5py.Group) -> None:
    """Write a file's matrix to `out` as cells x genes, of which there are `shape`: by the row or by the column, as it is sorted.

    One that is sorted by neither is held in memory as a whole.

    Raises RefmapError if it is no such file, of another shape, or cut off.
    """
    cells_first, dtype, size = _head(source, stream, name, shape)
    parts = {"cells": growing(out, "cells", np.int32), "genes": growing(out, "genes", np.int32)}
    data = growing(out, "data", dtype)
    counts = [np.zeros(length + 1, dtype=np.int64) for length in shape]
    in_order, last = [True, True], [0, 0]
    columns = ["cells", "genes", "value"] if cells_first else ["genes", "cells", "value"]
    chunks = (
        pd.read_csv(stream, sep=r"\s+", header=None, names=columns, chunksize=LINES, dtype=float, comment="%") if size else ()
    )
    for chunk in chunks:
        if chunk.isna().any(axis=None):
            raise source.fault(f"is damaged: a line of {name} has not three numbers: copy it again.")
        for axis, (part, stored) in enumerate(parts.items()):
            places = chunk[part].to_numpy().astype(np.int64) - 1
            if not 0 <= places.min() <= places.max() < shape[axis]:
                raise source.fault(f"is damaged: a line of {name} is of none of its {shape[axis]:,} {part}: copy it again.")
            in_order[axis] &= bool(places[0] >= last[axis] and (np.diff(places) >= 0).all())
            last[axis] = places[-1]
            counts[axis] += np.bincount(places + 1, minlength=shape[axis] + 1)
            append(stored, places.astype(np.int32))
        append(data, chunk["value"].to_numpy().astype(dtype))
    if len(data) != size:
        raise source.fault(f"is cut off: {len(data):,} of {size:,} values are in {name}: copy it again.")
    by_cell = in_order[0] or not in_order[1]
    if not any(in_order):
        order = np.argsort(parts["cells"][...], kind="stable")
        for stored in (parts["genes"], data):
            stored[...] = stored[...][order]
    out["indptr"] = np.cumsum(counts[0 if by_cell else 1])
    out.move("genes" if by_cell else "cells", "indices")
    del out["cells" if by_cell else "genes"]
    mark_sparse(out, "csr" if by_cell else "csc", shape)


def _head(source: Source, stream: BinaryIO, name: str, shape: tuple[int, int]) -> tuple[bool, type, int]:
    """Whether cells come before genes, the type of the values, and how many there are."""
    kind = stream.readline().decode("latin-1").lower().split()
    if kind[:3] != ["%%matrixmarket", "matrix", "coordinate"] or kind[3:] not in (["integer", "general"], ["real", "general"]):
        raise source.fault(f"holds {name}, which is no Matrix Market file of counts ({' '.join(kind)[:60]}): write it anew.")
    line = stream.readline()
    while line.startswith(b"%") or line.strip() == b"" != line:
        line = stream.readline()
    try:
        rows, columns, size = (int(number) for number in line.split())
    except ValueError:
        raise source.fault(f"is damaged: {name} does not say its size: copy it again.") from None
    if (rows, columns) not in (shape, shape[::-1]):
        raise source.fault(
            f"is a folder whose files are not each other's: {name} is {rows:,} x {columns:,}, and there are names for {shape[0]:,} "
            f"cells and {shape[1]:,} features."
        )
    return (rows, columns) != shape[::-1], np.int32 if kind[3] == "integer" else np.float32, size
