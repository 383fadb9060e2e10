"""expiMap: its card, its gene programmes, and surgery that adds batches and programmes and moves nothing else."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from mapping import in_a_fresh_process, inspect_and_check, map_cells, train
from refmap.common.errors import RefmapError
from refmap.families.expimap.card import is_expimap
from refmap.families.gmt import read_gmt
from refmap.families.trvae.card import is_trvae
from refmap.models.folder import ModelFolder
from refmap.reference.inspection import inspect_model

QUICK = {"max_epochs": 3, "early_stopping": False, "check_val_every_n_epoch": 1, "learning_rate": 0.01}
EXPANDED = ("encoder.expand_mean_encoder.weight", "decoder.L0.ext_L_m.weight", "decoder.L0.ext_L.weight")


def write_gmt(path: Path, programs: dict[str, list[str]]) -> Path:
    path.write_text("".join(f"{name}\tmade up\t" + "\t".join(genes) + "\n" for name, genes in programs.items()))
    return path


@pytest.fixture(scope="session")
def gmt(cells, tmp_path_factory) -> Path:
    """Five programmes of 15 to 40 of the reference's genes in lower case, over 150 of its 200, and one of 3 genes."""
    rng = np.random.default_rng(0)
    genes = cells.var_names[:150]
    programs = {f"PROGRAM_{k}": sorted(genes[rng.permutation(150)[: 15 + 5 * k]].str.lower()) for k in range(5)}
    programs["REST"] = list(genes.str.lower())
    return write_gmt(
        tmp_path_factory.mktemp("gmt") / "programs.gmt", programs | {"TINY": list(genes[:3]), "ELSEWHERE": ["X"] * 20}
    )


@pytest.fixture(scope="session")
def more_gmt(cells, tmp_path_factory) -> Path:
    """Two new programmes, one that the reference knows and one of few genes."""
    genes = list(cells.var_names[:150])
    programs = {"NEW_A": genes[:20], "PROGRAM_1": genes[:30], "NEW_B": genes[100:120], "SMALL": genes[:5]}
    return write_gmt(tmp_path_factory.mktemp("gmt") / "more.gmt", programs)


@pytest.fixture(scope="session")
def expimap_model(cells, gmt, tmp_path_factory) -> Path:
    return train("expimap", cells, tmp_path_factory.mktemp("models") / "expimap", gmt=gmt)


@pytest.fixture(scope="session")
def mapped(query, expimap_model, tmp_path_factory):
    return map_cells(query, expimap_model, tmp_path_factory.mktemp("mapped") / "first", train=QUICK)


@pytest.fixture(scope="session")
def extended(query, expimap_model, more_gmt, tmp_path_factory):
    """A mapping that adds two constrained programmes and two unconstrained ones."""
    folder = tmp_path_factory.mktemp("mapped") / "extended"
    return map_cells(query, expimap_model, folder, gmt=more_gmt, train=QUICK, options={"new_programs": "2"})


def library():
    from scarches import models

    return models


def load(folder: Path, adata: ad.AnnData):
    """The model as the library itself loads it; `adata` holds its genes."""
    genes = inspect_model(folder).genes
    return library().EXPIMAP.load(str(folder), adata=adata[:, genes].copy(), map_location="cpu")


def latent_of(folder: Path, adata: ad.AnnData) -> np.ndarray:
    return load(folder, adata).get_latent(mean=True)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "model_params.pt", weights_only=True)


def assert_unmoved(model: Path, updated: Path, adata: ad.AnnData, columns: list[int] | None = None) -> None:
    """The reference's programmes give its cells the same values, and weigh the same on the same genes."""
    before, after = latent_of(model, adata), latent_of(updated, adata)
    columns = list(range(before.shape[1])) if columns is None else columns
    np.testing.assert_allclose(after[:, columns], before, atol=2e-6)
    old, new = (weights_of(folder)["decoder.L0.expr_L.weight"] for folder in (model, updated))
    assert torch.equal(old, new)


