"""The folder that describes one mapping."""

import gzip
import json
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from browser import content_of, names_of, unpack
from click.testing import CliRunner
from export_embedding import export_embedding
from PIL import Image
from refmap.common import layout
from refmap.common import names as of_cells
from refmap.common.errors import RefmapError
from refmap.common.folders import MappedFolder, PreparedFolder, ReferenceFolder
from refmap.common.storage import StoredCells, read_zarr, write_zarr
from refmap.mapping.decoded import Decoded
from refmap.report import mapped_cells, plots
from refmap.report.cell_table import write_cells
from refmap.report.pictures import caption
from refmap.report.qc import confusion_table, describe_mapping, score
from refmap.sheet.fields import MAPQC_KEYS
from refmap.transfer.calibrate import calibrate_reference
from refmap.transfer.transfer import transfer
from refmap.trust import Samples, mapqc
from rows import PREPARED
from scipy import sparse

ALIGNMENT = {"matched": 24, "n_model_genes": 30}
CLASSES = ["B", "NK", "T $\\frac$"]


def make_mapping(folder, n=300, n_latent=10, predicts=True, **changes):
    """Write what EXPORT_EMBEDDING is given of a query of n cells in three groups; return the paths, the plan and the truth."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, size=n)
    truth = np.array(CLASSES, dtype=object)[kind]
    truth[::7] = None
    obs = pd.DataFrame(
        {
            "donor": pd.Categorical(np.where(np.arange(n) % 2, "d1", "d2")),
            "cell_type": pd.Categorical(truth),
            "age": np.linspace(20, 80, n),
            "many": [f"kind {i % 40}" for i in range(n)],
        },
        index=[f"cell{i}" for i in range(n)],
    )
    query = ad.AnnData(np.ones((n, 2), dtype=np.float32), obs=obs)
    query.write_h5ad(folder / "query.h5ad")

    latent = (rng.normal(size=(3, n_latent)) * 8)[kind] + rng.normal(size=(n, n_latent))
    embedding = ad.AnnData(
        obs=pd.DataFrame(index=obs.index), obsm={"X_emb": latent.astype(np.float32)}, uns={"refmap": {"family": "scvi"}}
    )
    predicted = np.where(np.arange(n) % 10 == 0, (kind + 1) % 3, kind)
    if predicts:
        embedding.obs["label_predicted"] = pd.Categorical.from_codes(predicted, CLASSES)
        embedding.obs["label_predicted_uncertainty"] = rng.uniform(0, 0.5, size=n)
        embedding.uns["label_classes"] = np.array(CLASSES, dtype=object)
    with ad.settings.override(zarr_write_format=2):
        embedding.write_zarr(folder / "embedding.zarr")

    row = {
        **{
            "dataset": "pbmc",
            "file_id": "d.1",
            "query": "data/query.h5ad",
            "model": "atlas",
            "modality": None,
            "obs_table": None,
        },
        **{"batch_key": "donor", "labels_keys": [], "truth_key": "cell_type", "umap_colors": []},
        **dict.fromkeys(MAPQC_KEYS),
        **changes,
    }
    record = {
        "predictions": {"label": {"mean_uncertainty": 0.1}} if predicts else {},
        "warnings": ["first"],
        "n_cells": n,
        "seed": 0,
        "hshare": None,
    }
    for name, content in {"plan": {"row": row}, "alignment": ALIGNMENT, "mapping": record}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    counts = sparse.csr_matrix(rng.poisson(1 + 5 * np.eye(3)[kind].repeat(10, axis=1)).astype(np.float32))
    write_zarr(ad.AnnData(counts, obs=pd.DataFrame(index=obs.index)), folder / "aligned.zarr")
    (folder / "results").mkdir()
    (folder / "history.csv").write_text("epoch,elbo_train\n1,2.5\n2,2.0\n")
    return SimpleNamespace(
        folder=folder,
        plan={"row": row},
        kind=kind,
        truth=truth,
        predicted=np.array(CLASSES, dtype=object)[predicted],
        latent=latent,
        obs=obs,
    )


def describe(mapping, output, mapped=None, reference=None):
    folder = mapping.folder
    describe_mapping(
        mapping.plan, folder / "query.h5ad", PreparedFolder(folder), mapped or MappedFolder(folder), reference, 0.2, output
    )
    return output


def add_reference(mapping, n=300, keys=("label",)):
    """Give a mapping reference cells around its own: the mapping with their labels, and the reference's folder."""
    folder, rng = mapping.folder, np.random.default_rng(1)
    near = rng.integers(0, len(mapping.latent), size=n)
    cells, reference = ReferenceFolder(folder / "cells"), ReferenceFolder(folder / "reference")
    cells.folder.mkdir()
    latent = (mapping.latent[near] + rng.normal(scale=0.3, size=(n, mapping.latent.shape[1]))).astype(np.float32)
    obs = pd.DataFrame(
        {
            "label": pd.Categorical(np.array(CLASSES, dtype=object)[mapping.kind[near]]),
            "broad": pd.Categorical(np.where(mapping.kind[near] == 1, "innate", "adaptive")),
            "donor": pd.Categorical(np.resize(["r1", "r2"], n)),
        },
        index=[f"r{i}" for i in range(n)],
    )
    write_zarr(ad.AnnData(obs=obs, obsm={"X_emb": latent}), cells.cells)
    cells.record.write_text(json.dumps(PREPARED | {"keys": list(keys), "batch_key": "donor", "n_cells": n}))
    calibrate_reference(cells, None, 0, 0.2, 20, reference)
    # What a mapping gives, and no more, lies in a folder of its own.
    mapped, labelled = MappedFolder(folder / "mapped"), MappedFolder(folder / "labelled")
    mapped.results.mkdir(parents=True)
    for name in ("embedding.zarr", "mapping.json", "history.csv"):
        (mapped.folder / name).symlink_to(folder / name)
    transfer(mapped, reference, 0.2, False, labelled)
    return labelled, reference


