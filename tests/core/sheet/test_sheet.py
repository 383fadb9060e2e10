"""The sheet in both its forms: what it is read as, and the sentence for each thing that can be wrong with it."""

import csv
import io
import json
import re
import string
from pathlib import Path

import pytest
import rows
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from refmap.common.errors import RefmapError
from refmap.common.strategies import CORRECTIONS, STRATEGIES
from refmap.families.base import ENGINES
from refmap.sheet.fields import COLUMNS, FIELDS, MAPQC_KEYS, YAML_ONLY, Mapping, Must
from refmap.sheet.from_yaml import LEVELS
from refmap.sheet.sheet import read_sheet

DEFAULTS = {
    "max_epochs": 100,
    "early_stopping": True,
    "check_val_every_n_epoch": 5,
    "early_stopping_patience": 5,
    "one_batch": False,
    "round_counts": False,
    "strategy": "joint",
    "engine": "auto",
    "correction": "auto",
    "seed": 7,
    "min_gene_overlap": 0.2,
    "warn_gene_overlap": 0.8,
    "family": "scanvi",
    "reference": "atlas.h5ad",
    "reference_batch_key": "study",
    "reference_layer": "counts",
    "reference_var_key": "ensembl",
    "reference_protein_key": None,
    "reference_airr": None,
}
TRAIN = {"max_epochs": 100, "early_stopping": True, "check_val_every_n_epoch": 5, "early_stopping_patience": 5}
ROW = rows.ROW | {
    "query": "data/donor_1.h5ad",
    "model": "models/hlca",
    "min_gene_overlap": 0.2,
    "train": TRAIN,
    "seed": 7,
    "warn_gene_overlap": 0.8,
}
DESIGN = """
DATASETS:
  lung:
    input:
      reference_mapping:
        donor_1: data/donor_1.h5ad
        donor_2: data/donor_2.zarr
    reference_mapping:
      scarches:
        model: models/hlca
        layer: layers/counts
        var_key: gene_id
        model_params:
          batch_key: donor
          labels_key: cell_type
          categorical_covariate_keys: []
          continuous_covariate_keys: []
        train_kwargs: {max_epochs: 100, early_stopping: true, check_val_every_n_epoch: 5}
      umap_colors: [donor]
"""
HEADER = "dataset,file_id,query,model,batch_key"
FIRST = "lung,donor_1,data/donor_1.h5ad,models/hlca,donor"


@pytest.fixture
def read(tmp_path):
    """Read a sheet from its text."""

    def read_text(text: str | bytes, suffix: str = ".csv", **options) -> list[dict]:
        path = tmp_path / f"sheet{suffix}"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_sheet(path, DEFAULTS, **options)

    return read_text


@pytest.fixture
def faults(read):
    """The lines that a sheet is refused with."""

    def refused(text: str | bytes, suffix: str = ".csv", **options) -> list[str]:
        with pytest.raises(RefmapError) as error:
            read(text, suffix, **options)
        return str(error.value).split("\n")

    return refused


def dataset(files: object = None, settings: object = None, **more: object) -> dict:
    """A dataset `lung` as YAML has it; by default one file, and the settings that it needs."""
    if settings is None:
        settings = {"scarches": {"model": "models/hlca", "model_params": {"batch_key": "donor"}}}
    files = {"donor_1": "data/donor_1.h5ad"} if files is None else files
    return {"DATASETS": {"lung": {"input": {"reference_mapping": files}, "reference_mapping": settings, **more}}}


def scarches(model_params: object = None, **more: object) -> dict:
    model_params = {"batch_key": "donor"} if model_params is None else model_params
    return dataset(settings={"scarches": {"model": "models/hlca", "model_params": model_params, **more}})


# --- what is read ---------------------------------------------------------------------------------------------------------


def test_a_csv_of_the_required_columns_gives_all_keys(read):
    assert read(f"{HEADER}\n{FIRST}\n") == [ROW]


def test_the_designs_example(read):
    shared = ROW | {"layer": "counts", "var_key": "gene_id", "labels_keys": ["cell_type"], "umap_colors": ["donor"]}
    assert read(DESIGN, ".yaml") == [shared, shared | {"file_id": "donor_2", "query": "data/donor_2.zarr"}]


def test_the_keys_of_both_forms_come_in_one_order(read):
    keys = [list(row) for row in read(f"{HEADER}\n{FIRST}\n") + read(yaml.dump(scarches()), ".yml")]
    assert keys[0] == keys[1] == list(ROW)


