"""SageNet: partitions are predicted by name, in safe files, and the distances between cells are those of the library."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from mapping import in_a_fresh_process, inspect_and_check, map_cells, train
from refmap.common.errors import RefmapError
from refmap.families.sagenet.distances import spatial_distances
from refmap.families.sagenet.files import Partition, columns_of_stems
from refmap.families.sagenet.networks import NETWORKS, Classifier, edges_of, load_librarys, make
from refmap.families.sagenet.reference import gene_graph
from refmap.families.scarches.loading import quietly
from refmap.models.folder import ModelFolder
from refmap.models.pickles import read_torch
from scipy import sparse

KEY = "bulk_labels"
GRAPH = {"graph": "glasso", "glasso_genes": 500, "glasso_alphas": 2, "graph_neighbors": 5}


@pytest.fixture(scope="session")
def spots(cells) -> ad.AnnData:
    """The reference with two partitions: that of the labels, and a coarser one which some cells lack."""
    adata = cells.copy()
    side = np.where(adata.obs[KEY].str.startswith("CD14") | (adata.obs[KEY] == "Dendritic"), "left", "right").astype(object)
    side[::10] = "Unknown"
    adata.obs["side"] = pd.Categorical(side)
    return adata


@pytest.fixture(scope="session")
def model(spots, tmp_path_factory) -> Path:
    """Two partitions, on a graph of correlations: the graphical lasso takes its time."""
    folder = tmp_path_factory.mktemp("sagenet") / "model"
    settings = {"reference_labels_key": f"{KEY};side", "reference_batch_key": None}
    return train("sagenet", spots, folder, reference_max_epochs=5, reference_options="graph=correlation", **settings)


@pytest.fixture(scope="session")
def mapped(query, model, tmp_path_factory):
    return map_cells(query, model, tmp_path_factory.mktemp("sagenet") / "mapped", options={"distance_map": "true"}, seed=3)


def library_of(folder: Path):
    """The library's own object, with the networks and graphs of a model in refmap's files."""
    import torch
    from refmap.families.sagenet.files import read_description
    from refmap.families.sagenet.networks import restore
    from scarches.models.sagenet.sagenet import sagenet

    description, library = read_description(ModelFolder(folder)), sagenet()
    tensors = torch.load(folder / "sagenet.pt", weights_only=True)
    n_genes = len(description.genes)
    for partition in description.partitions:
        classifier = restore(partition, n_genes, tensors[partition.column])
        library.models[f"ref_{partition.column}"] = classifier.network
        adjacency = np.zeros((n_genes, n_genes), dtype=int)
        adjacency[tuple(classifier.edges.numpy())] = 1
        library.adjs[f"ref_{partition.column}"] = adjacency
    return library


def answer_of(library, aligned: Path, seed: int = 3) -> ad.AnnData:
    """What the library says of an aligned query: obs pred_*, ent_*, and obsm dist_map."""
    query = ad.read_zarr(aligned)
    query.X = query.X.toarray()
    np.random.seed(seed)
    library.load_query_data(query)
    return query


def named(numbers: pd.Series, labels: list[str]) -> list[str]:
    return [labels[number] for number in numbers]


@pytest.fixture(scope="session")
def tissue(cells) -> ad.AnnData:
    """The cells in two sections of a tissue, each with its types side by side: myeloid cells to the left, the others to the right."""
    adata, rng = cells.copy(), np.random.default_rng(0)
    left = adata.obs[KEY].isin(["CD14+ Monocyte", "Dendritic"]).to_numpy()
    adata.obs["section"] = pd.Categorical(np.where(np.arange(adata.n_obs) % 2, "s1", "s2"))
    adata.obsm["spatial"] = rng.normal(size=(adata.n_obs, 2)) + np.where(left, 0, 50)[:, None] * [1, 0]
    return adata


@pytest.fixture(scope="session")
def spatial_model(tissue, tmp_path_factory) -> Path:
    """Two sections, each cut at one resolution into the two sides."""
    keys = {"reference_labels_key": None, "reference_batch_key": "section", "reference_spatial_key": "spatial"}
    options = "graph=correlation;resolutions=0.01;importance_cells=6;batch_size=8"
    folder = tmp_path_factory.mktemp("sagenet") / "spatial"
    return train("sagenet", tissue, folder, reference_max_epochs=60, reference_options=options, **keys)


# ------------------------------------------------------------------------------------------------------------------ the card


def test_the_card_says_what_was_trained(spots, model, mapped):
    card = mapped.card
    assert (card["class_name"], card["family"], card["env"], card["fault"]) == ("SageNet", "sagenet", "scarches", None)
    assert card["genes"] == list(spots.var_names)
    assert card["labels"] == {KEY: sorted(spots.obs[KEY].unique()), "side": ["left", "right"]}
    assert (card["input"], card["normalization"]) == ("lognorm", {"target_sum": 1e4, "genes": "model"})
    assert (card["batch_key"], card["predicts"], card["surgery_ready"]) == (None, True, False)
    assert card["n_latent"] == 12 and card["latent_names"][-2:] == ["side: left", "side: right"]
    assert "SageNet has no surgery" in card["warnings"][0]


def test_its_files_need_no_pickle(model):
    import torch

    assert sorted(path.name for path in model.iterdir()) == ["sagenet.json", "sagenet.pt"]
    assert read_torch(model / "sagenet.pt").refused == []
    assert set(torch.load(model / "sagenet.pt", weights_only=True)) == {KEY, "side"}


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda folder: (folder / "sagenet.json").write_text("{"), "sagenet.json is damaged"),
        (lambda folder: (folder / "sagenet.json").write_text('{"partitions": [{}]}'), "sagenet.json is damaged"),
        (lambda folder: (folder / "sagenet.pt").unlink(), "sagenet.pt does not fit sagenet.json"),
        (lambda folder: (folder / "sagenet.pt").write_bytes(b"PK\x03\x04"), "truncated"),
    ],
    ids=["no json", "no partition", "no tensors", "truncated tensors"],
)
def test_a_damaged_model_is_a_fault_of_the_card(damage, words, model, query, tmp_path):
    shutil.copytree(model, tmp_path / "model")
    damage(tmp_path / "model")
    assert words in inspect_and_check(query, tmp_path / "model", tmp_path / "m")["card"]["fault"]


def test_labels_that_do_not_fit_the_network_are_a_fault(model, query, tmp_path):
    shutil.copytree(model, tmp_path / "model")
    description = json.loads((model / "sagenet.json").read_text())
    description["partitions"][1]["labels"].append("above")
    (tmp_path / "model" / "sagenet.json").write_text(json.dumps(description))
    fault = inspect_and_check(query, tmp_path / "model", tmp_path / "m")["card"]["fault"]
    assert "for 'side' it lacks a graph or weights for 3 labels and 200 genes" in fault


# ----------------------------------------------------------------------------------------------------------------- predictions


def test_predictions_are_the_librarys_by_name(query, model, mapped):
    """Of a sparse query of counts with missing, extra and shuffled genes; the library's goes cell by cell, dense."""
    expected, obs = answer_of(library_of(model), mapped.aligned), mapped.embedding.obs
    assert list(obs.index) == list(query.obs_names)
    for key, labels in mapped.card["labels"].items():
        assert list(mapped.embedding.uns[f"{key}_classes"]) == labels
        assert list(obs[f"{key}_predicted"]) == named(expected.obs[f"pred_ref_{key}"], labels)
        np.testing.assert_allclose(obs[f"{key}_predicted_uncertainty"], expected.obs[f"ent_ref_{key}"], atol=1e-5)
        probabilities = mapped.embedding.obsm[f"{key}_probabilities"]
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
        np.testing.assert_array_equal(obs[f"{key}_predicted_probability"], probabilities.max(axis=1))
    assert (obs[f"{KEY}_predicted"].astype(str).to_numpy() == query.obs["cell_type"].astype(str).to_numpy()).mean() > 0.4