@pytest.fixture(scope="session")
def mapping(tmp_path_factory):
    return make_mapping(tmp_path_factory.mktemp("mapping") / "in", umap_colors=["age", "many", "nothing", "donor"])


@pytest.fixture(scope="session")
def described(mapping):
    return describe(mapping, mapping.folder.parent / "out")


def test_what_the_model_expects_of_the_cells_is_compared_with_their_counts(tmp_path):
    """Of a query of which some cells have no embedding, by their places in the whole query."""
    mapping = make_mapping(tmp_path / "in")
    folder = MappedFolder(mapping.folder)
    record = json.loads(folder.record.read_text()) | {"hshare": 0.876543}
    folder.record.write_text(json.dumps(record))
    embedded = ad.read_zarr(folder.embedding)
    embedded.obsm["X_emb"][:50] = np.nan
    with ad.settings.override(zarr_write_format=2):
        embedded.write_zarr(folder.embedding)
    cells, genes = np.arange(50, 300), np.arange(25)
    expected = 1 + 5 * np.eye(3)[mapping.kind].repeat(10, axis=1)
    expected = 1e4 * expected / expected.sum(axis=1, keepdims=True)
    Decoded(cells, genes, expected[np.ix_(cells, genes)].astype(np.float16)).write(folder.decoded)
    output = describe(mapping, tmp_path / "out")
    figures = json.loads((output / "mapping.json").read_text())["trust"]["figures"]
    assert figures["hshare"]["value"] == 0.8765
    assert (figures["explained"]["n_cells"], figures["explained"]["n_genes"]) == (250, 25)
    assert figures["explained"]["value"] > 0.9
    table = pd.read_csv(output / "explained.csv", keep_default_na=False)
    assert list(table.columns) == ["cluster", "n_cells", "explained", "label", "label_share"]
    clusters = figures["explained"]["clusters"]
    assert table["n_cells"].tolist() == [cluster["n_cells"] for cluster in clusters.values()]
    assert set(table["label"]) == set(CLASSES) and (table["explained"] > 0.8).all()
    # Where nothing was decoded, nothing is made up.
    folder.decoded.unlink()
    output = describe(mapping, tmp_path / "without")
    figures = json.loads((output / "mapping.json").read_text())["trust"]["figures"]
    assert figures["explained"]["value"] is None and not (output / "explained.csv").exists()


