"""What one mapping looks like: its labels by batch, how far it is to be trusted, and pictures of the query's cells."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from .. import trust
from ..common.cli import read_json, write_json
from ..common.folders import MappedFolder, PreparedFolder, ReferenceFolder
from ..common.storage import StoredCells
from ..mapping.decoded import Decoded
from ..query.obs_table import add_obs_table
from ..query.query import Query
from ..transfer.calibration import CertainLabels, calibrate
from ..transfer.labels import Given, Transfer
from ..transfer.transfer import read_labels
from . import pictures, plots
from .cell_table import write_cells
from .evaluation import evaluate
from .expression import Expression
from .mapped_cells import Cells, Reference, label_columns, read_cells
from .mapqc import compare_samples, query_samples
from .results.drawing import draw_results
from .results.mapped import Mapped
from .sankey import draw_sankey
from .sections.training import read_history

MISSING = "missing"


def describe_mapping(
    plan: dict,
    query: Path,
    prepared: PreparedFolder,
    mapped: MappedFolder,
    reference: ReferenceFolder | None,
    threshold: float,
    output: Path,
    obs_table: Path | None = None,
) -> None:
    """Write the folder `output` of one mapping; `threshold` is the uncertainty above which a label is `Unknown`, and
    `obs_table` where the table of the query's cells lies that its row names.

    alignment.json, history.csv     as they came
    mapping.json                    with how far to trust it and, where the row names a `truth_key`, how well it did
    composition.json, .png, .pdf    labels by batch
    umap.png, .pdf                  the cells, coloured by what is known of them
    joint.png, .pdf                 the same on the reference's UMAP, where its cells are to be had
    explore.html                    either, to look around in, with some of the model's genes
    confusion.csv, .png, .pdf       where the truth is known and the model predicts: true labels x predicted ones
    confusion_transferred.csv, …    the same of the transferred labels
    sankey.png, .pdf                both, as ribbons from the true labels to the others
    calibration.png, .pdf           and how often they are right, by how certain they are
    groups.csv                      the query's own clusters, those most unlike the reference first, where its counts are known
    explained.csv                   the query's own clusters and how much of each the model explains, where it can be known
    training.png, .pdf              the curves of the training
    cells.parquet, cells.csv.gz     what is known of each cell, in the query's order; see `refmap.report.cell_table`
    and what the family found beside the cells, as tables and pictures: see `refmap.report.results`

    Raises RefmapError when the query cannot be read, or is not the one that was embedded.
    """
    row = plan["row"]
    record, alignment = read_json(mapped.record), read_json(prepared.alignment)
    embedded = StoredCells(mapped.embedding)
    around = Reference.read(reference) if reference else None
    output.mkdir(parents=True)
    with Query(query, row["query"], row["modality"]) as source:
        add_obs_table(source, row, obs_table)
        cells = read_cells(source, embedded, row, around)
        samples = query_samples(source, row)
        write_cells(cells.columns, embedded, output)
        draw_results(Mapped(embedded, source, around, plan, record, mapped.results, output, _name(row)))
    # Figures and pictures are of the cells that have an embedding.
    placed = np.isfinite(cells.latent).all(axis=1)
    if not placed.all():
        cells, embedded = cells.some(placed), embedded.some(placed)
    expression = Expression(prepared.aligned, placed)
    # A model without batches is mapped onto without a look at the query's.
    batches = cells.columns.get(row["batch_key"], pd.Series("all cells", index=range(len(cells.latent))))

    shutil.copyfile(prepared.alignment, output / "alignment.json")
    shutil.copyfile(mapped.history, output / "history.csv")
    if mapped.groups.exists():
        shutil.copyfile(mapped.groups, output / mapped.groups.name)
    record["labels"] = label_columns(embedded, around)
    composition = _composition(*_labels(cells, row), batches)
    write_json(output / "composition.json", composition)
    record["accuracy"], record["calibration"] = _score(cells, row, output), None
    truth = cells.columns.get(row["truth_key"])
    if truth is not None:
        record["calibration"] = _calibrations(truth, embedded, placed, mapped, around, threshold, record)
    record["evaluation"] = evaluate(cells, row, batches, around, record["seed"])
    record["trust"] = _judge(cells, batches, placed, expression, mapped, alignment, around, record)
    if samples is not None:
        record["trust"]["figures"]["mapqc"] = compare_samples(cells, samples[placed], around, row, record["seed"])
    _write_clusters(record["trust"]["figures"]["explained"]["clusters"], output / "explained.csv")
    write_json(output / "mapping.json", record)

    curves = {name: points for name, points in read_history(mapped.history).items() if len(points) > 1}
    if curves:
        plots.draw_history(curves, _name(row), output / "training")
    if composition["total"]:
        counts = pd.DataFrame({"all cells": composition["total"], **composition["batches"]}).T.fillna(0).astype(int)
        plots.draw_composition(counts, f"{_name(row)}: {composition['key']}", output / "composition")
    if record["calibration"]:
        plots.draw_calibration(record["calibration"], f"{_name(row)}: labels against {row['truth_key']}", output / "calibration")
    pictures.draw(cells, around, expression, row, _name(row), record["seed"], output)


def _score(cells: Cells, row: dict, output: Path) -> dict | None:
    """Draw and write how the labels agree with the true ones; return the score of the model's own, None if there is none."""
    if row["truth_key"] not in cells.columns:
        return None
    truth = cells.columns[row["truth_key"]].astype(object)
    accuracy, confusions = None, {}
    for labels in cells.labels:
        predicted, values = labels.made == "predicted", labels.values.astype(object)
        if predicted:
            found = score(truth, values, labels.classes)
            accuracy = {"truth_key": row["truth_key"], "labels_key": labels.key, **found}
        name = "confusion" if predicted else "confusion_transferred"
        confusion = confusion_table(truth, values)
        confusion.to_csv(output / f"{name}.csv")
        if confusion.size:
            plots.draw_confusion(confusion, _name(row), output / name, labels.made)
            confusions[labels.made] = confusion
    if confusions:
        draw_sankey(confusions, _name(row), output / "sankey")
    return accuracy


