"""The demo's data: real counts, and three queries that differ from the reference and from each other."""

import csv

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import yaml
from click.testing import CliRunner
from make_demo import main
from refmap.common.errors import RefmapError
from refmap.sheet.demo import _undo_scaling, make_demo, pbmc_counts

pytestmark = pytest.mark.filterwarnings("ignore:Variable names are not unique")


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    make_demo(folder)
    return folder


@pytest.fixture(scope="session")
def files(demo):
    return {
        "reference": ad.read_h5ad(demo / "reference.h5ad"),
        "donor_1": ad.read_h5ad(demo / "donor_1.h5ad"),
        "donor_2": ad.read_zarr(demo / "donor_2.zarr"),
        "patient_1": ad.read_h5ad(demo / "patient_1.h5ad"),
    }


QUERIES = ("donor_1", "donor_2", "patient_1")


def counts_by_symbol(query: ad.AnnData, symbols: dict[str, str] | None = None) -> pd.DataFrame:
    """The counts of a query, cells x symbols, columns of the same name summed."""
    matrix = query.layers["counts"] if "counts" in query.layers else query.X
    names = query.var_names
    if symbols:
        names = [symbols[gene_id.split(".")[0]] for gene_id in query.var["gene_id"]]
    return pd.DataFrame(matrix.toarray(), index=query.obs_names, columns=names).T.groupby(level=0).sum().T


def test_pbmc_counts_are_whole_counts_of_700_cells(pbmc):
    assert pbmc.shape == (700, 765)
    assert isinstance(pbmc.X, sp.csr_matrix) and pbmc.X.dtype == np.float32
    assert (pbmc.X.data == np.rint(pbmc.X.data)).all()
    # Every cell has a gene that was counted once; the whole was counted once, by other means.
    assert (np.minimum.reduceat(pbmc.X.data, pbmc.X.indptr[:-1]) == 1).all()
    assert pbmc.X.sum() == 486651 and pbmc.X.max() == 259
    assert pbmc.obs["bulk_labels"].nunique() == 10
    assert pbmc.obs["bulk_labels"].value_counts()["Dendritic"] == 240
    assert set(pbmc.obs["batch"]) == {"ref_a", "ref_b"}
    assert pbmc.obs["batch"].value_counts().min() > 300


def test_pbmc_counts_are_the_same_every_time(pbmc):
    again = pbmc_counts()
    assert (again.X != pbmc.X).nnz == 0
    assert again.obs.equals(pbmc.obs)


def test_counts_come_back_from_any_scaling():
    rng = np.random.default_rng(0)
    counts = rng.poisson(2, size=(20, 50)) + np.eye(20, 50)
    counts[:, 0] = 1
    scaled = counts * rng.uniform(0.1, 3, size=(20, 1))
    assert (_undo_scaling(sp.csr_matrix(np.log1p(scaled))).toarray() == counts).all()


def test_values_that_are_no_scaled_counts_are_noticed():
    values = sp.csr_matrix(np.random.default_rng(0).uniform(0.1, 5, size=(20, 50)))
    message = r"does not hold scaled counts: they miss whole numbers by .* install the scanpy that the lock names"
    with pytest.raises(RefmapError, match=message):
        _undo_scaling(values)


def test_reference_has_all_types_in_proportion(files, pbmc):
    reference = files["reference"]
    assert reference.shape == (401, 765)
    assert reference.X.dtype == np.float32
    assert (reference.X != pbmc[reference.obs_names].X).nnz == 0
    share = reference.obs["bulk_labels"].value_counts() / pbmc.obs["bulk_labels"].value_counts()
    assert len(share) == 10
    assert share.between(0.5, 0.65).all()


def test_no_cell_is_shared(files, pbmc):
    names = [name for file in files.values() for name in file.obs_names]
    assert sorted(names) == sorted(pbmc.obs_names)


