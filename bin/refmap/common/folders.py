"""The folders that one step of a mapping hands to the next, and what lies in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PreparedFolder:
    """A query made ready for its model."""

    folder: Path

    @property
    def plan(self) -> Path:
        """What was found out about the mapping: JSON."""
        return self.folder / "plan.json"

    @property
    def aligned(self) -> Path:
        """The query's cells x the model's genes: AnnData zarr."""
        return self.folder / "aligned.zarr"

    @property
    def alignment(self) -> Path:
        """What was matched, padded and dropped: JSON."""
        return self.folder / "alignment.json"

    @property
    def gmt(self) -> Path:
        """The gene programmes to learn; absent where the row names none."""
        return self.folder / "programs.gmt"


@dataclass(frozen=True)
class MappedFolder:
    """What surgery gave, beside the updated model."""

    folder: Path

    @property
    def embedding(self) -> Path:
        """The query's cells x 0 genes, with their embedding and predictions: AnnData zarr."""
        return self.folder / "embedding.zarr"

    @property
    def history(self) -> Path:
        """The training's curves, a row an epoch: CSV."""
        return self.folder / "history.csv"

    @property
    def record(self) -> Path:
        """The record of the mapping: JSON."""
        return self.folder / "mapping.json"

    @property
    def results(self) -> Path:
        """What the family found beside the cells: a folder of tables."""
        return self.folder / "results"

    @property
    def groups(self) -> Path:
        """The query's own clusters, those most unlike the reference first: CSV; absent where none were looked for."""
        return self.folder / "groups.csv"

    @property
    def decoded(self) -> Path:
        """What the model expects of some of the cells: .npz, see `refmap.mapping.decoded`; absent where it expects no counts."""
        return self.folder / "decoded.npz"

    @property
    def labels(self) -> Path:
        """The label of each cell by its nearest reference cells, however certain: .npy, int32, columns of labels x cells, places among
        the labels of each; absent without reference cells."""
        return self.folder / "labels.npy"


@dataclass(frozen=True)
class ReferenceFolder:
    """The cells of a reference, for what their neighbourhood says of a query's."""

    folder: Path

    @property
    def record(self) -> Path:
        """What the cells are, and once they are embedded the scale that they set: JSON."""
        return self.folder / "reference.json"

    @property
    def cells(self) -> Path:
        """The reference's cells x 0 genes, with their labels and, once they are embedded, their embedding: AnnData zarr."""
        return self.folder / "cells.zarr"

    @property
    def aligned(self) -> Path:
        """Their counts, ready for the model: AnnData zarr; absent where there is an embedding already."""
        return self.folder / "aligned.zarr"

    @property
    def sample(self) -> Path:
        """Some of the cells of each label and batch x the model's genes, as the model takes them: AnnData zarr; may be absent."""
        return self.folder / "sample.zarr"


@dataclass(frozen=True)
class ReferenceProducts(ReferenceFolder):
    """What a model's folder holds of the cells that it was trained on, so that labels are transferred without them.

    The record and the cells are those that set the scale; nothing in here is a program, and none of it is the model's.
    """

    @classmethod
    def of_model(cls, model: Path) -> ReferenceProducts:
        """Those beside the files of a model."""
        return cls(model / "refmap")

    @property
    def profiles(self) -> Path:
        """Labels x the model's genes, the mean over the cells of each: AnnData zarr; absent where there is no sample."""
        return self.folder / "profiles.zarr"


@dataclass(frozen=True)
class FetchedFolder:
    """What an address led to."""

    folder: Path

    @property
    def content(self) -> Path:
        """A folder with one thing in it, the model's folder or file, or the file of cells; absent where there is a fault."""
        return self.folder / "content"

    @property
    def origin(self) -> Path:
        """Where it comes from, with checksums, or what is wrong with it: JSON."""
        return self.folder / "origin.json"


@dataclass(frozen=True)
class JointFiles:
    """The joint atlas of a reference and the queries that were mapped onto it."""

    folder: Path
    name: str

    @property
    def zarr(self) -> Path:
        """All cells x 0 genes: AnnData zarr."""
        return self.folder / f"{self.name}.zarr"

    @property
    def h5ad(self) -> Path:
        """The same as .h5ad."""
        return self.folder / f"{self.name}.h5ad"

    @property
    def page(self) -> Path:
        """To look around in the cells: HTML."""
        return self.folder / f"{self.name}.html"

    @property
    def about(self) -> Path:
        """What is in it: JSON."""
        return self.folder / f"{self.name}.json"
