"""One traffic light for a mapping, and its reasons in sentences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

from .thresholds import Limit

GREEN, AMBER, RED, GREY = "green", "amber", "red", "grey"


@dataclass(frozen=True)
class Verdict:
    """How far a mapping can be trusted.

    light      green: nothing speaks against it; amber: read the reasons before you use it; red: do not use it;
               grey: it was not judged, as what is needed for that is not known
    reasons    sentences, at least one: why the light is what it is
    missing    sentences: which of the figures could not be had, and why
    """

    light: str
    reasons: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def to_json(self) -> dict:
        return asdict(self)


def judge(figures: Mapping[str, Mapping], thresholds: Mapping[str, Limit]) -> Verdict:
    """Judge the figures of :func:`refmap.trust.measure` by the limits of :func:`refmap.trust.read_thresholds`.

    The light is that of the worst figure. A figure without a value has none; if it is one that is needed, the light is grey
    unless another figure makes it red, or `explained` is known, by which a mapping is judged without cells of the reference.
    How many genes were found is not judged where it is known what they carry.
    """
    if figures["hshare"]["value"] is not None:
        thresholds = {name: limit for name, limit in thresholds.items() if name != "genes"}
    missing = {name: figures[name]["note"] for name in thresholds if figures[name]["value"] is None}
    found = {name: _light(name, figures[name], limit) for name, limit in thresholds.items() if name not in missing}
    reasons = {
        color: [
            JUDGED[name].sentence(figures[name], thresholds[name].red if color == RED else thresholds[name].amber)
            for name, light in found.items()
            if light == color
        ]
        for color in (RED, AMBER)
    }
    # Of several figures missing for the same reason it is told once.
    explained = figures["explained"]["value"] is not None
    needed = list(dict.fromkeys(note for name, note in missing.items() if thresholds[name].needed and not explained))
    untold = [note for note in dict.fromkeys(missing.values()) if note not in needed]
    worse = reasons[RED] + reasons[AMBER]
    if reasons[RED]:
        return Verdict(RED, worse, needed + untold)
    known = _listed([JUDGED[name].short(figures[name]) for name in found])
    if needed:
        found_so_far = f"What is known: {known}." if known else "No figure is known."
        return Verdict(
            GREY, ["It cannot be said how far this mapping may be trusted. " + " ".join(needed), found_so_far, *worse], untold
        )
    if worse:
        return Verdict(AMBER, worse, untold)
    return Verdict(GREEN, [f"Nothing that was looked at speaks against this mapping: {known}."], untold)


def _light(name: str, of: Mapping, limit: Limit) -> str:
    judged = JUDGED[name]
    if limit.beyond(judged.for_red(of), limit.red):
        return RED
    return AMBER if limit.beyond(judged.for_amber(of), limit.amber) else GREEN


def _value(of: Mapping) -> float:
    return of["value"]


def _relative(of: Mapping) -> float:
    """A value whose expected value is nought cannot fall short of it."""
    return 1.0 if of["relative"] is None else of["relative"]


@dataclass(frozen=True)
class Judged:
    """How a figure is judged: its sentence where it is beyond a limit, a phrase where not, and what is compared with the limits."""

    sentence: Callable[[Mapping, float], str]
    short: Callable[[Mapping], str]
    for_red: Callable[[Mapping], float] = _value
    for_amber: Callable[[Mapping], float] = _value


def _percent(share: float) -> str:
    return f"{100 * share:.1f}".removesuffix(".0") + " %"


def _number(value: float) -> str:
    return f"{value:.2f}"


def _listed(phrases: list[str]) -> str:
    return "; ".join(phrases)


def _genes(of: Mapping, limit: float) -> str:
    return (
        f"The query has {of['matched']:,} of the model's {of['of']:,} genes ({_percent(of['value'])}), where at least "
        f"{_percent(limit)} are wanted: the others are zero in every cell, which the model takes for genes that are off."
    )


def _hshare(of: Mapping, limit: float) -> str:
    return (
        f"The genes that the query has carry {_percent(of['value'])} of what the model's encoder tells cells apart by, where at least "
        f"{_percent(limit)} are wanted: cell types that the missing genes tell apart may be taken for each other."
    )


def _explained(of: Mapping, limit: float) -> str:
    return (
        f"Of what tells the query's own clusters apart the model says {_percent(of['value'])}, where at least {_percent(limit)} are "
        "wanted: it was not trained on such cells, or what differs between these it does not know."
    )


def _novel(of: Mapping, limit: float) -> str:
    return (
        f"{_percent(of['flagged'])} of the cells lie farther from the reference than 95 % of its own held-out cells do, where "
        f"{_percent(of['flagged_expected'])} are expected, so that some {_percent(of['value'])} of the query are unlike anything "
        f"in the reference, and at most {_percent(limit)} may be: their labels are those of cells that they do not resemble."
    )


def _unknown(of: Mapping, limit: float) -> str:
    beyond = {key: level for key, level in of["levels"].items() if level["value"] is not None and level["excess"] > limit}
    return " ".join(_unknown_level(key, level, limit) for key, level in beyond.items())


def _unknown_level(key: str, level: Mapping, limit: float) -> str:
    expected = (
        f"where {_percent(level['expected'])} of the reference's own held-out cells are"
        if level["expected"] is not None
        else "and nothing is known of held-out cells, so that none was expected to be"
    )
    return (
        f"By '{key}' {_percent(level['value'])} of the cells are Unknown, {expected}; at most {_percent(limit)} of the cells that "
        "would have a label may be: the reference cells around them do not agree on what they are."
    )


def _mixing(of: Mapping, limit: float) -> str:
    return (
        f"Around a query cell {_percent(of['value'])} of the nearest cells are of the reference, where {_percent(of['expected'])} "
        f"are around cells of the reference's own held-out {'batches' if of['held_out'] == 'batches' else 'cells'}, and at least "
        f"{_percent(limit * of['expected'])} are wanted: query and reference lie apart in the latent space, by a difference "
        "between the experiments that surgery did not take out, or in biology."
    )


def _clusters(of: Mapping, limit: float) -> str:
    return (
        f"The latent space keeps {_percent(of['value'])} of the clusters that the query's cells form by themselves, where at least "
        f"{_percent(limit)} are wanted: cell states that the query tells apart lie among each other, and may have got one label."
    )


def _batches(of: Mapping, limit: float) -> str:
    before = "" if of["before"] is None else f"; before surgery it was {_number(of['before'])}"
    return (
        f"The query's {of['n_batches']} batches lie apart after surgery: their iLISI is {_number(of['value'])}, where "
        f"{_number(of['expected'])} is expected of batches that are mixed and at least {_number(limit * of['expected'])} wanted"
        f"{before}. Compare cells of different batches with care."
    )


JUDGED = {
    "genes": Judged(_genes, lambda of: f"{_percent(of['value'])} of the model's genes found"),
    "hshare": Judged(_hshare, lambda of: f"{_percent(of['value'])} of the encoder's signal carried by the query's genes"),
    "explained": Judged(_explained, lambda of: f"{_percent(of['value'])} of what tells its clusters apart explained"),
    "novel": Judged(_novel, lambda of: f"{_percent(of['value'])} of the cells unlike the reference"),
    "unknown": Judged(
        _unknown,
        lambda of: f"{_percent(of['worst'])} more of the cells Unknown than expected",
        for_amber=lambda of: of["worst"],
    ),
    "mixing": Judged(
        _mixing,
        lambda of: f"{_percent(of['value'])} reference cells around query cells, {_percent(of['expected'])} expected",
        for_red=_relative,
        for_amber=_relative,
    ),
    "clusters": Judged(_clusters, lambda of: f"{_percent(of['value'])} of the query's clusters kept"),
    "batches": Judged(
        _batches,
        lambda of: f"an iLISI of its batches of {_number(of['value'])}, {_number(of['expected'])} expected",
        for_red=_relative,
        for_amber=_relative,
    ),
}