def test_the_card_says_what_the_loaded_model_says(expimap_model, cells, gmt):
    card, model = inspect_model(expimap_model), load(expimap_model, cells)
    programs = {name: [gene.upper() for gene in genes] for name, genes in read_gmt(gmt).items()}
    assert (card.fault, card.warnings, card.family, card.class_name, card.env) == (None, [], "expimap", "expiMap", "scarches")
    assert card.genes == list(cells.var_names[:150]) and model.input_dim_ == 150
    assert card.latent_names == [*(f"PROGRAM_{k}" for k in range(5)), "REST"] and card.n_latent == model.latent_dim_ == 6
    assert (card.batch_key, card.batches) == (model.condition_key_, model.conditions_) == ("batch", ["ref_a", "ref_b"])
    assert card.takes_gmt and card.surgery_ready and card.input == "counts" and not card.predicts
    assert set(card.options) == {"new_programs", "min_genes", "soft_mask", "groups"}
    for name, mask in zip(card.latent_names, model.mask_, strict=True):
        assert {gene.upper() for gene, inside in zip(card.genes, mask, strict=True) if inside} == set(programs[name])


def test_expimap_and_trvae_are_told_apart(expimap_model, cells, tmp_path):
    trvae = library().TRVAE(cells.copy(), "batch", hidden_layer_sizes=[8], latent_dim=2)
    trvae.is_trained_ = True
    trvae.save(str(tmp_path / "trvae"))
    for folder, expected in ((expimap_model, (True, False)), (tmp_path / "trvae", (False, True))):
        assert (is_expimap(ModelFolder(folder)), is_trvae(ModelFolder(folder))) == expected


def copy_of(model: Path, folder: Path) -> Path:
    folder.mkdir()
    for path in model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_a_model_without_names_numbers_its_programs(expimap_model, tmp_path):
    folder = copy_of(expimap_model, tmp_path / "model")
    (folder / "refmap.yaml").unlink()
    card = inspect_model(folder)
    assert card.fault is None and card.latent_names == [f"programme_{k}" for k in range(1, 7)]
    assert len(card.warnings) == 1 and "do not name its 6 gene programmes" in card.warnings[0]
    (folder / "refmap.yaml").write_text("latent_names: [A, B]\n")
    assert "names 2 programmes in latent_names, but the model has 6" in inspect_model(folder).fault
    (folder / "refmap.yaml").write_text("latent_names: [A, B, C, D, E, A]\n")
    assert "names two programmes 'A' in latent_names" in inspect_model(folder).fault


def test_a_reference_of_no_fitting_program_is_refused(cells, tmp_path):
    gmt = write_gmt(tmp_path / "mine.gmt", {"A": ["X", "Y"], "B": list(cells.var_names[:11])})
    message = "No programme of --reference_gmt has 12 of the reference's 200 genes or more"
    with pytest.raises(RefmapError, match=message):
        train("expimap", cells, tmp_path / "model", gmt=gmt)
    model = train("expimap", cells, tmp_path / "model", gmt=gmt, reference_options="min_genes=11", reference_max_epochs=1)
    assert inspect_model(model).latent_names == ["B"]


def test_the_group_lasso_switches_programs_off(cells, gmt, query, tmp_path):
    model = train("expimap", cells, tmp_path / "model", gmt=gmt, reference_options="alpha=1000", reference_max_epochs=2)
    mapped = map_cells(query, model, tmp_path / "m", train=None)
    off = ~load(model, cells).nonzero_terms()
    assert off.sum() > 0
    np.testing.assert_array_equal(mapped.embedding.uns["refmap"]["latent_active"], ~off)
    assert (mapped.embedding.uns["refmap"]["latent_directions"][off] == 0).all()


