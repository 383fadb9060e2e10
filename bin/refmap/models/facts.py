"""Facts of a model that its own files lack, in `refmap.yaml` beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..common.errors import RefmapError, brief, nearest
from .card import texts

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
    "modality_values": dict,
}
INPUTS = ("counts", "lognorm", "any")
# What a model takes of a modality: counts; made of counts, log1p of counts per 10,000 of the modality or their centred log ratio;
# or whatever the query has, where nobody knows.
MODALITY_VALUES = ("counts", "lognorm", "clr", "any")
# Those that a mapping does not change.
LASTING_FACTS = ("input", "normalization", "batch_key", "unlabeled_category", "modality_values")


def write_facts(folder: Path, **facts: Any) -> None:
    """Write `refmap.yaml` beside a model's files: facts of `ModelCard` that they do not hold."""
    unknown = set(facts) - set(_KINDS_OF_FACTS)
    if unknown:
        raise TypeError(f"no facts: {unknown}")
    # JSON is YAML, and no environment needs more to write it.
    (folder / FACTS).write_text(json.dumps(facts, indent=1) + "\n")


def read_facts(path: Path, shown: str) -> dict[str, Any]:
    import yaml

    try:
        facts = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RefmapError(f"{shown} is not YAML that can be read ({brief(error)}).") from None
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
    for name, values in facts.get("modality_values", {}).items():
        if values not in MODALITY_VALUES:
            raise RefmapError(f"{shown} has {values!r} for modality '{name}', which must be one of {', '.join(MODALITY_VALUES)}.")
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
