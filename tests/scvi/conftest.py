"""Folders of small trained models of scvi-tools."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_models import save_legacy, save_model, small_cells


@pytest.fixture(scope="session")
def cells(pbmc):
    """The 200 cells that the models below were trained on."""
    return small_cells(pbmc)


@pytest.fixture(scope="session")
def scvi_model(cells, tmp_path_factory) -> Path:
    return save_model("SCVI", cells, tmp_path_factory.mktemp("models") / "scvi")


@pytest.fixture(scope="session")
def scvi_no_covariates_model(cells, tmp_path_factory) -> Path:
    """A reference whose encoder never saw the batch."""
    folder = tmp_path_factory.mktemp("models") / "scvi_no_covariates"
    return save_model("SCVI", cells, folder, settings={"encode_covariates": False})


@pytest.fixture(scope="session")
def scvi_covariates_model(cells, tmp_path_factory) -> Path:
    """A reference with a categorical and a continuous covariate besides the batch."""
    setup = {"categorical_covariate_keys": ["chemistry"], "continuous_covariate_keys": ["age"]}
    return save_model("SCVI", cells, tmp_path_factory.mktemp("models") / "scvi_covariates", setup)


@pytest.fixture(scope="session")
def scanvi_model(cells, tmp_path_factory) -> Path:
    return save_model("SCANVI", cells, tmp_path_factory.mktemp("models") / "scanvi")


@pytest.fixture(scope="session")
def totalvi_model(cells, tmp_path_factory) -> Path:
    return save_model("TOTALVI", cells, tmp_path_factory.mktemp("models") / "totalvi")


@pytest.fixture(scope="session")
def legacy_model(scvi_model, tmp_path_factory) -> Path:
    """The SCVI model in the files of scvi-tools before 0.15."""
    return save_legacy(scvi_model, tmp_path_factory.mktemp("models") / "legacy")


@pytest.fixture(scope="session")
def query(pbmc, cells):
    """Cells that no reference saw, genes shuffled; donors d1 and d2."""
    adata = small_cells(pbmc, seed=1)
    adata = adata[~adata.obs_names.isin(cells.obs_names)]
    adata = adata[:, np.random.default_rng(0).permutation(adata.n_vars)].copy()
    adata.obs["donor"] = pd.Categorical(["d1" if i % 2 else "d2" for i in range(adata.n_obs)])
    return adata
