"""Two traffic lights for a mapping, of its labels and of its embedding, and their reasons in sentences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

from .thresholds import EMBEDDING, LABELS, PARTS, Limit

GREEN, AMBER, RED, GREY = "green", "amber", "red", "grey"
# Groups that a reason names.
MOST_GROUPS = 5
WHAT = {LABELS: "these labels", EMBEDDING: "this embedding"}


@dataclass(frozen=True)
class Verdict:
    """How far the labels of a mapping, or its embedding, can be trusted.

    light      green: nothing speaks against them; amber: read the reasons before you use them; red: do not use them;
               grey: they were not judged, as what is needed for that is not known
    reasons    sentences, at least one: why the light is what it is
    missing    sentences: which of the figures could not be had, and why
    """

    light: str
    reasons: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def to_json(self) -> dict:
        return asdict(self)


def judge(figures: Mapping[str, Mapping], thresholds: Mapping[str, Limit]) -> dict[str, Verdict]:
    """Judge the figures of :func:`refmap.trust.measure` by the limits of :func:`refmap.trust.read_thresholds`.

    Labels and embedding are judged apart: a protocol may set the query beside the reference, and its labels be right. Each light is
    that of the worst figure that speaks of it. A figure without a value has none; without all of those that are needed the light is
    grey, unless another figure makes it red.
    """
    return {
        part: _judge(figures, {name: limit for name, limit in thresholds.items() if part in limit.of}, part) for part in PARTS
    }


def _judge(figures: Mapping[str, Mapping], limits: Mapping[str, Limit], part: str) -> Verdict:
    known = {name for name in limits if figures[name]["value"] is not None}
    limits = {name: limit for name, limit in limits.items() if not known & set(limit.unless)}
    missing = {name: figures[name]["note"] for name in limits if name not in known}
    found = {name: _light(name, figures[name], limit) for name, limit in limits.items() if name in known}
    reasons = {
        color: [
            JUDGED[name].sentence(figures[name], limits[name].red if color == RED else limits[name].amber)
            for name, light in found.items()
            if light == color
        ]
        for color in (RED, AMBER)
    }
    # Of several figures missing for the same reason it is told once.
    lacking = [] if any(limits[name].needed for name in found) else [name for name in missing if limits[name].needed]
    needed = list(dict.fromkeys(missing[name] for name in lacking))
    untold = [note for note in dict.fromkeys(missing.values()) if note not in needed]
    worse = reasons[RED] + reasons[AMBER]
    if reasons[RED]:
        return Verdict(RED, worse, needed + untold)
    told = _listed([JUDGED[name].short(figures[name]) for name in found])
    if needed:
        found_so_far = f"What is known: {told}." if told else "No figure is known."
        return Verdict(
            GREY, [f"It cannot be said how far {WHAT[part]} may be trusted. " + " ".join(needed), found_so_far, *worse], untold
        )
    if worse:
        return Verdict(AMBER, worse, untold)
    return Verdict(GREEN, [f"Nothing that was looked at speaks against {WHAT[part]}: {told}."], untold)


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


def _certain(of: Mapping, limit: float) -> str:
    return (
        f"{_percent(of['value'])} of the labels in '{of['key']}' are expected to be right, where at least {_percent(limit)} are wanted; of "
        f"the reference's own cells, held out, {_percent(of['expected'])} were. {_percent(of['certain'])} of the cells have a label that is "
        "certain enough not to be Unknown."
    )


def _groups(of: Mapping, limit: float) -> str:
    shown = sorted(of["groups"].items(), key=lambda item: -item[1]["score"])[:MOST_GROUPS]
    told = ", ".join(f"{name} ({group['n_cells']:,} cells, called {group['label']})" for name, group in shown)
    more = f" and {len(of['groups']) - len(shown)} more" if len(of["groups"]) > len(shown) else ""
    return (
        f"{_percent(of['value'])} of the cells are in groups that differ from the reference beyond what sets the whole query apart, as types "
        f"that it lacks do: {told}{more}. A condition that acts on these alone does the same: see groups.csv."
    )


def _panel(of: Mapping, limit: float) -> str:
    return (
        f"By the {of['n_genes']:,} genes that the query has of the reference's {of['of']:,}, {_percent(of['accuracy'])} of the reference's "
        f"held-out cells get their own label, and {_percent(of['accuracy_of_all'])} by all of them: {_percent(of['value'])}, where at least "
        f"{_percent(limit)} are wanted. The missing genes tell cell types apart."
    )


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


def _no_group(of: Mapping) -> str:
    states = f", and {of['n_states']} of known types in another state" if of["n_states"] else ""
    return f"no group of its own that the reference lacks{states}"


def _resemblance(of: Mapping, limit: float) -> str:
    return (
        f"Of what tells the query's own clusters apart the reference cells that they were mapped to have {_percent(of['value'])}, where at "
        f"least {_percent(limit)} are wanted: they are of another kind, or lie among cells that are not theirs."
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
    "certain": Judged(_certain, lambda of: f"{_percent(of['value'])} of the labels expected to be right"),
    "groups": Judged(_groups, _no_group),
    "panel": Judged(_panel, lambda of: f"{_percent(of['value'])} of the accuracy left by its genes"),
    "genes": Judged(_genes, lambda of: f"{_percent(of['value'])} of the model's genes found"),
    "hshare": Judged(_hshare, lambda of: f"{_percent(of['value'])} of the encoder's signal carried by the query's genes"),
    "resemblance": Judged(
        _resemblance, lambda of: f"{_percent(of['value'])} of what tells its clusters apart found in the reference's cells"
    ),
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
