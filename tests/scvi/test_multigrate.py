"""Mapping onto Multigrate models of genes and proteins, trained by the library or by refmap, and what it takes of a query."""

from __future__ import annotations

import json
from pathlib import Path

import anndata as ad
import multigrate
import numpy as np
import pandas as pd
import pytest
import torch
from mapping import Mapped, embed_cells, training_of
from refmap.common.cli import write_json
from refmap.common.errors import RefmapError
from refmap.common.folders import MappedFolder, PreparedFolder
from refmap.families.multigrate.values import centred_log_ratio, make_values, size_factors
from refmap.mapping.mapping import map_query
from refmap.mapping.trial import try_model
from refmap.models.facts import write_facts
from refmap.query.align import align
from refmap.query.checks import check
from refmap.query.query import Query
from refmap.reference.atlas import align_reference
from refmap.reference.inspection import inspect_model
from refmap.reference.training import train_reference
from rows import REFERENCE, ROW
from scipy import sparse

FACTS = {"rna": "counts", "adt": "clr"}
SETTINGS = REFERENCE | {"family": "multigrate", "reference": "atlas.h5mu", "reference_protein_key": "adt"}


def clr(counts) -> np.ndarray:
    """By its definition, of a dense matrix."""
    counts = np.asarray(counts, dtype=float)
    return np.log1p(counts / np.exp(np.log1p(counts).mean(axis=1, keepdims=True)))


def laid_out(cells: ad.AnnData, facts: dict = FACTS, without: str | None = None) -> ad.AnnData:
    """Cells as the library lays them out, with two proteins called as genes; a modality may be left out."""
    rna, adt = cells.copy(), proteins_of(cells)
    del rna.obsm
    if facts["adt"] == "clr":
        adt.X = clr(adt.X).astype(np.float32)
    for name, part in (("rna", rna), ("adt", adt)):
        if name == without:
            part.X = sparse.csr_matrix(part.shape, dtype=np.float32)
    rna.X = rna.X.astype(np.float32)
    adt.X = sparse.csr_matrix(adt.X, dtype=np.float32)
    return multigrate.data.organize_multimodal_anndatas([[rna], [adt]])


def proteins_of(cells: ad.AnnData) -> ad.AnnData:
    """The proteins, of which two are called as genes are."""
    table = cells.obsm["protein_expression"]
    names = [*sorted(cells.var_names)[:2], *table.columns[2:]]
    return ad.AnnData(table.to_numpy(np.float32), obs=cells.obs.copy(), var=pd.DataFrame(index=names))


def as_h5mu(cells: ad.AnnData, path: Path, names=("rna", "adt")) -> Path:
    import mudata

    parts = {names[0]: cells.copy(), names[1]: proteins_of(cells)[::-1].copy()}  # its cells in another order
    del parts[names[0]].obsm
    data = mudata.MuData(parts)
    for column in cells.obs:
        data.obs[column] = cells.obs[column]
    data.write_h5mu(path)
    return path


def as_h5ad(cells: ad.AnnData, path: Path, key="adt") -> Path:
    """The proteins in obsm, a table."""
    adata, proteins = cells.copy(), proteins_of(cells)
    del adata.obsm
    if key:
        adata.obsm[key] = pd.DataFrame(proteins.X, index=cells.obs_names, columns=proteins.var_names)
    adata.write_h5ad(path)
    return path


def save_library_model(cells: ad.AnnData, folder: Path, facts: dict | None = FACTS, covariates=("batch",), **settings) -> Path:
    """A model that the library trains on counts and normalised proteins."""
    data = laid_out(cells)
    multigrate.model.MultiVAE.setup_anndata(data, categorical_covariate_keys=list(covariates), rna_indices_end=cells.n_vars)
    model = multigrate.model.MultiVAE(data, **({"losses": ["nb", "mse"], "z_dim": 5, "dropout": 0.0} | settings))
    # The library's Jeffreys divergence is of batches of equal sizes.
    model.train(max_epochs=2, batch_size=32, train_size=1.0, early_stopping=False, accelerator="cpu", enable_progress_bar=False)
    model.save(str(folder))
    if facts:
        write_facts(folder, modality_values=facts)
    return folder


