"""Cards of model folders made by hand: refusals, formats that no environment here can write, and what is no model."""

import json
import os
import pickle
import sys
import zipfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from refmap.families import FAMILIES, by_name, recognise
from refmap.families.scvi.card import CLASSES
from refmap.models.card import ModelCard
from refmap.models.folder import ModelFolder
from refmap.reference.inspection import inspect_model

GENES = ["CD3E", "MS4A1", "LYZ"]
READY = {"kwargs": {"model_kwargs": {"encode_covariates": True}}, "non_kwargs": {"n_latent": 7}}


def category(key, values, **more):
    return {"state_registry": {"original_key": key, "categorical_mapping": np.array(values, dtype=object), **more}}


def registry(name="SCVI", **setup):
    return {
        "scvi_version": "1.0.4",
        "model_name": name,
        "setup_method_name": "setup_anndata",
        "setup_args": {"batch_key": "donor", "layer": "counts", "size_factor_key": "size"} | setup,
        "field_registries": {
            "batch": category("donor", ["d1", "d2"]),
            "labels": category("cell_type", ["B", "T", "?"], unlabeled_category="?"),
            "extra_categorical_covs": {"state_registry": {"mappings": {"sex": np.array(["f", "m"], dtype=object)}}},
            "extra_continuous_covs": {"state_registry": {"columns": np.array(["age"], dtype=object)}},
        },
    }