def test_the_embedding_is_the_probabilities(mapped):
    parts = [mapped.embedding.obsm[f"{key}_probabilities"] for key in (KEY, "side")]
    np.testing.assert_array_equal(mapped.latent, np.concatenate(parts, axis=1))
    assert mapped.latent.dtype == np.float32 and mapped.latent.shape[1] == mapped.card["n_latent"]


def test_the_distances_are_the_librarys(model, mapped):
    expected = answer_of(library_of(model), mapped.aligned).obsm["dist_map"]
    found = mapped.embedding.obsp["spatial_distances"]
    n = mapped.embedding.n_obs
    assert sparse.isspmatrix_csr(found) and found.dtype == np.float32 and found.nnz == n * (n - 1)
    np.testing.assert_allclose(found.toarray(), expected, atol=2e-5 * expected.max())


def test_many_cells_keep_the_nearest_alone(query, model, mapped, tmp_path):
    options = {"distance_map": "true", "distance_map_cells": "100", "distance_map_neighbors": "7"}
    few = map_cells(query, model, tmp_path / "m", options=options, seed=3)
    found, all_of_them = few.embedding.obsp["spatial_distances"], mapped.embedding.obsp["spatial_distances"].toarray()
    assert (np.diff(found.indptr) == 7).all()
    np.fill_diagonal(all_of_them, np.inf)
    np.testing.assert_allclose(np.sort(found.data.reshape(-1, 7), axis=1), np.sort(all_of_them, axis=1)[:, :7], atol=1e-7)
    assert any("keeps for each cell its distances to the 7 nearest alone" in w for w in few.record["warnings"])


