"""What mapped pairs show of the labels' trust: figures of a run, and tables of all of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import f1_score, roc_auc_score

from .pairs import LABEL, TRUTH

UNKNOWN, EMPTY, SEPARATOR = "Unknown", "(none)", " | "
# A type is called `Unknown` where so many of its cells are.
MOSTLY = 0.5
# What is asked for: a gene view that knows a type, how well such a type is found, certainty, groups to look at, large types, lights.
RECOGNISED, FOUND, MOST_ERROR, FIRST_GROUPS, LARGE, MOST_AMBER = 0.85, 0.95, 0.05, 3, 50, 0.1


@dataclass(frozen=True)
class Run:
    """A mapping of a pair's query.

    record    of the mapping: mapping.json
    cells     a row a cell of the query, its own label in `truth`
    groups    the table of groups, types that the reference seems to lack first
    """

    pair: str
    left_out: str | None
    seed: int
    record: dict
    cells: pd.DataFrame
    groups: pd.DataFrame

    @classmethod
    def read(cls, folder: Path, pair: str, left_out: str | None, seed: int) -> Run:
        record = json.loads((folder / "mapping.json").read_text())
        return cls(pair, left_out, seed, record, pd.read_parquet(folder / "cells.parquet"), pd.read_csv(folder / "groups.csv"))

    @property
    def truth(self) -> np.ndarray:
        return self.cells[TRUTH].astype(str).to_numpy()

    def light(self, part: str) -> str:
        return self.record["trust"][part]["light"]


def with_all_types(run: Run) -> dict:
    """What is seen where nothing was left out: table A."""
    labels, calibration = run.record["trust"]["figures"], run.record["calibration"]
    by_model, by_genes = (calibration[f"{LABEL}_{name}"] for name in ("transferred", "by_genes"))
    sets = run.cells[f"{LABEL}_label_set"].astype(object).fillna(EMPTY)
    members = [() if one == EMPTY else one.split(SEPARATOR) for one in sets]
    groups = labels["groups"]
    return {
        "pair": run.pair,
        "seed": run.seed,
        "cells": len(run.cells),
        "right": by_model["accuracy"],
        "right by genes": by_genes["accuracy"],
        "expected": labels["certain"]["value"],
        "error of certainty": by_model["ece"],
        "error by genes": by_genes["ece"],
        "`Unknown`": (run.cells[f"{LABEL}_transferred"].astype(object) == UNKNOWN).mean(),
        "sets that hold it": np.mean([true in one for true, one in zip(run.truth, members)]),
        "labels in a set": np.mean([len(one) for one in members]),
        "novel groups": len(groups["groups"]) + groups["n_smaller"] if groups["value"] is not None else None,
        "states": groups.get("n_states"),
        "cells in either": run.cells["novel_group"].notna().mean(),
        "labels": run.light("labels"),
        "embedding": run.light("embedding"),
    }


def recognised(run: Run) -> dict[str, float]:
    """How well the gene view tells each type that the query has, where the reference has them all: F1 by type."""
    called = run.cells[f"{LABEL}_by_genes"].astype(object).fillna(UNKNOWN).astype(str)
    types = sorted(set(run.truth))
    return dict(zip(types, f1_score(run.truth, called, labels=types, average=None, zero_division=0)))


def rank_of_group(run: Run) -> int | None:
    """The place in the table of groups, flagged or not, of the first most of whose cells are of the type that was left out."""
    mostly = run.cells.assign(is_it=run.truth == run.left_out).groupby("own_cluster", observed=True)["is_it"].mean()
    ranks = {group: rank for rank, group in enumerate(run.groups["group"], 1)}
    return min((ranks[group] for group, share in mostly.items() if share > 0.5), default=None)


def without_a_type(run: Run, known: Run | None) -> dict:
    """What is seen of a type that was left out: table B. `known` is the run of the same pair and seed with all types."""
    is_it = run.truth == run.left_out
    called = run.cells[f"{LABEL}_transferred"].astype(object).astype(str).to_numpy()
    unknown, grouped = called == UNKNOWN, run.cells["novel_group"].notna().to_numpy()
    most = pd.Series(called[is_it]).value_counts()
    scores = {
        "score": run.cells["novel_score"],
        "distance": run.cells["reference_distance"],
        "uncertainty": run.cells[f"{LABEL}_uncertainty"],
        "1 - certainty": 1 - run.cells[f"{LABEL}_certainty"],
    }
    return {
        "pair": run.pair,
        "left out": run.left_out,
        "seed": run.seed,
        "cells": int(is_it.sum()),
        "F1 if known": recognised(known).get(run.left_out) if known else None,
        **{name: _area(is_it, values.to_numpy(dtype=float)) for name, values in scores.items()},
        "in novel groups": grouped[is_it].mean(),
        "others in them": grouped[~is_it].mean(),
        "first group": rank_of_group(run),
        "`Unknown`": unknown[is_it].mean(),
        "others `Unknown`": unknown[~is_it].mean(),
        "named, unopposed": (~unknown & ~grouped)[is_it].mean(),
        "called": f"{most.index[0]} {most.iloc[0] / is_it.sum():.2f}",
        "labels": run.light("labels"),
        "embedding": run.light("embedding"),
    }


def _area(is_it: np.ndarray, scores: np.ndarray) -> float | None:
    known = ~np.isnan(scores)
    return roc_auc_score(is_it[known], scores[known]) if 0 < is_it[known].sum() < known.sum() else None


def aims(a: pd.DataFrame, b: pd.DataFrame) -> list[str]:
    """What is asked for, and what was found: a sentence each."""
    lines = []
    if len(b):
        easy = b[b["F1 if known"].astype(float) >= RECOGNISED]
        areas = {name: easy[name].astype(float).mean() for name in ("score", "distance", "uncertainty", "1 - certainty")}
        listed = ", ".join(f"{name} {value:.2f}" for name, value in areas.items())
        lines.append(
            f"Mean AUROC over the {len(easy)} left-out types that the gene view knows (F1 of {RECOGNISED} or more): {listed}."
        )
        lines.append(
            f"Of these the score reaches {FOUND} for {(easy['score'] >= FOUND).sum()}; of all {len(b)}, for {(b['score'] >= FOUND).sum()}."
        )
        large = b[b["cells"] > LARGE]
        first = large["first group"].astype(float) <= FIRST_GROUPS
        seen, known = first | (large["`Unknown`"] >= MOSTLY), large["F1 if known"].astype(float) >= RECOGNISED
        missed = ", ".join(f"{row['left out']} ({row['pair']})" for _, row in large[known & ~seen].iterrows())
        lines.append(
            f"Left-out types of more than {LARGE} cells that are most of one of the first {FIRST_GROUPS} groups, or half of whose cells "
            f"are `Unknown` (aim: all): of those that the gene view knows {(seen & known).sum()} of {known.sum()}"
            f"{f', not {missed}' if missed else ''} ({(first & known).sum()} by groups alone); "
            f"of the others {(seen & ~known).sum()} of {(~known).sum()}."
        )
        lines.append(f"Lights of the labels with a type left out: {_counts(b['labels'])}.")
    if len(a):
        for name, what in (("error of certainty", "transferred labels"), ("error by genes", "labels by genes")):
            lines.append(
                f"Calibration error of the {what} (aim: {MOST_ERROR} at most): {(a[name] <= MOST_ERROR).sum()} of {len(a)} queries "
                f"within it, {a[name].max():.2f} at worst."
            )
        worse = (a["labels"] != "green").sum()
        lines.append(
            f"Queries with nothing left out whose labels are not green (aim: {MOST_AMBER:.0%} at most): {worse} of {len(a)}; "
            f"embeddings: {_counts(a['embedding'])}."
        )
    return lines


def _counts(lights: pd.Series) -> str:
    return ", ".join(f"{n} {light}" for light, n in lights.value_counts().items())


def why(runs: list[Run]) -> list[str]:
    """The reasons of lights that are not green, of queries with nothing left out."""
    return [
        f"{run.pair}, {part}, {run.light(part)}: {' '.join(run.record['trust'][part]['reasons'])}"
        for run in runs
        for part in ("labels", "embedding")
        if run.light(part) != "green"
    ]


def markdown(rows: pd.DataFrame) -> str:
    def shown(value: object) -> str:
        if value is None or (isinstance(value, float) and np.isnan(value)):
            return "-"
        return f"{value:.2f}" if isinstance(value, float | np.floating) else str(value).replace("|", "\\|")

    lines = [
        list(rows.columns),
        ["---"] * rows.shape[1],
        *([shown(value) for value in row] for row in rows.astype(object).to_numpy()),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def tables(runs: list[Run]) -> str:
    """Both tables, the reasons of lights and what is asked for, as Markdown."""
    whole = [run for run in runs if run.left_out is None]
    by_pair = {(run.pair, run.seed): run for run in whole}
    a = pd.DataFrame([with_all_types(run) for run in whole])
    lacking = [run for run in runs if run.left_out is not None]
    b = pd.DataFrame([without_a_type(run, by_pair.get((run.pair, run.seed))) for run in lacking])
    if len(b):
        b["first group"] = b["first group"].astype("Int64").astype(object).where(b["first group"].notna(), None)
        b = b.sort_values(["pair", "seed", "left out"], kind="stable")
    parts = [
        ("A. No type left out", markdown(a) if len(a) else ""),
        ("Why lights are not green", "".join(f"- {line}\n" for line in why(whole))),
        ("B. A type left out", markdown(b) if len(b) else ""),
        ("What is asked for", "".join(f"- {line}\n" for line in aims(a, b))),
    ]
    return "\n".join(f"## {title}\n\n{text}" for title, text in parts if text)
