"""What a family of models is to refmap: how its folders are recognised and described, and how surgery is done on them.

The first half reads model files inertly and needs no torch, so that a run can be checked before anything is trained. The second
half, `Surgery`, is imported only inside the family's own environment.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from ..common.errors import RefmapError, nearest
from ..models.pickles import Contents, read_pickle, read_torch
from .options import Option


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
    # How counts become its "lognorm": log1p of counts scaled to `target_sum` a cell, whose total is that of `genes`: "all" of
    # the query's, or the "model"'s. None where nobody knows.
    normalization: dict | None = None
    batch_key: str | None = None
    batches: list[str] = field(default_factory=list)
    fixed_batches: bool = False  # it takes no batches but these
    labels: dict[str, list[str]] = field(default_factory=dict)  # by column, the main one first; without the unlabeled one
    unlabeled_category: str | None = None
    takes_new_labels: bool = False  # labels that it does not know mean something to its surgery
    learns_labels: bool = True  # given labels have a say in its predictions
    adds: list[str] = field(default_factory=list)  # columns of obs that its mapping adds beside predictions
    categorical_covariates: dict[str, list[str]] = field(default_factory=dict)
    continuous_covariates: list[str] = field(default_factory=list)
    size_factor_key: str | None = None
    layer: str | None = None
    protein_key: str | None = None
    proteins: list[str] = field(default_factory=list)
    unlabeled_prototypes: int = 0  # how many it has, of cells that no label fits
    takes_gmt: bool = False  # its surgery can learn the gene programmes of a GMT file
    n_latent: int | None = None
    latent_names: list[str] = field(default_factory=list)  # where each latent dimension has a meaning
    options: dict[str, dict] = field(default_factory=dict)  # what a mapping may set: see `options.Option`
    hierarchy: dict | None = None  # of its labels, where one was learned on its latent: see `refmap.hierarchy`
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


# Cells in a minibatch, where neither the sheet nor a class of model says otherwise.
BATCH_SIZE = 128
# What scvi-tools calls the data that it saves beside a model, behind a prefix that the user may choose.
DATA = ("adata.h5ad", "mdata.h5mu")
# Facts that the files of some families lack, and that a user, or refmap itself, puts beside them.
FACTS = "refmap.yaml"
_KINDS_OF_FACTS: dict[str, type] = {
    "genes": list,
    "input": str,
    "normalization": dict,
    "batch_key": str,
    "batches": list,
    "labels": dict,
    "unlabeled_category": str,
    "latent_names": list,
}
INPUTS = ("counts", "lognorm", "any")
# Those that a mapping does not change.
_LASTING_FACTS = ("input", "normalization", "batch_key", "unlabeled_category")


def write_facts(folder: Path, **facts: Any) -> None:
    """Write `refmap.yaml` beside a model's files: facts of `ModelCard` that they do not hold."""
    unknown = set(facts) - set(_KINDS_OF_FACTS)
    if unknown:
        raise TypeError(f"no facts: {unknown}")
    # JSON is YAML, and no environment needs more to write it.
    (folder / FACTS).write_text(json.dumps(facts, indent=1) + "\n")


def carry_facts(reference: ModelFolder, updated: Path) -> None:
    """Give an updated model the facts of its reference that surgery leaves as they are, unless it has its own."""
    kept = {name: fact for name, fact in reference.facts.items() if name in _LASTING_FACTS}
    if kept:
        write_facts(updated, **(kept | ModelFolder(updated).facts))


def read_facts(path: Path, shown: str) -> dict[str, Any]:
    import yaml

    try:
        facts = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RefmapError(f"{shown} is not YAML that can be read ({' '.join(str(error).split())}).") from None
    if not isinstance(facts, dict):
        raise RefmapError(f"{shown} is no mapping: give facts of the model such as 'genes' or 'normalization', key by key.")
    for name, value in facts.items():
        kind = _KINDS_OF_FACTS.get(name)
        if kind is None:
            raise RefmapError(f"{shown} has an unknown key '{name}'.{nearest(name, _KINDS_OF_FACTS)}")
        if not isinstance(value, kind):
            words = {list: "a list", str: "text", dict: "a mapping"}[kind]
            raise RefmapError(f"{shown} has {value!r} as '{name}', which must be {words}.")
    if facts.get("input", INPUTS[0]) not in INPUTS:
        raise RefmapError(f"{shown} has {facts['input']!r} as 'input', which must be one of {', '.join(INPUTS)}.")
    if "normalization" in facts:
        _check_normalization(facts["normalization"], shown)
    if not all(isinstance(labels, list) for labels in facts.get("labels", {}).values()):
        raise RefmapError(f"{shown} has {facts['labels']} as 'labels', which must hold a list of labels for each column.")
    return {name: _as_text(value) for name, value in facts.items()}


