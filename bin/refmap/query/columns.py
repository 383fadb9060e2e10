"""The columns of obs that a model was set up with, made of the query's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..common.spelling import Spelled, spell
from ..models.card import unlabeled
from .contents import new_name
from .elements import as_text
from .query import Query

# Where an aligned query has the batches that its row names, if its model has none.
OWN_BATCHES = "refmap_batch"


def batch_column(query: Query, row: dict, card: dict) -> str | None:
    """The column of an aligned query with its batches: the model's, or of a model without any that of refmap; None if there are none."""
    if card["batch_key"]:
        return card["batch_key"]
    return OWN_BATCHES if not row["one_batch"] and row["batch_key"] in query.obs_columns else None


def pair_covariates(row_keys: Sequence[str], model_keys: Sequence[str]) -> dict[str, str]:
    """The query's column for each of the model's covariates: of the same name, else the next in order. Equal numbers of both."""
    rest = iter([key for key in row_keys if key not in model_keys])
    return {key: key if key in row_keys else next(rest) for key in model_keys}


def pair_labels(row_keys: Sequence[str], model_keys: Sequence[str]) -> dict[str, str]:
    """The query's column for each of the model's label columns: of the same name, else the next in order; no more than there are."""
    rest = iter([key for key in row_keys if key not in model_keys])
    pairs = {key: key if key in row_keys else next(rest, None) for key in model_keys}
    return {key: column for key, column in pairs.items() if column}


def model_obs(query: Query, row: dict, card: dict, plan: dict) -> pd.DataFrame:
    """The columns of obs that the model reads, under its own keys, and the batches of one that reads none, of the query's cells in
    their order."""
    obs = pd.DataFrame(index=pd.RangeIndex(query.n_obs))
    if card["batch_key"]:
        obs[card["batch_key"]] = pd.Categorical(_batches(query, row, card, plan))
    elif column := batch_column(query, row, card):
        obs[column] = pd.Categorical(as_text(query.obs_column(row["batch_key"])))
    given = pair_labels(row["labels_keys"], list(card["labels"]))
    for key in card["labels"]:
        obs[key] = pd.Categorical(_labels(query, given.get(key), card["labels"][key], card))
    for key, column in pair_covariates(row["categorical_covariate_keys"], card["categorical_covariates"]).items():
        obs[key] = pd.Categorical(spell(as_text(query.obs_column(column)), card["categorical_covariates"][key]).values)
    for key, column in pair_covariates(row["continuous_covariate_keys"], card["continuous_covariates"]).items():
        obs[key] = query.obs_column(column).to_numpy(float)
    if card["size_factor_key"]:
        obs[card["size_factor_key"]] = query.obs_column(row["size_factor_key"]).to_numpy(float)
    return obs


def _batches(query: Query, row: dict, card: dict, plan: dict) -> np.ndarray:
    names = {value: batch["name"] for value, batch in plan["batches"].items()}
    if row["one_batch"] or row["batch_key"] not in query.obs_columns:
        return np.full(query.n_obs, next(iter(names.values())), dtype=object)
    return np.array([names[value] for value in batches(query, row["batch_key"], card).values], dtype=object)


def batches(query: Query, column: str, card: dict) -> Spelled:
    """The query's batches: the reference's own where surgery takes no others."""
    return spell(as_text(query.obs_column(column)), card["batches"] if card["fixed_batches"] else ())


def name_batches(values: list[str], row: dict, card: dict) -> dict[str, str]:
    """The name under which surgery sees each of the query's batches: its own, unless the model has a batch called so."""
    if card["fixed_batches"]:
        return {value: value for value in values}
    file = f"{row['dataset']}.{row['file_id']}"
    known = set(card["batches"])
    if row["one_batch"]:
        return dict.fromkeys(values, new_name(file, known))
    taken = known | set(values)
    return {value: new_name(f"{value}@{file}", taken) if value in known else value for value in values}


def _labels(query: Query, column: str | None, known: list[str], card: dict) -> np.ndarray:
    """The query's labels. One that is missing, or that the model cannot make use of, is the unlabeled category."""
    if not column:
        return np.full(query.n_obs, unlabeled(card), dtype=object)
    labels = spell(as_text(query.obs_column(column)), [*known, unlabeled(card)]).values
    usable = labels != ""
    if card["unlabeled_category"] is not None and not card["takes_new_labels"]:
        usable &= np.isin(labels, known)
    labels[~usable] = unlabeled(card)
    return labels
