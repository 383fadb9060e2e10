"""One surgery a batch on models of scArches: the reference keeps its latent, and a batch is mapped as if it were alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mapping import inspect_and_check, map_cells, train
from refmap.reference.inspection import inspect_model
from refmap.reference.training import embed_reference

QUICK = {"max_epochs": 2, "early_stopping": False, "check_val_every_n_epoch": 1, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def models(cells, tmp_path_factory) -> dict[str, Path]:
    folder, genes = tmp_path_factory.mktemp("models"), list(cells.var_names)
    gmt = folder / "programs.gmt"
    gmt.write_text("".join(f"P{k}\tmade up\t" + "\t".join(genes[k::4]) + "\n" for k in range(4)))
    plain = {family: train(family, cells, folder / family) for family in ("trvae", "scatlasvae")}
    return plain | {"expimap": train("expimap", cells, folder / "expimap", gmt=gmt)}


@pytest.mark.parametrize("strategy", ["per_batch", "sequential"])
@pytest.mark.parametrize("family", ["trvae", "expimap", "scatlasvae"])
def test_the_reference_stays_and_the_batches_are_put_in_order(family, strategy, models, cells, query, tmp_path):
    model = models[family]
    mapped = map_cells(query, model, tmp_path / "m", strategy=strategy, train=QUICK)
    assert list(mapped.embedding.obs_names) == list(query.obs_names)
    assert [surgery["batch"] for surgery in mapped.record["surgeries"]] == ["d1", "d2"]
    assert list(mapped.history["batch"]) == ["d1", "d1", "d2", "d2"]

    before = embed_reference(cells, model, inspect_model(model).to_json(), 0)["X_emb"]
    updated = [mapped.model / "batch_1", mapped.model / "batch_2"] if strategy == "per_batch" else [mapped.model]
    for folder in updated:
        card = inspect_model(folder).to_json()
        np.testing.assert_allclose(embed_reference(cells, folder, card, 0)["X_emb"], before, atol=1e-5, rtol=0)
    assert card["batches"] == ["ref_a", "ref_b", *(["d1", "d2"] if strategy == "sequential" else ["d2"])]

    reference = model
    for batch in ("d1", "d2"):
        alone = map_cells(query[query.obs["donor"] == batch].copy(), reference, tmp_path / batch, train=QUICK)
        part = mapped.embedding[alone.embedding.obs_names]
        for key in alone.embedding.obsm:
            np.testing.assert_array_equal(part.obsm[key], alone.embedding.obsm[key])
        assert part.uns["refmap"].keys() == alone.embedding.uns["refmap"].keys()
        assert sorted(path.name for path in mapped.results.iterdir()) == sorted(path.name for path in alone.results.iterdir())
        reference = alone.model if strategy == "sequential" else model


def test_what_compares_the_labels_of_all_batches_is_refused(cells, query, tmp_path):
    model = train("scpoli", cells, tmp_path / "model", reference_max_epochs=1)
    plan = inspect_and_check(query, model, tmp_path / "query")["plan"]
    assert plan["faults"] == [] and plan["refused"] == {
        strategy: f"strategy '{strategy}' is not for query 'donor_1.h5ad', as surgery on a scPoli model compares the labels of all "
        "batches: set strategy to joint."
        for strategy in ("per_batch", "sequential")
    }
