#!/usr/bin/env python
"""How well SageNet finds the places of cells in a tissue: the tables and the picture of docs/families/sagenet.md.

    (. containers/activate scvi && python bench/spatial.py spatial.h5ad [dissociated.h5ad] [--picture docs/images/sagenet_tissue.png])

Half of the cells of a spatial file (counts in X, coordinates in `obsm['spatial']`, types in obs) are the reference, whose tissue is
cut into partitions, and the others are a query whose places are known; a second file of dissociated cells of the same types is
mapped too. Beside SageNet stand chance (partitions as frequent as in the reference, the middle of the tissue) and what needs no
model: the nearest cells of the reference by the same genes, whose partitions and places they take. All by the pipeline itself.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import anndata as ad
import click
import numpy as np
import pandas as pd
from lib.pipeline import map_onto
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr
from sklearn.neighbors import NearestNeighbors

NEIGHBORS, EPOCHS, SEED = 15, 200, 0
TABLE, PLACE = "| " + " | ".join(["{}"] * 5) + " |", "spatial_predicted"


def logged(cells: ad.AnnData, genes: list[str]) -> np.ndarray:
    """log1p of counts per 10,000 of these genes, as SageNet sees them: cells x genes."""
    counts = cells[:, genes].X
    counts = np.asarray(counts.toarray() if hasattr(counts, "toarray") else counts, dtype=float)
    return np.log1p(1e4 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))


def most(labels: np.ndarray) -> np.ndarray:
    """The most frequent label of each row."""
    return pd.DataFrame(labels).mode(axis=1)[0].to_numpy()


def enrichment(partition: np.ndarray, types: np.ndarray, of_reference: pd.DataFrame) -> float:
    """How many times more frequent a cell's type is in the partition it was given than in the tissue, the mean over types."""
    shares = pd.crosstab(of_reference["type"], of_reference["partition"], normalize="columns")
    overall = of_reference["type"].value_counts(normalize=True)
    found = pd.DataFrame({"type": types, "times": [shares.loc[t, p] / overall[t] for t, p in zip(types, partition, strict=True)]})
    return found.groupby("type")["times"].mean().mean()


