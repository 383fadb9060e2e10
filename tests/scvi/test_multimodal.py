"""Surgery on models of several modalities: MULTIVI of genes and peaks, METHYLVI of the contexts of methylation."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch
from mapping import embed_cells, map_cells
from refmap.mapping.trial import try_model
from refmap.reference.inspection import inspect_model
from small_models import model_class

N_GENES = 70
MODALITIES = {"rna_layer": "rna", "atac_layer": "atac"}
SHORT = {
    "max_epochs": 3,
    "early_stopping": True,
    "early_stopping_patience": 2,
    "check_val_every_n_epoch": 1,
    "learning_rate": 0.01,
}


def with_peaks(adata, genes, write="chr{}:{}-{}", shift=0):
    """The same counts, as if all but `genes` were peaks; each moved by `shift` bases."""
    others = [name for name in sorted(adata.var_names) if name not in genes]
    adata = adata[:, [*genes, *others]].copy()
    adata.var_names = [*genes, *(write.format(1 + i % 3, 1000 * i + shift, 1000 * i + 500 + shift) for i in range(len(others)))]
    return adata


def modalities_of(adata, names=("rna", "atac")):
    import mudata

    parts = (adata[:, :N_GENES], adata[:, N_GENES:])
    result = mudata.MuData({name: part.copy() for name, part in zip(names, parts, strict=True)})
    for column in adata.obs:
        result.obs[column] = adata.obs[column]
    return result


@pytest.fixture(scope="module")
def genes(cells):
    return list(cells.var_names[:N_GENES])


@pytest.fixture(scope="module")
def multiome(cells, genes):
    """Genes and peaks of the reference's cells; the first lack the genes, the last the peaks."""
    adata = with_peaks(cells, genes)
    held = np.ones(adata.shape)
    held[:30, :N_GENES], held[-30:, N_GENES:] = 0, 0
    adata.X = adata.X.multiply(held).tocsr().astype(np.float32)
    return adata


@pytest.fixture(scope="module")
def multivi(multiome, tmp_path_factory) -> Path:
    from scvi.model import MULTIVI

    data = modalities_of(multiome)
    modalities = MODALITIES | {"batch_key": "rna"}
    MULTIVI.setup_mudata(data, batch_key="batch", modalities=modalities)
    model = MULTIVI(data, n_latent=5, encode_covariates=True)
    model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    folder = tmp_path_factory.mktemp("models") / "multivi"
    model.save(str(folder))
    return folder


def as_before_1_4(model: Path, folder: Path) -> Path:
    """A MULTIVI as it was saved when set up from an AnnData: its genes and peaks in one var, and their registry."""
    saved = torch.load(model / "model.pt", map_location="cpu", weights_only=False)
    registry, names = saved["attr_dict"]["registry_"], saved["var_names"]
    saved["var_names"] = np.concatenate([names["rna"], names["atac"]])
    registry["setup_method_name"], registry["scvi_version"] = "setup_anndata", "1.2.1"
    keys = ("layer", "size_factor_key", "categorical_covariate_keys", "continuous_covariate_keys")
    registry["setup_args"] = {"batch_key": "batch", "protein_expression_obsm_key": None} | dict.fromkeys(keys)
    del registry["field_registries"]["atac"]
    for field in registry["field_registries"].values():
        field["data_registry"].pop("mod_key", None)
    saved["attr_dict"]["init_params_"]["non_kwargs"] |= {"n_genes": len(names["rna"]), "n_regions": len(names["atac"])}
    folder.mkdir()
    torch.save(saved, folder / "model.pt")
    return folder


def latent_of(name: str, model: Path, data) -> np.ndarray:
    return model_class(name).load(str(model), adata=data.copy()).get_latent_representation()


@pytest.mark.parametrize("saved_as", ["of a MuData", "of an AnnData"])
def test_multivi(saved_as, multivi, multiome, query, genes, tmp_path):
    model = multivi if saved_as == "of a MuData" else as_before_1_4(multivi, tmp_path / "model")
    card = inspect_model(model, "atlas")
    assert (card.fault, card.modalities, card.batch_key, card.surgery_ready) == (None, {"rna": 70, "atac": 50}, "batch", True)
    assert card.genes == list(multiome.var_names)
    assert try_model(model, card.to_json())["fault"] is None

    data, before = modalities_of(multiome), latent_of("MULTIVI", multivi, modalities_of(multiome))
    data.write_h5mu(tmp_path / "cells.h5mu")
    np.testing.assert_allclose(embed_cells(tmp_path / "cells.h5mu", model, tmp_path / "cells"), before, atol=2e-6)
    adata = with_peaks(query, genes, "chr{}_{}_{}", shift=50)
    untrained = map_cells(adata, model, tmp_path / "untrained", train=None)
    first = map_cells(adata, model, tmp_path / "first", train=SHORT)
    assert first.latent.shape == (query.n_obs, 5) and np.abs(first.latent - untrained.latent).max() > 1e-4
    np.testing.assert_allclose(latent_of("MULTIVI", first.model, data), before, atol=2e-6)
    assert any("has 50 peaks that are called as no peak of the model" in said for said in first.record["warnings"])
    again = map_cells(adata, first.model, tmp_path / "again", train=SHORT)
    np.testing.assert_allclose(latent_of("MULTIVI", again.model, data), before, atol=2e-6)


