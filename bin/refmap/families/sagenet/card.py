"""The card of a SageNet model, from its inert files."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...common.errors import RefmapError
from ...models.card import ModelCard, texts
from ...models.folder import ModelFolder
from ...models.pickles import Inert, Named, Tensor
from .files import DESCRIPTION, GRAPH, PICKLE, TENSORS, Partition, columns_of_stems, read_description, stems_of_library

NO_SURGERY = (
    "SageNet has no surgery: nothing is trained, the query is classified as it is, and a batch effect that sets it apart from "
    "the reference stays."
)


def is_sagenet(folder: ModelFolder) -> bool:
    return folder.has(DESCRIPTION) or any(_is_network(folder.value(stem + PICKLE)) for stem in stems_of_library(folder))


def sagenet_card(folder: ModelFolder) -> ModelCard:
    """Raises `RefmapError` for a model that is incomplete, or that does not say what its genes are."""
    card = _card_of_refmaps(folder) if folder.has(DESCRIPTION) else _card_of_librarys(folder)
    card.class_name, card.input, card.predicts, card.learns_labels = "SageNet", "lognorm", True, False
    card.latent_of_labels = True
    card.latent_names = [f"{column}: {label}" for column, labels in card.labels.items() for label in labels]
    card.n_latent = len(card.latent_names)
    card.warnings.append(NO_SURGERY)
    return card


def _card_of_refmaps(folder: ModelFolder) -> ModelCard:
    description = read_description(folder)
    for partition in description.partitions:
        _check_sizes(folder, partition, len(description.genes))
    _check_places(folder, description.partitions)
    return ModelCard(
        model=folder.shown,
        version=description.version,
        genes=description.genes,
        normalization=description.normalization,
        labels={partition.column: partition.labels for partition in description.partitions},
        unlabeled_category=description.unlabeled_category,
    )


def _check_sizes(folder: ModelFolder, partition: Partition, n_genes: int) -> None:
    """Raise `RefmapError` unless the last layer has a class a label, and takes what the genes give."""
    weight = folder.value(TENSORS, partition.column, "weights", "last_layer_FC.weight")
    edges = folder.value(TENSORS, partition.column, "edges")
    features = (partition.hidden_dense or [n_genes * (partition.hidden_graph or [1])[-1]])[-1]
    shapes = [tensor.shape if isinstance(tensor, Tensor) else () for tensor in (weight, edges)]
    if shapes[0] != (len(partition.labels), features) or len(shapes[1]) != 2:
        raise RefmapError(
            f"{folder.show(TENSORS)} does not fit {DESCRIPTION}: for '{partition.column}' it lacks a graph or weights for "
            f"{len(partition.labels)} labels and {n_genes} genes; copy the model again."
        )
    importance = folder.value(TENSORS, partition.column, "importance")
    if importance and not (isinstance(importance, Tensor) and importance.shape == (len(partition.labels), n_genes)):
        raise RefmapError(
            f"{folder.show(TENSORS)} does not fit {DESCRIPTION}: the importance of the genes for '{partition.column}' is not one of "
            f"{len(partition.labels)} labels x {n_genes} genes; copy the model again."
        )


def _check_places(folder: ModelFolder, partitions: list[Partition]) -> None:
    """Raise `RefmapError` unless each label that has a place has one in the coordinates of its section."""
    dimensions: dict[str, int] = {}
    for partition in partitions:
        if not partition.places:
            continue
        try:
            places = np.array(partition.places, dtype=float)
        except (ValueError, TypeError):
            places = np.empty(0)
        of_section = dimensions.setdefault(str(partition.section), places.shape[-1])
        if places.shape != (len(partition.labels), of_section) or not np.isfinite(places).all():
            raise RefmapError(
                f"{folder.show(DESCRIPTION)} is damaged: the 'places' of '{partition.column}' are not as many numbers for each of "
                f"its {len(partition.labels)} labels as the section has coordinates; copy the model again."
            )


def _card_of_librarys(folder: ModelFolder) -> ModelCard:
    """The library's files say how many genes and classes there are; what they are stands in `refmap.yaml`."""
    stems = stems_of_library(folder)
    genes, labels = texts(folder.facts.get("genes")), folder.facts.get("labels", {})
    if not genes:
        raise RefmapError(
            f"{folder.shown} holds a SageNet model as the library saves it, without the names of its genes: "
            "list them in order as 'genes' in a file refmap.yaml beside it, and the labels' names, by column, as 'labels'."
        )
    columns = columns_of_stems(stems, list(labels))
    if len(set(columns.values())) < len(stems):
        raise RefmapError(
            f"{folder.shown} holds more than one network for a column of 'labels' in its refmap.yaml: name the columns there "
            f"as the files are named, {', '.join(stems)}."
        )
    unknown = sorted(set(labels) - set(columns.values()))
    if unknown:
        raise RefmapError(
            f"{folder.shown}/refmap.yaml has 'labels' for '{unknown[0]}', for which there is no network: "
            f"there are {', '.join(stem + PICKLE for stem in stems)}."
        )
    unnamed = [stem for stem, column in columns.items() if column not in labels]
    if labels and unnamed:
        raise RefmapError(
            f"{folder.shown}/refmap.yaml has no 'labels' for the network {unnamed[0]}{PICKLE}: name those of all networks, or none."
        )
    card = ModelCard(model=folder.shown, genes=genes)
    for stem, column in columns.items():
        n_genes, n_classes = _sizes(folder, stem)
        card.labels[column] = texts(labels.get(column, range(n_classes)))
        if n_genes != len(genes):
            raise RefmapError(
                f"{folder.shown}/refmap.yaml lists {len(genes)} genes, but {stem}{PICKLE} was trained on {n_genes}."
            )
        if n_classes != len(card.labels[column]):
            raise RefmapError(
                f"{folder.shown}/refmap.yaml names {len(card.labels[column])} labels for '{column}', but {stem}{PICKLE} has "
                f"{n_classes} classes: name them in the order of their numbers."
            )
    if not labels:
        card.warnings.append(
            f"{folder.shown} does not say what its classes are: they stay numbers, unless refmap.yaml beside it names them as "
            "'labels', by column."
        )
    return card


def _is_network(value: Any) -> bool:
    return isinstance(value, Inert) and isinstance(value.made_by, Named) and "sagenet" in value.made_by.module


def _sizes(folder: ModelFolder, stem: str) -> tuple[int, int]:
    """The numbers of genes and of classes of a network that the library saved."""
    network = folder.value(stem + PICKLE)
    state = network.state if _is_network(network) and isinstance(network.state, dict) else {}
    sizes = state.get("n_features"), state.get("n_classes")
    if not all(isinstance(size, (int, np.integer)) for size in sizes):
        raise RefmapError(f"{folder.show(stem + PICKLE)} is no network of SageNet beside its graph {stem}{GRAPH}: copy it again.")
    return sizes
