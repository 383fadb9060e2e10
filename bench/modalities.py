#!/usr/bin/env python
"""How well Multigrate embeds cells of which one modality alone was measured: the table of docs/families/multigrate.md.

    (. containers/activate scvi && python bench/modalities.py cite.h5ad)

Half of the cells of a CITE-seq file are the reference: once all of them with both modalities, once a third without proteins and a
third without RNA. The others are mapped with both, by RNA alone and by proteins alone, trained as the pipeline does by its defaults.
Told is the share of cells whose nearest cells of the reference have their type for the most part. The file has counts in X, proteins
in `obsm`, types in `obs`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import anndata as ad
import click
import numpy as np
from scipy import sparse
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bin"))

from refmap.families import trainable  # noqa: E402
from refmap.families.base import Settings  # noqa: E402
from refmap.families.multigrate import MultigrateFamily  # noqa: E402
from refmap.reference.inspection import inspect_model  # noqa: E402

NEIGHBORS = 15


def laid_out(cells: ad.AnnData, proteins: str, kept: np.ndarray, batch: str) -> ad.AnnData:
    """Aligned cells, as training takes them; `kept` says of each whether its RNA and its proteins (cells x 2) are."""
    parts = (sparse.csr_matrix(cells.X), sparse.csr_matrix(cells.obsm[proteins].to_numpy()))
    parts = [sparse.diags(keep.astype(np.float32)) @ part for part, keep in zip(parts, kept.T, strict=True)]
    result = ad.AnnData(sparse.hstack(parts, format="csr", dtype=np.float32), obs=cells.obs[[]].copy())
    result.obs["batch"] = batch
    result.obs["batch"] = result.obs["batch"].astype("category")
    result.X.eliminate_zeros()
    result.var_names = [*cells.var_names, *cells.obsm[proteins].columns]
    return result


@click.command()
@click.argument("cite", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--proteins", default="protein_expression", show_default=True, help="Key of obsm.")
@click.option("--types", default="cell_type", show_default=True, help="Column of obs.")
@click.option("--epochs", default=100, show_default=True)
def main(cite: Path | None, proteins: str, types: str, epochs: int) -> None:
    if cite is None:
        print("modalities.py: skipped, as it needs a CITE-seq file")
        return
    cells = ad.read_h5ad(cite)
    cells = cells[cells.obs[types].astype(str) != "Unknown"].copy()
    rng = np.random.default_rng(0)
    held = rng.random(cells.n_obs) < 0.5
    reference, query = cells[~held].copy(), cells[held].copy()
    third = rng.integers(3, size=reference.n_obs)
    groups = json.loads((ROOT / "nextflow_schema.json").read_text())["$defs"].values()
    schema = {key: spec.get("default") for group in groups for key, spec in group["properties"].items()}
    options = {name: option.default for name, option in trainable()["multigrate"].options.items()}
    settings = {
        "batch_key": "batch", "categorical_covariate_keys": [], "continuous_covariate_keys": [], "max_epochs": epochs, "seed": 0,
        "n_latent": schema["reference_n_latent"], "n_layers": schema["reference_n_layers"], "options": options,
        "modalities": {"rna": cells.n_vars, "protein": cells.obsm[proteins].shape[1]},
    }  # fmt: skip
    whole = np.ones((reference.n_obs, 2), dtype=bool)
    print(f"{reference.n_obs:,} cells of reference, {query.n_obs:,} of query\n\n| reference | query | accuracy | F1 (macro) |\n| --- | --- | ---: | ---: |")
    for name, kept in (("all with both", whole), ("a third each with both, RNA, proteins", np.column_stack([third != 2, third != 1]))):
        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder) / "model"
            MultigrateFamily().train_reference(laid_out(reference, proteins, kept, "a"), settings, model, lambda line: None)
            card = inspect_model(model).to_json()

            def embed(data: ad.AnnData, max_epochs: int, model: Path = model, card: dict = card) -> np.ndarray:
                surgery = MultigrateFamily().surgery().prepare(model, data, card, Settings())
                surgery.seed(0)
                if max_epochs:
                    surgery.train({"max_epochs": max_epochs, "early_stopping": True, "check_val_every_n_epoch": 1}, lambda line: None)
                return surgery.embed()

            near = KNeighborsClassifier(NEIGHBORS).fit(embed(laid_out(reference, proteins, kept, "a"), 0), reference.obs[types].astype(str))
            for what, measured in (("both", (True, True)), ("RNA", (True, False)), ("proteins", (False, True))):
                latent = embed(laid_out(query, proteins, np.tile(measured, (query.n_obs, 1)), "b"), 50)
                found, truth = near.predict(latent), query.obs[types].astype(str)
                print(f"| {name} | {what} | {np.mean(found == truth):.3f} | {f1_score(truth, found, average='macro'):.3f} |", flush=True)


if __name__ == "__main__":
    main()