def test_there_are_no_distances_unless_asked_for(query, model, tmp_path):
    assert list(map_cells(query, model, tmp_path / "m").embedding.obsp) == []


def test_distances_by_blocks(monkeypatch):
    from refmap.families.sagenet import distances

    rng = np.random.default_rng(0)
    predicted = [rng.dirichlet(np.ones(4), 30), rng.dirichlet(np.ones(3), 30)]
    predicted[0][3] = [1, 0, 0, 0]
    whole = spatial_distances(predicted, None)
    expected = np.zeros((30, 30))
    for values in predicted:
        p, q = values[:, None], values[None]
        with np.errstate(divide="ignore", invalid="ignore"):
            # As in the library, a label without probability adds nothing.
            logs = np.where(p > 0, np.log2(p), 0) - np.where(q > 0, np.log2(q), 0)
        one = ((p - q) * logs).sum(axis=2)
        expected += one / np.linalg.norm(one)
    np.testing.assert_allclose(whole.toarray(), expected, atol=1e-7)
    monkeypatch.setattr(distances, "BLOCK_NUMBERS", 30 * 7)
    np.testing.assert_allclose(spatial_distances(predicted, None).toarray(), whole.toarray(), atol=1e-7)
    assert spatial_distances(predicted, 50).nnz == 30 * 29
    assert spatial_distances([predicted[0][:1]], None).shape == (1, 1)


def test_blocks_of_cells_give_what_cell_by_cell_gives(model, mapped, monkeypatch):
    from refmap.families.sagenet import networks
    from refmap.families.sagenet.surgery import SagenetSurgery, Settings

    monkeypatch.setattr(networks, "BLOCK_NUMBERS", 1)
    surgery = SagenetSurgery.prepare(model, ad.read_zarr(mapped.aligned), mapped.card, Settings())
    np.testing.assert_allclose(surgery.embed(), mapped.latent, atol=1e-5)


@pytest.mark.parametrize("changes", [{"seed": 7}, {"train": None}, {"labels_keys": ["cell_type"]}], ids=str)
def test_neither_seed_nor_training_nor_labels_have_a_say(changes, query, model, mapped, tmp_path):
    other = map_cells(query, model, tmp_path / "m", **changes)
    np.testing.assert_array_equal(other.latent, mapped.latent)
    assert (other.record["parameters_trainable"], other.record["train"]) == (0, None)


def test_the_seed_draws_for_the_distances(query, model, mapped, tmp_path):
    options = {"distance_map": "true"}
    same, other = (map_cells(query, model, tmp_path / str(s), options=options, seed=s) for s in (3, 4))
    first, again, others = (m.embedding.obsp["spatial_distances"].toarray() for m in (mapped, same, other))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - others).max() > 1e-4


