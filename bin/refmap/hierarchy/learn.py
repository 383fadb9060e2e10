"""Learn a hierarchy from the labels of a reference's cells, and put it into the folder of its model."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..common.cli import remove
from ..common.errors import RefmapError
from ..common.storage import read_zarr
from . import BASE, split_options
from .classifier import ROOT_OF_QUERY, Classifier, Settings, merge
from .files import Hierarchy, labelled_cells
from .tree import Label, Node

REFERENCE = "reference"


def learn_hierarchy(model: Path, embedding: Path, parameters: dict, out: Path, log: Callable = print) -> Hierarchy:
    """Copy a reference's folder and add a hierarchy of its cell types.

    Parameters
    ----------
    model
        The folder of the trained reference.
    embedding
        Its cells, AnnData zarr: obsm ``X_emb`` (cells x latent dimensions), obs with the columns of labels and batches.
    parameters
        The pipeline's: ``reference_labels_key``, of which the first is taken, ``reference_batch_key``,
        ``reference_unlabeled_category`` and ``reference_options``.
    out
        The folder to write.

    Raises
    ------
    RefmapError
        If there is no label with enough cells, or the latent holds values that are no numbers.
    """
    cells = read_zarr(embedding)
    latent = np.asarray(cells.obsm["X_emb"], dtype=np.float32)
    options, _ = split_options(parameters["reference_options"])
    by_batch = options["by_batch"]
    settings = Settings(**{name: value for name, value in options.items() if name not in (BASE, "by_batch")})
    key, unlabeled = parameters["reference_labels_key"].split(";")[0].strip(), parameters["reference_unlabeled_category"]
    datasets = cells.obs[parameters["reference_batch_key"]].astype(str) if by_batch else [REFERENCE] * cells.n_obs
    names = cells.obs[key].astype(object)
    labels = [
        None if missing else Label(dataset, str(name))
        for dataset, name, missing in zip(datasets, names, names.isna() | names.isin(["", unlabeled]))
    ]
    if not np.isfinite(latent).all():
        raise RefmapError("The embedding of the reference holds values that are no numbers: train it for fewer epochs.")

    kept, few = enough(labels, settings.least_cells)
    notes = [about_few(few, settings.least_cells, "the reference")] if few else []
    if not len(kept):
        raise RefmapError(
            f"--family treearches found no label in '{key}' with {settings.least_cells} cells or more: "
            "name another column by --reference_labels_key, or give more cells."
        )
    latent, labels, names = latent[kept], [labels[i] for i in kept], cells.obs_names[kept]
    order = [
        dataset for dataset, _ in sorted(Counter(label.dataset for label in labels).items(), key=lambda item: (-item[1], item[0]))
    ]
    tree, placed = _in_turn(latent, labels, order, settings)
    if lost := sorted({labels[i] for i in np.flatnonzero(~placed)}):
        notes.append(
            "Not placed in the hierarchy, because scHPL could not match them: "
            + ", ".join(f"'{label.name}' of '{label.dataset}'" for label in lost)
            + "."
        )
    latent, labels, names = latent[placed], [labels[i] for i in np.flatnonzero(placed)], names[placed]
    hierarchy = Hierarchy(key, unlabeled, order, settings, tree, latent.shape[1], dict(sorted(Counter(labels).items())), notes)
    for note in notes:
        log(note)
    log(f"a hierarchy of {len(hierarchy.nodes())} cell types, learned from {len(labels):,} cells with labels in '{key}'")

    remove(out)
    shutil.copytree(model, out)
    hierarchy.write(out, labelled_cells(latent, labels, names))
    return hierarchy


def _in_turn(latent: np.ndarray, labels: list[Label], order: list[str], settings: Settings) -> tuple[Node, np.ndarray]:
    """Learn from one dataset after the other: the tree, and which cells have a label that stands in it."""
    dataset_of = np.array([label.dataset for label in labels], dtype=object)

    def of(cells: np.ndarray) -> tuple[np.ndarray, list[Label]]:
        return latent[cells], [labels[i] for i in np.flatnonzero(cells)]

    placed = dataset_of == order[0]
    tree = Node.flat(of(placed)[1])
    for dataset in order[1:]:
        new = dataset_of == dataset
        tree, _ = add_dataset(Classifier(tree, *of(placed), settings), *of(new))
        placed |= new & in_tree(tree, labels)
    return tree, placed


def add_dataset(reference: Classifier, latent: np.ndarray, labels: list[Label]) -> tuple[Node, list[Label | None]]:
    """Match the labels of further cells (cells x latent dimensions) to a tree, and return what `merge` does."""
    flat = Classifier(Node.flat(labels), latent, labels, reference.settings, ROOT_OF_QUERY)
    return merge(reference, flat)


def in_tree(tree: Node, labels: list[Label]) -> np.ndarray:
    """Which of the labels stand in the tree."""
    known = {label for node in tree.walk() for label in node.labels}
    return np.array([label in known for label in labels], dtype=bool)


def enough(labels: list[Label | None], least: int) -> tuple[np.ndarray, dict[Label, int]]:
    """The indices of the cells whose label has at least `least` cells, and the labels that have fewer, with their cells."""
    counts = Counter(label for label in labels if label is not None)
    few = {label: n for label, n in sorted(counts.items()) if n < least}
    return np.array([i for i, label in enumerate(labels) if counts.get(label, 0) >= least], dtype=int), few


def about_few(few: dict[Label, int], least: int, whose: str) -> str:
    """A sentence about labels that are left out."""
    several = len({label.dataset for label in few}) > 1
    named = ", ".join(f"'{label.name}'" + f" of '{label.dataset}'" * several + f" ({n})" for label, n in few.items())
    return f"Labels of {whose} with fewer than {least} cells are left out of the hierarchy: {named}."