def save(folder: Path, attributes: dict, genes=GENES, weights=("z_encoder.x", "px_r")) -> Path:
    """A folder with `model.pt` as torch lays it out; the weights are no tensors here."""
    folder.mkdir(parents=True, exist_ok=True)
    value = {
        "model_state_dict": OrderedDict((name, 0) for name in weights),
        "var_names": np.array(genes, dtype=object),
        "attr_dict": attributes,
    }
    with zipfile.ZipFile(folder / "model.pt", "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps(value, 2))
    return folder


def save_old(folder: Path, attributes: dict, weights=("z_encoder.x", "px_r")) -> Path:
    folder.mkdir(parents=True)
    (folder / "attr.pkl").write_bytes(pickle.dumps(attributes, 4))
    (folder / "var_names.csv").write_text("\n".join(GENES) + "\n")
    with zipfile.ZipFile(folder / "model_params.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(OrderedDict((name, 0) for name in weights), 2))
    return folder


@pytest.fixture
def model(tmp_path):
    return save(tmp_path / "model", {"registry_": registry(), "init_params_": READY})


def test_everything_a_registry_says_is_on_the_card(model):
    card = inspect_model(model, "models/lung")
    assert card.fault is None
    expected = {
        "model": "models/lung",
        "family": "scvi",
        "env": "scvi",
        "class_name": "SCVI",
        "version": "1.0.4",
        "genes": GENES,
        "input": "counts",
        "normalization": None,
        "batch_key": "donor",
        "batches": ["d1", "d2"],
        "fixed_batches": False,
        "labels": {"cell_type": ["B", "T"]},
        "unlabeled_category": "?",
        "takes_new_labels": False,
        "learns_labels": True,
        "adds": [],
        "categorical_covariates": {"sex": ["f", "m"]},
        "continuous_covariates": ["age"],
        "size_factor_key": "size",
        "layer": "counts",
        "modality": None,
        "modalities": {},
        "modality_values": {},
        "conditions": {},
        "layers": [],
        "protein_key": None,
        "proteins": [],
        "receptors": None,
        "unlabeled_prototypes": 0,
        "takes_gmt": False,
        "n_latent": 7,
        "minified_as": "scvi",
        "latent_names": [],
        "options": {},
        "hierarchy": None,
        "predicts": False,
        "latent_of_labels": False,
        "any_reference": False,
        "most_in_memory": 64_000_000,
        "surgery_ready": True,
        "trusted": False,
        "warnings": [],
    }
    assert {key: card.to_json()[key] for key in expected} == expected
    assert set(card.to_json()) == set(expected) | {"sha256", "globals", "fault", "origin"}


def test_a_card_survives_json(model):
    card = inspect_model(model)
    assert ModelCard.from_json(json.loads(json.dumps(card.to_json()))) == card


def test_the_file_in_the_folder_names_the_same_model(model):
    assert inspect_model(model / "model.pt", "m/model.pt").sha256 == inspect_model(model).sha256


def test_a_single_file_is_a_model_whatever_lies_around_it(model):
    alone = inspect_model(model / "model.pt", "m/model.pt")
    (model / "attr.pkl").write_text("of something else")
    again = inspect_model(model / "model.pt", "m/model.pt")
    assert again == alone and alone.fault is None and alone.model == "m/model.pt"
    (model / "model.pt").write_bytes(b"")
    assert inspect_model(model / "model.pt", "m/model.pt").fault.startswith("m/model.pt is damaged")


def test_whatever_else_lies_in_the_folder_is_no_fault_of_the_model(model):
    before = inspect_model(model)
    for name, content in {
        ".DS_Store": b"\0\1", "README.md": b"#", "adata.h5ad": b"", "atlas.h5ad": b"version https://git-lfs.github.com/spec/v1",
        "attr.pkl": b"\x80\x04cposix\nsystem\n", "var_names.csv": b"\xff\xfe", "programs.gmt": b"\xff", "._model.pt": b"\0\5",
        "model_params.pt": b"", "history/loss.csv": b"a", "cells.zarr/zarr.json": b"{", "hierarchy/notes.txt": b"",
    }.items():  # fmt: skip
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_bytes(content)
    (model / "old").symlink_to("nowhere")
    card = inspect_model(model)
    assert card.fault is None and card.warnings == before.warnings
    assert card == replace(before, sha256=card.sha256)


def test_a_file_that_is_no_model(model):
    (model / "atlas.h5ad").write_text("x")
    card = inspect_model(model / "atlas.h5ad", "m/atlas.h5ad")
    assert card.fault.startswith("m/atlas.h5ad is no model that refmap knows: give a folder, or the model.pt")


def test_the_checksum_is_of_every_name_and_byte(model, tmp_path):
    first = inspect_model(model).sha256
    copy = save(tmp_path / "elsewhere", {"registry_": registry(), "init_params_": READY})
    (copy / "model.pt").write_bytes((model / "model.pt").read_bytes())
    assert inspect_model(copy).sha256 == first
    (copy / "note.txt").write_text("a")
    second = inspect_model(copy).sha256
    (copy / "note.txt").rename(copy / "other.txt")
    assert len({first, second, inspect_model(copy).sha256}) == 3


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_has_a_card_or_a_reason(tmp_path, name):
    init = READY | {"non_kwargs": {"n_latent": 7, "n_genes": 2, "n_regions": 1}}
    card = inspect_model(save(tmp_path / name, {"registry_": registry(name, size_factor_key=None), "init_params_": init}), "m")
    assert card.class_name == name and card.batches == ["d1", "d2"]
    if CLASSES[name].unfit:
        assert card.fault == f"m is a {name} model, which cannot be mapped onto: {CLASSES[name].unfit}."
    else:
        assert card.fault is None and card.predicts == card.latent_of_labels == name.endswith("ANVI")
        assert card.modalities == ({"rna": 2, "atac": 1} if name == "MULTIVI" else {})


@pytest.mark.parametrize(
    ("setup", "settings", "fault"),
    [
        ({"size_factor_key": "size"}, {}, "it was set up with size factors of each modality"),
        ({"protein_expression_obsm_key": "adt"}, {}, "it was set up from an AnnData with proteins"),
        ({}, {"modality_weights": "cell"}, "it weighs the modalities cell by cell"),
        ({}, {"n_regions": 5}, "its 3 features are not the 2 genes and 5 regions that it was made for"),
    ],
)
def test_a_multivi_that_cannot_be_mapped_onto(tmp_path, setup, settings, fault):
    attributes = {"registry_": registry("MULTIVI", **{"size_factor_key": None} | setup)}
    attributes["init_params_"] = READY | {"non_kwargs": {"n_latent": 7, "n_genes": 2, "n_regions": 1} | settings}
    assert fault in inspect_model(save(tmp_path / "m", attributes), "m").fault


@pytest.mark.parametrize(
    "name, settings, ready",
    [
        ("SCVI", {}, False),
        ("SCVI", {"encode_covariates": False}, False),
        ("SCANVI", {"encode_covariates": True}, True),
        ("TOTALVI", {}, True),
        ("TOTALVI", {"encode_covariates": False}, False),
        ("PEAKVI", {}, False),
    ],
)
def test_a_reference_that_surgery_cannot_move_is_told(tmp_path, name, settings, ready):
    # old models keep the constructor's arguments flat, with the **kwargs as dictionaries among them
    nested = {"non_kwargs": {"n_latent": 5}, "kwargs": {"model_kwargs": settings}}
    flat = {"n_latent": 5, "model_kwargs": settings}
    for folder, init in (("nested", nested), ("flat", flat)):
        folder = save(tmp_path / folder, {"registry_": registry(name), "init_params_": init})
        card = inspect_model(folder, "atlas")
        assert (card.surgery_ready, card.n_latent, card.fault) == (ready, 5, None)
        assert bool(card.warnings) != ready
        assert ready or "atlas was trained without encode_covariates=True" in card.warnings[0]


def test_a_model_without_a_batch_column(tmp_path):
    fields = registry()
    fields["field_registries"]["batch"] = category("_scvi_batch", [0])
    fields["field_registries"]["labels"] = category("_scvi_labels", [0])
    card = inspect_model(save(tmp_path / "m", {"registry_": fields, "init_params_": READY}))
    assert (card.batch_key, card.batches, card.labels) == (None, [], {})
    assert card.surgery_ready and "without a batch column" in card.warnings[0]


NEW_CATEGORIES = "the categories of 'sex' that are new in the query"


@pytest.mark.parametrize(
    ("name", "batch", "covariate", "encodes", "warning"),
    [
        ("SCVI", True, True, True, None),
        ("SCVI", False, False, True, "was set up without a batch column, and without categorical covariates: surgery has nothing to learn"),
        ("SCVI", False, True, True, f"was set up without a batch column: surgery learns {NEW_CATEGORIES}, and nothing else"),
        ("SCVI", False, True, False, f"never sees the covariates, so surgery, which learns {NEW_CATEGORIES}, cannot move"),
        ("SCVI", True, False, False, "never sees the batch, so surgery, which learns the query's batches, cannot move"),
        ("SCVI", True, True, False, f"never sees the batch and the covariates, so surgery, which learns the query's batches and {NEW_CATEGORIES}"),
        ("SysVI", True, False, True, "is a SysVI, which takes no new batches, and without categorical covariates: surgery has nothing"),
        ("SysVI", True, True, True, f"is a SysVI, which takes no new batches: surgery learns {NEW_CATEGORIES}, and nothing else"),
    ],
)  # fmt: skip
def test_it_is_said_what_surgery_learns(tmp_path, name, batch, covariate, encodes, warning):
    fields = registry(name)
    if not batch:
        fields["field_registries"]["batch"] = category("_scvi_batch", [0])
    if not covariate:
        del fields["field_registries"]["extra_categorical_covs"]
    init = {"non_kwargs": {"n_latent": 5}, "kwargs": {"kwargs": {"encode_covariates": encodes}}}
    card = inspect_model(save(tmp_path / "m", {"registry_": fields, "init_params_": init}), "atlas")
    assert card.fault is None
    assert [warning in sentence and sentence.startswith("atlas ") for sentence in card.warnings] == [True] * (warning is not None)
    assert card.surgery_ready == (encodes and "surgery has nothing" not in str(warning))


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"panel_key": "panel"}, "a column of protein panels"),
        ({"nan_layer": "_nan_mask"}, "a layer that marks the measured markers"),
        ({"sample_key": "sample"}, "a column of samples"),
    ],
)
def test_data_that_refmap_cannot_give(tmp_path, change, reason):
    card = inspect_model(save(tmp_path / "m", {"registry_": registry("CYTOVI", **change), "init_params_": READY}))
    assert f"it needs {reason}, which refmap does not give it yet" in card.fault


