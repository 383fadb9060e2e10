"""A scANVI that refmap trains does not see the labels of hidden cells, and its calibration is measured on these."""

import json
import subprocess
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from mapping import map_cells, prepare_cells
from refmap.common.storage import read_zarr, write_zarr
from refmap.models.folder import ModelFolder
from refmap.models.hidden import HIDDEN, HIDDEN_COLUMN, draw_hidden, hidden_among
from refmap.reference.atlas import align_reference
from refmap.reference.training import embed_reference, train_reference
from rows import REFERENCE
from sklearn.neighbors import NearestNeighbors

ROOT = Path(__file__).resolve().parents[2]
KEY, K, THRESHOLD = "bulk_labels", 20, 0.2
# After two epochs all neighbours weigh much the same, and where two labels have as many the last digit tells: of a cell at most
ONE = 1.5
SETTINGS = REFERENCE | {"family": "scanvi", "reference_labels_key": KEY, "reference_max_epochs": 2}


@pytest.fixture(scope="module")
def atlas(pbmc):
    """600 cells x 150 genes, a tenth of them without a label."""
    cells = pbmc[np.random.default_rng(0).permutation(pbmc.n_obs)[:600], :150].copy()
    labels = cells.obs[KEY].astype(str).to_numpy(dtype=object)
    labels[::10] = "Unknown"
    cells.obs[KEY] = pd.Categorical(labels)
    return cells


class Trained:
    """A reference as the pipeline trains it, and the codes of the labels that scvi-tools was given in each training."""

    def __init__(self, atlas, folder, **settings):
        self.path, self.folder, aligned = folder / "atlas.h5ad", folder / "model", folder / "aligned.zarr"
        atlas.write_h5ad(self.path)
        self.seen, self.said = [], []
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("refmap.models.hidden.FEWEST_LABELED", 500)
            for kind in (scvi.model.SCVI, scvi.model.SCANVI):
                patched.setattr(kind, "train", self._spy(kind.train))
            train_reference(align_reference(self.path, SETTINGS | settings, aligned), aligned, self.folder, log=self.said.append)

    def _spy(self, train):
        def spied(model, *arguments, **named):
            registry = model.adata_manager.get_state_registry("labels")
            codes = model.adata_manager.get_from_registry("labels").ravel()
            self.seen.append(np.asarray(registry.categorical_mapping)[codes])
            return train(model, *arguments, **named)

        return spied

    @property
    def weights(self):
        return torch.load(self.folder / "model.pt", map_location="cpu", weights_only=False)["model_state_dict"]


@pytest.fixture(scope="module")
def hiding(atlas, tmp_path_factory):
    return Trained(atlas, tmp_path_factory.mktemp("hiding"))


@pytest.fixture(scope="module")
def hidden(atlas, hiding):
    return hidden_among(list(atlas.obs_names), ModelFolder(hiding.folder))


def test_the_trainer_is_not_given_the_labels_of_hidden_cells(atlas, hiding, hidden):
    labels = atlas.obs[KEY].astype(str).to_numpy()
    assert hidden.sum() == pytest.approx(0.2 * (labels != "Unknown").sum(), abs=3) and (labels[hidden] != "Unknown").all()
    np.testing.assert_array_equal(hidden, draw_hidden_here(atlas))
    assert len(hiding.seen) == 2  # SCVI and SCANVI
    for given in hiding.seen:
        assert (given[hidden] == "Unknown").all()
        np.testing.assert_array_equal(given[~hidden], labels[~hidden])
    assert f"The model does not see the labels of {hidden.sum()} of 600 cells" in hiding.said[0]
    assert json.loads((hiding.folder / HIDDEN).read_text())["fraction"] == 0.2


def draw_hidden_here(atlas):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("refmap.models.hidden.FEWEST_LABELED", 500)
        return draw_hidden(atlas.obs, [KEY], "batch", "Unknown", 0.2, 0)


