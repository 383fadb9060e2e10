"""What a family of models is to refmap: how its folders are recognised and described, and how surgery is done on them.

The first half reads model files inertly and needs no torch, so that a run can be checked before anything is trained. The second
half, `Surgery`, is imported only inside the family's own environment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..errors import RefmapError
from ..pickles import Contents, read_pickle, read_torch


@dataclass
class ModelCard:
    """What refmap knows of a reference model without having loaded it.

    A card with a `fault` describes a model that cannot be mapped onto; its other fields may be empty.
    """

    model: str  # the path as the user wrote it
    family: str | None = None
    env: str | None = None  # the environment that its surgery runs in
    class_name: str | None = None
    version: str | None = None  # of the library that saved it
    sha256: str | None = None  # of all files of the folder
    genes: list[str] = field(default_factory=list)  # in the model's order
    input: str = "counts"  # what X must hold: "counts", "lognorm" or "any"
    batch_key: str | None = None
    batches: list[str] = field(default_factory=list)
    labels_key: str | None = None
    labels: list[str] = field(default_factory=list)  # without the unlabeled one
    unlabeled_category: str | None = None
    categorical_covariates: dict[str, list[str]] = field(default_factory=dict)
    continuous_covariates: list[str] = field(default_factory=list)
    size_factor_key: str | None = None
    layer: str | None = None
    protein_key: str | None = None
    proteins: list[str] = field(default_factory=list)
    n_latent: int | None = None
    predicts: bool = False  # it has a classifier for its labels
    surgery_ready: bool = False  # its encoder sees the batch, so surgery can move the query's cells
    trusted: bool = False  # the user said that its pickles may be run
    globals: list[str] = field(default_factory=list)  # what its pickles import
    warnings: list[str] = field(default_factory=list)
    fault: str | None = None

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, card: dict) -> ModelCard:
        return cls(**card)


class ModelFolder:
    """A model's files, read inertly and once.

    `path` is a folder, or a file in it such as `model.pt`; `shown_as` is the path that the user wrote, for sentences.
    """

    def __init__(self, path: Path, shown_as: str | None = None) -> None:
        self.shown = shown_as or str(path)
        if not path.exists():
            raise RefmapError(f"There is no model at {self.shown}.")
        if path.is_file():
            path, self.shown = path.parent, str(Path(self.shown).parent)
        self.path = path
        self._contents: dict[str, Contents] = {}

    def has(self, *names: str) -> bool:
        return all((self.path / name).is_file() for name in names)

    def show(self, name: str) -> str:
        """A file of the folder as the user would write it."""
        return str(Path(self.shown) / name)

    def contents(self, name: str) -> Contents:
        """The inert contents of a file: `*.pkl` as a plain pickle, any other as one of torch."""
        if name not in self._contents:
            read = read_pickle if name.endswith(".pkl") else read_torch
            self._contents[name] = read(self.path / name, self.show(name))
        return self._contents[name]

    def value(self, name: str, *keys: str) -> Any:
        """The value in a file, and in its dictionaries under `keys`; an empty dictionary where there is none."""
        value = self.contents(name).value if self.has(name) else {}
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return {} if value is None else value

    def globals(self) -> list[str]:
        """What the pickles read so far would import."""
        return sorted({name for contents in self._contents.values() for name in contents.names})

    def refusal(self) -> str | None:
        """Why the files read so far must not be unpickled, or None."""
        for name, contents in self._contents.items():
            if contents.refused:
                wanted = ", ".join(contents.refused)
                return (
                    f"{self.show(name)} is not safe to load: unpickling it would run {wanted}, which no model needs; "
                    "if you know where the file comes from, allow it with --trust_models."
                )
        return None

    def files(self) -> list[str]:
        """The names of all files below the folder, sorted."""
        return sorted(p.relative_to(self.path).as_posix() for p in self.path.rglob("*") if p.is_file())

    def sha256(self) -> str:
        """Of the names, sizes and bytes of all files."""
        digest = hashlib.sha256()
        for name in self.files():
            path = self.path / name
            digest.update(f"{name}\0{path.stat().st_size}\0".encode())
            with open(path, "rb") as stream:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
        return digest.hexdigest()


class Surgery(Protocol):
    """The half of a family that loads models; a module of functions, run in the family's environment."""

    def prepare(self, model: Path, query: Any, card: ModelCard, row: dict) -> Any:
        """The reference with room for the query's new batches, everything else frozen.

        `query` is the aligned AnnData (cells x model genes, in the model's order) with obs under the model's keys.
        """

    def train(self, model: Any, row: dict) -> Any:
        """Train what is not frozen, on the query alone; returns the training history, one row an epoch."""

    def embed(self, model: Any) -> Any:
        """The query's latent representation: float32, cells x n_latent, in the query's order."""

    def predict(self, model: Any) -> Any:
        """The probability of each label (cells x labels), or None for a model that does not predict."""

    def save(self, model: Any, folder: Path) -> None:
        """Save the updated model as a reference for a next mapping."""


class Family(Protocol):
    """One family of models."""

    name: str
    env: str  # the folder below containers/ with the environment that its surgery needs

    def recognise(self, folder: ModelFolder) -> bool:
        """Whether the folder holds a model of this family."""

    def card(self, folder: ModelFolder) -> ModelCard:
        """Describe the model. Raises `RefmapError` where the model cannot be mapped onto or described."""

    def surgery(self) -> Surgery:
        """Import the half that needs the family's environment."""


def texts(values: Iterable | None) -> list[str]:
    """Categories, genes or column names as text."""
    return [] if values is None else [str(value) for value in values]
