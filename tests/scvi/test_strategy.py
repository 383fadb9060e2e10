"""One surgery for all batches, or one a batch: what moves, what may not, and what comes out of each strategy."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from mapping import Mapped, map_cells, prepare, training_of
from refmap.common.errors import RefmapError
from refmap.common.folders import MappedFolder
from refmap.common.strategies import STRATEGIES
from refmap.families.scvi import surgery as scvi_surgery
from refmap.mapping.mapping import map_query
from refmap.reference.inspection import inspect_model
from rows import ROW
from small_models import input_of, model_class, save_model

CLASSES = ["SCVI", "SCANVI"]
# The order of the surgeries: by size, not by name nor by where a batch begins.
BATCHES = ["d2", "ref_a@lung.donor_1", "d1"]
SETTINGS = {"max_epochs": 2, "early_stopping": False, "check_val_every_n_epoch": 1, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def batches(query):
    """The query in three interleaved batches of 8, 1 in 3 and the other cells; one is called as a batch of the reference."""
    adata = query.copy()
    donors = np.array(["ref_a" if i % 3 == 1 else "d2" for i in range(adata.n_obs)], dtype=object)
    donors[[0, 5, 9, 14, 20, 33, 41, 57]] = "d1"
    adata.obs["donor"] = pd.Categorical(donors)
    return adata


@pytest.fixture(scope="module")
def mapped(batches, scvi_model, scanvi_model, tmp_path_factory):
    """The same query mapped by each strategy: a function of the class and the strategy."""
    models, done = {"SCVI": scvi_model, "SCANVI": scanvi_model}, {}

    def of(name: str, strategy: str) -> Mapped:
        if (name, strategy) not in done:
            folder = tmp_path_factory.mktemp(f"{name}_{strategy}")
            done[name, strategy] = map_cells(batches, models[name], folder, strategy=strategy, train=SETTINGS)
        return done[name, strategy]

    return of


def models_of(mapped: Mapped) -> list[Path]:
    names = [surgery["model"] for surgery in mapped.record["surgeries"]]
    return [mapped.model / name for name in names] if all(names) else [mapped.model]


def latent_of(name: str, model: Path, adata) -> np.ndarray:
    """What scvi-tools itself says of these cells, loading the model afresh."""
    return np.asarray(model_class(name).load(str(model), adata=adata.copy()).get_latent_representation())


def batch_of(mapped: Mapped) -> pd.Series:
    return ad.read_zarr(mapped.aligned).obs["batch"].astype(str)


def mapped_alone(batches, batch: str, model: Path, folder: Path) -> Mapped:
    """What a mapping of one batch alone gives, in one surgery."""
    donor = batch.partition("@")[0]
    return map_cells(batches[batches.obs["donor"] == donor].copy(), model, folder, train=SETTINGS)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", CLASSES)
def test_the_reference_keeps_its_latent(name, strategy, mapped, cells, scvi_model, scanvi_model):
    before = latent_of(name, {"SCVI": scvi_model, "SCANVI": scanvi_model}[name], cells)
    done = mapped(name, strategy)
    assert len(models_of(done)) == (3 if strategy == "per_batch" else 1)
    for model in models_of(done):
        np.testing.assert_allclose(latent_of(name, model, cells), before, atol=1e-5, rtol=0)
    for surgery in done.record["surgeries"]:
        assert surgery["frozen_sha256_before"] == surgery["frozen_sha256_after"]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["per_batch", "sequential"])
@pytest.mark.parametrize("name", ["TOTALVI", "PEAKVI", "DRVI", "JointEmbeddingSCVI"])
def test_other_classes_keep_theirs(name, strategy, batches, cells, tmp_path):
    model = save_model(name, cells, tmp_path / "model")
    options = {"protein_key": "protein_expression"} if name == "TOTALVI" else {}
    done = map_cells(batches, model, tmp_path / "m", strategy=strategy, train=SETTINGS, **options)
    before = latent_of(name, model, cells)
    for updated in models_of(done):
        np.testing.assert_allclose(latent_of(name, updated, cells), before, atol=1e-5, rtol=0)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_query_keeps_its_order_and_moves(strategy, mapped, batches, scanvi_model, tmp_path):
    done = mapped("SCANVI", strategy)
    assert list(done.embedding.obs_names) == list(batches.obs_names)
    untrained = map_cells(batches, scanvi_model, tmp_path / "m", train=None)
    for batch in BATCHES:
        of = (batch_of(done) == batch).to_numpy()
        assert np.abs(done.latent[of] - untrained.latent[of]).max() > 1e-4
    # All labels that the model knows, also those that no cell of a batch has.
    assert list(done.embedding.obs["bulk_labels_predicted"].cat.categories) == list(done.embedding.uns["bulk_labels_classes"])
    assert sum(done.record["predictions"]["bulk_labels"]["counts"].values()) == batches.n_obs
    reference = done.embedding.uns["refmap"]
    assert reference["model"] == "atlas" and reference["model_sha256"] == inspect_model(scanvi_model).sha256


def test_each_batch_is_mapped_as_if_it_were_alone(mapped, batches, scanvi_model, tmp_path):
    done = mapped("SCANVI", "per_batch")
    for number, batch in enumerate(BATCHES, start=1):
        alone = mapped_alone(batches, batch, scanvi_model, tmp_path / batch)
        part = done.embedding[alone.embedding.obs_names]
        np.testing.assert_array_equal(part.obsm["X_emb"], alone.latent)
        np.testing.assert_array_equal(part.obsm["bulk_labels_probabilities"], alone.embedding.obsm["bulk_labels_probabilities"])
        for column in alone.embedding.obs:
            assert list(part.obs[column]) == list(alone.embedding.obs[column])
        assert done.record["surgeries"][number - 1]["n_cells"] == len(alone.latent)
        model = done.model / f"batch_{number}"
        assert inspect_model(model).batches == ["ref_a", "ref_b", batch]
        np.testing.assert_allclose(latent_of("SCANVI", model, ad.read_zarr(alone.aligned)), alone.latent, atol=2e-6)
    assert sorted(path.name for path in done.model.iterdir()) == ["batch_1", "batch_2", "batch_3"]


def test_each_batch_is_mapped_onto_what_the_one_before_left(mapped, batches, scanvi_model, tmp_path):
    done, model = mapped("SCANVI", "sequential"), scanvi_model
    for batch in BATCHES:
        step = mapped_alone(batches, batch, model, tmp_path / batch)
        np.testing.assert_array_equal(done.embedding[step.embedding.obs_names].obsm["X_emb"], step.latent)
        model = step.model
    # The last model knows all batches, and what it says of the earlier ones is what was said then.
    assert inspect_model(done.model).batches == ["ref_a", "ref_b", *BATCHES]
    np.testing.assert_allclose(latent_of("SCANVI", done.model, ad.read_zarr(done.aligned)), done.latent, atol=1e-5, rtol=0)


def test_the_strategies_differ(mapped):
    """Else the tests above would say nothing."""
    first, second, third = (mapped("SCVI", strategy).latent for strategy in STRATEGIES)
    assert min(np.abs(one - other).max() for one, other in ((first, second), (second, third), (first, third))) > 1e-4


def test_what_is_recorded(mapped, batches):
    joint, apart, in_turn = (mapped("SCVI", strategy).record for strategy in STRATEGIES)
    assert [record["strategy"] for record in (joint, apart, in_turn)] == list(STRATEGIES)
    assert [surgery["batch"] for surgery in joint["surgeries"]] == [None]
    assert [surgery["model"] for surgery in apart["surgeries"]] == ["batch_1", "batch_2", "batch_3"]
    assert [surgery["model"] for surgery in in_turn["surgeries"]] == [None] * 3
    for record in (apart, in_turn):
        assert [surgery["batch"] for surgery in record["surgeries"]] == BATCHES
        sizes = [surgery["n_cells"] for surgery in record["surgeries"]]
        assert sizes == sorted(sizes, reverse=True) and sizes[-1] == 8 and sum(sizes) == record["n_cells"] == batches.n_obs
        assert [surgery["train"]["epochs"] for surgery in record["surgeries"]] == [2] * 3
        train = record["train"]
        assert (train["epochs"], train["max_epochs"], train["stopped_early"], train["batch_size"]) == (6, 6, False, 128)
        assert train["seconds"] == pytest.approx(sum(surgery["train"]["seconds"] for surgery in record["surgeries"]))
        # A new batch has two columns of 128 weights, whoever trains them.
        assert [surgery["parameters_trainable"] for surgery in record["surgeries"]] == [256] * 3
        assert record["parameters_trainable"] == joint["parameters_trainable"] == 3 * 256
        assert record["batches"] == joint["batches"] and record["parameters"]["strategy"] == record["strategy"]
        few = [sentence for sentence in record["warnings"] if "validation set" in sentence]
        assert len(few) == 1 and few[0].startswith("Batch 'd1': With 8 cells there is no validation set")
    assert not any("validation set" in sentence for sentence in joint["warnings"])
    # The reference is the same in each surgery of one strategy, and grows from one to the next in the other.
    assert {surgery["frozen_sha256_before"] for surgery in apart["surgeries"]} == {joint["frozen_sha256_before"]}
    assert len({surgery["frozen_sha256_before"] for surgery in in_turn["surgeries"]}) == 3
    assert in_turn["frozen_sha256_before"] == joint["frozen_sha256_before"] == in_turn["frozen_sha256_after"]
    assert in_turn["parameters_total"] == joint["parameters_total"] > apart["parameters_total"]


def test_the_curves_of_all_batches(mapped):
    joint, apart = (mapped("SCVI", strategy).history for strategy in ("joint", "per_batch"))
    assert "batch" not in joint and list(joint.index) == [1, 2]
    assert list(apart.index) == [1, 2, 3, 4, 5, 6]
    assert list(apart["batch"]) == [batch for batch in BATCHES for _ in range(2)]
    assert set(joint) <= set(apart) and apart["elbo_train"].notna().all()


@pytest.mark.parametrize(
    ("strategy", "row", "why"),
    [
        ("per_batch", {"one_batch": True, "train": SETTINGS}, "the query has one batch"),
        ("sequential", {"train": None}, "nothing is trained"),
        ("per_batch", {"train": SETTINGS | {"max_epochs": 0}}, "nothing is trained"),
    ],
    ids=["one batch", "inference only", "no epochs"],
)
def test_where_all_strategies_are_one(strategy, row, why, batches, scvi_model, tmp_path):
    given = map_cells(batches, scvi_model, tmp_path / "given", strategy=strategy, **row)
    joint = map_cells(batches, scvi_model, tmp_path / "joint", **row)
    np.testing.assert_array_equal(given.latent, joint.latent)
    assert given.record["strategy"] == "joint" and given.record["parameters"]["strategy"] == strategy
    assert given.record["warnings"] == [
        *joint.record["warnings"],
        f"strategy '{strategy}' is the same as 'joint' here, as {why}.",
    ]


def test_a_batch_of_one_cell(batches, scvi_model, tmp_path):
    adata = batches[:30].copy()
    adata.obs["donor"] = ["lone" if i == 7 else "many" for i in range(30)]
    for strategy in ("per_batch", "sequential"):
        done = map_cells(adata, scvi_model, tmp_path / strategy, strategy=strategy, train=SETTINGS)
        assert [surgery["n_cells"] for surgery in done.record["surgeries"]] == [29, 1]
        assert np.isfinite(done.latent).all()
        assert any(sentence.startswith("Batch 'lone': With 1 cell there is") for sentence in done.record["warnings"])


def test_new_categories_are_learned_apart_or_from_the_largest_batch(scvi_covariates_model, cells, batches, tmp_path):
    """A category that two batches share: each learns its own by per_batch, the first alone learns it sequentially."""
    adata = batches.copy()
    adata.obs["chemistry"] = "v4"
    options = {"categorical_covariate_keys": ["chemistry"], "continuous_covariate_keys": ["age"], "train": SETTINGS}
    trainable = {}
    for strategy in STRATEGIES:
        done = map_cells(adata, scvi_covariates_model, tmp_path / strategy, strategy=strategy, **options)
        trainable[strategy] = [surgery["parameters_trainable"] for surgery in done.record["surgeries"]]
        before = latent_of("SCVI", scvi_covariates_model, cells)
        for model in models_of(done):
            np.testing.assert_allclose(latent_of("SCVI", model, cells), before, atol=1e-5, rtol=0)
    assert trainable == {"joint": [4 * 256], "per_batch": [2 * 256] * 3, "sequential": [2 * 256, 256, 256]}


def test_minibatches_are_halved_in_each_surgery(batches, scvi_model, tmp_path, monkeypatch):
    run_training, tried = scvi_surgery.run_training, []

    def run_or_not(model, arguments, log):
        tried.append((model.adata.n_obs, arguments.get("batch_size", 128)))
        if tried[-1][1] > 64 and model.adata.n_obs > 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return run_training(model, arguments, log)

    monkeypatch.setattr(scvi_surgery, "run_training", run_or_not)
    done = map_cells(batches, scvi_model, tmp_path / "m", strategy="per_batch", engine="scvi", train=SETTINGS)
    large, middle, small = (surgery["n_cells"] for surgery in done.record["surgeries"])
    assert tried == [(large, 128), (large, 64), (middle, 128), (middle, 64), (small, 128)]
    assert [surgery["train"]["batch_size"] for surgery in done.record["surgeries"]] == [64, 64, 128]
    assert done.record["train"]["batch_size"] == 64
    (told,) = [sentence for sentence in done.record["warnings"] if "memory" in sentence]
    assert told.startswith("Batches 'd2', 'ref_a@lung.donor_1': The memory of cpu did not suffice for minibatches of 128 cells")


def test_a_model_of_fixed_batches_is_refused(cells, batches, tmp_path):
    model = save_model("SysVI", cells, tmp_path / "model", setup={"categorical_covariate_keys": ["chemistry"]})
    adata = input_of("SysVI", batches)
    row = ROW | {"batch_key": "batch", "categorical_covariate_keys": ["chemistry"], "strategy": "sequential"}
    card, prepared = prepare(adata, model, tmp_path / "prepared", row)
    sentence = "strategy 'sequential' is not for query 'donor_1.h5ad', as surgery on a SysVI model learns no batches: set strategy to joint."
    with pytest.raises(RefmapError) as refused:
        map_query(prepared, training_of(row), card, model, MappedFolder(tmp_path / "mapped"), tmp_path / "updated")
    assert str(refused.value) == sentence
    assert not (tmp_path / "mapped").exists() and not (tmp_path / "updated").exists()
