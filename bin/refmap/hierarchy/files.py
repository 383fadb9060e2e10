"""The hierarchy in a model's folder: `hierarchy/hierarchy.json` and `hierarchy/cells.zarr`.

Nothing in it is a program: the classifiers are fitted again from the cells, the same ones each time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..common.cli import remove
from ..common.errors import RefmapError
from .classifier import Settings
from .tree import Label, Node, check_tree, unique_names

if TYPE_CHECKING:
    import anndata as ad

    from ..models.folder import ModelFolder

FOLDER, TREE, CELLS = "hierarchy", "hierarchy.json", "cells.zarr"
FORMAT = 1


@dataclass
class Hierarchy:
    """A tree of cell types and what it was learned from.

    Attributes
    ----------
    labels_key
        The column of obs that its labels come from.
    unlabeled_category
        What stands there where there is no label; None where nothing does.
    datasets
        Names of the labelled datasets, in the order in which they came in.
    settings
        How its classifiers are fitted.
    tree
        Its root.
    n_latent
        The dimensions of the latent space that it lives in.
    n_cells
        The labelled cells, by label.
    notes
        Sentences about the learning, for the user.
    """

    labels_key: str
    unlabeled_category: str | None
    datasets: list[str]
    settings: Settings
    tree: Node
    n_latent: int
    n_cells: dict[Label, int]
    notes: list[str] = field(default_factory=list)

    @property
    def names(self) -> dict[Label, str]:
        """The name of each node, by its first label."""
        return unique_names(self.tree, self.datasets)

    def nodes(self) -> dict[str, Node]:
        """All nodes but the root, by name, parents before their children."""
        names = self.names
        return {node.name(names): node for node in self.tree.walk() if node is not self.tree}

    def write(self, folder: Path, cells: ad.AnnData) -> None:
        """Write the files to a model's folder; `cells` as `read_cells` gives them."""
        from ..common.storage import write_zarr

        place = folder / FOLDER
        remove(place)
        place.mkdir()
        value = {
            "format": FORMAT,
            "labels_key": self.labels_key,
            "unlabeled_category": self.unlabeled_category,
            "datasets": self.datasets,
            "settings": asdict(self.settings),
            "n_latent": self.n_latent,
            "n_cells": [{**label._asdict(), "cells": n} for label, n in self.n_cells.items()],
            "notes": self.notes,
            "tree": self.tree.to_json(self.names),
        }
        (place / TREE).write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        write_zarr(cells, place / CELLS)


def read_hierarchy(folder: ModelFolder) -> Hierarchy | None:
    """The hierarchy in a model's folder; None where there is none.

    Raises
    ------
    RefmapError
        If its file is damaged, of a later format, or its cells are missing.
    """
    name = f"{FOLDER}/{TREE}"
    if not folder.has(name):
        return None
    shown = folder.show(name)
    try:
        value = json.loads((folder.path / name).read_text(encoding="utf-8"))
        if value["format"] != FORMAT:
            raise RefmapError(
                f"{shown} is of format {value['format']}, and this version of refmap reads {FORMAT}: update refmap."
            )
        hierarchy = Hierarchy(
            labels_key=value["labels_key"],
            unlabeled_category=value["unlabeled_category"],
            datasets=value["datasets"],
            settings=Settings(**value["settings"]),
            tree=Node.from_json(value["tree"]),
            n_latent=value["n_latent"],
            n_cells={Label(item["dataset"], item["name"]): item["cells"] for item in value["n_cells"]},
            notes=value["notes"],
        )
        check_tree(hierarchy.tree, hierarchy.datasets, shown)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise RefmapError(f"{shown} is damaged ({error!r}): learn the hierarchy again, or leave its folder out.") from None
    if not folder.has(f"{FOLDER}/{CELLS}/.zgroup"):
        raise RefmapError(f"{shown} has no cells beside it: copy {FOLDER}/{CELLS} too, or leave the folder out.")
    return hierarchy


def labelled_cells(latent: np.ndarray, labels: list[Label], names: Iterable[str]) -> ad.AnnData:
    """Cells (cells x latent dimensions) with their labels as `read_cells` gives them; a cell is called ``<dataset>/<name>``."""
    import anndata as ad

    obs = pd.DataFrame(
        {key: pd.Categorical(values) for key, values in zip(("dataset", "label"), zip(*labels))},
        index=pd.Index([f"{label.dataset}/{name}" for label, name in zip(labels, names)], dtype=object),
    )
    return ad.AnnData(obs=obs, obsm={"X_emb": np.asarray(latent, dtype=np.float32)})


def labels_of(cells: ad.AnnData) -> list[Label]:
    """The label of each of the cells that `read_cells` gives."""
    return [Label(str(dataset), str(name)) for dataset, name in zip(cells.obs["dataset"], cells.obs["label"])]


def read_cells(model: Path) -> ad.AnnData:
    """The cells that a model's hierarchy was learned from: obsm ``X_emb`` (cells x latent dimensions), obs ``label`` and ``dataset``."""
    import anndata as ad

    return ad.read_zarr(model / FOLDER / CELLS)


def card_of(folder: ModelFolder) -> dict | None:
    """What a model's card says of the hierarchy in its folder; None where there is none.

    ``labels_key``, ``unlabeled_category``, ``labels`` (the names of its nodes, parents first, then what else means one of them), ``datasets``, ``n_cells``, ``n_latent`` and
    ``notes``. Raises RefmapError as `read_hierarchy` does.
    """
    hierarchy = read_hierarchy(folder)
    if hierarchy is None:
        return None
    return {
        "labels_key": hierarchy.labels_key,
        "unlabeled_category": hierarchy.unlabeled_category,
        "labels": list(dict.fromkeys([*hierarchy.nodes(), *(label.name for label in hierarchy.n_cells)])),
        "datasets": hierarchy.datasets,
        "n_cells": sum(hierarchy.n_cells.values()),
        "n_latent": hierarchy.n_latent,
        "notes": hierarchy.notes,
    }
