"""Real cells in small numbers: a reference's, and those of a query."""

import os

# Threads that wait for each other do not spin meanwhile, which takes many times as long where the cores have other work too.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import pytest  # noqa: E402


def pytest_sessionstart(session):
    from mapping import start_helpers

    if not session.config.option.collectonly:
        start_helpers()


def _few_genes(adata):
    """The 200 genes with the most counts, as they stand in the file."""
    totals = np.asarray(adata.X.sum(axis=0)).ravel()
    return adata[:, np.sort(np.argsort(-totals, kind="stable")[:200])].copy()


@pytest.fixture(scope="session")
def cells(pbmc):
    """The reference: 300 cells x 200 genes, counts (CSR); obs ``batch`` (ref_a, ref_b) and ``bulk_labels``."""
    return _few_genes(pbmc)[np.random.default_rng(0).permutation(pbmc.n_obs)[:300]].copy()


@pytest.fixture(scope="session")
def query(pbmc):
    """200 other cells, 180 of the genes shuffled among 20 others; obs ``donor`` (d1, d2) and ``cell_type``."""
    rng = np.random.default_rng(0)
    few = _few_genes(pbmc).var_names
    others = pbmc.var_names.difference(few, sort=False)[:20]
    genes = rng.permutation(np.concatenate([rng.permutation(few)[:180], others]))
    adata = pbmc[np.random.default_rng(0).permutation(pbmc.n_obs)[300:500], genes].copy()
    adata.obs = pd.DataFrame(
        {
            "donor": pd.Categorical(["d1" if i % 2 else "d2" for i in range(adata.n_obs)]),
            "cell_type": pd.Categorical(adata.obs["bulk_labels"].astype(str)),
        },
        index=adata.obs_names,
    )
    return adata