def test_models_of_a_mudata_and_of_a_datamodule(tmp_path):
    for name, method, reason in (
        ("SCVI", "setup_mudata", "set up from a MuData, which refmap makes for 'TOTALVI', 'TOTALANVI', 'MULTIVI'"),
        ("TOTALVI", "setup_datamodule", "set up by a data module (setup_datamodule)"),
    ):
        fields = registry(name) | {"setup_method_name": method}
        card = inspect_model(save(tmp_path / method, {"registry_": fields, "init_params_": READY}))
        assert f"is a {name} model, which cannot be mapped onto" in card.fault and reason in card.fault


@pytest.mark.parametrize("name", ["AUTOZI", "GIMVI"])
def test_other_classes_are_named(tmp_path, name):
    card = inspect_model(save(tmp_path / "m", {"registry_": registry(name), "init_params_": READY}), "m")
    assert card.fault.startswith(f"m is a {name} model, and refmap maps onto SCVI, SCANVI, TOTALVI,")


def test_drvi_of_its_own_package_is_told_from_that_of_scvi_tools(tmp_path):
    fields = registry("DRVI") | {"drvi_version": "0.2.8"}
    attributes = {"registry_": fields, "init_params_": READY}
    card = inspect_model(save(tmp_path / "m", attributes, weights=("z_encoder.x", "decoder.params_nets.mean.x")), "m")
    assert card.fault.startswith("m is a DRVI of the package drvi-py") and "drvi.utils.port_to_scvi_tools" in card.fault
    ported = inspect_model(save(tmp_path / "ported", attributes, weights=("z_encoder.x", "decoder.px_scale_decoder.x")), "m")
    assert (ported.fault, ported.class_name) == (None, "DRVI")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("MRVI", "its surgery leaves nothing that could be trained"),
        ("RESOLVI", "its surgery moves the reference's own cells"),
        ("SCVIVA", "the types of a cell's neighbours and their embedding by another model"),
    ],
)
def test_classes_that_cannot_be_mapped_onto_say_what_to_do(tmp_path, name, reason):
    fault = inspect_model(save(tmp_path / "m", {"registry_": registry(name), "init_params_": READY}), "m").fault
    assert fault.startswith(f"m is a {name} model, which cannot be mapped onto: ") and reason in fault
    assert fault.endswith("train a SCVI with encode_covariates=True on the same counts, and map onto that.")