def test_samples_are_compared_where_the_row_names_them(tmp_path):
    """Of the cells that have an embedding, with the labels that these got."""
    keys = {"mapqc_sample_key": "donor", "mapqc_control_key": "cell_type", "mapqc_control": "B"}
    mapping = make_mapping(tmp_path / "in", n=600, **keys)
    mapped, reference = add_reference(mapping, n=400)
    cells, embedded = read_zarr(reference.cells), read_zarr(mapped.embedding)
    cells.obs["donor"] = pd.Categorical(np.resize(["r1", "r2", "r3", None], 400))
    write_zarr(cells, reference.cells)
    embedded.obsm["X_emb"][:50] = np.nan
    write_zarr(embedded, mapped.embedding)
    figures = json.loads((describe(mapping, tmp_path / "out", mapped, reference) / "mapping.json").read_text())["trust"][
        "figures"
    ]
    donors, controls = (mapping.obs[key].astype(object).reset_index(drop=True)[50:] for key in ("donor", "cell_type"))
    query = Samples(
        mapping.latent[50:],
        donors,
        None,
        (controls == "B").to_numpy(),
        embedded.obs["label_transferred"].reset_index(drop=True)[50:],
    )
    of_reference = Samples(cells.obsm["X_emb"], cells.obs["donor"].astype(object), labels=cells.obs["label"])
    assert figures["mapqc"] == mapqc(query, of_reference, 0)
    assert figures["mapqc"]["value"] is not None and figures["mapqc"]["n_reference_samples"] == 3
    assert figures["mapqc"]["n_cells"] > 0 and figures["mapqc"]["n_cases"] > figures["mapqc"]["n_cells"]
    # Without cells of the reference there is nothing to compare with.
    figures = json.loads((describe(mapping, tmp_path / "alone") / "mapping.json").read_text())["trust"]["figures"]
    note = "There are no cells of the reference to compare the query's with."
    assert figures["mapqc"] == {"value": None, "expected": None, "note": note}


def test_folder_holds_the_records_and_the_pictures(described):
    assert sorted(path.name for path in described.iterdir()) == [
        "alignment.json",
        "cells.csv.gz",
        "cells.parquet",
        "composition.json",
        "composition.pdf",
        "composition.png",
        "confusion.csv",
        "confusion.pdf",
        "confusion.png",
        "explore.html",
        "history.csv",
        "mapping.json",
        "sankey.pdf",
        "sankey.png",
        "training.pdf",
        "training.png",
        "umap.pdf",
        "umap.png",
    ]
    assert json.loads((described / "alignment.json").read_text()) == ALIGNMENT
    assert "mapqc" not in json.loads((described / "mapping.json").read_text())["trust"]["figures"]
    assert (described / "history.csv").read_text() == "epoch,elbo_train\n1,2.5\n2,2.0\n"


def test_the_cells_are_a_table(mapping, described):
    table, plain = pd.read_parquet(described / "cells.parquet"), pd.read_csv(described / "cells.csv.gz")
    embedded = ad.read_zarr(MappedFolder(mapping.folder).embedding)
    assert list(table["cell"]) == list(embedded.obs_names) == list(plain["cell"])
    assert list(table) == list(plain) and {"donor", "age", "label_predicted", "label_predicted_uncertainty"} <= set(table)
    assert list(table["label_predicted"]) == list(mapping.predicted)
    assert list(table["donor"]) == list(mapping.obs["donor"])
    np.testing.assert_allclose(plain["label_predicted_uncertainty"], embedded.obs["label_predicted_uncertainty"])
    assert json.loads((described / "mapping.json").read_text())["labels"] == ["label_predicted"]


