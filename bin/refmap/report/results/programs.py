"""Which gene programmes are higher in one group of cells than in others, by Bayes factors: tables and pictures.

Lotfollahi, Rybakov et al. 2023, https://doi.org/10.1038/s41556-022-01072-x: the latent posterior of a cell is normal in each
programme, so the probability that a programme is higher in one cell than in another is known exactly.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from .. import plots
from .mapped import Mapped

# Pairs of cells that are compared; more would not change the second digit of a probability.
MOST_PAIRS, PAIRS_AT_ONCE = 20_000, 2_000
# Keeps the logarithm of a probability of 0 finite.
EPSILON = 1e-12
# A natural logarithm of 2.3 is a factor of 10: strong evidence.
STRONG = 2.3
MOST_PROGRAMS_DRAWN, MOST_GROUPS_DRAWN, MOST_SHOWN = 30, 25, 5.0
# Each is compared with all other cells: a column of numbers has as many groups as cells.
MOST_GROUPS = 200


@dataclass(frozen=True)
class Posteriors:
    """The latent posteriors of some cells, which are normal in each programme.

    means        float, cells x programmes, signed so that more means more of the genes
    variances    float, of the same shape
    """

    means: np.ndarray
    variances: np.ndarray

    def __getitem__(self, cells: np.ndarray) -> Posteriors:
        return Posteriors(self.means[cells], self.variances[cells])

    def __len__(self) -> int:
        return len(self.means)


def draw_programs(mapped: Mapped) -> None:
    """Compare the programmes between groups of the mapping's cells, and of each group with the reference's cells.

    Writes `programs.csv` and `programs.png`, unless the query is of one group alone: see :func:`compare_programs`. Where the
    posteriors of the reference's cells are known, `programs_reference.csv` and `programs_reference.png`: see
    :func:`compare_with_reference`.
    """
    column, groups = find_groups(mapped)
    if groups is None or not groups.notna().any():
        return
    ranked = list(plots.ranked(groups).index)
    if len(ranked) > MOST_GROUPS:
        mapped.record["warnings"].append(
            f"'{column}' has {len(ranked):,} groups: programs.csv compares the {MOST_GROUPS} largest alone; name another column "
            "with the option groups."
        )
    facts, obsm, seed = mapped.embedding.uns["refmap"], mapped.embedding.obsm, mapped.record["seed"]
    directions, names = np.asarray(facts["latent_directions"]), list(facts["latent_names"])
    programs = pd.DataFrame({"programme": names, "active": np.asarray(facts["latent_active"], dtype=bool)})
    cells = Posteriors(np.asarray(obsm["X_emb"], dtype=float) * directions, np.asarray(obsm["X_emb_var"], dtype=float))
    compared = ranked[:MOST_GROUPS]
    tables = {}
    if len(ranked) > 1:
        tables["programs"] = compare_programs(cells, programs, groups, seed, compared), "the rest"
    around = mapped.reference
    if around and "X_emb_var" in around.cells.obsm:
        known = [names.index(name) for name in around.scale["latent_names"]]
        theirs = Posteriors(
            around.cells.obsm["X_emb"] * directions[known], np.asarray(around.cells.obsm["X_emb_var"], dtype=float)
        )
        same = Posteriors(cells.means[:, known], cells.variances[:, known])
        labels = _labels(mapped)
        table = compare_with_reference(same, theirs, programs.iloc[known], groups, labels, seed, compared)
        tables["programs_reference"] = table, "the reference's cells of its labels" if labels else "the reference's cells"
    for name, (table, against) in tables.items():
        table.to_csv(mapped.output / f"{name}.csv", index=False)
        if table["active"].any():
            drawn = table[table["active"] & table["group"].isin(ranked[:MOST_GROUPS_DRAWN])]
            draw_table(
                drawn, f"{mapped.name}: gene programmes, each group against {against}", column, mapped.output / f"{name}.png"
            )


def _labels(mapped: Mapped) -> tuple[pd.Series, pd.Series] | None:
    """The labels of the query's cells and of the reference's, of the first column that was transferred; None without one.

    A cell that is `Unknown` has none.
    """
    if not mapped.reference.scale["keys"]:
        return None
    key = mapped.reference.scale["keys"][0]
    given = mapped.embedding.obs[f"{key}_transferred"].astype(object).reset_index(drop=True)
    theirs = mapped.reference.labels(key).astype(object)
    return given.where(given.isin(theirs.dropna().unique())), theirs


def find_groups(mapped: Mapped) -> tuple[str | None, pd.Series | None]:
    """The column that groups the cells, and each cell's group, None where it has none.

    It is the one that the option `groups` names, else that of the labels, else that of the truth, else that of the batches.
    """
    from ...query.elements import as_text  # the rest of this module needs no library that reads queries

    row = mapped.plan["row"]
    wanted = [mapped.plan["options"]["groups"], *row["labels_keys"], row["truth_key"], row["batch_key"]]
    column = next((key for key in wanted if key and key in mapped.query.obs_columns), None)
    if column is None:
        return None, None
    names = as_text(mapped.query.obs_column(column))
    return column, pd.Series(np.where(names == "", None, names), dtype=object)


def compare_programs(
    cells: Posteriors, programs: pd.DataFrame, groups: pd.Series, seed: int = 0, compared: Collection[str] | None = None
) -> pd.DataFrame:
    """Compare each group of cells with all the other cells, programme by programme.

    Parameters
    ----------
    cells
        Their posteriors.
    programs
        A row a programme: ``programme``, its name, and ``active``, whether it has any genes left.
    groups
        The group of each cell; cells without one take no part.
    seed
        Of the pairs of cells, where there are more than `MOST_PAIRS` of them.
    compared
        The groups that are compared with all others; None: each.

    Returns
    -------
    A row for each group and programme, sorted by the group's name and the strength of the evidence: ``p``, the probability
    that a cell of the group has more of the programme than one of the rest; ``bayes_factor``, the natural logarithm of
    p / (1 - p); the mean of both; ``active``. A programme that is switched off has a p of one half.
    """
    tables = []
    for group in sorted(groups.dropna().unique() if compared is None else compared):
        inside, outside = (cells[np.flatnonzero(some)] for some in (groups == group, groups.notna() & (groups != group)))
        pairs = all_pairs(len(inside), len(outside), seed)
        mean = {"mean_in_rest": outside.means.mean(axis=0)}
        tables.append(_compared(group, inside, outside, pairs, programs, mean))
    return pd.concat(tables, ignore_index=True)


def compare_with_reference(
    cells: Posteriors,
    reference: Posteriors,
    programs: pd.DataFrame,
    groups: pd.Series,
    labels: tuple[pd.Series, pd.Series] | None = None,
    seed: int = 0,
    compared: Collection[str] | None = None,
) -> pd.DataFrame:
    """Compare each group of a query's cells with the reference's cells, programme by programme.

    Like is compared with like: each cell with reference cells of its label, so that a group of other cell types than the
    reference's does not differ for that alone. Parameters and what is returned are as in :func:`compare_programs`, beside
    ``reference``, posteriors of the same programmes, and ``labels``, of the query's cells and of the reference's: those of the
    query without one (None) take no part, and without `labels` each is compared with all. The means are ``mean_in_group`` and
    ``mean_in_reference``; a group of which no cell takes part has no rows.
    """
    tables = []
    for group in sorted(groups.dropna().unique() if compared is None else compared):
        of_group = (groups == group).to_numpy()
        if labels is None:
            rows = np.flatnonzero(of_group)
            pairs = all_pairs(len(rows), len(reference), seed)
        else:
            rows = np.flatnonzero(of_group & labels[0].notna().to_numpy())
            pairs = pairs_of_labels(labels[0].iloc[rows], labels[1], seed)
        if len(rows):
            mean = {"mean_in_reference": reference.means[pairs[1]].mean(axis=0)}
            tables.append(_compared(group, cells[rows], reference, pairs, programs, mean))
    if not tables:
        return pd.DataFrame(columns=_columns("mean_in_reference")).astype({"active": bool})
    return pd.concat(tables, ignore_index=True)


def all_pairs(n: int, m: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Every pair of one of `n` cells and one of `m` others or, where there are more, `MOST_PAIRS` at random: their rows."""
    if n * m <= MOST_PAIRS:
        return np.divmod(np.arange(n * m), m)
    rng = np.random.default_rng(seed)
    return rng.integers(n, size=MOST_PAIRS), rng.integers(m, size=MOST_PAIRS)


