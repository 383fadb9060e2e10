"""The page over all mappings: sections of MultiQC's custom content, https://docs.seqera.io/multiqc/custom_content.

MultiQC puts text into the page as HTML, and so does Plotly for the names in its plots: whatever comes from a user goes
through `escape`. Data are given as a list of one where a dictionary would do, since MultiQC takes the keys of that for
paths, and keeps no more than the file's name of dataset/file_id.
"""

from __future__ import annotations

import base64
import csv
import os
import re
import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from ..common.cli import read_json, write_json
from .results.drawing import PICTURES

if TYPE_CHECKING:
    from .outcomes import Outcome

# Of all pictures together: a browser must still open the page.
MOST_BYTES = 50_000_000
MOST_NAMES = 20
# Up to this many, mappings need not be unfolded one by one, nor looked for.
MOST_UNFOLDED = 6
# The curves that are shown of those that a family has, best known first.
CURVES = (
    "elbo_train",
    "elbo_validation",
    "reconstruction_loss_validation",
    "kl_local_validation",
    "validation_accuracy",
    "train_loss_epoch",
    "validation_loss",
)
MOST_CURVES = 5
ALL_CELLS = "all cells"
# The pictures of a mapping, and what each shows; its training is a plot of the page already.
SHOWN = {
    "joint.png": "UMAP with the reference",
    "umap.png": "UMAP",
    "composition.png": "labels by batch",
    "confusion.png": "confusion matrix of the predicted labels",
    "confusion_transferred.png": "confusion matrix of the transferred labels",
    "calibration.png": "reliability diagram",
    **PICTURES,
}
RED, AMBER, GREEN, GREY, BLUE = "#d9534f", "#e69f00", "#009e73", "#9e9e9e", "#0072b2"
# The lights, worst first: the colour of each, and what it means.
LIGHTS = {
    "red": (RED, "do not use the labels"),
    "grey": (GREY, "not judged, as too little is known: look at the cells yourself"),
    "amber": (AMBER, "read the reasons before you use it"),
    "green": (GREEN, "nothing that was looked at speaks against it"),
}


def write_page(outcomes: list[Outcome], references: list[dict], path: Path, config: Path, title: str) -> None:
    """Let MultiQC make the page, one HTML file with all that it needs in it; no network is asked for anything."""
    with tempfile.TemporaryDirectory() as folder:
        write_sections(outcomes, references, Path(folder))
        command = [sys.executable, "-m", "multiqc", folder, "--module", "custom_content", "--config", str(config.resolve())]
        command += ["--title", escape(title), "--outdir", str(path.parent.resolve()), "--filename", path.name, "--force"]
        command += ["--no-data-dir", "--no-version-check", "--no-megaqc-upload", "--no-ansi", "--quiet"]
        # Its home and working directories may hold configurations of the user's own, which have no say here.
        alone = {**os.environ, "HOME": folder, "MULTIQC_CONFIG_PATH": str(config.resolve())}
        run = subprocess.run(command, cwd=folder, env=alone, capture_output=True, text=True)
    if run.returncode or not path.exists():
        raise RuntimeError(f"MultiQC failed with status {run.returncode}:\n{run.stdout}{run.stderr}")
    path.write_text(put_pictures_in(path.read_text("utf-8"), outcomes), "utf-8")


def put_pictures_in(page: str, outcomes: list[Outcome]) -> str:
    """Replace what `pictures` left open by the pictures: MultiQC would carry each twice, once as notes for chat services."""
    folders = {outcome.id: outcome.folder for outcome in outcomes}

    def picture(match: re.Match) -> str:
        data = base64.b64encode((folders[match[1]] / match[2]).read_bytes()).decode()
        return f'src="data:image/png;base64,{data}"'

    return re.sub(r'src="picture:([\w.~-]+)/(\w+\.png)"', picture, page)