def _calibrations(
    truth: pd.Series,
    embedded: StoredCells,
    placed: np.ndarray,
    mapped: MappedFolder,
    around: Reference | None,
    threshold: float,
    record: dict,
) -> dict[str, dict]:
    """How often labels are right, by how certain they are: of every column that the truth has labels of."""
    made, told = {}, record.get("expression")
    for name, values in embedded.uns.items():
        key = name.removesuffix("_classes")
        if key != name and f"{key}_probabilities" in embedded.obsm:
            made[f"{key}_predicted"] = Transfer(
                [str(label) for label in values], np.asarray(embedded.obsm[f"{key}_probabilities"])
            )
    if around:
        given = read_labels(mapped, embedded, around.scale["keys"])
        made |= {f"{key}_transferred": replace(labels, places=labels.places[placed]) for key, labels in given.items()}
    found = {name: calibrate(truth, transfer, threshold) for name, transfer in made.items()}
    if told:
        found |= {
            name: calibrate(truth, labels, 1 - told["unknown_certainty"])
            for key in around.scale["keys"]
            for name, labels in _certain_labels(key, embedded, made[f"{key}_transferred"], record).items()
        }
    return {name: calibration for name, calibration in found.items() if calibration}


def _certain_labels(key: str, embedded: StoredCells, given: Given, record: dict) -> dict[str, CertainLabels]:
    """Of a column of labels those whose certainty was learned: by the genes, and the transferred ones where it makes them `Unknown`."""
    made = {}
    if f"{key}_by_genes" in embedded.obs:
        second, certainty = embedded.obs[f"{key}_by_genes"], embedded.obs[f"{key}_by_genes_certainty"]
        made[f"{key}_by_genes"] = CertainLabels(
            list(second.cat.categories), second.astype(object).to_numpy(), _uncertain(certainty)
        )
    certainty = embedded.obs.get(f"{key}_certainty")
    if record["transfer"].get("unknown_by") == "certainty" and certainty is not None and certainty.notna().any():
        made[f"{key}_transferred"] = CertainLabels(given.classes, given.best, _uncertain(certainty))
    return made


def _uncertain(certainty: pd.Series) -> np.ndarray:
    return 1 - certainty.fillna(0).to_numpy(dtype=np.float64)