def test_the_model_is_that_of_an_atlas_that_never_had_these_labels(atlas, hiding, hidden, tmp_path):
    bare = atlas.copy()
    bare.obs[KEY] = pd.Categorical(np.where(hidden, "Unknown", atlas.obs[KEY].astype(str)))
    other = Trained(bare, tmp_path, reference_hidden_labels=0)
    assert not (other.folder / HIDDEN).exists() and other.weights.keys() == hiding.weights.keys()
    for name, values in hiding.weights.items():
        torch.testing.assert_close(values, other.weights[name], rtol=0, atol=0)


def calibrated(trained, folder):
    """What the pipeline's steps after the training record of the cells, the last in its own environment; and their latent."""
    record, prepared, card = prepare_cells(trained.path, trained.folder, folder / "prepared", layer="X")
    assert record["fault"] is None and record["seen_labels"] == [KEY]
    latent = embed_reference(ad.read_zarr(prepared.aligned), trained.folder, card, seed=0)["X_emb"]
    # A UMAP is of no use here, and takes most of the time
    cells = read_zarr(prepared.cells)
    cells.obsm["X_umap"] = latent[:, :2]
    (folder / "bare").mkdir()
    write_zarr(cells, folder / "bare/cells.zarr")
    (folder / "bare/reference.json").write_text(prepared.record.read_text())
    np.savez(folder / "latent.npz", X_emb=latent)
    script = (
        f". '{ROOT}/containers/activate' core && '{ROOT}/bin/calibrate_reference.py' --prepared '{folder}/bare' "
        f"--latent '{folder}/latent.npz' --neighbors {K} --threshold {THRESHOLD} --output '{folder}/scale'"
    )
    subprocess.run(["bash", "-c", script], check=True)
    return json.loads((folder / "scale/reference.json").read_text())["calibration"][KEY], latent, cells.obs


def expected(latent, obs, rows):
    """The share of right labels of these cells, and of those whose certainty is high enough, by scikit-learn's neighbours."""
    labels, batches = obs[KEY].astype(object).to_numpy(), obs["batch"].to_numpy(dtype=object)
    right, uncertain = [], []
    for batch in np.unique(batches):
        others, mine = np.flatnonzero(batches != batch), rows[batches[rows] == batch]
        distances, near = NearestNeighbors(n_neighbors=K).fit(latent[others]).kneighbors(latent[mine])
        for row, away, around in zip(mine, distances, labels[others[near]]):
            weight = pd.Series(np.exp(-(away - away[0]) * away.std() ** 2 / 4)).groupby(around).sum()
            right.append(weight.idxmax() == labels[row]), uncertain.append(1 - weight.max() / weight.sum())
    return np.mean(right), np.mean(np.array(uncertain) > THRESHOLD)


def test_calibration_is_of_the_hidden_cells_by_their_true_labels(atlas, hiding, hidden, tmp_path):
    found, latent, obs = calibrated(hiding, tmp_path)
    labels = atlas.obs[KEY].astype(str)
    # All cells keep their labels for queries
    assert obs[KEY].astype(object).where(obs[KEY].notna(), "Unknown").tolist() == labels.tolist()
    np.testing.assert_array_equal(obs[HIDDEN_COLUMN], hidden)
    assert (found["n"], found["by"], found["calibrated_on"]) == (hidden.sum(), "batch", "hidden")
    accuracy, unknown = expected(latent, obs, np.flatnonzero(hidden))
    assert 0 < accuracy < 1 and found["accuracy"] == pytest.approx(accuracy, abs=ONE / hidden.sum())
    assert found["unknown_share"] == pytest.approx(unknown, abs=ONE / hidden.sum())


def test_without_hidden_cells_it_says_that_labels_were_seen(atlas, tmp_path):
    found, latent, obs = calibrated(Trained(atlas, tmp_path, reference_hidden_labels=0), tmp_path)
    assert HIDDEN_COLUMN not in obs and (found["n"], found["calibrated_on"]) == (540, "seen")
    assert found["accuracy"] == pytest.approx(expected(latent, obs, np.flatnonzero(obs[KEY].notna()))[0], abs=ONE / 540)


def test_an_updated_model_knows_the_hidden_cells(atlas, hiding, hidden, query, tmp_path):
    mapped = map_cells(query, hiding.folder, tmp_path, train=None)
    np.testing.assert_array_equal(hidden_among(list(atlas.obs_names), ModelFolder(mapped.model)), hidden)
