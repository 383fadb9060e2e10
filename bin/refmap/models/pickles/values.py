"""What inspection makes of a pickle: plain data, and records of what would have been called."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any


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


class Refused(Exception):
    """A call of an allowed name in a form that its own library never writes."""


# What damaged or forged contents make the code below raise.
DAMAGED = (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, struct.error)
