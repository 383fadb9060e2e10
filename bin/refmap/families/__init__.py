"""The model families that refmap maps onto, and how a model's family is told from its files."""

from __future__ import annotations

from ..errors import RefmapError
from ..options import parse_options, read_options
from .base import Family, ModelCard, ModelFolder, Trainable
from .expimap import ExpimapFamily
from .sagenet import SagenetFamily
from .scgen import ScgenFamily
from .scpoli import ScPoliFamily
from .scvi import ScviFamily
from .trvae import TrvaeFamily

FAMILIES: list[Family] = [ScviFamily(), TrvaeFamily(), ScPoliFamily(), ExpimapFamily(), ScgenFamily(), SagenetFamily()]

__all__ = ["FAMILIES", "Family", "ModelCard", "ModelFolder", "by_name", "recognise", "reference_options", "trainable", "trainer_of"]


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
    try:
        given = parse_options(settings.get("reference_options") or "")
    except ValueError:
        raise RefmapError(
            f"--reference_options is '{settings['reference_options']}', but must be options as name=value, parted by ';'."
        ) from None
    return read_options(given, trainable()[family].options, f"a {family} reference")


def recognise(folder: ModelFolder) -> Family:
    """The family of a model. Raises `RefmapError` for a folder that no family knows."""
    for family in FAMILIES:
        if family.recognise(folder):
            return family
    from ..hierarchy import about_foreign_tree, foreign_tree  # which is on top of all this

    if tree := foreign_tree(folder):
        raise RefmapError(f"{about_foreign_tree(folder, tree)}.")
    raise RefmapError(folder.refusal() or _unknown(folder))


def _unknown(folder: ModelFolder) -> str:
    if folder.has("vocab.json", "args.json"):
        return f"{folder.shown} looks like a scGPT model, which this version of refmap does not map yet."
    if folder.file:
        return f"{folder.shown} is no model that refmap knows: give a folder, or the model.pt of a scvi-tools model."
    found = folder.files()
    listed = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
    return (
        f"{folder.shown} holds no model that refmap knows (found: {listed or 'an empty folder'}); it maps models of "
        "scvi-tools and scArches: a folder with model.pt, or with attr.pkl, model_params.pt and var_names.csv."
    )