@pytest.mark.parametrize("n_cells", [1, 10])
def test_a_handful_of_cells(n_cells, query, model, mapped, tmp_path):
    few = map_cells(query[:n_cells].copy(), model, tmp_path / "m", options={"distance_map": "true"})
    np.testing.assert_allclose(few.latent, mapped.latent[:n_cells], atol=1e-5)
    assert few.embedding.obsp["spatial_distances"].shape == (n_cells, n_cells)


def test_a_mapping_onto_a_mapping_in_a_fresh_process(query, model, mapped, tmp_path):
    import torch

    second = map_cells(query, mapped.model, tmp_path / "m")
    np.testing.assert_array_equal(second.latent, mapped.latent)
    assert mapped.record["frozen_sha256_before"] == mapped.record["frozen_sha256_after"]
    old, new = (torch.load(folder / "sagenet.pt", weights_only=True) for folder in (model, second.model))
    for column, tensors in old.items():
        assert torch.equal(new[column]["edges"], tensors["edges"])
        assert all(torch.equal(new[column]["weights"][name], tensor) for name, tensor in tensors["weights"].items())
    code = (
        "import sys, json, anndata\nsys.path.insert(0, sys.argv[5])\nimport numpy\nfrom pathlib import Path\n"
        "from refmap.families.sagenet.surgery import SagenetSurgery, Settings\n"
        "query = anndata.read_zarr(sys.argv[3])\n"
        "surgery = SagenetSurgery.prepare(Path(sys.argv[2]), query, json.loads(sys.argv[4]), Settings())\n"
        "numpy.save(sys.argv[1], surgery.embed())\n"
    )
    root = Path(__file__).resolve().parents[2] / "bin"
    found = in_a_fresh_process(code, second.model, mapped.aligned, json.dumps(mapped.card), root)
    np.testing.assert_allclose(found, mapped.latent, atol=1e-6)


# ------------------------------------------------------------------------------------------------- models of the library alone


@pytest.fixture(scope="session")
def library_folder(model, tmp_path_factory) -> Path:
    """The same networks in the library's files: whole pickles, graphs, no genes and no names of labels."""
    folder = tmp_path_factory.mktemp("library")
    with quietly():
        library_of(model).save_as_folder(str(folder))
    assert sorted(path.suffix for path in folder.iterdir()) == [".h5ad", ".h5ad", ".pickle", ".pickle"]
    return folder


@pytest.fixture
def described_folder(library_folder, spots, tmp_path) -> Path:
    """With what it lacks beside it."""
    folder = tmp_path / "described"
    shutil.copytree(library_folder, folder)
    facts = {"genes": list(spots.var_names), "labels": {"side": ["left", "right"], KEY: sorted(spots.obs[KEY].unique())}}
    (folder / "refmap.yaml").write_text(json.dumps(facts | {"normalization": {"target_sum": 10000, "genes": "model"}}))
    return folder


def test_a_pickled_network_is_refused_without_trust(described_folder, query, tmp_path):
    fault = inspect_and_check(query, described_folder, tmp_path / "m")["card"]["fault"]
    assert (
        "is not safe to load" in fault and "scarches.models.sagenet.model.TransformerConv" in fault and "--trust_models" in fault
    )


def test_the_graph_counts_in_the_checksum(described_folder):
    before = ModelFolder(described_folder).sha256()
    with open(next(described_folder.glob("*.h5ad")), "ab") as graph:
        graph.write(b"x")
    assert ModelFolder(described_folder).sha256() != before


def test_a_trusted_network_without_its_genes_is_refused(library_folder, query, tmp_path):
    fault = inspect_and_check(query, library_folder, tmp_path / "m", trust=True)["card"]["fault"]
    assert "without the names of its genes" in fault and "refmap.yaml" in fault


