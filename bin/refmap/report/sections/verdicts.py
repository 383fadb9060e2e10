"""What failed and why, how far each mapping may be trusted, and what was warned of."""

from __future__ import annotations

from html import escape

from ..outcomes import Outcome
from .html import AMBER, GREY, LIGHTS, MOST_UNFOLDED, RED, badge, box, lines, link, many, some, table


def failures(outcomes: list[Outcome]) -> dict | None:
    """Name what failed, at which stage and why; and colour its rows red, here and in the tables below."""
    failed = [outcome for outcome in outcomes if not outcome.mapped]
    if not failed:
        return None
    boxes = [
        box(RED, f"<strong>{escape(outcome.name)}</strong> at {escape(outcome.stage)}<br>{lines(outcome.reason)}")
        for outcome in failed
    ]
    style = f'<style>tr:has(td[data-sorting-val="failed"]) > * {{ background-color: {RED}55 !important; }}</style>'
    return {
        "section_name": "Failures",
        "description": f"{len(failed)} of {len(outcomes)} mappings failed and left no output."
        + " The others are complete." * (len(failed) < len(outcomes)),
        "plot_type": "html",
        "data": style + "".join(boxes),
    }


def trust(mapped: list[Outcome]) -> dict | None:
    """Say how far labels and embedding of each mapping may be trusted and why, those with the worst labels first; green ones are
    folded where there are many."""
    judged = {light: [outcome for outcome in mapped if outcome.labels_light == light] for light in LIGHTS}
    judged = {light: whose for light, whose in judged.items() if whose}
    if not judged:
        return None
    groups = [_light(light, whose, light != "green" or len(mapped) <= MOST_UNFOLDED) for light, whose in judged.items()]
    alone = [outcome.name for outcome in mapped if outcome.alone]
    return {
        "section_name": "Trust",
        "description": "How far the labels of each mapping may be trusted, the worst first, and apart from that its embedding: another "
        "protocol sets a query beside its reference, and its labels may be right. Each light is that of the worst of its figures, which "
        "are measured on the scale that the reference sets; docs/trust.md says how, and where the limits are.",
        "plot_type": "html",
        "data": (_without_reference(alone) if alone else "") + (FILTER if len(mapped) > MOST_UNFOLDED else "") + "".join(groups),
    }


# Shows the mappings that have what is typed in their name or reasons, unfolded.
FILTER = """
<input type="search" class="form-control" style="max-width: 30em; margin: 0.6em 0" placeholder="Filter by name or reason"
 aria-label="Filter the mappings by name or reason" oninput="
  for (const light of document.querySelectorAll('.refmap-light')) {
    const boxes = [...light.querySelectorAll('.refmap-mapping')];
    for (const box of boxes) box.hidden = !box.textContent.toLowerCase().includes(this.value.toLowerCase());
    light.hidden = boxes.every((box) => box.hidden);
    light.open = this.value ? true : light.dataset.open === 'true';
  }">
"""


def _without_reference(names: list[str]) -> str:
    return box(
        GREY,
        f"<strong>Without cells of the reference: {many(len(names), 'mapping')}.</strong> So no labels were transferred to them, "
        "no uncertainty was had from neighbours, and it is not known which of their cells are unlike the reference: their light is "
        "that of the model and the query alone, and grey where these say nothing. Name the cells that the model was trained on as <code>reference</code> in the sheet, and run again with "
        f"<code>-resume</code>: nothing is trained anew.<br><small>{some(names)}</small>",
    )


def _light(light: str, whose: list[Outcome], unfolded: bool) -> str:
    color, meaning = LIGHTS[light]
    boxes = "".join(f'<div class="refmap-mapping">{box(color, _verdict(outcome))}</div>' for outcome in whose)
    return (
        f'<details class="refmap-light" data-open="{str(unfolded).lower()}"{" open" * unfolded} style="margin: 0.6em 0">'
        f"<summary>{badge(light)} <strong>{many(len(whose), 'mapping')}</strong>: {meaning}</summary>{boxes}</details>"
    )


