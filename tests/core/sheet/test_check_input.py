"""The command that checks a run's parameters and sheet together."""

import importlib.util
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from refmap.sheet.fields import FIELDS
from refmap.sheet.parameters import defaults, load_schema

ROOT = Path(__file__).resolve().parents[3]
SCHEMA = ROOT / "nextflow_schema.json"
SHEET = 'dataset,file_id,query,model,batch_key\nlung,b,"data/é x.h5ad",m,donor\nlung,a,data/a.zarr,m,donor\n'
REFERENCE = {"reference": "a.h5ad", "reference_batch_key": "b", "reference_labels_key": "l"}
TOLD = "in the input (a sheet's rows are told by line; its header is row 1):"


@pytest.fixture(scope="module")
def main():
    spec = importlib.util.spec_from_file_location("check_input", ROOT / "bin/check_input.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture
def check(main, tmp_path):
    """Run the command on a sheet's text (None: no sheet) and parameters over the defaults; return the result and output."""

    def run(sheet: str | None, *flags: str, **given: object):
        parameters, path, output = tmp_path / "p.json", tmp_path / "sheet.csv", tmp_path / "mappings.jsonl"
        parameters.write_text(json.dumps(defaults(load_schema(SCHEMA)) | {"input": "sheet.csv"} | given))
        arguments = ["--parameters", str(parameters), "--schema", str(SCHEMA), "--output", str(output), *flags]
        if sheet is not None:
            path.write_text(sheet, encoding="utf-8")
            arguments += ["--sheet", str(path)]
        result = CliRunner().invoke(main, arguments)
        return result, output.read_text(encoding="ascii") if output.exists() else None

    return run


def test_one_line_a_mapping_in_the_sheets_order_in_ascii(check):
    result, output = check(SHEET, max_epochs=3, seed=5)
    assert (result.exit_code, result.output) == (0, "")
    rows = [json.loads(line) for line in output.splitlines()]
    assert [(row["file_id"], row["query"]) for row in rows] == [("b", "data/é x.h5ad"), ("a", "data/a.zarr")]
    assert [(row["train"]["max_epochs"], row["seed"]) for row in rows] == [(3, 5), (3, 5)]
    assert list(rows[0]) == list(rows[1])


@pytest.mark.parametrize(
    ("given", "free"),
    [({}, [True, False, False]), ({"early_stopping": False}, [False] * 3), ({"check_val_every_n_epoch": 2}, [False] * 3)],
)
def test_a_row_is_trained_freely_where_nobody_chose_how(check, given, free):
    """Not where a parameter is another, nor where the row gives a setting, be it the default's."""
    rows = [f"lung,{name},{name}.zarr,m,donor,{chosen}" for name, chosen in (("a", ","), ("b", "100,"), ("c", ",64"))]
    sheet = "\n".join(["dataset,file_id,query,model,batch_key,max_epochs,batch_size", *rows, ""])
    _result, output = check(sheet, **given)
    assert [json.loads(line)["train"].get("free", False) for line in output.splitlines()] == free


def test_parameters_and_sheet_are_told_together(check):
    result, output = check(SHEET.replace(",m,donor\n", ",,donor\n", 1), seed="x", sede=1)
    assert (result.exit_code, output) == (1, None)
    assert result.stderr.splitlines() == [
        f"3 faults {TOLD}",
        "--sede: there is no such parameter. Did you mean 'seed'?",
        '--seed is "x", but must be a whole number from 0 to 4294967295.',
        f"row 2 (lung/b): column 'model' is missing. {FIELDS['model'].description}",
    ]


def test_one_fault(check):
    result, output = check(SHEET, seed=-1)
    assert (result.exit_code, output) == (1, None)
    assert result.stderr.splitlines()[0] == f"1 fault {TOLD}"
    assert len(result.stderr.splitlines()) == 2


def test_without_a_sheet_there_are_no_mappings(check):
    result, output = check(None, input=None, **REFERENCE)
    assert (result.exit_code, output) == (0, "")


@pytest.mark.parametrize(
    ("given", "status"),
    [({}, 1), (REFERENCE, 0), (REFERENCE | {"reference": None, "demo": True, "input": None}, 0)],
)
def test_a_row_needs_a_model_unless_one_is_trained(check, given, status):
    sheet = "dataset,file_id,query,batch_key\nlung,a,a.zarr,donor\n"
    result, output = check(sheet, **given)
    assert result.exit_code == status
    assert output is None if status else json.loads(output)["model"] is None


def test_parameters_that_are_not_json(main, tmp_path):
    path = tmp_path / "p.json"
    path.write_text("{")
    result = CliRunner().invoke(main, ["--parameters", str(path), "--schema", str(SCHEMA), "--output", str(tmp_path / "o")])
    assert result.exit_code == 1
    assert result.stderr == f"{path}: is not JSON; give the run's parameters as one JSON object.\n"
