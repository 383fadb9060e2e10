"""What became of every mapping: the index, the summary that a run prints, and what the report's page shows."""

from __future__ import annotations

import csv
import json
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from .cli import read_json
from .report_page import software_versions, write_page

# The stages that a mapping passes, in their order.
STAGES = ("CHECK_QUERY", "ALIGN_GENES", "TRAIN_SURGERY", "EXPORT_EMBEDDING", "QC_MAPPING")
TRACE = "pipeline_info/trace.txt"
COLUMNS = (
    "dataset,file_id,status,stage,reason,query,model,family,class_name,n_cells,genes_found,gene_overlap,epochs,accuracy,"
    "warnings,embedding,updated_model,qc"
).split(",")
WIDTH = 120
MOST_IN_SUMMARY = 60
# What the card of the reference that this run trained is named; its rows name no model.
TRAINED_HERE = "the reference trained in this run"


@dataclass
class Outcome:
    """One mapping and what became of it; `stage` and `reason` are empty unless it failed, `record` unless it was mapped."""

    row: dict
    stage: str = ""
    reason: str = ""
    plan: dict = field(default_factory=dict)
    card: dict = field(default_factory=dict)
    record: dict = field(default_factory=dict)
    alignment: dict = field(default_factory=dict)
    folder: Path | None = None

    @property
    def id(self) -> str:
        return mapping_id(self.row)

    @property
    def name(self) -> str:
        return f"{self.row['dataset']}/{self.row['file_id']}"

    @property
    def mapped(self) -> bool:
        return not self.stage

    @property
    def n_cells(self) -> int | None:
        return self.record.get("n_cells", self.plan.get("query", {}).get("n_cells"))

    @property
    def genes(self) -> tuple[int, int] | None:
        """The model's genes that the query has, and all of them."""
        query = self.plan.get("query", {})
        found = self.alignment.get("matched", query.get("n_genes_found"))
        of = self.alignment.get("n_model_genes", query.get("n_model_genes"))
        return None if found is None or not of else (found, of)

    @property
    def overlap(self) -> float | None:
        return self.genes and self.genes[0] / self.genes[1]

    @property
    def epochs(self) -> int | None:
        return (self.record.get("train") or {"epochs": 0})["epochs"] if self.record else None

    @property
    def accuracy(self) -> float | None:
        return (self.record.get("accuracy") or {}).get("accuracy")

    @property
    def warnings(self) -> list[str]:
        """Every warning once, in the order in which they came up."""
        sources = (self.card, self.plan, self.alignment, self.record)
        return list(dict.fromkeys(warning for source in sources for warning in source.get("warnings") or []))

    def paths(self) -> tuple[str, str, str]:
        """Where the query, the updated model and the pictures are, below the run's outdir; empty unless mapped."""
        if not self.mapped:
            return "", "", ""
        dataset, file_id = f"dataset~{self.row['dataset']}", f"file_id~{self.row['file_id']}"
        return (
            f"reference_mapping/{dataset}/{file_id}.zarr",
            f"reference_mapping/model/{dataset}/{file_id}",
            f"reference_mapping/qc/{dataset}/{file_id}",
        )


def mapping_id(row: dict) -> str:
    return f"{row['dataset']}~{row['file_id']}"


def gather(mappings: Path, plans: Path, cards: Path, faults: Path, qc: Path, reached: dict[str, str]) -> list[Outcome]:
    """Return what became of every mapping, in the sheet's order.

    mappings        JSON lines, one row a mapping
    plans, cards    folders of JSON files, found by the row and the model that they are of
    faults          folder of JSON files, each a mapping's or, without a dataset, that of the reference trained in this run
    qc              folder of the mappings' folders, named by their ids
    reached         the last stage that finished, by mapping id

    Any of the folders may be absent.
    """
    rows = [json.loads(line) for line in Path(mappings).read_text().splitlines() if line.strip()]
    by_plan = {mapping_id(plan["row"]): plan for plan in _read_all(plans)}
    by_model = {card["model"]: card for card in _read_all(cards)}
    by_fault = {mapping_id(fault) if fault.get("dataset") else None: fault for fault in _read_all(faults)}
    outcomes = []
    for row in rows:
        outcome = Outcome(row, plan=by_plan.get(mapping_id(row), {}), card=by_model.get(row["model"] or TRAINED_HERE, {}))
        folder = qc / outcome.id
        _settle(outcome, by_fault, folder if folder.is_dir() else None, reached.get(outcome.id))
        outcomes.append(outcome)
    return outcomes


