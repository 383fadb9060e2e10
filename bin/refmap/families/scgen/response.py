"""How the reference's cells respond to a condition: a direction in the latent space (Lotfollahi et al. 2019).

The model's folder keeps the mean of the latent of each label in each condition, and not the cells.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ...common.errors import RefmapError, listed, nearest
from ...models.folder import ModelFolder
from .correction import means_by

# By column of the reference's obs, value and label: the number of cells, and the mean of their latent.
CONDITIONS = "conditions.json"
Means = Mapping[str, tuple[int, np.ndarray]]


def write_conditions(folder: Path, latent: np.ndarray, labels: np.ndarray, columns: Mapping[str, np.ndarray]) -> None:
    """Write the mean of the latent (cells x dimensions) of each label, in each value of each column."""
    found = {
        key: {
            str(value): {
                label: {"n_cells": n, "latent": mean.tolist()}
                for label, (n, mean) in means_by(latent[values == value], labels[values == value]).items()
            }
            for value in np.unique(values)
        }
        for key, values in columns.items()
    }
    (folder / CONDITIONS).write_text(json.dumps(found, indent=1) + "\n")


def read_conditions(folder: ModelFolder, n_latent: int) -> dict[str, dict[str, Means]]:
    """By column and value, the means of each label; empty for a model without. Raises `RefmapError` for a file of other contents."""
    if not folder.has(CONDITIONS):
        return {}
    try:
        found = {
            str(key): {
                str(value): {
                    str(label): (int(of["n_cells"]), np.array(of["latent"], dtype=np.float64)) for label, of in labels.items()
                }
                for value, labels in values.items()
            }
            for key, values in json.loads((folder.path / CONDITIONS).read_text(encoding="utf-8")).items()
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        raise RefmapError(f"{folder.show(CONDITIONS)} does not hold latent means by condition: copy the model again.") from None
    groups = [list(labels.values()) for values in found.values() for labels in values.values()]
    if not all(group and all(mean.shape == (n_latent,) and np.isfinite(mean).all() for _, mean in group) for group in groups):
        raise RefmapError(f"{folder.show(CONDITIONS)} has not the model's {n_latent} latent dimensions: copy the model again.")
    return found


def response_faults(card: Mapping, options: Mapping) -> list[str]:
    """What is wrong with the options that ask for a response, a sentence each."""
    asked = {name: options[name] for name in ("control", "stimulated") if options[name] is not None}
    if not asked:
        return (
            ["option 'condition' is of use with 'control' and 'stimulated' alone: give these too."]
            if options["condition"]
            else []
        )
    if len(asked) == 1:
        lacking = "stimulated" if "control" in asked else "control"
        return [f"option '{next(iter(asked))}' is of use with '{lacking}' alone: give both."]
    if not card["conditions"]:
        return [
            f"'{card['model']}' does not say where its reference's cells lie in each condition, so no response can be predicted: "
            "train the reference with --family scgen, its conditions as batches or in --reference_categorical_covariate_keys."
        ]
    key = condition_of(card, options)
    if key not in card["conditions"]:
        return [
            f"option 'condition' is '{key}', but '{card['model']}' knows {listed(card['conditions'])}.{nearest(key, card['conditions'])}"
        ]
    known = card["conditions"][key]
    faults = [
        f"option '{name}' is '{value}', but column '{key}' of the reference has {listed(known)}.{nearest(value, known)}"
        for name, value in asked.items()
        if value not in known
    ]
    if asked["control"] == asked["stimulated"]:
        faults.append(f"options 'control' and 'stimulated' are both '{asked['control']}': a response is from one to the other.")
    return faults


def condition_of(card: Mapping, options: Mapping) -> str:
    """The column of the reference that the options' values are of: by default that of its batches."""
    return options["condition"] or card["batch_key"]


def response(control: Means, stimulated: Means) -> np.ndarray:
    """From the control cells' mean to the stimulated ones': float32, latent dimensions.

    Labels weigh alike on either side, however many cells they have: the library's `predict` draws equal numbers of each.
    """
    means = [np.mean([mean for _, mean in side.values()], axis=0) for side in (control, stimulated)]
    return (means[1] - means[0]).astype(np.float32)
