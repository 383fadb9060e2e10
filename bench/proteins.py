#!/usr/bin/env python
"""How well totalVI imputes the proteins of cells that come without: the table of docs/families/totalvi.md.

    (. containers/activate scvi && python bench/proteins.py cite.h5ad [--rna-only other.h5ad])

Half of the cells of a CITE-seq file are the reference, and the proteins of the others are hidden; all by the pipeline itself, with
its defaults. Each protein is correlated with the truth (Pearson's r of log1p), and beside it what else one could do: the mean of the
reference's cells of the cell's own type, which nobody knows of a query, and the mean of its nearest cells of the reference. With
`--rna-only`, another file without proteins is mapped too, and it is told how imputed CD4 and CD8 part its T cells. The file has counts
in X, proteins in `obsm`, types in `obs`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import anndata as ad
import click
import numpy as np
import pandas as pd
from lib.pipeline import map_onto
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsRegressor

NEIGHBORS = 15


def latent_of(folder: Path, reference: ad.AnnData) -> np.ndarray:
    """Where the reference's own cells lie, by scvi-tools itself."""
    from scvi.model import TOTALVI

    return TOTALVI.load(str(folder / "out/reference_model"), adata=reference.copy()).get_latent_representation()


def correlations(guesses: dict[str, pd.DataFrame], truth: pd.DataFrame) -> pd.DataFrame:
    """Pearson's r of log1p, proteins x guesses."""
    return pd.DataFrame({name: [np.corrcoef(np.log1p(guess[protein]), np.log1p(truth[protein]))[0, 1] for protein in truth] for name, guess in guesses.items()}, index=truth.columns)  # fmt: skip


def print_table(table: pd.DataFrame, first: str) -> None:
    print(f"| {first} | " + " | ".join(table.columns) + " |\n| --- |" + " ---: |" * table.shape[1])
    for name, values in table.iterrows():
        print(f"| {name} | " + " | ".join(f"{value:.2f}" for value in values) + " |", flush=True)


def t_cells(mapped: ad.AnnData) -> None:
    """Whether imputed CD4 and CD8 exclude each other in T cells, and agree with the genes CD8A and CD8B, which were measured."""
    foreground = mapped.obsm["protein_foreground_probability"]

    def of(name: str) -> np.ndarray:
        return foreground[
            next(column for column in foreground if column.upper().split("_")[0].split("-")[0] in (name, f"{name}A"))
        ].to_numpy()

    t = of("CD3") > 0.5
    cd4, cd8 = of("CD4")[t], of("CD8")[t]
    genes = [gene for gene in ("CD8A", "CD8B") if gene in mapped.var_names]
    measured = np.asarray(mapped[t, genes].X.sum(axis=1)).ravel() > 0
    print(f"{t.sum():,} of {mapped.n_obs:,} cells have imputed CD3; of these have")
    for what, share in (
        ("CD4 alone", (cd4 > 0.5) & (cd8 <= 0.5)), ("CD8 alone", (cd8 > 0.5) & (cd4 <= 0.5)), ("both", (cd4 > 0.5) & (cd8 > 0.5)), ("neither", (cd4 <= 0.5) & (cd8 <= 0.5)),
    ):  # fmt: skip
        print(f"  {what}: {share.mean():.2f}")
    print(f"AUROC of CD8 less CD4 for cells with a count of {' or '.join(genes)}: {roc_auc_score(measured, cd8 - cd4):.2f}")


@click.command()
@click.argument("cite", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--rna-only", type=click.Path(exists=True, path_type=Path), help="A query without proteins.")
@click.option("--proteins", default="protein_expression", show_default=True, help="Key of obsm.")
@click.option("--types", default="cell_type", show_default=True, help="Column of obs.")
@click.option("--epochs", default=100, show_default=True)
def main(cite: Path | None, rna_only: Path | None, proteins: str, types: str, epochs: int) -> None:
    if cite is None:
        print("proteins.py: skipped, as it needs a CITE-seq file")
        return
    cells = ad.read_h5ad(cite)
    hidden = np.random.default_rng(0).random(cells.n_obs) < 0.5
    reference, query, truth = cells[~hidden].copy(), cells[hidden].copy(), cells.obsm[proteins][hidden]
    known, of_type = reference.obsm[proteins], reference.obs[types].astype(str).to_numpy()
    del query.obsm[proteins]
    queries = {"hidden": query} | ({"rna_only": ad.read_h5ad(rna_only)} if rna_only else {})
    with tempfile.TemporaryDirectory() as name:
        reference.obs["lane"] = "reference"
        keys = {"family": "totalvi", "reference_batch_key": "lane", "reference_protein_key": proteins}
        runs = map_onto(Path(name), reference, queries, **keys, reference_max_epochs=epochs)
        mapped = {query: cells for query, (cells, _record) in runs.items()}
        latent = latent_of(Path(name), reference)
    near = KNeighborsRegressor(NEIGHBORS).fit(latent, np.log1p(known)).predict(mapped["hidden"].obsm["X_emb"])
    by_type = np.log1p(known).groupby(of_type).mean().loc[query.obs[types].astype(str)]
    guesses = {
        "totalVI": mapped["hidden"].obsm["protein_imputed"],
        "mean of its true type": pd.DataFrame(np.expm1(by_type.to_numpy()), columns=known.columns),
        "kNN regression": pd.DataFrame(np.expm1(near), columns=known.columns),
    }
    table = correlations(guesses, truth)
    table.loc["mean"] = table.mean()
    print(f"{reference.n_obs:,} cells of reference, {query.n_obs:,} without proteins, {cells.n_vars:,} genes\n")
    print_table(table, "protein")
    within = []
    for label, places in query.obs.reset_index().groupby(types, observed=True).indices.items():
        if label != "Unknown" and len(places) >= 100:
            part = {name: guess.iloc[places] for name, guess in guesses.items() if name != "mean of its true type"}
            within.append(correlations(part, truth.iloc[places]).mean().rename(f"{label} ({len(places)} cells)"))
    print("\nWithin a type, mean of the proteins:\n")
    print_table(pd.DataFrame(within), "type")
    if rna_only:
        print()
        t_cells(mapped["rna_only"])


if __name__ == "__main__":
    main()