def _as_text(fact: Any) -> Any:
    """Whatever YAML makes numbers of, as it is in a query: text."""
    if isinstance(fact, dict):
        return {str(key): _as_text(value) for key, value in fact.items()}
    return texts(fact) if isinstance(fact, list) else fact


def _check_normalization(normalization: dict, shown: str) -> None:
    target, genes = normalization.get("target_sum"), normalization.get("genes", "all")
    number = isinstance(target, (int, float)) and not isinstance(target, bool) and target > 0
    if set(normalization) - {"target_sum", "genes"} or not number or genes not in ("all", "model"):
        raise RefmapError(
            f"{shown} has {normalization} as 'normalization', which must hold target_sum, a number above 0, and may hold genes: "
            "'all' (a cell's total is that of all its genes) or 'model' (that of the model's genes)."
        )


# How arrays in zarr may be stored; numcodecs also has a codec that unpickles.
_CODECS = {"blosc", "bz2", "gzip", "lz4", "lzma", "shuffle", "vlen-bytes", "vlen-utf8", "zlib", "zstd"}


def _odd_codecs(path: Path) -> list[str]:
    """What an array of a zarr of format 2 is encoded by beyond `_CODECS`."""
    try:
        array = json.loads(path.read_bytes())
        used = {codec["id"] for codec in [array.get("compressor"), *(array.get("filters") or [])] if codec}
    except (AttributeError, KeyError, TypeError, ValueError):
        return ["something that cannot be read"]
    return sorted(str(codec) for codec in used - _CODECS)


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

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What `refmap.yaml` beside the model's files says of it, in the terms of `ModelCard`; empty where there is none.

        Raises
        ------
        RefmapError
            If it is no YAML, or holds a key that is no fact, or a fact of another type.
        """
        return read_facts(self.path / FACTS, self.show(FACTS)) if self.has(FACTS) else {}

    def globals(self) -> list[str]:
        """What the pickles read so far would import."""
        return sorted({name for contents in self._contents.values() for name in contents.names})

    def refusal(self) -> str | None:
        """Why the files read so far must not be unpickled, or those in zarr not be decoded; or None."""
        for name in self.files():
            if name.endswith(".zarray") and (odd := _odd_codecs(self.path / name)):
                return (
                    f"{self.show(name)} is not safe to load: it is encoded by {', '.join(odd)}, which no model needs; "
                    "if you know where the file comes from, allow it with --trust_models."
                )
        for name, contents in self._contents.items():
            if contents.refused:
                wanted = ", ".join(contents.refused)
                return (
                    f"{self.show(name)} is not safe to load: unpickling it would run {wanted}, which no model needs; "
                    "if you know where the file comes from, allow it with --trust_models."
                )
        return None

    def verify(self, sha256: str) -> None:
        """Raise `RefmapError` unless the files are those that were inspected, to the byte: loading runs their pickles."""
        if self.sha256() != sha256:
            raise RefmapError(f"The model '{self.shown}' changed after it was inspected: run again with -resume.")

    def sha256(self) -> str:
        """The SHA-256 of the names, sizes and bytes of all the model's files, but not of data saved beside it."""
        digest = hashlib.sha256()
        for name in self.files():
            if name.endswith(DATA):
                continue
            path = self.path / name
            digest.update(f"{name}\0{path.stat().st_size}\0".encode())
            with open(path, "rb") as stream:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
        return digest.hexdigest()


@dataclass
class Prediction:
    """What a model says of one label column of the query's cells.

    Attributes
    ----------
    classes
        The labels that it knows.
    labels
        The label of each cell. It may lie outside of `classes`, where the model rejects a cell or answers higher up in a hierarchy.
    uncertainty
        Float32, a value a cell: 0 is certain; the scale is the family's own.
    probabilities
        Float32, cells x classes; None for a model that gives no probabilities.
    """

    classes: list[str]
    labels: np.ndarray
    uncertainty: np.ndarray
    probabilities: np.ndarray | None = None

    @classmethod
    def of_probabilities(cls, classes: Iterable, probabilities: np.ndarray) -> Prediction:
        """The most probable label of each cell; its uncertainty is what is missing to a probability of 1."""
        classes = texts(classes)
        values = np.asarray(probabilities, dtype=np.float32)
        labels = np.array(classes, dtype=object)[values.argmax(axis=1)]
        return cls(classes, labels, 1 - values.max(axis=1), values)


def add_prediction(result: Any, key: str, prediction: Prediction) -> None:
    """Add what a model says of the label column `key` to an AnnData of the query's cells."""
    beyond = sorted(set(prediction.labels) - set(prediction.classes))
    result.obs[f"{key}_predicted"] = pd.Categorical(prediction.labels, categories=[*prediction.classes, *beyond])
    result.obs[f"{key}_predicted_uncertainty"] = prediction.uncertainty.astype(np.float32)
    result.uns[f"{key}_classes"] = np.array(prediction.classes, dtype=object)
    if prediction.probabilities is not None:
        result.obs[f"{key}_predicted_probability"] = prediction.probabilities.max(axis=1)
        result.obsm[f"{key}_probabilities"] = prediction.probabilities


