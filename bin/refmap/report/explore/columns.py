"""What cells are coloured by, as codes: an unsigned integer a cell."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..plots import ranked
from .packing import encode
from .palette import color_categories

# Codes that are no value: the cell has none, or no cell of its dataset has one while others do.
MISSING, ABSENT, FIRST = 0, 1, 2
MOST_CODE = 2**16 - 1


def code_column(name: str, values: pd.Series, dataset: np.ndarray, is_share: bool) -> dict:
    """Describe a column for the page.

    Parameters
    ----------
    values
        Of each cell that is drawn; numbers get a scale, anything else is text.
    dataset
        Int, the number of the dataset of each cell.
    is_share
        Whether numbers are coloured from 0 to 1, or further if they go there.
    """
    codes, described = _numbers(values, is_share) if _are_numbers(values) else _categories(values)
    known = np.bincount(dataset, weights=codes != MISSING)
    if known.any():
        codes[(known == 0)[dataset]] = ABSENT
    return {"name": str(name), "bytes": codes.itemsize, "codes": encode(codes), **described}


def _are_numbers(values: pd.Series) -> bool:
    """Whether there are numbers and nothing else: of a dataset that lacks the column, pandas may have made it one of objects."""
    known = values.dropna().infer_objects()
    return len(known) > 0 and pd.api.types.is_numeric_dtype(known) and not pd.api.types.is_bool_dtype(known)


def _numbers(series: pd.Series, is_share: bool) -> tuple[np.ndarray, dict]:
    """Code numbers as `low + (code - FIRST) * step`; whole ones exactly, where the codes suffice."""
    values = series.to_numpy(float, na_value=np.nan)
    known = np.isfinite(values)
    low, high = (values[known].min(), values[known].max()) if known.any() else (0.0, 0.0)
    whole = bool((values[known] == np.round(values[known])).all()) and high - low <= MOST_CODE - FIRST
    step = 1.0 if whole else (high - low) / (MOST_CODE - FIRST) or 1.0
    codes = np.full(len(values), MISSING, np.uint16)
    codes[known] = FIRST + np.round((values[known] - low) / step)
    limits = [0, max(1, high)] if is_share else [low, high]
    return codes, {"low": float(low), "step": float(step), "limits": [float(limit) for limit in limits]}


def _categories(series: pd.Series) -> tuple[np.ndarray, dict]:
    """Code text by the rank of its frequency, as the pictures do."""
    values = series.astype(object).map(str, na_action="ignore")
    names = list(ranked(values).index)
    codes = pd.Categorical(values, categories=names).codes.astype(np.int64)
    codes = np.where(codes < 0, MISSING, codes + FIRST).astype(np.min_scalar_type(len(names) + FIRST))
    return codes, {"categories": names, **color_categories(names)}