def test_a_table_of_several_blocks_of_cells_is_that_of_one(mapping, tmp_path, monkeypatch):
    """Also where no cell of the first block has a value."""
    columns = {name: mapped_cells.coded(mapping.obs[name].reset_index(drop=True)) for name in ("donor", "cell_type", "many")}
    late = pd.Series([None] * 290 + ["x"] * 10, dtype=object)
    columns |= {
        "late": mapped_cells.coded(late),
        "none": mapped_cells.coded(late.where(late != "x", None)),
        "age": mapping.obs["age"],
    }
    embedded = StoredCells(MappedFolder(mapping.folder).embedding)
    for name, at_once in {"one": 1_000, "several": 64}.items():
        monkeypatch.setattr(of_cells, "NAMES", at_once)
        (tmp_path / name).mkdir()
        write_cells(columns, embedded, tmp_path / name)
    one, several = (pd.read_parquet(tmp_path / name / "cells.parquet") for name in ("one", "several"))
    pd.testing.assert_frame_equal(one, several)
    assert (
        list(one["late"].dropna().items()) == [(i, "x") for i in range(290, 300)]
        and one["none"].isna().all()
        and list(one["many"]) == list(mapping.obs["many"])
    )
    texts = [gzip.decompress((tmp_path / name / "cells.csv.gz").read_bytes()) for name in ("one", "several")]
    assert texts[0] == texts[1] and texts[0].count(b"\n") == 301


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (pd.Series([True, False, True]), ["True", "False", "True"]),
        (pd.Series([1.0, np.nan, 2.5]), ["1.0", None, "2.5"]),
        (pd.Series(pd.array([3, None, 1], dtype="Int64")), ["3", None, "1"]),
        (pd.Series(pd.Categorical([10, None, 9])), ["10", None, "9"]),
        (pd.Series(["b", "", None], dtype=object), ["b", None, None]),
        (pd.Series(pd.Categorical([None, None, None], categories=["x"])), [None, None, None]),
    ],
    ids=["booleans", "floats", "integers with gaps", "categories of numbers", "empty text", "nothing"],
)
def test_values_are_categories_of_text(values, texts):
    found = mapped_cells.coded(values)
    assert found.astype(object).where(found.notna(), None).tolist() == texts
    assert list(found.cat.categories) == sorted(found.cat.categories)


def test_composition_counts_predictions_by_batch(mapping, described):
    composition = json.loads((described / "composition.json").read_text())
    assert composition["source"] == "predicted" and composition["key"] == "label_predicted"
    assert composition["total"] == {label: int((mapping.predicted == label).sum()) for label in CLASSES}
    assert list(composition["batches"]) == ["d1", "d2"]
    for batch, counts in composition["batches"].items():
        inside = mapping.predicted[(mapping.obs["donor"] == batch).to_numpy()]
        assert counts == {label: int((inside == label).sum()) for label in CLASSES}


def test_score_leaves_out_cells_of_unknown_truth(mapping, described):
    known = pd.notna(mapping.truth)
    accuracy = json.loads((described / "mapping.json").read_text())["accuracy"]
    assert accuracy["truth_key"] == "cell_type"
    assert accuracy["n_scored"] == known.sum() and accuracy["n_unknown"] == 0
    assert accuracy["accuracy"] == pytest.approx((mapping.truth == mapping.predicted)[known].mean())


