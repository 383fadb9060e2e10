"""What inspection makes of a pickle: plain data, and records of what would have been called."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Named:
    """A global that a pickle names: a class or function that was never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Inert:
    """What a call, a class or a persistent id of a pickle would have become."""

    made_by: Any
    args: Any
    state: Any = None
    items: list = field(default_factory=list)


PERSISTENT_ID, PARTIAL = "persistent id", "functools.partial"


@dataclass(frozen=True)
class Tensor:
    """A tensor of torch: its type's name (`Float`, `Long`, ...) and shape, without its numbers."""

    kind: str
    shape: tuple[int, ...]


@dataclass
class Contents:
    """What one file holds: its value, and the globals that its pickles named, sorted.

    `left_out` is what no mapping needs and would have been refused, by its key.
    """

    value: Any
    names: list[str]
    refused: list[str]
    left_out: list[str] = field(default_factory=list)


# How many values of its own a file may make of few bytes, by pointing to the same ones again and again: a tuple of two of a
# tuple of two ... has no size to speak of until it is hashed, compared or shown, each of which takes for ever.
_MOST_VALUES = 20_000_000
_MOST_IN_KEY = 1000


def check_size(value: Any, most: int = _MOST_VALUES) -> None:
    """Raise `ValueError` where a value, written out, would hold more than `most` values."""
    sizes: dict[int, int] = {}
    left = [(value, False)]
    while left:
        one, done = left.pop()
        parts = _parts(one)
        if done:
            sizes[id(one)] = 1 + sum(sizes[id(part)] for part in parts)
            if sizes[id(one)] > most:
                raise ValueError("values within values, without end")
        elif id(one) not in sizes:
            sizes[id(one)] = 1 + len(one) // 64 if isinstance(one, (str, bytes)) else 1  # what holds itself ends here
            if parts:
                left.append((one, True))
                left += [(part, False) for part in parts]


def _parts(value: Any) -> list:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, Inert):
        return [value.made_by, value.args, value.state, value.items]
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    return list(value.ravel()) if isinstance(value, np.ndarray) and value.dtype.hasobject else []


def hashable(keys: Any) -> Any:
    """The same keys or members, which can be hashed in no time. Raises `ValueError` where one cannot."""
    for key in keys:
        if isinstance(key, tuple):
            check_size(key, _MOST_IN_KEY)
    return keys


class Refused(Exception):
    """A call of an allowed name in a form that its own library never writes."""


# What damaged or forged contents make the code below raise.
DAMAGED = (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, struct.error)
