"""The joint atlas: a reference's cells and all queries that were mapped onto it."""

import json
import re

import anndata as ad
import join_mappings
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from click.testing import CliRunner
from refmap.common.errors import RefmapError
from refmap.common.folders import JointFiles, MappedFolder, ReferenceFolder
from refmap.common.storage import StoredCells, write_zarr
from refmap.joint.columns import Columns
from refmap.joint.joining import MappedQuery, join
from refmap.report.cell_table import write_cells
from refmap.transfer import neighbors
from refmap.transfer.calibrate import calibrate_reference
from refmap.transfer.neighbors import nearest_among
from refmap.transfer.transfer import transfer
from rows import PREPARED
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors

CENTRES = np.array([[0, 0, 0], [10, 0, 0], [0, 10, 0]], dtype=np.float32)
TYPES = np.array(["B", "NK", "T"], dtype=object)


def groups(n, seed):
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, size=n)
    return (CENTRES[kind] + rng.normal(size=(n, 3))).astype(np.float32), kind


def make_reference(folder, n=200, key="cell_type"):
    """The cells of a reference and their scale, as CALIBRATE_REFERENCE leaves them; and the type of each."""
    latent, kind = groups(n, 0)
    cells, reference = ReferenceFolder(folder / "prepared"), ReferenceFolder(folder / "reference")
    cells.folder.mkdir(parents=True)
    labels = pd.Series(TYPES[kind])
    labels[:5] = None
    obs = pd.DataFrame({key: pd.Categorical(labels), "donor": pd.Categorical(np.resize(["r1", "r2"], n))})
    obs.index = [f"c{i}" for i in range(n)]
    write_zarr(ad.AnnData(obs=obs, obsm={"X_emb": latent}), cells.cells)
    cells.record.write_text(json.dumps(PREPARED | {"keys": [key], "batch_key": "donor", "n_cells": n}))
    calibrate_reference(cells, None, 0, 0.2, 20, reference)
    return reference, kind


def make_query(folder, dataset, file_id, n, seed, reference=None, batch_key="donor", more=0, lost=()):
    """What is known of a mapping when it is done. The model has `more` dimensions of its own, and no embedding of the `lost` cells."""
    latent, _ = groups(n, seed)
    latent = np.c_[latent, np.full((n, more), 7, dtype=np.float32)]
    latent[list(lost)] = np.nan
    name = f"{dataset}~{file_id}"
    mapped, qc = MappedFolder(folder / "mapped" / name), folder / "qc" / name
    mapped.results.mkdir(parents=True)
    qc.mkdir(parents=True)
    obs = pd.DataFrame({"sure": np.linspace(0, 1, n, dtype=np.float32)}, index=[f"c{i}" for i in range(n)])
    write_zarr(ad.AnnData(obs=obs, obsm={"X_emb": latent}, uns={"refmap": {"family": "scvi"}}), mapped.embedding)
    mapped.record.write_text(json.dumps({"id": name, "seed": 0}))
    mapped.history.write_text("epoch\n")
    if reference:
        labelled = MappedFolder(folder / "labelled" / name)
        transfer(mapped, reference, 0.2, False, labelled)
        mapped = labelled
    record = {
        "id": name,
        "dataset": dataset,
        "file_id": file_id,
        "trust": {"labels": {"light": "green"}, "embedding": {"light": "amber"}},
        "parameters": {"batch_key": batch_key},
    }
    (qc / "mapping.json").write_text(json.dumps(record))
    batches = pd.Series(np.resize([f"{file_id} 1", f"{file_id} 2"], n))
    write_cells({batch_key: batches}, StoredCells(mapped.embedding), qc)
    return MappedQuery(mapped, qc)


@pytest.fixture(scope="module")
def joined(tmp_path_factory):
    """A joint atlas of 200 reference cells and two queries of 60 and 40; its parts, and the AnnData."""
    folder = tmp_path_factory.mktemp("joint")
    reference, kind = make_reference(folder)
    queries = [
        make_query(folder, "gut", "a.1", 60, 1, reference, lost=[3, 4]),
        make_query(folder, "lung", "b", 40, 2, reference, batch_key="sure"),
    ]
    join("atlas_2", "models/atlas", reference, queries, True, 0, folder / "out")
    return reference, kind, queries, JointFiles(folder / "out", "atlas_2")


