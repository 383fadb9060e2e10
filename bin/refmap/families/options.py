"""Settings that one family of models has and others have not: a mapping's `options`, a reference's `--reference_options`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..common.errors import RefmapError, nearest

KINDS = {
    "flag": "true or false",
    "int": "a whole number",
    "float": "a number",
    "text": "text",
    "column": "a column of the query's obs",
}


@dataclass(frozen=True)
class Option:
    """One setting of a family.

    Attributes
    ----------
    kind
        A key of `KINDS`.
    default
        Its value where none is given; None: it is off.
    about
        What it does, a sentence for the docs.
    least, most
        The least and the greatest number that it can be.
    choices
        The texts that it can be; empty: any.
    """

    kind: str
    default: Any
    about: str
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()

    def to_json(self) -> dict:
        return asdict(self)

    @property
    def must(self) -> str:
        """What it must be, in words."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        limits = ((self.least, "or more"), (self.most, "or less"))
        said = " and ".join(f"{limit:g} {word}" for limit, word in limits if limit is not None)
        return KINDS[self.kind] + (f" of {said}" if said else "")


def defaults(known: Mapping[str, dict]) -> dict[str, Any]:
    """The defaults of a card's options."""
    return {name: option["default"] for name, option in known.items()}


def read_options(given: Mapping[str, Any], known: Mapping[str, Option], whose: str) -> dict[str, Any]:
    """Return every known option by name: what was given, typed, or its default.

    Raises
    ------
    RefmapError
        One line a fault: an unknown option, or a value that it cannot have. `whose` names what takes the options.
    """
    faults = []
    values = {name: option.default for name, option in known.items()}
    for name, value in given.items():
        if name not in known:
            has = f"it takes {', '.join(known)}" if known else "it takes none"
            faults.append(f"there is no option '{name}' for {whose}: {has}.{nearest(name, known)}")
            continue
        try:
            values[name] = _typed(value, known[name])
        except ValueError:
            faults.append(f"option '{name}' is '{value}', but must be {known[name].must}.")
    if faults:
        raise RefmapError("\n".join(faults))
    return values


def _typed(value: Any, option: Option) -> Any:
    text = str(value).strip()
    if option.kind == "flag":
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    if option.choices and text not in option.choices:
        raise ValueError(text)
    if option.kind not in ("int", "float"):
        return text
    number = int(text) if option.kind == "int" else float(text)
    within = (option.least is None or number >= option.least) and (option.most is None or number <= option.most)
    if not math.isfinite(number) or not within:
        raise ValueError(text)
    return number


def parse_options(text: str) -> dict[str, str]:
    """Read `name=value;name=value`, as a CSV sheet and the command line give options. Raises `ValueError` for anything else."""
    pairs = [part.partition("=") for part in text.split(";") if part.strip()]
    options = {name.strip(): value.strip() for name, equals, value in pairs if equals and name.strip()}
    if len(options) != len(pairs):
        raise ValueError(text)
    return options


def parse_reference_options(text: str | None) -> dict[str, str]:
    """Read ``--reference_options``. Raises RefmapError for what is no list of options."""
    try:
        return parse_options(text or "")
    except ValueError:
        raise RefmapError(f"--reference_options is '{text}', but must be options as name=value, parted by ';'.") from None
