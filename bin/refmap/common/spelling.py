"""Categories as people and programs spell them: which are the same, and which say that there is none."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from .errors import listed

# What stands where there is no value: of pandas, R, spreadsheets, archives of sequences, and annotators.
MISSING = frozenset({
    "nan", "na", "n/a", "n.a.", "<na>", "#n/a", "nat", "none", "null", "nil",
    "unknown", "missing", "undefined", "unspecified", "unassigned", "unlabeled", "unlabelled", "unannotated",
    "not available", "not applicable", "not provided", "not collected", "not determined", "not specified",
})  # fmt: skip
_WHOLE = re.compile(r"([+-]?\d+)\.0*")


def plain(value: str) -> str:
    """A category without what programs change of it: case, whitespace, and the `.0` of a whole number."""
    spaced = " ".join(unicodedata.normalize("NFKC", value).split())
    whole = _WHOLE.fullmatch(spaced)
    return whole[1] if whole else spaced.casefold()


def says_missing(value: str) -> bool:
    """Whether a category says that there is no value."""
    return (bare := plain(value)) == "" or bare in MISSING


@dataclass
class Spelled:
    """Categories in the spelling of those that are known.

    Attributes
    ----------
    values
        Object array of str: '' where missing, the known spelling where it is known, else as it was.
    taken
        How many cells had each spelling that was taken for a known one: {(found, known): cells}.
    missing
        How many cells had each spelling that was taken for missing.
    """

    values: np.ndarray
    taken: Counter[tuple[str, str]] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)

    def notes(self, where: str) -> list[str]:
        """What was taken for what, a sentence each; `where` is what they are about, such as a file and a column of it."""
        sentences = []
        if self.taken:
            shown = [f"'{found}' for '{known}' ({cells:,})" for (found, known), cells in self.taken.most_common()]
            more = f" and {len(shown) - 5:,} more" if len(shown) > 5 else ""
            sentences.append(f"{where}: {cells_of(self.taken)} taken under the model's spelling: {', '.join(shown[:5])}{more}.")
        if self.missing:
            sentences.append(
                f"{where}: {cells_of(self.missing)} taken for cells without a value, as they have {listed(self.missing, 5)}."
            )
        return sentences


def cells_of(counts: Counter) -> str:
    """How many cells these are, and the verb: ``1 cell is`` or ``2 cells are``."""
    cells = sum(counts.values())
    return f"{cells:,} cell{' is' if cells == 1 else 's are'}"


def spell(values: Iterable[str], known: Iterable[str] = ()) -> Spelled:
    """Spell categories as the known ones are, and take for missing what says so and is not known.

    A category that is known as it stands stays so; one that could be several of the known stays as it is.
    """
    values = np.array(values if isinstance(values, np.ndarray) else list(values), dtype=object)
    exact, by_plain = set(known), {}
    for name in exact:
        by_plain.setdefault(plain(name), []).append(name)
    result, new = Spelled(values), {}
    for value, cells in Counter(values).items():
        if value in exact or value == "":
            continue
        same = by_plain.get(plain(value), ())
        if len(same) == 1:
            new[value] = same[0]
            result.taken[value, same[0]] = cells
        elif not same and says_missing(value):
            new[value] = ""
            result.missing[value] = cells
    if new:
        result.values = np.array([new.get(value, value) for value in values], dtype=object)
    return result
