"""The run as an RO-Crate, read again by its library."""

import pytest
from refmap.report.crate import write_crate
from refmap.report.outcomes import Outcome
from rocrate.rocrate import ROCrate

ROW = {"dataset": "lung", "file_id": "a", "query": "data/my query.h5ad", "model": "hf://org/x"}
ORIGIN = {"address": "hf://org/x", "revision": "123abc"}


@pytest.fixture(scope="module")
def crate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crate")
    outcomes = [
        Outcome(ROW, record={"model_sha256": "ab", "model_origin": ORIGIN}),
        Outcome({**ROW, "file_id": "b"}, stage="CHECK_QUERY", reason="has no cells."),
        Outcome({**ROW, "file_id": "c", "model": None}, card={"sha256": "cd"}),
    ]
    write_crate(outcomes, [{"name": "x", "model": "hf://org/x"}], "My <run>", folder / "ro-crate-metadata.json")
    return ROCrate(folder)


def test_every_mapping_is_an_action_of_a_query_and_a_model(crate):
    done, failed, own = crate.root_dataset["mentions"]
    assert crate.name == "My <run>" and crate.root_dataset["conformsTo"].id == "https://w3id.org/ro/wfrun/process/0.5"
    assert {action.type for action in (done, failed, own)} == {"CreateAction"}
    assert {action["instrument"]["softwareVersion"] for action in (done, failed, own)} == {"0.1.0"}
    query, model = done["object"]
    assert query["name"] == "data/my query.h5ad" and query.id == "#query:data/my%20query.h5ad"
    assert [model[name] for name in ("name", "sha256", "url", "version")] == ["hf://org/x", "ab", "hf://org/x", "123abc"]
    # One query and one model, however many mappings are made of them
    assert failed["object"] == done["object"]
    assert own["object"][1]["name"] == "the reference trained in this run" and own["object"][1]["sha256"] == "cd"


def test_results_lie_beside_the_folder_of_the_crate_and_a_failure_says_why(crate):
    done, failed, _own = crate.root_dataset["mentions"]
    assert [result.id.rstrip("/") for result in done["result"]] == [
        "../reference_mapping/dataset~lung/file_id~a.zarr",
        "../reference_mapping/model/dataset~lung/file_id~a",
        "../reference_mapping/qc/dataset~lung/file_id~a",
    ]
    assert done["actionStatus"].endswith("/CompletedActionStatus") and failed["actionStatus"].endswith("/FailedActionStatus")
    assert failed["error"] == "CHECK_QUERY: has no cells." and failed.get("result") is None
    parts = {part.id for part in crate.root_dataset["hasPart"]}
    assert {"../reference_mapping/joint/x.h5ad", "../multiqc/multiqc_report.html", "../reference_mapping/mappings.csv"} <= parts
