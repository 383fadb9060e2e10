"""The values of pandas' indexes and categories, out of the records that inspection makes of them, whichever version wrote them."""

from __future__ import annotations

from typing import Any

import numpy as np

from .values import Inert, Named

_MOST_COUNTED = 10_000_000  # a range claims as many as it likes


def index_values(value: Any) -> list:
    """The values of an index, of an array or of a list. Raises `ValueError` for anything else."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return list(value)
    if _made_by(value, "_new_Index"):
        _, parts = value.args
        return _counted(parts) if "start" in parts else index_values(parts["data"])
    # An array of texts holds an array of objects, or what Arrow's became; what has categories holds their numbers alone.
    if isinstance(value, Inert) and not any(_made_by(part, "CategoricalDtype") for part in _parts(value.state)):
        for part in _parts(value.state):
            if isinstance(part, (np.ndarray, list)):
                return index_values(part)
    raise ValueError("no index or array of values")


def category_values(value: Any) -> list:
    """The categories of a categorical array, in order. Raises `ValueError` for anything else."""
    if isinstance(value, Inert):
        for part in _parts(value.state):
            if _made_by(part, "CategoricalDtype"):
                categories = part.state if isinstance(part.state, dict) else {}
                return index_values(categories.get("categories"))
    raise ValueError("no categories")


def _counted(bounds: dict) -> list:
    numbers = range(bounds["start"], bounds["stop"], bounds["step"])
    if len(numbers) > _MOST_COUNTED:
        raise ValueError("an index without end")
    return list(numbers)


def _made_by(value: Any, name: str) -> bool:
    return isinstance(value, Inert) and isinstance(value.made_by, Named) and value.made_by.name == name


def _parts(state: Any) -> list:
    """What a state is made of: it is a dictionary of attributes, or a tuple of parts, among which dictionaries may stand."""
    if isinstance(state, dict):
        return list(state.values())
    return (
        [part for one in state for part in (one.values() if isinstance(one, dict) else [one])] if isinstance(state, tuple) else []
    )