@pytest.fixture(scope="module")
def library_model(cells, tmp_path_factory) -> Path:
    return save_library_model(cells, tmp_path_factory.mktemp("models") / "multigrate")


def latent_of(model: Path, data: ad.AnnData) -> np.ndarray:
    """The means that the library's own model gives of laid-out cells, which it loads from a file."""
    data = data.copy()
    loaded = multigrate.model.MultiVAE.load(str(model), adata=data, accelerator="cpu")
    module, means = loaded.module.eval(), []
    with torch.inference_mode():
        for tensors in loaded._make_data_loader(adata=data, batch_size=1000):
            means.append(module.inference(**module._get_inference_input(tensors))["mu"].numpy())
    return np.concatenate(means)


def map_file(query: Path, model: Path, folder: Path, **row) -> Mapped:
    """Check, align and map a query in a file, as the pipeline does."""
    row, prepared = ROW | row, PreparedFolder(folder / "prepared")
    prepared.folder.mkdir(parents=True)
    card = inspect_model(model, "atlas").to_json()
    plan = check(query, row, card)
    if plan["faults"]:
        raise RefmapError(plan["faults"][0])
    with Query(query, row["query"], row["modality"]) as opened:
        write_json(prepared.alignment, align(opened, row, card, plan, prepared.aligned))
    write_json(prepared.plan, plan)
    map_query(prepared, training_of(row), card, model, MappedFolder(folder / "mapped"), folder / "updated")
    return Mapped(folder)


def alignment_of(folder: Path) -> dict:
    return json.loads(PreparedFolder(folder / "prepared").alignment.read_text())


def test_card(library_model, cells, tmp_path):
    card = inspect_model(library_model, "atlas")
    assert (card.family, card.class_name, card.fault) == ("multigrate", "Multigrate", None)
    assert (card.modalities, card.modality_values) == ({"rna": 120, "adt": 8}, FACTS)
    twice = sorted(cells.var_names)[:2]
    assert card.genes[:120] == list(cells.var_names) and card.genes[120:122] == [f"{name}-1" for name in twice]
    assert (card.batch_key, card.batches, card.n_latent) == ("batch", ["ref_a", "ref_b"], 5)
    assert (card.input, card.surgery_ready, card.warnings) == ("counts", True, [])
    assert try_model(library_model, card.to_json())["fault"] is None

    both = ("batch", "chemistry")
    untold = save_library_model(cells, tmp_path / "untold", facts=None, covariates=both, condition_encoders=False)
    card = inspect_model(untold, "atlas")
    assert (card.modality_values, card.input) == ({"rna": "counts", "protein": "any"}, "any")
    assert card.categorical_covariates == {"chemistry": ["v2", "v3"]} and not card.surgery_ready
    assert "condition_encoders=False" in card.warnings[0] and "how the values of 'protein' were normalised" in card.warnings[1]
    write_facts(untold, modality_values={"rna": "counts"})
    assert (
        "refmap.yaml names the modalities 'rna', but the model has 2, of 120 and 8 features"
        in inspect_model(untold, "atlas").fault
    )


@pytest.mark.parametrize("held", ["h5mu", "obsm", "h5mu of other names", "obsm of another name"])
def test_a_query_of_both(held, library_model, cells, query, tmp_path):
    """The same latent from every place, that of the library; proteins that are called as a gene count for the proteins."""
    path, row = tmp_path / "query", {}
    if "obsm" in held:
        as_h5ad(query, path, "adt" if held == "obsm" else "antibodies")
        row = {} if held == "obsm" else {"protein_key": "antibodies"}
    else:
        as_h5mu(query, path.with_suffix(".h5mu"), ("rna", "adt") if held == "h5mu" else ("gex", "prot"))
        path, row = path.with_suffix(".h5mu"), {} if held == "h5mu" else {"modality": "gex"}
    mapped = map_file(path, library_model, tmp_path / "m", train=None, **row)
    assert alignment_of(tmp_path / "m")["modalities"] == {"rna": {"matched": 120, "of": 120}, "adt": {"matched": 8, "of": 8}}
    ordered = query[:, cells.var_names].copy()
    ordered.obs["batch"] = query.obs["donor"]
    expected = laid_out(ordered)
    np.testing.assert_allclose(mapped.latent, latent_of(mapped.model, with_batches(expected, mapped)), atol=2e-6)


