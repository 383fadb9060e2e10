"""Place a mapped query's cells in the hierarchy of its reference, and its labels in the tree."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import zarr
from anndata.experimental import read_elem

from ..common.cli import read_json, write_json
from ..common.folders import MappedFolder
from ..common.storage import read_zarr, write_zarr
from ..families.base import Prediction, add_prediction
from ..models.folder import ModelFolder
from .classifier import Answers, Classifier, Settings
from .files import Hierarchy, labelled_cells, labels_of, read_cells, read_hierarchy
from .learn import about_few, add_dataset, enough, in_tree
from .matches import KINDS, match_table
from .tree import NO_TYPES, ROOT, Label, newick

TREE_JSON, TREE_NEWICK, MATCHES = "tree.json", "tree.nwk", "matches.csv"


@dataclass
class Query:
    """A mapped query: its name among the datasets of a hierarchy, its latent (cells x dimensions), labels (None: none) and cells' names."""

    name: str
    latent: np.ndarray
    labels: list[Label | None]
    cells: list[str]


def update_hierarchy(
    plan: dict,
    card: dict,
    model: Path,
    aligned: Path,
    mapped: MappedFolder,
    updated_model: Path,
    out: MappedFolder,
    out_model: Path,
) -> None:
    """Predict a query's cells by the hierarchy of the model it was mapped onto, and add its labels to the hierarchy.

    Parameters
    ----------
    plan, card
        What is known of the mapping and of that model.
    model
        The folder of the model that was mapped onto, with its hierarchy.
    aligned
        The aligned query.
    mapped, updated_model
        What the mapping left.
    out, out_model
        Where to write the same with the hierarchy added.

    Raises
    ------
    RefmapError
        If the hierarchy is damaged, or scHPL fails on the labels.
    """
    folder = ModelFolder(model, card["model"])
    folder.verify(card["sha256"])
    hierarchy = read_hierarchy(folder)
    cells = read_cells(model)
    result, record = read_zarr(mapped.embedding), read_json(mapped.record)
    latent = np.asarray(result.obsm["X_emb"], dtype=np.float32)
    shutil.copytree(mapped.results, out.results)
    shutil.copyfile(mapped.history, out.history)
    if mapped.decoded.exists():
        shutil.copyfile(mapped.decoded, out.decoded)
    shutil.copytree(updated_model, out_model)
    if latent.shape[1] != hierarchy.n_latent:
        record["warnings"].append(
            f"The hierarchy of '{card['model']}' was left out: its cells have {hierarchy.n_latent} latent dimensions and the query's "
            f"{latent.shape[1]}, because this mapping added to them."
        )
    else:
        name = _unique(f"{plan['row']['dataset']}~{plan['row']['file_id']}", hierarchy.datasets)
        labels = given_labels(aligned, hierarchy.labels_key, card["unlabeled_category"], name)
        query = Query(name, latent, labels, list(result.obs_names))
        classifier = Classifier(hierarchy.tree, cells.obsm["X_emb"], labels_of(cells), hierarchy.settings)
        answers = classifier.predict(latent)
        updated, seen, few = _updated(hierarchy, classifier, query)
        table = match_table(
            hierarchy.tree, updated.tree, updated.names, (query.labels, answers.nodes), (labels_of(cells), seen), few
        )
        predicted = _predicted(hierarchy, answers)

        # Beside those of the model itself, which may predict the same column.
        column = f"{hierarchy.labels_key}_tree"
        add_prediction(result, column, Prediction(list(hierarchy.nodes()), predicted, answers.uncertainty))
        record["predictions"][column] = _sums(predicted, answers)
        _write_results(out.results, hierarchy, updated, query, predicted, table)
        updated.write(out_model, _all_cells(cells, updated, query))
        record["hierarchy"] = _summary(hierarchy, updated, predicted, table)
        record["warnings"] += _warnings(few, table, hierarchy.settings)
        print(_told(record["hierarchy"]))
    write_zarr(result, out.embedding)
    write_json(out.record, record)


def given_labels(aligned: Path, key: str, unlabeled: str | None, dataset: str) -> list[Label | None]:
    """The labels of an aligned query's cells in a column of its obs; None for the unlabeled category and where there is no such column."""
    obs = zarr.open(str(aligned), mode="r")["obs"]
    names = np.asarray(read_elem(obs[obs.attrs["_index"]]))
    if key not in obs:
        return [None] * len(names)
    values = pd.Series(read_elem(obs[key])).astype(object)
    missing = values.isna() | values.isin(["", unlabeled])
    return [None if is_missing else Label(dataset, str(value)) for value, is_missing in zip(values, missing)]


def _unique(name: str, taken: list[str]) -> str:
    """A name for a query, which may have been mapped and added before."""
    number, given = 1, name
    while name in taken:
        number += 1
        name = f"{given}_{number}"
    return name