def test_every_setting_can_be_given_in_a_csv(read):
    cells = {
        "dataset": "lung",
        "file_id": "001",
        "query": "my data/it's; (here).h5mu",
        "model": 'models/a "b", c',
        "batch_key": "donor",
        "labels_key": "cell type;fine",
        "truth_key": "truth",
        "layer": "raw/X",
        "var_key": "gene_id",
        "id_table": "ids.tsv",
        "obs_table": "cells.csv",
        "obs_table_key": "barcode",
        "gene_prefix": "GRCh38_",
        "orthologs": "yes",
        "modality": "gex",
        "query_embedding": "",  # a model and an embedding are not both given
        "protein_key": "adt",
        "categorical_covariate_keys": "a; b",
        "continuous_covariate_keys": "age",
        "gmt": "programs.gmt",
        "airr": "contigs.csv",
        "options": "shots = 2;groups=cell type",
        "size_factor_key": "sf",
        "reference": "cells.h5ad",
        "reference_layer": "layers/counts",
        "reference_var_key": "ensembl",
        "reference_embedding": "X_scvi",
        "reference_batch_key": "",
        "reference_protein_key": "prot",
        "reference_airr": "reference_contigs.csv",
        "transfer_keys": "level 1;level 2",
        "mapqc_sample_key": "sample",
        "mapqc_study_key": "study",
        "mapqc_control_key": "condition",
        "mapqc_control": "healthy",
        "one_batch": "TRUE",
        "round_counts": "yes",
        "strategy": "per_batch",
        "engine": "scvi",
        "correction": "symphony",
        "freeze_dropout": "false",
        "min_gene_overlap": "0.5",
        "train": "true",
        "max_epochs": "10",
        "early_stopping": "no",
        "check_val_every_n_epoch": "1",
        "early_stopping_patience": "3",
        "batch_size": "64",
        "learning_rate": "1e-3",
        "umap_colors": "donor;cell type",
    }
    assert tuple(cells) == COLUMNS
    text = io.StringIO()
    csv.writer(text).writerows([cells.keys(), cells.values()])
    assert read(text.getvalue()) == [
        {
            **{name: cells[name] for name in COLUMNS[: COLUMNS.index("size_factor_key") + 1] if name != "labels_key"},
            "layer": "raw",
            "orthologs": True,
            "query_embedding": None,
            "labels_keys": ["cell type", "fine"],
            **{name: cells[name] for name in MAPQC_KEYS},
            "categorical_covariate_keys": ["a", "b"],
            "options": {"shots": "2", "groups": "cell type"},
            "continuous_covariate_keys": ["age"],
            "one_batch": True,
            "round_counts": True,
            "strategy": "per_batch",
            "engine": "scvi",
            "correction": "symphony",
            "freeze_dropout": False,
            "min_gene_overlap": 0.5,
            "umap_colors": ["donor", "cell type"],
            "cells": {
                "trained": False,
                "reference": "cells.h5ad",
                "layer": "counts",
                "var_key": "ensembl",
                "embedding": "X_scvi",
                "batch_key": None,
                "protein_key": "prot",
                "airr": "reference_contigs.csv",
                "transfer_keys": ["level 1", "level 2"],
                "columns": ["sample", "study"],
                "origin": None,
            },
            "train": {
                "max_epochs": 10,
                "early_stopping": False,
                "check_val_every_n_epoch": 1,
                "early_stopping_patience": 3,
                "batch_size": 64,
                "learning_rate": 0.001,
            },
            "seed": 7,
            "warn_gene_overlap": 0.8,
        }
    ]


@pytest.mark.parametrize(
    "text",
    [
        f"\ufeff{HEADER}\n{FIRST}\n",
        f"{HEADER}\r\n{FIRST}\r\n",
        f"\n\n{HEADER}\n\n,,,,\n{FIRST}\n\n",
        f"{HEADER}\n{FIRST}",
        f"{HEADER}\n lung , donor_1,data/donor_1.h5ad ,models/hlca,donor\n",
        f"{HEADER},labels_key\n{FIRST}\n",
        f"{HEADER}\n{FIRST}\n".replace(",", "\t"),
        'batch_key,query,"model",file_id,dataset\ndonor,"data/donor_1.h5ad",models/hlca,donor_1,lung\n',
    ],
    ids=["BOM", "CRLF", "blank lines", "no last newline", "spaces", "short row", "tabs", "quotes, order"],
)
def test_a_csv_as_programs_save_it(read, text):
    assert read(text) == [ROW]


WORDS = st.text(st.characters(categories=["L", "N", "P", "S"], exclude_characters=";"), min_size=1, max_size=8)
PATHS = st.text(st.characters(categories=["L", "N", "P", "S"], exclude_characters=";$*?[]{}"), min_size=1, max_size=8)
NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,12}", fullmatch=True)
KEYS = st.lists(WORDS, max_size=3)


@settings(deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "dataset": NAMES,
            "file_id": NAMES,
            "query": PATHS.map(lambda word: f"{word} {word}.h5ad"),
            "model": PATHS,
            "batch_key": WORDS,
            "labels_keys": KEYS,
            "categorical_covariate_keys": KEYS,
            "options": st.dictionaries(st.from_regex(r"[a-z_]{1,9}", fullmatch=True), WORDS, max_size=3),
            "umap_colors": KEYS,
            "one_batch": st.booleans(),
            "round_counts": st.booleans(),
            "strategy": st.sampled_from(STRATEGIES),
            "engine": st.sampled_from(ENGINES),
            "correction": st.sampled_from(CORRECTIONS),
            "freeze_dropout": st.booleans(),
            "min_gene_overlap": st.floats(0, 1),
            "train": st.none()
            | st.fixed_dictionaries(
                {
                    "max_epochs": st.integers(1),
                    "early_stopping": st.booleans(),
                    "check_val_every_n_epoch": st.integers(1),
                    "early_stopping_patience": st.integers(1),
                },
                optional={"batch_size": st.integers(1), "learning_rate": st.floats(1e-9, 1)},
            ),
        }
    )
)
def test_a_row_written_to_csv_and_read_back_is_itself(tmp_path_factory, changes):
    row = ROW | changes
    cells = {name: row[name] for name in COLUMNS if name in row} | {"labels_key": row["labels_keys"]} | (row["train"] or {})
    cells["options"] = [f"{name}={value}" for name, value in row["options"].items()]
    cells["train"] = row["train"] is not None
    cells = {name: ";".join(cell) if isinstance(cell, list) else cell for name, cell in cells.items()}
    path = tmp_path_factory.getbasetemp() / "round_trip.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([cells.keys(), cells.values()])
    assert read_sheet(path, DEFAULTS) == [row]


