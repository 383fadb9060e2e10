"""A hierarchy of cell types on the latent of a reference model, whatever its family: treeArches.

Michielsen et al., NAR Genomics and Bioinformatics 5, lqad070 (2023), https://doi.org/10.1093/nargab/lqad070. The hierarchy lies in
a folder of the model's own (`files`). What this module gives needs no scHPL; `learn`, `update` and `classifier` do. It stands on the
families, any of which may lie below it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..common.errors import RefmapError, nearest
from ..families import trainable
from ..families.options import Option, parse_reference_options, read_options
from ..families.unmapped import about_foreign_tree, foreign_tree
from .files import card_of

if TYPE_CHECKING:
    import pandas as pd

    from ..models.card import ModelCard
    from ..models.folder import ModelFolder

__all__ = [
    "BASE",
    "FAMILY",
    "OPTIONS",
    "base_parameters",
    "below_hierarchy",
    "card_of",
    "split_options",
    "with_hierarchy",
]

# The value of --family, the option that names what it goes on top of, and what that is where nothing is named.
FAMILY, BASE = "treearches", "base"

OPTIONS = {
    BASE: Option("text", "scvi", "What the hierarchy is learned on top of: another value of `--family` that has a latent space."),
    "by_batch": Option("flag", False, "Learn from the labels of one batch after the other, the largest first, and match them."),
    "n_neighbors": Option(
        "int", 50, "Neighbours that vote where the tree branches, at most the cells of the smallest type.", least=2
    ),
    "rejection_threshold": Option(
        "float", 0.5, "A cell goes down to a type with more than this share of the votes.", least=0, most=1
    ),
    "match_threshold": Option(
        "float", 0.25, "A label has two matches if they differ by less than this share of its cells.", least=0, most=1
    ),
    "distance_percentile": Option(
        "float", 99, "A cell further off than this percentile of the tree's own is rejected.", least=0, most=100
    ),
    "reject_by_error": Option("flag", True, "Reject cells that a PCA of the tree's cells cannot reconstruct."),
    "least_cells": Option("int", 10, "A label of fewer cells is left out of the tree.", least=10),
}
# What a hierarchy changes in a model's card.
_BELOW = ("labels", "takes_new_labels", "unlabeled_category")


def split_options(text: str | None) -> tuple[dict, str]:
    """Part ``--reference_options`` into the hierarchy's own, by name and typed, and the text of those of the family below it.

    Raises RefmapError, a line a fault.
    """
    given = parse_reference_options(text)
    own = read_options({name: value for name, value in given.items() if name in OPTIONS}, OPTIONS, "a hierarchy")
    return own, ";".join(f"{name}={value}" for name, value in given.items() if name not in OPTIONS)


def base_parameters(parameters: dict) -> dict:
    """The pipeline's parameters with which the family below a hierarchy is trained; those of any other ``--family`` as they are.

    Raises
    ------
    RefmapError
        If the option `base` names no family that can be trained, or there are no labels to learn from.
    """
    if parameters.get("family") != FAMILY:
        return parameters
    options, rest = split_options(parameters.get("reference_options"))
    bases = [name for name, kind in trainable().items() if kind.has_latent]
    if options[BASE] not in bases:
        raise RefmapError(
            f"--reference_options has base={options[BASE]}, but a hierarchy is learned on top of one of "
            f"{', '.join(bases)}.{nearest(options[BASE], bases)}"
        )
    if not parameters.get("reference_labels_key"):
        raise RefmapError(f"--reference_labels_key is missing: a {FAMILY} reference cannot be trained without it.")
    if options["by_batch"] and not parameters.get("reference_batch_key"):
        raise RefmapError("--reference_options has by_batch=true, but no --reference_batch_key says what the batches are.")
    return parameters | {"family": options[BASE], "reference_options": rest}


def with_hierarchy(card: ModelCard, folder: ModelFolder) -> None:
    """Add to a model's card what the hierarchy in its folder makes of the model; nothing where there is none.

    The hierarchy's label column comes first, and the query's labels are wanted as they are. A tree of scHPL's own, which is a
    pickle, is left alone with a warning. Raises RefmapError for a damaged hierarchy.
    """
    hierarchy = card_of(folder)
    if hierarchy:
        card.hierarchy = hierarchy | {"below": {name: getattr(card, name) for name in _BELOW}}
        others = {key: labels for key, labels in card.labels.items() if key != hierarchy["labels_key"]}
        card.labels = {hierarchy["labels_key"]: hierarchy["labels"]} | others
        card.takes_new_labels = True
        if card.unlabeled_category is None:
            card.unlabeled_category = hierarchy["unlabeled_category"]
        card.warnings += hierarchy["notes"]
    elif name := foreign_tree(folder):
        card.warnings.append(f"{about_foreign_tree(folder, name)}. Without it, the model beside it is mapped onto as it is.")


def below_hierarchy(obs: pd.DataFrame, card: dict) -> tuple[pd.DataFrame, dict]:
    """An aligned query's obs and the card as the family of the model takes them, which knows nothing of the hierarchy.

    The hierarchy wants the query's labels, whatever they are, and so they are kept through alignment; here those that are new
    to the family become the unlabeled category again. Without a hierarchy, both are returned as they are.
    """
    if not card["hierarchy"]:
        return obs, card
    below = card["hierarchy"]["below"]
    obs = obs.drop(columns=[key for key in card["labels"] if key not in below["labels"]])
    if not below["takes_new_labels"] and below["unlabeled_category"] is not None:
        for key, known in below["labels"].items():
            labels = obs[key].astype(object)
            obs[key] = labels.where(labels.isin(known), below["unlabeled_category"]).astype("category")
    return obs, card | below
