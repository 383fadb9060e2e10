"""scHPL's classifier of a tree: a kNN classifier at every branching, fitted and asked in bulk.

Michielsen, Reinders & Mahfouz, Nature Communications 12, 2799 (2021), https://doi.org/10.1038/s41467-021-23196-8; on the latent
of a mapping: Michielsen et al., NAR Genomics and Bioinformatics 5, lqad070 (2023), https://doi.org/10.1093/nargab/lqad070.

scHPL knows a node by names that it compares as text. Here those are numbers of a fixed width, so that a label of two
datasets, one that holds a comma, or one that is called 'root' is nothing special to it.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..common.errors import RefmapError
from .tree import REJECTED_BY_DISTANCE, REJECTED_BY_ERROR, ROOT, Label, Node

ROOT_OF_QUERY = "root2"  # scHPL looks for these very names
# Below this share of the latent's own size a reconstruction error is rounding.
ROUNDING = 1e-4
# PCA's components of a latent of more than 100 dimensions, as scHPL fixes them; each of its 5 folds trains on four fifths.
MOST_COMPONENTS, TRAINED_ON = 100, 0.8


@dataclass(frozen=True)
class Settings:
    """How the classifiers of a tree are fitted, and labels matched; see `hierarchy.OPTIONS`."""

    n_neighbors: int
    rejection_threshold: float
    match_threshold: float
    distance_percentile: float
    reject_by_error: bool
    least_cells: int


@dataclass
class Answers:
    """What a tree says of cells.

    Attributes
    ----------
    nodes
        The node of each cell, None where it is rejected.
    rejections
        Why, object array of str: `REJECTED_BY_DISTANCE` or `REJECTED_BY_ERROR`; '' where it is not.
    uncertainty
        Float32: 1 minus the smallest share of the neighbours' weight on the way to the node; 1 for a cell that is rejected
        or stays at the root.
    """

    nodes: np.ndarray
    rejections: np.ndarray
    uncertainty: np.ndarray


class Classifier:
    """The classifiers of a tree, fitted to labelled cells.

    Parameters
    ----------
    root
        The tree.
    latent
        Cells x latent dimensions.
    labels
        The `Label` of each cell; all of them stand in the tree.
    root_name
        scHPL matches a tree of this name to one that is called `ROOT_OF_QUERY`.
    """

    def __init__(self, root: Node, latent: np.ndarray, labels: list[Label], settings: Settings, root_name: str = ROOT) -> None:
        self.root, self.settings = root, settings
        self.latent = np.ascontiguousarray(latent, dtype=np.float32)
        self.nodes = list(root.walk())
        known = [label for node in self.nodes for label in node.labels]
        prefix = "q" if root_name == ROOT_OF_QUERY else "r"
        self.ids = {label: f"{prefix}{i:06d}" for i, label in enumerate(known)}
        self.labels = np.array([self.ids[label] for label in labels])
        self.node_of = {self.ids[label]: node for node in self.nodes for label in node.labels} | {root_name: root}
        self.top = self._fitted(root_name)

    def _fitted(self, root_name: str):
        from scHPL import train_tree

        top = self.unfitted(root_name)
        with _quiet():
            train_tree(
                self.latent,
                self.labels,
                [top],
                useRE=self._can_reconstruct(),
                n_neighbors=self.settings.n_neighbors,
                distkNN=self.settings.distance_percentile,
            )
        # Where PCA keeps every dimension, as in a latent whose dimensions vary alike, the error is rounding, and so is
        # scHPL's threshold for it: cells would be rejected at random (seen in 1.0.3).
        size = np.linalg.norm(self.latent - self.latent.mean(axis=0), axis=1).mean()
        if top.get_RE() <= ROUNDING * size:
            top.set_RE(0)
        return top

    def unfitted(self, root_name: str):
        """The tree in scHPL's form, without classifiers: its `TreeNode` at the root."""
        from scHPL import TreeNode

        def grow(node: Node):
            names = [self.ids[label] for label in node.labels]
            return TreeNode.create([root_name, *names] if node is self.root else names, [grow(child) for child in node.children])

        return grow(self.root)

    def _can_reconstruct(self) -> bool:
        n_cells, n_latent = self.latent.shape
        enough = n_latent <= MOST_COMPONENTS or TRAINED_ON * n_cells > MOST_COMPONENTS
        return self.settings.reject_by_error and enough

    def predict(self, latent: np.ndarray) -> Answers:
        """Send cells (cells x latent dimensions) down the tree, all of a node at once.

        The same as `scHPL.predict_labels`, which goes cell by cell, at 0.8 ms each.
        """
        names, uncertainty = self.predict_ids(np.ascontiguousarray(latent, dtype=np.float32))
        rejected = np.isin(names, (REJECTED_BY_DISTANCE, REJECTED_BY_ERROR))
        nodes = np.array([self.node_of.get(name) for name in names], dtype=object)
        return Answers(nodes, np.where(rejected, names, ""), uncertainty)

    def predict_ids(self, latent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The name that scHPL would give to each cell (object array), and its uncertainty."""
        top, settings = self.top, self.settings
        names = np.full(len(latent), top.name[0], dtype=object)
        certainty = np.zeros(len(latent), dtype=np.float32)
        near = top.classifier.kneighbors(latent)[0].mean(axis=1) <= top.get_maxDist()
        names[~near] = REJECTED_BY_DISTANCE
        known = np.ones(len(latent), dtype=bool)
        if top.get_RE() > 0:
            known = self._error(latent) <= top.get_RE()
            names[~known] = REJECTED_BY_ERROR
        certainty[near & known] = 1
        waiting = [(top, np.flatnonzero(near & known))]
        while waiting:
            node, cells = waiting.pop()
            if node.classifier is None or not len(cells):
                continue
            shares = node.classifier.predict_proba(latent[cells])
            sure = shares.max(axis=1) > settings.rejection_threshold
            chosen = node.classifier.classes_[shares.argmax(axis=1)]
            names[cells[sure]] = chosen[sure]
            certainty[cells[sure]] = np.minimum(certainty[cells[sure]], shares.max(axis=1)[sure])
            waiting += [(child, cells[sure & (chosen == child.name[0])]) for child in node.descendants]
        certainty[names == top.name[0]] = 0
        return names, 1 - certainty

    def _error(self, latent: np.ndarray) -> np.ndarray:
        pca = self.top.pca
        return np.linalg.norm(latent - pca.inverse_transform(pca.transform(latent)), axis=1)


def merge(reference: Classifier, query: Classifier) -> tuple[Node, list[Label | None]]:
    """Match the labels of a query to a reference's tree, each of which predicts the cells of the other.

    Returns the tree of both, in none of whose nodes is a label of the query that scHPL cannot place; and, of each cell of the
    reference, the label that the query predicts, None where it knows none.

    Raises
    ------
    RefmapError
        If scHPL fails on the two.
    """
    from scHPL import update_tree

    of_query, _ = reference.predict_ids(query.latent)
    of_reference, _ = query.predict_ids(reference.latent)
    columns = (
        np.asarray(column, dtype=str).reshape(-1, 1) for column in (reference.labels, of_reference, query.labels, of_query)
    )
    with _quiet(), _matching_once():
        try:
            tree, _ = update_tree([reference.unfitted(ROOT)], *columns, threshold=reference.settings.match_threshold)
        except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise RefmapError(
                f"The labels of the query could not be matched to the hierarchy: scHPL failed on them ({error})."
            ) from error
    label_of = {name: label for classifier in (reference, query) for label, name in classifier.ids.items()}

    def back(node) -> Node:
        names = dict.fromkeys(name for name in node.name if name in label_of)
        return Node([label_of[name] for name in names], [back(child) for child in node.descendants])

    return back(tree[0]), [label_of.get(name) for name in of_reference]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Let scHPL neither print nor warn."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _matching_once() -> Iterator[None]:
    """Mend the matching of scHPL 1.0.3, which with pandas 2 places new types twice.

    It goes over the matches twice, the second time over the sure ones that the first has left. What the first has dealt with it
    crosses out by writing into ``.values``, which of a table in several blocks is a copy.
    """
    from scHPL import update

    theirs = update._match_trees
    update._match_trees = _match_trees
    try:
        yield
    finally:
        update._match_trees = theirs


def _match_trees(matches: pd.DataFrame, tree: list, placed: pd.DataFrame) -> pd.DataFrame:
    """Change the tree by the matches (labels of the query x nodes of the tree; 0: none, 1: one of several, 2 and more: sure)."""
    from scHPL.update import _scan_binary

    roots = tree[0].name[0], ROOT_OF_QUERY
    matches = matches.fillna(0)
    of_root = (matches.index == roots[1])[:, None] | (matches.columns == roots[0])
    left, placed = _scan_binary(matches > 0, *roots, tree, placed)
    sure = left & ((matches > 1) | of_root)
    return _scan_binary(sure, *roots, tree, placed)[1] if sure.to_numpy().any() else placed