# ------------------------------------------------------------------------------------------------------------- old formats


@pytest.mark.parametrize(
    "weights, name",
    [
        (["z_encoder.x", "px_r"], "SCVI"),
        (["z_encoder.x", "px_r", "classifier.x", "encoder_z2_z1.x"], "SCANVI"),
        (["background_pro_alpha", "px_r"], "TOTALVI"),
        (["region_factors", "z_encoder.x"], "PEAKVI"),
    ],
)
def test_three_files_and_no_model_name(tmp_path, weights, name):
    fields = registry()
    del fields["model_name"], fields["setup_method_name"]
    card = inspect_model(save_old(tmp_path / "old", {"registry_": fields, "init_params_": READY}, weights))
    assert (card.fault, card.class_name, card.genes, card.batches) == (None, name, GENES, ["d1", "d2"])


def test_a_setup_dictionary_from_before_the_registry(tmp_path):
    setup = {
        "scvi_version": "0.9.1",
        "data_registry": {
            "X": {"attr_name": "layers", "attr_key": "counts"},
            "batch_indices": {"attr_name": "obs", "attr_key": "_scvi_batch"},
            "labels": {"attr_name": "obs", "attr_key": "_scvi_labels"},
            "protein_expression": {"attr_name": "obsm", "attr_key": "adt"},
        },
        "categorical_mappings": {
            "_scvi_batch": {"original_key": "dataset", "mapping": np.array(["a", "b"], dtype=object)},
            "_scvi_labels": {"original_key": "ann", "mapping": np.array(["T", "unlabeled"], dtype=object)},
        },
        "extra_categoricals": {"mappings": {"sex": np.array(["f", "m"], dtype=object)}, "keys": ["sex"]},
        "extra_continuous_keys": np.array(["age"], dtype=object),
        "protein_names": ["CD3", "CD19"],
    }
    attributes = {"scvi_setup_dict_": setup, "init_params_": READY, "unlabeled_category_": "unlabeled"}
    card = inspect_model(save_old(tmp_path / "old", attributes, ["encoder_z2_z1.x"]))
    assert card.fault is None
    assert (card.class_name, card.version, card.layer, card.n_latent) == ("SCANVI", "0.9.1", "counts", 7)
    assert (card.batch_key, card.batches) == ("dataset", ["a", "b"])
    assert (card.labels, card.unlabeled_category) == ({"ann": ["T"]}, "unlabeled")
    assert (card.categorical_covariates, card.continuous_covariates) == ({"sex": ["f", "m"]}, ["age"])
    # They were set up with the data, and a SCANVI makes no use of them
    assert (card.protein_key, card.proteins) == (None, [])