def test_the_reference_stays_and_the_query_moves(expimap_model, mapped, cells, query, tmp_path):
    untrained = map_cells(query, expimap_model, tmp_path / "untrained", train=None)
    assert mapped.latent.shape == (200, 6) and np.abs(mapped.latent - untrained.latent).max() > 1e-3
    np.testing.assert_array_equal(latent_of(mapped.model, cells), latent_of(expimap_model, cells))
    old, new = weights_of(expimap_model), weights_of(mapped.model)
    grown = {name for name in old if old[name].shape != new[name].shape}
    assert grown == {"theta", "encoder.FC.L0.cond_L.weight", "decoder.L0.cond_L.weight"} and old.keys() == new.keys()
    for name, tensor in old.items():
        assert torch.equal(new[name][tuple(slice(0, n) for n in tensor.shape)], tensor), name
    assert mapped.record["parameters_trainable"] == 2 * (150 + 256 + 150)
    assert inspect_model(mapped.model).latent_names == inspect_model(expimap_model).latent_names


def test_what_is_said_of_the_cells_is_the_librarys(mapped):
    adata = ad.read_zarr(mapped.aligned)
    model = load(mapped.model, adata)
    means, variances = model.get_latent(mean_var=True)
    model.latent_directions()
    facts = mapped.embedding.uns["refmap"]
    np.testing.assert_array_equal(mapped.latent, means)
    np.testing.assert_array_equal(mapped.embedding.obsm["X_emb_var"], variances)
    assert list(facts["latent_names"]) == inspect_model(mapped.model).latent_names
    np.testing.assert_array_equal(facts["latent_directions"], model.adata.uns["directions"])
    np.testing.assert_array_equal(facts["latent_active"], model.nonzero_terms())
    table = pd.read_csv(mapped.results / "program_genes.csv").set_index("programme")
    for name in table.index:
        theirs = model.term_genes(name, terms=list(facts["latent_names"]))
        assert table.loc[name, "top_genes"].split() == list(theirs["genes"][:10])
        assert table.loc[name, "n_weights"] == len(theirs) <= table.loc[name, "n_genes"]


def test_bayes_factors_are_the_librarys(extended, query):
    """It draws 5,000 pairs of cells where all of them are taken here, so that its own error is what may differ."""
    from refmap.report.results.programs import Posteriors, compare_programs

    adata = ad.read_zarr(extended.aligned)
    adata.obs["type"] = np.where(query.obs["cell_type"].astype(str).str.contains("T"), "T", "other")
    model = load(extended.model, adata)
    model.latent_directions()
    np.random.seed(0)
    model.latent_enrich("type", use_directions=True, n_sample=10_000)
    facts = extended.embedding.uns["refmap"]
    programs = pd.DataFrame({"programme": facts["latent_names"], "active": facts["latent_active"]})
    means, variances = extended.latent * facts["latent_directions"], extended.embedding.obsm["X_emb_var"]
    table = compare_programs(Posteriors(means, variances), programs, adata.obs["type"].reset_index(drop=True).astype(object))
    for group, theirs in model.adata.uns["bf_scores"].items():
        ours = table[table["group"] == group].set_index("programme").loc[facts["latent_names"]]
        np.testing.assert_allclose(ours["p"], theirs["p_h0"], atol=0.015)
        np.testing.assert_allclose(ours["bayes_factor"], theirs["bf"], atol=0.1)


def test_programs_of_a_query_are_added(expimap_model, extended, cells):
    names = inspect_model(expimap_model).latent_names
    expected = [*names, "NEW_A", "NEW_B", "unconstrained_1", "unconstrained_2"]
    card, model = inspect_model(extended.model), load(extended.model, cells)
    assert card.latent_names == list(extended.embedding.uns["refmap"]["latent_names"]) == expected
    assert extended.latent.shape == (200, 10) and (model.latent_dim_, model.n_ext_m_, model.n_ext_) == (6, 2, 2)
    assert_unmoved(expimap_model, extended.model, cells, list(range(6)))
    for name, mask in zip(("NEW_A", "NEW_B"), model.ext_mask_, strict=True):
        inside = [gene for gene, member in zip(card.genes, mask, strict=True) if member]
        assert inside == (list(cells.var_names[:20]) if name == "NEW_A" else list(cells.var_names[100:120]))
    weight = weights_of(extended.model)["decoder.L0.ext_L_m.weight"]
    assert (weight[~torch.tensor(model.ext_mask_, dtype=torch.bool).T] == 0).all() and (weight != 0).sum() == 40
    said = [sentence for sentence in extended.record["warnings"] if "gmt" in sentence]
    assert said == [
        "Programmes of the row's gmt that have fewer than 12 of the model's genes were left out (1): SMALL.",
        "Programmes of the row's gmt that are known to the model were left out (1): PROGRAM_1.",
    ]
    kinds = pd.read_csv(extended.results / "program_genes.csv")["kind"]
    assert list(kinds) == ["reference"] * 6 + ["constrained"] * 2 + ["unconstrained"] * 2


