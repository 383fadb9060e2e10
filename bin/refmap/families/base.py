"""What a family of models is to refmap: how its folders are recognised and described, and how surgery is done on them.

The first half reads model files inertly and needs no torch, so that a run can be checked before anything is trained. The second
half, `Surgery`, is imported only inside the family's own environment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
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
    fixed_batches: bool = False  # it takes no batches but these
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

    `path` is a folder, or a file such as `model.pt` that is a whole model by itself: the files around it are none of the
    model's, for a workflow may have put it anywhere. `shown_as` is the path that the user wrote, for sentences.

    Raises
    ------
    RefmapError
        If there is nothing at `path`.
    """

    def __init__(self, path: Path, shown_as: str | None = None) -> None:
        self.shown = shown_as or str(path)
        if not path.exists():
            raise RefmapError(f"There is no model at {self.shown}.")
        self.file = path.name if path.is_file() else None
        self.path = path.parent if self.file else path
        self._contents: dict[str, Contents] = {}

    def files(self) -> list[str]:
        """The names of the model's files, sorted."""
        if self.file:
            return [self.file]
        return sorted(p.relative_to(self.path).as_posix() for p in self.path.rglob("*") if p.is_file())

    def has(self, *names: str) -> bool:
        return all((self.path / name).is_file() and self.file in (None, name) for name in names)

    def show(self, name: str) -> str:
        """A file of the model as the user would write it."""
        return self.shown if self.file else str(Path(self.shown) / name)

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

    def sha256(self) -> str:
        """The SHA-256 of the names, sizes and bytes of all the model's files, but not of data saved beside it."""
        digest = hashlib.sha256()
        for name in self.files():
            if name.endswith((".h5ad", ".h5mu")):
                continue
            path = self.path / name
            digest.update(f"{name}\0{path.stat().st_size}\0".encode())
            with open(path, "rb") as stream:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
        return digest.hexdigest()


class Surgery(Protocol):
    """A reference with room for a query's new batches, everything that it holds frozen; lives in the family's environment."""

    device: str  # what it trains on
    parameters_total: int
    parameters_trainable: int
    warnings: list[str]  # sentences for the user

    @classmethod
    def prepare(cls, path: Path, query: Any, card: dict, freeze_dropout: bool) -> Surgery:
        """Load the reference at `path` and grow it.

        `query` is the aligned AnnData: cells x model genes, in the model's order, with obs under the model's keys.
        Raises `RefmapError` where the model cannot be loaded.
        """

    def train(self, settings: dict, log: Callable = print) -> tuple[Any, dict]:
        """Train what is new, on the query alone: the history (a row an epoch) and what to record of the training."""

    def embed(self) -> Any:
        """The query's latent representation: float32, cells x n_latent, in the query's order."""

    def predict(self) -> Any:
        """The probability of each label (a table of cells x labels), or None for a model that does not predict."""

    def save(self, folder: Path) -> None:
        """Save the grown model as a reference for a next mapping."""

    def reference_sha256(self) -> str:
        """The hash of the reference's parameters as its file holds them."""

    def frozen_sha256(self) -> str:
        """The hash of the same parameters where they lie in the grown model."""

    @staticmethod
    def seed(seed: int) -> None:
        """Make what follows repeatable."""

    @staticmethod
    def versions() -> dict[str, str]:
        """The versions of the libraries that do the work."""


class Family(Protocol):
    """One family of models. Everything here can be imported without the family's libraries."""

    name: str
    env: str  # the folder below containers/ with the environment that its surgery needs
    trains: tuple[str, ...]  # what `train_reference` can be asked to train

    def recognise(self, folder: ModelFolder) -> bool:
        """Whether the folder holds a model of this family."""

    def card(self, folder: ModelFolder) -> ModelCard:
        """Describe the model. Raises `RefmapError` where it cannot be described or mapped onto."""

    def surgery(self) -> type[Surgery]:
        """Import the half that needs the family's environment."""

    def train_reference(self, reference: Any, settings: dict, folder: Path, log: Callable = print) -> None:
        """Train a new reference that is ready for surgery, and save it to `folder`."""


def texts(values: Iterable | None) -> list[str]:
    """Categories, genes or column names as text."""
    return [] if values is None else [str(value) for value in values]
