"""Columns of obs, put together of parts that may have them or not."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..query.elements import as_text, is_number, with_missing


class Columns:
    """Columns of `n` cells, filled part by part; a cell whose part has no such column has no value in it."""

    def __init__(self, n: int):
        self.n = n
        self._pieces: dict[str, list[tuple[slice, pd.Series]]] = {}

    def add(self, name: str, rows: slice, values: pd.Series) -> None:
        """Put values, one for each of `rows`, into the column `name`. Text is held as codes of its categories."""
        if is_number(values):
            values = values.astype(np.float32)
        elif isinstance(values.dtype, pd.CategoricalDtype):
            values = values.cat.remove_unused_categories()
        else:
            values = with_missing(as_text(values.reset_index(drop=True))).astype("category")
        self._pieces.setdefault(name, []).append((rows, values.reset_index(drop=True)))

    def frame(self, names: pd.Index) -> pd.DataFrame:
        """The columns in the order of their first part: float32 where all parts hold numbers, else categorical, sorted."""
        return pd.DataFrame({name: self._join(pieces) for name, pieces in self._pieces.items()}, index=names)

    def _join(self, pieces: list[tuple[slice, pd.Series]]) -> np.ndarray | pd.Categorical:
        if all(is_number(values) for _, values in pieces):
            joined = np.full(self.n, np.nan, dtype=np.float32)
            for rows, values in pieces:
                joined[rows] = values
            return joined
        # Numbers among text are text.
        parts = [(rows, values.astype("category") if is_number(values) else values) for rows, values in pieces]
        named = [(rows, values.cat.rename_categories(values.cat.categories.map(str))) for rows, values in parts]
        categories = pd.Index(sorted({name for _, values in named for name in values.cat.categories}), dtype=object)
        codes = np.full(self.n, -1, dtype=np.int32)
        for rows, values in named:
            own = categories.get_indexer(values.cat.categories)
            given = values.cat.codes.to_numpy()
            codes[rows] = np.where(given < 0, -1, own[given]) if len(own) else -1
        return pd.Categorical.from_codes(codes, categories=categories)