@pytest.mark.parametrize(
    "facts, words",
    [
        ({"genes": ["A", "B"]}, "lists 2 genes, but ref_bulk_labels.pickle was trained on 200"),
        ({"labels": {"side": ["left"], KEY: list("abcdefghij")}}, "names 1 labels for 'side', but ref_side.pickle has 2 classes"),
        ({"labels": {"sides": ["left", "right"]}}, "has 'labels' for 'sides', for which there is no network"),
        ({"labels": {"side": ["left", "right"]}}, "has no 'labels' for the network ref_bulk_labels.pickle"),
    ],
    ids=["genes", "labels", "column", "one column of two"],
)
def test_facts_that_do_not_fit_the_networks(facts, words, described_folder, query, tmp_path):
    path = described_folder / "refmap.yaml"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))
    assert words in inspect_and_check(query, described_folder, tmp_path / "m", trust=True)["card"]["fault"]


def test_a_trusted_network_maps_and_becomes_safe(described_folder, query, mapped, tmp_path):
    trusted = map_cells(query, described_folder, tmp_path / "m", trust=True)
    np.testing.assert_allclose(trusted.latent, mapped.latent, atol=1e-6)
    assert list(trusted.embedding.obs["side_predicted"]) == list(mapped.embedding.obs["side_predicted"])
    assert sorted(path.name for path in trusted.model.iterdir()) == ["sagenet.json", "sagenet.pt"]
    again = map_cells(query, trusted.model, tmp_path / "again")
    np.testing.assert_array_equal(again.latent, trusted.latent)


def test_a_model_that_the_library_trained(spots, query, tmp_path):
    """Its number of classes is one of NumPy, and its tag is part of the names of its files."""
    from scarches.models.sagenet.sagenet import sagenet

    adata = ad.AnnData(lognorm_of(spots)[:, :30].toarray(), obs=spots.obs.copy(), var=spots.var[[]].iloc[:30])
    adata.obs["number"] = spots.obs[KEY].cat.codes.astype(int)
    adata.varm["adj"] = gene_graph(sparse.csr_matrix(adata.X), GRAPH | {"graph": "correlation"})
    library, folder = sagenet(), tmp_path / "model"
    folder.mkdir()
    with quietly():
        library.train(adata, tag="seq_fish", comm_columns=["number"], epochs=1)
        library.save_as_folder(str(folder))
    (folder / "refmap.yaml").write_text(
        json.dumps({"genes": list(adata.var_names), "labels": {"number": list(spots.obs[KEY].cat.categories)}})
    )
    lognorm = query.copy()
    lognorm.X = lognorm_of(query)
    mapped = map_cells(lognorm, folder, tmp_path / "m", trust=True)
    expected = answer_of(library, mapped.aligned)
    predicted = mapped.embedding.obs["number_predicted"]
    assert list(predicted) == named(expected.obs["pred_seq_fish_number"], mapped.card["labels"]["number"])
    np.testing.assert_allclose(
        mapped.embedding.obs["number_predicted_uncertainty"], expected.obs["ent_seq_fish_number"], atol=1e-5
    )


def test_classes_that_nobody_named_stay_numbers(described_folder, query, mapped, tmp_path):
    path = described_folder / "refmap.yaml"
    facts = json.loads(path.read_text())
    del facts["labels"]
    path.write_text(json.dumps(facts))
    numbered = map_cells(query, described_folder, tmp_path / "m", trust=True)
    labels = mapped.card["labels"][KEY]
    assert numbered.card["labels"] == {f"ref_{KEY}": [str(i) for i in range(10)], "ref_side": ["0", "1"]}
    assert named(numbered.embedding.obs[f"ref_{KEY}_predicted"].astype(int), labels) == list(
        mapped.embedding.obs[f"{KEY}_predicted"]
    )
    assert any("they stay numbers" in w for w in numbered.record["warnings"])


