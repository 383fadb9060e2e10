"""A model's folder is published whole, with a card, and what was published can be fetched."""

import base64
import io
import json
import zipfile

import pytest
import yaml
from refmap.common.errors import RefmapError
from refmap.models.card import ModelCard
from refmap.remote.publishing import hub_files, publish

ABOUT = {
    "title": "Lungs: an atlas",
    "description": "Of 3 donors.",
    "licence": "cc-by-4.0",
    "creators": ["Doe, Jo"],
    "anndata_version": "0.13",
}
CARD = ModelCard(
    "m",
    "scvi",
    "scvi",
    "SCANVI",
    "1.3.0",
    genes=["A", "B"],
    batch_key="donor",
    batches=["d1"],
    labels={"type": ["T", "B"]},
    n_latent=10,
)


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "lung"
    (folder / "refmap").mkdir(parents=True)
    (folder / "model.pt").write_bytes(b"model")
    (folder / "refmap/reference.json").write_text("{}")
    return folder


def test_the_card_says_what_a_hub_wants_to_know():
    files = hub_files(CARD.to_json(), ABOUT, data=True)
    _, head, text = files["README.md"].split("---\n", 2)
    head = yaml.safe_load(head)
    assert (head["license"], head["library_name"]) == ("cc-by-4.0", "scvi-tools")
    assert {"model_cls_name:SCANVI", "scvi_version:1.3.0", "annotated:True"} <= set(head["tags"])
    assert "# Lungs: an atlas" in text and "| batches | 1 in `donor` |" in text and "| labels | 2 in `type` |" in text
    assert json.loads(files["_scvi_required_metadata.json"]) == {
        "scvi_version": "1.3.0", "anndata_version": "0.13", "model_cls_name": "SCANVI", "training_data_url": None,
        "model_parent_module": "scvi.model",
    }  # fmt: skip
    assert set(hub_files(ModelCard("m", "scpoli", "scarches", "scPoli").to_json(), ABOUT, data=False)) == {"README.md"}


def test_a_repository_gets_all_files_in_one_commit(services, model, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert publish(model, "hf://lab/atlas", ABOUT, {"README.md": "# it"}) == f"hf://lab/atlas@{'a' * 40}"
    lines = [json.loads(line) for line in services.uploads["POST /api/models/lab/atlas/commit/main"].splitlines()]
    sent = {line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"}
    assert sent == {"model.pt": b"model", "refmap/reference.json": b"{}", "README.md": b"# it"}
    made = json.loads(services.uploads["POST /api/repos/create"])
    assert made["name"] == "atlas" and made["organization"] == "lab"


def test_a_deposition_is_made_filled_and_left_as_a_draft(services, model, monkeypatch):
    monkeypatch.setenv("ZENODO_TOKEN", "secret")
    assert publish(model, "zenodo:", ABOUT, {"README.md": "# it"}) == "zenodo:42/lung.zip"
    with zipfile.ZipFile(io.BytesIO(services.uploads["PUT /api/files/bucket/lung.zip"])) as archive:
        sent = {name: archive.read(name) for name in archive.namelist()}
    assert sent == {"lung/model.pt": b"model", "lung/refmap/reference.json": b"{}", "lung/README.md": b"# it"}
    told = json.loads(services.uploads["PUT /api/deposit/depositions/42"])["metadata"]
    assert (told["title"], told["license"], told["creators"]) == ("Lungs: an atlas", "cc-by-4.0", [{"name": "Doe, Jo"}])
    assert not any("publish" in path for _method, path, _headers in services.asked)
    assert {headers["Authorization"] for headers in services.requests("PUT", "")} == {"Bearer secret"}


def test_without_a_token_or_a_place_nothing_is_published(services, model):
    for address, said in {
        "hf://lab/atlas": "set HF_TOKEN",
        "zenodo:": "set ZENODO_TOKEN",
        "zenodo:7": "give hf://org/name or zenodo:",
    }.items():
        with pytest.raises(RefmapError, match=said):
            publish(model, address, ABOUT, {})
    assert not services.asked
