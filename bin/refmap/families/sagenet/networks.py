"""SageNet's networks: made from a description, or loaded from the library's files, and run on many cells at once.

The library (scarches 0.6.1) maps a query cell by cell, makes a graph of its own for each, and wants a dense matrix. Here
blocks of cells share one graph without an edge between cells, and only a block is ever dense.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import entr

from ...common.errors import RefmapError
from .files import GRAPH, PICKLE, Partition

if TYPE_CHECKING:
    import torch
    from scipy import sparse

# The classes of the networks that the library makes.
NETWORKS = (
    "NN", "GraphSAGE", "ChebNet", "GATConvNet", "GENConvNet", "GINConv", "GraphConv", "MFConv", "TransformerConv", "ConvNet",
)  # fmt: skip
# The library's name of a class, where it is not that of the convolution.
CLASS_OF = {"GATConv": "GATConvNet"}
# About how many numbers a block of cells may take in the widest layer: 64 MiB of float32.
BLOCK_NUMBERS = 1 << 24


@dataclass
class Classifier:
    """One partition's network with the graph of the genes that it runs on (2 x edges)."""

    partition: Partition
    network: torch.nn.Module
    edges: torch.Tensor
    importance: np.ndarray | None = None  # of the genes for each label: float32, labels x genes

    @property
    def n_genes(self) -> int:
        return self.network.n_features

    def logits(self, x: sparse.csr_matrix) -> torch.Tensor:
        """The network's answer for cells x genes: cells x labels."""
        import torch

        return self._answer(torch.from_numpy(np.ascontiguousarray(x.toarray(), dtype=np.float32)))

    def _answer(self, values: torch.Tensor) -> torch.Tensor:
        return self.network(values.reshape(-1, 1), self._edges_of(len(values)))

    def gene_importance(self, x: sparse.csr_matrix, numbers: np.ndarray, n_steps: int) -> np.ndarray:
        """How much each gene speaks for each label, by integrated gradients: float32, labels x genes.

        Sundararajan, Taly & Yan 2017, arXiv:1703.01365, by captum, from cells without any expression on. As in the library each
        cell's gradients are scaled to a norm of one; here their mean over a label's cells is taken and not their sum, so that
        labels compare. Negative: the gene speaks against the label.

        Parameters
        ----------
        x
            Cells x genes, as the network takes them.
        numbers
            The number of each cell's label; a label without cells has zeros.
        n_steps
            How many steps the gradients are integrated over.
        """
        import torch
        from captum.attr import IntegratedGradients

        self.network.eval()
        found = np.zeros((len(self.partition.labels), self.n_genes))
        for block in self._blocks(x.shape[0]):
            values = torch.from_numpy(np.ascontiguousarray(x[block].toarray(), dtype=np.float32))
            targets = torch.from_numpy(numbers[block])
            integrated = IntegratedGradients(self._answer).attribute(
                values, target=targets, n_steps=n_steps, internal_batch_size=len(values)
            )
            gradients = integrated.detach().numpy()
            norms = np.linalg.norm(gradients, axis=1, keepdims=True)
            np.add.at(found, numbers[block], np.divide(gradients, norms, out=np.zeros_like(gradients), where=norms > 0))
        return (found / np.maximum(np.bincount(numbers, minlength=len(found)), 1)[:, None]).astype(np.float32)

    def _edges_of(self, n_cells: int) -> torch.Tensor:
        """The graph once a cell, without an edge between cells."""
        import torch

        first = torch.arange(n_cells) * self.n_genes
        return (self.edges[:, None, :] + first[None, :, None]).reshape(2, -1)

    def probabilities(self, x: sparse.csr_matrix) -> np.ndarray:
        """The probabilities of the labels: cells x labels, float64."""
        import torch

        self.network.eval()
        found = np.empty((x.shape[0], len(self.partition.labels)))
        with torch.no_grad():
            for block in self._blocks(x.shape[0]):
                found[block] = torch.softmax(self.logits(x[block]).double(), dim=1).numpy()
        return found

    def _blocks(self, n_cells: int) -> Iterator[slice]:
        features = max([1, *self.partition.hidden_graph, *self.partition.hidden_dense])
        size = max(1, BLOCK_NUMBERS // (features * (self.edges.shape[1] + self.n_genes)))
        return (slice(start, start + size) for start in range(0, n_cells, size))


def uncertainty(probabilities: np.ndarray) -> np.ndarray:
    """The entropy of each cell's probabilities (cells x labels) as a share of the greatest that there can be: 0 to 1."""
    return entr(probabilities).sum(axis=1) / np.log(probabilities.shape[1])


def make(partition: Partition, n_genes: int, **dropout: float) -> torch.nn.Module:
    """A network with random weights. Raises `RefmapError` for a kind that the library does not have."""
    from scarches.models.sagenet import model

    if partition.network not in NETWORKS:
        raise RefmapError(f"SageNet has no network '{partition.network}': it has {', '.join(NETWORKS)}.")
    return getattr(model, partition.network)(
        n_features=n_genes,
        n_classes=len(partition.labels),
        n_hidden_GNN=list(partition.hidden_graph),
        n_hidden_FC=list(partition.hidden_dense),
        **partition.sizes,
        **dropout,
    )


def restore(partition: Partition, n_genes: int, tensors: dict[str, Any]) -> Classifier:
    """A network as `sagenet.pt` holds it."""
    network = make(partition, n_genes)
    network.load_state_dict(tensors["weights"])
    importance = tensors.get("importance")
    return Classifier(partition, network, tensors["edges"], None if importance is None else importance.numpy())


def load_librarys(folder: Path, stem: str, column: str, labels: list[str]) -> Classifier:
    """A network as the library saves it. This runs a pickle: only with the user's trust."""
    import anndata as ad
    import torch

    try:
        network = torch.load(folder / (stem + PICKLE), map_location="cpu", weights_only=False)
    except (AttributeError, ModuleNotFoundError) as error:
        raise RefmapError(f"{stem}{PICKLE} needs other versions of its libraries than this environment has: {error}.") from error
    graph = ad.read_h5ad(folder / (stem + GRAPH)).X
    partition = Partition(column, labels, type(network).__name__, list(network.n_hidden_GNN), list(network.n_hidden_FC))
    if partition.network == "ChebNet":
        partition.sizes = {"K": len(network.layers_GNN[0].lins)}
    if partition.network == "ConvNet":
        partition.sizes = {"filter_K": network.filter_K, "pool_K": network.pool_K}
    return Classifier(partition, network, edges_of(graph))


def edges_of(adjacency: Any) -> torch.Tensor:
    """The edges of an adjacency matrix, genes x genes, dense or sparse: those with a 1, as the library takes it."""
    import torch

    rows, columns = (adjacency == 1).nonzero()
    order = np.lexsort((columns, rows))
    return torch.from_numpy(np.stack([rows[order], columns[order]]).astype(np.int64))
