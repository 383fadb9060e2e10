"""SageNet, spatial mapping by graphs of genes (Heidari et al. 2022, https://doi.org/10.1101/2022.04.14.488419)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ...models.card import ModelCard
from ...models.folder import ModelFolder
from ..base import Family, Trainable
from ..options import Option
from .card import is_sagenet, sagenet_card

if TYPE_CHECKING:
    import anndata as ad

    from .surgery import SagenetSurgery


class SagenetFamily(Family):
    name = "sagenet"
    env = "scarches"
    options = {
        "distance_map": Option("flag", False, "Whether the spatial distances between the query's cells are reconstructed."),
        "distance_map_cells": Option("int", 2000, "Up to this many cells the distances of all pairs are kept.", least=1),
        "distance_map_neighbors": Option("int", 30, "With more cells, how many of the nearest are kept of each.", least=1),
    }
    trains = {
        "sagenet": Trainable(
            needs=(("reference_labels_key", "reference_spatial_key"),),
            has_latent=False,
            spatial=True,
            options={
                "resolutions": Option(
                    "text",
                    "0.05,0.1,0.5",
                    "With `--reference_spatial_key`, the resolutions at which the tissue is cut into partitions, parted by commas: "
                    "the higher, the more partitions.",
                ),
                "graph": Option(
                    "text",
                    "glasso",
                    "How the graph of the genes is found: by the graphical lasso, or by joining the most correlated genes.",
                    choices=("glasso", "correlation"),
                ),
                "glasso_genes": Option("int", 500, "The most genes that the graphical lasso is tried on.", least=2),
                "glasso_alphas": Option("int", 5, "How many penalties the graphical lasso tries at a time.", least=1),
                "graph_neighbors": Option("int", 5, "How many genes correlation joins each gene to.", least=1),
                "network": Option(
                    "text",
                    "TransformerConv",
                    "The kind of graph convolution.",
                    choices=("TransformerConv", "GraphSAGE", "GATConv", "GraphConv"),
                ),
                "n_hidden": Option("int", 8, "Features of each gene in the hidden layer.", least=1),
                "importance_cells": Option(
                    "int", 20, "Of how many cells of each label the importance of the genes is measured; 0: it is not.", least=0
                ),
                "batch_size": Option("int", 32, "Cells in one step of training.", least=1),
            },
            input=lambda options: "lognorm",
        )
    }

    def recognise(self, folder: ModelFolder) -> bool:
        return is_sagenet(folder)

    def card(self, folder: ModelFolder) -> ModelCard:
        return sagenet_card(folder)

    def surgery(self) -> type[SagenetSurgery]:
        from .surgery import SagenetSurgery

        return SagenetSurgery

    def train_reference(self, reference: ad.AnnData, settings: dict, folder: Path, log: Callable = print) -> None:
        from .reference import train_reference

        train_reference(reference, settings, folder, log)
