"""What a reference's own cells tell before any query is there: the scale of distances, how often their labels err, and a map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ..common.cli import read_json, write_json
from ..common.errors import RefmapError
from ..common.folders import ReferenceFolder
from ..common.storage import read_numbered, take_names, write_zarr
from ..models.hidden import HIDDEN_COLUMN
from .calibration import calibrate
from .held_out import HeldOut, hold_out
from .labels import UNKNOWN, Transfer
from .levels import find_levels, transfer_columns
from .maps import draw_map
from .novelty import distance_scores
from .separation import held_out_separation


def calibrate_reference(
    prepared: ReferenceFolder, latent: Path | None, seed: int, threshold: float, k: int, out: ReferenceFolder
) -> None:
    """Write the reference's cells with their embedding and UMAP, and the scale that they set.

    Parameters
    ----------
    prepared
        As :func:`refmap.reference.cells.prepare_reference` wrote it.
    latent
        The cells' latent (.npz, by keys of obsm), where `prepared` does not hold it.
    threshold, k
        The uncertainty above which a label is `Unknown`, and the number of neighbours that labels come from.
    out
        The folder to make. Its record holds, beside that of `prepared`: ``seed``, ``neighbors``, ``held_out`` (``by`` batch or
        cell, ``n``), ``distances`` and ``separations`` (the scores of held-out cells, sorted: see :mod:`refmap.transfer.novelty` and
        :mod:`refmap.transfer.separation`), ``calibration`` (see :func:`refmap.transfer.calibration.calibrate`) by label column,
        with ``unknown_of_all`` (the share of all held-out cells that are `Unknown`, those too that have no label of their own in the
        column, as a query's cells of such types have none), ``by`` and ``calibrated_on``: held-out cells whose labels were
        ``hidden`` from the model, and these alone, where there are any; else those of above, whose labels the model has ``seen``, or
        which are ``unseen`` as it learns from no labels of the column; and ``levels`` (the label columns that are levels of one annotation, coarse to fine, by annotation).

    What `prepared` holds of these already, as what was saved beside a model does, is taken over: the UMAP, and a scale that was
    computed with the same settings.

    Raises RefmapError if the latent is not that of the cells.
    """
    record, cells = read_json(prepared.record), read_numbered(prepared.cells)
    if latent:
        with np.load(latent) as embedded:
            cells.obsm.update(embedded)
    # Those that the model has no embedding of are not among them.
    placed = ~np.isnan(cells.obsm["X_emb"]).all(axis=1)
    if not placed.all():
        cells = cells[placed].copy()
    embedding = cells.obsm["X_emb"]
    if not len(embedding) or not np.isfinite(embedding).all():
        raise RefmapError(
            f"The embedding of reference '{record['reference']}' holds values that are no numbers: see to its counts."
        )
    batches = cells.obs[record["batch_key"]] if record["batch_key"] else None
    if "X_umap" not in cells.obsm:
        cells.obsm["X_umap"] = draw_map(embedding, seed)
    out.folder.mkdir()
    write_zarr(cells, out.cells)
    take_names(out.cells, prepared.cells, None if placed.all() else placed)
    saved = record.pop("saved_scale", None)
    labels = {key: cells.obs[key] for key in record["keys"]}
    levels = find_levels(labels)
    chains = [list(chain.keys) for chain in levels]
    if not saved or not _fits(saved, record["keys"], chains, seed, threshold, k):
        held = hold_out(embedding, batches, seed, k=k)
        hidden = np.flatnonzero(cells.obs[HIDDEN_COLUMN]) if HIDDEN_COLUMN in cells.obs else []
        judged = hold_out(embedding, batches, seed, k=k, among=hidden) if len(hidden) else held
        basis = {key: "hidden" if len(hidden) else "seen" if key in record["seen_labels"] else "unseen" for key in record["keys"]}
        transferred = transfer_columns(labels, judged.neighbors, levels)
        saved = {
            "seed": seed,
            "neighbors": k,
            "held_out": {"by": held.by, "n": len(held.rows)},
            "distances": _known(np.sort(distance_scores(held.neighbors))),
            "separations": held_out_separation(embedding, batches, seed).tolist(),
            "calibration": {
                key: _calibration(labels[key], given, judged, threshold, basis[key]) for key, given in transferred.items()
            },
            "levels": chains,
        }
    calibration = {key: saved["calibration"][key] for key in record["keys"]}
    write_json(out.record, record | {"n_latent": embedding.shape[1]} | saved | {"calibration": calibration, "levels": chains})


def _fits(saved: dict, keys: list[str], chains: list[list[str]], seed: int, threshold: float, k: int) -> bool:
    """Whether the scale that was saved with the cells is the one that is wanted: labels of one level hang on those of the others."""
    found = saved["calibration"]
    return (
        (saved["seed"], saved["neighbors"]) == (seed, k)
        and set(keys) <= set(found)
        and [chain for chain in saved["levels"] if not set(keys).isdisjoint(chain)] == chains
        and all(found[key] is None or found[key]["threshold"] == threshold for key in keys)
    )


def _known(scores: np.ndarray) -> list[float]:
    """The scores, none where a reference of one cell has no scale."""
    return scores.tolist() if np.isfinite(scores).all() else []


def _calibration(labels: pd.Series, given: Transfer, held: HeldOut, threshold: float, calibrated_on: str) -> dict | None:
    truth = labels.iloc[held.rows].astype(object).reset_index(drop=True)
    found = calibrate(truth, given, threshold)
    of_all = float((given.labels(threshold) == UNKNOWN).mean())
    return found and found | {"unknown_of_all": of_all, "by": held.by, "calibrated_on": calibrated_on}