def test_programs_are_added_to_programs_of_queries(extended, expimap_model, cells, query, tmp_path):
    """Earlier programmes keep their values and their names, and take their place among the new ones."""
    genes = list(cells.var_names[:150])
    gmt = write_gmt(tmp_path / "third.gmt", {"NEW_C": genes[40:60]})
    third = map_cells(query, extended.model, tmp_path / "m", gmt=gmt, train=QUICK, options={"new_programs": "1"})
    names = inspect_model(third.model).latent_names
    assert names == [
        *inspect_model(extended.model).latent_names[:8],
        "NEW_C",
        "unconstrained_1",
        "unconstrained_2",
        "unconstrained_3",
    ]
    kept = [0, 1, 2, 3, 4, 5, 6, 7, 9, 10]
    assert_unmoved(extended.model, third.model, cells, kept)
    assert_unmoved(extended.model, third.model, ad.read_zarr(extended.aligned), kept)
    old, new = weights_of(extended.model), weights_of(third.model)
    assert torch.equal(new["decoder.L0.ext_L.weight"][:, :2], old["decoder.L0.ext_L.weight"])
    assert torch.equal(new["decoder.L0.ext_L_m.weight"][:, :2], old["decoder.L0.ext_L_m.weight"])
    assert torch.equal(new["encoder.expand_mean_encoder.weight"][[0, 1, 3, 4]], old["encoder.expand_mean_encoder.weight"])

    # Without new programmes none is trained, not even those of the query before.
    fourth = map_cells(query, third.model, tmp_path / "fourth", train=QUICK, file_id="donor_2")
    assert_unmoved(third.model, fourth.model, cells)
    assert all(torch.equal(weights_of(fourth.model)[name], weights_of(third.model)[name]) for name in EXPANDED)
    assert fourth.record["parameters_trainable"] == 2 * (150 + 256 + 150)
    np.testing.assert_array_equal(latent_of(fourth.model, ad.read_zarr(fourth.aligned)), fourth.latent)