def draw(
    path: Path, reference: ad.AnnData, query: ad.AnnData, mapped: ad.AnnData, column: str, at: np.ndarray, nearest: np.ndarray
) -> None:
    """The tissue by partition, the query's cells in their true places, and these by what was predicted."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.6), layout="constrained")
    names = sorted(set(nearest))
    colors = {name: f"C{i}" for i, name in enumerate(names)}
    panels = {
        f"reference: {reference.n_obs} cells, '{column}'": (at, reference.obs["partition"]),
        f"{query.n_obs} cells held out, their partition": (query.obsm["spatial"], nearest),
        "the same, as predicted": (query.obsm["spatial"], mapped.obs[f"{column}_predicted"]),
    }
    for axis, (title, (places, values)) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        axis.scatter(*np.asarray(places).T[:2], s=8, c=[colors.get(value, "grey") for value in values], linewidths=0)
        axis.set_title(title, fontsize=9, loc="left")
        axis.set(aspect="equal", xticks=[], yticks=[])
    figure.savefig(path, dpi=90)


@click.command()
@click.argument("spatial", required=False, type=click.Path(exists=True, path_type=Path))
@click.argument("dissociated", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--types", default="cell_type", show_default=True, help="Column of obs.")
@click.option("--resolutions", default="0.05,0.1,0.5", show_default=True)
@click.option("--epochs", default=EPOCHS, show_default=True)
@click.option("--picture", type=click.Path(path_type=Path), help="Draw the tissue to this file.")
def main(spatial: Path | None, dissociated: Path | None, types: str, resolutions: str, epochs: int, picture: Path | None) -> None:
    if spatial is None:
        print("spatial.py: skipped, as it needs a file of cells with coordinates")
        return
    cells = ad.read_h5ad(spatial)
    held = np.random.default_rng(SEED).random(cells.n_obs) < 0.5
    reference, query = cells[~held].copy(), cells[held].copy()
    queries = {"held_out": query} | ({"dissociated": ad.read_h5ad(dissociated)} if dissociated else {})
    keys = {"family": "sagenet", "reference_spatial_key": "spatial", "reference_options": f"resolutions={resolutions}"}
    with tempfile.TemporaryDirectory() as name:
        runs = map_onto(Path(name), reference, queries, "distance_map=true", **keys, reference_max_epochs=epochs)
        trained = ad.read_zarr(next(Path(name).glob("work/*/*/aligned.zarr")))
    mapped = runs["held_out"][0]
    at, truth = np.asarray(reference.obsm["spatial"], dtype=float), np.asarray(query.obsm["spatial"], dtype=float)
    columns = [f"leiden_{float(resolution):g}" for resolution in resolutions.split(",")]
    partitions = {column: trained.obs[column].astype(str).to_numpy() for column in columns}

    genes = list(reference.var_names)
    by_genes = NearestNeighbors(n_neighbors=NEIGHBORS).fit(logged(reference, genes))
    near = by_genes.kneighbors(logged(query, genes), return_distance=False)
    beside = NearestNeighbors(n_neighbors=1).fit(at).kneighbors(truth, return_distance=False)[:, 0]
    print(f"{reference.n_obs} cells of reference, {query.n_obs} held out, {len(genes)} genes\n")
    print(TABLE.format("held-out cells", "partitions", "SageNet", f"{NEIGHBORS} nearest by genes", "chance"))
    print(TABLE.format("---", "---:", "---:", "---:", "---:"))
    for column, labels in partitions.items():
        true = labels[beside]
        shares = pd.Series(labels).value_counts(normalize=True)
        chance = pd.Series(true).map(shares).mean()
        ours = (mapped.obs[f"{column}_predicted"].astype(str).to_numpy() == true).mean()
        theirs = (most(labels[near]) == true).mean()
        print(TABLE.format(f"`{column}` right", len(shares), f"{ours:.2f}", f"{theirs:.2f}", f"{chance:.2f}"))
    size = np.linalg.norm(np.ptp(at, axis=0))
    guesses = [mapped.obsm[PLACE], at[near].mean(axis=1), np.repeat(at.mean(axis=0)[None], len(truth), axis=0)]
    off = [np.median(np.linalg.norm(guess - truth, axis=1)) / size for guess in guesses]
    print(TABLE.format("median distance from the true place, of the tissue's diagonal", "", *(f"{value:.2f}" for value in off)))
    distances = mapped.obsp["spatial_distances"].toarray()
    pairs = np.triu_indices(len(truth), 1)
    ranks = [spearmanr(found, pdist(truth)).statistic for found in (distances[pairs], pdist(at[near].mean(axis=1)))]
    print(
        TABLE.format("distances between cells, Spearman's r with the true ones", "", *(f"{value:.2f}" for value in ranks), "0.00")
    )

    if dissociated:
        other, found = queries["dissociated"], runs["dissociated"][0]
        shared = [gene for gene in genes if gene in set(other.var_names)]
        near = (
            NearestNeighbors(n_neighbors=NEIGHBORS)
            .fit(logged(reference, shared))
            .kneighbors(logged(other, shared), return_distance=False)
        )
        known = other.obs[types].astype(str).to_numpy()
        print(
            f"\n{other.n_obs} dissociated cells, {len(shared)} of the genes: how many times more frequent their type is where they are put\n"
        )
        print(TABLE.format("dissociated cells", "partitions", "SageNet", f"{NEIGHBORS} nearest by genes", "chance"))
        print(TABLE.format("---", "---:", "---:", "---:", "---:"))
        for column, labels in partitions.items():
            tissue = pd.DataFrame({"type": reference.obs[types].astype(str).to_numpy(), "partition": labels})
            given = found.obs[f"{column}_predicted"].astype(str).to_numpy()
            values = (enrichment(given, known, tissue), enrichment(most(labels[near]), known, tissue))
            print(TABLE.format(f"`{column}`", len(set(labels)), *(f"{value:.2f}" for value in values), "1.00"))
    if picture:
        column = columns[len(columns) // 2]
        reference.obs["partition"] = partitions[column]
        draw(picture, reference, query, mapped, column, at, partitions[column][beside])


if __name__ == "__main__":
    main()
