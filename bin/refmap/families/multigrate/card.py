"""The card of a Multigrate model, from its inert file and from `refmap.yaml`.

The file is scvi-tools' `model.pt`. Its features lie beside each other; how many belong to each modality can be told from the
decoders' weights. Neither what the modalities are called is in it, nor how their values were normalised.
"""

from __future__ import annotations

import re

from ...common.errors import RefmapError, listed
from ...models.card import ModelCard, texts
from ...models.facts import FACTS
from ...models.folder import ModelFolder
from ...models.pickles import Tensor

FILE = "model.pt"
CLASS = "MultiVAE"
# The losses that model counts.
OF_COUNTS = ("nb", "zinb")
# What the column is called that says which modalities were measured of a cell.
OF_MODALITIES = ("modality", "group")
_NAMED_BY_RANGE = re.compile(r"(chr)?\w[\w.]*[:_-]\d+[-_]\d+", re.IGNORECASE)


def is_multigrate(folder: ModelFolder) -> bool:
    return folder.value(FILE, "attr_dict", "registry_", "model_name") == CLASS


def are_peaks(names: list[str]) -> bool:
    """Whether most features are called by where they lie."""
    return 2 * sum(bool(_NAMED_BY_RANGE.fullmatch(name)) for name in names) > len(names)


def multigrate_card(folder: ModelFolder) -> ModelCard:
    """Raises `RefmapError` for a model that is incomplete, or whose modalities `refmap.yaml` tells wrongly."""
    attributes, genes = folder.value(FILE, "attr_dict"), texts(folder.value(FILE, "var_names"))
    registry = attributes["registry_"]
    setup, fields = registry.get("setup_args") or {}, registry.get("field_registries") or {}
    lengths, shown = _lengths(folder.value(FILE, "model_state_dict")), folder.show(FILE)
    init = attributes.get("init_params_") or {}
    settings = {**init.get("non_kwargs", {}), **init.get("kwargs", {})}
    if not genes or not lengths:
        raise RefmapError(f"{shown} is incomplete: it lacks the names of its features or the weights of its decoders.")
    if sum(lengths) != len(genes):
        raise RefmapError(f"{shown} is damaged: its {len(genes):,} features are not the {sum(lengths):,} of its modalities.")
    card = ModelCard(model=folder.shown, class_name="Multigrate", genes=genes, n_latent=settings.get("z_dim"))
    card.modality_values = _modalities(folder, genes, lengths, settings.get("losses") or ["mse"] * len(lengths))
    card.modalities = dict(zip(card.modality_values, lengths, strict=True))
    card.modality = next(iter(card.modalities))
    card.input = "any" if "any" in card.modality_values.values() else "counts"
    _covariates(folder, card, settings.get("integrate_on"), setup, fields)
    card.size_factor_key = setup.get("size_factor_key")
    card.surgery_ready = bool(settings.get("condition_encoders")) and bool(card.batch_key)
    card.warnings = _warnings(folder, card)
    return card


def _lengths(weights: dict) -> list[int]:
    """How many features each modality has, by what its decoder gives; the last layer's name hangs on the loss."""
    last = re.compile(r"decoders\.(\d+)\.(?:mean_decoder\.0|recon_decoder|recon_decoder\.fc_layers\.Layer 0\.0)\.bias")
    found = {int(match[1]): tensor for name, tensor in weights.items() if (match := last.fullmatch(name))}
    return [int(found[number].shape[0]) for number in sorted(found) if isinstance(found[number], Tensor)]


def _modalities(folder: ModelFolder, genes: list[str], lengths: list[int], losses: list[str]) -> dict[str, str]:
    """What the model's modalities are called, in their order, and what each takes."""
    if told := folder.facts.get("modality_values"):
        if len(told) != len(lengths):
            raise RefmapError(
                f"{folder.show(FACTS)} names the modalities {listed(told)}, but the model has {len(lengths)}, of "
                f"{' and '.join(f'{length:,}' for length in lengths)} features: name them in their order."
            )
        return told
    names, start = [], 0
    for length in lengths:
        name = "atac" if are_peaks(genes[start : start + length]) else "protein" if names else "rna"
        names.append(name if name not in names else f"modality_{len(names) + 1}")
        start += length
    return {name: "counts" if loss in OF_COUNTS else "any" for name, loss in zip(names, losses, strict=True)}


def _covariates(folder: ModelFolder, card: ModelCard, integrated: str | None, setup: dict, fields: dict) -> None:
    """One covariate is what a query's batches are new categories of: that which the model integrates on, or else the first.

    As the library's tutorials have it, another may say which modalities were measured of a cell: a query's are none of its own.
    """
    state = (fields.get("extra_categorical_covs") or {}).get("state_registry") or {}
    known = {str(key): texts(values) for key, values in (state.get("mappings") or {}).items()}
    told = folder.facts.get("batch_key")
    if told and told not in known:
        raise RefmapError(f"{folder.show(FACTS)} has '{told}' as 'batch_key', but the model's covariates are {listed(known)}.")
    sources = [key for key in known if key.lower() not in OF_MODALITIES] or list(known)
    main = told or (str(integrated) if integrated in sources else next(iter(sources), None))
    if main is not None:
        card.batch_key, card.batches = main, known.pop(main)
    card.categorical_covariates = known
    card.continuous_covariates = texts(setup.get("continuous_covariate_keys"))


def _warnings(folder: ModelFolder, card: ModelCard) -> list[str]:
    warnings = []
    if not card.batch_key:
        warnings.append(
            f"{folder.shown} was set up without categorical covariates: surgery has nothing to learn, and the query is embedded as the "
            "reference would."
        )
    elif not card.surgery_ready:
        warnings.append(
            f"{folder.shown} was trained with condition_encoders=False: its encoders never see {card.batch_key}, so surgery cannot move "
            "the query in the latent space, whatever its batch effect; retrain the reference with condition_encoders=True."
        )
    if unknown := [name for name, values in card.modality_values.items() if values == "any"]:
        modalities = ", ".join(f"{name}: {values}" for name, values in card.modality_values.items())
        warnings.append(
            f"{folder.shown} does not say how the values of {listed(unknown)} were normalised: the query's are taken as they are, and have "
            f"to be made as the reference's were; or say what they are made of in a file {FACTS} beside the model, such as "
            f"modality_values: {{{modalities}}} with counts, lognorm or clr in place of any."
        )
    return warnings
