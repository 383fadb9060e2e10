"""A tree of cell types learned from the labels of several datasets, and the forms that it is written in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from ..common.errors import RefmapError

ROOT = "root"
REJECTED_BY_DISTANCE, REJECTED_BY_ERROR = "Rejection (dist)", "Rejected (RE)"
# What a classifier answers that is no cell type; a cell type of such a name is told from it.
NO_TYPES = (ROOT, REJECTED_BY_DISTANCE, REJECTED_BY_ERROR)


class Label(NamedTuple):
    """A label of one dataset: the same word in two datasets may mean two things."""

    dataset: str
    name: str


@dataclass(eq=False)
class Node:
    """A cell type: the labels that mean it, that of the earliest dataset first, and the types that it is made of.

    The root has no label, unless a dataset's label stood for all cells.
    """

    labels: list[Label] = field(default_factory=list)
    children: list[Node] = field(default_factory=list)

    def walk(self) -> Iterator[Node]:
        """This node and all below it, parents before their children."""
        yield self
        for child in self.children:
            yield from child.walk()

    def to_json(self, names: dict[Label, str], more: Callable[[Node], dict] = lambda node: {}) -> dict:
        """Nested mappings of `name`, `labels`, what there is `more` to say of a node, and `children`."""
        return {
            "name": self.name(names),
            "labels": [label._asdict() for label in self.labels],
            **more(self),
            "children": [child.to_json(names, more) for child in self.children],
        }

    @classmethod
    def from_json(cls, node: dict) -> Node:
        labels = [Label(str(label["dataset"]), str(label["name"])) for label in node["labels"]]
        return cls(labels, [cls.from_json(child) for child in node["children"]])

    @classmethod
    def flat(cls, labels: Iterable[Label]) -> Node:
        """A root with a child for each distinct label, sorted."""
        return cls([], [cls([label]) for label in sorted(set(labels))])

    def name(self, names: dict[Label, str]) -> str:
        """The node's name where each of a tree's labels has one: see `unique_names`. The root's is its own."""
        return names.get(self.labels[0], ROOT) if self.labels else ROOT


def unique_names(root: Node, datasets: list[str]) -> dict[Label, str]:
    """Name the nodes of a tree by their first labels, the earliest dataset's plainly; the root is left out.

    Where a later dataset has another type of the same label, its dataset is named in parentheses.
    """
    firsts = [node.labels[0] for node in root.walk() if node is not root]
    taken, names = set(NO_TYPES), {}
    for label in sorted(firsts, key=lambda label: (datasets.index(label.dataset), label.name)):
        name = label.name if label.name not in taken else f"{label.name} ({label.dataset})"
        while name in taken:
            name += "'"
        taken.add(name)
        names[label] = name
    return names


def check_tree(root: Node, datasets: list[str], shown: str) -> None:
    """Raise `RefmapError` if a label stands in the tree twice, a node has none, or a dataset is unknown."""
    labels = [label for node in root.walk() for label in node.labels]
    nameless = any(not node.labels for node in root.walk() if node is not root)
    if nameless or len(set(labels)) < len(labels) or not {label.dataset for label in labels} <= set(datasets):
        raise RefmapError(f"{shown} holds no tree of cell types: a node without a label, a label twice, or an unknown dataset.")


def newick(root: Node, names: dict[Label, str]) -> str:
    """Write the tree in the Newick format, names quoted where it needs that.

    https://phylipweb.github.io/phylip/newicktree.html: in single quotes, with a quote within doubled.
    """

    def written(node: Node) -> str:
        below = "(" + ",".join(written(child) for child in node.children) + ")" if node.children else ""
        return below + _quoted(node.name(names))

    return written(root) + ";\n"


def _quoted(name: str) -> str:
    # An underscore that is not quoted stands for a blank.
    if re.fullmatch(r"[\w.+/*#%&!?<>=~|^$@-]+", name) and "_" not in name:
        return name
    quoted = " ".join(name.split()).replace("'", "''")
    return f"'{quoted}'"