@pytest.mark.parametrize(
    ("given", "layer"),
    [("X", "X"), ("counts", "counts"), ("layers/counts", "counts"), ("raw", "raw"), ("raw/X", "raw"), (None, "X")],
)
def test_layers(read, given, layer):
    assert read(yaml.dump(scarches(layer=given)), ".yaml")[0]["layer"] == layer


@pytest.mark.parametrize("train", ["train_kwargs", "train_params"])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (False, None),
        (None, TRAIN),
        ({}, TRAIN),
        ({"max_epochs": 0}, None),
        ({"max_epochs": 3, "batch_size": None}, TRAIN | {"max_epochs": 3}),
        (
            {"train_size": 1, "early_stopping_patience": 3, "plan_kwargs": {"lr": 0.001, "n_steps_kl_warmup": 5}},
            TRAIN | {"train_size": 1.0, "early_stopping_patience": 3, "plan_kwargs": {"lr": 0.001, "n_steps_kl_warmup": 5}},
        ),
    ],
)
def test_both_spellings_of_the_settings_of_training(read, train, value, expected):
    assert read(yaml.dump(scarches(**{train: value})), ".yaml")[0]["train"] == expected


@pytest.mark.parametrize("kind", ["categorical", "continuous"])
@pytest.mark.parametrize("ending", ["covariate", "covariate_keys"])
@pytest.mark.parametrize(("value", "expected"), [("age", ["age"]), (["age", "sex"], ["age", "sex"]), (None, []), ([], [])])
def test_both_spellings_of_covariates(read, kind, ending, value, expected):
    (row,) = read(yaml.dump(scarches({"batch_key": "donor", f"{kind}_{ending}": value})), ".yaml")
    assert row[f"{kind}_covariate_keys"] == expected


def test_the_settings_may_stand_without_scarches(read):
    settings = {"model": "models/hlca", "model_params": {"batch_key": "donor"}, "umap_colors": "donor", "threads": 10}
    assert read(yaml.dump(dataset(settings=settings)), ".yaml") == [ROW | {"umap_colors": ["donor"]}]


@pytest.mark.parametrize("level", ["reference_mapping", "scarches", "model_params"])
def test_refmaps_own_keys_may_stand_at_each_level(read, level):
    own = {
        "truth_key": "t",
        "id_table": "i.csv",
        "obs_table": "c.csv",
        "obs_table_key": "k",
        "modality": "m",
        "protein_key": "p",
        "gene_prefix": "GRCh38_",
        "orthologs": True,
        "one_batch": True,
        "round_counts": True,
        "strategy": "sequential",
        "engine": "scvi",
        "correction": "none",
    }
    content = scarches()
    settings = content["DATASETS"]["lung"]["reference_mapping"]
    {
        "reference_mapping": settings,
        "scarches": settings["scarches"],
        "model_params": settings["scarches"]["model_params"],
    }[level].update(own, min_gene_overlap=0.4)
    assert read(yaml.dump(content), ".yaml") == [ROW | own | {"min_gene_overlap": 0.4}]


@pytest.mark.parametrize(
    ("files", "names"),
    [
        ("data/a.b.h5ad", ["a.b"]),
        (["data/a.h5ad", "s3://bucket/b.zarr/"], ["a", "b"]),
        ({"z": "data/a.h5ad", "a": "data/b.h5mu"}, ["z", "a"]),
    ],
)
def test_files_with_and_without_names_in_their_order(read, files, names):
    assert [row["file_id"] for row in read(yaml.dump(dataset(files), sort_keys=False), ".yaml")] == names


def test_numbers_and_dates_are_the_text_that_was_written(read):
    text = DESIGN
    for name, number in {"donor_1:": "001:", "donor_2:": "1_0:", "lung:": "2024-01-01:", "gene_id": "1.10"}.items():
        text = text.replace(name, number)
    rows = read(text, ".yaml")
    assert [(row["dataset"], row["file_id"], row["var_key"]) for row in rows] == [
        ("2024-01-01", "001", "1.10"),
        ("2024-01-01", "1_0", "1.10"),
    ]


def test_the_rest_of_scatlastbs_configuration_is_left_alone(read, caplog):
    content = scarches()
    content["DATASETS"] |= {
        "no_input": {"integration": {"methods": {"scvi": {"max_epochs": "?"}}}},
        "none": None,
        "other_input": {"input": {"integration": "data/x.zarr"}, "reference_mapping": {"no_such_key": 1}},
    }
    content["DATASETS"]["lung"] |= {"metrics": {"methods": ["nmi"]}}
    content["DATASETS"]["lung"]["input"]["integration"] = {"a": "b"}
    content |= {"output_dir": "out", "images": "img", "use_gpu": True, "env_mode": "local", "os": "intel"}
    assert read(yaml.dump(content), ".yaml") == [ROW]
    assert caplog.messages == ["other_input: is not mapped, as it has no 'reference_mapping' under 'input'."]


