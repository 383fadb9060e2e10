"""Small models of scvi-tools' classes, each trained for one epoch on 200 real cells.

The fixtures of conftest.py give the usual ones; a test asks here for a variant: `save_model("SCVI", cells, folder, ...)`.
"""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

N_CELLS, N_GENES, N_PROTEINS = 200, 120, 8

# What each class needs besides the defaults: arguments of its setup and of its constructor.
# Surgery-ready wherever the class lets one choose: the encoder sees the batch, and nothing has batch norm.
READY = {"encode_covariates": True, "use_batch_norm": "none", "use_layer_norm": "both"}
LABELS = {"labels_key": "bulk_labels", "unlabeled_category": "Unknown"}
PROTEINS = {"protein_expression_obsm_key": "protein_expression"}
RECIPES = {
    "SCVI": ({}, READY),
    "SCANVI": (LABELS, READY),
    "TOTALVI": (PROTEINS, {"use_batch_norm": "none", "use_layer_norm": "both"}),
    "TOTALANVI": (PROTEINS | LABELS, {"use_batch_norm": "none", "use_layer_norm": "both"}),
    "PEAKVI": ({}, {"encode_covariates": True}),
    "POISSONVI": ({}, {"encode_covariates": True}),
    "DRVI": ({}, {"encode_covariates": True}),
    "JointEmbeddingSCVI": ({}, READY),
    "MRVI": ({"sample_key": "sample"}, {}),
    "SysVI": ({}, {}),
    "CYTOVI": ({}, {"encode_covariates": True}),
}


def model_class(name: str) -> type:
    """A class of scvi-tools by its name."""
    import scvi

    return getattr(scvi.model, name, None) or getattr(scvi.external, name)


def small_cells(counts, seed: int = 0):
    """200 cells x 120 genes of `counts` in random order, with what any class may ask for.

    obs: `batch` (ref_a, ref_b), `bulk_labels` (with `Unknown` for every tenth cell), `sample` (4), `chemistry` (2), `age`;
    obsm: `protein_expression`, 8 "proteins" that are counts of other genes of the same cells.
    """
    rng = np.random.default_rng(seed)
    cells = rng.permutation(counts.n_obs)[:N_CELLS]
    expressed = np.argsort(-np.asarray(counts.X.sum(axis=0)).ravel(), kind="stable")
    genes, proteins = expressed[N_PROTEINS : N_PROTEINS + N_GENES], expressed[:N_PROTEINS]
    adata = counts[cells, genes].copy()
    adata = adata[np.asarray(adata.X.sum(axis=1)).ravel() > 0].copy()
    adata.obsm["protein_expression"] = pd.DataFrame(
        counts[adata.obs_names, proteins].X.toarray(),
        index=adata.obs_names,
        columns=[f"{gene}_prot" for gene in counts.var_names[proteins]],
    )
    labels = adata.obs["bulk_labels"].astype(str).to_numpy(dtype=object)
    labels[::10] = "Unknown"
    adata.obs["bulk_labels"] = pd.Categorical(labels)
    adata.obs["sample"] = pd.Categorical([f"s{i % 4}" for i in range(adata.n_obs)])
    adata.obs["chemistry"] = pd.Categorical(["v2" if i % 3 else "v3" for i in range(adata.n_obs)])
    adata.obs["age"] = rng.normal(40, 10, adata.n_obs)
    return adata


def input_of(name: str, adata):
    """The same cells on the scale that the class wants: log-normalised for SysVI and CYTOVI, counts for the others."""
    adata = adata.copy()
    if name in ("SysVI", "CYTOVI"):
        counts = adata.X.toarray()
        adata.X = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e3).astype(np.float32)
    return adata


def new_model(name: str, adata, setup: dict | None = None, settings: dict | None = None):
    """Train a small model of a class for one epoch; `setup` and `settings` come on top of its recipe."""
    import scvi

    scvi.settings.seed = 0
    recipe_setup, recipe_settings = RECIPES[name]
    adata, cls = input_of(name, adata), model_class(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cls.setup_anndata(adata, batch_key="batch", **(recipe_setup | (setup or {})))
        model = cls(adata, **({"n_latent": 5} | recipe_settings | (settings or {})))
        model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    return model


def save_model(name: str, adata, folder: Path, setup: dict | None = None, settings: dict | None = None) -> Path:
    """Train a small model of a class and save it; returns its folder."""
    new_model(name, adata, setup, settings).save(str(folder), overwrite=True)
    return folder


def save_legacy(model_folder: Path, folder: Path) -> Path:
    """Rewrite a saved model in the three files of scvi-tools before 0.15, whose registry had no `setup_method_name`."""
    import torch

    saved = torch.load(model_folder / "model.pt", map_location="cpu", weights_only=False)
    folder.mkdir()
    saved["attr_dict"]["registry_"].pop("setup_method_name")
    (folder / "attr.pkl").write_bytes(pickle.dumps(saved["attr_dict"], protocol=4))
    np.savetxt(folder / "var_names.csv", saved["var_names"], fmt="%s")
    torch.save(saved["model_state_dict"], folder / "model_params.pt")
    return folder