def _updated(
    hierarchy: Hierarchy, classifier: Classifier, query: Query
) -> tuple[Hierarchy, list[Label | None], dict[Label, int]]:
    """The hierarchy with the query's labels in it, as far as they can be placed.

    Further what the query's labels make of each cell of the hierarchy, and the labels that have too few cells.
    """
    kept, few = enough(query.labels, classifier.settings.least_cells)
    if not len(kept):
        return hierarchy, [None] * len(classifier.labels), few
    labels = [query.labels[i] for i in kept]
    tree, seen = add_dataset(classifier, query.latent[kept], labels)
    counts = Counter(label for label, placed in zip(labels, in_tree(tree, labels)) if placed)
    if not counts:
        return hierarchy, seen, few
    n_cells = hierarchy.n_cells | dict(sorted(counts.items()))
    return replace(hierarchy, tree=tree, datasets=[*hierarchy.datasets, query.name], n_cells=n_cells), seen, few


def _all_cells(cells: ad.AnnData, updated: Hierarchy, query: Query) -> ad.AnnData:
    """The hierarchy's cells, and those of the query whose labels it has."""
    new = [i for i, label in enumerate(query.labels) if label in updated.n_cells]
    if not new:
        return cells
    added = labelled_cells(query.latent[new], [query.labels[i] for i in new], [query.cells[i] for i in new])
    joined = ad.concat([cells, added])
    joined.obs = joined.obs.astype("category")
    return joined


def _predicted(hierarchy: Hierarchy, answers: Answers) -> np.ndarray:
    """What is predicted of each cell, object array of str: the name of a node, `ROOT`, or why it is rejected."""
    names = hierarchy.names
    return np.array(
        [why or node.name(names) if node is not hierarchy.tree else ROOT for node, why in zip(answers.nodes, answers.rejections)],
        dtype=object,
    )


def _write_results(
    folder: Path, hierarchy: Hierarchy, updated: Hierarchy, query: Query, predicted: np.ndarray, table: pd.DataFrame
) -> None:
    """Write the tree, as JSON and Newick, and the matches."""
    names = updated.names
    counts = Counter(predicted)
    labelled = Counter(label for label in query.labels if label is not None)

    def more(node) -> dict:
        from_query = sum(labelled[label] for label in node.labels)
        return {
            "new": node is not updated.tree and all(label.dataset == query.name for label in node.labels),
            "cells": sum(hierarchy.n_cells.get(label, 0) for label in node.labels),
            "query_cells": from_query,
            "predicted": counts[node.name(names)],
        }

    tree = {
        "labels_key": hierarchy.labels_key,
        "query": query.name,
        "updated": updated is not hierarchy,
        "cells": len(predicted),
        "rejected": {why: counts[why] for why in NO_TYPES[1:]},
        "tree": updated.tree.to_json(names, more),
    }
    write_json(folder / TREE_JSON, tree)
    (folder / TREE_NEWICK).write_text(newick(updated.tree, names), encoding="utf-8")
    table.to_csv(folder / MATCHES, index=False)


def _sums(predicted: np.ndarray, answers: Answers) -> dict:
    return {"counts": dict(Counter(predicted).most_common()), "mean_uncertainty": float(answers.uncertainty.mean())}


def _summary(hierarchy: Hierarchy, updated: Hierarchy, predicted: np.ndarray, table: pd.DataFrame) -> dict:
    """What the record of the mapping says of the hierarchy."""
    counts = Counter(predicted)
    return {
        "labels_key": hierarchy.labels_key,
        "predicted": sum(n for name, n in counts.items() if name not in NO_TYPES),
        "not_predicted": {why: counts[why] for why in NO_TYPES},
        "matches": {kind: int(table["query_label"][table["match"] == kind].nunique()) for kind in KINDS},
        "types": {"before": len(hierarchy.nodes()), "after": len(updated.nodes())},
    }


def _warnings(few: dict[Label, int], table: pd.DataFrame, settings: Settings) -> list[str]:
    """What the user should know of the labels that changed nothing."""
    sentences = [about_few(few, settings.least_cells, "the query")] if few else []
    unplaced = table["query_label"][table["match"] == "unplaced"]
    if len(unplaced):
        listed = ", ".join(f"'{label}'" for label in unplaced)
        sentences.append(f"Labels of the query that could not be placed in the hierarchy: {listed}; see {MATCHES}.")
    return sentences


def _told(summary: dict) -> str:
    others = ", ".join(f"{n:,} {why}" for why, n in summary["not_predicted"].items())
    types = summary["types"]
    return (
        f"the hierarchy predicts {summary['predicted']:,} cells ({others}); cell types: {types['before']} before, "
        f"{types['after']} after"
    )
