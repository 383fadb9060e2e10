"""Map a query onto a SageNet reference: no training, a forward pass through each partition's network."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ...common.errors import RefmapError
from ...models.card import texts
from ...models.folder import ModelFolder
from .. import freezing
from ..base import Prediction, Settings, Surgery
from ..scarches.loading import quietly
from .distances import spatial_distances
from .files import DESCRIPTION, TENSORS, Description, columns_of_stems, read_description, stems_of_library
from .networks import Classifier, load_librarys, restore, uncertainty

if TYPE_CHECKING:
    import anndata as ad
    import torch

# Genes of each label in the table of their importance.
MOST_GENES = 30


@dataclass
class SagenetSurgery(Surgery):
    """The reference's networks, and the query that they classify.

    SageNet has no latent space. What stands for it are the probabilities of all labels, partition after partition: what the
    model knows of a cell, in a form in which near cells are alike.

    It runs on the CPU, as the library does unless told otherwise: on a GPU, sums over a graph's edges differ from run to run.
    """

    classifiers: list[Classifier]
    reference: dict[str, torch.Tensor]  # its tensors, as they were in its files
    description: Description
    query: ad.AnnData
    settings: Settings
    warnings: list[str] = field(default_factory=list)
    untrained = None
    holds_facts = True
    device: str = "cpu"
    parameters_trainable: int = 0

    @classmethod
    def prepare(cls, path: Path, query: ad.AnnData, card: dict, settings: Settings) -> SagenetSurgery:
        """Load the networks. Raises `RefmapError` where they cannot be loaded."""
        with quietly():
            classifiers = _load(path, card)
        description = Description(
            genes=card["genes"],
            partitions=[classifier.partition for classifier in classifiers],
            normalization=card["normalization"],
            unlabeled_category=card["unlabeled_category"] or "Unknown",
            version=cls.versions()["scarches"],
        )
        reference = {name: tensor.clone() for name, tensor in _tensors(classifiers).items()}
        return cls(classifiers, reference, description, query, settings)

    @property
    def parameters_total(self) -> int:
        return sum(p.numel() for classifier in self.classifiers for p in classifier.network.parameters())

    @cached_property
    def probabilities(self) -> list[np.ndarray]:
        """For each partition, the probabilities of its labels: cells x labels, float64."""
        return [classifier.probabilities(self.query.X) for classifier in self.classifiers]

    def embed(self) -> np.ndarray:
        """The probabilities of all partitions side by side: cells x labels of all partitions."""
        return np.concatenate(self.probabilities, axis=1).astype(np.float32)

    def predict(self) -> dict[str, Prediction]:
        """The most probable label of each partition; the uncertainty is the library's, the entropy scaled to 0 to 1."""
        found = {}
        for classifier, values in zip(self.classifiers, self.probabilities):
            labels = classifier.partition.labels
            best = np.array(labels, dtype=object)[values.argmax(axis=1)]
            entropy = uncertainty(values).astype(np.float32)
            found[classifier.partition.column] = Prediction(labels, best, entropy, values.astype(np.float32))
        return found

    def places(self) -> dict[str, np.ndarray]:
        """Where cells lie in each section of the reference's tissue: float32, cells x coordinates.

        The mean of the partitions' places by their probabilities, then of the ways that the section was cut; under
        ``spatial_predicted``, and of several sections ``spatial_predicted@<section>``. None of a reference that was not cut by
        coordinates.
        """
        found: dict[str, list[np.ndarray]] = {}
        for classifier, values in zip(self.classifiers, self.probabilities, strict=True):
            partition = classifier.partition
            if partition.places:
                name = "spatial_predicted" + (f"@{partition.section}" if partition.section is not None else "")
                found.setdefault(name, []).append(values @ np.array(partition.places, dtype=float))
        return {name: np.mean(ways, axis=0).astype(np.float32) for name, ways in found.items()}

    def annotate(self, result: ad.AnnData) -> None:
        """Add where the cells lie in the reference's tissue, and ``obsp["spatial_distances"]`` where it was asked for."""
        result.obsm.update(self.places())
        options = self.settings.options
        if not options.get("distance_map"):
            return
        neighbors = None
        if self.query.n_obs > options["distance_map_cells"]:
            neighbors = options["distance_map_neighbors"]
            self.warnings.append(
                f"With more than {options['distance_map_cells']:,} cells, obsp['spatial_distances'] keeps for each cell its "
                f"distances to the {neighbors} nearest alone: raise the option distance_map_cells to keep all."
            )
        result.obsp["spatial_distances"] = spatial_distances(self._for_distances(), neighbors)

    def write_results(self, folder: Path) -> None:
        """Write `gene_importance.csv`: the genes that speak most for or against each label, the strongest first."""
        rows = []
        for classifier in self.classifiers:
            if classifier.importance is None:
                continue
            for label, values in zip(classifier.partition.labels, classifier.importance, strict=True):
                order = np.argsort(-np.abs(values), kind="stable")[:MOST_GENES]
                genes = np.array(self.description.genes, dtype=object)[order]
                names = {"partition": classifier.partition.column, "label": label}
                rows.append(pd.DataFrame({**names, "gene": genes, "importance": values[order]}))
        if rows:
            pd.concat(rows, ignore_index=True).to_csv(folder / "gene_importance.csv", index=False)

    def _for_distances(self) -> list[np.ndarray]:
        """What is compared between cells: the less certain a cell, the more of a label drawn from its probabilities."""
        from scarches.models.sagenet.utils import multinomial_rvs

        np.random.seed(self.settings.seed)
        mixed = []
        for values in self.probabilities:
            share = uncertainty(values)[:, None]
            mixed.append(multinomial_rvs(1, values) * share + values * (1 - share))
        return mixed

    def save(self, folder: Path) -> None:
        """Write the model, which is the reference's, in refmap's files."""
        save(folder, self.description, self.classifiers)

    def frozen_sha256(self) -> str:
        return freezing.sha256(_tensors(self.classifiers))

    @staticmethod
    def versions() -> dict[str, str]:
        return freezing.versions("scarches", "torch", "torch-geometric", "scikit-learn", "numpy")


