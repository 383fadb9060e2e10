"""The limits of the traffic light, which stand in thresholds.yml beside this file."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import yaml

from ..common.errors import RefmapError, nearest

THRESHOLDS = Path(__file__).with_name("thresholds.yml")
# The figures that are judged, in the order in which their reasons are told.
FIGURES = (
    *("certain", "groups", "panel", "genes", "hshare", "resemblance", "explained", "novel", "unknown"),
    *("mixing", "clusters", "batches"),
)
# What is judged, each by a light of its own.
LABELS, EMBEDDING = PARTS = ("labels", "embedding")


@dataclass(frozen=True)
class Limit:
    """When one figure turns the light; the fields are those that the head of thresholds.yml explains."""

    about: str
    of: list[str]
    bad: str
    amber: float
    red: float | None
    needed: bool
    unless: list[str]

    def beyond(self, value: float, limit: float | None) -> bool:
        """Whether a value is worse than a limit; none is worse than None."""
        return limit is not None and (value < limit if self.bad == "lower" else value > limit)


def read_thresholds(path: Path = THRESHOLDS) -> dict[str, Limit]:
    """Read the limits of all figures.

    Raises RefmapError if the file names another figure or field than those there are, lacks one, or holds a limit that cannot be.
    """
    try:
        given = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise RefmapError(f"The thresholds '{path}' cannot be read ({error}): give a YAML file.") from error
    if not isinstance(given, dict):
        raise RefmapError(f"The thresholds '{path}' hold no figures: name {', '.join(FIGURES)}.")
    _names_are(given, FIGURES, f"The thresholds '{path}'")
    return {name: _limit(given[name], f"'{name}' of the thresholds '{path}'") for name in FIGURES}


def _names_are(given: dict, wanted: tuple[str, ...], where: str) -> None:
    for name in given:
        if name not in wanted:
            raise RefmapError(f"{where} hold '{name}', which is not one of {', '.join(wanted)}.{nearest(name, wanted)}")
    for name in wanted:
        if name not in given:
            raise RefmapError(f"{where} lack '{name}': add it.")


def _limit(given: object, where: str) -> Limit:
    if not isinstance(given, dict):
        raise RefmapError(f"{where} is {given!r}: give it the fields {', '.join(field.name for field in fields(Limit))}.")
    _names_are(given, tuple(field.name for field in fields(Limit)), f"The fields of {where}")
    limit = Limit(**given)
    if limit.bad not in ("lower", "higher"):
        raise RefmapError(f"{where} has bad: {limit.bad!r}: write lower or higher.")
    for name, known in (("of", PARTS), ("unless", FIGURES)):
        given = getattr(limit, name)
        if not isinstance(given, list) or any(item not in known for item in given):
            raise RefmapError(f"{where} has {name}: {given!r}: write a list of {', '.join(known)}.")
    if not isinstance(limit.needed, bool):
        raise RefmapError(f"{where} has needed: {limit.needed!r}: write true or false.")
    for name in ("amber", "red"):
        value = getattr(limit, name)
        if value is None and name == "red":
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise RefmapError(f"{where} has {name}: {value!r}: write a number from 0 to 1.")
    if limit.red is not None and limit.beyond(limit.amber, limit.red):
        raise RefmapError(f"{where} turns red at {limit.red} before it turns amber at {limit.amber}: exchange them.")
    return limit
