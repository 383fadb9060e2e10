"""What became of every mapping of a run."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from ..common.cli import read_json
from ..common.strategies import faults_of

# The stages that a mapping passes, in their order; UPDATE_HIERARCHY only if its model has a hierarchy.
STAGES = (
    "CHECK_QUERY",
    "ALIGN_GENES",
    "TRAIN_SURGERY",
    "UPDATE_HIERARCHY",
    "EXPORT_EMBEDDING",
    "QC_MAPPING",
)
# Those that are part of another's task
WITHIN = {"CHECK_QUERY": "ALIGN_GENES", "QC_MAPPING": "EXPORT_EMBEDDING"}
TRACE = "pipeline_info/trace.txt"
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
    def uncertainty(self) -> float | None:
        """The mean over the cells, of the first label column that the model predicts."""
        return next((sums["mean_uncertainty"] for sums in (self.record.get("predictions") or {}).values()), None)

    def verdict(self, part: str) -> dict:
        """That on its `labels` or its `embedding`: light, reasons and what is missing; empty if the mapping was not judged."""
        return self.trust.get(part) or {}

    @property
    def labels_light(self) -> str | None:
        """How far its labels may be trusted, green, amber, red or grey: see :mod:`refmap.trust`."""
        return self.verdict("labels").get("light")

    @property
    def embedding_light(self) -> str | None:
        """The same of its embedding."""
        return self.verdict("embedding").get("light")

    @property
    def novel_groups(self) -> int | None:
        """How many groups of its cells the reference seems to lack; None where they could not be looked for."""
        of = self.figure("groups")
        return None if of.get("value") is None else len(of["groups"])

    @property
    def unlike_groups(self) -> int:
        """How many groups of its cells are unlike the reference, whatever they are read as."""
        novel = (self.record.get("expression") or {}).get("novel") or {}
        return len(novel.get("groups", {}))

    @property
    def trust(self) -> dict:
        return self.record.get("trust") or {}

    @property
    def unknown(self) -> float | None:
        """The share of cells without a transferred label, by the column of labels that has least of them."""
        columns = (self.record.get("transfer") or {}).get("labels", {})
        return min((column["unknown"] for column in columns.values()), default=None)

    def figure(self, name: str) -> dict:
        """One of the figures that the lights rest on; empty if the mapping was not judged."""
        return self.trust.get("figures", {}).get(name, {})

    @property
    def novel(self) -> float | None:
        """The share of cells unlike the reference."""
        return self.figure("novel").get("value")

    @property
    def foreign(self) -> dict:
        """How cells whose true label the reference lacks are told from the others; empty where there are none."""
        return (self.record.get("evaluation") or {}).get("foreign") or {}

    @property
    def calibrations(self) -> dict[str, dict]:
        """How its labels agree with the true ones: `<key>_predicted` or `<key>_transferred` -> what calibrate says."""
        return self.record.get("calibration") or {}

    @property
    def transferred(self) -> dict:
        """That of the transferred labels, of several columns the one that knows most true labels; empty without a truth."""
        found = [of for name, of in self.calibrations.items() if name.endswith("_transferred")]
        return max(found, key=lambda of: of["n"], default={})

    @property
    def alone(self) -> bool:
        """Whether it was mapped without cells of the reference to compare with."""
        return self.mapped and not self.record.get("transfer")

    @property
    def explore(self) -> str:
        """Where the page to look around in is, below the run's outdir; empty where there is none."""
        return f"{self.paths()[2]}/explore.html" if self.folder and (self.folder / "explore.html").exists() else ""

    @property
    def seconds(self) -> float | None:
        """How long training took; 0 where nothing was trained."""
        return (self.record.get("train") or {"seconds": 0})["seconds"] if self.record else None

    @property
    def warnings(self) -> list[str]:
        """Every warning once, in the order in which they came up."""
        sources = (self.card, self.plan, self.alignment, self.record)
        return list(dict.fromkeys(warning for source in sources for warning in source.get("warnings") or []))

    def paths(self) -> tuple[str, str, str]:
        """Where the query, the updated model and the pictures are, below the run's outdir; empty unless mapped, or without a model."""
        if not self.mapped:
            return "", "", ""
        dataset, file_id = f"dataset~{self.row['dataset']}", f"file_id~{self.row['file_id']}"
        return (
            f"reference_mapping/{dataset}/{file_id}.zarr",
            "" if self.row.get("query_embedding") else f"reference_mapping/model/{dataset}/{file_id}",
            f"reference_mapping/qc/{dataset}/{file_id}",
        )