def test_confusion_has_the_right_on_its_diagonal(mapping, described):
    table = pd.read_csv(described / "confusion.csv", index_col=0)
    assert list(table.index) == list(table.columns) == CLASSES
    assert table.to_numpy().sum() == pd.notna(mapping.truth).sum()
    assert np.trace(table.to_numpy()) == (mapping.truth == mapping.predicted).sum()


def test_a_colour_that_the_query_lacks_is_a_warning_only(described):
    warnings = json.loads((described / "mapping.json").read_text())["warnings"]
    assert warnings == ["first"]


@pytest.mark.parametrize("n", [1, 2, 10, 16])
def test_few_cells_are_drawn_too(tmp_path, n):
    output = describe(make_mapping(tmp_path / "in", n=n), tmp_path / "out")
    assert Image.open(output / "umap.png").width > 500
    assert sum(json.loads((output / "composition.json").read_text())["total"].values()) == n


def test_a_model_without_predictions_falls_back_to_the_querys_labels(tmp_path):
    mapping = make_mapping(tmp_path / "in", n=12, n_latent=1, predicts=False)
    output = describe(mapping, tmp_path / "out")
    composition = json.loads((output / "composition.json").read_text())
    assert composition["source"] == "truth" and composition["total"]["missing"] == 2
    assert json.loads((output / "mapping.json").read_text())["accuracy"] is None
    assert not (output / "confusion.csv").exists()


@pytest.mark.parametrize("batch_key", ["donor", None])
def test_nothing_known_of_the_cells(tmp_path, batch_key):
    output = describe(make_mapping(tmp_path / "in", n=3, predicts=False, truth_key=None, batch_key=batch_key), tmp_path / "out")
    composition = json.loads((output / "composition.json").read_text())
    assert composition == {"source": None, "key": None, "total": {}, "batches": {}}
    assert {"umap.png", "umap.pdf", "explore.html"} <= {path.name for path in output.iterdir()}


def test_an_embedding_of_other_cells_is_refused(tmp_path):
    mapping = make_mapping(tmp_path / "in", n=5)
    ad.read_h5ad(mapping.folder / "query.h5ad")[:4].copy().write_h5ad(mapping.folder / "query.h5ad")
    with pytest.raises(
        RefmapError, match=r"The embedding's 5 cells are not those of the query 'data/query.h5ad' \(4 cells\).*-resume"
    ):
        describe(mapping, tmp_path / "out")


def export(mapping, mapped, out, *more):
    """Call EXPORT_EMBEDDING; return the fault that it wrote."""
    folder, out = mapping.folder, out / "of"
    given = {"plan": folder / "plan.json", "query": folder / "query.h5ad", "prepared": folder, "mapped": mapped}
    given |= {"unknown-by": "certainty", "certainty": 0.8, "threshold": 0.2, "fault": out / "fault.json"}
    given |= {name: out / name for name in ("labelled", "output", "qc")}
    words = [str(word) for name, value in given.items() for word in (f"--{name}", value)]
    result = CliRunner().invoke(export_embedding, [*words, *more], catch_exceptions=False)
    assert result.exit_code == 0
    fault = json.loads((out / "fault.json").read_text())
    assert [fault.pop(name) for name in ("dataset", "file_id")] == ["pbmc", "d.1"]
    return fault | {"left": sorted(path.name for path in out.iterdir())}


def test_a_fault_of_the_figures_leaves_the_query_with_its_embedding(tmp_path, in_one_process):
    mapping = make_mapping(tmp_path / "in", n=5, truth_key="cel_type")
    fault = export(mapping, mapping.folder, tmp_path)
    assert (fault["stage"], fault["left"]) == ("QC_MAPPING", ["fault.json", "output"])
    assert "has no obs column 'cel_type'" in fault["message"] and "Did you mean 'cell_type'?" in fault["message"]
    assert ad.read_zarr(tmp_path / "of/output").obsm["X_emb"].shape == (5, 10)