def test_the_column_of_a_file_is_the_longest_that_it_ends_in():
    assert columns_of_stems(["ref_a_side", "ref_x"], ["side", "a_side"]) == {"ref_a_side": "a_side", "ref_x": "ref_x"}


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_of_the_library_gives_the_same_in_blocks(network, spots, tmp_path):
    import torch
    from scarches.models.sagenet.utils import get_dataloader

    torch.manual_seed(0)
    sizes = {"ChebNet": {"K": 2}, "ConvNet": {"filter_K": 3, "pool_K": 3}}.get(network, {})
    partition = Partition("side", ["left", "right"], network, [] if network == "NN" else [4, 3], [5], sizes)
    adjacency = np.zeros((20, 20), dtype=int)
    adjacency[np.arange(19), np.arange(1, 20)] = adjacency[np.arange(1, 20), np.arange(19)] = 1
    with quietly():
        classifier = Classifier(partition, make(partition, 20), edges_of(adjacency))
        x = spots.X[:6, :20]
        found = classifier.probabilities(x)
        loader = get_dataloader(adjacency, x.toarray(), np.zeros(6, dtype=int), batch_size=1, shuffle=False)
        expected = torch.cat([classifier.network(batch.x, batch.edge_index) for batch in loader]).softmax(dim=1)
        torch.save(classifier.network, tmp_path / "ref_side.pickle")
        ad.AnnData(adjacency).write_h5ad(tmp_path / "ref_side.h5ad")
        loaded = load_librarys(tmp_path, "ref_side", "side", ["left", "right"])
    assert loaded.partition == partition and torch.equal(loaded.edges, classifier.edges)
    np.testing.assert_allclose(found, expected.detach(), atol=1e-5)


# ------------------------------------------------------------------------------------------------------------------ references


def lognorm_of(adata: ad.AnnData) -> sparse.csr_matrix:
    counts = adata.X.toarray()
    return sparse.csr_matrix(np.log1p(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1) * 1e4), dtype=np.float32)


def test_the_graph_is_the_librarys_glasso(spots):
    from scarches.models.sagenet.utils import glasso

    x = lognorm_of(spots)[:, :30]
    dense = ad.AnnData(x.toarray())
    with quietly():
        glasso(dense, alphas=2)
    expected = dense.varm["adj"].toarray()
    assert 0 < expected.sum() < 30 * 29
    np.testing.assert_array_equal(gene_graph(x, GRAPH).toarray(), expected)


def test_the_librarys_glasso_takes_no_sparse_matrix_and_no_padded_gene(spots):
    """scarches 0.6.1: why values are made dense here, and a gene that never varies is left alone."""
    from scarches.models.sagenet.utils import glasso

    x = lognorm_of(spots)[:, :30]
    with pytest.raises(ValueError, match="Cannot center sparse matrices"):
        glasso(ad.AnnData(x))
    padded = sparse.hstack([x[:, :20], sparse.csr_matrix((x.shape[0], 10), dtype=np.float32)]).tocsr()
    graph = gene_graph(padded, GRAPH).toarray()
    np.testing.assert_array_equal(graph[:20, :20], gene_graph(x[:, :20], GRAPH).toarray())
    assert graph[20:].sum() == graph[:, 20:].sum() == 0


def test_the_graph_of_correlations(spots, monkeypatch):
    from refmap.families.sagenet import reference

    x = lognorm_of(spots)[:, :50]
    correlation = np.abs(np.corrcoef(x.toarray(), rowvar=False))
    np.fill_diagonal(correlation, 0)
    expected = np.zeros((50, 50))
    for gene, row in enumerate(correlation):
        expected[gene, np.argsort(-row)[:3]] = 1
    options = GRAPH | {"graph": "correlation", "graph_neighbors": 3}
    np.testing.assert_array_equal(gene_graph(x, options).toarray(), np.maximum(expected, expected.T))
    monkeypatch.setattr(reference, "GENES_AT_A_TIME", 7)
    np.testing.assert_array_equal(gene_graph(x, options).toarray(), np.maximum(expected, expected.T))


def test_too_many_genes_for_glasso_get_a_sentence(spots, tmp_path):
    with pytest.raises(
        RefmapError, match="has 200 genes, and the graphical lasso, .* is not tried beyond 100: .*graph=correlation"
    ):
        train("sagenet", spots, tmp_path / "model", reference_options="glasso_genes=100")


def test_a_covariance_that_is_nearly_singular_gets_a_sentence(spots):
    """Fewer cells than genes; the library's glasso ends in a FloatingPointError."""
    copies = lognorm_of(spots)[:20, :30]
    copies = sparse.hstack([copies] * 2).tocsr()
    with pytest.raises(RefmapError, match="graphical lasso finds no graph .*graph=correlation"):
        gene_graph(copies, GRAPH | {"glasso_alphas": 5})