def pairs_of_labels(labels: pd.Series, others: pd.Series, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Some `MOST_PAIRS` pairs of cells of one label, as many of each cell: rows of `labels` and, drawn at random, of `others`."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(labels))[:MOST_PAIRS]
    first = np.sort(np.repeat(chosen, max(1, MOST_PAIRS // max(1, len(chosen)))))
    names, second = labels.to_numpy(object)[first], np.empty(len(first), dtype=np.int64)
    for name in pd.unique(names):
        mine = names == name
        second[mine] = rng.choice(np.flatnonzero(others == name), size=mine.sum())
    return first, second


def _compared(
    group: str,
    cells: Posteriors,
    others: Posteriors,
    pairs: tuple[np.ndarray, np.ndarray],
    programs: pd.DataFrame,
    mean_in_others: dict[str, np.ndarray],
) -> pd.DataFrame:
    """The rows of a group, with the mean of the others by the name of its column."""
    p = np.where(programs["active"], probability_of_more(cells, others, pairs), 0.5)
    table = programs.assign(
        group=group,
        p=p,
        bayes_factor=np.log(p + EPSILON) - np.log(1 - p + EPSILON),
        mean_in_group=cells.means.mean(axis=0),
        **mean_in_others,
    )
    order = np.argsort(-table["bayes_factor"].abs().to_numpy(), kind="stable")
    return table.iloc[order][_columns(*mean_in_others)]


def _columns(mean_in_others: str) -> list[str]:
    return ["group", "programme", "bayes_factor", "p", "mean_in_group", mean_in_others, "active"]


def probability_of_more(cells: Posteriors, others: Posteriors, pairs: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The probability that a normal value of a cell is above one of another cell, averaged over pairs of them; a programme each."""
    from scipy.special import erfc

    first, second = pairs
    total = np.zeros(cells.means.shape[1])
    for start in range(0, len(first), PAIRS_AT_ONCE):
        these, those = cells[first[start : start + PAIRS_AT_ONCE]], others[second[start : start + PAIRS_AT_ONCE]]
        # The difference of two normal values is normal, and its variance the sum of theirs.
        total += erfc((those.means - these.means) / np.sqrt(2 * (these.variances + those.variances))).sum(axis=0)
    return total / 2 / len(first)


def draw_table(table: pd.DataFrame, title: str, column: str, path: Path) -> None:
    """Draw Bayes factors, programmes (rows: those of the strongest evidence) x groups."""
    import matplotlib
    from matplotlib.figure import Figure

    factors = table.pivot(index="programme", columns="group", values="bayes_factor")
    strongest = factors.abs().max(axis=1).sort_values(ascending=False, kind="stable").index[:MOST_PROGRAMS_DRAWN]
    shown = factors.loc[strongest]
    # Programmes stand below the group in which they are highest, the highest first.
    shown = shown.iloc[np.lexsort((-shown.max(axis=1), shown.to_numpy().argmax(axis=1)))]
    values = shown.to_numpy()
    size = np.clip((4.2 + 0.32 * shown.shape[1], 1.9 + 0.2 * shown.shape[0]), 3.5, 16)
    with matplotlib.rc_context({"text.parse_math": False, "font.size": 8}):
        figure = Figure(figsize=size, layout="constrained")
        axis = figure.subplots()
        image = axis.imshow(values, cmap="PuOr_r", vmin=-MOST_SHOWN, vmax=MOST_SHOWN, aspect="auto")
        axis.set_xticks(range(shown.shape[1]), [plots.short(group) for group in shown.columns], rotation=45, ha="right")
        axis.set_yticks(range(shown.shape[0]), [plots.short(program, 40) for program in shown.index])
        rows, columns = np.nonzero(np.abs(values) > STRONG)
        dark = np.abs(values[rows, columns]) > 0.7 * MOST_SHOWN
        axis.scatter(columns, rows, s=6, c=np.where(dark, "white", "black"), linewidths=0)
        axis.set(xlabel=column)
        axis.set_title(title, fontsize=9, fontweight="bold", loc="left")
        figure.colorbar(image, ax=axis, label=f"log Bayes factor (dot: beyond {STRONG:g})", extend="both", shrink=0.8)
        plots.save_png(figure, path)
