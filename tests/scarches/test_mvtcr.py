"""mvTCR: its card, receptors as scirpy has them, and surgery that moves the new batches' embeddings and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from mapping import inspect_and_check, map_cells, prepare_cells, train
from refmap.common.errors import RefmapError
from refmap.mapping.trial import try_model
from refmap.reference.inspection import inspect_model
from refmap.reference.training import embed_reference

QUICK = {"max_epochs": 2, "early_stopping": False, "check_val_every_n_epoch": 1, "learning_rate": 0.05}
SMALL = "n_hidden=16;n_hidden_genes=16;residue_size=4;attention_heads=2;batch_embedding=3;padding=14;learning_rate=0.001"
MIXTURES = ("moe", "poe", "concat")


def contigs(cells, seed=0, lacking=0.3) -> pd.DataFrame:
    """A contig table as Cell Ranger's: pairs of chains for all but a share of the cells, in few clonotypes."""
    rng = np.random.default_rng(seed)
    clones = ["".join(rng.choice(list("ADEGLNPQRSTY"), 8)) for _ in range(20)]
    rows = []
    for cell in cells:
        clone = rng.integers(len(clones))
        if rng.random() >= lacking:
            rows += [chain(cell, "TRA", f"CA{clones[clone]}F"), chain(cell, "TRB", f"CS{clones[clone - 1]}F")]
    return pd.DataFrame(rows)


def chain(cell, locus, cdr3, umis=5, productive=True) -> dict:
    codons = dict(zip("ACDEFGLNPQRSTY", "GCT TGT GAT GAA TTT GGT CTT AAT CCT CAA CGT TCT ACT TAT".split(), strict=True))
    calls = {"v_gene": f"{locus}V1", "d_gene": "", "j_gene": f"{locus}J1", "c_gene": f"{locus}C"}
    return {
        "barcode": cell, "is_cell": True, "high_confidence": True, "chain": locus, **calls, "productive": productive,
        "cdr3": cdr3, "cdr3_nt": "".join(codons[residue] for residue in cdr3), "umis": umis, "reads": 10 * umis,
    }  # fmt: skip


def written(table: pd.DataFrame, path: Path) -> Path:
    table.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


@pytest.fixture(scope="module")
def reference_airr(cells, tmp_path_factory):
    return written(contigs(cells.obs_names), tmp_path_factory.mktemp("airr") / "reference.csv")


@pytest.fixture(scope="module")
def airr(query, tmp_path_factory):
    """The query's receptors: of its first cells one each that the model cannot take."""
    names = list(query.obs_names)
    table = contigs(names[5:], 1)
    odd = [
        chain(names[0], "TRA", "CAAF"),  # one chain alone
        *(chain(names[1], locus, "CAAF") for locus in ("TRA", "TRB", "TRB")),  # which a cell may have
        chain(names[1], "TRB", "CSSF", umis=1),
        chain(names[2], "TRA", "CAAF"),
        chain(names[2], "TRB", "C" + 13 * "A" + "F"),  # longer than the padding
        chain(names[3], "TRG", "CAAF"),
        chain(names[3], "TRD", "CAAF"),
        chain(names[4], "TRA", "CAAF"),
        chain(names[4], "TRB", "CAAF", productive=False),
    ]
    return written(pd.concat([pd.DataFrame(odd), table]), tmp_path_factory.mktemp("airr") / "query.csv")


@pytest.fixture(scope="module")
def models(cells, reference_airr, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        mixture: train(
            "mvtcr",
            cells,
            folder / mixture,
            airr=reference_airr,
            reference_options=f"mixture={mixture};{SMALL}",
            reference_max_epochs=2,
        )
        for mixture in MIXTURES
    }


@pytest.fixture(scope="module", params=MIXTURES)
def model(request, models):
    return models[request.param]