def with_batches(data: ad.AnnData, mapped: Mapped) -> ad.AnnData:
    """With the batches as surgery called them."""
    data.obs["batch"] = ad.read_zarr(mapped.aligned).obs["batch"].astype(str).to_numpy()
    return data


def test_surgery_moves_the_query_and_not_the_reference(library_model, cells, query, tmp_path):
    data, path = laid_out(cells), as_h5mu(query, tmp_path / "query.h5mu")
    before = latent_of(library_model, data)
    as_h5mu(cells, tmp_path / "cells.h5mu")
    as_h5ad(cells, tmp_path / "cells.h5ad", "antibodies")
    for name, key in (("cells.h5mu", None), ("cells.h5ad", "antibodies")):
        own = embed_cells(tmp_path / name, library_model, tmp_path / f"own {name}", protein_key=key)
        np.testing.assert_allclose(own, before, atol=2e-6)
    untrained = map_file(path, library_model, tmp_path / "untrained", train=None)
    short = {"max_epochs": 3, "learning_rate": 0.05, "early_stopping": True, "early_stopping_monitor": "elbo_validation"}
    first = map_file(path, library_model, tmp_path / "first", train=short)
    assert list(first.history.index) == [1, 2, 3] and {"train_loss_epoch", "elbo_validation"} <= set(first.history)
    assert np.abs(first.latent - untrained.latent).max() > 1e-3
    np.testing.assert_allclose(latent_of(first.model, data), before, atol=2e-6)
    saved, grown = (torch.load(p / "model.pt", weights_only=False)["model_state_dict"] for p in (library_model, first.model))
    for name, old in saved.items():
        if hasattr(old, "shape"):
            assert torch.equal(grown[name][: len(old)], old), name
    repeated = map_file(path, library_model, tmp_path / "repeated", train=short)
    np.testing.assert_array_equal(first.latent, repeated.latent)

    again = map_file(path, first.model, tmp_path / "again", train=short, file_id="donor_2")
    assert inspect_model(again.model).modality_values == FACTS
    assert len(inspect_model(again.model).batches) == 6
    np.testing.assert_allclose(latent_of(again.model, data), before, atol=2e-6)
    placed = laid_out(query[:, cells.var_names].copy())
    np.testing.assert_allclose(latent_of(again.model, with_batches(placed, first)), first.latent, atol=2e-6)


@pytest.mark.parametrize("lacks", ["adt", "rna"])
def test_a_query_without_a_modality(lacks, library_model, cells, query, tmp_path):
    path = tmp_path / "query.h5ad"
    if lacks == "adt":
        as_h5ad(query, path, None)
    else:
        adt = proteins_of(query)
        adt.var_names = inspect_model(library_model).genes[120:]
        adt.write_h5ad(path)
    mapped = map_file(path, library_model, tmp_path / "m", train={"max_epochs": 1})
    assert any(f"no feature of the model's modality '{lacks}': it is masked" in said for said in mapped.record["warnings"])
    expected = with_batches(laid_out(query[:, cells.var_names].copy(), without=lacks), mapped)
    np.testing.assert_allclose(mapped.latent, latent_of(mapped.model, expected), atol=2e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"losses": ["zinb", "mse"], "mix": "mixture"},
        {"losses": ["nb", "mse"], "integrate_on": "batch", "modality_alignment": "Jeffreys", "loss_coefs": {"integ": 1.0}},
        {"losses": ["mse", "mse"], "normalization": "batch", "integrate_on": "batch", "modality_alignment": "MMD"},
    ],
)
def test_other_models_and_few_cells(settings, cells, query, tmp_path):
    """One cell, and ten of which one is empty, onto models of other losses, mixtures and integration."""
    model = save_library_model(cells, tmp_path / "model", **settings)
    data, before = laid_out(cells), latent_of(model, laid_out(cells))
    few = query[:10].copy()
    few.X[3] = 0
    few.obsm["protein_expression"].iloc[3] = 0
    for n in (1, 10):
        path = as_h5mu(few[:n].copy(), tmp_path / f"{n}.h5mu")
        mapped = map_file(path, model, tmp_path / f"m{n}", train={"max_epochs": 2, "batch_size": 3})
        assert mapped.latent.shape == (n, 5)
        np.testing.assert_allclose(latent_of(mapped.model, data), before, atol=2e-6)


