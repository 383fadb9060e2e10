"""How the labels agree that one query's cells got from several references, or of several columns of one."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from .cell_table import CELLS
from .outcomes import Outcome

COLUMNS = [
    *("query", "first_mapping", "first_labels", "first_label", "second_mapping", "second_labels", "second_label"),
    *("cells", "share_of_first", "share_of_second"),
]


@dataclass
class Agreement:
    """Two columns of labels of the same cells.

    Attributes
    ----------
    query
        The file that the cells are of, as the sheet names it.
    first, second
        Of each column, the mapping and the name in obs.
    counts
        Cells by label of the first column (rows) and of the second one (columns), each sorted; cells without either are left out.
    """

    query: str
    first: tuple[str, str]
    second: tuple[str, str]
    counts: pd.DataFrame

    @property
    def information(self) -> float | None:
        """The mutual information of both, by the mean of their entropies: 1 where each tells the other, 0 where neither does.

        None where both columns have a single label.
        """
        joint = self.counts.to_numpy(float) / self.counts.to_numpy().sum()
        first, second = joint.sum(axis=1), joint.sum(axis=0)
        entropies = [_entropy(first), _entropy(second)]
        return None if sum(entropies) == 0 else max(0.0, 2 * (1 - _entropy(joint.ravel()) / sum(entropies)))


def _entropy(shares: np.ndarray) -> float:
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


def agreements(mapped: list[Outcome]) -> list[Agreement]:
    """Compare all columns of labels, two at a time, of the mappings of each query."""
    by_query: dict[tuple, list[Outcome]] = {}
    for outcome in mapped:
        if outcome.folder and outcome.record.get("labels"):
            by_query.setdefault((outcome.row["query"], outcome.row.get("modality")), []).append(outcome)
    found = []
    for (query, _modality), outcomes in by_query.items():
        names = [(outcome, name) for outcome in outcomes for name in outcome.record["labels"]]
        if len(names) < 2:
            continue
        columns = [(outcome.name, name, _read(outcome, name)) for outcome, name in names]
        for (first, one, these), (second, other, those) in combinations(columns, 2):
            known = (these != "") & (those != "")
            if known.any():
                counts = pd.crosstab(these[known], those[known], rownames=["first"], colnames=["second"])
                found.append(Agreement(query, (first, one), (second, other), counts))
    return found


def _read(outcome: Outcome, name: str) -> pd.Series:
    return pd.read_parquet(outcome.folder / CELLS, columns=[name])[name].astype(object).fillna("")


def write_agreements(found: list[Agreement], path: Path) -> None:
    """Write a row a pair of labels that cells have."""
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for one in found:
            of_first, of_second = one.counts.sum(axis=1), one.counts.sum(axis=0)
            for (first, second), n in one.counts.stack().items():
                if n:
                    shares = (round(n / of_first[first], 4), round(n / of_second[second], 4))
                    table.writerow([one.query, *one.first, first, *one.second, second, n, *shares])