def test_all_cells_are_there_in_order_less_those_without_an_embedding(joined):
    reference, kind, queries, files = joined
    atlas, first, second = ad.read_zarr(files.zarr), *(ad.read_zarr(query.mapped.embedding) for query in queries)
    own = ad.read_zarr(reference.cells)
    kept = np.delete(np.arange(60), [3, 4])
    assert atlas.shape == (298, 0)
    names = [f"c{i}-reference" for i in range(200)] + [f"c{i}-gut~a.1" for i in kept] + [f"c{i}-lung~b" for i in range(40)]
    assert atlas.obs_names.tolist() == names
    latents = own.obsm["X_emb"], first.obsm["X_emb"][kept], second.obsm["X_emb"]
    np.testing.assert_array_equal(atlas.obsm["X_emb"], np.concatenate(latents))
    places = own.obsm["X_umap"], first.obsm["X_umap_reference"][kept], second.obsm["X_umap_reference"]
    np.testing.assert_array_equal(atlas.obsm["X_umap"], np.concatenate(places))
    assert atlas.obsm["X_umap_joint"].shape == (298, 2) and np.isfinite(atlas.obsm["X_umap_joint"]).all()
    obs = atlas.obs
    assert obs["origin"].tolist() == ["reference"] * 200 + ["query"] * 98
    assert obs["dataset"].tolist() == ["reference"] * 200 + ["gut"] * 58 + ["lung"] * 40
    assert obs["file_id"].isna().sum() == 200 and obs["file_id"].tolist()[200:] == ["a.1"] * 58 + ["b"] * 40
    assert obs["batch"].tolist()[198:204] == ["r1", "r2", "a.1 1", "a.1 2", "a.1 1", "a.1 2"]
    # The batch column of the second is called as something that the mapping says.
    assert obs["batch"].tolist()[-2:] == ["b 1", "b 2"]
    for name, light in [("labels_light", "green"), ("embedding_light", "amber")]:
        assert obs[name].isna().sum() == 200 and set(obs[name].dropna()) == {light}
    assert obs["cell_type"].tolist()[5:200] == TYPES[kind][5:].tolist() and obs["cell_type"].isna().sum() == 5 + 98
    given = pd.concat(
        [first.obs["cell_type_transferred"].iloc[kept].astype(object), second.obs["cell_type_transferred"].astype(object)]
    )
    assert obs["cell_type_transferred"].tolist()[200:] == given.tolist() and obs["cell_type_transferred"][:200].isna().all()
    for name in ("cell_type_uncertainty", "novelty_pvalue", "reference_distance"):
        np.testing.assert_array_equal(obs[name][200:], np.r_[first.obs[name].to_numpy()[kept], second.obs[name]])
    assert dict(atlas.uns["refmap"]) | {"mappings": None} == {
        **{"name": "atlas_2", "model": "models/atlas", "n_reference_cells": 200, "n_query_cells": 98, "n_left_out": 2},
        **{"mappings": None, "version": "0.1.0"},
    }
    assert json.loads(files.about.read_text())["mappings"] == ["gut~a.1", "lung~b"]


def test_neighbours_are_exact_and_scanpy_goes_on_from_them(joined):
    _, kind, _, files = joined
    atlas = ad.read_h5ad(files.h5ad)
    expected = NearestNeighbors(n_neighbors=14).fit(atlas.obsm["X_emb"]).kneighbors_graph(mode="distance")
    np.testing.assert_allclose(atlas.obsp["distances"].toarray(), expected.toarray(), atol=1e-5)
    weights = atlas.obsp["connectivities"]
    assert abs(weights - weights.T).max() < 1e-6 and 0 < weights.data.min() <= weights.data.max() <= 1
    sc.tl.leiden(atlas, resolution=0.1, flavor="igraph", n_iterations=2, directed=False)
    assert adjusted_rand_score(kind, atlas.obs["leiden"][:200]) > 0.95


def test_both_formats_hold_the_same(joined):
    files = joined[-1]
    one, other = ad.read_zarr(files.zarr), ad.read_h5ad(files.h5ad)
    pd.testing.assert_frame_equal(one.obs, other.obs)
    for key in ("X_emb", "X_umap", "X_umap_joint"):
        np.testing.assert_array_equal(one.obsm[key], other.obsm[key])


def content_of(path):
    return json.loads(re.search(r'<script type="application/json" id="content">(.*?)</script>', path.read_text(), re.DOTALL)[1])


def test_the_page_is_coloured_by_dataset_and_has_all_labels_in_one_column(joined):
    content = content_of(joined[-1].page)
    assert content["datasets"]["name"] == "dataset" and content["datasets"]["categories"] == ["reference", "gut", "lung"]
    assert content["behind"] == 200 and content["color"] is None  # which is by dataset
    columns = {column["name"]: column for column in content["columns"]}
    assert {"cell_type", "file_id", "batch", "labels_light", "cell_type_uncertainty"} <= set(columns)
    assert not {"origin", "dataset", "cell_type_transferred"} & set(columns)
    assert set(columns["cell_type"]["categories"]) >= set(TYPES)
    assert columns["cell_type_uncertainty"]["limits"] == [0, 1]