def test_scatlastbs_defaults_fill_in_settings_and_choose_datasets(read, caplog):
    content = scarches()
    lung = content["DATASETS"]["lung"]
    content["DATASETS"]["left_out"] = lung
    content["defaults"] = {
        "datasets": ["lung"],
        "reference_mapping": {"umap_colors": ["donor"], "scarches": {"model": "no"}},
    }
    assert read(yaml.dump(content), ".yaml") == [ROW | {"umap_colors": ["donor"]}]
    assert caplog.messages == ["left_out: is not mapped, as 'defaults.datasets' leaves it out."]


def test_yaml_anchors_and_merge_keys(read):
    text = DESIGN.replace("scarches:", "scarches: &shared").replace("umap_colors: [donor]", "umap_colors: []")
    text += """
  heart:
    input: {reference_mapping: {donor_1: data/h.zarr}}
    reference_mapping:
      scarches:
        <<: *shared
        layer: raw
"""
    rows = read(text, ".yaml")
    assert [(row["dataset"], row["layer"], row["var_key"]) for row in rows] == [
        ("lung", "counts", "gene_id"),
        ("lung", "counts", "gene_id"),
        ("heart", "raw", "gene_id"),
    ]


@pytest.mark.parametrize("level", ["scarches", "model_params"])
def test_what_mapqc_is_told(read, faults, level):
    keys = {"mapqc_sample_key": "donor", "mapqc_study_key": "study"}
    content = scarches()
    settings = content["DATASETS"]["lung"]["reference_mapping"]["scarches"]
    (settings if level == "scarches" else settings["model_params"]).update(keys)
    # The reference's cells bring the columns.
    assert read(yaml.dump(content), ".yaml") == [ROW | keys | {"cells": ROW["cells"] | {"columns": ["donor", "study"]}}]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (
            {"mapqc_study_key": "study"},
            ["column 'mapqc_study_key' has no effect without mapqc_sample_key; name the column of samples too, or leave it out."],
        ),
        (
            {"mapqc_sample_key": "donor", "mapqc_control": "healthy"},
            ["column 'mapqc_control' has no effect without mapqc_control_key; give both, or neither."],
        ),
        (
            {"mapqc_sample_key": "donor", "mapqc_control_key": "disease"},
            ["column 'mapqc_control_key' has no effect without mapqc_control; give both, or neither."],
        ),
    ],
)
def test_what_mapqc_is_told_in_part(faults, given, found):
    text = f"{HEADER},{','.join(given)}\n{FIRST},{','.join(given.values())}\n"
    assert faults(text) == [f"row 2 (lung/donor_1): {sentence}" for sentence in found]


def test_a_model_may_be_left_out_if_a_reference_is_trained(read, faults):
    text = "dataset,file_id,query,batch_key\nlung,donor_1,data/donor_1.h5ad,donor\n"
    cells = ROW["cells"] | {"trained": True, "reference": "atlas.h5ad", "layer": "counts", "var_key": "ensembl"}
    assert read(text, reference=True) == [ROW | {"model": None, "cells": cells}]
    # Its own cells go before those that the model is trained on.
    own = text.replace("batch_key\n", "batch_key,reference\n").replace("donor\n", "donor,cells.h5ad\n")
    assert read(own, reference=True)[0]["cells"] == ROW["cells"] | {"reference": "cells.h5ad"}
    missing = (
        "column 'model' is missing. The reference model, a folder or file, or its address; not needed when this run trains it, or "
        "with `query_embedding`."
    )
    assert faults(text) == [f"sheet.csv: {missing}"]


def test_batches_are_named_where_the_reference_that_is_trained_learns_them(read, faults):
    text = "dataset,file_id,query\nlung,donor_1,data/donor_1.h5ad\n"
    (told,) = faults(text, reference=True)
    assert told == (
        "row 2 (lung/donor_1): column 'batch_key' is missing, and the reference that this run trains has batches, of 'study': name the "
        "column of the query's `obs` with its batches, or set one_batch to true."
    )
    (row,) = read(text.replace("query\n", "query,one_batch\n").replace("h5ad\n", "h5ad,true\n"), reference=True)
    assert row["batch_key"] is None and row["one_batch"]
    # Of a model that is there already its card tells whether it has any
    (row,) = read(text.replace("query\n", "query,model\n").replace("h5ad\n", "h5ad,models/hlca\n"))
    assert row == ROW | {"batch_key": None}


EMBEDDING = {
    "dataset": "lung",
    "file_id": "donor_1",
    "query": "data/donor_1.h5ad",
    "batch_key": "donor",
    "query_embedding": "X_uce",
    "reference": "hf://org/atlas@main",
    "reference_embedding": "X_UCE",
}


def as_csv(given):
    return f"{','.join(given)}\n{','.join(given.values())}\n"


