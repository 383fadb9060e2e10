"""Values of a column as the categories that a model knows: exactly, or spelt as another program would."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..common.errors import listed
from .elements import as_text

# How a missing value is written where all values are text.
MISSING = {"", "nan", "na", "n/a", "#n/a", "<na>", "nat", "none", "null", "unknown", "not available"}
WHOLE = re.compile(r"([-+]?\d+)\.0*")


@dataclass(frozen=True)
class Categories:
    """The values of a column (cells; '' where missing), how many cells of a value were taken for another, or for missing."""

    values: np.ndarray
    taken_for: dict[str, str]
    missing: dict[str, int]
    cells: Counter

    def warnings(self, where: str) -> list[str]:
        """What was taken for what; `where` names the file and the column."""
        found = []
        if self.taken_for:
            cells = sum(self.cells[value] for value in self.taken_for)
            pairs = [f"'{value}' for '{known}'" for value, known in self.taken_for.items()]
            more = f" and {len(pairs) - 3:,} more" if len(pairs) > 3 else ""
            found.append(
                f"{where}: {cells:,} cells have values that the model knows in another spelling, and are taken for those: "
                f"{', '.join(pairs[:3])}{more}."
            )
        if self.missing:
            found.append(
                f"{where}: {sum(self.missing.values()):,} cells have values that say that none is known ({listed(self.missing, 3)}), "
                "and count as cells without a value."
            )
        return found


def categories(column: pd.Series, known: Iterable[str] = ()) -> Categories:
    """The values of a column as the model's `known` categories, where they are those.

    A value that is known stays as it is. One that is a spelling of missing becomes ''. Of what is left, one that differs from a
    category by case, spaces or `.0` is taken for it, if there is one such value and one such category that no other value is.
    """
    values, known = as_text(column), list(known)
    cells = Counter(values)
    left = [value for value in cells if value not in set(known)]
    missing = [value for value in left if value.strip().casefold() in MISSING]
    taken_for = alike([value for value in left if value not in missing], [name for name in known if name not in cells])
    new = taken_for | dict.fromkeys(missing, "")
    if new:
        values = np.array([new.get(value, value) for value in values], dtype=object)
    return Categories(values, taken_for, {value: cells[value] for value in missing if value}, cells)


def alike(values: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """The category that each value is a spelling of, where one value and one category are alike."""
    given, wanted = Counter(map(_form, values)), Counter(map(_form, known))
    by_form = {_form(name): name for name in known}
    return {value: by_form[_form(value)] for value in values if given[_form(value)] == 1 == wanted[_form(value)]}


def _form(value: str) -> str:
    form = " ".join(value.casefold().split())
    whole = WHOLE.fullmatch(form)
    return whole[1] if whole else form