def write_sections(outcomes: list[Outcome], references: list[dict], folder: Path) -> None:
    """Write a JSON file a section that has something to show, and the versions of the software."""
    mapped = [outcome for outcome in outcomes if outcome.mapped]
    sections = {
        "failures": failures(outcomes),
        "trust": trust(mapped),
        "warnings": warnings(outcomes, references),
        "mappings": mappings(outcomes),
        "calibration": calibration(mapped, references),
        "reliability": reliability(mapped, references),
        "separation": separation(mapped),
        "genes": genes(mapped),
        "training": training(mapped),
        "labels": labels(mapped),
        "accuracy": accuracy(mapped),
        "pictures": pictures(mapped),
    }
    for name, section in sections.items():
        if section is not None:
            write_json(folder / f"refmap_{name}_mqc.json", {"id": f"refmap_{name}", **section})
    versions = software_versions(mapped)
    if versions:
        # JSON is YAML.
        write_json(folder / "refmap_mqc_versions.yml", {escape(k): [escape(v) for v in vs] for k, vs in versions.items()})


def _box(color: str, content: str) -> str:
    return (
        f'<div style="border-left: 6px solid {color}; background: {color}22; padding: 0.7em 1em; margin: 0.6em 0;'
        f' overflow-wrap: anywhere">{content}</div>'
    )


def _lines(text: str) -> str:
    return escape(text).replace("\n", "<br>")