@pytest.mark.parametrize("trains", [False, True])
def test_an_embedding_needs_no_model(read, trains):
    """Nor is it taken for the reference that a run trains: it is called by its cells, in a name that is no address."""
    (row,) = read(as_csv(EMBEDDING), reference=trains)
    cells = ROW["cells"] | {"reference": "hf://org/atlas@main", "embedding": "X_UCE"}
    assert row == ROW | {"model": "X_UCE of hf://org/atlas@main", "query_embedding": "X_uce", "train": None, "cells": cells}
    more = {"reference_layer": "counts", "reference_batch_key": "study"}
    (row,) = read(as_csv(EMBEDDING | more))
    assert row["model"] == "X_UCE of hf://org/atlas@main, reference_layer counts, reference_batch_key study"
    assert row["cells"] == cells | {"layer": "counts", "batch_key": "study"}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"model": "models/a"}, "column 'model' and column 'query_embedding' are both given; leave out the one or the other."),
        ({"reference": ""}, "column 'query_embedding' needs the reference's cells to be compared with: name them as reference."),
        ({"reference_embedding": ""}, "column 'query_embedding' needs the key of their obsm to be compared with: name it as reference_embedding."),
        ({"max_epochs": "3"}, "column 'max_epochs' has no effect with query_embedding, as nothing is trained; leave it out."),
        (
            {"query_embedding": "", "model": "m", "reference_batch_key": "study"},
            "column 'reference_batch_key' has no effect without query_embedding, as a model knows its own; leave it out.",
        ),
        ({"query_embedding": "", "model": ""}, "column 'model' is missing. " + FIELDS["model"].description),
    ],
    ids=str,
)  # fmt: skip
def test_what_an_embedding_does_not_go_with(faults, change, found):
    assert faults(as_csv(EMBEDDING | change)) == [f"row 2 (lung/donor_1): {found}"]


# --- what is refused ------------------------------------------------------------------------------------------------------

NAME = "must be a name of at most 100 letters, digits, '.', '_' and '-' that does not start with '-'."


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("file_id:../x", f"row 2 (lung/../x): column 'file_id' is '../x', but {NAME}"),
        ("file_id:a;b", f"row 2 (lung/a;b): column 'file_id' is 'a;b', but {NAME}"),
        ("file_id:a b", f"row 2 (lung/a b): column 'file_id' is 'a b', but {NAME}"),
        ("file_id:a'b", f"""row 2 (lung/a'b): column 'file_id' is "a'b", but {NAME}"""),
        ("file_id:.", f"row 2 (lung/.): column 'file_id' is '.', but {NAME}"),
        ("file_id:..", f"row 2 (lung/..): column 'file_id' is '..', but {NAME}"),
        ("file_id:-rf", f"row 2 (lung/-rf): column 'file_id' is '-rf', but {NAME}"),
        ("file_id:$(id)", f"row 2 (lung/$(id)): column 'file_id' is '$(id)', but {NAME}"),
        ("file_id:é", rf"row 2 (lung/\xe9): column 'file_id' is '\xe9', but {NAME}"),
        ("dataset:a/b", f"row 2 (a/b/donor_1): column 'dataset' is 'a/b', but {NAME}"),
        ("dataset:a~b", f"row 2 (a~b/donor_1): column 'dataset' is 'a~b', but {NAME}"),
        ("file_id:", "row 2 (lung/?): column 'file_id' is missing. The query's name, unique within its dataset."),
        (
            "model:",
            "row 2 (lung/donor_1): column 'model' is missing. "
            "The reference model, a folder or file, or its address; not needed when this run trains it, or with `query_embedding`.",
        ),
        (
            "query:data/x.rds",
            "row 2 (lung/donor_1): column 'query' is 'data/x.rds', "
            "but must be a path or URI that ends in .h5ad, .zarr, .h5mu, .h5, .hdf5, .loom or .zarr.zip, or that of a folder of Cell Ranger's (with a slash behind it), without any of $ * ? [ ] { }; unpack what is packed, and write other formats with anndata as .h5ad.",
        ),
        (
            "max_epochs:-1",
            "row 2 (lung/donor_1): column 'max_epochs' is '-1', but must be a whole number of 0 or more.",
        ),
        (
            "max_epochs:1.5",
            "row 2 (lung/donor_1): column 'max_epochs' is '1.5', but must be a whole number of 0 or more.",
        ),
        (
            "batch_size:many",
            "row 2 (lung/donor_1): column 'batch_size' is 'many', but must be a whole number of 1 or more.",
        ),
        ("early_stopping:maybe", "row 2 (lung/donor_1): column 'early_stopping' is 'maybe', but must be true or false."),
        ("train:2", "row 2 (lung/donor_1): column 'train' is '2', but must be true or false."),
        (
            "strategy:each",
            "row 2 (lung/donor_1): column 'strategy' is 'each', but must be one of joint, per_batch, sequential.",
        ),
        (
            "learning_rate:0",
            "row 2 (lung/donor_1): column 'learning_rate' is '0', but must be a number above 0.",
        ),
        (
            "min_gene_overlap:nan",
            "row 2 (lung/donor_1): column 'min_gene_overlap' is 'nan', but must be a number from 0 to 1.",
        ),
        (
            "layer:layers/raw",
            "row 2 (lung/donor_1): column 'layer' is 'layers/raw', "
            "but must be X, raw or the name of a layer (which cannot itself be X or raw: rename that layer).",
        ),
    ],
)
def test_a_cell_that_cannot_be_used(faults, change, sentence):
    column, _, value = change.partition(":")
    cells = dict(zip(HEADER.split(","), FIRST.split(","))) | {column: value}
    assert faults(",".join(cells) + "\n" + ",".join(cells.values()) + "\n") == [sentence]