def test_a_fault_of_the_labels_leaves_nothing(tmp_path, in_one_process):
    mapping, reference = make_mapping(tmp_path / "in", n=5), ReferenceFolder(tmp_path / "reference")
    write_zarr(ad.AnnData(obsm={"X_emb": np.zeros((9, 11), dtype=np.float32)}), reference.cells)
    reference.record.write_text(json.dumps({"n_latent": 11, "latent_names": None, "reference": "atlas.h5ad"}))
    fault = export(mapping, mapping.folder, tmp_path, "--reference", str(reference.folder))
    assert (fault["stage"], fault["left"]) == ("TRANSFER_LABELS", ["fault.json"])
    assert fault["message"].startswith("The query's embedding has 10 dimensions and that of its reference cells")


@pytest.mark.parametrize(
    ("n", "drawn", "expected"),
    [
        (1, 1, "1 cell, too few for a UMAP: the two latent dimensions that vary most"),
        (15, 15, "15 cells, too few for a UMAP: the two latent dimensions that vary most"),
        (16, 16, "UMAP of 16 cells"),
        (60_000, 50_000, "UMAP of 50,000 cells, drawn at random from 60,000"),
    ],
)
def test_caption_says_what_is_drawn(n, drawn, expected):
    assert caption(n, drawn) == expected


def test_at_most_so_many_cells_are_drawn(tmp_path, monkeypatch):
    drawn = {}

    def note(panels, title, path):
        drawn.update({panel.name: panel.values for panel in panels}, title=title)

    monkeypatch.setattr("refmap.report.pictures.MOST_CELLS_DRAWN", 20)
    monkeypatch.setattr(plots, "draw_cells", note)
    mapping = make_mapping(tmp_path / "in", n=50)
    describe(mapping, tmp_path / "out")
    assert drawn.pop("title") == "pbmc/d.1: UMAP of 20 cells, drawn at random from 50"
    assert list(drawn) == ["predicted label", "uncertainty of the predicted label", "batch (donor)", "true label (cell_type)"]
    assert all(len(values) == 20 for values in drawn.values())
    # The same cells in every panel, in the same order.
    chosen = np.random.default_rng(0).permutation(50)[:20]
    assert list(drawn["predicted label"]) == list(mapping.predicted[chosen])
    assert list(drawn["batch (donor)"]) == list(mapping.obs["donor"].iloc[chosen])


@pytest.fixture(scope="module")
def beside_reference(tmp_path_factory):
    mapping = make_mapping(tmp_path_factory.mktemp("beside") / "in")
    output = describe(mapping, mapping.folder.parent / "out", *add_reference(mapping))
    return mapping, output, json.loads((output / "mapping.json").read_text())


def test_reference_cells_add_their_pictures(beside_reference):
    _, output, _ = beside_reference
    new = {"joint.png", "joint.pdf", "calibration.png", "calibration.pdf"}
    new |= {f"confusion_transferred.{kind}" for kind in ("csv", "png", "pdf")}
    assert new <= {path.name for path in output.iterdir()}
    assert Image.open(output / "joint.png").width > 500


def test_the_models_labels_and_those_of_the_neighbours_are_scored_apart(beside_reference):
    mapping, output, record = beside_reference
    known = pd.notna(mapping.truth)
    assert record["accuracy"]["accuracy"] == pytest.approx((mapping.truth == mapping.predicted)[known].mean())
    assert list(record["calibration"]) == ["label_transferred"]
    # The groups lie well apart.
    assert record["calibration"]["label_transferred"]["accuracy"] == 1
    table = pd.read_csv(output / "confusion_transferred.csv", index_col=0)
    assert np.trace(table.to_numpy()) == known.sum()


