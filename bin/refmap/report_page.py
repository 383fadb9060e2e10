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

from .cli import read_json, write_json
from .results import PICTURES

if TYPE_CHECKING:
    from .outcomes import Outcome

MOST_PICTURES = 200
MOST_NAMES = 20
# Up to this many, the pictures need not be unfolded one by one.
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
# The pictures of a mapping, and what each shows.
SHOWN = {"umap.png": "UMAP", "confusion.png": "confusion matrix", **PICTURES}
RED, AMBER, GREEN, GREY, BLUE = "#d9534f", "#e69f00", "#009e73", "#9e9e9e", "#0072b2"


def write_page(outcomes: list[Outcome], path: Path, config: Path, title: str) -> None:
    """Let MultiQC make the page, one HTML file with all that it needs in it; no network is asked for anything."""
    with tempfile.TemporaryDirectory() as folder:
        write_sections(outcomes, Path(folder))
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


def write_sections(outcomes: list[Outcome], folder: Path) -> None:
    """Write a JSON file a section that has something to show, and the versions of the software."""
    mapped = [outcome for outcome in outcomes if outcome.mapped]
    sections = {
        "failures": failures(outcomes),
        "warnings": warnings(outcomes),
        "mappings": mappings(outcomes),
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


def warnings(outcomes: list[Outcome]) -> dict | None:
    """Show every warning once, with the mappings that it is about; what makes a result doubtful comes first, in red."""
    names: dict[tuple[bool, str], list[str]] = {}
    for outcome in outcomes:
        for warning in outcome.warnings:
            names.setdefault((_is_severe(outcome, warning), warning), []).append(outcome.name)
    if not names:
        return None
    boxes = []
    for (severe, warning), whose in sorted(names.items(), key=lambda item: not item[0][0]):
        more = f" and {len(whose) - MOST_NAMES} more" if len(whose) > MOST_NAMES else ""
        text = f"<strong>{_lines(warning)}</strong>" if severe else _lines(warning)
        boxes.append(_box(RED if severe else AMBER, f"{text}<br><small>{escape(', '.join(whose[:MOST_NAMES]))}{more}</small>"))
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
        "family": _header("Family", "The family of the reference model", scale=False),
        "model": _header("Model", "The class of the reference model", scale=False),
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
        "accuracy": _header(
            "Accuracy", "Share of cells predicted right, where the truth is known", min=0, max=1, scale="Blues", format="{:.3f}"
        ),
        "uncertainty": _header(
            "Mean uncertainty", "Of the predicted label; for scPoli a distance", min=0, scale="Purples", format="{:.3f}"
        ),
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


def _figures(outcome: Outcome) -> dict:
    """Return a mapping's row of the table, without what is not known."""
    record = outcome.record
    figures = {
        "status": "mapped" if outcome.mapped else "failed",
        "stage": outcome.stage or None,
        "family": record.get("family") or outcome.card.get("family"),
        "model": record.get("class_name") or outcome.card.get("class_name"),
        "cells": outcome.n_cells,
        "genes": None if outcome.overlap is None else round(100 * outcome.overlap, 2),
        "batches": len(record["batches"]["new"]) if record else None,
        "epochs": outcome.epochs,
        "accuracy": outcome.accuracy,
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
            for name, value in line.items():
                points = curves.setdefault(name, [])
                if value and (number := float(value)) == number and abs(number) != float("inf"):
                    points.append([epoch, number])
    return curves


def labels(mapped: list[Outcome]) -> dict | None:
    """Show each query's composition by the model's labels or, where it predicts none, by the query's own."""
    totals = {outcome.name: read_json(outcome.folder / "composition.json")["total"] for outcome in mapped}
    data = {name: {escape(label): n for label, n in total.items()} for name, total in totals.items() if total}
    if not data:
        return None
    return {
        "section_name": "Label composition",
        "description": "Cells of each query by predicted label; by the query's own labels where the model predicts none.",
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
    """Show, of each mapping and true label, the share of cells that were predicted right."""
    found = {outcome.name: recall(outcome.folder / "confusion.csv") for outcome in mapped}
    found = {name: shares for name, shares in found.items() if shares}
    if not found:
        return None
    known = list(dict.fromkeys(label for shares in found.values() for label in shares))
    return {
        "section_name": "Accuracy by label",
        "description": "Share of the cells of each true label that were predicted right.",
        "plot_type": "heatmap",
        "xcats": [escape(label) for label in known],
        "ycats": list(found),
        "pconfig": {
            "id": "refmap_accuracy_plot",
            "title": "Accuracy by label",
            "xlab": "true label",
            "ylab": "mapping",
            "min": 0,
            "max": 1,
            "square": False,
            "xcats_samples": False,
            "cluster_rows": False,
            "cluster_cols": False,
            "display_values": True,
            "tt_decimals": 2,
            "colstops": [[0, "#f7fbff"], [1, "#08519c"]],
        },
        "data": [[shares.get(label) for label in known] for shares in found.values()],
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
    """Show each query's cells; at most 200 queries, so that a browser can still open the page."""
    shown = [outcome for outcome in mapped if (outcome.folder / "umap.png").exists()]
    if not shown:
        return None
    unfolded = " open" if len(shown) <= MOST_UNFOLDED else ""
    blocks = []
    for outcome in shown[:MOST_PICTURES]:
        images = [_image(outcome, name, what) for name, what in SHOWN.items() if (outcome.folder / name).exists()]
        blocks.append(f"<details{unfolded}><summary><strong>{escape(outcome.name)}</strong></summary>{''.join(images)}</details>")
    if len(shown) > MOST_PICTURES:
        blocks.append(
            f"<p>The first {MOST_PICTURES} of {len(shown)}. The others: "
            "<code>reference_mapping/qc/dataset~&lt;dataset&gt;/file_id~&lt;file_id&gt;/umap.png</code></p>"
        )
    return {
        "section_name": "Pictures",
        "description": "UMAP of each query's own embedding, its cells by true and predicted label where the truth is known, "
        "and what else its family of models finds. Batches that lie apart, or labels that lie scattered, are signs of a mapping that did not work.",
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