def test_a_partition_of_one_label_gets_a_sentence(spots, tmp_path):
    adata = spots.copy()
    adata.obs["side"] = "left"
    with pytest.raises(RefmapError, match="column 'side' has 1 label beside 'Unknown', and a spatial partition needs two"):
        train("sagenet", adata, tmp_path / "model", reference_labels_key="side", reference_options="graph=correlation")


def test_the_same_seed_gives_the_same_reference(spots, tmp_path):
    import torch

    genes = spots[:, :40].copy()
    options = {"reference_options": "graph=correlation;network=GraphSAGE;n_hidden=4", "reference_max_epochs": 2}
    folders = [train("sagenet", genes, tmp_path / name, seed=seed, **options) for name, seed in zip("abc", (0, 0, 1))]
    one, same, other = (torch.load(folder / "sagenet.pt", weights_only=True)[KEY]["weights"] for folder in folders)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["last_layer_FC.weight"], other["last_layer_FC.weight"])
    described = json.loads((folders[0] / "sagenet.json").read_text())["partitions"][0]
    assert (described["network"], described["hidden_graph"]) == ("GraphSAGE", [4])


def test_a_reference_by_glasso(spots, query, tmp_path):
    options = {"reference_max_epochs": 20, "reference_options": "glasso_alphas=2"}
    model = train("sagenet", spots[:, :30].copy(), tmp_path / "model", **options)
    mapped = map_cells(query, model, tmp_path / "m")
    truth = query.obs["cell_type"].astype(str).to_numpy()
    assert (mapped.embedding.obs[f"{KEY}_predicted"].astype(str).to_numpy() == truth).mean() > 0.4


# ------------------------------------------------------------------------------------------------------------- real space


def test_each_section_has_networks_and_a_graph_of_its_own(spatial_model, tissue):
    import torch
    from refmap.families.sagenet.files import read_description

    description = read_description(ModelFolder(spatial_model))
    assert [(p.column, p.section, p.labels) for p in description.partitions] == [
        ("leiden_0.01@s1", "s1", ["0", "1"]),
        ("leiden_0.01@s2", "s2", ["0", "1"]),
    ]
    for partition in description.partitions:
        np.testing.assert_allclose(sorted(np.array(partition.places)[:, 0]), [0, 50], atol=1)
    tensors = torch.load(spatial_model / "sagenet.pt", weights_only=True)
    for section in ("s1", "s2"):
        own = ad.read_zarr(spatial_model.with_suffix(".zarr"))[(tissue.obs["section"] == section).to_numpy()]
        expected = edges_of(gene_graph(own.X, GRAPH | {"graph": "correlation"}))
        assert torch.equal(tensors[f"leiden_0.01@{section}"]["edges"], expected)
    assert not torch.equal(*(tensors[name]["edges"] for name in tensors))


def test_cells_get_a_place_in_each_section(spatial_model, tissue, tmp_path):
    mapped = map_cells(tissue, spatial_model, tmp_path / "mapped")
    obsm, obs = mapped.embedding.obsm, mapped.embedding.obs
    left = tissue.obs[KEY].isin(["CD14+ Monocyte", "Dendritic"]).to_numpy()
    for partition in json.loads((spatial_model / "sagenet.json").read_text())["partitions"]:
        column = partition["column"]
        place = obsm[f"spatial_predicted@{partition['section']}"]
        np.testing.assert_allclose(place, obsm[f"{column}_probabilities"] @ np.array(partition["places"]), rtol=1e-4)
        assert place.dtype == np.float32
        assert place[~left, 0].mean() > place[left, 0].mean() + 25
        of_left = partition["labels"][np.argmin(np.array(partition["places"])[:, 0])]
        assert ((obs[f"{column}_predicted"].astype(str) == of_left) == left).mean() > 0.9
    table = pd.read_csv(tmp_path / "mapped" / "mapped" / "results" / "gene_importance.csv", dtype={"label": str})
    assert list(table) == ["partition", "label", "gene", "importance"]
    strongest = table.groupby(["partition", "label"], sort=False)["importance"].apply(lambda v: v.abs().is_monotonic_decreasing)
    assert strongest.all() and len(strongest) == 4 and (table.groupby(["partition", "label"]).size() == 30).all()
    # Saved with the mapping's model, which is the same model.
    assert (mapped.model / "sagenet.json").read_text() == (spatial_model / "sagenet.json").read_text()


