"""The model families that refmap maps onto, and how a model's family is told from its files.

They stand on `models`, which reads these files. What loads a model imports its library, in an environment of the family's own.
"""

from __future__ import annotations

from ..common.errors import RefmapError
from ..models.folder import ModelFolder
from .base import Family, Trainable
from .embedding import EmbeddingFamily
from .expimap import ExpimapFamily
from .geneformer import GeneformerFamily
from .multigrate import MultigrateFamily
from .mvtcr import MvtcrFamily
from .options import parse_reference_options, read_options
from .sagenet import SagenetFamily
from .scatlasvae import ScatlasvaeFamily
from .scgen import ScgenFamily
from .scgpt import ScgptFamily
from .scimilarity import ScimilarityFamily
from .scpoli import ScPoliFamily
from .scvi import ScviFamily
from .trvae import TrvaeFamily
from .unmapped import about_foreign_tree, foreign_tree, unknown

FAMILIES: list[Family] = [
    ScviFamily(),
    TrvaeFamily(),
    ScPoliFamily(),
    ExpimapFamily(),
    ScgenFamily(),
    SagenetFamily(),
    ScatlasvaeFamily(),
    MvtcrFamily(),
    MultigrateFamily(),
    EmbeddingFamily(),
    ScimilarityFamily(),
    GeneformerFamily(),
    ScgptFamily(),
]

__all__ = [
    "FAMILIES",
    "Family",
    "by_name",
    "recognise",
    "reference_options",
    "trainable",
    "trainer_of",
]


def by_name(name: str) -> Family:
    """The family of that name."""
    return next(family for family in FAMILIES if family.name == name)


def trainable() -> dict[str, Trainable]:
    """What can be trained, by its value of ``--family``."""
    return {name: kind for family in FAMILIES for name, kind in family.trains.items()}


def trainer_of(reference: str) -> Family:
    """The family that trains references of this kind, such as ``scanvi``."""
    return next(family for family in FAMILIES if reference in family.trains)


def reference_options(settings: dict) -> dict:
    """The options of a reference's family, typed, from the parameters. Raises RefmapError, a line a fault."""
    family = settings["family"]
    given = parse_reference_options(settings.get("reference_options"))
    return read_options(given, trainable()[family].options, f"a {family} reference")


def recognise(folder: ModelFolder) -> Family:
    """The family of a model. Raises `RefmapError` for a folder that no family knows."""
    for family in FAMILIES:
        if family.recognise(folder):
            return family
    if tree := foreign_tree(folder):
        raise RefmapError(f"{about_foreign_tree(folder, tree)}.")
    raise RefmapError(folder.refusal() or unknown(folder))