def test_a_soft_mask_lets_other_genes_in(extended, expimap_model, more_gmt, cells, query, tmp_path):
    """On a model without programmes of queries, and on one whose earlier ones keep to their genes."""
    genes = list(cells.var_names[:150])
    gmt = write_gmt(tmp_path / "third.gmt", {"NEW_C": genes[40:60]})
    soft = map_cells(query, expimap_model, tmp_path / "soft", gmt=more_gmt, train=QUICK, options={"soft_mask": "0.1"})
    third = map_cells(query, extended.model, tmp_path / "third", gmt=gmt, train=QUICK, options={"soft_mask": "0.1"})
    for before, mapped, new in ((expimap_model, soft, [0, 1]), (extended.model, third, [2])):
        weight, model = weights_of(mapped.model)["decoder.L0.ext_L_m.weight"], load(mapped.model, cells)
        outside = ~torch.tensor(model.ext_mask_, dtype=torch.bool).T
        assert (weight[:, new][outside[:, new]] != 0).any()
        n_before = len(inspect_model(before).latent_names)
        kept = [
            k for k, name in enumerate(inspect_model(mapped.model).latent_names) if name in inspect_model(before).latent_names
        ]
        assert len(kept) == n_before
        assert_unmoved(before, mapped.model, cells, kept)
    old = weights_of(extended.model)["decoder.L0.ext_L_m.weight"]
    assert torch.equal(weights_of(third.model)["decoder.L0.ext_L_m.weight"][:, :2], old)
    table = pd.read_csv(third.results / "extension_genes.csv")
    assert list(table["programme"].unique()) == ["NEW_A", "NEW_B", "NEW_C", "unconstrained_1", "unconstrained_2"]
    given = table[table["given"]].groupby("programme")["gene"].agg(set)
    assert given["NEW_C"] == set(genes[40:60]) and given["NEW_A"] == set(genes[:20])
    counts = table.groupby("programme").size()
    assert counts["NEW_A"] == 20 and counts["NEW_C"] > 20
    assert (table.groupby("programme")["weight"].agg(lambda w: (w.abs().diff().dropna() <= 1e-7).all())).all()

    # The more it costs, the fewer come in; and one that keeps to its genes can follow.
    dear = map_cells(query, expimap_model, tmp_path / "dear", gmt=more_gmt, train=QUICK, options={"soft_mask": "1000"})
    weight = weights_of(dear.model)["decoder.L0.ext_L_m.weight"]
    assert (weight[~torch.tensor(load(dear.model, cells).ext_mask_, dtype=torch.bool).T] == 0).all() and (weight != 0).any()
    hard = map_cells(query, soft.model, tmp_path / "hard", gmt=gmt, train=QUICK)
    weight = weights_of(hard.model)["decoder.L0.ext_L_m.weight"]
    assert torch.equal(weight[:, :2], weights_of(soft.model)["decoder.L0.ext_L_m.weight"])
    assert (weight[:, 2] != 0).sum() == 20
    assert_unmoved(soft.model, hard.model, cells, list(range(8)))
    np.testing.assert_allclose(latent_of(hard.model, ad.read_zarr(hard.aligned)), hard.latent, atol=1e-5)


def test_a_soft_mask_without_programs_is_a_fault(expimap_model, query, tmp_path):
    plan = inspect_and_check(query[:5].copy(), expimap_model, tmp_path / "m", options={"soft_mask": "0.1"})["plan"]
    assert plan["faults"] == ["option 'soft_mask' is of use with programmes alone: name their file in gmt."]


def test_a_known_program_is_known_however_few_its_genes(expimap_model, query, tmp_path):
    gmt = write_gmt(tmp_path / "known.gmt", {"PROGRAM_1": list(query.var_names[:2])})
    mapped = map_cells(query, expimap_model, tmp_path / "m", gmt=gmt, train=None)
    said = [sentence for sentence in mapped.record["warnings"] if "gmt" in sentence]
    assert said == ["Programmes of the row's gmt that are known to the model were left out (1): PROGRAM_1."]


def test_a_gmt_file_that_fits_no_gene_is_refused(expimap_model, query, tmp_path):
    gmt = write_gmt(tmp_path / "mouse.gmt", {"A": ["Actb1", "X"]})
    (fault,) = inspect_and_check(query, expimap_model, tmp_path / "m", gmt=gmt)["plan"]["faults"]
    assert fault.startswith("No programme of the row's gmt has 12 of the model's genes or more: give one whose genes")
    mapped = map_cells(
        query,
        expimap_model,
        tmp_path / "n",
        gmt=write_gmt(tmp_path / "b.gmt", {"A": list(query.var_names[:15])}),
        train=None,
        options={"min_genes": "3"},
    )
    assert inspect_model(mapped.model).latent_names[-1] == "A"


def test_a_fresh_process_gives_the_same_embedding(extended):
    code = (
        "import sys, anndata, numpy\nfrom scarches.models import EXPIMAP\n"
        "model = EXPIMAP.load(sys.argv[2], adata=anndata.read_zarr(sys.argv[3]))\n"
        "numpy.save(sys.argv[1], model.get_latent(mean=True))"
    )
    np.testing.assert_array_equal(in_a_fresh_process(code, extended.model, extended.aligned), extended.latent)


def test_the_same_seed_gives_the_same_embedding(expimap_model, extended, more_gmt, query, tmp_path):
    options = {"gmt": more_gmt, "train": QUICK, "options": {"new_programs": "2"}}
    again, other = (map_cells(query, expimap_model, tmp_path / str(seed), seed=seed, **options) for seed in (0, 1))
    np.testing.assert_array_equal(again.latent, extended.latent)
    assert np.abs(other.latent - extended.latent).max() > 1e-5


