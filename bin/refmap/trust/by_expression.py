"""Figures of what the cells' expression says of their labels: see :mod:`refmap.identity`."""

from __future__ import annotations

from collections.abc import Mapping

from ..identity.groups import TYPE
from .figures import figure

# Of a group that the light tells of.
FEWEST_IN_GROUP = 20
NO_COUNTS = "There are no counts of the reference's cells at hand, so the query's expression cannot be compared with theirs."


def certain(told: Mapping | None, note: str | None) -> dict:
    """How many of the transferred labels are expected to be right: the mean of their calibrated certainty.

    Parameters
    ----------
    told
        What the mapping's record says under ``expression``; None where there is nothing.
    note
        Why there is nothing.

    Returns
    -------
    Of several columns of labels the one whose labels are surest; ``expected`` is that accuracy of the reference's held-out cells.
    ``certain`` is the share of the cells that are no `Unknown` by it, and ``levels`` the same of each column, with ``ece``: the
    calibration error of held-out cells that taught nothing.
    """
    if told is None:
        return figure(note=note, levels={})
    levels = {key: _level(view) for key, view in told["views"].items()}
    known = {key: level for key, level in levels.items() if level["value"] is not None}
    if not known:
        notes = list(dict.fromkeys(level["note"] for level in levels.values()))
        return figure(note=" ".join(notes) or "No labels were transferred to the query.", levels=levels)
    best = max(known, key=lambda key: known[key]["value"])
    of = known[best]
    return figure(of["value"], of["expected"], key=best, certain=of["certain"], ece=of["ece"], levels=levels)


def _level(view: Mapping) -> dict:
    if view["note"] or view.get("mean_certainty") is None:
        return figure(note=view["note"] or "No cell of the query has a label whose certainty is known.", certain=None, ece=None)
    held = view["held_out"]
    return figure(view["mean_certainty"], held["latent_accuracy"], certain=view["certain"], ece=held["latent_ece"])


def groups(told: Mapping | None, note: str | None) -> dict:
    """Share of the cells in groups that are read as types that the reference lacks, of 20 cells or more.

    ``groups`` are these, ``n_smaller`` how many smaller ones there are; ``n_states`` how many groups differ from the reference too, but
    are read as a state of their type (:func:`refmap.identity.groups.read`); ``threshold`` is the score that all exceed.
    """
    found = told and told["novel"]
    if not found or found["note"]:
        return figure(note=note if not found else found["note"], groups={})
    types = {name: group for name, group in found["groups"].items() if group["reading"] == TYPE}
    large = {name: group for name, group in types.items() if group["n_cells"] >= FEWEST_IN_GROUP}
    return figure(
        sum(group["n_cells"] for group in large.values()) / told["n_cells"],
        0.0,
        groups=large,
        n_smaller=len(types) - len(large),
        n_states=len(found["groups"]) - len(types),
        threshold=found["threshold"],
    )


def resemblance(told: Mapping | None, note: str | None) -> dict:
    """How much of what tells the query's own clusters apart the reference cells that they were mapped to have too, 0 to 1.

    See :func:`refmap.identity.resemblance.resemblance`.
    """
    found = told and told["novel"]
    if not found or found["note"]:
        return figure(note=note if not found else found["note"])
    return figure(found["resemblance"], 1.0)


def panel(told: Mapping | None, note: str | None) -> dict:
    """How well labels can be told by the query's genes alone, divided by how well by all of the reference's.

    Both are the gene view's accuracy on the reference's held-out cells. A query with nearly all genes loses nothing.
    """
    found = told and told["panel"]
    if not found or found["note"]:
        return figure(note=note if not found else found["note"])
    return figure(
        min(1.0, found["accuracy"] / found["accuracy_of_all"]) if found["accuracy_of_all"] else None,
        1.0,
        note=None if found["accuracy_of_all"] else "The genes of the reference tell none of its labels.",
        n_genes=found["n_genes"],
        of=found["of"],
        accuracy=found["accuracy"],
        accuracy_of_all=found["accuracy_of_all"],
    )