def test_a_mapping_with_a_truth_is_evaluated(beside_reference):
    mapping, _, record = beside_reference
    found, n = record["evaluation"], int(pd.notna(mapping.truth).sum())
    assert (found["truth_key"], found["query"]["n_cells"], found["query"]["n_batches"]) == ("cell_type", n, 2)
    assert (found["joint"]["n_cells"], found["joint"]["n_labels"], found["joint"]["n_batches"]) == (n + 300, 3, 4)
    assert found["joint"]["knn_purity"] > 0.99 and found["joint"]["ebm"] > 0.7
    assert found["transferred"]["weighted"] == 1 > found["predicted"]["weighted"] > 0.8


def test_a_good_mapping_is_judged_by_all_figures(beside_reference):
    _, _, record = beside_reference
    assert {record["trust"][part]["light"] for part in ("labels", "embedding")} == {"green"}
    figures = record["trust"]["figures"]
    assert all(figures[name]["value"] is not None for name in ("genes", "unknown", "novel", "presence", "mixing"))
    assert figures["genes"]["value"] == 0.8 and figures["unknown"]["levels"]["label"]["value"] == 0


def test_without_reference_cells_it_is_said_what_is_not_known(described):
    trust = json.loads((described / "mapping.json").read_text())["trust"]
    assert {trust[part]["light"] for part in ("labels", "embedding")} == {"grey"}
    assert trust["figures"]["novel"]["value"] is None and "reference" in trust["figures"]["novel"]["note"]
    assert "It cannot be said how far these labels may be trusted" in trust["labels"]["reasons"][0]


@pytest.mark.parametrize("n", [1, 10])
@pytest.mark.parametrize("changes", [{"predicts": False, "truth_key": None}, {}])
def test_a_few_cells_beside_a_reference(tmp_path, n, changes):
    mapping = make_mapping(tmp_path / "in", n=n, **changes)
    output = describe(mapping, tmp_path / "out", *add_reference(mapping, n=40))
    record = json.loads((output / "mapping.json").read_text())
    for part in ("labels", "embedding"):
        assert record["trust"][part]["light"] in ("grey", "amber", "green", "red") and record["trust"][part]["reasons"]
    assert (output / "joint.png").exists() and (output / "explore.html").exists()


def test_ties_are_ranked_by_name():
    assert list(plots.ranked(pd.Series(["b", "c", "a", "c"])).items()) == [("c", 2), ("a", 1), ("b", 1)]


def test_types_that_the_model_never_saw_are_not_scored():
    truth = pd.Series(["A", "B", "C", None], dtype=object)
    predicted = pd.Series(["A", "A", "A", "A"], dtype=object)
    assert score(truth, predicted, ["A", "B"]) == {"n_scored": 2, "n_unknown": 1, "accuracy": 0.5}
    assert score(truth[2:], predicted[2:], ["A", "B"]) == {"n_scored": 0, "n_unknown": 1, "accuracy": None}


def test_confusion_lists_shared_labels_first():
    table = confusion_table(pd.Series(["B", "A", "B", None], dtype=object), pd.Series(["B", "Z", "C", "A"], dtype=object))
    assert list(table.index) == ["A", "B"] and list(table.columns) == ["A", "B", "C", "Z"]
    assert table.to_numpy().tolist() == [[0, 0, 0, 1], [0, 1, 1, 0]]


def test_neighbour_weights_are_those_of_umap_learn():
    """Against umap-learn's own, given the same neighbours."""
    from sklearn.neighbors import NearestNeighbors
    from umap.umap_ import fuzzy_simplicial_set

    latent = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32)
    latent[3] = latent[2]
    distances, neighbors = NearestNeighbors(n_neighbors=layout.N_NEIGHBORS - 1).fit(latent).kneighbors()
    itself = np.arange(200).reshape(-1, 1)
    given = {
        "knn_indices": np.hstack([itself, neighbors]).astype(np.int32),
        "knn_dists": np.hstack([np.zeros((200, 1)), distances]).astype(np.float32),
    }
    expected, _, _ = fuzzy_simplicial_set(latent, layout.N_NEIGHBORS, np.random.RandomState(0), "euclidean", **given)
    np.testing.assert_allclose(layout.neighbor_weights(latent).toarray(), expected.toarray(), atol=2e-3)


