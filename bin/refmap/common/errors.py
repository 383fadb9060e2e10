"""What a user is told when something they gave cannot be used."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RefmapError(Exception):
    """Input that cannot be used: one sentence naming the file, column or key, what was found, and what to do."""


class AskedFor(RefmapError):
    """The same, of something that the user's row names: what no row names cannot refuse it."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the known word most like `word`, how to part it if it is several, or an empty string."""
    known = [str(name) for name in known]
    several = [part.strip() for part in str(word).split(",")]
    if len(several) > 1 and set(several) <= set(known):
        return f" Part several by ';': '{';'.join(several)}'."
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(str(word).lower(), by_lower, n=1, cutoff=0.6)
    return f" Did you mean '{by_lower[close[0]]}'?" if close else ""


def listed(names, most: int = 10) -> str:
    """Names for a sentence: quoted, the first `most` of them, and how many more there are."""
    names = [str(name) for name in names]
    if not names:
        return "none"
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(f"'{name}'" for name in names[:most]) + more


def brief(cause: object, most: int = 300) -> str:
    """What a library, or a file, says of itself, for a sentence: on one line, and no longer than `most` letters."""
    text = " ".join(str(cause)[: 10 * most].split())
    return text if len(text) <= most else f"{text[:most]}..."
