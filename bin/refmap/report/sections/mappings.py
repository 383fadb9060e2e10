"""The mappings in figures: a table of them, and the genes of each."""

from __future__ import annotations

from collections import Counter
from html import escape

from ..outcomes import Outcome
from .html import AMBER, BLUE, GREEN, GREY, LIGHTS, RED


def mappings(outcomes: list[Outcome]) -> dict:
    low = max((outcome.row["warn_gene_overlap"] for outcome in outcomes), default=0)
    headers = {
        "status": _header("Status", "", bgcols={"mapped": f"{GREEN}44", "failed": f"{RED}aa"}, scale=False),
        "stage": _header("Failed at", "The stage at which it stopped", scale=False),
        "labels": _light("Labels", "How far its labels may be trusted: see Trust"),
        "embedding": _light("Embedding", "How far its embedding may be trusted: see Trust"),
        "groups": _header("Novel groups", "Groups of cells that the reference seems to lack", scale="Reds", format="{:,.0f}"),
        "unknown": _share(
            "Unknown", "Share of cells without a transferred label, by the column of labels with least of them", "Reds"
        ),
        "novel": _share("Novel", "Share of cells unlike the reference", "Reds"),
        "mixing": _share("Mixing", "Share of reference cells around the query's, of what is expected: see Trust", "Greens"),
        "foreign": _fraction(
            "Foreign told",
            "Where the truth has labels that the reference lacks: how their cells are told from others by their separation "
            "(area under the ROC curve)",
            "Greens",
        ),
        "accuracy": _fraction("Accuracy", "Share of cells predicted right, where the truth is known", "Blues"),
        "transferred": _share("Transferred right", "Share of transferred labels that are right, Unknown or not", "Blues"),
        "kept": _share("Kept right", "Share of transferred labels that are right, of those that are not Unknown", "Blues"),
        "ece": _fraction("ECE", "Expected calibration error of the transferred labels; 0 is best", "Oranges"),
        "cells": _header("Cells", "Cells of the query", scale=False, format="{:,.0f}"),
        "genes": _header(
            "Genes found",
            "Share of the model's genes that the query has",
            min=0,
            max=100,
            suffix=" %",
            scale="RdYlGn",
            cond_formatting_rules={"fail": [{"lt": 100 * low}]},
        ),
        "batches": _header("New batches", "Batches that the reference did not have", scale=False, format="{:,.0f}"),
        "epochs": _header("Epochs", "Epochs trained; 0: inference only", scale=False, format="{:,.0f}"),
        "uncertainty": _header(
            "Mean uncertainty", "Of the predicted label; for scPoli a distance", min=0, scale="Purples", format="{:.3f}"
        ),
        "family": _header("Family", "The family of the reference model", scale=False),
        "model": _header("Model", "The class of the reference model", scale=False),
        "seconds": _header("Seconds", "Of training", scale=False, format="{:,.0f}"),
        "device": _header("Device", "What it was trained on", scale=False),
        "warnings": _header("Warnings", "How many", scale=False, format="{:,.0f}"),
    }
    return {
        "section_name": "Mappings",
        "description": "One row a query.",
        "plot_type": "table",
        "headers": headers,
        "pconfig": {
            "id": "refmap_mappings_table",
            "title": "Mappings",
            "col1_header": "Mapping",
            "sort_rows": False,
            "no_violin": True,
        },
        "data": [{outcome.name: _figures(outcome) for outcome in outcomes}],
    }


def _header(title: str, description: str, **more) -> dict:
    return {"title": title, "description": description, **more}


def _light(title: str, description: str) -> dict:
    colors = {light: f"{color}88" for light, (color, _meaning) in LIGHTS.items()}
    return _header(title, description, bgcols=colors, scale=False)


def _share(title: str, description: str, scale: str) -> dict:
    return _header(title, description, min=0, max=100, suffix=" %", scale=scale, format="{:,.1f}")


