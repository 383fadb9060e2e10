"""The card of a model: what is known of it before it is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

# Where the model knows no name for 'no label'.
UNLABELED = "Unknown"


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
    origin: dict | None = None  # where it was fetched from, if it is named by an address
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
    modality: str | None = None  # of the genes, where it was set up from several
    # How many of `genes` belong to each modality, in their order, where it takes more than one matrix: {"rna": 2000, "atac": 90000}.
    modalities: dict[str, int] = field(default_factory=dict)
    modality_values: dict[str, str] = field(default_factory=dict)  # what each of them is made of: see `facts.MODALITY_VALUES`
    layers: list[str] = field(default_factory=list)  # the layers of each modality that it takes, where it takes more than one
    protein_key: str | None = None
    proteins: list[str] = field(default_factory=list)
    receptors: str | None = None  # of T cells: "taken" where it has any, or "needed", as it embeds no cell without
    unlabeled_prototypes: int = 0  # how many it has, of cells that no label fits
    takes_gmt: bool = False  # its surgery can learn the gene programmes of a GMT file
    n_latent: int | None = None
    # Values of its reference's columns between which it knows how cells differ, by column.
    conditions: dict[str, list[str]] = field(default_factory=dict)
    minified_as: str | None = (
        None  # what the latent of its own cells is called where their counts were dropped: <this>_latent_qzm
    )
    latent_names: list[str] = field(default_factory=list)  # where each latent dimension has a meaning
    options: dict[str, dict] = field(default_factory=dict)  # what a mapping may set: see `families.options.Option`
    hierarchy: dict | None = None  # of its labels, where one was learned on its latent: see `refmap.hierarchy`
    predicts: bool = False  # it has a classifier for its labels
    latent_of_labels: bool = False  # the labels of its reference's cells shaped its latent
    most_in_memory: int | None = None  # values of aligned counts that its surgery takes into memory; None: however many there are
    any_reference: bool = False  # it was trained on many studies, and cells of any can be its reference
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


def texts(values: Iterable | None) -> list[str]:
    """Categories, genes or column names as text."""
    return [] if values is None else [str(value) for value in values]


def unlabeled(card: dict) -> str:
    """What cells without a label are called under a model's label columns."""
    return UNLABELED if card["unlabeled_category"] is None else card["unlabeled_category"]
