"""The page is written: what it holds as JSON, its style and its script, all in one file.

Places and columns travel as base64 of little-endian unsigned integers, a cell each, in an order drawn at random so that no category
lies on top of another. Names of cells, labels and genes are a stranger's text: the page shows them as text only, and its
Content-Security-Policy runs the one script whose hash it names and loads nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd

from .columns import MOST_CODE, code_column
from .density import density
from .expression import Genes, pack
from .packing import compress, encode
from .palette import MISSING_COLORS, color_datasets, ramp

PARTS = Path(__file__).with_name("parts")
# In this order they make up one script: `documented` says what each does.
SCRIPTS = (
    "documented.js",
    "content.js",
    "columns.js",
    "genes.js",
    "shown.js",
    "renderers.js",
    "drawing.js",
    "pointing.js",
    "moving.js",
    "selection.js",
    "lasso.js",
    "legend.js",
    "panel.js",
    "link.js",
    "start.js",
)
# With barcodes for names and a handful of columns they take some 4 MB.
MOST_CELLS = 200_000
# Names of cells are left out where they take more than this, compressed: first those of the background.
MOST_NAME_BYTES = 6_000_000


def write_page(
    path: Path,
    title: str,
    position: np.ndarray,
    ids: Sequence[str],
    colorings: Mapping[str, pd.Series | np.ndarray | Sequence],
    *,
    datasets: str | None = None,
    background: str | None = None,
    color: str | None = None,
    shares: Collection[str] = (),
    genes: Genes | None = None,
    notes: Sequence[str] = (),
    seed: int = 0,
) -> None:
    """Write the page of some cells: of one query, of a query among its reference's cells, or of any joint embedding.

    ::

        write_page(Path("joint.html"), "lung", umap, adata.obs_names, {"dataset": …, "cell_type": …, "age": …},
                   datasets="dataset", background="reference", color="cell_type")

    Parameters
    ----------
    position
        Float, cells x 2. Cells without a place (NaN) are left out, and the page says how many.
    ids
        The name of each cell: what pointing at it shows, and what a saved selection holds.
    colorings
        Name -> the value of each cell, in the order in which they are offered; what has a length and can `take` rows, as numpy's and
        pandas' arrays do, is asked for those that are drawn alone, and so are `ids`. Numbers are kept to 1 part in 65,533 of their range,
        all else is text, in the colours of `plots.draw_cells`. Where no cell of a dataset has a value and others do, the column is
        said not to be that dataset's; other cells without a value are `missing`.
    datasets
        That one of `colorings` which says of which dataset each cell is: all cells must have one. Cells are counted by it.
    background
        The dataset that is drawn grey and beneath all others, and makes room for them where there are too many cells.
    color
        That one of `colorings` to show first; by default `datasets`.
    shares
        Those of `colorings` that are coloured from 0 to 1, or further if they go there.
    genes
        Genes to colour by: see :class:`Genes`.
    notes
        Sentences to show beside the picture.
    seed
        Of what is drawn: the same seed, the same file.

    Of more than MOST_CELLS cells that many are drawn, chosen at random but for at least half of the room for those that are not the
    background; beneath them the page draws how many there are by place, of all of them, and says so.

    Raises ValueError where lengths differ, or where `datasets`, `color` or `background` is not there.
    """
    n = len(ids)
    if position.shape != (n, 2):
        raise ValueError(f"positions of shape {position.shape} do not fit {n} cells")
    for name, values in colorings.items():
        if len(values) != n:
            raise ValueError(f"the column {name!r} has {len(values)} values for {n} cells")
    for name in (datasets, color):
        if name is not None and name not in colorings:
            raise ValueError(f"there is no column {name!r}: there are {list(colorings)}")
    which, names = _datasets(colorings.get(datasets), n, datasets, background)

    placed = np.flatnonzero(np.isfinite(position).all(axis=1))
    behind = which == (names.index(background) if background else -1)
    rows, n_behind = _choose(placed, behind[placed], np.random.default_rng(seed))
    places, extent = _place(position[placed])
    drawn = places[np.searchsorted(placed, rows)]
    packed = _pack_names([str(name) for name in _taken(ids, rows)], n_behind)
    columns = {name: _taken(values, rows) for name, values in colorings.items() if name != datasets}
    content = {
        "title": title,
        "places": encode(drawn),
        "extent": extent,
        "behind": n_behind,
        "datasets": {
            "name": datasets or "all cells",
            "categories": names,
            "bytes": 2,
            "codes": encode(which[rows].astype(np.uint16)),
            **color_datasets(names, background),
        },
        "columns": [code_column(name, values, which[rows], name in shares) for name, values in columns.items()],
        "color": color,
        "names": packed,
        "genes": pack(genes, rows) if genes else None,
        "density": density(places, MOST_CODE) if len(placed) > len(rows) else None,
        "grey": MISSING_COLORS,
        "ramp": ramp(),
        "notes": [*_left_out(which, placed, rows, names), *_unnamed(packed, background), *notes],
    }
    path.write_bytes(fill(title, content).encode())


def _taken(values, rows: np.ndarray) -> pd.Series:
    values = values if hasattr(values, "take") else pd.Series(values)
    return pd.Series(values.take(rows)).reset_index(drop=True)


def fill(title: str, content: dict) -> str:
    """Return the page: the template with its style, its script and their hashes, the title and the content."""
    style = (PARTS / "explore.css").read_text("utf-8")
    script = "\n".join((PARTS / name).read_text("utf-8") for name in SCRIPTS)
    filling = {
        "title": escape(title),
        # No `<` reaches the HTML parser, so nothing in the content can end the element that holds it.
        "content": json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        "style": style,
        "style-hash": _hash(style),
        "script": script,
        "script-hash": _hash(script),
    }
    # In one go: what is filled in is not looked at again.
    template = (PARTS / "explore.html").read_text("utf-8")
    return re.sub(r"\{\{([\w-]+)\}\}", lambda match: filling[match[1]], template)


def _hash(source: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}"


def _datasets(values, n: int, column: str | None, background: str | None) -> tuple[np.ndarray, list[str]]:
    """Return the number of the dataset of each cell, and their names: the background first, else as they come."""
    codes, found = pd.factorize(pd.Series(np.repeat("cells", n) if values is None else values))
    if (codes < 0).any():
        raise ValueError(f"{int((codes < 0).sum())} cells have no value in the column {column!r} of their datasets")
    called = [str(name) for name in found]
    names = list(dict.fromkeys(called))
    if background is not None:
        if background not in names:
            raise ValueError(f"there is no dataset {background!r} for the background: there are {names}")
        names = [background, *(name for name in names if name != background)]
    return pd.Index(names).get_indexer(called)[codes], names


def _choose(placed: np.ndarray, behind: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Return the rows to draw, those of the background first and else in random order, and how many are of the background.

    The others keep at least half of the room: they are what the page is about.
    """
    back, front = rng.permutation(placed[behind]), rng.permutation(placed[~behind])
    front = front[: max(MOST_CELLS // 2, MOST_CELLS - len(back))]
    back = back[: MOST_CELLS - len(front)]
    return np.concatenate([back, front]), len(back)


def _left_out(which: np.ndarray, placed: np.ndarray, rows: np.ndarray, names: list[str]) -> list[str]:
    """Return a sentence on each kind of cells that are not drawn."""
    total, with_place, drawn = (np.bincount(some, minlength=len(names)) for some in (which, which[placed], which[rows]))
    found = []
    for number, name in enumerate(names):
        whose = f"Cells of the {name}" if name in ("query", "reference") else f"Cells of {name}" if len(names) > 1 else "Cells"
        if total[number] > with_place[number]:
            left = total[number] - with_place[number]
            found.append(f"{whose} that have no place in the picture, and are left out: {left:,}.")
        if with_place[number] > drawn[number]:
            found.append(f"{whose}: {drawn[number]:,} of {with_place[number]:,} are drawn, chosen at random.")
    if len(placed) > len(rows):
        found.append(
            "What is counted and selected are the cells that are drawn; "
            f"beneath them lies the density of all {len(placed):,}, darker where there are more."
        )
    return found


def _unnamed(packed: dict | None, background: str | None) -> list[str]:
    if packed and not packed["start"]:
        return []
    whose = f"cells of {background}" if packed else "cells"
    return [f"The names of the {whose} would take too much room: they are left out, and so are these cells of a saved selection."]


def _place(position: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """Return the places as uint16 (cells x 2), both dimensions on the scale of the longer, and how far each goes (0 to 1)."""
    if not len(position):
        return np.zeros((0, 2), np.uint16), [1.0, 1.0]
    low = position.min(axis=0).astype(np.float64)
    extent = position.max(axis=0).astype(np.float64) - low
    longer, places = extent.max() or 1.0, np.empty(position.shape, dtype=np.uint16)
    # Of millions of cells not twice as float64
    for start in range(0, len(position), MOST_CELLS):
        some = slice(start, start + MOST_CELLS)
        places[some] = np.round((position[some].astype(np.float64) - low) / longer * MOST_CODE)
    return places, (extent / longer).tolist()


def _pack_names(names: list[str], n_behind: int) -> dict | None:
    """Return the names, from that of cell `start` on; None where they take too much room."""
    for start in dict.fromkeys((0, n_behind)):
        packed = compress(json.dumps(names[start:]).encode())
        if len(packed) <= MOST_NAME_BYTES:
            return {"start": start, "packed": packed}
    return None