def test_covariates_beside_the_batch(cells, query, tmp_path):
    """One says what was measured of a cell, as in the library's tutorials: it is no batch, though the model integrates on it."""
    cells, query = cells.copy(), query.copy()
    cells.obs["Modality"], query.obs["measured"] = np.where(cells.obs["sample"] == "s0", "RNA", "CITE-seq"), "CITE-seq"
    integrated = {"integrate_on": "Modality", "modality_alignment": "MMD", "alignment_type": "both"}
    model = save_library_model(cells, tmp_path / "model", covariates=("Modality", "batch"), **integrated)
    card = inspect_model(model, "atlas")
    assert (card.batch_key, card.batches) == ("batch", ["ref_a", "ref_b"])
    assert card.categorical_covariates == {"Modality": ["CITE-seq", "RNA"]}
    data, before = laid_out(cells), latent_of(model, laid_out(cells))
    mapped = map_file(as_h5mu(query, tmp_path / "q.h5mu"), model, tmp_path / "m", categorical_covariate_keys=["measured"])
    assert mapped.record["parameters_trainable"] == 2 * 16  # an embedding of either batch
    np.testing.assert_allclose(latent_of(mapped.model, data), before, atol=2e-6)
    write_facts(model, modality_values=FACTS, batch_key="Modality")
    assert inspect_model(model).categorical_covariates == {"batch": ["ref_a", "ref_b"]}
    write_facts(model, modality_values=FACTS, batch_key="donor")
    assert "has 'donor' as 'batch_key', but the model's covariates are 'Modality', 'batch'" in inspect_model(model).fault


def test_values_that_nobody_vouches_for(cells, query, tmp_path):
    model = save_library_model(cells, tmp_path / "model", facts=None)
    path = as_h5mu(query, tmp_path / "query.h5mu", ("rna", "protein"))
    mapped = map_file(path, model, tmp_path / "m", train=None)
    assert any("values in modality 'protein' are whole numbers, as counts are" in said for said in mapped.record["warnings"])
    logged = query.copy()
    logged.X = logged.X.log1p()
    path = as_h5mu(logged, tmp_path / "logged.h5mu", ("rna", "protein"))
    with pytest.raises(RefmapError, match="no counts in the features of modality 'rna'"):
        map_file(path, model, tmp_path / "logged", train=None)


