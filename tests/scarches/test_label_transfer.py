"""Label transfer against the library whose recipe it follows."""

import anndata as ad
import numpy as np
import pandas as pd
from refmap.transfer.labels import transfer_labels
from refmap.transfer.neighbors import Neighbors
from scarches.utils.knn import weighted_knn_trainer, weighted_knn_transfer


def test_labels_and_uncertainties_are_the_librarys(monkeypatch):
    rng = np.random.default_rng(0)
    reference = ad.AnnData(obs=pd.DataFrame(index=[f"r{i}" for i in range(300)]), obsm={"X_emb": rng.normal(size=(300, 4))})
    reference.obs["level_1"] = rng.choice(["A", "B"], size=300)
    reference.obs["level_2"] = rng.choice([f"type {i}" for i in range(6)], size=300)
    query = ad.AnnData(obs=pd.DataFrame(index=[f"q{i}" for i in range(40)]), obsm={"X_emb": rng.normal(size=(40, 4))})

    trained = weighted_knn_trainer(reference, "X_emb", n_neighbors=50)
    with pd.option_context("mode.copy_on_write", False, "mode.chained_assignment", None):
        labels, uncertainties = weighted_knn_transfer(query, "X_emb", reference.obs, "level", trained)

    distances, indices = trained.kneighbors(query.obsm["X_emb"])
    for key in ("level_1", "level_2"):
        found = transfer_labels(reference.obs[key].reset_index(drop=True), Neighbors(indices, distances))
        assert list(found.best) == list(labels[key])
        np.testing.assert_allclose(found.uncertainty, uncertainties[key].astype(float), atol=1e-6)
