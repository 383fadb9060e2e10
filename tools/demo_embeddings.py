#!/usr/bin/env python
"""Write what tools/demo_embeddings maps: a reference that lacks a cell type, a query of another protocol, and a model blind to batches.

The 700 PBMCs that scanpy ships, parted as in the demo: four sevenths, less all CD19+ B cells, are the reference, the others the query.
The source names no donors, so batches are drawn at random, and what sets the query apart is made: of each gene, the query keeps a
share of its counts, from a fifth to all, that is drawn once. Run it in the environment `scvi`.
"""

import sys
import warnings
from pathlib import Path

import anndata as ad
import click
import numpy as np
import scipy.sparse as sp

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bin"))

from refmap.sheet.demo import REFERENCE_SHARE, pbmc_counts, stratified  # noqa: E402

LABELS, LEFT_OUT = "bulk_labels", "CD19+ B"
KEPT = (0.2, 1.0)
EPOCHS, LATENT = 100, 10


def parted(seed: int) -> tuple[ad.AnnData, ad.AnnData]:
    """Return the reference and the query, both with all types: counts in X; obs `batch` and `bulk_labels`."""
    rng, cells = np.random.default_rng(seed), pbmc_counts()
    inside = stratified(cells.obs[LABELS], REFERENCE_SHARE, rng)
    query = cells[~inside].copy()
    query.X = sp.csr_matrix(rng.binomial(query.X.toarray().astype(int), rng.uniform(*KEPT, query.n_vars)), dtype=np.float32)
    return cells[inside].copy(), query


def blind_model(atlas: ad.AnnData, n_latent: int, epochs: int, seed: int):
    """Train an scVI model without `encode_covariates` on a reference: its encoder never sees the batch, and surgery moves no cell."""
    import scvi

    scvi.settings.seed = seed
    scvi.model.SCVI.setup_anndata(atlas, batch_key="batch")
    model = scvi.model.SCVI(atlas, n_latent=n_latent, use_layer_norm="both", use_batch_norm="none", encode_covariates=False)
    model.train(max_epochs=epochs, accelerator="cpu", enable_progress_bar=False, logger=False)
    return model


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--seed", default=0, show_default=True)
def main(folder: Path, seed: int) -> None:
    """Write atlas.h5ad, donor_1.h5ad (counts in X; obs `batch` and `bulk_labels`, or `donor` and `cell_type`) and the model `blind` to FOLDER."""
    warnings.simplefilter("ignore")
    folder.mkdir(parents=True, exist_ok=True)
    atlas, query = parted(seed)
    atlas = atlas[atlas.obs[LABELS] != LEFT_OUT].copy()
    query.obs = query.obs.rename(columns={LABELS: "cell_type", "batch": "donor"})
    query.obs["donor"] = query.obs["donor"].astype(str).str.replace("ref", "donor").astype("category")
    atlas.write_h5ad(folder / "atlas.h5ad")
    query.write_h5ad(folder / "donor_1.h5ad")
    blind_model(atlas, LATENT, EPOCHS, seed).save(str(folder / "blind"), overwrite=True)


if __name__ == "__main__":
    main()
