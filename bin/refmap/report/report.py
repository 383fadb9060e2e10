"""What a run says of its mappings: the index, the summary that it prints, and the report's page."""

from __future__ import annotations

import csv
import textwrap
from collections.abc import Iterable
from pathlib import Path

import yaml

from .agreement import agreements, write_agreements
from .crate import write_crate
from .outcomes import TRAINED_HERE, Outcome, software_versions
from .page import write_page

COLUMNS = [
    "dataset",
    "file_id",
    "status",
    "stage",
    "reason",
    "query",
    "model",
    "family",
    "class_name",
    "n_cells",
    "genes_found",
    "gene_overlap",
    "epochs",
    "seconds",
    "accuracy",
    "accuracy_transferred",
    "ece",
    "unknown",
    "novel",
    "novel_groups",
    "mixing",
    "mixing_expected",
    "foreign_separation",
    "labels_light",
    "embedding_light",
    "reasons",
    "warnings",
    "embedding",
    "updated_model",
    "qc",
    "explore",
]
WIDTH = 120
MOST_IN_SUMMARY = 60


def write_report(
    outcomes: list[Outcome], references: list[dict], joint: list[dict], output: Path, config: Path, title: str, outdir: str
) -> None:
    """Write mappings.csv, summary.txt, software_versions.yml, failed.txt (a number), ro-crate-metadata.json and
    multiqc_report.html to a new folder.

    And label_agreement.csv, where cells of one query got several labels.

    `references` are the records of :func:`refmap.report.outcomes.read_references`, and `joint` those of `read_joint`.
    """
    output.mkdir(parents=True)
    write_index(outcomes, output / "mappings.csv")
    (output / "summary.txt").write_text(summary(outcomes, outdir))
    mapped = [outcome for outcome in outcomes if outcome.mapped]
    versions, agreed = software_versions(mapped), agreements(mapped)
    (output / "software_versions.yml").write_text(yaml.safe_dump(versions))
    (output / "failed.txt").write_text(f"{sum(not outcome.mapped for outcome in outcomes)}\n")
    if agreed:
        write_agreements(agreed, output / "label_agreement.csv")
    write_crate(outcomes, joint, title, output / "ro-crate-metadata.json")
    write_page(outcomes, references, joint, agreed, output / "multiqc_report.html", config, title)


def write_index(outcomes: Iterable[Outcome], path: Path) -> None:
    """Write mappings.csv: one line a mapping, its status, headline figures and paths."""
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows(index_line(outcome) for outcome in outcomes)


def index_line(outcome: Outcome) -> list:
    """Return a mapping's line of mappings.csv; what is not known is empty."""
    row, known = outcome.row, outcome.record or outcome.card
    values = [
        row["dataset"],
        row["file_id"],
        "mapped" if outcome.mapped else "failed",
        outcome.stage,
        outcome.reason.replace("\n", " | "),
        row["query"],
        row["model"] or TRAINED_HERE,
        known.get("family"),
        known.get("class_name"),
        outcome.n_cells,
        outcome.genes and outcome.genes[0],
        _rounded(outcome.overlap),
        outcome.epochs,
        outcome.seconds,
        _rounded(outcome.accuracy),
        _rounded(outcome.transferred.get("accuracy")),
        _rounded(outcome.transferred.get("ece")),
        _rounded(outcome.unknown),
        _rounded(outcome.novel),
        outcome.novel_groups,
        _rounded(outcome.figure("mixing").get("value")),
        _rounded(outcome.figure("mixing").get("expected")),
        _rounded(outcome.foreign.get("separation")),
        outcome.labels_light,
        outcome.embedding_light,
        " | ".join(reason for part in ("labels", "embedding") for reason in outcome.verdict(part).get("reasons", [])),
        " | ".join(outcome.warnings),
        *outcome.paths(),
        outcome.explore,
    ]
    return ["" if value is None else value for value in values]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def summary(outcomes: list[Outcome], outdir: str) -> str:
    """Return what the run prints at its end: a table, and below it in one block what failed and why."""
    failed = [outcome for outcome in outcomes if not outcome.mapped]
    shown = outcomes[:MOST_IN_SUMMARY]
    lines = [f"{_plural(len(outcomes), 'mapping')}: {len(outcomes) - len(failed)} mapped, {len(failed)} failed", ""]
    lines += _aligned(
        [
            ("mapping", "status", "lights", "family", "cells", "genes", "epochs", "seconds", "accuracy", "where"),
            *map(_summary_cells, shown),
        ]
    )
    if len(outcomes) > len(shown):
        lines.append(f"... and {len(outcomes) - len(shown):,} more")
    lines += [
        "",
        *(["The lights are of the labels and of the embedding."] if any(outcome.labels_light for outcome in shown) else []),
        f"Paths are relative to {outdir}.",
        "Report: multiqc/multiqc_report.html    Index: reference_mapping/mappings.csv",
    ]
    if failed:
        lines += ["", f"{len(failed)} of {_plural(len(outcomes), 'mapping')} failed:"]
        for outcome in failed:
            lines.append(f"  {outcome.name} at {outcome.stage}")
            for paragraph in outcome.reason.splitlines():
                lines += textwrap.wrap(
                    paragraph, WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 4, break_long_words=False
                )
    return "\n".join(lines) + "\n"


def _summary_cells(outcome: Outcome) -> tuple[str, ...]:
    return (
        outcome.name,
        "mapped" if outcome.mapped else "FAILED",
        f"{outcome.labels_light}, {outcome.embedding_light}" if outcome.labels_light else "-",
        outcome.record.get("family") or outcome.card.get("family") or "-",
        "-" if outcome.n_cells is None else f"{outcome.n_cells:,}",
        "-" if outcome.genes is None else "{:,}/{:,}".format(*outcome.genes),
        "-" if outcome.epochs is None else str(outcome.epochs),
        "-" if outcome.seconds is None else f"{outcome.seconds:.0f}",
        "-" if outcome.accuracy is None else f"{outcome.accuracy:.3f}",
        outcome.paths()[0],
    )


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Align columns of text: figures to the right, all else to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    figures = range(4, 9)

    def line(row: tuple[str, ...]) -> str:
        cells = zip(row, widths, strict=True)
        return "  ".join(f"{cell:{'>' if i in figures else '<'}{width}}" for i, (cell, width) in enumerate(cells)).rstrip()

    return [line(row) for row in rows]


def _plural(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
