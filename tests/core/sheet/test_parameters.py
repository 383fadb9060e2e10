"""The pipeline's parameters: one schema, the files written from it, and the sentences for what cannot be given."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from refmap.common.errors import RefmapError
from refmap.families import FAMILIES, trainable
from refmap.hierarchy import FAMILY
from refmap.sheet.fields import COLUMNS, FIELDS, TRAIN_DEFAULTS, YAML_ONLY
from refmap.sheet.parameters import check_parameters, defaults, groups, load_schema, properties
from refmap.sheet.sheet import read_sheet

ROOT = Path(__file__).resolve().parents[3]
SCHEMA = load_schema(ROOT / "nextflow_schema.json")


def faults(**given: object) -> list[str]:
    """The lines that parameters are refused with, none if they are not; `input` is given unless said otherwise."""
    try:
        check_parameters(defaults(SCHEMA) | {"input": "sheet.csv"} | given, SCHEMA)
    except RefmapError as error:
        return str(error).split("\n")
    return []


@pytest.fixture(scope="module")
def written() -> dict[Path, str]:
    """The files that tools/write_params.py writes, and their text."""
    spec = importlib.util.spec_from_file_location("write_params", ROOT / "tools/write_params.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.files()


def test_the_families_that_can_be_trained_are_those_of_the_code():
    assert properties(SCHEMA)["family"]["enum"] == [*trainable(), FAMILY]


@pytest.mark.parametrize("family", trainable())
def test_what_a_family_needs(family):
    needs = [(needed,) if isinstance(needed, str) else needed for needed in trainable()[family].needs]
    for choice in range(max(map(len, needs))):  # any of several that one of is enough
        given = {names[min(choice, len(names) - 1)]: "x" for names in needs}
        assert faults(reference="a.h5ad", family=family, **given) == []
        for names in needs:
            sentence = (
                f"{' or '.join(f'--{name}' for name in names)} is missing: a {family} reference cannot be trained without it."
            )
            assert faults(reference="a.h5ad", family=family, **given | dict.fromkeys(names)) == [sentence]


def test_coordinates_mean_nothing_to_a_family_without_a_tissue():
    given = {"reference_batch_key": "b", "reference_labels_key": "l", "reference_spatial_key": "spatial"}
    (said,) = faults(reference="a.h5ad", family="scanvi", **given)
    assert said.startswith("--reference_spatial_key means nothing to scanvi: leave it out") and "(sagenet)" in said


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("recon_los=mse", "there is no option 'recon_los' for a trvae reference: it takes recon_loss, use_mmd"),
        ("recon_los=mse", "Did you mean 'recon_loss'?"),
        ("recon_loss=l2", "option 'recon_loss' is 'l2', but must be one of nb, zinb, mse."),
        ("n_hidden=0", "option 'n_hidden' is '0', but must be a whole number of 1 or more."),
        ("use_mmd=1", "option 'use_mmd' is '1', but must be true or false."),
        ("mse", "--reference_options is 'mse', but must be options as name=value, parted by ';'."),
    ],
)
def test_options_of_a_reference(options, sentence):
    (fault,) = faults(reference="a.h5ad", family="trvae", reference_batch_key="b", reference_options=options)
    assert sentence in fault


def test_the_schema_is_one_and_every_group_is_used():
    Draft202012Validator.check_schema(SCHEMA)
    assert [group["title"] for group in groups(SCHEMA)] == [group["title"] for group in SCHEMA["$defs"].values()]
    names = [name for group in groups(SCHEMA) for name in group["properties"]]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", properties(SCHEMA))
def test_every_parameter_has_a_type_a_sentence_and_a_default_that_is_valid(name):
    spec = properties(SCHEMA)[name]
    assert spec["type"] in ("boolean", "integer", "number", "string")
    assert re.fullmatch(r"[A-Z].+\.", spec["description"])
    assert "default" not in spec or Draft202012Validator(spec).is_valid(spec["default"])


def test_the_defaults_of_mapping_are_the_designs():
    assert {name: defaults(SCHEMA)[name] for name in TRAIN_DEFAULTS} == {
        "max_epochs": 100,
        "early_stopping": True,
        "check_val_every_n_epoch": 5,
        "early_stopping_patience": 5,
    }


def test_the_schemas_defaults_are_all_that_a_sheet_needs(tmp_path):
    sheet = tmp_path / "sheet.csv"
    sheet.write_text("dataset,file_id,query,model,batch_key\nlung,a,a.h5ad,m,donor\n")
    (row,) = read_sheet(sheet, defaults(SCHEMA))
    assert row["train"] == {
        "max_epochs": 100,
        "early_stopping": True,
        "check_val_every_n_epoch": 5,
        "early_stopping_patience": 5,
    }
    assert {
        key: row[key]
        for key in ("one_batch", "round_counts", "strategy", "engine", "seed", "min_gene_overlap", "warn_gene_overlap")
    } == {
        "one_batch": False,
        "round_counts": False,
        "strategy": "joint",
        "engine": "auto",
        "seed": 0,
        "min_gene_overlap": 0.2,
        "warn_gene_overlap": 0.8,
    }


@pytest.mark.parametrize("path", ["conf/params.config", "docs/parameters.md", "assets/schema_input.json"])
def test_the_files_written_from_the_schema_are_up_to_date(written, path):
    assert (ROOT / path).read_text(encoding="utf-8") == written[ROOT / path], "run tools/write_params.py"


def test_launch_forms_read_the_columns_of_the_sheet_from_its_schema(written):
    assert properties(SCHEMA)["input"]["schema"] == "assets/schema_input.json"
    schema = json.loads(written[ROOT / "assets/schema_input.json"])
    Draft202012Validator.check_schema(schema)
    assert list(schema["items"]["properties"]) == list(COLUMNS)
    row = {"dataset": "lung", "file_id": "a", "query": "a.h5ad", "batch_key": "donor", "labels_key": "x;y", "max_epochs": 1}

    def refused(row: dict) -> list[str]:
        return [fault.message for fault in Draft202012Validator(schema).iter_errors([row])]

    assert refused(row) == []  # without a model: a run with --reference trains it
    assert refused(row | {"max_epochs": "many"}) == ["'many' is not of type 'integer'"]
    assert refused(row | {"batch_size": 0}) == ["0 is less than the minimum of 1"]
    assert refused({key: value for key, value in row.items() if key != "query"}) == ["'query' is a required property"]
    assert "'donor'" in refused(row | {"donor": 1})[0]


def test_every_parameter_is_in_the_configuration_and_in_the_docs(written):
    config, docs = written[ROOT / "conf/params.config"], written[ROOT / "docs/parameters.md"]
    assert re.findall(r"^    (\w+) += ", config, re.M) == list(properties(SCHEMA))
    assert re.findall(r"^\| `--(\w+)` \|", docs, re.M) == list(properties(SCHEMA))
    sheet, options = docs.split("## The sheet")[1].split("## Options of the families")
    assert re.findall(r"^\| `(\w+)` \|", sheet, re.M) == list(FIELDS)
    explained = re.findall(r"^\| `?(\w+)`? \| `(\w+)` \|", options, re.M)
    assert explained == [(family.name, name) for family in FAMILIES for name in family.options] + [
        (family, name) for family, kind in trainable().items() for name in kind.options
    ]
    assert {"max_epochs = 100", "outdir = 'results'", "input = null", "demo = false", "container_registry = ''"} <= {
        " ".join(line.split()) for line in config.splitlines()
    }


def test_every_parameter_that_is_used_is_in_the_schema():
    sources = [ROOT / "main.nf", ROOT / "nextflow.config", *ROOT.glob("conf/*.config")]
    sources += [*ROOT.glob("modules/**/*.nf"), *ROOT.glob("subworkflows/*.nf")]
    texts = [source.read_text() for source in sources]
    used = {name for text in texts for name in re.findall(r"(?<![\w.])(?:params|settings)\.(\w+)\b(?!\s*[({])", text)}
    taken = {
        name
        for text in texts
        for names in re.findall(r"settings\.subMap\(\[(.*?)\]\)", text)
        for name in re.findall(r"\w+", names)
    }
    # `conf/params.config` and settings.json are no parameters.
    assert {"gpu", "outdir"} <= used and {"seed", "trust_models"} <= taken
    assert (used | taken) - {"config", "json"} <= set(properties(SCHEMA))


def test_the_defaults_are_valid():
    assert faults() == []


@pytest.mark.parametrize(
    ("given", "sentences"),
    [
        ({"max_epoch": 3}, ["--max_epoch: there is no such parameter. Did you mean 'max_epochs'?"]),
        ({"zzz": 3}, ["--zzz: there is no such parameter."]),
        ({"maxEpochs": 3}, ["--maxEpochs: there is no such parameter. Did you mean 'max_epochs'?"]),
        ({"max_epochs": "many"}, ['--max_epochs is "many", but must be a whole number of 0 or more.']),
        ({"max_epochs": -1}, ["--max_epochs is -1, but must be a whole number of 0 or more."]),
        ({"max_epochs": 1.5}, ["--max_epochs is 1.5, but must be a whole number of 0 or more."]),
        ({"max_epochs": True}, ["--max_epochs is true, but must be a whole number of 0 or more."]),
        ({"max_epochs": None}, ["--max_epochs is null, but must be a whole number of 0 or more."]),
        ({"early_stopping": "yes"}, ['--early_stopping is "yes", but must be true or false.']),
        ({"min_gene_overlap": 20}, ["--min_gene_overlap is 20, but must be a number from 0 to 1."]),
        ({"outdir": True}, ["--outdir is true, but must be text."]),
        ({"family": "scVI"}, [f'--family is "scVI", but must be one of {", ".join([*trainable(), FAMILY])}.']),
        (
            {"max_memory": "much"},
            ['--max_memory is "much", but must be as its help says (The most memory that one task asks for, such as 16.GB).'],
        ),
        (
            {"input": "sheet.xlsx"},
            [
                '--input is "sheet.xlsx", but must be as its help says '
                "(The queries: a samplesheet (.csv, .tsv) or scAtlasTb's DATASETS file (.yaml, .yml))."
            ],
        ),
        (
            {"demo": True, "family": "scvi", "reference_batch_key": "b"},
            ["--demo brings its own queries and cannot be combined with --input; give one of the two."],
        ),
        (
            {"demo": True, "input": None, "reference": "a.zarr", "reference_batch_key": "b", "family": "scvi"},
            ["--demo brings its own reference and cannot be combined with --reference; give one of the two."],
        ),
        (
            {"input": None},
            ["--input is missing: give a sheet, --demo for the bundled queries, or --reference to train a model only."],
        ),
        (
            {"reference": "atlas.h5ad"},
            [
                "--reference_batch_key is missing: a scanvi reference cannot be trained without it.",
                "--reference_labels_key is missing: a scanvi reference cannot be trained without it.",
            ],
        ),
        (
            {"reference": "atlas.h5ad", "reference_batch_key": "b", "family": "totalvi"},
            ["--reference_protein_key is missing: a totalvi reference cannot be trained without it."],
        ),
        (
            {"seed": -1, "sed": 1, "input": None},
            [
                "--sed: there is no such parameter. Did you mean 'seed'?",
                "--seed is -1, but must be a whole number from 0 to 4294967295.",
                "--input is missing: give a sheet, --demo for the bundled queries, or --reference to train a model only.",
            ],
        ),
    ],
    ids=str,
)
def test_what_cannot_be_given(given, sentences):
    assert faults(**given) == sentences


@pytest.mark.parametrize(
    "given",
    [
        {"input": None, "demo": True, "reference_batch_key": "b", "reference_labels_key": "l"},
        {"input": None, "reference": "atlas.h5ad", "reference_batch_key": "b", "reference_labels_key": "l"},
        {"reference": "a b.zarr", "reference_batch_key": "b", "family": "scvi"},
        {"input": "https://host/my sheet.yaml"},
        {"slurm_account": 42, "min_gene_overlap": 0, "max_time": "1.day 12.h", "max_memory": "7.5 GB"},
        {"max_epochs": 3, "maxEpochs": 3, "max-epochs": 3},
    ],
    ids=str,
)
def test_what_can_be_given(given):
    assert faults(**given) == []


def test_a_sheets_column_that_shares_a_parameters_name_shares_its_meaning():
    shared = set(properties(SCHEMA)) & set(COLUMNS)
    # The cells that the model of a row was trained on, and those that the run trains one on.
    cells = {"reference", *(f"reference_{what}" for what in ("layer", "var_key", "batch_key", "protein_key", "airr"))}
    assert shared == {
        *TRAIN_DEFAULTS,
        "one_batch",
        "round_counts",
        "strategy",
        "engine",
        "correction",
        "min_gene_overlap",
        *cells,
    }
    assert all(f"none: `--{name}`" in FIELDS[name].description for name in shared - cells)
    assert not set(YAML_ONLY) & set(properties(SCHEMA))