def _read_all(folder: Path) -> list[dict]:
    return [read_json(path) for path in sorted(folder.glob("*.json"))] if folder.is_dir() else []


def _settle(outcome: Outcome, faults: dict[str | None, dict], folder: Path | None, reached: str | None) -> None:
    """Say whether it was mapped and, if not, where it stopped and why."""
    fault = faults.get(outcome.id) or (faults.get(None) if outcome.row["model"] is None else None)
    if fault:
        outcome.stage, outcome.reason = fault["stage"], fault["message"]
    elif outcome.plan.get("faults"):
        outcome.stage, outcome.reason = "CHECK_QUERY", "\n".join(outcome.plan["faults"])
    elif not outcome.plan and outcome.card.get("fault"):
        outcome.stage, outcome.reason = "INSPECT_MODEL", outcome.card["fault"]
    elif folder and reached == "EXPORT_EMBEDDING":
        outcome.folder = folder
        outcome.record = read_json(folder / "mapping.json")
        outcome.alignment = read_json(folder / "alignment.json")
    else:
        outcome.stage = next_stage(outcome, reached)
        outcome.reason = f"{outcome.stage} ended without a result: see its log in the work directory that {TRACE} names"


def next_stage(outcome: Outcome, reached: str | None) -> str:
    """Return the stage that should have come after the last one that finished."""
    if reached in STAGES:
        return STAGES[STAGES.index(reached) + 1]
    if outcome.plan or outcome.card:
        return "CHECK_QUERY" if not outcome.plan else "ALIGN_GENES"
    return "TRAIN_REFERENCE" if outcome.row["model"] is None else "INSPECT_MODEL"


def write_report(outcomes: list[Outcome], output: Path, config: Path, title: str, outdir: str) -> None:
    """Write mappings.csv, summary.txt, software_versions.yml, failed.txt (a number) and multiqc_report.html to a new folder."""
    output.mkdir(parents=True)
    write_index(outcomes, output / "mappings.csv")
    (output / "summary.txt").write_text(summary(outcomes, outdir))
    versions = software_versions([outcome for outcome in outcomes if outcome.mapped])
    (output / "software_versions.yml").write_text(yaml.safe_dump(versions))
    (output / "failed.txt").write_text(f"{sum(not outcome.mapped for outcome in outcomes)}\n")
    write_page(outcomes, output / "multiqc_report.html", config, title)


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
        _rounded(outcome.accuracy),
        " | ".join(outcome.warnings),
        *outcome.paths(),
    ]
    return ["" if value is None else value for value in values]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def summary(outcomes: list[Outcome], outdir: str) -> str:
    """Return what the run prints at its end: a table, and below it in one block what failed and why."""
    failed = [outcome for outcome in outcomes if not outcome.mapped]
    shown = outcomes[:MOST_IN_SUMMARY]
    lines = [f"{_plural(len(outcomes), 'mapping')}: {len(outcomes) - len(failed)} mapped, {len(failed)} failed", ""]
    lines += _aligned([("mapping", "status", "cells", "genes", "epochs", "accuracy", "where"), *map(_summary_cells, shown)])
    if len(outcomes) > len(shown):
        lines.append(f"... and {len(outcomes) - len(shown):,} more")
    lines += [
        "",
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
        "-" if outcome.n_cells is None else f"{outcome.n_cells:,}",
        "-" if outcome.genes is None else "{:,}/{:,}".format(*outcome.genes),
        "-" if outcome.epochs is None else str(outcome.epochs),
        "-" if outcome.accuracy is None else f"{outcome.accuracy:.3f}",
        outcome.paths()[0],
    )


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Align columns of text: figures to the right, all else to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    figures = range(2, 6)

    def line(row: tuple[str, ...]) -> str:
        cells = zip(row, widths, strict=True)
        return "  ".join(f"{cell:{'>' if i in figures else '<'}{width}}" for i, (cell, width) in enumerate(cells)).rstrip()

    return [line(row) for row in rows]


def _plural(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
