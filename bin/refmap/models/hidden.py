"""Cells whose labels were hidden from a reference in its training, so that it can be judged on them.

A model that learns from labels puts a cell whose label it saw where this label belongs, and so labels among a reference's own cells
are right more often than those of a query's. So when refmap trains such a model on a large atlas, some cells of each label and batch
train as cells without a label. They are drawn by :func:`draw_hidden`, and their names lie in `hidden_cells.json` as one of the model's
own files: its hash knows them, and whoever has the model, or one that surgery made of it, knows them too, wherever the reference's
cells come from. With their true labels they are reference cells like all others, to the cells of a query as well; how often
transferred labels are right is measured on them alone (:mod:`refmap.transfer.calibrate`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ..common.errors import RefmapError
from .folder import ModelFolder

HIDDEN = "hidden_cells.json"
# The column of obs that marks them where a reference's cells pass between steps.
HIDDEN_COLUMN = "refmap_label_hidden"
# A reference of 603 cells got 9 points worse for a fifth of its labels, of two of about 2,000 one lost a point and the other none.
FEWEST_LABELED = 2000
# Of a rarer label the model needs all that there are.
FEWEST_OF_LABEL = 10


def draw_hidden(
    obs: pd.DataFrame, labels_keys: list[str], batch_key: str, unlabeled: str, fraction: float, seed: int
) -> np.ndarray:
    """Draw the cells whose labels are hidden: bool, a cell.

    They are every 1 / `fraction`-th of the cells in the order of labels, batches and chance (systematic sampling): of each label of
    the first column, and within it of each batch, the fraction rounded up or down. None of fewer than FEWEST_LABELED labelled cells,
    and none that has in any column a label of fewer than FEWEST_OF_LABEL cells.

    Parameters
    ----------
    obs
        Of an aligned atlas: the label columns `labels_keys`, the main one first, with `unlabeled` where there is none, and the batches.
    fraction
        From 0 to 0.5, so that half of the cells of a label are shown at least, rounded down.
    """
    labels = [obs[key].astype(str).to_numpy(dtype=object) for key in labels_keys]
    labeled = np.any([values != unlabeled for values in labels], axis=0)
    hidden = np.zeros(len(obs), dtype=bool)
    if labeled.sum() < FEWEST_LABELED:
        return hidden
    drawn_from = labeled
    for values in labels:
        sizes = pd.Series(values).value_counts()
        drawn_from = drawn_from & ((values == unlabeled) | (sizes[values].to_numpy() >= FEWEST_OF_LABEL))
    rng = np.random.default_rng(seed)
    groups = [pd.factorize(values, sort=True)[0] for values in (*labels, obs[batch_key].astype(str))]
    order = np.lexsort((rng.random(len(obs)), *reversed(groups)))
    order = order[drawn_from[order]]
    passed = np.floor(np.arange(len(order) + 1) * fraction + rng.random())
    hidden[order[np.diff(passed) > 0]] = True
    return hidden


def hide(obs: pd.DataFrame, labels_keys: list[str], unlabeled: str, hidden: np.ndarray) -> None:
    """Take the labels of `hidden` cells (bool, a cell) out of the columns of `obs`, which are those of cells without one then."""
    for key in labels_keys:
        obs[key] = pd.Categorical(np.where(hidden, unlabeled, obs[key].astype(str).to_numpy(dtype=object)))


def write_hidden(folder: Path, names: pd.Index, fraction: float, seed: int) -> None:
    """Write the names of hidden cells beside a model's files, and how they were drawn."""
    (folder / HIDDEN).write_text(json.dumps({"fraction": fraction, "seed": seed, "cells": list(map(str, names))}) + "\n")


def hidden_among(names: Sequence[str], folder: ModelFolder) -> np.ndarray:
    """Which cells of these names were hidden from a model: bool, a cell; none where its folder says nothing of hidden cells.

    Raises RefmapError if what it says cannot be read.
    """
    if not folder.has(HIDDEN):
        return np.zeros(len(names), dtype=bool)
    try:
        hidden = json.loads((folder.path / HIDDEN).read_text(encoding="utf-8"))["cells"]
        whole = isinstance(hidden, list) and all(isinstance(name, str) for name in hidden)
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise RefmapError(
            f"{folder.show(HIDDEN)} is damaged: it should list under 'cells' those whose labels the model did not see; "
            "copy the model again."
        )
    return pd.Index(names, dtype="str").isin(hidden)


def seen_labels(card: dict) -> list[str]:
    """The columns whose labels a model's latent was shaped by, those of cells that are not hidden; not a hierarchy's on top of it."""
    own = card["hierarchy"]["below"]["labels"] if card["hierarchy"] else card["labels"]
    return list(own) if card["latent_of_labels"] else []


def carry_hidden(reference: ModelFolder, updated: Path) -> None:
    """Give a model that surgery made of a reference what the reference's folder says of hidden cells."""
    if reference.has(HIDDEN):
        shutil.copyfile(reference.path / HIDDEN, updated / HIDDEN)