def mapping_id(row: dict) -> str:
    return f"{row['dataset']}~{row['file_id']}"


def gather(mappings: Path, plans: Path, cards: Path, faults: Path, qc: Path, passed: list[list[str]]) -> list[Outcome]:
    """Return what became of every mapping, in the sheet's order.

    mappings        JSON lines, one row a mapping
    plans, cards    folders of JSON files, found by the row and the model that they are of
    faults          folder of JSON files, each a mapping's or, without a dataset, that of the reference trained in this run
    qc              folder of the mappings' folders, named by their ids
    passed          each stage that finished, as a pair of the mapping's id and the stage's name

    Any of the folders may be absent.
    """
    rows = [json.loads(line) for line in Path(mappings).read_text().splitlines() if line.strip()]
    by_plan = {mapping_id(plan["row"]): plan for plan in _read_all(plans)}
    by_model = {card["model"]: card for card in _read_all(cards)}
    by_fault = {mapping_id(fault) if fault.get("dataset") else None: fault for fault in _read_all(faults)}
    reached = dict(sorted(passed, key=lambda step: STAGES.index(step[1])))  # the last one is kept
    outcomes = []
    for row in rows:
        outcome = Outcome(row, plan=by_plan.get(mapping_id(row), {}), card=by_model.get(row["model"] or TRAINED_HERE, {}))
        folder = qc / outcome.id
        _settle(outcome, by_fault, folder if folder.is_dir() else None, reached.get(outcome.id))
        outcomes.append(outcome)
    return outcomes


def read_references(folder: Path) -> list[dict]:
    """Return the records of all references whose cells were to be had, each with a `name` of its own, sorted by it.

    The same cells make a reference for each model that they are embedded by.
    """
    records = sorted(_read_all(folder), key=lambda record: (record["reference"], json.dumps(record)))
    seen: dict[str, int] = {}
    for record in records:
        number = seen[record["reference"]] = seen.get(record["reference"], 0) + 1
        record["name"] = record["reference"] if number == 1 else f"{record['reference']} ({number})"
    return records


def read_joint(folder: Path) -> list[dict]:
    """Return what is in each joint atlas, sorted by its name."""
    return sorted(_read_all(folder), key=lambda about: about["name"])


def _read_all(folder: Path) -> list[dict]:
    return [read_json(path) for path in sorted(folder.glob("*.json"))] if folder.is_dir() else []


def _settle(outcome: Outcome, faults: dict[str | None, dict], folder: Path | None, reached: str | None) -> None:
    """Say whether it was mapped and, if not, where it stopped and why."""
    fault = faults.get(outcome.id) or (faults.get(None) if outcome.row["model"] is None else None)
    if fault:
        outcome.stage, outcome.reason = fault["stage"], fault["message"]
    elif outcome.plan and (found := faults_of(outcome.plan, outcome.row["strategy"])):
        outcome.stage, outcome.reason = "CHECK_QUERY", "\n".join(found)
    elif not outcome.plan and outcome.card.get("fault"):
        outcome.stage, outcome.reason = "INSPECT_MODEL", outcome.card["fault"]
    elif folder and reached == "EXPORT_EMBEDDING":
        outcome.folder = folder
        outcome.record = read_json(folder / "mapping.json")
        outcome.alignment = read_json(folder / "alignment.json")
    else:
        outcome.stage = next_stage(outcome, reached)
        task = f"the log of {WITHIN[outcome.stage]}" if outcome.stage in WITHIN else "its log"
        outcome.reason = f"{outcome.stage} ended without a result: see {task} in the work directory that {TRACE} names"


def next_stage(outcome: Outcome, reached: str | None) -> str:
    """Return the stage that should have come after the last one that finished."""
    stages = [stage for stage in STAGES if stage != "UPDATE_HIERARCHY" or outcome.card.get("hierarchy")]
    if reached in stages:
        return stages[stages.index(reached) + 1]
    if outcome.plan or outcome.card:
        return "CHECK_QUERY" if not outcome.plan else "ALIGN_GENES"
    return "TRAIN_REFERENCE" if outcome.row["model"] is None else "INSPECT_MODEL"


def software_versions(mapped: list[Outcome]) -> dict[str, list[str]]:
    """Return the versions that the mappings were made with, software -> versions."""
    versions: dict[str, list[str]] = {}
    for outcome in mapped:
        for name, version in outcome.record["versions"].items():
            seen = versions.setdefault(name, [])
            if str(version) not in seen:
                seen.append(str(version))
    return versions
