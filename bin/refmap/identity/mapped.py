"""A mapping looked at by the expression of its query, beside a sample of its reference's cells."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace

import anndata as ad
import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem

from ..common.cli import read_json, write_json
from ..common.folders import MappedFolder, PreparedFolder, ReferenceFolder
from ..common.storage import StoredCells, add_to_zarr, read_zarr
from ..query.query import Query
from ..transfer.columns import write_labels
from ..transfer.labels import Given
from ..transfer.levels import Levels, find_levels
from ..transfer.neighbors import HELD, Index
from ..transfer.transfer import read_labels, shared_latent
from .compare import Comparison, View, compare
from .groups import NOVEL
from .learned import Learned
from .measuring import learned_of, main_key, of_sample, on_panel
from .pairing import Counted, pair

# Cells that are looked at; of more, the others have what was found of the nearest of these in the latent space.
MOST_CELLS = 50_000
NOVEL_SCORE, NOVEL_GROUP, OWN_CLUSTER = "novel_score", "novel_group", "own_cluster"
# Between the labels of a set, and what stands for one without any.
SEPARATOR, EMPTY = " | ", "(none)"
# Fewer cells of a label have no share of agreement.
FEWEST_OF_LABEL = 20


@dataclass(frozen=True)
class UnknownRule:
    """When a transferred label is `Unknown`.

    by             ``certainty``: where it is less certain than `certainty`, calibrated; ``uncertainty``: above that of the neighbours,
                   the recipe of the Human Lung Cell Atlas, which also holds where no certainty is known
    certainty      from 0 to 1
    uncertainty    from 0 to 1
    """

    by: str
    certainty: float
    uncertainty: float

    def certain(self, given: Given, certainty: np.ndarray) -> np.ndarray:
        """Which labels stay by the rule: bool, cells. `certainty` is NaN where it is not known."""
        by_neighbors = given.uncertainty <= self.uncertainty
        if self.by == "uncertainty":
            return by_neighbors
        return np.where(np.isnan(certainty), by_neighbors, certainty >= self.certainty)


def compare_mapping(
    prepared: PreparedFolder, mapped: MappedFolder, reference: ReferenceFolder, unknown: UnknownRule, out: MappedFolder
) -> None:
    """Write what a mapping gave with what the expression of its cells says of them: see :func:`refmap.identity.compare.compare`.

    Adds to obs of the embedding ``novel_score`` (float32), ``own_cluster`` (categorical: each cell's row in groups.csv) and
    ``novel_group`` (categorical: the same where it is ``novel_1``, …; missing for all other cells), by the column of the reference's labels that has most of them; and for each column ``<key>_certainty`` (float32: how
    often such a transferred label is right), ``<key>_by_genes`` (categorical) with ``<key>_by_genes_certainty``, and
    ``<key>_label_set`` (categorical: labels joined by " | "). ``<key>_transferred`` is `Unknown` anew, by the rule, and what hangs on
    it is written anew (:func:`refmap.transfer.columns.write_labels`). To the folder ``groups.csv``, a row an own cluster of the query,
    and to the record ``expression``.

    Parameters
    ----------
    prepared
        The query's cells x the model's genes, counts.
    mapped
        With transferred labels.
    reference
        With a sample of its cells.
    out
        The folder to make.
    """
    shutil.copytree(mapped.folder, out.folder, ignore=lambda _folder, names: [mapped.record.name])
    scale, sample = read_json(reference.record), read_zarr(reference.sample)
    embedding, record = StoredCells(mapped.embedding), read_json(mapped.record)
    cells, seed = read_zarr(reference.cells), record["seed"]
    latent, placed = shared_latent(embedding, scale)
    query, drawn = _counted(prepared, latent, placed, scale["batch_key"], seed)
    nearest = _nearest(latent, placed, drawn)
    searched = main_key(sample, scale["keys"])
    told = {
        "searched": searched,
        "n_cells": int(placed.sum()),
        "n_genes": 0,
        "unknown_certainty": unknown.certainty,
        "panel": None,
        "novel": None,
        "views": {},
    }
    own = {key: cells.obs[key] for key in scale["keys"]}
    levels, certain, obs = find_levels(own), {}, {}
    transferred = read_labels(mapped, embedding, scale["keys"])
    around = _of_found(of_sample(sample, scale["batch_key"]), sample)
    # Log-normalised once, whatever the columns of labels
    both = pair(around, query)
    for key, given in transferred.items():
        labels, learned = sample.obs[key], learned_of(scale, key)
        of_panel = learned and on_panel(both.reference.labelled(labels), len(around.genes), learned, seed)
        found = compare(both, labels, seed, replace(given, places=given.places[drawn]).best, of_panel, view_alone=key != searched)
        told["n_genes"] = found.n_genes
        certainty = _add_view(obs, key, found.view, nearest)
        certain[key] = placed & unknown.certain(given, certainty)
        told["views"][key] = _told_of_view(obs, key, found, given, unknown, certainty)
        if key == searched:
            told["panel"] = _told_of_panel(found.n_genes, len(around.genes), learned, of_panel)
            told["novel"] = _add_groups(obs, found, nearest, out)
    _set_unknown(obs, record, transferred, unknown, certain, levels)
    record["expression"] = told
    add_to_zarr(out.embedding, obs=obs)
    write_json(out.record, record)


def _counted(
    prepared: PreparedFolder, latent: np.ndarray, placed: np.ndarray, batch_key: str | None, seed: int
) -> tuple[Counted, np.ndarray]:
    """The query's cells, or as many of them as are looked at, on the genes that it has; and their rows."""
    root = zarr.open_group(prepared.aligned, mode="r")
    rows = np.flatnonzero(placed)
    if len(rows) > MOST_CELLS:
        rows = np.sort(np.random.default_rng(seed).permutation(rows)[:MOST_CELLS])
    var, obs = read_elem(root["var"]), root["obs"]
    with Query(prepared.aligned, "the aligned query") as aligned:
        counts = aligned.matrix("X").take(rows, np.flatnonzero(var["found"]))
    has_batches = batch_key in obs.attrs["column-order"]
    batches = pd.Series(read_elem(obs[batch_key])[rows]).astype(object) if has_batches else None
    return Counted(counts, var.index[var["found"]].to_numpy(dtype=object), latent[rows], batches), rows


