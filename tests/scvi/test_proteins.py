"""Proteins that a query lacks: masked in surgery, imputed after it."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scvi
from mapping import map_cells
from refmap.mapping.mapping import _joined
from refmap.mapping.surgery import Part
from refmap.reference.inspection import inspect_model
from small_models import model_class, save_model

SHORT = {"max_epochs": 2, "early_stopping": False, "check_val_every_n_epoch": 1}
TABLES = ("protein_imputed", "protein_foreground_probability")


@pytest.fixture(scope="module")
def rna_only(query):
    """Few enough for one minibatch, so that random numbers are drawn in the library's order."""
    adata = query[:100].copy()
    del adata.obsm["protein_expression"]
    return adata


@pytest.fixture(scope="module")
def mapped(rna_only, totalvi_model, tmp_path_factory):
    return map_cells(rna_only, totalvi_model, tmp_path_factory.mktemp("rna_only"), train=SHORT, batch_key="donor")


def library_says(mapped, name: str, batch: str, samples: int = 25) -> list[pd.DataFrame]:
    """What scvi-tools' own functions give for one batch of the reference, from the updated model."""
    model = model_class(name).load(str(mapped.model), adata=ad.read_zarr(mapped.aligned))
    tables = []
    for function, more in ((model.get_normalized_expression, {"gene_list": []}), (model.get_protein_foreground_probability, {})):
        scvi.settings.seed = 0
        found = function(transform_batch=batch, n_samples=samples, return_mean=True, return_numpy=True, **more)
        tables.append(found[1] if isinstance(found, tuple) else found)
    return tables


def test_a_query_without_proteins_is_masked_in_every_batch(mapped, totalvi_model, rna_only):
    proteins = inspect_model(totalvi_model).proteins
    assert [sentence for sentence in mapped.record["warnings"] if "proteins" in sentence] == [
        f"query '{mapped.record['query']}' has no proteins at 'protein_expression': all 8 of the model are treated as missing. If it "
        "has proteins, set protein_key to where (its obsm keys and modalities are none)."
    ]
    # No protein has any part in the loss of these cells
    model = model_class("TOTALVI").load(str(mapped.model), adata=ad.read_zarr(mapped.aligned))
    assert float(model.get_reconstruction_error()["reconst_loss_protein"]) == 0
    for key in TABLES:
        table = mapped.embedding.obsm[key]
        assert list(table.columns) == proteins and list(table.index) == list(rna_only.obs_names)
        assert np.isfinite(table.to_numpy()).all() and (table >= 0).all(axis=None) and table.to_numpy().std(axis=0).all()
    assert (mapped.embedding.obsm[TABLES[1]] <= 1).all(axis=None)


@pytest.mark.parametrize("name", ["TOTALVI", pytest.param("TOTALANVI", marks=pytest.mark.slow)])
def test_what_is_imputed_is_what_the_library_says(name, cells, rna_only, tmp_path):
    model = save_model(name, cells, tmp_path / "model")
    options = {"protein_batches": "ref_b", "protein_samples": "10"}
    one = map_cells(rna_only, model, tmp_path / "one", train=SHORT, batch_key="donor", options=options)
    for key, expected in zip(TABLES, library_says(one, name, "ref_b", samples=10), strict=True):
        np.testing.assert_allclose(one.embedding.obsm[key].to_numpy(), expected, rtol=1e-4, atol=1e-5)


def test_the_mean_over_the_batches_of_the_reference(mapped):
    by_batch = [library_says(mapped, "TOTALVI", batch) for batch in ("ref_a", "ref_b")]
    values, foreground = (mapped.embedding.obsm[key].to_numpy() for key in TABLES)
    np.testing.assert_allclose(foreground, np.mean([tables[1] for tables in by_batch], axis=0), atol=1e-5)
    # The background is sampled once more for the second batch
    assert values.mean() == pytest.approx(np.mean([tables[0] for tables in by_batch]), rel=0.03)


def test_a_batch_whose_proteins_were_imputed_does_not_impute(mapped, rna_only, tmp_path):
    """The second query learns of its proteins from the reference alone, not from the first query, which had none."""
    assert inspect_model(mapped.model).batches[:2] == ["ref_a", "ref_b"]
    second, told = (
        map_cells(rna_only, mapped.model, tmp_path / name, train=None, batch_key="donor", options=options)
        for name, options in (("all", {}), ("reference", {"protein_batches": "ref_a, ref_b"}))
    )
    for key in TABLES:
        np.testing.assert_allclose(second.embedding.obsm[key], told.embedding.obsm[key], rtol=1e-6)


@pytest.mark.parametrize("override", [False, True])
def test_proteins_that_a_panel_lacks(override, cells, query, tmp_path):
    """A model that takes zeros for measured ones does so for those that were measured."""
    model = save_model("TOTALVI", cells, tmp_path / "model", settings={"override_missing_proteins": override})
    adata = query[:100].copy()
    proteins = list(cells.obsm["protein_expression"].columns)
    adata.obsm["protein_expression"] = adata.obsm["protein_expression"][proteins[:1:-1]]
    lacking = map_cells(adata, model, tmp_path / "lacking", train=SHORT, batch_key="donor")
    assert list(lacking.embedding.obsm["protein_imputed"].columns) == proteins[:2]
    zeros = adata.copy()
    zeros.obsm["protein_expression"] = zeros.obsm["protein_expression"].assign(**dict.fromkeys(proteins[:2], 0))
    measured = map_cells(zeros, model, tmp_path / "zeros", train=SHORT, batch_key="donor")
    losses = [run.history["reconstruction_loss_train"].iloc[0] for run in (lacking, measured)]
    assert losses[0] < losses[1] if override else losses[0] == losses[1]
    for wanted, columns in (("all", proteins), ("none", None)):
        more = map_cells(adata, model, tmp_path / wanted, train=None, batch_key="donor", options={"impute_proteins": wanted})
        found = more.embedding.obsm.get("protein_imputed")
        assert (None if found is None else list(found.columns)) == columns


def test_batches_one_after_the_other_keep_the_order_of_the_cells(rna_only, totalvi_model, tmp_path):
    mapped = map_cells(rna_only, totalvi_model, tmp_path / "m", train=SHORT, batch_key="donor", strategy="sequential")
    for key in TABLES:
        assert list(mapped.embedding.obsm[key].index) == list(rna_only.obs_names) and mapped.embedding.obsm[key].shape == (100, 8)


def test_tables_of_several_surgeries_are_joined_cell_by_cell():
    cells = [f"cell{number}" for number in range(7)]
    whole = pd.DataFrame({"CD3": np.arange(7.0), "CD4": 10 * np.arange(7.0)}, index=cells)
    parts = []
    for places in ([1, 4, 6], [0, 2, 3, 5]):
        part = ad.AnnData(obs=pd.DataFrame(index=whole.index[places]), obsm={"protein_imputed": whole.iloc[places]})
        parts.append(Part(part, [], None, {}, [], {}, batch="a", cells=np.array(places)))
    pd.testing.assert_frame_equal(_joined(parts).obsm["protein_imputed"], whole)