@pytest.mark.parametrize("n", [1, 10])
def test_few_cells_map(n, expimap_model, cells, query, tmp_path):
    mapped = map_cells(query[:n].copy(), expimap_model, tmp_path / "m", train=QUICK, options={"new_programs": "1"})
    assert mapped.latent.shape == (n, 7) and np.isfinite(mapped.latent).all()
    assert any("new programmes are not kept apart" in sentence for sentence in mapped.record["warnings"]) == (n == 1)
    assert_unmoved(expimap_model, mapped.model, cells, list(range(6)))


def test_batch_norm_does_not_move(cells, query, tmp_path):
    adata = cells[:, :40].copy()
    model = library().EXPIMAP(
        adata, "batch", hidden_layer_sizes=[16], mask=np.eye(2, 40, dtype=int) | 1, use_bn=True, use_ln=False
    )
    model.train(n_epochs=1, seed=0, monitor=False)
    model.save(str(tmp_path / "model"))
    mapped = map_cells(query, tmp_path / "model", tmp_path / "m", train=QUICK, options={"new_programs": "1"})
    assert_unmoved(tmp_path / "model", mapped.model, cells, [0, 1])
    old, new = weights_of(tmp_path / "model"), weights_of(mapped.model)
    assert all(torch.equal(old[name], new[name]) for name in old if "running" in name)


def test_log_normalised_values(cells, gmt, query, tmp_path):
    model = train("expimap", cells, tmp_path / "model", gmt=gmt, reference_options="recon_loss=mse", reference_max_epochs=1)
    card = inspect_model(model)
    assert (card.input, card.normalization) == ("lognorm", {"target_sum": 1e4, "genes": "model"}) and card.fault is None
    assert card.genes == list(cells.var_names)  # also those in no programme, which the totals are over
    counts = cells.X.toarray()
    expected = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)
    np.testing.assert_allclose(ad.read_zarr(tmp_path / "model.zarr").X.toarray(), expected, rtol=1e-5)
    mapped = map_cells(query, model, tmp_path / "m", train=QUICK)
    assert inspect_model(mapped.model).normalization == card.normalization
    assert_unmoved(model, mapped.model, ad.read_zarr(tmp_path / "model.zarr"))


# --- what the library does (scarches 0.6.1) ---------------------------------------------------------------------------------


def test_the_library_confuses_programs_of_two_queries(extended, cells):
    """Its encoder's new rows go to the end, although a constrained programme stands before the unconstrained ones."""
    adata = ad.read_zarr(extended.aligned)
    mask = np.ones((3, 150), dtype=int)
    grown = library().EXPIMAP.load_query_data(adata, str(extended.model), new_n_ext=2, new_n_ext_m=3, new_ext_mask=mask)
    theirs, ours = grown.get_latent(mean=True), extended.latent
    # unconstrained_1 is dimension 8 of 10, and must be 9 of 11.
    np.testing.assert_allclose(theirs[:, 8], ours[:, 8], atol=1e-5)
    assert np.abs(theirs[:, 9] - ours[:, 8]).max() > 1e-3


def test_the_library_shrinks_programs_of_earlier_queries(extended):
    adata = ad.read_zarr(extended.aligned)
    model = library().EXPIMAP.load_query_data(adata, str(extended.model), new_n_ext=3)
    before = model.model.decoder.L0.ext_L.weight.data[:, :2].clone()
    model.train(n_epochs=1, gamma_ext=0.7, weight_decay=0.0, monitor=False, use_early_stopping=False)
    assert not torch.equal(model.model.decoder.L0.ext_L.weight.data[:, :2], before)


def test_the_librarys_independence_of_one_cell_has_no_gradient():
    from scarches.models.expimap.losses import hsic

    z = torch.zeros((1, 1), requires_grad=True)
    hsic(z, torch.zeros((1, 2))).backward()
    assert torch.isnan(z.grad).all()
