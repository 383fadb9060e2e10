"""The files of a SageNet model: refmap's own, which hold plain data alone, and those of the library.

refmap's are `sagenet.json`, which says what the model is, and `sagenet.pt`, tensors only:
``{column: {"edges": 2 x edges, "weights": {name: tensor}, "importance": labels x genes}}``, the last where it was measured.
The library (scarches 0.6.1) saves a whole network as `<tag>_<column>.pickle`, and its graph as `<tag>_<column>.h5ad`; neither
genes nor names of labels are among them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ...common.errors import RefmapError
from ...models.folder import ModelFolder

DESCRIPTION, TENSORS = "sagenet.json", "sagenet.pt"
PICKLE, GRAPH = ".pickle", ".h5ad"


@dataclass
class Partition:
    """The network of one spatial partition.

    Attributes
    ----------
    column
        The column of obs that held the partition in the reference.
    labels
        Its labels: the network's classes, in order.
    network
        The library's name of the network's class.
    hidden_graph, hidden_dense
        Features of the hidden layers: of each gene in the graph's convolutions, and of the dense layers behind them.
    sizes
        Sizes of the filters of the networks that have some: ``K``, or ``filter_K`` and ``pool_K``.
    section
        The section of tissue that it cuts, where there are several.
    places
        The mean coordinates of each label's cells, in the order of `labels`; empty where it was not cut by coordinates.
    """

    column: str
    labels: list[str]
    network: str
    hidden_graph: list[int] = field(default_factory=list)
    hidden_dense: list[int] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    section: str | None = None
    places: list[list[float]] = field(default_factory=list)


@dataclass
class Description:
    """What a SageNet model is, beside its tensors; the fields are those of `ModelCard`."""

    genes: list[str]
    partitions: list[Partition]
    normalization: dict | None
    unlabeled_category: str
    version: str  # of scarches

    def write(self, folder: Path) -> None:
        (folder / DESCRIPTION).write_text(json.dumps(asdict(self), indent=1) + "\n")


def read_description(folder: ModelFolder) -> Description:
    """Raises `RefmapError` for a file that is damaged."""
    try:
        read = json.loads((folder.path / DESCRIPTION).read_text(encoding="utf-8"))
        partitions = [Partition(**partition) for partition in read.pop("partitions")]
        return Description(partitions=partitions, **read)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RefmapError(f"{folder.show(DESCRIPTION)} is damaged ({error}): copy the model again.") from None


def stems_of_library(folder: ModelFolder) -> list[str]:
    """`<tag>_<column>` of each network that the library saved in the folder, sorted."""
    files = set(folder.files())
    stems = [name.removesuffix(PICKLE) for name in sorted(files) if name.endswith(PICKLE)]
    return [stem for stem in stems if stem + GRAPH in files]


def columns_of_stems(stems: list[str], columns: list[str]) -> dict[str, str]:
    """The column of each `<tag>_<column>`: the longest one that it ends in, else itself whole."""
    found = {}
    for stem in stems:
        named = [column for column in columns if stem == column or stem.endswith(f"_{column}")]
        found[stem] = max(named, key=len, default=stem)
    return found
