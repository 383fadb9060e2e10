"""A page to look around in the joint picture of reference and query: one HTML file that asks neither server nor network.

The cells travel in the page as JSON: places and columns as base64 of little-endian unsigned integers, a cell each, in an
order drawn at random so that no category lies on top of another. `explore.html` draws them and documents its links.
Names of cells and labels are a stranger's text: the page shows them as text only, and its Content-Security-Policy runs
the one script whose hash it names and loads nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd

from .plots import FEW_COLORS, GREY, MANY_COLORS, ranked

TEMPLATE = Path(__file__).with_name("explore.html")
# Both together. WebGL draws as many while the mouse moves, and the page stays below 10 MB.
MOST_CELLS = 200_000
# The query's cell names are left out where they take more than this.
MOST_NAME_BYTES = 4_000_000
# Codes of a column that are no value: the cell has none, or its dataset has no such column.
MISSING, ABSENT, FIRST = 0, 1, 2
MOST_CODE = 2**16 - 1
# Backgrounds and missing cells, as in explore.html.
DARK_BACKGROUND, DARK_GREY = "#16181c", "#4a4d52"
# Of a colour with the dark background. More would make the darkest of MANY_COLORS too much alike.
LEAST_CONTRAST = 2
RAMP_STOPS = 32


@dataclass(frozen=True)
class Cells:
    """Cells of one dataset: their places (cells x 2) and what is known of each (cells x columns; the index names them)."""

    position: np.ndarray
    columns: pd.DataFrame

    def __post_init__(self):
        if self.position.shape != (len(self.columns), 2):
            raise ValueError(f"positions of shape {self.position.shape} do not fit {len(self.columns)} rows of columns")


def write_page(
    path: Path,
    title: str,
    query: Cells,
    reference: Cells | None = None,
    *,
    label: str | None = None,
    uncertainty: str | None = None,
    batch: str | None = None,
    shares: Collection[str] = (),
    seed: int = 0,
) -> None:
    """Write the page of the query's cells among the reference's, which must lie in the same two dimensions.

    A column that both have under one name is one column of the page: shared categories and colours, or one scale. Numbers
    are kept to 1 part in 65,533 of their range, places to 1 in 65,535; all else is text. `label`, `uncertainty` and `batch`
    name the columns to show first, and `label` the one to colour by. `uncertainty` and `shares` are coloured from 0 to 1 (or
    further, if they go there), as in `plots.draw_cells`. Cells without a place (NaN) are left out, and so are, at random,
    those above MOST_CELLS; the page says how many.

    Raises ValueError where a named column is in neither dataset.
    """
    parts = {"query": query} if reference is None else {"reference": reference, "query": query}
    first = [name for name in (label, uncertainty, batch) if name is not None]
    names = list(dict.fromkeys([*first, *(name for part in parts.values() for name in part.columns)]))
    for name in first:
        if not any(name in part.columns for part in parts.values()):
            raise ValueError(f"no cells have a column {name!r}")
    chosen, notes = _choose(parts, np.random.default_rng(seed))
    if label is None:
        notes.append("There are no labels to colour the cells by.")
    places, extent = _place(np.concatenate([part.position[chosen[key]] for key, part in parts.items()]))
    drawn = {key: part.columns.iloc[chosen[key]] for key, part in parts.items()}
    shares = {uncertainty, *shares}
    content = {
        "title": title,
        "cells": {key: len(frame) for key, frame in drawn.items()},
        "places": _base64(places),
        "extent": extent,
        "columns": [_column(name, list(drawn.values()), name in shares) for name in names],
        "color": label or batch,
        "names": _cell_names(drawn["query"]),
        "dataset": {
            "light": [GREY if key == "reference" else FEW_COLORS[0] for key in parts],
            "dark": [DARK_GREY if key == "reference" else visible(FEW_COLORS[0]) for key in parts],
        },
        "grey": {"light": GREY, "dark": DARK_GREY},
        "ramp": _ramp(),
        "notes": notes,
    }
    path.write_bytes(fill(TEMPLATE.read_text("utf-8"), title, content).encode())


def fill(template: str, title: str, content: dict) -> str:
    """Put the title and the content into the template, and the hashes of its style and script into its policy."""
    filling = {
        "title": escape(title),
        # No `<` reaches the HTML parser, so nothing in the content can end the element that holds it.
        "content": json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        "style": _hash(re.search(r"<style>(.*?)</style>", template, re.DOTALL)[1]),
        "script": _hash(re.search(r"<script>(.*?)</script>", template, re.DOTALL)[1]),
    }
    # In one go: what is filled in is not looked at again.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: filling[match[1]], template)


def _hash(source: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}"


def _choose(parts: dict[str, Cells], rng: np.random.Generator) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the rows to draw of each dataset, in random order, and a sentence on each kind of those left out.

    The query keeps at least half of the room: it is what the page is about.
    """
    placed = {key: np.flatnonzero(np.isfinite(part.position).all(axis=1)) for key, part in parts.items()}
    n_reference = len(placed.get("reference", ()))
    room = {"query": min(len(placed["query"]), max(MOST_CELLS // 2, MOST_CELLS - n_reference))}
    room["reference"] = MOST_CELLS - room["query"]
    chosen, notes = {}, []
    for key, rows in placed.items():
        chosen[key] = rng.permutation(rows)[: room[key]]
        unplaced = len(parts[key].columns) - len(rows)
        if unplaced:
            notes.append(f"Cells of the {key} that have no place in the picture, and are left out: {unplaced:,}.")
        if len(rows) > room[key]:
            notes.append(f"Cells of the {key}: {room[key]:,} of {len(rows):,} are drawn, chosen at random.")
    return chosen, notes


def _place(position: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """Return the places as uint16 (cells x 2), both dimensions on the scale of the longer, and how far each goes (0 to 1)."""
    if not len(position):
        return np.zeros((0, 2), np.uint16), [1.0, 1.0]
    position = position.astype(np.float64) - position.min(axis=0)
    longer = position.max() or 1.0
    return np.round(position / longer * MOST_CODE).astype(np.uint16), (position.max(axis=0) / longer).tolist()


def _column(name: str, frames: list[pd.DataFrame], is_share: bool) -> dict:
    parts = [frame[name] if name in frame else None for frame in frames]
    known = [part for part in parts if part is not None and part.notna().any()]
    if known and all(pd.api.types.is_numeric_dtype(part) and not pd.api.types.is_bool_dtype(part) for part in known):
        codes, described = _numbers(_join(parts, frames, float), is_share)
    else:
        codes, described = _categories(_join(parts, frames, object))
    absent = [np.full(len(frame), part is None) for part, frame in zip(parts, frames)]
    codes[np.concatenate(absent)] = ABSENT
    return {"name": str(name), "bytes": codes.itemsize, "codes": _base64(codes), **described}


def _join(parts: list[pd.Series | None], frames: list[pd.DataFrame], dtype: type) -> np.ndarray:
    arrays = [
        np.full(len(frame), np.nan, dtype) if part is None else part.to_numpy(dtype, na_value=np.nan)
        for part, frame in zip(parts, frames)
    ]
    return np.concatenate(arrays)


def _numbers(values: np.ndarray, is_share: bool) -> tuple[np.ndarray, dict]:
    """Code numbers as `low + (code - FIRST) * step`; whole ones exactly, where the codes suffice."""
    known = np.isfinite(values)
    low, high = (values[known].min(), values[known].max()) if known.any() else (0.0, 0.0)
    whole = bool((values[known] == np.round(values[known])).all()) and high - low <= MOST_CODE - FIRST
    step = 1.0 if whole else (high - low) / (MOST_CODE - FIRST) or 1.0
    codes = np.full(len(values), MISSING, np.uint16)
    codes[known] = FIRST + np.round((values[known] - low) / step)
    limits = [0, max(1, high)] if is_share else [low, high]
    return codes, {"low": float(low), "step": float(step), "limits": [float(limit) for limit in limits]}


def _categories(values: np.ndarray) -> tuple[np.ndarray, dict]:
    """Code text by the rank of its frequency, as the pictures do."""
    values = pd.Series(values, dtype=object).map(str, na_action="ignore")
    names = list(ranked(values).index)
    codes = pd.Categorical(values, categories=names).codes.astype(np.int64)
    codes = np.where(codes < 0, MISSING, codes + FIRST).astype(np.min_scalar_type(len(names) + FIRST))
    light = colors(len(names))
    return codes, {"categories": names, "light": light, "dark": [visible(color) for color in light]}


def colors(n: int) -> list[str]:
    """Return the colours of `plots.draw_cells` for n categories; where it has no more, they come round again."""
    if n <= len(FEW_COLORS):
        return list(FEW_COLORS[:n])
    apart = np.linspace(0, len(MANY_COLORS) - 1, min(n, len(MANY_COLORS))).round().astype(int)
    return [MANY_COLORS[apart[i % len(apart)]] for i in range(n)]


def visible(color: str) -> str:
    """Return the colour to use on the dark background: mixed with white, the more the darker it is.

    The contrast goes from c to the root of c² + LEAST_CONTRAST²: enough for all, and two dark colours stay apart.
    """
    if color == "#000000":
        # Any mixture of it would be the grey of missing cells.
        return "#ffffff"
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    enough = np.hypot(contrast(color, DARK_BACKGROUND), LEAST_CONTRAST)
    mixed = (_hex(np.round(rgb + (255 - rgb) * white).astype(int)) for white in np.linspace(0, 1, 101))
    return next((mix for mix in mixed if contrast(mix, DARK_BACKGROUND) >= enough), "#ffffff")


def _hex(rgb: np.ndarray) -> str:
    return "#" + "".join(f"{part:02x}" for part in rgb)


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours, 1 to 21, by https://www.w3.org/TR/WCAG21/#dfn-contrast-ratio."""
    dark, light = sorted(map(_luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def _luminance(color: str) -> float:
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def _ramp() -> dict[str, list[str]]:
    """Return the stops of viridis, the pictures' scale of numbers; on a dark background from where it can be seen."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    stops = [to_hex(colormaps["viridis"](share)) for share in np.linspace(0, 1, RAMP_STOPS)]
    return {"light": stops, "dark": [stop for stop in stops if contrast(stop, DARK_BACKGROUND) >= LEAST_CONTRAST]}


def _cell_names(frame: pd.DataFrame) -> list[str] | None:
    names = [str(name) for name in frame.index]
    return names if sum(len(name.encode(errors="replace")) for name in names) <= MOST_NAME_BYTES else None


def _base64(codes: np.ndarray) -> str:
    return base64.b64encode(codes.astype(codes.dtype.newbyteorder("<")).tobytes()).decode()