def save(folder: Path, description: Description, classifiers: list[Classifier]) -> None:
    """Write a model in refmap's files (see :mod:`.files`)."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    description.write(folder)
    tensors = {}
    for classifier in classifiers:
        held = {"edges": classifier.edges, "weights": classifier.network.state_dict()}
        if classifier.importance is not None:
            held["importance"] = torch.from_numpy(classifier.importance)
        tensors[classifier.partition.column] = held
    torch.save(tensors, folder / TENSORS)


def _load(path: Path, card: dict) -> list[Classifier]:
    import torch

    folder = ModelFolder(path, card["model"])
    if folder.has(DESCRIPTION):
        partitions = read_description(folder).partitions
        tensors = torch.load(path / TENSORS, map_location="cpu", weights_only=True)
        return [restore(partition, len(card["genes"]), tensors[partition.column]) for partition in partitions]
    if not card["trusted"]:
        raise RefmapError(
            f"{card['model']} holds whole networks as pickles: if you know where it comes from, allow --trust_models."
        )
    columns = columns_of_stems(stems_of_library(folder), list(card["labels"]))
    return [load_librarys(path, stem, column, texts(card["labels"][column])) for stem, column in columns.items()]


def _tensors(classifiers: list[Classifier]) -> dict[str, torch.Tensor]:
    """All that the reference's networks hold, by name; the graphs are part of it."""
    tensors = {}
    for classifier in classifiers:
        column = classifier.partition.column
        tensors[f"{column} edges"] = classifier.edges
        tensors |= {f"{column} {name}": tensor for name, tensor in classifier.network.state_dict().items()}
    return tensors