def _of_found(reference: Counted, sample: ad.AnnData) -> Counted:
    """The reference's sample on the genes that its cells had."""
    had = sample.var["found"].to_numpy() if "found" in sample.var else np.ones(sample.n_vars, dtype=bool)
    return replace(reference, counts=reference.counts[:, had], genes=reference.genes[had])


def _nearest(latent: np.ndarray, placed: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """For each cell the place among those drawn of itself or the nearest: int64; -1 for cells that have no place."""
    nearest = np.full(len(latent), -1, dtype=np.int64)
    nearest[drawn] = np.arange(len(drawn))
    left = np.flatnonzero(placed & (nearest < 0))
    if len(left):
        index = Index(latent[drawn])
        for rows in np.split(left, range(HELD, len(left), HELD)):
            nearest[rows] = index.search(latent[rows], 1).indices[:, 0]
    return nearest


def _spread(values: np.ndarray, nearest: np.ndarray, missing: object = np.nan) -> np.ndarray:
    """What is known of the drawn cells as values of all."""
    result = np.full(len(nearest), missing, dtype=values.dtype)
    result[nearest >= 0] = values[nearest[nearest >= 0]]
    return result


def _spread_labels(labels: pd.Categorical, nearest: np.ndarray) -> pd.Categorical:
    return labels.take(nearest, allow_fill=True)


def _add_view(obs: dict, key: str, view: View | None, nearest: np.ndarray) -> np.ndarray:
    """Add the second label; return the certainty of the first: float64, cells, NaN where it is not known."""
    if view is None:
        return np.full(len(nearest), np.nan)
    obs[f"{key}_by_genes"] = _spread_labels(pd.Categorical(view.labels, categories=view.names), nearest)
    obs[f"{key}_by_genes_certainty"] = _spread(view.certainty.astype(np.float32), nearest)
    sets = np.array([SEPARATOR.join(view.names[row]) or EMPTY for row in view.sets], dtype=object)
    if view.sets.any():
        obs[f"{key}_label_set"] = _spread_labels(pd.Categorical(sets), nearest)
    certainty = _spread(view.latent_certainty, nearest)
    obs[f"{key}_certainty"] = certainty.astype(np.float32)
    return certainty


def _set_unknown(
    obs: dict,
    record: dict,
    transferred: dict[str, Given],
    unknown: UnknownRule,
    certain: dict[str, np.ndarray],
    levels: list[Levels],
) -> None:
    """Say anew which transferred labels are `Unknown`, and what hangs on that, in obs and in the record."""
    told = write_labels(obs, transferred, certain, levels)
    labels = {key: record["transfer"]["labels"][key] | of for key, of in told["labels"].items()}
    record["transfer"] |= told | {"labels": labels, "unknown_by": unknown.by}


def _told_of_view(obs: dict, key: str, found: Comparison, given: Given, unknown: UnknownRule, certainty: np.ndarray) -> dict:
    """What the record says of a column of labels: ``note`` (why there is no second look), or its figures."""
    if found.view is None:
        return {"note": found.no_view}
    known = ~np.isnan(certainty)
    first, second = given.column, obs[f"{key}_by_genes"]
    both = second.codes >= 0
    as_first = first.categories.get_indexer(second.categories)
    same = pd.Series(as_first[second.codes[both]] == first.codes[both])
    by_name = pd.Categorical(first[both], categories=sorted(first.categories))
    by_label = same.groupby(by_name, observed=True).agg(["mean", "size"])
    by_label = by_label[by_label["size"] >= FEWEST_OF_LABEL]
    certain = found.learned.certainty
    return {
        "note": found.learned.no_certainty,
        "held_out": certain.figures if certain else None,
        "agreement": float(same.mean()) if len(same) else None,
        "agreement_by_label": {str(label): float(share) for label, share in by_label["mean"].items()},
        "mean_certainty": float(certainty[known].mean()) if known.any() else None,
        "certain": float((certainty[known] >= unknown.certainty).mean()) if known.any() else None,
        "set_size": float(found.view.sets.sum(axis=1).mean()) if certain else None,
    }


def _told_of_panel(n_genes: int, of: int, learned: Learned | None, of_panel: Learned | None) -> dict:
    """What the record says of how well labels are told by the query's genes: ``note`` (why that is not known), or its figures."""
    if not learned or not learned.certainty or not of_panel.certainty:
        lacking = of_panel or learned
        return {
            "note": lacking.no_certainty if lacking else "The reference's cells have no two labels that its genes tell apart."
        }
    return {
        "note": None,
        "n_genes": n_genes,
        "of": of,
        "accuracy": of_panel.certainty.figures["accuracy"],
        "accuracy_of_all": learned.certainty.figures["accuracy"],
    }


def _add_groups(obs: dict, found: Comparison, nearest: np.ndarray, out: MappedFolder) -> dict:
    """Add the score and the group of each cell, and write the table; return what the record says of it."""
    novel = found.novel
    if novel is None:
        return {"note": found.no_novel}
    obs[NOVEL_SCORE] = _spread(novel.scores.astype(np.float32), nearest)
    groups = _spread_labels(pd.Categorical(novel.groups, categories=list(novel.table["group"])), nearest)
    obs[OWN_CLUSTER] = groups
    flagged = novel.table[novel.table["group"].str.startswith(NOVEL)]
    others = groups.categories.difference(flagged["group"])
    groups = groups.remove_categories(others)
    obs[NOVEL_GROUP] = groups
    novel.table.assign(genes=novel.table["genes"].map(" ".join)).to_csv(out.groups, index=False)
    return {
        "note": None,
        "threshold": novel.threshold.value,
        "null_quantile": novel.threshold.null,
        "twice_median": novel.threshold.of_clusters,
        "resemblance": novel.resemblance,
        "n_clusters": len(novel.table),
        "groups": {
            row.group: {"n_cells": int(n), "label": row.matched_label, "score": float(row.score), "reading": row.reading}
            for row, n in zip(flagged.itertuples(), pd.Series(groups).value_counts().reindex(flagged["group"], fill_value=0))
        },
    }
