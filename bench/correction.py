#!/usr/bin/env python
"""What the correction of an embedding wins and what it costs: the table of docs/families/embedding.md.

Queries are embedded as they are, by scVI trained on the reference without `encode_covariates`, so that surgery cannot move them, and by
the reference's principal components; each also with one cell type left out of the reference. Then they are moved by Symphony alone
and as refmap does. The queries are those of the PBMCs that scanpy ships to which a made difference is added (tools/demo_embeddings.py),
for several draws, and those of bench/trust.yml. Embedding takes the environment `scvi` (some ten minutes), the comparison `core`:

    (. containers/activate scvi && python bench/correction.py embed /work/cells results/correction)
    (. containers/activate core && python bench/correction.py compare results/correction)
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import anndata as ad
import click
import numpy as np
import pandas as pd
from lib.pairs import BATCH, LABEL, TRUTH, read_pairs

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "bin"), str(ROOT / "tools")]

LEFT_OUT = {
    "pbmcs": ("", "CD19+ B", "CD14+ Monocyte", "CD56+ NK", "Dendritic"),
    "pancreas": ("", "alpha", "beta", "ductal"),
    "ifnb": ("", "CD14 Mono", "B", "NK"),
    "celllines": ("", "HCC827", "H2228"),
}
DRAWS = 4  # of the PBMCs
# Dimensions of scVI, its epochs, and components: of some 400 cells, and of thousands
SMALL, LARGE = (10, 100, 10), (10, 60, 20)
NEIGHBORS, MOST_GENES = 50, 2000


def cases(folder: Path):
    """Name, reference (obs `batch`, `label`), query (obs `batch`, `truth`), how it is embedded, and a seed."""
    from demo_embeddings import parted

    for draw in range(DRAWS):
        atlas, query = parted(draw)
        atlas.obs[LABEL], query.obs[TRUTH] = atlas.obs["bulk_labels"], query.obs["bulk_labels"]
        yield "pbmcs", atlas, query, SMALL, draw
    for pair in read_pairs(ROOT / "bench/trust.yml", ()):
        if pair.name in LEFT_OUT:
            atlas, query = pair.cells(folder)
            genes = atlas.var_names.intersection(query.var_names)
            yield pair.name, atlas[:, genes].copy(), query[:, genes].copy(), LARGE, 0


def by_scvi(atlas: ad.AnnData, query: ad.AnnData, size: tuple[int, int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    from demo_embeddings import blind_model

    atlas, query = atlas.copy(), query.copy()
    model = blind_model(atlas, *size[:2], seed)
    query.obs[BATCH] = atlas.obs[BATCH].iloc[0]  # its encoder does not look at it
    return model.get_latent_representation(), model.get_latent_representation(query)


def by_components(atlas: ad.AnnData, query: ad.AnnData, size: tuple[int, int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    import scanpy as sc

    atlas, query = (logged(cells) for cells in (atlas, query))
    sc.pp.pca(atlas, n_comps=size[2], random_state=seed)
    loadings, mean = atlas.varm["PCs"], np.asarray(atlas.X.mean(axis=0)).ravel()
    return atlas.obsm["X_pca"], np.asarray(query.X @ loadings) - mean @ loadings


def logged(cells: ad.AnnData) -> ad.AnnData:
    import scanpy as sc

    cells = cells.copy()
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    return cells


def variable(atlas: ad.AnnData) -> np.ndarray:
    import scanpy as sc

    if atlas.n_vars <= MOST_GENES:
        return np.ones(atlas.n_vars, dtype=bool)
    return sc.pp.highly_variable_genes(logged(atlas), n_top_genes=MOST_GENES, inplace=False)["highly_variable"].to_numpy()


def judge(reference: np.ndarray, query: np.ndarray, cells: dict) -> dict[str, float]:
    """Mixing and what is expected of it, labels right of cells that the reference knows, and how a left-out type is told from them."""
    from refmap.transfer.labels import transfer_labels
    from refmap.transfer.neighbors import Index
    from refmap.transfer.separation import separation
    from refmap.trust.space import mixing
    from sklearn.metrics import roc_auc_score

    truth, known = cells["truth"], np.isin(cells["truth"], cells["label"])
    mixed = mixing(query, reference, pd.Series(cells["batch"]), 0)
    given = transfer_labels(pd.Series(cells["label"]), Index(reference).search(query, NEIGHBORS)).best
    told, missing = np.nan, truth == str(cells["left_out"])
    if missing.any():
        judged = missing | known
        told = roc_auc_score(missing[judged], separation(query, reference, 0)[judged])
    return {
        "mixing": mixed["value"],
        "expected": mixed["expected"],
        "labels right": (given == truth)[known].mean(),
        "separation": told,
    }


@click.group()
def main() -> None:
    """Measure the correction of embeddings."""
    warnings.simplefilter("ignore")


@main.command()
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def embed(data: Path, out: Path) -> None:
    """Embed all queries and references of DATA in files of OUT."""
    out.mkdir(parents=True, exist_ok=True)
    for name, whole, query, size, seed in cases(data):
        for left_out in LEFT_OUT[name]:
            atlas = whole[whole.obs[LABEL].astype(str) != left_out]
            genes = variable(atlas)
            atlas, cut = atlas[:, genes].copy(), query[:, genes].copy()
            for kind, embedded in {"scVI": by_scvi, "components": by_components}.items():
                of_atlas, of_query = embedded(atlas, cut, size, seed)
                np.savez(
                    out / f"{name}~{kind}~{left_out or 'whole'}~{seed}.npz",
                    reference=of_atlas.astype(np.float32),
                    query=of_query.astype(np.float32),
                    left_out=left_out,
                    label=atlas.obs[LABEL].to_numpy(dtype=str),
                    batch=atlas.obs[BATCH].to_numpy(dtype=str),
                    truth=cut.obs[TRUTH].to_numpy(dtype=str),
                    batch_of_query=cut.obs[BATCH].to_numpy(dtype=str),
                )
            print(name, left_out or "whole", seed, flush=True)


@main.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
def compare(folder: Path) -> None:
    """Move the embeddings of FOLDER and print the table, means over draws and left-out types."""
    from refmap.transfer.symphony import compress, correct, move, regress

    rows = []
    for path in sorted(folder.glob("*.npz")):
        cells = dict(np.load(path))
        name, kind, left_out, _seed = path.stem.split("~")
        reference, query, compressed = cells["reference"], cells["query"], compress(cells["reference"], 0)
        names, codes = np.unique(cells["batch_of_query"], return_inverse=True)
        nothing = np.zeros((len(names), query.shape[1]))
        _sizes, effects = regress(query, codes, nothing, compressed)
        for way, latent in {
            "as it is": query,
            "Symphony alone": move(query, codes, nothing, effects, compressed),
            "refmap": correct(query, cells["batch_of_query"], compressed),
        }.items():
            case = {"embedding": kind, "query": name, "left out": "none" if left_out == "whole" else "one type", "way": way}
            rows.append(case | judge(reference, latent, cells))
    table = pd.DataFrame(rows).groupby(["embedding", "query", "left out", "way"], sort=False).mean().round(3).reset_index()
    for row in [table.columns, ["---"] * table.shape[1], *table.to_numpy()]:
        print("| " + " | ".join(map(str, row)) + " |")


if __name__ == "__main__":
    main()