def _verdict(outcome: Outcome) -> str:
    """A mapping's name and lights, where to look around in it, why it has those lights, and what could not be had."""
    of = {part: outcome.verdict(part) for part in ("labels", "embedding")}
    badges = " ".join(f"{part} {badge(verdict['light'])}" for part, verdict in of.items())
    told = "".join(f"<br><strong>{part}</strong>: {'<br>'.join(map(lines, verdict['reasons']))}" for part, verdict in of.items())
    notes = dict.fromkeys(note for verdict in of.values() for note in verdict["missing"])
    missing = "".join(f"<br><small>Not measured: {lines(note)}</small>" for note in notes)
    clusters = _clusters(outcome.figure("explained").get("clusters") or {})
    samples = _samples(outcome.figure("mapqc"))
    moved = _moved(outcome.record.get("correction") or {})
    return f"<strong>{escape(outcome.name)}</strong> {badges}{link(outcome)}{told}{moved}{samples}{missing}{clusters}"


def _moved(correction: dict) -> str:
    """What was done of a query that surgery could not move, with the share of reference cells around its cells before and after."""
    if not correction:
        return ""
    before, after = (correction[when] for when in ("before", "after"))
    if after is None:
        return f"<br><small>Not moved in the latent space: {lines(correction['reason'])}</small>"
    shares = f"around its cells {_share(before)} of the nearest are the reference's before, {_share(after)} after"
    shares += f", and {_share(before, 'expected')} are expected" if before["expected"] is not None else ""
    if correction["method"] is None:
        return f"<br><small>Not moved in the latent space: {lines(correction['reason'])} ({shares})</small>"
    return f"<br><strong>Moved in the latent space</strong>, as surgery did not: {shares}. {lines(correction['reason'])}"


def _share(around: dict, which: str = "value") -> str:
    return "?" if around[which] is None else f"{100 * around[which]:.1f} %"


def _samples(of: dict) -> str:
    """What mapQC says, where the row names samples: it is no reason of a light."""
    if not of:
        return ""
    if of["value"] is None:
        return f"<br><small>mapQC: {lines(of['note'])}</small>"
    cases = f", and {100 * of['cases']:.1f} % of {of['n_cases']:,} others" if of["n_cases"] else ""
    return (
        f"<br><strong>mapQC</strong>: {100 * of['value']:.1f} % of {many(of['n_cells'], 'control cell')}{cases} lie farther from the "
        f"reference than its {of['n_reference_samples']} samples usually do from each other (score above 2), by {of['n_passed']} of "
        f"{of['n_neighborhoods']} neighbourhoods."
    )


def _clusters(clusters: dict[str, dict]) -> str:
    """The query's own clusters, folded: how much of what tells each apart the model says too."""
    if not clusters:
        return ""
    rows = [
        (number, f"{of['n_cells']:,}", f"{of['value']:.2f}", *_of_most_cells(of["label"], of["label_share"]))
        for number, of in clusters.items()
    ]
    columns = ("cluster", "cells", "explained by the model", "label of most cells", "of so many")
    return f"<details><summary>{many(len(rows), 'cluster')} of its own</summary>{table(columns, rows)}</details>"


def _of_most_cells(label: str | None, share: float | None) -> tuple[str, str]:
    return ("", "") if share is None else ("none" if label is None else escape(label), f"{100 * share:.0f} %")


def warnings(outcomes: list[Outcome], references: list[dict]) -> dict | None:
    """Show every warning once, with the mappings or references that it is about; what makes a result doubtful comes first, in red."""
    names: dict[tuple[bool, str], list[str]] = {}
    for outcome in outcomes:
        for warning in outcome.warnings:
            names.setdefault((_is_severe(outcome, warning), warning), []).append(outcome.name)
    for reference in references:
        for warning in reference["warnings"]:
            names.setdefault((False, warning), []).append(f"reference {reference['name']}")
    if not names:
        return None
    boxes = []
    for (severe, warning), whose in sorted(names.items(), key=lambda item: not item[0][0]):
        text = f"<strong>{lines(warning)}</strong>" if severe else lines(warning)
        boxes.append(box(RED if severe else AMBER, f"{text}<br><small>{some(whose)}</small>"))
    return {
        "section_name": "Warnings",
        "description": "These mappings went on. Red: the result may mean nothing; read it before you use it.",
        "plot_type": "html",
        "data": "".join(boxes),
    }


def _is_severe(outcome: Outcome, warning: str) -> bool:
    """Whether nothing moved the query (surgery on a model that never sees the batch), or most of what the model sees is padding."""
    moved = (outcome.record.get("correction") or {}).get("method")
    return ("encode_covariates" in warning and not moved) or (is_low(outcome) and "of the model's" in warning)


def is_low(outcome: Outcome) -> bool:
    return outcome.overlap is not None and outcome.overlap < outcome.row["warn_gene_overlap"]