def test_a_model_and_its_cells_may_have_an_address(read, faults):
    def sheet(model, cells=""):
        return f"{HEADER},reference\nlung,donor_1,q.h5ad,{model},donor,{cells}\n"

    (row,) = read(sheet("hf://lab/atlas@v1/scvi", "zenodo:7/cells.h5ad"), ".csv")
    assert (row["model"], row["cells"]["reference"]) == ("hf://lab/atlas@v1/scvi", "zenodo:7/cells.h5ad")
    address = "https://host/a.zip?download=1#sha256=" + "0" * 64
    assert read(sheet(address), ".csv")[0]["model"] == address
    (fault,) = faults(sheet("hf://atlas"))
    assert fault.startswith("row 2 (lung/donor_1): column 'model' is 'hf://atlas', but must be a path without any of")
    assert "or an address: hf://org/name[@revision][/folder], zenodo:<record>[/file]" in fault


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", ["sheet.csv: is empty; its first line names the columns, each other line is a mapping."]),
        ("\n \n", ["sheet.csv: is empty; its first line names the columns, each other line is a mapping."]),
        (f"{HEADER}\n", ["sheet.csv: holds no mapping; give at least one query."]),
        (f"{HEADER},labels_kye\n{FIRST},x\n", ["sheet.csv: unknown column 'labels_kye'. Did you mean 'labels_key'?"]),
        (f"{HEADER},Zzz\n{FIRST},x\n", ["sheet.csv: unknown column 'Zzz'."]),
        (f"{HEADER},plan_kwargs\n{FIRST},x\n", ["sheet.csv: unknown column 'plan_kwargs'."]),
        (f"{HEADER},model\n{FIRST},x\n", ["sheet.csv: column 'model' appears 2 times; keep one."]),
        (
            f"{HEADER}\n{FIRST}\n".replace(",", ";"),
            ["sheet.csv: its columns are parted by ';'; save the sheet with commas or tabs."],
        ),
        (
            "dataset,file_id,query\nlung,a,a.h5ad\nlung,b,b.h5ad\n",
            [f"sheet.csv: column 'model' is missing. {FIELDS['model'].description}"],
        ),
        (
            f"{HEADER}\n{FIRST},x\n",
            ["row 2 (lung/donor_1): has 6 cells, but the header has 5; put a cell that holds a comma in quotes."],
        ),
        (
            f"{HEADER}\n\n{FIRST}\n{FIRST}\n",
            [
                "row 4 (lung/donor_1): dataset 'lung' has a file_id 'donor_1' already: row 3 (lung/donor_1). "
                "Give each file its own."
            ],
        ),
        (
            f"{HEADER},train,max_epochs\n{FIRST},false,3\n",
            ["row 2 (lung/donor_1): column 'max_epochs' has no effect, as 'train' is false; leave it out, or train."],
        ),
        (
            f'{HEADER}\n"lung,donor_1\n',
            ["sheet.csv: row 2 cannot be read as CSV (unexpected end of data); check its quotes."],
        ),
        (f"{HEADER}\n{FIRST}\n".encode("utf-16"), ["sheet.csv: is not UTF-8 text; save it as UTF-8."]),
    ],
    ids=lambda value: None,
)
def test_a_csv_that_cannot_be_used(faults, text, sentences):
    assert faults(text) == sentences


def test_a_cell_may_not_hold_a_line_break(faults):
    (sentence,) = faults(f'{HEADER}\nlung,a,"x\ny.h5ad",m,donor\n')
    assert sentence.startswith(r"row 3 (lung/a): column 'query' is 'x\ny.h5ad', but must be a path or URI")