@pytest.mark.parametrize(("held", "lacks"), [("rna", "atac"), ("atac", "rna")])
def test_multivi_and_a_query_of_one_modality(held, lacks, multivi, multiome, query, genes, tmp_path):
    """As the library has it: zeros are its mark of a modality that was not measured."""
    adata = with_peaks(query, genes)
    adata = (adata[:, :N_GENES] if held == "rna" else adata[:, N_GENES:]).copy()
    mapped = map_cells(adata, multivi, tmp_path / "m", train=None)
    assert any(f"no feature of the model's modality '{lacks}': it is masked" in said for said in mapped.record["warnings"])
    aligned = ad.read_zarr(mapped.aligned)
    # The library takes data whose first modality is empty for minified ones, unless it has loaded others before.
    model = model_class("MULTIVI").load(str(mapped.model), adata=modalities_of(multiome))
    aligned.obs["_indices"] = np.arange(aligned.n_obs)
    alone = model.get_latent_representation(modalities_of(aligned), {"rna": "expression", "atac": "accessibility"}[held])
    np.testing.assert_allclose(mapped.latent, alone, atol=2e-6)


def test_multivi_with_proteins(cells, query, tmp_path):
    from scvi.model import MULTIVI

    data, proteins = modalities_of(cells), cells.obsm["protein_expression"]
    data.mod["prot"] = ad.AnnData(proteins.to_numpy(), obs=cells.obs, var=proteins.iloc[:0].T)
    data.update()
    MULTIVI.setup_mudata(data, batch_key="batch", modalities=MODALITIES | {"protein_layer": "prot", "batch_key": "rna"})
    model = MULTIVI(data, n_latent=5, encode_covariates=True)
    model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    model.save(str(tmp_path / "model"))
    card = inspect_model(tmp_path / "model")
    assert (card.fault, card.protein_key, card.proteins) == (None, "prot", list(proteins.columns))
    mapped = map_cells(query, tmp_path / "model", tmp_path / "m", protein_key="protein_expression")
    before = model.get_latent_representation()
    cells.write_h5ad(tmp_path / "cells.h5ad")
    own = embed_cells(tmp_path / "cells.h5ad", tmp_path / "model", tmp_path / "own", protein_key="protein_expression")
    # Of the genes alone here, as the model was set up from a MuData whose peaks are called as the other genes
    np.testing.assert_allclose(own, before, atol=2e-6)
    np.testing.assert_allclose(latent_of("MULTIVI", mapped.model, data), before, atol=2e-6)


def test_multivi_of_weights_of_its_own_cells_is_refused(multivi, tmp_path):
    saved = torch.load(multivi / "model.pt", map_location="cpu", weights_only=False)
    saved["attr_dict"]["init_params_"]["non_kwargs"]["modality_weights"] = "cell"
    (tmp_path / "m").mkdir()
    torch.save(saved, tmp_path / "m/model.pt")
    assert "weighs the modalities cell by cell" in inspect_model(tmp_path / "m").fault


def methylation_of(adata):
    """Contexts of methylation with half of what they cover methylated."""
    data = modalities_of(adata, ("mCG", "mCH"))
    for context in data.mod.values():
        context.layers["mc"], context.layers["cov"] = context.X.copy(), (context.X * 2).tocsr()
        context.X = None
    return data


@pytest.mark.parametrize("name", ["METHYLVI", "METHYLANVI"])
def test_methylvi(name, cells, query, tmp_path):
    cls, data = model_class(name), methylation_of(cells)
    labels = {"labels_key": "bulk_labels", "unlabeled_category": "Unknown"} if name == "METHYLANVI" else {}
    modalities = dict.fromkeys(["batch_key", *labels], "mCG")
    modalities.pop("unlabeled_category", None)
    layers = {"mc_layer": "mc", "cov_layer": "cov", "methylation_contexts": ["mCG", "mCH"]}
    cls.setup_mudata(data, **layers, batch_key="batch", modalities=modalities, **labels)
    trained = cls(data, n_latent=5)
    trained.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    trained.save(str(tmp_path / "model"))
    before = trained.get_latent_representation()

    card = inspect_model(tmp_path / "model", "atlas")
    assert (card.fault, card.modalities, card.layers) == (None, {"mCG": 70, "mCH": 50}, ["mc", "cov"])
    assert try_model(tmp_path / "model", card.to_json())["fault"] is None
    methylation_of(cells).write_h5mu(tmp_path / "cells.h5mu")
    np.testing.assert_allclose(embed_cells(tmp_path / "cells.h5mu", tmp_path / "model", tmp_path / "cells"), before, atol=2e-6)
    adata = query.copy()
    adata.layers["mc"], adata.layers["cov"] = adata.X.copy(), (adata.X * 2).tocsr()
    untrained = map_cells(adata, tmp_path / "model", tmp_path / "untrained", train=None)
    mapped = map_cells(adata, tmp_path / "model", tmp_path / "m", train=SHORT)
    assert mapped.latent.shape == (query.n_obs, 5) and np.abs(mapped.latent - untrained.latent).max() > 1e-4
    np.testing.assert_allclose(latent_of(name, mapped.model, methylation_of(cells)), before, atol=2e-6)
    aligned = ad.read_zarr(mapped.aligned)
    np.testing.assert_array_equal(aligned.layers["cov"].toarray(), 2 * aligned.X.toarray())
    assert list(mapped.embedding.uns.get("bulk_labels_classes", [])) == (card.labels.get("bulk_labels", []))
