"""What a reference's cells say, beside the files of its model: made once, and what the next run needs to transfer labels."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from .. import __version__
from ..common.cli import read_json, write_json
from ..common.digest import sha256_of_all
from ..common.folders import ReferenceFolder, ReferenceProducts
from ..common.storage import add_to_zarr, read_numbered, write_zarr
from ..query.align import CHUNK_ROWS
from ..query.counts import normalize
from ..query.query import Query
from .sample import placed_rows

# What the profiles of a model of counts are the means of: log1p of counts scaled to this a cell.
TARGET_SUM = 1e4


def save_products(
    model: Path, card: dict, prepared: ReferenceFolder, latent: Path | None, scale: ReferenceFolder, out: Path
) -> None:
    """Write a model's folder again, with what the cells of its reference say beside its files.

    Parameters
    ----------
    model, card
        The folder, whose files stay as they are, and what is known of it.
    prepared, latent
        Its aligned cells, and their embedding (.npz) where these do not hold it.
    scale
        The cells with their embedding and UMAP, a sample with counts, and the scale that they set, as CALIBRATE_REFERENCE wrote them.
    out
        The folder to make.
    """
    shutil.copytree(model, out)
    products = ReferenceProducts.of_model(out)
    products.folder.mkdir()
    who = {"model_sha256": card["sha256"], "class_name": card["class_name"]}
    record = read_json(scale.record)
    shutil.copytree(scale.cells, products.cells)
    add_to_zarr(products.cells, uns={"refmap": who})
    digests = {"cells_sha256": sha256_of_all(products.cells)}
    if scale.sample.exists():
        shutil.copytree(scale.sample, products.sample)
        digests["sample_sha256"] = sha256_of_all(products.sample)
    write_json(products.record, record | who | digests | {"version": __version__})
    if latent and prepared.aligned.exists():
        _write_profiles(prepared.aligned, read_numbered(scale.cells).obs, placed_rows(latent), record["keys"], card, products)


def _write_profiles(
    aligned: Path, cells: pd.DataFrame, placed: np.ndarray, keys: list[str], card: dict, products: ReferenceProducts
) -> None:
    """Write the mean of each label, in one pass over the aligned cells, of which `placed` are the rows of `cells`, their obs."""
    labels = [(key, name) for key in keys for name in cells[key].cat.categories]
    codes = {key: cells[key].cat.codes.to_numpy() for key in keys}
    members = [(codes[key], number) for key in keys for number in range(len(cells[key].cat.categories))]
    sums = np.zeros((len(labels), len(card["genes"])))
    with Query(aligned, "the aligned reference", called="reference") as query:
        for start, chunk in query.matrix("X").chunks(CHUNK_ROWS):
            first, last = np.searchsorted(placed, [start, start + chunk.shape[0]])
            chunk = chunk[placed[first:last] - start]
            if card["input"] == "counts":
                chunk = normalize(chunk, np.asarray(chunk.sum(axis=1, dtype=np.float64)).ravel(), TARGET_SUM)
            if labels:
                of_label = sparse.csr_matrix([of[first:last] == number for of, number in members], dtype=np.float64)
                sums += of_label.dot(chunk).toarray()
    n_cells = np.array([np.count_nonzero(of == number) for of, number in members], dtype=np.int64)
    obs = pd.DataFrame(
        {"key": [key for key, _ in labels], "label": [name for _, name in labels], "n_cells": n_cells},
        index=pd.Index([f"{key}: {name}" for key, name in labels], dtype=object),
    )
    values = (
        f"log1p of counts per {TARGET_SUM:,.0f} of the model's genes" if card["input"] == "counts" else "as the model takes them"
    )
    means = (sums / np.maximum(n_cells, 1)[:, None]).astype(np.float32)
    genes = pd.DataFrame(index=pd.Index(card["genes"], dtype=object))
    write_zarr(ad.AnnData(means, obs=obs, var=genes, uns={"values": values}), products.profiles)


def saved_products(model: Path | None, card: dict) -> tuple[ReferenceProducts | None, dict | None, list[str]]:
    """Find what lies beside a model's files of its reference's cells.

    Returns
    -------
    The folder, if it holds the cells of this very model; the scale that they set, if it can be read; and warnings.
    """
    products = ReferenceProducts.of_model(model) if model else None
    if not products or not products.folder.is_dir():
        return None, None, []
    shown = f"{card['model']}/{products.folder.name}"
    try:
        record = read_json(products.record)
        of_this, whole = record["model_sha256"] == card["sha256"], record["cells_sha256"] == sha256_of_all(products.cells)
    except (OSError, ValueError, TypeError, KeyError):
        wrong = f"its {products.record.name} is missing or damaged, so train the reference again"
    else:
        wrong = None
        if not of_this:
            wrong = "it holds the reference cells of another model, or this one changed since"
        elif not whole:
            wrong = f"{products.cells.name} in it is not what was written there: copy the model again"
    if wrong:
        return None, None, [f"{shown} is not used: {wrong}."]
    if not _is_scale(record):
        return products, None, [f"The scale in {shown}/{products.record.name} is damaged: it was computed again."]
    # An older refmap transferred each column by itself
    return products, {name: record[name] for name in _SCALE} | {"levels": record.get("levels", [])}, []


def saved_sample(products: ReferenceProducts, shown: str) -> tuple[Path | None, list[str]]:
    """The sample of cells with counts that was kept with them, if it is what was written there; and warnings."""
    if not products.sample.is_dir():
        return None, []
    if read_json(products.record).get("sample_sha256") == sha256_of_all(products.sample):
        return products.sample, []
    return None, [f"{shown}/{products.sample.name} is not used: it is not what was written there, so copy the model again."]


# What the record says of the scale, and of what it was computed with.
_SCALE = ("seed", "neighbors", "held_out", "distances", "separations", "calibration")


def _is_scale(record: dict) -> bool:
    """Whether a record, which anybody may have written, holds a scale."""
    try:
        held, calibration = record["held_out"], record["calibration"]
        return (
            all(isinstance(record[name], int) for name in ("seed", "neighbors"))
            and held["by"] in ("batch", "cell")
            and isinstance(held["n"], int)
            and all(map(_are_scores, (record["distances"], record["separations"])))
            and all(found is None or _is_calibration(found) for found in calibration.values())
            and all(isinstance(key, str) for chain in record.get("levels", []) for key in chain)
        )
    except (AttributeError, KeyError, TypeError):
        return False


def _are_scores(values: object) -> bool:
    numbers = isinstance(values, list) and all(type(value) in (int, float) and math.isfinite(value) for value in values)
    return numbers and values == sorted(values)


def _is_calibration(found: dict) -> bool:
    bins = [part[name] for part in found["bins"] for name in ("low", "high", "n", "confidence", "accuracy")]
    shares = [found[name] for name in ("n", "n_foreign", "threshold", "accuracy", "unknown_share", "unknown_of_all", "ece")]
    kept = [found[name] for name in ("accuracy_kept", "accuracy_unknown") if found[name] is not None]
    numbers = all(type(value) in (int, float) and math.isfinite(value) for value in [*bins, *shares, *kept])
    return numbers and found["by"] in ("batch", "cell") and found["calibrated_on"] in ("hidden", "seen", "unseen")
