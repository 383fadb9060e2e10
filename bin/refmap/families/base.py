"""What a family of models is to refmap: how its folders are recognised and described, and how surgery is done on them.

`Family` needs no torch, so that a run can be checked before anything is trained. Its other half, `Surgery`, is imported only inside
the family's own environment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from ..models.card import ModelCard, texts
from ..models.folder import ModelFolder
from . import freezing
from .options import Option

# Cells in a minibatch, where neither the sheet nor a class of model says otherwise.
BATCH_SIZE = 128
# What trains in surgery on models of scvi-tools: refmap's own engine wherever it does what their trainer does, or that trainer.
ENGINES = AUTO, SCVI = "auto", "scvi"


@dataclass
class Prediction:
    """What a model says of one label column of the query's cells.

    Attributes
    ----------
    classes
        The labels that it knows.
    labels
        The label of each cell: an array, or categories, which take less. It may lie outside of `classes`, where the model rejects a cell or answers higher up in a hierarchy.
    uncertainty
        Float32, a value a cell: 0 is certain; the scale is the family's own.
    probabilities
        Float32, cells x classes; None for a model that gives no probabilities.
    """

    classes: list[str]
    labels: np.ndarray | pd.Categorical
    uncertainty: np.ndarray
    probabilities: np.ndarray | None = None

    @classmethod
    def of_probabilities(cls, classes: Iterable, probabilities: np.ndarray) -> Prediction:
        """The most probable label of each cell; its uncertainty is what is missing to a probability of 1."""
        classes = texts(classes)
        values = np.asarray(probabilities, dtype=np.float32)
        labels = pd.Categorical.from_codes(values.argmax(axis=1), classes)
        return cls(classes, labels, 1 - values.max(axis=1), values)


def add_prediction(result: Any, key: str, prediction: Prediction) -> None:
    """Add what a model says of the label column `key` to an AnnData of the query's cells."""
    beyond = sorted(set(pd.unique(prediction.labels)) - set(prediction.classes))
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
    engine
        One of `ENGINES`.
    options
        The family's own, by name and of their type, defaults filled in.
    gmt
        A GMT file of gene programmes, for a card with `takes_gmt`.
    train
        What `Surgery.train` will be called with; None where nothing is trained.
    """

    freeze_dropout: bool = True
    seed: int = 0
    engine: str = AUTO
    options: dict[str, Any] = field(default_factory=dict)
    gmt: Path | None = None
    train: dict | None = None


@dataclass
class Decoder:
    """What a grown model expects of counts, and what of them enters its encoder.

    Attributes
    ----------
    decode
        Takes cells, their places in the query, any number of times, and the reference's batch to decode each in, by its number, or
        None: each in its own batch. Gives, by the mean of each cell's latent posterior, the share that the model expects of each
        gene in its counts, float32, cells x the model's genes, rows that sum to 1; and in batches of the reference also the inverse
        dispersion of the counts, what broadcasts to that, None for those of a Poisson.
    n_batches
        Of the reference, 1 at least.
    weights
        Of the encoder's first layer, those of the genes: float32, hidden units x the model's genes; None if there is no such layer.
    enters
        What that layer is given of counts, in their shape.
    """

    decode: Callable[[np.ndarray, np.ndarray | None], tuple[np.ndarray, np.ndarray | None]]
    n_batches: int = 1
    weights: np.ndarray | None = None
    enters: Callable[[np.ndarray], np.ndarray] = np.log1p


class Surgery:
    """A reference with room for a query's new batches, everything that it holds frozen; lives in the family's environment."""

    device: str  # what it trains on
    parameters_total: int
    parameters_trainable: int
    warnings: list[str]  # sentences for the user
    reference: Mapping[str, Any]  # the tensors of the reference by name, as its file holds them
    placed: np.ndarray | None = None  # bool, a cell: whether the model can embed it; None: all of them
    holds_facts: bool = False  # the files that it saves hold what stands in `refmap.yaml`
    # The sentence for a mapping that has nothing to train; None where the card has said so already.
    untrained: str | None = "Nothing was trained: the model has no batch or covariate that this query could add to."

    @classmethod
    def prepare(cls, path: Path, query: Any, card: dict, settings: Settings) -> Surgery:
        """Load the reference at `path` and grow it.

        `query` is the aligned AnnData: cells x model genes, in the model's order, with obs under the model's keys. If the card has a
        `most_in_memory`, X of a larger query is left on disk (:class:`refmap.common.stored_rows.StoredRows`).
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
        """The query's latent representation: float32, cells x n_latent, in the query's order; NaN of cells that are not `placed`."""
        raise NotImplementedError

    def variance(self) -> np.ndarray | None:
        """The variance of what `embed` gives, in its shape, where cells are compared by it; None elsewhere."""
        return None

    def predict(self) -> dict[str, Prediction]:
        """What the model says of each label column; empty for a model that does not predict."""
        return {}

    def decoder(self, latent: np.ndarray) -> Decoder | None:
        """What the model expects of the query's counts, by the `latent` that `embed` gave; None for one that expects none of genes."""
        return None

    def annotate(self, result: Any) -> None:
        """Add to the query's AnnData (cells x 0) what else the mapping found of the cells: in obs, obsm, obsp or uns."""

    def write_results(self, folder: Path) -> None:
        """Write to an empty folder what the mapping found beside the cells: tables that `refmap.report.results` knows how to draw."""

    def save(self, folder: Path) -> None:
        """Save the grown model as a reference for a next mapping."""
        raise NotImplementedError

    def reference_sha256(self) -> str:
        """The hash of the reference's parameters as its file holds them."""
        return freezing.sha256(self.reference)

    def frozen_sha256(self) -> str:
        """The hash of the same parameters where they lie in the grown model."""
        raise NotImplementedError

    @staticmethod
    def seed(seed: int) -> None:
        """Make what follows repeatable."""
        freezing.seed_everything(seed)

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
        The pipeline's parameters that it cannot be trained without; of several in one entry, one is enough.
    has_latent
        Whether it embeds cells in a latent space, on which a hierarchy can be learned.
    options
        What `--reference_options` may set, by name.
    input
        What it is trained on, "counts" or "lognorm", given the options.
    multimodal
        Whether the features that `reference_protein_key` names are a modality beside the genes, as the model's own are.
    spatial
        Whether its labels may be partitions of a tissue, cut by the coordinates that `reference_spatial_key` names with each of
        the option `resolutions`.
    hides_labels
        Whether labels shape its latent while cells without one train too, so that those of some cells are hidden from it.
    """

    needs: tuple[str | tuple[str, ...], ...] = ("reference_batch_key",)
    has_latent: bool = True
    multimodal: bool = False
    spatial: bool = False
    hides_labels: bool = False
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

    def options_of(self, card: ModelCard) -> dict[str, Option]:
        """Those of the options that mean something to this model."""
        return self.options

    def faults(self, row: dict, card: dict, options: dict, programs: dict[str, list[str]]) -> list[str]:
        """What of a mapping the family cannot do, a sentence each, beyond what the card tells.

        `options` are typed; `programs` are the genes of each programme of the row's GMT file, none if it has none.
        """
        return []

    def libraries(self, card: dict, training: dict) -> list[str]:
        """The modules that surgeries on a model, trained as `training` says, take longest to import."""
        return [self.library]

    def surgery(self) -> type[Surgery]:
        """Import the half that needs the family's environment."""

    def train_reference(self, reference: Any, settings: dict, folder: Path, log: Callable = print) -> None:
        """Train a new reference that is ready for surgery, and save it to `folder`."""
