"""Which gene programmes are higher in one group of cells than in the rest, by Bayes factors: a table and a picture.

Lotfollahi, Rybakov et al. 2023, https://doi.org/10.1038/s41556-022-01072-x: the latent posterior of a cell is normal in each
programme, so the probability that a programme is higher in one cell than in another is known exactly.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from .. import plots
from .mapped import Mapped

COLUMNS = ["group", "programme", "bayes_factor", "p", "mean_in_group", "mean_in_rest", "active"]
# Pairs of cells that are compared; more would not change the second digit of a probability.
MOST_PAIRS, PAIRS_AT_ONCE = 20_000, 2_000
# Keeps the logarithm of a probability of 0 finite.
EPSILON = 1e-12
# A natural logarithm of 2.3 is a factor of 10: strong evidence.
STRONG = 2.3
MOST_PROGRAMS_DRAWN, MOST_GROUPS_DRAWN, MOST_SHOWN = 30, 25, 5.0
# Each is compared with all other cells: a column of numbers has as many groups as cells.
MOST_GROUPS = 200


def draw_programs(mapped: Mapped) -> None:
    """Compare the programmes between the groups of the mapping's cells: `programs.csv` and `programs.png`.

    Neither is written for a query of one group alone. See :func:`compare_programs` for the table.
    """
    column, groups = find_groups(mapped)
    if groups is None or groups.nunique() < 2:
        return
    ranked = list(plots.ranked(groups).index)
    if len(ranked) > MOST_GROUPS:
        mapped.record["warnings"].append(
            f"'{column}' has {len(ranked):,} groups: programs.csv compares the {MOST_GROUPS} largest alone; name another column "
            "with the option groups."
        )
    facts, obsm = mapped.embedding.uns["refmap"], mapped.embedding.obsm
    table = compare_programs(
        np.asarray(obsm["X_emb"], dtype=float) * facts["latent_directions"],
        np.asarray(obsm["X_emb_var"], dtype=float),
        pd.DataFrame({"programme": facts["latent_names"], "active": np.asarray(facts["latent_active"], dtype=bool)}),
        groups,
        mapped.record["seed"],
        ranked[:MOST_GROUPS],
    )
    table.to_csv(mapped.output / "programs.csv", index=False)
    if table["active"].any():
        draw_table(
            table[table["active"] & table["group"].isin(ranked[:MOST_GROUPS_DRAWN])],
            mapped.name,
            column,
            mapped.output / "programs.png",
        )


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
    means: np.ndarray,
    variances: np.ndarray,
    programs: pd.DataFrame,
    groups: pd.Series,
    seed: int = 0,
    compared: Collection[str] | None = None,
) -> pd.DataFrame:
    """Compare each group of cells with all the other cells, programme by programme.

    Parameters
    ----------
    means, variances
        Of each cell's latent posterior: cells x programmes. The means are signed so that more means more of the genes.
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
        inside, outside = (np.flatnonzero(cells) for cells in (groups == group, groups.notna() & (groups != group)))
        p = probability_of_more(means[inside], variances[inside], means[outside], variances[outside], seed)
        p = np.where(programs["active"], p, 0.5)
        table = programs.assign(
            group=group,
            p=p,
            bayes_factor=np.log(p + EPSILON) - np.log(1 - p + EPSILON),
            mean_in_group=means[inside].mean(axis=0),
            mean_in_rest=means[outside].mean(axis=0),
        )
        order = np.argsort(-table["bayes_factor"].abs().to_numpy(), kind="stable")
        tables.append(table.iloc[order][COLUMNS])
    return pd.concat(tables, ignore_index=True)


def probability_of_more(
    means: np.ndarray, variances: np.ndarray, other_means: np.ndarray, other_variances: np.ndarray, seed: int = 0
) -> np.ndarray:
    """The probability that a normal value of one set of cells is above one of another, averaged over pairs of their cells.

    All arrays are cells x programmes; the result has a value a programme. All pairs are taken, or where there are more,
    `MOST_PAIRS` at random.
    """
    from scipy.special import erfc

    n, m = len(means), len(other_means)
    if n * m <= MOST_PAIRS:
        first, second = np.divmod(np.arange(n * m), m)
    else:
        rng = np.random.default_rng(seed)
        first, second = rng.integers(n, size=MOST_PAIRS), rng.integers(m, size=MOST_PAIRS)
    total = np.zeros(means.shape[1])
    for start in range(0, len(first), PAIRS_AT_ONCE):
        i, j = first[start : start + PAIRS_AT_ONCE], second[start : start + PAIRS_AT_ONCE]
        # The difference of two normal values is normal, and its variance the sum of theirs.
        total += erfc((other_means[j] - means[i]) / np.sqrt(2 * (variances[i] + other_variances[j]))).sum(axis=0)
    return total / 2 / len(first)


def draw_table(table: pd.DataFrame, name: str, column: str, path: Path) -> None:
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
        axis.set_title(f"{name}: gene programmes, each group against the rest", fontsize=9, fontweight="bold", loc="left")
        figure.colorbar(image, ax=axis, label=f"log Bayes factor (dot: beyond {STRONG:g})", extend="both", shrink=0.8)
        plots.save_png(figure, path)
