"""What the sections write in HTML. Whatever comes from a user goes through `escape`."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from urllib.parse import quote

from ..outcomes import Outcome

MOST_NAMES = 20
# Up to this many, mappings need not be unfolded one by one, nor looked for.
MOST_UNFOLDED = 6
RED, AMBER, GREEN, GREY, BLUE = "#d9534f", "#e69f00", "#009e73", "#9e9e9e", "#0072b2"
# The lights, worst first: the colour of each, and what it means.
LIGHTS = {
    "red": (RED, "do not use them"),
    "grey": (GREY, "not judged, as too little is known: look at the cells yourself"),
    "amber": (AMBER, "read the reasons before you use them"),
    "green": (GREEN, "nothing that was looked at speaks against them"),
}


def box(color: str, content: str) -> str:
    return (
        f'<div style="border-left: 6px solid {color}; background: {color}22; padding: 0.7em 1em; margin: 0.6em 0;'
        f' overflow-wrap: anywhere">{content}</div>'
    )


def lines(text: str) -> str:
    return escape(text).replace("\n", "<br>")


def badge(light: str) -> str:
    return (
        f'<span style="background: {LIGHTS[light][0]}; color: #000; border-radius: 0.8em; padding: 0.1em 0.7em;'
        f' font-weight: bold">{light}</span>'
    )


def link(outcome: Outcome) -> str:
    """To the page to look around in, from where the report lies: `multiqc` beside `reference_mapping`."""
    if not outcome.explore:
        return ""
    return f' &middot; <a href="../{escape(quote(outcome.explore))}" target="_blank">look around in its cells</a>'


def many(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def some(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f"{escape(', '.join(names[:MOST_NAMES]))}{more}"


def folded(content: str, n: int, noun: str) -> str:
    """A list or table, folded where it is long."""
    return content if n <= 2 * MOST_UNFOLDED else f"<details><summary>{many(n, noun)}</summary>{content}</details>"


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of cells in HTML."""
    head = "".join(f"<th>{column}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return (
        '<div class="table-responsive"><table class="table table-sm table-hover" style="width: auto">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