@pytest.mark.parametrize(
    ("content", "sentences"),
    [
        (scarches(modle="x"), ["lung: unknown key 'modle' in 'scarches'. Did you mean 'model'?"]),
        (
            scarches({"batch_key": "d", "label_key": "x"}),
            ["lung: unknown key 'label_key' in 'model_params'. Did you mean 'labels_key'?"],
        ),
        (scarches(train_kwargs={"epochs": 3}), ["lung: unknown key 'epochs' in 'train_kwargs'. Did you mean 'max_epochs'?"]),
        (
            scarches(train_params={"max_epoch": 3}),
            ["lung: unknown key 'max_epoch' in 'train_kwargs'. Did you mean 'max_epochs'?"],
        ),
        (scarches(labels_key="x"), ["lung: unknown key 'labels_key' in 'scarches'. It belongs in 'model_params'."]),
        (
            dataset(settings={"scarches": {"model": "m", "model_params": {"batch_key": "d"}}, "umap_color": []}),
            ["lung: unknown key 'umap_color' in 'reference_mapping'. Did you mean 'umap_colors'?"],
        ),
        (
            scarches(train_kwargs={}, train_params=False),
            ["lung: key 'train_kwargs' is given a second time as 'train_params'; keep one."],
        ),
        (
            scarches({"batch_key": "d", "categorical_covariate": "a", "categorical_covariate_keys": "a"}),
            [
                "lung: key 'model_params.categorical_covariate' is given a second time "
                "as 'model_params.categorical_covariate_keys'; keep one."
            ],
        ),
        (
            dataset(settings={"model": "m", "scarches": {"model": "m", "model_params": {"batch_key": "d"}}}),
            ["lung: key 'reference_mapping.model' is given a second time as 'scarches.model'; keep one."],
        ),
        (scarches(train_kwargs=True), ["lung: key 'train_kwargs' is true, but must be a mapping of keys to values."]),
        (scarches(["donor"]), None),
        (
            scarches(train_kwargs={"max_epochs": -1}),
            ["lung/donor_1: key 'train_kwargs.max_epochs' is '-1', but must be a whole number of 0 or more."],
        ),
        (
            scarches(train_kwargs={"max_epochs": True}),
            ["lung/donor_1: key 'train_kwargs.max_epochs' is true, but must be a whole number of 0 or more."],
        ),
        (
            scarches(train_kwargs={"plan_kwargs": {"weight_decay": 0.1}}),
            [
                "lung/donor_1: key 'train_kwargs.plan_kwargs' is {'weight_decay': '0.1'}, but must be a mapping of the "
                "training plan's arguments, in which weight_decay stays 0 lest frozen parameters move."
            ],
        ),
        (
            scarches(train_kwargs={"learning_rate": 0.1, "plan_kwargs": {"lr": 0.1}}),
            ["lung/donor_1: key 'train_kwargs.learning_rate' is given a second time as plan_kwargs.lr; keep one."],
        ),
        (
            scarches({"batch_key": True}),
            [
                "lung/donor_1: key 'model_params.batch_key' is true, but must be text on one line. "
                "Put it in quotes if it is a name."
            ],
        ),
        (
            dataset({"donor_1": None}),
            [
                "lung/donor_1: the path is missing. The query's counts: a path or URI of an .h5ad, .zarr, .h5mu or .loom, or of an .h5 or a matrix folder of Cell Ranger."
            ],
        ),
        (
            dataset({"donor_1": "preprocessing"}),
            [
                "lung/donor_1: the path is 'preprocessing', but must be a path or URI that ends in .h5ad, .zarr, .h5mu, .h5, .hdf5, .loom or .zarr.zip, or that of a folder of Cell Ranger's (with a slash behind it), without any of $ * ? [ ] { }; unpack what is packed, and write other formats with anndata as .h5ad."
            ],
        ),
        (dataset({False: "x.h5ad"}), ["lung: a file_id is read as false; put it in quotes."]),
        (dataset({None: "x.h5ad"}), ["lung: a file_id is read as None; put it in quotes."]),
        (dataset({}), ["lung: 'input.reference_mapping' names no file; give it as file_id: path."]),
        (
            dataset(["a/x.h5ad", "b/x.h5ad"]),
            ["lung/x: dataset 'lung' has a file_id 'x' already: lung/x. Give each file its own."],
        ),
        (dataset({"a b": "x.h5ad"}), [f"lung/a b: 'file_id' is 'a b', but {NAME}"]),
        (dataset(reference_maping={}), ["lung: unknown key 'reference_maping'. Did you mean 'reference_mapping'?"]),
        ({"DATASET": {}}, ["sheet.yaml: has no key 'DATASETS'. Did you mean 'DATASET'?"]),
        (
            scarches() | {"defaults": {"datasets": "lung"}},
            ["sheet.yaml: key 'defaults.datasets' is 'lung', but must be a list of datasets."],
        ),
        ({"DATASETS": {}}, ["sheet.yaml: holds no mapping; give at least one query."]),
        ({"DATASETS": {True: {}}}, ["sheet.yaml: the name of a dataset is read as true; put it in quotes."]),
        ({"DATASETS": ["a"]}, ["sheet.yaml: key 'DATASETS' is ['a'], but must be a mapping of keys to values."]),
        ({"DATASETS": {"lung": "a"}}, ["sheet.yaml: key 'lung' is 'a', but must be a mapping of keys to values."]),
        (["a"], ["sheet.yaml: is no mapping; list the queries under 'DATASETS'."]),
        (None, ["sheet.yaml: is empty; list the queries under 'DATASETS'."]),
    ],
    ids=lambda value: None,
)
def test_a_yaml_that_cannot_be_used(faults, content, sentences):
    if sentences is None:
        sentences = ["lung: key 'model_params' is ['donor'], but must be a mapping of keys to values."]
    assert faults(yaml.dump(content), ".yaml") == sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        (
            DESIGN.replace("donor_2:", "donor_1:"),
            ["sheet.yaml: line 7: key 'donor_1' is given twice, first in line 6; keep one."],
        ),
        (
            "DATASETS: {a: b\n",
            ["sheet.yaml: line 2 is not YAML that can be read (expected ',' or '}', but got '<stream end>')."],
        ),
        (
            "DATASETS: !!python/object/apply:os.system ['false']\n",
            [
                "sheet.yaml: line 1 is not YAML that can be read (could not determine a constructor for the tag "
                "'tag:yaml.org,2002:python/object/apply:os.system')."
            ],
        ),
        ("a: 1\n---\nb: 2\n", ["sheet.yaml: line 2 is not YAML that can be read (but found another document)."]),
        (
            "DATASETS: !!map [a]\n",
            ["sheet.yaml: line 1 is not YAML that can be read (expected a mapping node, but found sequence)."],
        ),
        ("[" * 500, ["sheet.yaml: is not YAML that can be read (it is nested too deeply)."]),
        ("? [a]\n: b\n", ["sheet.yaml: line 1 is not YAML that can be read (found unhashable key)."]),
        (
            "DATASETS: \x00\n",
            [
                "sheet.yaml: is not YAML that can be read (unacceptable character #x0000: special characters are not "
                'allowed in "<unicode string>", position 10).'
            ],
        ),
    ],
    ids=["duplicate", "syntax", "python object", "two documents", "no map", "deep", "unhashable", "control character"],
)
def test_a_file_that_is_not_yaml(faults, text, sentences):
    assert faults(text, ".yaml") == sentences