def _fraction(title: str, description: str, scale: str) -> dict:
    return _header(title, description, min=0, max=1, scale=scale, format="{:.3f}")


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 2)


def _figures(outcome: Outcome) -> dict:
    """Return a mapping's row of the table, without what is not known."""
    record = outcome.record
    figures = {
        "status": "mapped" if outcome.mapped else "failed",
        "stage": outcome.stage or None,
        "labels": outcome.labels_light,
        "embedding": outcome.embedding_light,
        "groups": outcome.novel_groups,
        "unknown": _percent(outcome.unknown),
        "novel": _percent(outcome.novel),
        "mixing": _percent(outcome.figure("mixing").get("relative")),
        "foreign": outcome.foreign.get("separation"),
        "family": record.get("family") or outcome.card.get("family"),
        "model": record.get("class_name") or outcome.card.get("class_name"),
        "cells": outcome.n_cells,
        "genes": _percent(outcome.overlap),
        "batches": len(record["batches"]["new"]) if record else None,
        "epochs": outcome.epochs,
        "accuracy": outcome.accuracy,
        "transferred": _percent(outcome.transferred.get("accuracy")),
        "kept": _percent(outcome.transferred.get("accuracy_kept")),
        "ece": outcome.transferred.get("ece"),
        "uncertainty": outcome.uncertainty,
        "seconds": outcome.seconds,
        "device": record.get("device"),
        "warnings": len(outcome.warnings),
    }
    return {key: escape(value) if isinstance(value, str) else value for key, value in figures.items() if value is not None}


def genes(mapped: list[Outcome]) -> dict | None:
    if not mapped:
        return None
    model, query = {}, {}
    for outcome in mapped:
        of = outcome.alignment
        model[outcome.name] = {"found": of["matched"], "padded": of["padded"]}
        query[outcome.name] = {"used": of["n_query_genes"] - of["dropped"], "dropped": of["dropped"]}
    return {
        "section_name": "Gene overlap",
        "description": "The model's genes that the query has, and those that are filled with zeros; and the query's genes "
        "that the model does not know, which are left out." + _by_other_names(mapped),
        "plot_type": "bargraph",
        "categories": [
            {"found": {"name": "found", "color": GREEN}, "padded": {"name": "filled with zeros", "color": AMBER}},
            {"used": {"name": "used", "color": BLUE}, "dropped": {"name": "unknown to the model", "color": GREY}},
        ],
        "pconfig": {
            "id": "refmap_genes_plot",
            "title": "Gene overlap",
            "ylab": "genes",
            "sort_samples": False,
            "data_labels": [{"name": "the model's genes", "ylab": "genes"}, {"name": "the query's genes", "ylab": "genes"}],
        },
        "data": [model, query],
    }


def _by_other_names(mapped: list[Outcome]) -> str:
    """How many genes were found by other names than the model's, in a sentence; empty where none was."""
    ways = {
        "columns": "in further columns of var",
        "id_or_symbol": "by Ensembl id or current symbol",
        "synonym": "by synonym or former symbol",
        "ortholog": "as the ortholog of the other species",
    }
    counts, kinds, n_mappings = Counter(), Counter(), 0
    for outcome in mapped:
        names = outcome.alignment.get("names", {})
        found = Counter(names.get("found", {}), columns=sum(names.get("columns", {}).values()))
        n_mappings += found.total() > 0
        if names.get("found"):
            kinds["{species} {kind}".format(**names["query"]) + " for {species} {kind}".format(**names["model"])] += 1
        counts += found
    if not counts:
        return ""
    shown = ", ".join(f"{counts[way]:,} {phrase}" for way, phrase in ways.items() if counts[way])
    of_kinds = f" ({', '.join(kind for kind, _ in kinds.most_common(3))})" if kinds else ""
    return (
        f" By other names than the model's, genes were found in {n_mappings:,} of {len(mapped):,} mappings: {shown}{of_kinds}; which "
        "they are is in alignment.json."
    )
