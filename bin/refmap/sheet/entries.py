"""Mappings before they are checked, and the faults that are found in them, however the sheet is written."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass
class Entry:
    """One mapping before it is checked.

    `where` is what messages call it; `labels` what they call its values; `group` the YAML dataset that it shares its
    settings with, so that one fault in those is told once.
    """

    where: str
    values: dict[str, Any]
    labels: dict[str, str]
    group: str | None = None
    # Required values whose absence was told already, for the whole sheet.
    absent: frozenset[str] = frozenset()

    def fault(self, sentence: str) -> Fault:
        return Fault(sentence, self.where, self.group)

    def label(self, name: str) -> str:
        return self.labels.get(name, f"'{name}'")


@dataclass(frozen=True)
class Fault:
    sentence: str
    where: str
    group: str | None = None


def sentences(faults: Iterable[Fault]) -> list[str]:
    """Return one line a fault; one that files of a dataset share is told once, as of `lung/donor_1 and 3 more`."""
    alike: dict[tuple, list[Fault]] = {}
    for number, fault in enumerate(faults):
        alike.setdefault((number if fault.group is None else fault.group, fault.sentence), []).append(fault)
    return [f"{first.where}{f' and {len(others)} more' if others else ''}: {first.sentence}" for first, *others in alike.values()]


def show(value: Any) -> str:
    """Return a value as a message tells it: on one line, and no longer than that can bear."""
    text = json.dumps(value) if isinstance(value, bool) else ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."


def plain(text: str) -> str:
    """Return a name as a message tells it where it stands for itself."""
    return ascii(text)[1:-1]