def _judge(
    cells: Cells,
    batches: pd.Series,
    placed: np.ndarray,
    expression: Expression,
    mapped: MappedFolder,
    alignment: dict,
    around: Reference | None,
    record: dict,
) -> dict:
    """Measure the mapping and judge it: see :mod:`refmap.trust`."""
    predicted = next((labels.values for labels in cells.labels if labels.made == "predicted"), None)
    decoded = Decoded.read(mapped.decoded) if mapped.decoded.exists() else None
    if decoded:  # its cells by their places among those that have an embedding, as all of these here
        decoded.cells = np.cumsum(placed)[decoded.cells] - 1
    figures = trust.measure(
        trust.QueryCells(
            latent=cells.shared,
            expression=expression,
            normalized=not expression.are_counts,
            batches=batches,
            labels=cells.levels,
            predicted=predicted,
            novelty=None if cells.novelty is None else cells.novelty.to_numpy(),
            separation=None if cells.separation is None else cells.separation.to_numpy(),
            decoded=decoded,
            hshare=record["hshare"],
        ),
        around
        and trust.ReferenceCells(
            latent=np.asarray(around.cells.obsm["X_emb"]),
            labels={key: around.labels(key) for key in around.scale["keys"]},
            batches=around.batches,
            held_out={key: found for key, found in around.scale["calibration"].items() if found},
            separations=np.array(around.scale["separations"]),
        ),
        alignment,
        record["seed"],
        record.get("expression"),
    )
    verdicts = trust.judge(figures, trust.read_thresholds())
    return {part: verdict.to_json() for part, verdict in verdicts.items()} | {"figures": figures}


def _write_clusters(clusters: dict[str, dict], path: Path) -> None:
    """A row a cluster, the largest first; no file where there are none."""
    if clusters:
        columns = ["n_cells", "value", "label", "label_share"]
        table = pd.DataFrame.from_dict(clusters, orient="index")[columns].rename(columns={"value": "explained"})
        table.to_csv(path, index_label="cluster")


def _name(row: dict) -> str:
    return f"{row['dataset']}/{row['file_id']}"


def _labels(cells: Cells, row: dict) -> tuple[str | None, str | None, pd.Series | None]:
    """Return (where labels come from, their key, the labels): the best that is known, the model's word first."""
    if cells.labels:
        return cells.labels[0].made, cells.labels[0].name, cells.labels[0].values
    for source, key in (("labels", next(iter(row["labels_keys"]), None)), ("truth", row["truth_key"])):
        if key:
            return source, key, cells.columns[key]
    return None, None, None


def _composition(source: str | None, key: str | None, labels: pd.Series | None, batches: pd.Series) -> dict:
    """Count the cells of each label, in all and in each batch."""
    if labels is None:
        return {"source": None, "key": None, "total": {}, "batches": {}}
    labels, batches = labels.astype(object).fillna(MISSING), batches.astype(object).fillna(MISSING)
    return {
        "source": source,
        "key": key,
        "total": _counts(labels),
        "batches": {batch: _counts(labels[batches == batch]) for batch in sorted(batches.unique())},
    }


def _counts(labels: pd.Series) -> dict[str, int]:
    return {str(label): int(n) for label, n in plots.ranked(labels).items()}


def score(truth: pd.Series, predicted: pd.Series, classes: list[str]) -> dict:
    """Score predictions against the true labels (None where unknown).

    Cells of a type that the model has never seen cannot be right; they are told apart (`n_unknown`) and not scored.
    """
    known = truth.isin(classes)
    scored = int(known.sum())
    return {
        "n_scored": scored,
        "n_unknown": int((truth.notna() & ~known).sum()),
        "accuracy": float((truth[known] == predicted[known]).mean()) if scored else None,
    }


def confusion_table(truth: pd.Series, predicted: pd.Series) -> pd.DataFrame:
    """Count cells by true label (rows, sorted) and predicted label (columns: those of the rows first); missing truth left out."""
    table = pd.crosstab(truth.rename("truth"), predicted.rename("predicted"))
    columns = [*table.index, *(label for label in table.columns if label not in table.index)]
    return table.reindex(columns=columns, fill_value=0)