def failures(outcomes: list[Outcome]) -> dict | None:
    """Name what failed, at which stage and why; and colour its rows red, here and in the tables below."""
    failed = [outcome for outcome in outcomes if not outcome.mapped]
    if not failed:
        return None
    boxes = [
        _box(RED, f"<strong>{escape(outcome.name)}</strong> at {escape(outcome.stage)}<br>{_lines(outcome.reason)}")
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
    """Say how far each mapping may be trusted and why, the worst first; those that are green are folded where there are many."""
    judged = {light: [outcome for outcome in mapped if outcome.light == light] for light in LIGHTS}
    judged = {light: whose for light, whose in judged.items() if whose}
    if not judged:
        return None
    groups = [_light(light, whose, light != "green" or len(mapped) <= MOST_UNFOLDED) for light, whose in judged.items()]
    alone = [outcome.name for outcome in mapped if outcome.alone]
    return {
        "section_name": "Trust",
        "description": "How far each mapping may be trusted, the worst first. The light is that of the worst of the figures, each "
        "measured on the scale that the reference sets; docs/trust.md says how, and where the limits are.",
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
    return _box(
        GREY,
        f"<strong>Without cells of the reference: {_many(len(names), 'mapping')}.</strong> So no labels were transferred to them, "
        "no uncertainty was had from neighbours, and it is not known which of their cells are unlike the reference: their light is "
        "grey, unless the lack of genes makes it red. Name the cells that the model was trained on as <code>reference</code> in the sheet, and run again with "
        f"<code>-resume</code>: nothing is trained anew.<br><small>{_some(names)}</small>",
    )


def _light(light: str, whose: list[Outcome], unfolded: bool) -> str:
    color, meaning = LIGHTS[light]
    boxes = "".join(f'<div class="refmap-mapping">{_box(color, _verdict(outcome))}</div>' for outcome in whose)
    return (
        f'<details class="refmap-light" data-open="{str(unfolded).lower()}"{" open" * unfolded} style="margin: 0.6em 0">'
        f"<summary>{_badge(light)} <strong>{_many(len(whose), 'mapping')}</strong>: {meaning}</summary>{boxes}</details>"
    )


def _badge(light: str) -> str:
    return (
        f'<span style="background: {LIGHTS[light][0]}; color: #000; border-radius: 0.8em; padding: 0.1em 0.7em;'
        f' font-weight: bold">{light}</span>'
    )


def _verdict(outcome: Outcome) -> str:
    """A mapping's name and light, where to look around in it, why it has that light, and what could not be had."""
    reasons = "<br>".join(map(_lines, outcome.trust["reasons"]))
    missing = "".join(f"<br><small>Not measured: {_lines(note)}</small>" for note in outcome.trust["missing"])
    return f"{_badge(outcome.light)} <strong>{escape(outcome.name)}</strong>{_link(outcome)}<br>{reasons}{missing}"


def _link(outcome: Outcome) -> str:
    """To the page to look around in, from where the report lies: `multiqc` beside `reference_mapping`."""
    if not outcome.explore:
        return ""
    return f' &middot; <a href="../{escape(quote(outcome.explore))}" target="_blank">look around in its cells</a>'


def _many(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f"{escape(', '.join(names[:MOST_NAMES]))}{more}"


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
        text = f"<strong>{_lines(warning)}</strong>" if severe else _lines(warning)
        boxes.append(_box(RED if severe else AMBER, f"{text}<br><small>{_some(whose)}</small>"))
    return {
        "section_name": "Warnings",
        "description": "These mappings went on. Red: the result may mean nothing; read it before you use it.",
        "plot_type": "html",
        "data": "".join(boxes),
    }


def _is_severe(outcome: Outcome, warning: str) -> bool:
    """Whether surgery had no effect (a model that never sees the batch), or most of what the model sees is padding."""
    return "encode_covariates" in warning or (is_low(outcome) and "of the model's" in warning)


def is_low(outcome: Outcome) -> bool:
    return outcome.overlap is not None and outcome.overlap < outcome.row["warn_gene_overlap"]


def mappings(outcomes: list[Outcome]) -> dict:
    low = max((outcome.row["warn_gene_overlap"] for outcome in outcomes), default=0)
    headers = {
        "status": _header("Status", "", bgcols={"mapped": f"{GREEN}44", "failed": f"{RED}aa"}, scale=False),
        "stage": _header("Failed at", "The stage at which it stopped", scale=False),
        "light": _header(
            "Light",
            "How far it may be trusted: see Trust",
            bgcols={light: f"{color}88" for light, (color, _meaning) in LIGHTS.items()},
            scale=False,
        ),
        "unknown": _share(
            "Unknown", "Share of cells without a transferred label, by the column of labels with least of them", "Reds"
        ),
        "novel": _share("Novel", "Share of cells unlike the reference", "Reds"),
        "accuracy": _header(
            "Accuracy", "Share of cells predicted right, where the truth is known", min=0, max=1, scale="Blues", format="{:.3f}"
        ),
        "transferred": _share("Transferred right", "Share of transferred labels that are right, Unknown or not", "Blues"),
        "kept": _share("Kept right", "Share of transferred labels that are right, of those that are not Unknown", "Blues"),
        "ece": _header(
            "ECE",
            "Expected calibration error of the transferred labels; 0 is best",
            min=0,
            max=1,
            scale="Oranges",
            format="{:.3f}",
        ),
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


def _share(title: str, description: str, scale: str) -> dict:
    return _header(title, description, min=0, max=100, suffix=" %", scale=scale, format="{:,.1f}")


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 2)


def _figures(outcome: Outcome) -> dict:
    """Return a mapping's row of the table, without what is not known."""
    record = outcome.record
    figures = {
        "status": "mapped" if outcome.mapped else "failed",
        "stage": outcome.stage or None,
        "light": outcome.light,
        "unknown": _percent(outcome.unknown),
        "novel": _percent(outcome.novel),
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


def _of_references(references: list[dict]) -> dict[tuple[str, str], dict]:
    """How the labels of held-out reference cells agree with their own: (reference, column) -> what calibrate says."""
    return {
        (reference["name"], key): of for reference in references for key, of in reference["calibration"].items() if of is not None
    }


def _of_mappings(mapped: list[Outcome], made: str) -> dict[tuple[str, str], dict]:
    """How predicted or transferred labels agree with the true ones: (mapping, column) -> what calibrate says."""
    return {
        (outcome.name, key.removesuffix(made)): of
        for outcome in mapped
        for key, of in outcome.calibrations.items()
        if key.endswith(made)
    }


def _calibrated(mapped: list[Outcome], references: list[dict]) -> dict[str, dict[tuple[str, str], dict]]:
    """All that is known of how often labels are right: of which labels -> (whose, column) -> what calibrate says."""
    found = {
        "held-out reference cells": _of_references(references),
        "transferred labels": _of_mappings(mapped, "_transferred"),
        "predicted labels": _of_mappings(mapped, "_predicted"),
    }
    return {name: those for name, those in found.items() if those}


def calibration(mapped: list[Outcome], references: list[dict]) -> dict | None:
    """Say in numbers how often labels are right, and what the threshold of uncertainty makes of that."""
    found = _calibrated(mapped, references)
    if not found:
        return None
    held = {reference["name"]: reference["held_out"]["by"] for reference in references}
    sentences = [f"<li>{_at_threshold(name, key, of, held[name])}</li>" for (name, key), of in _of_references(references).items()]
    rows = [_calibration_row(name, key, labels, of) for labels, those in found.items() for (name, key), of in those.items()]
    columns = ("", "Column", "Labels", "Cells", "Right", "Unknown", "Right of the kept", "Right of the Unknown", "ECE")
    head = "".join(f"<th>{column}</th>" for column in columns)
    table = (
        '<div class="table-responsive"><table class="table table-sm table-hover" style="width: auto">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )
    return {
        "section_name": "Calibration",
        "description": "How often labels are right, by how certain they are: of reference cells that were held out, and of the "
        "queries whose true labels are known. A transferred label whose uncertainty is above the threshold becomes Unknown; of "
        "predicted labels, which never do, the same columns tell what it would do to them. ECE, the expected calibration error, "
        "is how far certainty and accuracy lie apart; 0 is best.",
        "plot_type": "html",
        "data": _folded(f"<ul>{''.join(sentences)}</ul>" if sentences else "", len(sentences), "reference")
        + _folded(table, len(rows), "row"),
    }


def _folded(content: str, n: int, noun: str) -> str:
    """A list or table, folded where it is long."""
    return content if n <= 2 * MOST_UNFOLDED else f"<details><summary>{_many(n, noun)}</summary>{content}</details>"


def _at_threshold(name: str, key: str, of: dict, held_out_by: str) -> str:
    """What the threshold does to the labels of the reference's own cells, in a sentence."""
    whose = "the cells of other batches" if held_out_by == "batch" else "the other cells"
    kept = _in_percent(1 - of["unknown_share"])
    if of["accuracy_kept"] is None:
        told = "none of them keeps its label: coarser labels, or a higher --unknown_threshold, would leave some."
    elif of["accuracy_unknown"] is None:
        told = f"all keep their labels, and {_in_percent(of['accuracy_kept'])} of these are right."
    else:
        told = (
            f"{kept} keep their labels, of which {_in_percent(of['accuracy_kept'])} are right; of those that become Unknown "
            f"{_in_percent(of['accuracy_unknown'])} would have been."
        )
    return (
        f"Of {of['n']:,} cells of <strong>{escape(name)}</strong> that got their label by <strong>{escape(key)}</strong> from "
        f"{whose}, {_in_percent(of['accuracy'])} got the right one. At the threshold of {of['threshold']:g}, {told}"
    )


def _in_percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _calibration_row(name: str, key: str, labels: str, of: dict) -> str:
    shares = (of["accuracy"], of["unknown_share"], of["accuracy_kept"], of["accuracy_unknown"])
    cells = [escape(name), escape(key), labels, f"{of['n']:,}", *map(_in_percent, shares), f"{of['ece']:.3f}"]
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def reliability(mapped: list[Outcome], references: list[dict]) -> dict | None:
    """Show how often labels are right, by how certain they are: a line a column of labels, and a plot for whose they are."""
    found = _calibrated(mapped, references)
    if not found:
        return None
    axes = {"xlab": "certainty (1 - uncertainty)", "ylab": "share of right labels"}
    diagonal = {"name": "as right as certain", "pairs": [[0, 0], [1, 1]], "color": GREY, "dash": "dash", "width": 1}
    return {
        "section_name": "Reliability diagram",
        "description": "Labels on the dashed line are right as often as their certainty says; those above it are right more often, "
        "and those below it less. A point stands for all cells of a tenth of the axis.",
        "plot_type": "linegraph",
        "pconfig": {
            "id": "refmap_reliability_plot",
            "title": "Reliability diagram",
            **axes,
            "xmin": 0,
            "xmax": 1,
            "ymin": 0,
            "ymax": 1,
            "style": "lines+markers",
            "extra_series": [diagonal],
            "data_labels": [{"name": labels, **axes} for labels in found],
        },
        "data": [
            {
                escape(f"{name}: {key}"): [[part["confidence"], part["accuracy"]] for part in of["bins"]]
                for (name, key), of in those.items()
            }
            for those in found.values()
        ],
    }


def separation(mapped: list[Outcome]) -> dict | None:
    """Show, of each mapping and transferred label, how far apart the query's cells and the reference's lie."""
    found = {
        outcome.name: {ALL_CELLS: of["value"], **{label: those["value"] for label, those in of["labels"].items()}}
        for outcome in mapped
        if (of := outcome.figure("separation")).get("value") is not None
    }
    if not found:
        return None
    return {
        "section_name": "Separation by label",
        "description": "How many times farther from a query's cells the reference's are than the query's own, of equal numbers of "
        "both: 1 where they are intermixed; the median of the cells of each transferred label that 20 cells or more have. A label "
        "that stands out among those of its query may be that of a cell type which the reference lacks and which was mapped beside "
        "another: look at its marker genes. Where all stand out, surgery did not make up for the query's protocol.",
        **_heatmap("separation", "Separation by label", "transferred label", found),
    }


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
        "that the model does not know, which are left out.",
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


def training(mapped: list[Outcome]) -> dict | None:
    """Show the curves of training, one line a mapping and one plot a curve."""
    histories = {outcome.name: read_history(outcome.folder / "history.csv") for outcome in mapped}
    there = {curve for history in histories.values() for curve, points in history.items() if points}
    known = [curve for curve in CURVES if curve in there]
    shown = (known or sorted(there))[:MOST_CURVES]
    if not shown:
        return None
    return {
        "section_name": "Training",
        "description": "One line a mapping; the lower an ELBO loss, the better. A curve that still falls at its end wants "
        "more epochs; a validation curve that rises wants fewer.",
        "plot_type": "linegraph",
        "pconfig": {
            "id": "refmap_training_plot",
            "title": "Training",
            "xlab": "epoch",
            "ylab": escape(shown[0]),
            "data_labels": [{"name": escape(curve), "xlab": "epoch", "ylab": escape(curve)} for curve in shown],
        },
        "data": [{name: history[curve] for name, history in histories.items() if history.get(curve)} for curve in shown],
    }


def read_history(path: Path) -> dict[str, list[list[float]]]:
    """Return the curves of a history.csv: name -> [[epoch, value], ...], without the epochs that have no value."""
    curves: dict[str, list[list[float]]] = {}
    with path.open(newline="") as file:
        for line in csv.DictReader(file):
            epoch = float(line.pop("epoch"))
            line.pop("batch", None)  # of several surgeries, whose epochs are counted on
            for name, value in line.items():
                points = curves.setdefault(name, [])
                if value and (number := float(value)) == number and abs(number) != float("inf"):
                    points.append([epoch, number])
    return curves


def labels(mapped: list[Outcome]) -> dict | None:
    """Show each query's composition by the labels that it got or, where it got none, by its own."""
    totals = {outcome.name: read_json(outcome.folder / "composition.json")["total"] for outcome in mapped}
    data = {name: {escape(label): n for label, n in total.items()} for name, total in totals.items() if total}
    if not data:
        return None
    return {
        "section_name": "Label composition",
        "description": "Cells of each query by predicted label; by transferred label where the model predicts none, and by the "
        "query's own where there is neither.",
        "plot_type": "bargraph",
        "pconfig": {
            "id": "refmap_labels_plot",
            "title": "Label composition",
            "ylab": "cells",
            "cpswitch_c_active": False,
            "sort_samples": False,
        },
        "data": [data],
    }


def accuracy(mapped: list[Outcome]) -> dict | None:
    """Show, of each mapping and true label, the share of cells that got the right one, by the model and from reference cells."""
    found = {}
    for outcome in mapped:
        found[f"{outcome.name}: predicted"] = recall(outcome.folder / "confusion.csv")
        found[f"{outcome.name}: transferred"] = recall(outcome.folder / "confusion_transferred.csv")
    found = {name: shares for name, shares in found.items() if shares}
    if not found:
        return None
    return {
        "section_name": "Accuracy by label",
        "description": "Share of the cells of each true label that the model predicted right, or that got it from the reference's "
        "cells; Unknown is not right.",
        **_heatmap("accuracy", "Accuracy by label", "true label", found, min=0, max=1),
    }


def _heatmap(name: str, title: str, labels: str, found: dict[str, dict[str, float]], **limits: float) -> dict:
    """A number of each mapping, a row, and label, a column."""
    known = list(dict.fromkeys(label for row in found.values() for label in row))
    return {
        "plot_type": "heatmap",
        "xcats": [escape(label) for label in known],
        "ycats": list(found),
        "pconfig": {
            "id": f"refmap_{name}_plot",
            "title": title,
            "xlab": labels,
            "ylab": "mapping",
            **limits,
            "square": False,
            "xcats_samples": False,
            "cluster_rows": False,
            "cluster_cols": False,
            "display_values": True,
            "tt_decimals": 2,
            "colstops": [[0, "#f7fbff"], [1, "#08519c"]],
        },
        "data": [[row.get(label) for label in known] for row in found.values()],
    }


def recall(path: Path) -> dict[str, float]:
    """Return the share predicted right by true label, from a confusion.csv; nothing where there is none."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        _corner, *predicted = next(table := csv.reader(file))
        counts = {label: dict(zip(predicted, map(int, row), strict=True)) for label, *row in table}
    return {label: row.get(label, 0) / sum(row.values()) for label, row in counts.items()}


def pictures(mapped: list[Outcome]) -> dict | None:
    """Show each query's cells, of as many queries as a browser can open."""
    shown = {outcome.id: [name for name in SHOWN if (outcome.folder / name).exists()] for outcome in mapped}
    drawn = [outcome for outcome in mapped if shown[outcome.id]]
    if not drawn:
        return None
    size, fitting = 0, []
    for outcome in drawn:
        size += sum((outcome.folder / name).stat().st_size for name in shown[outcome.id])
        if size <= MOST_BYTES or not fitting:
            fitting.append(outcome)
    unfolded = " open" if len(drawn) <= MOST_UNFOLDED else ""
    blocks = [
        f"<details{unfolded}><summary><strong>{escape(outcome.name)}</strong>{_link(outcome)}</summary>"
        f"{''.join(_image(outcome, name, SHOWN[name]) for name in shown[outcome.id])}</details>"
        for outcome in fitting
    ]
    if len(fitting) < len(drawn):
        blocks.append(
            f"<p>{len(fitting)} of {len(drawn)}, as many as a browser can open. The others: "
            "<code>reference_mapping/qc/dataset~&lt;dataset&gt;/file_id~&lt;file_id&gt;/*.png</code></p>"
        )
    return {
        "section_name": "Pictures",
        "description": "Each query's cells on the UMAP of the reference's, where these are to be had, and on one of their own; "
        "labels by batch, true against given labels where the truth is known, and what else its family of models finds. Batches "
        "that lie apart, or labels that lie scattered, are signs of a mapping that did not work. A page to look around in the cells, "
        "explore.html, lies beside the pictures in reference_mapping/qc, and a link here leads to it from where the run put this page.",
        "plot_type": "html",
        "data": "".join(blocks),
    }


def _image(outcome: Outcome, name: str, what: str) -> str:
    return (
        f'<img src="picture:{outcome.id}/{name}" alt="{what} of {escape(outcome.name)}"'
        ' style="max-width: 100%; background: white; display: block; margin: 0.5em 0">'
    )


def software_versions(mapped: list[Outcome]) -> dict[str, list[str]]:
    """Return the versions that the mappings were made with, software -> versions."""
    versions: dict[str, list[str]] = {}
    for outcome in mapped:
        for name, version in outcome.record["versions"].items():
            seen = versions.setdefault(name, [])
            if str(version) not in seen:
                seen.append(str(version))
    return versions
