"""Cutting a tissue into partitions by the coordinates of its cells."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from refmap.common.errors import RefmapError
from refmap.common.storage import read_zarr
from refmap.reference.atlas import align_reference
from refmap.reference.tissue import partition, tissue_graph
from rows import REFERENCE
from scipy import sparse

SETTINGS = REFERENCE | {
    "family": "sagenet",
    "reference": "tissue.h5ad",
    "reference_batch_key": None,
    "reference_spatial_key": "spatial",
    "reference_options": "resolutions=0.05",
}
# Two lumps of cells in each of two sections, whose coordinates have nothing to do with each other
CENTRES = {"s1": [(0.0, 0.0), (100.0, 0.0)], "s2/b": [(0.0, 5000.0), (0.0, -5000.0)]}
SIZES = (40, 30)


@pytest.fixture
def tissue():
    rng = np.random.default_rng(0)
    sections, lumps, at = [], [], []
    for section, centres in CENTRES.items():
        for lump, (centre, size) in enumerate(zip(centres, SIZES, strict=True)):
            sections += [section] * size
            lumps += [lump] * size
            at.append(rng.normal(centre, 3, size=(size, 2)))
    order = rng.permutation(len(lumps))
    cells = ad.AnnData(sparse.csr_matrix(rng.poisson(2, size=(len(lumps), 12)).astype(np.float32)))
    cells.obs = pd.DataFrame({"slide": np.array(sections)[order], "lump": np.array(lumps)[order]}, index=cells.obs_names)
    cells.obsm["spatial"] = np.concatenate(at)[order]
    return cells


@pytest.fixture
def aligned(tmp_path):
    def of(cells, **settings):
        cells.write_h5ad(tmp_path / "tissue.h5ad")
        trained = align_reference(tmp_path / "tissue.h5ad", SETTINGS | settings, tmp_path / "aligned.zarr")
        return read_zarr(tmp_path / "aligned.zarr"), trained

    return of


def test_each_section_is_cut_by_itself(tissue, aligned):
    cells, trained = aligned(tissue, reference_batch_key="slide")
    assert list(trained["partitions"]) == ["leiden_0.05@s1", "leiden_0.05@s2/b"] and trained["labels_keys"] == []
    for section, centres in CENTRES.items():
        column, of_it = f"leiden_0.05@{section}", (tissue.obs["slide"] == section).to_numpy()
        found = trained["partitions"][column]
        # The larger lump comes first; cells of the other section have no label.
        np.testing.assert_array_equal(cells.obs[column][of_it].astype(str), tissue.obs["lump"][of_it].astype(str))
        assert cells.obs[column][~of_it].isna().all()
        assert found["section"] == section and list(found["places"]) == ["0", "1"]
        np.testing.assert_allclose(list(found["places"].values()), centres, atol=3)


def test_without_sections_all_cells_are_of_one_tissue(tissue, aligned):
    tissue.obsm["spatial"] = pd.DataFrame(tissue.obsm["spatial"], index=tissue.obs_names, columns=["x", "y"])
    cells, trained = aligned(tissue, reference_options="resolutions=0.02,1")
    assert list(trained["partitions"]) == ["leiden_0.02", "leiden_1"]
    assert not cells.obs[list(trained["partitions"])].isna().any(axis=None)
    coarse, fine = (len(found["places"]) for found in trained["partitions"].values())
    assert 2 <= coarse < fine and all(found["section"] is None for found in trained["partitions"].values())


def test_a_graph_joins_the_nearest_and_a_seed_gives_the_same_partition():
    at = np.random.default_rng(0).uniform(size=(300, 2))
    graph = tissue_graph(at)
    degrees = np.array(graph.degree())
    assert degrees.min() >= 6 and not graph.is_directed() and graph.is_simple()
    joined = np.array([at[list(edge)] for edge in graph.get_edgelist()])
    assert np.linalg.norm(joined[:, 0] - joined[:, 1], axis=1).max() < 0.3
    found = partition(graph, 0.5, seed=1)
    np.testing.assert_array_equal(found, partition(graph, 0.5, seed=1))
    assert (np.diff(np.bincount(found)) <= 0).all()


@pytest.mark.parametrize(
    ("change", "settings", "sentence"),
    [
        (None, {"reference_spatial_key": "spatail"}, "has no obsm 'spatail', which --reference_spatial_key names: it has 'spatial'. Did you mean"),
        (lambda at: at[:, :1], {}, "has 140 x 1 values in obsm 'spatial', which are no coordinates: give 2 or 3 numbers a cell"),
        (lambda at: np.where(at > 4999, np.nan, at), {}, "has cells without coordinates in obsm 'spatial'"),
        (None, {"reference_options": "resolutions=0.1;importance_cells=0"}, None),
        (None, {"reference_options": "resolutions=a,b"}, "resolutions in --reference_options is 'a,b': give numbers above 0"),
        (lambda at: at * 0 + np.arange(140)[:, None], {"reference_options": "resolutions=0.000001"}, "is one partition at resolution 1e-06"),
        (None, {"reference_labels_key": "leiden_0.05"}, "has a column 'leiden_0.05', which is asked for beside the partition"),
        (None, {"reference_batch_key": "lump_of_slide"}, "has 4 cells of section 'tiny' in column 'lump_of_slide', and 20 are the fewest"),
    ],
    ids=["key", "shape", "nan", "sound", "resolutions", "one partition", "column", "few cells"],
)  # fmt: skip
def test_a_tissue_that_cannot_be_cut_gets_a_sentence(change, settings, sentence, tissue, aligned):
    tissue.obs["lump_of_slide"] = np.where(np.arange(140) < 4, "tiny", "large")
    tissue.obs["leiden_0.05"] = np.where(np.arange(140) < 70, "mine", "also mine")
    if change:
        tissue.obsm["spatial"] = change(tissue.obsm["spatial"])
    if sentence is None:
        aligned(tissue, **settings)
        return
    with pytest.raises(RefmapError) as told:
        aligned(tissue, **settings)
    assert sentence in str(told.value)