@pytest.mark.parametrize(
    "places",
    [[[1, 2]], [[1, 2], [3]], [[1, 2], [float("nan"), 4]], [[1, 2], ["left", 4]], [[1, 2, 3], [4, 5, 6]], [1, 2]],
    ids=["too few", "ragged", "no number", "text", "other coordinates than the section's", "one number each"],
)
def test_places_that_do_not_fit_their_labels_are_a_fault(places, spatial_model, query, tmp_path):
    shutil.copytree(spatial_model, tmp_path / "model")
    description = json.loads((spatial_model / "sagenet.json").read_text())
    description["partitions"][1] |= {"places": places, "section": "s1"}
    (tmp_path / "model" / "sagenet.json").write_text(json.dumps(description))
    fault = inspect_and_check(query, tmp_path / "model", tmp_path / "m")["card"]["fault"]
    assert "sagenet.json is damaged: the 'places' of 'leiden_0.01@s2' are not as many numbers for each of its 2 labels" in fault


def test_importance_that_does_not_fit_its_labels_is_a_fault(spatial_model, query, tmp_path):
    import torch

    shutil.copytree(spatial_model, tmp_path / "model")
    tensors = torch.load(spatial_model / "sagenet.pt", weights_only=True)
    tensors["leiden_0.01@s1"]["importance"] = torch.zeros(3, 200)
    torch.save(tensors, tmp_path / "model" / "sagenet.pt")
    fault = inspect_and_check(query, tmp_path / "model", tmp_path / "m")["card"]["fault"]
    assert "the importance of the genes for 'leiden_0.01@s1' is not one of 2 labels x 200 genes" in fault


def test_distances_add_up_over_the_sections(spatial_model, tissue, tmp_path):
    """Each section's networks have the same say: cells are near where both find them alike."""
    mapped = map_cells(tissue, spatial_model, tmp_path / "mapped", options={"distance_map": "true"})
    found = mapped.embedding.obsp["spatial_distances"].toarray()
    expected = answer_of(library_of(spatial_model), mapped.aligned, seed=0).obsm["dist_map"]
    np.testing.assert_allclose(found, expected, atol=2e-5 * expected.max())
    left = tissue.obs[KEY].isin(["CD14+ Monocyte", "Dendritic"]).to_numpy()
    assert found[np.ix_(left, ~left)].mean() > 2 * (found[np.ix_(left, left)].mean() + found[np.ix_(~left, ~left)].mean()) / 2


def test_importance_is_the_integral_of_the_gradients(spatial_model):
    """By its definition, cell by cell on the graph of one cell: the library gives its integrals many cells and the graph of one."""
    import torch
    from refmap.families.sagenet.networks import restore

    (partition, *_) = json.loads((spatial_model / "sagenet.json").read_text())["partitions"]
    tensors = torch.load(spatial_model / "sagenet.pt", weights_only=True)[partition["column"]]
    cells = ad.read_zarr(spatial_model.with_suffix(".zarr"))[:5]
    classifier = restore(Partition(**partition), cells.n_vars, tensors)
    numbers = np.array([0, 1, 0, 0, 1])
    expected = np.zeros((2, cells.n_vars))
    for row, number in zip(torch.from_numpy(cells.X.toarray()), numbers, strict=True):
        along = torch.zeros_like(row)
        for step in range(400):
            at = (row * (step + 0.5) / 400).requires_grad_()
            classifier.network(at.reshape(-1, 1), classifier.edges)[0, number].backward()
            along += row * at.grad / 400
        expected[number] += (along / along.norm()).numpy() / (numbers == number).sum()
    np.testing.assert_allclose(classifier.gene_importance(cells.X, numbers, 50), expected, atol=5e-3)
    assert np.abs(expected).max() > 0.1 and tensors["importance"].shape == (2, cells.n_vars)
