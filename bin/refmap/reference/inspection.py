"""The model card: what a run must know of a reference before it starts, read without ever loading the model."""

from __future__ import annotations

from pathlib import Path

from ..common.errors import RefmapError, brief
from ..families import recognise
from ..hierarchy import with_hierarchy
from ..models.card import ModelCard
from ..models.folder import ModelFolder


def inspect_model(
    path: Path | None, shown_as: str | None = None, trust_models: bool = False, origin: dict | None = None
) -> ModelCard:
    """Recognise and describe the model in a folder (or the folder of a file) without executing anything of it.

    `path` is None where there is no model. What is wrong with it stands in the card's `fault`; nothing is raised. `trust_models`
    lets a model pass whose pickles name things outside the list of `pickles.ALLOWED`; the card itself is made inertly all the same.
    `origin` says where a model that was named by an address comes from; its `fault` why it could not be fetched.
    """
    shown, origin = shown_as or str(path), dict(origin or {})
    if fault := origin.pop("fault", None):
        return ModelCard(model=shown, fault=brief(fault, 3000))
    try:
        folder = ModelFolder(path, shown)
    except RefmapError as error:
        return ModelCard(model=shown, fault=str(error))
    card = ModelCard(model=shown)
    try:
        family = recognise(folder)
        card.family, card.env = family.name, family.env
        card = family.card(folder)
        card.model, card.family, card.env = shown, family.name, family.env
        card.options = {name: option.to_json() for name, option in family.options_of(card).items()}
        for fact, value in folder.facts.items():
            setattr(card, fact, value)
        with_hierarchy(card, folder)
    except RefmapError as error:
        card.fault = str(error)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:  # contents that no library writes
        card.fault = f"{shown} is damaged: its attributes are not those of a saved model ({brief(error)})."
    card.origin = origin or None
    card.sha256 = folder.sha256()
    card.globals = folder.globals()
    card.warnings += folder.left_out()
    card.trusted = trust_models
    if not trust_models:
        card.fault = folder.refusal() or card.fault
    if card.fault:  # it may quote whatever the files hold
        card.fault = brief(card.fault, 3000)
    return card