@pytest.fixture(scope="module")
def mapped(models, query, airr, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mapped")
    return {mixture: map_cells(query, models[mixture], folder / mixture, airr=airr, train=QUICK) for mixture in MIXTURES}


def saved(folder: Path) -> dict:
    return torch.load(folder / "model.pt", weights_only=False)


def library_latent(folder: Path, aligned: ad.AnnData, batches: list[str]) -> np.ndarray:
    """The latent by the library, of cells that all have a receptor, encoded as it encodes them."""
    import scirpy
    from mvtcr.utils_preprocessing import Preprocessing
    from mvtcr.utils_training import load_model

    table = aligned.uns["receptors"]
    path = folder.parent / f"{folder.name}_contigs.csv"
    table.to_csv(path, index=False)
    chains = scirpy.io.read_10x_vdj(path)[aligned.obs_names].copy()
    scirpy.pp.index_chains(chains)
    adata = ad.AnnData(aligned.X.toarray(), obs=aligned.obs.copy(), var=aligned.var[[]], obsm={"airr": chains.obsm["airr"]})
    adata.obsm["chain_indices"] = chains.obsm["chain_indices"]
    Preprocessing.encode_tcr(adata, pad=14)
    adata.obsm["batch_ohe"] = np.eye(len(batches))[pd.Index(batches).get_indexer(aligned.obs["batch"].astype(str))]
    adata.obs["set"] = ["train"] * (adata.n_obs - 2) + ["val"] * 2
    return load_model(adata, str(folder / "model.pt")).get_latent(adata, metadata=[]).X


def test_the_card_says_what_the_file_and_refmap_yaml_say(model, cells):
    card = inspect_model(model)
    mixture = model.name
    name = {"moe": "mvTCR MoE", "poe": "mvTCR PoE", "concat": "mvTCR concat"}[mixture]
    assert (card.fault, card.warnings, card.family, card.env, card.class_name) == (None, [], "mvtcr", "scarches", name)
    assert card.genes == list(cells.var_names) and saved(model)["params_architecture"]["rna"]["xdim"] == 200
    assert (card.batch_key, card.batches, card.n_latent) == ("batch", ["ref_a", "ref_b"], 5)
    assert (card.input, card.normalization) == ("lognorm", {"target_sum": 1e4, "genes": "model"})
    assert card.receptors == ("needed" if mixture == "concat" else "taken") and card.surgery_ready and not card.predicts
    assert try_model(model, card.to_json())["fault"] is None


def test_a_file_of_the_library_alone_lacks_its_genes(models, tmp_path):
    shutil.copyfile(models["poe"] / "model.pt", tmp_path / "poe.pt")
    fault = inspect_model(tmp_path / "poe.pt", "poe.pt").fault
    assert fault.startswith(
        "poe.pt is an mvTCR as its library saves it, without the names of its 200 genes: put it into a folder"
    )
    shutil.copytree(models["poe"], tmp_path / "model")
    facts = json.loads((tmp_path / "model/refmap.yaml").read_text())
    (tmp_path / "model/refmap.yaml").write_text(json.dumps({"genes": facts["genes"]}))
    card = inspect_model(tmp_path / "model", "poe")
    assert (card.fault, card.batch_key, card.batches) == (None, "batch", ["0", "1"]) and len(card.warnings) == 2
    assert "poe does not say what its conditions are: they stay numbers" in card.warnings[0]
    for key, value, said in (
        ("genes", facts["genes"][1:], "lists 199 genes, but the model has 200"),
        ("batches", ["a"], "names 1 batches, but the model has 2 conditions"),
    ):
        (tmp_path / "model/refmap.yaml").write_text(json.dumps(facts | {key: value}))
        assert said in inspect_model(tmp_path / "model").fault


def test_what_has_not_both_rna_and_receptors_is_refused(models, tmp_path):
    shutil.copytree(models["poe"], tmp_path / "model")
    torch.save(saved(models["poe"]) | {"model_type": "rna"}, tmp_path / "model/model.pt")
    assert "is an mvTCR of 'rna' alone" in inspect_model(tmp_path / "model").fault


@pytest.mark.parametrize("mixture", MIXTURES)
def test_the_reference_stays_and_its_latent_is_the_librarys(
    mixture, models, mapped, cells, reference_airr, query, airr, tmp_path
):
    model, first = models[mixture], mapped[mixture]
    card, record, path = prepare_cells(cells, model, tmp_path / "cells", reference_airr)
    assert record["fault"] is None
    assert any("of the 300 cells of reference 'cells.h5ad'" in sentence for sentence in record["warnings"])
    aligned = ad.read_zarr(path)
    before = embed_reference(aligned, model, card, 0)["X_emb"]
    whole = aligned[aligned.obs_names.isin(aligned.uns["receptors"]["barcode"])].copy()
    rows = aligned.obs_names.get_indexer(whole.obs_names)
    assert 150 < len(rows) < 250
    np.testing.assert_allclose(library_latent(model, whole, card["batches"]), before[rows], atol=1e-5)
    others = np.setdiff1d(np.arange(300), rows)
    assert np.isnan(before[others]).all() == (mixture == "concat") and np.isfinite(before[rows]).all()

    second = map_cells(query, first.model, tmp_path / "second", airr=airr, train=QUICK)
    for updated in (first.model, second.model):
        new = inspect_model(updated).to_json()
        np.testing.assert_allclose(embed_reference(aligned, updated, new, 0)["X_emb"], before, atol=1e-6)
    assert new["batches"] == ["ref_a", "ref_b", "d2", "d1", "d2@lung.donor_1", "d1@lung.donor_1"]
    # The library loads what surgery saved, too.
    np.testing.assert_allclose(library_latent(second.model, whole, new["batches"]), before[rows], atol=1e-5)


@pytest.mark.parametrize("mixture", MIXTURES)
def test_only_the_embeddings_of_new_batches_differ(mixture, models, mapped, query, airr, tmp_path):
    old, new = saved(models[mixture])["state_dict"], saved(mapped[mixture].model)["state_dict"]
    assert old.keys() == new.keys()
    for name in old:
        assert name == "cond_emb.weight" or torch.equal(old[name], new[name]), name
    embedding = new["cond_emb.weight"]
    assert embedding.shape == (4, 3) and torch.equal(embedding[:2], old["cond_emb.weight"])
    assert mapped[mixture].record["parameters_trainable"] == 6
    assert (embedding[2:] - old["cond_emb.weight"].mean(dim=0)).abs().min() > 1e-3
    untrained = map_cells(query, models[mixture], tmp_path / "untrained", airr=airr, train=None)
    assert np.nanmax(np.abs(untrained.latent - mapped[mixture].latent)) > 1e-3
    again = map_cells(query, models[mixture], tmp_path / "again", airr=airr, train=QUICK)
    np.testing.assert_array_equal(again.latent, mapped[mixture].latent)


def test_cells_whose_receptor_cannot_be_taken_are_counted_and_embedded_by_rna(mapped, models, query, tmp_path):
    result = mapped["poe"].embedding
    known = result.obs["embedded_by"] == "RNA and receptor"
    assert not known.iloc[:5].any() and known.iloc[5:].mean() == pytest.approx(0.7, abs=0.1)
    (said,) = [sentence for sentence in mapped["poe"].record["warnings"] if "RNA alone" in sentence]
    assert said.startswith(f"{(~known).sum()} of 200 cells are embedded by their RNA alone: ")
    for reason in (
        f"{(~known).sum() - 5} have no receptor",
        "1 have more chains than a cell has (multichain)",
        "1 have another receptor than one of alpha and beta chains",
        "2 have one of the two chains alone",
        "1 have a CDR3 of more than the 14 residues that the model takes",
    ):
        assert reason in said
    pairing = list(result.obs["chain_pairing"].iloc[:5])
    assert pairing == ["orphan VJ", "multichain", "single pair", "single pair", "orphan VJ"]
    assert list(result.obs["receptor_subtype"].iloc[2:4]) == ["TRA+TRB", "TRG+TRD"]
    assert np.isfinite(mapped["moe"].latent).all() and np.isfinite(mapped["poe"].latent).all()
    # Those without a receptor lie where they do in a query in which nobody has one.
    for mixture in ("moe", "poe"):
        model = mapped[mixture].model
        with_any = map_cells(query, models[mixture], tmp_path / mixture, train=None, airr=mapped_airr(mapped[mixture]))
        without = map_cells(query, models[mixture], tmp_path / f"{mixture}_none", train=None)
        assert any("has no table of receptors: set airr" in sentence for sentence in without.plan["warnings"])
        np.testing.assert_allclose(with_any.latent[~known], without.latent[~known], atol=1e-6)
        assert np.abs(with_any.latent[known] - without.latent[known]).max() > 1e-3
        assert inspect_model(model).fault is None


def mapped_airr(mapped) -> Path:
    """The table that a mapping was given."""
    path = mapped.aligned.parent / "again.csv"
    return written(ad.read_zarr(mapped.aligned).uns["receptors"], path)


def test_concat_has_no_embedding_without_a_receptor(mapped, models, query, tmp_path):
    by = mapped["concat"].embedding.obs["embedded_by"]
    nothing = (by == "nothing").to_numpy()
    assert np.isnan(mapped["concat"].latent[nothing]).all() and np.isfinite(mapped["concat"].latent[~nothing]).all()
    assert any(f"{nothing.sum()} of 200 cells have no embedding" in sentence for sentence in mapped["concat"].record["warnings"])
    (fault,) = inspect_and_check(query, models["concat"], tmp_path / "none")["plan"]["faults"]
    assert fault == "query 'donor_1.h5ad' needs receptors, as mvTCR concat embeds no cell without: set airr."
    few = written(pd.DataFrame([chain(query.obs_names[0], "TRA", "CAAF")]), tmp_path / "few.csv")
    with pytest.raises(RefmapError, match="No cell has a receptor that 'atlas' takes.* 1 have one of the two chains alone"):
        map_cells(query, models["concat"], tmp_path / "few", airr=few, train=QUICK)


def test_clonotypes_are_of_identical_cdr3s_whatever_the_format_and_the_strategy(mapped, models, query, airr, tmp_path):
    obs = mapped["moe"].embedding.obs
    pairs = pd.read_csv(airr).pivot_table(index="barcode", columns="chain", values="cdr3", aggfunc="first").reindex(obs.index)
    whole = obs["embedded_by"] == "RNA and receptor"
    same = (pairs["TRA"] + pairs["TRB"])[whole]
    assert same.nunique() < whole.sum() / 2
    assert (obs.loc[whole, "clone_id"].astype(str).groupby(same).nunique() == 1).all()
    assert (
        obs.loc[whole, "clone_id"].nunique() == same.nunique()
        and obs.loc[obs["chain_pairing"] == "no IR", "clone_id"].isna().all()
    )

    names = {
        "barcode": "cell_id",
        "chain": "locus",
        "cdr3": "junction_aa",
        "cdr3_nt": "junction",
        "umis": "umi_count",
        "v_gene": "v_call",
    }
    table = pd.read_csv(airr).rename(columns=names)[[*names.values(), "productive"]]
    table["productive"] = table["productive"].map({True: "T", False: "F"})
    tsv = written(table, tmp_path / "airr.tsv")
    parts = map_cells(query, models["moe"], tmp_path / "parts", airr=tsv, train=QUICK, strategy="per_batch").embedding.obs
    for column in ("chain_pairing", "receptor_subtype", "embedded_by"):
        assert list(parts[column]) == list(obs[column]), column
    assert (parts.loc[whole, "clone_id"].astype(str).groupby(same).nunique() == 1).all()
    assert parts.loc[whole, "clone_id"].nunique() == same.nunique()


def test_one_hot_conditions_grow_by_columns(models, query, airr, cells, tmp_path):
    from refmap.families.mvtcr.network import Network

    value = saved(models["moe"])
    value["params_architecture"]["joint"]["use_embedding_for_cond"] = False
    torch.manual_seed(0)
    value["state_dict"] = Network(value, 2).module.cpu().state_dict()
    shutil.copytree(models["moe"], tmp_path / "model")
    torch.save(value, tmp_path / "model/model.pt")
    mapped = map_cells(query, tmp_path / "model", tmp_path / "m", airr=airr, train=QUICK)
    old, new = value["state_dict"], saved(mapped.model)["state_dict"]
    grown = {name for name in old if old[name].shape != new[name].shape}
    assert len(grown) == 4 and all(new[name].shape[1] == old[name].shape[1] + 2 for name in grown)
    assert all(torch.equal(new[name][:, : old[name].shape[1]] if name in grown else new[name], old[name]) for name in old)
    assert mapped.record["parameters_trainable"] == 2 * 16 * 4


@pytest.mark.parametrize("n_cells", [1, 10])
def test_few_cells_map(n_cells, models, query, airr, tmp_path):
    few = query[10 : 10 + n_cells].copy()
    mapped = map_cells(
        few, models["poe"], tmp_path / "m", airr=written(contigs(few.obs_names, lacking=0), tmp_path / "a.csv"), train=QUICK
    )
    assert mapped.latent.shape == (n_cells, 5) and any("no validation set" in sentence for sentence in mapped.record["warnings"])


def test_half_of_the_genes_shuffled_give_the_latent_of_the_models_order(models, query, airr, tmp_path):
    half = query[:, ::-1][:, ::2].copy()
    mapped = map_cells(half, models["poe"], tmp_path / "m", airr=airr, train=None)
    assert list(ad.read_zarr(mapped.aligned).var_names) == inspect_model(models["poe"]).genes
    assert mapped.record["train"] is None and mapped.history.empty


def test_training_that_diverges_and_settings_that_there_are_not_are_said(models, query, airr, tmp_path):
    with pytest.raises(RefmapError, match="Training diverged in epoch"):
        map_cells(query, models["poe"], tmp_path / "a", airr=airr, train=QUICK | {"learning_rate": 1e30})
    with pytest.raises(RefmapError, match="plan_kwargs has 'alpha', but training of an mvTCR takes none"):
        map_cells(query, models["poe"], tmp_path / "b", airr=airr, train=QUICK | {"plan_kwargs": {"alpha": 1}})


def test_a_reference_without_receptors_is_refused(cells, tmp_path):
    few = written(pd.DataFrame([chain(cells.obs_names[0], "TRA", "CAAF")]), tmp_path / "few.csv")
    with pytest.raises(RefmapError, match="Of the reference's 300 cells 0 have a receptor that mvTCR can be trained on"):
        train("mvtcr", cells, tmp_path / "model", airr=few, reference_options=SMALL)
    with pytest.raises(RefmapError, match="residue_size is 6, but must be an even multiple of attention_heads, 4"):
        train("mvtcr", cells, tmp_path / "other", airr=written(contigs(cells.obs_names), tmp_path / "a.csv"),
              reference_options="residue_size=6")  # fmt: skip