def test_queries_hold_the_counts_of_their_cells(files, demo, pbmc):
    with (demo / "gene_ids.csv").open() as file:
        symbols = {row["gene_id"]: row["symbol"] for row in csv.DictReader(file)}
    truth = pbmc.to_df()
    for name in QUERIES:
        found = counts_by_symbol(files[name], symbols if name == "patient_1" else None)
        shared = truth.columns.intersection(found.columns)
        assert len(shared) >= 612
        np.testing.assert_array_equal(found[shared].to_numpy(), truth.loc[found.index, shared].to_numpy())


def test_queries_are_unequal_in_genes(files, pbmc):
    reference = set(pbmc.var_names)
    first, second, third = (files[name] for name in QUERIES)
    assert first.n_vars == 612 and set(first.var_names) < reference
    assert list(first.var_names) != [gene for gene in pbmc.var_names if gene in set(first.var_names)], "not shuffled"
    assert second.n_vars == 825
    assert len(set(second.var_names) - reference) == 40
    assert second.var_names.duplicated().sum() == 20
    assert reference < set(second.var_names)
    assert third.n_vars == 765 and not set(third.var_names) & reference
    assert third.var["gene_id"].str.fullmatch(r"ENSG999\d{8}\.[1-9]").all()


def test_x_is_lognormalised_where_the_layer_holds_the_counts(files):
    for name in ("donor_1", "donor_2"):
        query = files[name]
        total = query.layers["counts"].sum(axis=1)
        expected = np.log1p(query.layers["counts"].toarray() / np.asarray(total).reshape(-1, 1) * 1e4)
        np.testing.assert_allclose(query.X.toarray(), expected, rtol=1e-5)
    assert "counts" not in files["patient_1"].layers


def test_queries_have_batches_of_their_own_and_one_that_collides(files):
    reference = set(files["reference"].obs["batch"])
    batches = {name: set(files[name].obs["sample" if name == "patient_1" else "donor"]) for name in QUERIES}
    assert all(len(names) == 2 for names in batches.values())
    assert {name: names & reference for name, names in batches.items()} == {
        "donor_1": set(),
        "donor_2": {"ref_a"},
        "patient_1": set(),
    }


def test_labels_are_only_named_as_truth(demo, files, pbmc):
    for name in QUERIES:
        assert "bulk_labels" not in files[name].obs
        expected = pbmc.obs.loc[files[name].obs_names, "bulk_labels"].astype(str)
        assert list(files[name].obs["cell_type"].astype(str)) == list(expected)
    for dataset in yaml.safe_load((demo / "datasets.yaml").read_text())["DATASETS"].values():
        settings = dataset["reference_mapping"]["scarches"]
        assert settings["truth_key"] == "cell_type"
        assert "labels_key" not in settings["model_params"]


def test_sheet_names_files_that_are_there(demo):
    datasets = yaml.safe_load((demo / "datasets.yaml").read_text())["DATASETS"]
    queries = {
        f"{name}/{file_id}": path
        for name, dataset in datasets.items()
        for file_id, path in dataset["input"]["reference_mapping"].items()
    }
    assert queries == {"pbmc/donor_1": "donor_1.h5ad", "pbmc/donor_2": "donor_2.zarr", "clinic/patient_1": "patient_1.h5ad"}
    table = datasets["clinic"]["reference_mapping"]["scarches"]["id_table"]
    assert all((demo / path).exists() for path in [*queries.values(), table])


def test_command_writes_the_same_for_the_same_seed(demo, tmp_path):
    result = CliRunner().invoke(main, ["--outdir", str(tmp_path / "again")], catch_exceptions=False)
    assert result.output.strip() == str(tmp_path / "again" / "datasets.yaml")
    again = ad.read_h5ad(tmp_path / "again" / "donor_1.h5ad")
    first = ad.read_h5ad(demo / "donor_1.h5ad")
    assert list(again.obs_names) == list(first.obs_names) and list(again.var_names) == list(first.var_names)
    assert (again.X != first.X).nnz == 0


def test_zarr_is_format_2(demo):
    assert (demo / "donor_2.zarr" / ".zgroup").exists()
    assert not (demo / "donor_2.zarr" / "zarr.json").exists()
