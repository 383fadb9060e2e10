"""Which genes of an atlas a reference is trained on, against scanpy's own choice."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from refmap.common.errors import RefmapError
from refmap.reference import selection
from refmap.reference.atlas import align_reference
from rows import REFERENCE
from scipy import sparse

SETTINGS = REFERENCE | {
    "family": "scvi",
    "reference_batch_key": "donor",
    "reference_gmt": "programmes.gmt",
    "reference_genes": "genes.txt",
    "reference_n_top_genes": 40,
}


@pytest.fixture(scope="module")
def atlas():
    """Counts of 300 cells in three batches x 200 genes, which vary by more and less, between batches too."""
    rng = np.random.default_rng(0)
    means = rng.gamma(1, 2, size=200)
    kinds = rng.lognormal(0, rng.gamma(1, 0.4, size=200), size=(4, 200))
    donors = rng.lognormal(0, 0.7, size=(3, 200))
    donor, kind = rng.integers(0, 3, size=300), rng.integers(0, 4, size=300)
    counts = sparse.csr_matrix(rng.poisson(means * kinds[kind] * donors[donor]).astype(np.float32))
    obs = pd.DataFrame({"donor": pd.Categorical([f"d{i}" for i in donor])}, index=[f"c{i}" for i in range(300)])
    return ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(200)]))


@pytest.fixture
def trained_on(tmp_path):
    """Align an atlas; return the genes that are trained on, and the settings of the training."""

    def run(cells, genes=None, gmt=None, **settings):
        cells.write_h5ad(tmp_path / "atlas.h5ad")
        files = {}
        for name, text in {"genes": genes, "gmt": gmt}.items():
            if text:
                files[name] = tmp_path / name
                files[name].write_text(text)
        trained = align_reference(tmp_path / "atlas.h5ad", SETTINGS | settings, tmp_path / "aligned.zarr", **files)
        return ad.read_zarr(tmp_path / "aligned.zarr"), trained

    return run


def test_the_genes_are_those_that_scanpy_chooses_in_the_order_of_the_atlas(trained_on, atlas):
    aligned, trained = trained_on(atlas)
    chosen = sc.experimental.pp.highly_variable_genes(
        atlas, flavor="pearson_residuals", n_top_genes=40, batch_key="donor", inplace=False
    )
    expected = atlas.var_names[chosen["highly_variable"]]
    assert list(aligned.var_names) == list(expected) and trained["warnings"] == []
    np.testing.assert_array_equal(aligned.X.toarray(), atlas[:, expected].X.toarray())
    by_all = sc.experimental.pp.highly_variable_genes(atlas, flavor="pearson_residuals", n_top_genes=40, inplace=False)
    assert set(atlas.var_names[by_all["highly_variable"]]) != set(expected)  # by batch is another choice


def test_log_normalised_values_are_ranked_by_dispersion(trained_on, atlas):
    logged = atlas.copy()
    sc.pp.normalize_total(logged, target_sum=1e4)
    sc.pp.log1p(logged)
    del logged.uns
    aligned, _ = trained_on(logged, family="trvae", reference_options="recon_loss=mse")
    chosen = sc.pp.highly_variable_genes(logged, flavor="seurat", n_top_genes=40, batch_key="donor", inplace=False)
    assert list(aligned.var_names) == list(atlas.var_names[chosen["highly_variable"]])


@pytest.mark.parametrize("n_top", [0, 200, 2000])
def test_all_genes_are_taken_where_there_are_no_more_or_where_all_are_asked_for(trained_on, atlas, n_top):
    aligned, _ = trained_on(atlas, reference_n_top_genes=n_top)
    assert list(aligned.var_names) == list(atlas.var_names)


def test_a_batch_of_few_cells_has_no_say(trained_on, atlas):
    few = atlas.copy()
    few.obs["donor"] = few.obs["donor"].astype(object)
    few.obs.iloc[:3, 0] = "tiny"
    few.obs["donor"] = few.obs["donor"].astype("category")
    aligned, _ = trained_on(few)
    chosen = sc.experimental.pp.highly_variable_genes(
        few[3:].copy(), flavor="pearson_residuals", n_top_genes=40, batch_key="donor", inplace=False
    )
    assert list(aligned.var_names) == list(few.var_names[chosen["highly_variable"]])


def test_a_sample_has_the_same_number_of_cells_of_each_batch_where_there_are_as_many():
    groups = np.array(["a"] * 900 + ["b"] * 60 + ["c"] * 10)
    drawn = selection.sample_by_group(groups, 150, seed=1)
    assert pd.Series(groups[drawn]).value_counts().to_dict() == {"a": 80, "b": 60, "c": 10}
    assert (np.diff(drawn) > 0).all()
    np.testing.assert_array_equal(drawn, selection.sample_by_group(groups, 150, seed=1))
    assert len(selection.sample_by_group(groups, 5000, seed=1)) == 970


def test_a_sample_of_a_large_atlas_is_read_alone(trained_on, atlas, monkeypatch):
    monkeypatch.setattr(selection, "MOST_CELLS", 150)
    aligned, _ = trained_on(atlas)
    drawn = selection.sample_by_group(atlas.obs["donor"].to_numpy(), 150, seed=0)
    chosen = sc.experimental.pp.highly_variable_genes(
        atlas[drawn].copy(), flavor="pearson_residuals", n_top_genes=40, batch_key="donor", inplace=False
    )
    assert list(aligned.var_names) == list(atlas.var_names[chosen["highly_variable"]]) and aligned.n_obs == 300


def test_a_list_names_the_genes_and_a_sentence_those_that_are_not_there(trained_on, atlas):
    aligned, trained = trained_on(atlas, genes="\ufeffG7\r\nG3\n\nNOVEL\nG7\n")
    assert list(aligned.var_names) == ["G3", "G7"]
    assert trained["warnings"] == [
        "reference_genes 'genes.txt' names 1 of 3 genes that the reference has not ('NOVEL'): it is trained on the other 2."
    ]
    with pytest.raises(
        RefmapError, match="reference_genes 'genes.txt' names 'ENSG1', and none of the reference's genes, such as 'G0'"
    ):
        trained_on(atlas, genes="ENSG1\n")


def test_genes_of_programmes_are_chosen_among_theirs(trained_on, atlas):
    members = [f"g{i}" for i in range(0, 200, 2)]
    gmt = "one\t-\t" + "\t".join(members) + "\n"
    aligned, _ = trained_on(atlas, gmt=gmt, family="expimap", reference_n_top_genes=30)
    chosen = sc.experimental.pp.highly_variable_genes(
        atlas[:, ::2].copy(), flavor="pearson_residuals", n_top_genes=30, batch_key="donor", inplace=False
    )
    assert list(aligned.var_names) == list(atlas.var_names[::2][chosen["highly_variable"]])
    # To other families a list of programmes says nothing
    others, _ = trained_on(atlas, gmt=gmt, reference_n_top_genes=30)
    assert set(others.var_names) - set(atlas.var_names[::2])


def test_values_that_are_no_counts_are_told_as_ever(trained_on, atlas):
    wrong = atlas.copy()
    wrong.X = wrong.X.copy()
    wrong.X.data[500] = np.nan
    with pytest.raises(RefmapError, match=r"holds no counts in X: 1 NaN or infinite value"):
        trained_on(wrong)


def test_of_several_modalities_the_genes_alone_are_chosen(trained_on, atlas):
    both = atlas.copy()
    counts = np.random.default_rng(1).poisson(3, size=(300, 3)).astype(np.float32)
    both.obsm["protein"] = pd.DataFrame(counts, index=both.obs_names, columns=["G0", "G1", "CD4"])
    aligned, trained = trained_on(both, family="multigrate", reference_protein_key="protein")
    alone, _ = trained_on(atlas)
    genes = list(alone.var_names)
    features = [f"{name}-1" if name in genes else name for name in ("G0", "G1", "CD4")]
    assert trained["modalities"] == {"rna": 40, "protein": 3} and list(aligned.var_names) == genes + features
    np.testing.assert_array_equal(aligned.X.toarray()[:, -3:], counts)