def test_umap_keeps_groups_apart_and_repeats_itself(mapping):
    latent = mapping.latent.astype(np.float32)
    position = layout.umap(latent, seed=1)
    assert position.shape == (300, 2) and np.isfinite(position).all()
    np.testing.assert_array_equal(position, layout.umap(latent, seed=1))
    assert not np.array_equal(position, layout.umap(latent, seed=2))
    # Of each cell's 10 nearest neighbours in the picture, nearly all are of its own group.
    group = mapping.kind
    distance = ((position[:, None] - position[None]) ** 2).sum(-1)
    near = np.argsort(distance, axis=1)[:, 1:11]
    assert (group[near] == group[:, None]).mean() > 0.99


def test_umap_of_identical_cells_is_finite():
    assert np.isfinite(layout.umap(np.ones((30, 4), dtype=np.float32), seed=0)).all()


def test_first_two_are_the_dimensions_that_vary_most():
    latent = np.random.default_rng(0).normal(size=(50, 4)) * [1, 5, 0.1, 3]
    np.testing.assert_array_equal(layout.first_two(latent), latent[:, [1, 3]])
    np.testing.assert_array_equal(layout.first_two(latent[:, :1])[:, 1], np.zeros(50))


def test_cells_without_a_label_are_drawn_grey(tmp_path):
    labels = pd.Series(pd.Categorical(["B", None, "T"]))
    plots.draw_cells([plots.Panel("labels", labels, np.eye(3)[:, :2])], "title", tmp_path / "cells")
    assert (tmp_path / "cells.png").stat().st_size


@pytest.mark.parametrize("n_reference", [0, 80])
def test_the_page_to_look_around_in_has_the_querys_genes(tmp_path, n_reference):
    mapping = make_mapping(tmp_path / "in", n=60)
    with_cells = add_reference(mapping, n=n_reference) if n_reference else ()
    content = content_of(describe(mapping, tmp_path / "out", *with_cells) / "explore.html")
    assert content["behind"] == n_reference and len(names_of(content)) == n_reference + 60
    measured = np.unpackbits(np.frombuffer(unpack(content["genes"]["measured"]), np.uint8))[: n_reference + 60]
    assert list(measured) == [0] * n_reference + [1] * 60
    # Each group has ten genes of its own.
    genes = {gene["name"]: gene for gene in content["genes"]["genes"]}
    assert {int(name) // 10 for name in list(genes)[:3]} == {0, 1, 2} and content["genes"]["unit"] == "log-normalised counts"
    assert "reference_mapping/dataset~pbmc/file_id~d.1.zarr" in content["genes"]["notes"][1]
    kind = mapping.kind[[int(name.removeprefix("cell")) for name in names_of(content)[n_reference:]]]
    for name in list(genes)[:3]:
        levels = np.frombuffer(unpack(genes[name]["levels"]), np.uint8)
        assert levels[kind == int(name) // 10].mean() > 1.5 * levels[kind != int(name) // 10].mean()


def test_the_page_is_coloured_by_the_finest_certain_label_of_several_levels(tmp_path):
    mapping = make_mapping(tmp_path / "in", n=60)
    output = describe(mapping, tmp_path / "out", *add_reference(mapping, 80, ["label", "broad"]))
    columns = {column["name"]: column for column in content_of(output / "explore.html")["columns"]}
    assert set(columns["label_best"]["categories"]) == set(CLASSES)
    cells = pd.read_parquet(output / "cells.parquet")
    assert (cells["label_best"].astype(str) == cells["label_transferred"].astype(str)).all()
    assert (cells["label_best_level"] == "label").all()
    record = json.loads((output / "mapping.json").read_text())
    assert record["transfer"]["annotations"] == [{"name": "label", "levels": {"broad": 0, "label": 60}, "unknown": 0}]
