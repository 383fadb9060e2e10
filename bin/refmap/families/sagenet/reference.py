"""Training of SageNet references: a graph of the genes, and a network for each spatial partition."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...common.errors import RefmapError
from .. import freezing
from ..fitting import fit
from ..scarches.loading import quietly
from .files import Description, Partition
from .networks import CLASS_OF, Classifier, edges_of, make
from .surgery import SagenetSurgery, save

if TYPE_CHECKING:
    import anndata as ad
    import torch
    from scipy import sparse

# The library's settings of a network and of its training (scarches 0.6.1).
DROPOUT = {"dropout_GNN": 0.3, "dropout_FC": 0.2}
LEARNING_RATE, MOMENTUM = 0.001, 0.9
SCHEDULE = {"T_0": 50, "eta_min": 5e-5}  # steps until the learning rate starts anew, and the least that it falls to
# A gene that varies less does not vary: what float32 leaves of a difference of equal squares.
LEAST_DEVIATION = 1e-4
GENES_AT_A_TIME = 1000
# Steps over which gradients are integrated: captum's own.
IMPORTANCE_STEPS = 50


def train_reference(reference: ad.AnnData, settings: dict, folder: Path, log: Callable = print) -> None:
    """Train a network for each column of labels and each partition of a tissue, and save them to `folder`.

    Networks of one section of tissue share a graph of its genes, as do those of columns of labels, which are of all cells.

    Parameters
    ----------
    reference
        Log-normalised values, CSR, cells x genes; obs columns ``labels_keys``. Cells without a label do not train.
    settings
        ``labels_keys``, ``partitions`` (columns of obs with what :func:`refmap.reference.tissue.cut_tissue` says of them),
        ``unlabeled_category``, ``max_epochs``, ``seed``, ``normalization``, ``options``.

    Raises
    ------
    RefmapError
        If there are too many genes for the graphical lasso, a column has fewer than two labels, or training diverges.
    """
    freezing.seed_everything(settings["seed"])
    options = settings["options"]
    partitions = settings.get("partitions", {})
    cells = {key: _labeled(reference, key, settings["unlabeled_category"]) for key in [*settings["labels_keys"], *partitions]}
    sections = {key: partitions.get(key, {}).get("section") for key in cells}
    graphs = {}
    for key, section in sections.items():
        if section not in graphs:
            numbers = cells[key][1]
            x = reference.X if section is None else reference.X[np.flatnonzero(numbers >= 0)]
            of = "" if section is None else f" in section '{section}'"
            log(f"finding the graph of {reference.n_vars} genes{of} by {options['graph']}")
            graphs[section] = edges_of(gene_graph(x, options))
            log(f"{graphs[section].shape[1] // 2} pairs of genes are joined")
    classifiers = []
    for key, (labels, numbers) in cells.items():
        places = partitions.get(key, {}).get("places", {})
        partition = Partition(
            key,
            labels,
            CLASS_OF.get(options["network"], options["network"]),
            hidden_graph=[options["n_hidden"]],
            section=sections[key],
            places=[places[label] for label in labels] if places else [],
        )
        classifiers.append(_train(reference.X, partition, numbers, graphs[sections[key]], settings, log))
    description = Description(
        genes=list(map(str, reference.var_names)),
        partitions=[classifier.partition for classifier in classifiers],
        normalization=settings["normalization"],
        unlabeled_category=settings["unlabeled_category"],
        version=SagenetSurgery.versions()["scarches"],
    )
    save(folder, description, classifiers)


def _labeled(reference: ad.AnnData, key: str, unlabeled: str) -> tuple[list[str], np.ndarray]:
    """The labels of a column, sorted, and the number of each cell's label, -1 for none."""
    given = np.where(reference.obs[key].isna(), unlabeled, reference.obs[key].astype(str))
    labels = sorted(set(given) - {unlabeled})
    if len(labels) < 2:
        raise RefmapError(
            f"The reference's column '{key}' has {len(labels)} label{'s' * (len(labels) != 1)} beside '{unlabeled}', and a "
            "spatial partition needs two: name another column with --reference_labels_key."
        )
    number = {label: i for i, label in enumerate(labels)}
    return labels, np.array([number.get(label, -1) for label in given])