@pytest.mark.parametrize("name", ["sheet.txt", "sheet", "sheet.xlsx"])
def test_a_file_of_another_kind(tmp_path, name):
    with pytest.raises(RefmapError, match=f"^{re.escape(name)}: a sheet is a file that ends in .yaml, .yml, .csv or .tsv"):
        read_sheet(tmp_path / name, DEFAULTS)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(RefmapError, match=r"none.csv: cannot be read \(No such file or directory\); check the path.$"):
        read_sheet(tmp_path / "none.csv", DEFAULTS)


def test_the_faults_of_all_rows_are_told_at_once(faults):
    text = f"{HEADER},max_epochs,mode\n{FIRST},x,\n,a b,q.h5ad,m,,-3,\n{FIRST},2,\n"
    found = faults(text)
    assert [line.split(" is ")[0] for line in found[1:-1]] == [
        "row 2 (lung/donor_1): column 'max_epochs'",
        "row 3 (?/a b): column 'dataset'",
        "row 3 (?/a b): column 'file_id'",
        "row 3 (?/a b): column 'max_epochs'",
    ]
    assert found[0] == "sheet.csv: unknown column 'mode'. Did you mean 'model'?"
    assert found[-1].startswith("row 4 (lung/donor_1): dataset 'lung' has a file_id 'donor_1' already: row 2")


def test_what_all_files_of_a_dataset_share_is_told_once(faults):
    found = faults(DESIGN.replace("max_epochs: 100", "max_epochs: many").replace("donor_2.zarr", "donor_2.rds"), ".yaml")
    assert found == [
        "lung/donor_1 and 1 more: key 'train_kwargs.max_epochs' is 'many', but must be a whole number of 0 or more.",
        "lung/donor_2: the path is 'data/donor_2.rds', but must be a path or URI that ends in .h5ad, .zarr, .h5mu, .h5, .hdf5, .loom or .zarr.zip, or that of a folder of Cell Ranger's (with a slash behind it), without any of $ * ? [ ] { }; unpack what is packed, and write other formats with anndata as .h5ad.",
    ]


ALPHABET = set(string.ascii_letters + string.digits + "._-")


@settings(deadline=None)
@given(st.text(min_size=1, max_size=20).filter(lambda name: not set(name) <= ALPHABET))
def test_any_name_outside_the_alphabet_is_refused(name):
    for field in ("dataset", "file_id"):
        values = {"dataset": "a", "file_id": "b", "query": "q.h5ad", "batch_key": "d"} | {field: name}
        with pytest.raises(ValidationError) as error:
            Mapping(**values)
        assert [fault["loc"] for fault in error.value.errors()] == [(field,)]


@settings(deadline=None)
@given(st.text(sorted(ALPHABET), min_size=1, max_size=100).filter(lambda name: name[0] != "-" and name not in (".", "..")))
def test_any_other_name_is_kept(name):
    assert Mapping(dataset=name, file_id=name, query="q.h5ad", batch_key="d").file_id == name


# --- the tables agree with each other -------------------------------------------------------------------------------------


def test_every_field_has_its_place_in_the_yaml():
    keys = [key for level in LEVELS.values() for key in level]
    assert set(keys) == set(FIELDS) - {"dataset", "file_id", "query", "train"}
    assert set(YAML_ONLY) == set(FIELDS) - set(COLUMNS)


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_says_what_it_is_and_must_be(name):
    assert FIELDS[name].description.endswith(".")
    assert sum(isinstance(note, Must) for note in FIELDS[name].metadata) == 1


def test_rows_are_plain_json(read):
    rows = read(DESIGN, ".yaml")
    assert json.loads(json.dumps(rows)) == rows


def test_the_file_is_not_changed(tmp_path):
    path = Path(tmp_path / "sheet.yaml")
    path.write_text(DESIGN)
    read_sheet(path, DEFAULTS)
    assert path.read_text() == DESIGN


@pytest.mark.parametrize("column", ["query", "model", "id_table"])
@pytest.mark.parametrize("character", "$*?[]{}")
def test_a_path_that_a_shell_would_expand_is_refused(read, column, character):
    cells = {"dataset": "d", "file_id": "f", "query": "q.h5ad", "model": "m", "batch_key": "b", "id_table": "t.csv"}
    cells[column] = f"a{character}b{cells[column]}"
    with pytest.raises(RefmapError, match=f"column '{column}' is .*without any of"):
        read("\n".join((",".join(cells), ",".join(cells.values()))))