@pytest.mark.parametrize("missing", ["model_params.pt", "var_names.csv"])
def test_a_lacking_file_is_named(tmp_path, missing):
    folder = save_old(tmp_path / "old", {"registry_": registry(), "init_params_": READY})
    (folder / missing).unlink()
    assert f"lacks {missing}" in inspect_model(folder).fault


@pytest.mark.parametrize(
    "kind, attributes",
    [
        ("scPoli", {"condition_keys_": ["b"], "prototypes_labeled_": None, "prototypes_unlabeled_": None, "conditions_": {}}),
        ("expiMap", {"mask_": [[1]], "use_hsic_": False, "condition_key_": "b", "latent_dim_": 1, "n_ext_": 0}),
        ("trVAE", {"condition_key_": "b", "mmd_on_": "z", "conditions_": ["a"], "recon_loss_": "nb"}),
        ("scGen", {"x_dim_": 3, "z_dim_": 2, "hidden_layer_sizes_": [8], "dr_rate_": 0.1, "is_trained_": True}),
    ],
)
def test_a_family_is_told_by_its_attributes(tmp_path, kind, attributes):
    assert inspect_model(save_old(tmp_path / "m", attributes), "models/x").family == kind.lower()


def test_a_model_is_told_by_the_files_beside_its_weights(tmp_path):
    for name in ("vocab.json", "args.json"):
        (tmp_path / name).write_text("{}")
    assert inspect_model(tmp_path, "models/x").fault.startswith(
        "models/x lacks best_model.pt, without which no scGPT can be loaded"
    )


FACTS = """
genes: [a, b]
normalization: {target_sum: 10000}
labels: {type: [B, 1]}
"""


