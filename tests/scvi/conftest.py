"""Folders of small trained models of scvi-tools."""

from __future__ import annotations

from pathlib import Path

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