def _train(
    x: sparse.csr_matrix, partition: Partition, numbers: np.ndarray, edges: torch.Tensor, settings: dict, log: Callable
) -> Classifier:
    import torch

    options = settings["options"]
    with quietly():
        classifier = Classifier(partition, make(partition, x.shape[1], **DROPOUT), edges)
    optimizer = torch.optim.SGD(classifier.network.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, **SCHEDULE)
    labeled = np.flatnonzero(numbers >= 0)

    def loss_of(positions: np.ndarray) -> torch.Tensor:
        cells = labeled[positions]
        return torch.nn.functional.cross_entropy(classifier.logits(x[cells]), torch.from_numpy(numbers[cells]))

    fit(
        classifier.network,
        loss_of,
        optimizer,
        n_cells=len(labeled),
        max_epochs=settings["max_epochs"],
        batch_size=options["batch_size"],
        seed=settings["seed"],
        log=lambda line: log(f"{partition.column}: {line}"),
        after_step=schedule.step,
    )
    if options["importance_cells"]:
        rng = np.random.default_rng(settings["seed"])
        of_each = [
            rng.permutation(np.flatnonzero(numbers == i))[: options["importance_cells"]] for i in range(len(partition.labels))
        ]
        drawn = np.concatenate(of_each)
        classifier.importance = classifier.gene_importance(x[drawn], numbers[drawn], IMPORTANCE_STEPS)
    return classifier


def gene_graph(x: sparse.csr_matrix, options: dict) -> sparse.csr_matrix:
    """Which genes are joined: CSR of 0 and 1, genes x genes, symmetric; a gene that never varies is joined to none.

    Raises
    ------
    RefmapError
        If there are more genes than the graphical lasso is to be tried on, or it finds no solution.
    """
    from scipy import sparse

    n_genes = x.shape[1]
    if options["graph"] == "glasso" and n_genes > options["glasso_genes"]:
        raise RefmapError(
            f"The reference has {n_genes:,} genes, and the graphical lasso, whose time grows with their cube, is not tried beyond "
            f"{options['glasso_genes']:,}: give a reference of fewer genes, or --reference_options 'graph=correlation', or raise glasso_genes."
        )
    mean = np.asarray(x.mean(axis=0)).ravel()
    deviation = np.sqrt(np.maximum(np.asarray(x.multiply(x).mean(axis=0)).ravel() - mean**2, 0))
    varying = np.flatnonzero(deviation > LEAST_DEVIATION)
    find = _glasso if options["graph"] == "glasso" else _most_correlated
    joined = find(x[:, varying], mean[varying], deviation[varying], options).tocoo()
    graph = (varying[joined.row], varying[joined.col])
    return sparse.csr_matrix((np.ones(len(joined.row), np.int8), graph), shape=(n_genes, n_genes))


def _glasso(x: sparse.csr_matrix, mean: np.ndarray, deviation: np.ndarray, options: dict) -> sparse.csr_matrix:
    """The nonzero partial correlations by the library's graphical lasso (Friedman et al. 2008), which scales by itself."""
    import anndata as ad
    from scarches.models.sagenet.utils import glasso

    found = ad.AnnData(x.toarray())
    try:
        with quietly():
            glasso(found, alphas=options["glasso_alphas"])
    except FloatingPointError:
        raise RefmapError(
            "The graphical lasso finds no graph for the reference's genes, whose covariance is too nearly singular: "
            "give fewer genes or more cells, or --reference_options 'graph=correlation'."
        ) from None
    return found.varm["adj"]


def _most_correlated(x: sparse.csr_matrix, mean: np.ndarray, deviation: np.ndarray, options: dict) -> sparse.csr_matrix:
    """Each gene joined to those of the greatest absolute correlation; an edge of either side is one of both."""
    from scipy import sparse

    n_cells, n = x.shape
    k = min(options["graph_neighbors"], n - 1)
    nearest = np.empty((n, k), np.int64)
    by_gene = x.T.tocsr()
    for start in range(0, n, GENES_AT_A_TIME):
        block = slice(start, start + GENES_AT_A_TIME)
        covariance = (by_gene[block] @ x).toarray() / n_cells - np.outer(mean[block], mean)
        correlation = np.abs(covariance / np.outer(deviation[block], deviation))
        rows = np.arange(len(correlation))
        correlation[rows, start + rows] = -1
        nearest[block] = np.argsort(-correlation, axis=1, kind="stable")[:, :k]
    one_way = sparse.csr_matrix((np.ones(n * k), (np.repeat(np.arange(n), k), nearest.ravel())), shape=(n, n))
    return one_way.maximum(one_way.T)