def test_facts_beside_the_files_go_before_what_these_say(model):
    (model / "refmap.yaml").write_text(FACTS)
    card = inspect_model(model)
    assert (card.fault, card.genes, card.normalization) == (None, ["a", "b"], {"target_sum": 10000})
    assert card.batch_key == "donor" and card.labels == {"type": ["B", "1"]}


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ("gens: [a]", "m/refmap.yaml has an unknown key 'gens'. Did you mean 'genes'?"),
        ("genes: a", "m/refmap.yaml has 'a' as 'genes', which must be a list."),
        ("input: logcounts", "m/refmap.yaml has 'logcounts' as 'input', which must be one of counts, lognorm, any."),
        ("- genes", "m/refmap.yaml is no mapping: give facts of the model such as 'genes' or 'normalization', key by key."),
        ("genes: [", "m/refmap.yaml is not YAML that can be read"),
        ("labels: {type: B}", "m/refmap.yaml has {'type': 'B'} as 'labels', which must hold a list of labels for each column."),
        (
            "normalization: {target_sum: -1}",
            "m/refmap.yaml has {'target_sum': -1} as 'normalization', which must hold target_sum",
        ),
        ("normalization: {target_sum: 1, genes: most}", "'all' (a cell's total is that of all its genes) or 'model'"),
    ],
)
def test_facts_that_are_none_are_told(model, facts, sentence):
    (model / "refmap.yaml").write_text(facts)
    assert sentence in inspect_model(model, "m").fault


# -------------------------------------------------------------------------------------------------------------- no model


def test_a_missing_model():
    card = inspect_model(Path("/no/where"), "models/typo")
    assert card.fault == "There is no model at models/typo." and card.family is None


@pytest.mark.parametrize("files, found", [([], "an empty folder"), (["a.h5ad", "b.txt"], "a.h5ad, b.txt")])
def test_a_folder_without_a_model_lists_what_it_holds(tmp_path, files, found):
    for name in files:
        (tmp_path / name).write_text("x")
    card = inspect_model(tmp_path, "m")
    assert card.fault.startswith(f"m holds no model that refmap knows (found: {found});")
    assert "model.pt" in card.fault


def test_a_file_of_torch_that_is_no_model(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({"epoch": 3}, 2))
    assert "holds no model that refmap knows (found: model.pt)" in inspect_model(tmp_path).fault