def test_a_truncated_model_has_a_fault(library_model, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m/model.pt").write_bytes((library_model / "model.pt").read_bytes()[:20_000])
    assert inspect_model(tmp_path / "m").fault
    saved = torch.load(library_model / "model.pt", weights_only=False)
    saved["var_names"] = saved["var_names"][:-1]
    torch.save(saved, tmp_path / "m/model.pt")
    assert "its 127 features are not the 128 of its modalities" in inspect_model(tmp_path / "m").fault
    saved = torch.load(library_model / "model.pt", weights_only=False)
    saved["model_state_dict"]["of_another_version"] = torch.zeros(1)
    torch.save(saved, tmp_path / "m/model.pt")
    fault = try_model(tmp_path / "m", inspect_model(tmp_path / "m").to_json())["fault"]
    assert "'of_another_version' is in one of them alone" in fault


@pytest.mark.parametrize("held", ["h5mu", "obsm"])
def test_train_a_reference(held, cells, query, tmp_path):
    atlas = as_h5mu(cells, tmp_path / "atlas.h5mu") if held == "h5mu" else as_h5ad(cells, tmp_path / "atlas.h5ad")
    settings = align_reference(atlas, SETTINGS, tmp_path / "aligned.zarr")
    assert settings["modalities"] == {"rna": 120, "adt": 8}
    train_reference(settings, tmp_path / "aligned.zarr", tmp_path / "model", tmp_path / "embedding.zarr", log=lambda line: None)
    card = inspect_model(tmp_path / "model", "atlas")
    assert (card.fault, card.modality_values, card.surgery_ready, card.n_latent) == (None, FACTS, True, 5)
    data = laid_out(cells)
    assert card.genes == list(data.var_names)
    latent = latent_of(tmp_path / "model", data)
    np.testing.assert_allclose(ad.read_zarr(tmp_path / "embedding.zarr").obsm["X_emb"], latent, atol=2e-6)
    mapped = map_file(as_h5ad(query, tmp_path / "query.h5ad"), tmp_path / "model", tmp_path / "m", train={"max_epochs": 1})
    np.testing.assert_allclose(latent_of(mapped.model, data), latent, atol=2e-6)


def test_values_are_made_cell_by_cell():
    counts = sparse.csr_matrix(np.array([[3, 0, 1, 5, 0], [0, 0, 0, 2, 8], [4, 4, 2, 0, 0]], dtype=np.float32))
    modalities = {"rna": 3, "adt": 2}
    made = make_values(counts, modalities, {"rna": "lognorm", "adt": "clr"}).toarray()
    np.testing.assert_allclose(made[0, :3], np.log1p([7500, 0, 2500]), rtol=1e-6)
    np.testing.assert_allclose(made[:, 3:], clr(counts[:, 3:].toarray()), rtol=1e-6)
    assert (made[1, :3] == 0).all() and (made[2, 3:] == 0).all()
    np.testing.assert_allclose(centred_log_ratio(counts).toarray(), clr(counts.toarray()), rtol=1e-6)
    np.testing.assert_array_equal(size_factors(counts, 3), [4, 10, 10])


def test_genes_peaks_and_proteins(cells, query, tmp_path):
    """Three modalities: the latent is the library's, of all of them, and of a query that lacks the peaks."""
    import mudata

    def parts(data: ad.AnnData, without: str | None = None) -> dict[str, ad.AnnData]:
        rna, adt = data.copy(), proteins_of(data)
        del rna.obsm
        atac = ad.AnnData((rna.X[:, ::-1][:, :60] * 2).tocsr(), obs=data.obs.copy())
        atac.var_names = [f"chr1:{1000 * i}-{1000 * i + 500}" for i in range(60)]
        found = {"rna": rna, "atac": atac, "adt": adt}
        if without:
            found[without].X = sparse.csr_matrix(found[without].shape, dtype=np.float32)
        return found

    def laid(modalities: dict[str, ad.AnnData]) -> ad.AnnData:
        values = {name: part.copy() for name, part in modalities.items()}
        for name, part in values.items():
            dense = part.X.toarray() if sparse.issparse(part.X) else part.X
            made = {"rna": lambda x: x, "adt": clr, "atac": logged}[name](dense)
            part.X = sparse.csr_matrix(made, dtype=np.float32)
        return multigrate.data.organize_multimodal_anndatas([[part] for part in values.values()])

    def logged(counts: np.ndarray) -> np.ndarray:
        return np.log1p(1e4 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))

    data = laid(parts(cells))
    multigrate.model.MultiVAE.setup_anndata(data, categorical_covariate_keys=["batch"], rna_indices_end=cells.n_vars)
    model = multigrate.model.MultiVAE(data, losses=["nb", "mse", "mse"], z_dim=5, dropout=0.0)
    model.train(max_epochs=1, batch_size=32, train_size=1.0, early_stopping=False, accelerator="cpu", enable_progress_bar=False)
    model.save(str(tmp_path / "model"))
    write_facts(tmp_path / "model", modality_values={"rna": "counts", "atac": "lognorm", "adt": "clr"})
    before = latent_of(tmp_path / "model", data)

    ordered = query[:, cells.var_names].copy()
    ordered.obs["batch"] = query.obs["donor"].astype(str)
    for lacks in (None, "atac"):
        given = parts(ordered, lacks)
        expected = laid(given)
        if lacks:
            del given[lacks]
        whole = mudata.MuData(given)
        whole.obs["donor"] = ordered.obs["donor"]
        whole.write_h5mu(tmp_path / f"{lacks}.h5mu")
        mapped = map_file(tmp_path / f"{lacks}.h5mu", tmp_path / "model", tmp_path / f"mapped_{lacks}", train=None)
        matched = {name: found["matched"] for name, found in alignment_of(tmp_path / f"mapped_{lacks}")["modalities"].items()}
        assert matched == {"rna": 120, "atac": 0 if lacks else 60, "adt": 8}
        np.testing.assert_allclose(mapped.latent, latent_of(mapped.model, with_batches(expected, mapped)), atol=5e-6)
        np.testing.assert_allclose(latent_of(mapped.model, data), before, atol=5e-6)