@dataclass
class Settings:
    """How one mapping's surgery is to be done.

    Attributes
    ----------
    freeze_dropout
        Whether dropout is off during surgery.
    seed
        Of the mapping; `Surgery.seed` was called with it.
    options
        The family's own, by name and of their type, defaults filled in.
    gmt
        A GMT file of gene programmes, for a card with `takes_gmt`.
    """

    freeze_dropout: bool = True
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    gmt: Path | None = None


class Surgery:
    """A reference with room for a query's new batches, everything that it holds frozen; lives in the family's environment."""

    device: str  # what it trains on
    parameters_total: int
    parameters_trainable: int
    warnings: list[str]  # sentences for the user
    holds_facts: bool = False  # the files that it saves hold what stands in `refmap.yaml`
    # The sentence for a mapping that has nothing to train; None where the card has said so already.
    untrained: str | None = "Nothing was trained: the model has no batch or covariate that this query could add to."

    @classmethod
    def prepare(cls, path: Path, query: Any, card: dict, settings: Settings) -> Surgery:
        """Load the reference at `path` and grow it.

        `query` is the aligned AnnData: cells x model genes, in the model's order, with obs under the model's keys.
        Raises `RefmapError` where the model cannot be loaded.
        """
        raise NotImplementedError

    def train(self, settings: dict, log: Callable = print) -> tuple[Any, dict]:
        """Train what is new, on the query alone: the history (a row an epoch) and what to record of the training."""
        raise NotImplementedError

    def batch_size(self, settings: dict) -> int:
        """The number of cells in a minibatch of the training."""
        return settings.get("batch_size") or BATCH_SIZE

    def embed(self) -> np.ndarray:
        """The query's latent representation: float32, cells x n_latent, in the query's order."""
        raise NotImplementedError

    def predict(self) -> dict[str, Prediction]:
        """What the model says of each label column; empty for a model that does not predict."""
        return {}

    def annotate(self, result: Any) -> None:
        """Add to the query's AnnData (cells x 0) what else the mapping found of the cells: in obs, obsm, obsp or uns."""

    def write_results(self, folder: Path) -> None:
        """Write to an empty folder what the mapping found beside the cells: tables that `refmap.report.results` knows how to draw."""

    def save(self, folder: Path) -> None:
        """Save the grown model as a reference for a next mapping."""
        raise NotImplementedError

    def reference_sha256(self) -> str:
        """The hash of the reference's parameters as its file holds them."""
        raise NotImplementedError

    def frozen_sha256(self) -> str:
        """The hash of the same parameters where they lie in the grown model."""
        raise NotImplementedError

    @staticmethod
    def seed(seed: int) -> None:
        """Make what follows repeatable."""
        raise NotImplementedError

    @staticmethod
    def versions() -> dict[str, str]:
        """The versions of the libraries that do the work."""
        raise NotImplementedError


@dataclass(frozen=True)
class Trainable:
    """A kind of reference that a family can train.

    Attributes
    ----------
    needs
        The pipeline's parameters that it cannot be trained without.
    has_latent
        Whether it embeds cells in a latent space, on which a hierarchy can be learned.
    options
        What `--reference_options` may set, by name.
    input
        What it is trained on, "counts" or "lognorm", given the options.
    """

    needs: tuple[str, ...] = ("reference_batch_key",)
    has_latent: bool = True
    options: dict[str, Option] = field(default_factory=dict)
    input: Callable[[dict], str] = lambda options: "counts"


class Family(Protocol):
    """One family of models. Everything here can be imported without the family's libraries."""

    name: str
    env: str  # the folder below containers/ with the environment that its surgery needs
    library: str = "scarches.models"  # what surgery takes longest to import
    options: dict[str, Option] = {}  # what a row of the sheet may set under `options`
    trains: dict[str, Trainable]  # what `train_reference` can be asked to train, by its value of `--family`

    def recognise(self, folder: ModelFolder) -> bool:
        """Whether the folder holds a model of this family."""

    def card(self, folder: ModelFolder) -> ModelCard:
        """Describe the model. Raises `RefmapError` where it cannot be described or mapped onto."""

    def faults(self, row: dict, card: dict, options: dict, programs: dict[str, list[str]]) -> list[str]:
        """What of a mapping the family cannot do, a sentence each, beyond what the card tells.

        `options` are typed; `programs` are the genes of each programme of the row's GMT file, none if it has none.
        """
        return []

    def surgery(self) -> type[Surgery]:
        """Import the half that needs the family's environment."""

    def train_reference(self, reference: Any, settings: dict, folder: Path, log: Callable = print) -> None:
        """Train a new reference that is ready for surgery, and save it to `folder`."""


def texts(values: Iterable | None) -> list[str]:
    """Categories, genes or column names as text."""
    return [] if values is None else [str(value) for value in values]