def test_a_truncated_model(model):
    data = (model / "model.pt").read_bytes()
    (model / "model.pt").write_bytes(data[: len(data) // 2])
    card = inspect_model(model, "m")
    assert card.fault.startswith("m/model.pt is truncated or no file of torch.save")


@pytest.mark.parametrize(
    "strange, sentence",
    [
        (5, "m is damaged: its attributes are not those of a saved model"),
        (registry() | {"field_registries": 3}, "m is damaged: its attributes are not those of a saved model"),
        ([], "convert it with convert_legacy_save"),
    ],
)
def test_attributes_of_an_unknown_shape(tmp_path, strange, sentence):
    card = inspect_model(save(tmp_path / "m", {"registry_": strange, "init_params_": READY}), "m")
    assert sentence in card.fault


# ------------------------------------------------------------------------------------------------------------ unsafe models


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


@pytest.fixture
def marker(tmp_path):
    path = tmp_path / "executed"
    yield path
    assert not path.exists()


@pytest.mark.parametrize("where", ["model.pt", "attr.pkl", "model_params.pt", "nothing but the attack"])
def test_a_model_that_would_run_code_is_refused(tmp_path, marker, where):
    attributes = {"registry_": registry(), "init_params_": READY}
    folder = tmp_path / "model"
    if where == "model.pt":
        save(folder, attributes | {"unlabeled_category_": Attack(marker)})
    elif where == "attr.pkl":
        save_old(folder, attributes | {"unlabeled_category_": Attack(marker)})
    elif where == "model_params.pt":
        save_old(folder, attributes)
        (folder / where).write_bytes(pickle.dumps(Attack(marker), 2))
    else:
        where = "model.pt"
        folder.mkdir()
        (folder / where).write_bytes(pickle.dumps(Attack(marker), 2))
    card = inspect_model(folder, "models/atlas")
    assert card.fault == (
        f"models/atlas/{where} is not safe to load: unpickling it would run {os.system.__module__}.system, which no model "
        "needs; if you know where the file comes from, allow it with --trust_models."
    )
    assert f"{os.system.__module__}.system" in card.globals and not card.trusted


@pytest.mark.parametrize("key", ["history_", "notes_"])
def test_what_no_mapping_needs_refuses_no_model(tmp_path, marker, key):
    card = inspect_model(save(tmp_path / "m", {"registry_": registry(), "init_params_": READY, key: Attack(marker)}), "m")
    assert (card.fault, card.genes, card.globals) == (
        None,
        GENES,
        inspect_model(save(tmp_path / "n", {"registry_": registry()})).globals,
    )
    assert card.warnings == [
        "m/model.pt holds what no mapping needs and refmap does not load, and which is left out: "
        f"{key} ({os.system.__module__}.system)."
    ]


def test_trust_lets_a_model_pass_and_still_runs_nothing(tmp_path, marker):
    folder = save(tmp_path / "m", {"registry_": registry(), "init_params_": READY, "unlabeled_category_": Attack(marker)})
    card = inspect_model(folder, trust_models=True)
    assert (card.fault, card.trusted, card.genes) == (None, True, GENES)
    assert f"{os.system.__module__}.system" in card.globals


# --------------------------------------------------------------------------------------------------------------- families


def test_families_are_found_by_name_and_need_no_torch(model):
    family = recognise(ModelFolder(model))
    assert family is by_name("scvi") and family in FAMILIES
    assert "torch" not in sys.modules


# ---------------------------------------------------------------------------------------------------------------- command


def command(*arguments):
    sys.modules.pop("inspect_model", None)
    from inspect_model import main

    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_writes_the_card(model, tmp_path):
    result = command("--model", model, "--shown-as", "models/a b", "--card", tmp_path / "card.json")
    assert result.exit_code == 0
    card = ModelCard.from_json(json.loads((tmp_path / "card.json").read_text()))
    assert card == inspect_model(model, "models/a b")


def test_a_bad_model_is_no_failure_of_the_command(tmp_path, marker):
    folder = save(tmp_path / "m", {"registry_": registry(), "init_params_": READY, "unlabeled_category_": Attack(marker)})
    result = command("--model", folder, "--shown-as", "m", "--card", tmp_path / "card.json")
    card = json.loads((tmp_path / "card.json").read_text())
    assert result.exit_code == 0 and card["fault"].startswith("m/model.pt is not safe to load")
    assert card["fault"] in result.output
    trusted = command("--model", folder, "--shown-as", "m", "--trust-models", "--card", tmp_path / "card.json")
    assert trusted.exit_code == 0 and json.loads((tmp_path / "card.json").read_text())["fault"] is None


# ------------------------------------------------------------------------------------------------------------------- zarr


@pytest.mark.parametrize(
    ("array", "odd"),
    [
        ({"compressor": {"id": "blosc"}, "filters": [{"id": "vlen-utf8"}]}, None),
        ({"compressor": None, "filters": None}, None),
        ({"compressor": {"id": "zstd"}, "filters": [{"id": "delta"}, {"id": "packbits"}]}, None),
        ({"compressor": None, "filters": [{"id": "pickle", "protocol": 5}]}, "pickle"),
        ({"compressor": {"id": "pickle"}, "filters": None}, "pickle"),
        ({"compressor": {"codec": "blosc"}}, "something that cannot be read"),
    ],
)
def test_an_array_that_decoding_would_unpickle_is_refused(model, array, odd):
    (model / "cells.zarr").mkdir()
    (model / "cells.zarr/.zarray").write_text(json.dumps(array))
    fault = inspect_model(model, "m").fault
    if odd is None:
        assert fault is None
    else:
        assert fault.startswith(f"m/cells.zarr/.zarray is not safe to load: it is encoded by {odd}, which no model needs;")
        assert inspect_model(model, "m", trust_models=True).fault is None