def test_queries_stand_alone_without_reference_cells(tmp_path):
    queries = [make_query(tmp_path, "lung", name, n, seed) for seed, (name, n) in enumerate([("a", 50), ("b", 30)])]
    join("alone", "models/alone", None, queries, False, 0, tmp_path / "out")
    atlas = ad.read_zarr(tmp_path / "out/alone.zarr")
    assert atlas.n_obs == 80 and list(atlas.obsm) == ["X_emb", "X_umap"] and np.isfinite(atlas.obsm["X_umap"]).all()
    assert list(atlas.obs) == ["origin", "dataset", "file_id", "labels_light", "embedding_light", "batch", "sure"]
    page = content_of(tmp_path / "out/alone.html")
    assert page["behind"] == 0 and page["datasets"]["categories"] == ["lung"]


def test_dimensions_of_a_querys_own_need_the_references_cells(tmp_path):
    reference, _ = make_reference(tmp_path)
    queries = [make_query(tmp_path, "lung", name, 20, 1, reference, more=more) for name, more in [("a", 0), ("b", 2)]]
    join("with", "models/x", reference, queries, False, 0, tmp_path / "with")
    assert ad.read_zarr(tmp_path / "with/with.zarr").obsm["X_emb"].shape == (240, 3)
    with pytest.raises(RefmapError, match=r"'models/x' has 3 and 5 latent dimensions.*name these in the sheet"):
        join("without", "models/x", None, queries, False, 0, tmp_path / "without")


def test_a_handful_of_cells_has_no_neighbours(tmp_path):
    join("few", "models/few", None, [make_query(tmp_path, "lung", "a", 4, 0)], True, 0, tmp_path / "out")
    atlas = ad.read_zarr(tmp_path / "out/few.zarr")
    assert atlas.n_obs == 4 and not atlas.obsp and "neighbors" not in atlas.uns and list(atlas.obsm) == ["X_emb", "X_umap"]


def test_a_label_column_called_as_one_of_ours_keeps_its_values(tmp_path):
    reference, kind = make_reference(tmp_path, key="dataset")
    join("x", "m", reference, [make_query(tmp_path, "lung", "a", 20, 1, reference)], False, 0, tmp_path / "out")
    obs = ad.read_zarr(tmp_path / "out/x.zarr").obs
    assert obs["dataset"].tolist() == ["reference"] * 200 + ["lung"] * 20
    assert obs["dataset_reference"].tolist()[5:200] == TYPES[kind][5:].tolist()


def test_the_command_finds_each_mappings_folder_by_its_id(tmp_path):
    queries = [make_query(tmp_path, "lung", name, 20, seed) for seed, name in enumerate("ab")]
    for number, query in enumerate(reversed(queries), 1):
        (tmp_path / f"staged/{number}").mkdir(parents=True)
        (tmp_path / f"staged/{number}/labelled").symlink_to(query.mapped.folder)
    (tmp_path / "model.txt").write_text("the atlas's; & more\n")
    arguments = ["--name", "x", "--model", tmp_path / "model.txt", "--mapped", tmp_path / "staged", "--qc", tmp_path / "qc"]
    done = CliRunner().invoke(join_mappings.main, [*map(str, arguments), "--seed", "0", "--output", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    atlas = ad.read_zarr(tmp_path / "out/x.zarr")
    assert atlas.uns["refmap"]["model"] == "the atlas's; & more"
    np.testing.assert_array_equal(atlas.obsm["X_emb"][20:], groups(20, 1)[0])


# --- parts ----------------------------------------------------------------------------------------------------------------


def test_columns_of_text_and_numbers_become_text_and_missing_values_stay_missing():
    columns = Columns(5)
    columns.add("kind", slice(0, 2), pd.Series(pd.Categorical(["b", None], categories=["a", "b"])))
    columns.add("kind", slice(3, 5), pd.Series([1.5, 2.5]))
    columns.add("share", slice(2, 3), pd.Series([0.25]))
    columns.add("flag", slice(0, 2), pd.Series([True, False]))
    frame = columns.frame(pd.Index(list("abcde")))
    assert frame["kind"].astype(object).where(frame["kind"].notna(), None).tolist() == ["b", None, None, "1.5", "2.5"]
    assert list(frame["kind"].cat.categories) == ["1.5", "2.5", "b"]
    assert frame["share"].dtype == np.float32 and frame["share"].isna().tolist() == [True, True, False, True, True]
    assert frame["flag"].tolist()[:2] == ["True", "False"]


def test_of_many_cells_nearly_all_neighbours_are_found(monkeypatch):
    latent = np.random.default_rng(0).normal(size=(4000, 5)).astype(np.float32)
    latent[10:14] = latent[10]
    exact = nearest_among(latent, 10, 0)
    monkeypatch.setattr(neighbors, "MOST_EXACT", 1000)
    found = nearest_among(latent, 10, 0)
    assert found.indices.shape == found.distances.shape == (4000, 10)
    assert not (found.indices == np.arange(4000)[:, None]).any()
    shared = [len(set(one) & set(other)) for one, other in zip(exact.indices, found.indices)]
    assert np.mean(shared) > 9.5
    at = np.linalg.norm(latent[found.indices] - latent[:, None], axis=2)
    np.testing.assert_allclose(found.distances, at, atol=2e-3)
