"""What an address leads to comes whole, checked and unpacked; what goes wrong on the way is said, and what was cut off is gone on with."""

import io
import os
import tarfile
import zipfile

import pytest
from refmap.common.errors import RefmapError
from refmap.models.folder import ModelFolder
from refmap.remote import http
from refmap.remote.fetching import fetch
from refmap.remote.http import Unreachable
from refmap.remote.resolving import resolve
from services import Services

MODEL = {"attr.pkl": b"\x80\x02}X\x01\x00\x00\x00aK\x01s.", "var_names.csv": b"g1\n", "model_params.pt": os.urandom(300_000)}
CELLS = os.urandom(5000)


def zipped(files):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, body in files.items():
            archive.writestr(name, body)
    return packed.getvalue()


def bring(address, folder, what="model", cells=True, partial=None):
    """Fetch what an address leads to; return the one thing that it is, and where it comes from."""
    origin = fetch(resolve(address, what, cells), what, folder, partial)
    (content,) = folder.iterdir()
    return content, origin


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- hubs -----------------------------------------------------------------------------------------------------------------


def test_a_repository_comes_at_the_commit_that_its_branch_has(services, tmp_path):
    commit = services.repository("lab/atlas", MODEL | {"README.md": b"# it"}, licence="cc-by-4.0")
    content, origin = bring("hf://lab/atlas", tmp_path / "f")
    assert contents(content) == MODEL | {"README.md": b"# it"}
    assert ModelFolder(content).value("attr.pkl") == {"a": 1}
    assert (origin["revision"], origin["licence"]) == (commit, "cc-by-4.0")
    assert set(origin["sha256"]) == {*MODEL, "README.md"}


def test_a_folder_of_a_revision_without_its_cells(services, tmp_path):
    files = {f"v1/{name}": body for name, body in MODEL.items()} | {
        "v1/adata.h5ad": CELLS,
        "v2/attr.pkl": b"other",
        ".gitattributes": b"x",
    }
    services.repository("lab/atlas", files, revision="2.0")
    content, _ = bring("hf://lab/atlas@2.0/v1", tmp_path / "without", cells=False)
    assert contents(content) == MODEL
    assert not services.requests("GET", "adata.h5ad")
    content, _ = bring("hf://lab/atlas@2.0/v1", tmp_path / "with")
    assert contents(content) == MODEL | {"adata.h5ad": CELLS}
    assert resolve("hf://lab/atlas@2.0/v1", "model").key != resolve("hf://lab/atlas@2.0/v1", "model", cells=False).key


def test_cells_are_one_file(services, tmp_path):
    services.repository("lab/atlas", MODEL | {"data/adata.h5ad": CELLS})
    content, _ = bring("hf://lab/atlas/data/adata.h5ad", tmp_path / "f", "cells")
    assert content.name == "adata.h5ad" and content.read_bytes() == CELLS
    with pytest.raises(RefmapError, match=r"hf://lab/atlas leads to 4 files \('attr.pkl', .*name the one with the cells"):
        resolve("hf://lab/atlas", "cells")


def test_a_commit_and_its_branch_are_the_same_and_another_commit_is_not(services):
    commit = services.repository("lab/atlas", MODEL)
    branch = resolve("hf://lab/atlas", "model").key
    assert resolve(f"hf://lab/atlas@{commit}", "model").key == branch
    services.repository("lab/atlas", MODEL | {"var_names.csv": b"g2\n"})
    assert resolve("hf://lab/atlas", "model").key != branch


def test_what_a_hub_does_not_have_is_said(services):
    services.repository("lab/atlas", MODEL)
    services.repository("lab/private", MODEL, token="secret")
    for address, said in {
        "hf://lab/none": "There is no model repository at hf://lab/none",
        "hf://lab/atlas@v9": "has no revision 'v9'",
        "hf://lab/atlas/modle": "there is no 'modle' in it",
        "hf://lab/private": "set HF_TOKEN",
    }.items():
        with pytest.raises(RefmapError, match=said):
            resolve(address, "model")


def test_a_token_of_the_environment_opens_what_is_private(services, tmp_path, monkeypatch):
    services.repository("lab/private", MODEL, token="secret")
    monkeypatch.setenv("HF_TOKEN", "secret")
    content, origin = bring("hf://lab/private", tmp_path / "f")
    assert contents(content) == MODEL
    assert "secret" not in repr(origin)


def test_a_file_of_a_hub_that_was_cut_off_is_gone_on_with(services, tmp_path, monkeypatch):
    commit = services.repository("lab/atlas", MODEL)
    services.answers[f"/lab/atlas/resolve/{commit}/model_params.pt"].cuts = [100_000]
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 50_000)
    content, _ = bring("hf://lab/atlas", tmp_path / "f")
    assert contents(content) == MODEL
    asked = [headers.get("Range") for headers in services.requests("GET", "model_params.pt")]
    assert asked == [None, "bytes=100000-"]


def test_a_file_of_a_hub_that_is_not_what_its_checksum_says(services, tmp_path):
    commit = services.repository("lab/atlas", MODEL)
    services.answers[f"/lab/atlas/resolve/{commit}/var_names.csv"].body = b"g9\n"
    with pytest.raises(RefmapError, match="var_names.csv is not what it should be"):
        bring("hf://lab/atlas", tmp_path / "f")


# --- files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [{"deep/a.h5ad": CELLS}, {"a.zarr/.zgroup": CELLS, "a.zarr/b.zarr/c": b"c"}])
def test_of_an_archive_the_cells_are_taken(services, tmp_path, packed):
    services.file("/a/atlas.zip", zipped(packed | {"README.md": b"# it", "__MACOSX/._a.h5ad": b"x"}))
    content, origin = bring(f"{services.url}/a/atlas.zip", tmp_path / "f", "cells")
    assert content.name == next(part for part in next(iter(packed)).split("/") if part.startswith("a."))
    assert CELLS in (contents(content).values() if content.is_dir() else [content.read_bytes()])
    assert list(origin["sha256"]) == ["atlas.zip"]


def test_an_archive_without_one_file_of_cells_is_refused(services, tmp_path):
    for files, found in [
        ({}, "0 files of cells"),
        ({"a.h5ad": b"", "b/c.h5ad": b""}, r"2 files of cells \('a.h5ad', 'b/c.h5ad'\)"),
    ]:
        services.file("/atlas.zip", zipped({"README.md": b"# it"} | files))
        with pytest.raises(RefmapError, match=rf"atlas.zip holds {found}.*: give an archive of one, '.h5ad'"):
            bring(f"{services.url}/atlas.zip", tmp_path / str(len(files)), "cells")


def test_a_zip_with_the_model_somewhere_inside(services, tmp_path):
    services.file("/a/atlas.zip", zipped({f"deep/er/model/{name}": body for name, body in MODEL.items()}))
    content, origin = bring(f"{services.url}/a/atlas.zip", tmp_path / "f")
    assert ModelFolder(content).files() == sorted(MODEL)
    assert list(origin["sha256"]) == ["atlas.zip"]


def test_a_file_that_is_a_model_by_itself_stays_a_file(services, tmp_path):
    services.file("/a/pancreas.pt", MODEL["attr.pkl"])
    content, _ = bring(f"{services.url}/a/pancreas.pt", tmp_path / "f")
    assert content.name == "pancreas.pt" and ModelFolder(content).value("model.pt") == {"a": 1}


@pytest.mark.parametrize("etag", ['"strong"', None])
def test_a_file_that_was_cut_off_is_gone_on_with_where_it_is_known_to_be_the_same(services, tmp_path, etag):
    services.file("/a/model.pt", MODEL["model_params.pt"], etag=etag, cuts=[300_000, 1000, 5000])
    content, _ = bring(f"{services.url}/a/model.pt", tmp_path / "f")
    assert content.read_bytes() == MODEL["model_params.pt"]
    asked = [headers.get("Range") for headers in services.requests("GET", "model.pt")[1:]]
    assert asked == ([None, "bytes=1000-", "bytes=6000-"] if etag else [None, None, None])


def test_another_run_goes_on_where_one_was_given_up(services, tmp_path):
    answer = services.file("/a/model.pt", MODEL["model_params.pt"], cuts=[300_000, 70_000, *[0] * http.TRIES])
    with pytest.raises(Unreachable, match=f"cut off {http.TRIES} times, the last time after 70,000 bytes"):
        bring(f"{services.url}/a/model.pt", tmp_path / "first", partial=tmp_path)
    answer.cuts.clear()
    services.asked.clear()
    content, _ = bring(f"{services.url}/a/model.pt", tmp_path / "second", partial=tmp_path)
    assert content.read_bytes() == MODEL["model_params.pt"]
    assert services.requests("GET", "model.pt")[-1]["Range"] == "bytes=70000-"
    assert not [path for path in tmp_path.iterdir() if path.name not in ("first", "second")]


def test_a_file_that_changes_while_it_is_fetched(services, tmp_path):
    services.file("/a/model.pt", b"old")
    known = resolve(f"{services.url}/a/model.pt", "model")
    services.file("/a/model.pt", b"new")
    with pytest.raises(Unreachable, match="changed while it was fetched"):
        fetch(known, "model", tmp_path / "f")
    assert resolve(f"{services.url}/a/model.pt", "model").key != known.key


def test_a_checksum_in_the_address_is_looked_at(services, tmp_path):
    services.file("/a/model.pt", b"abc")
    right = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    content, origin = bring(f"{services.url}/a/model.pt#sha256={right}", tmp_path / "right")
    assert content.read_bytes() == b"abc" and origin["sha256"] == {"model.pt": right}
    with pytest.raises(RefmapError, match=f"model.pt is not what it should be \\(sha256:{right} instead of sha256:000"):
        bring(f"{services.url}/a/model.pt#sha256={'0' * 64}", tmp_path / "wrong")


def test_what_a_server_answers_is_said(services):
    services.file("/a/private.pt", b"x", token="t")
    services.file("/a/page", b"<html>", headers={"Content-Type": "text/html"})
    services.file("/a/busy.pt", b"x", status=503)
    for path, said in {
        "none.pt": "There is nothing at .*/a/none.pt \\(404\\): check the address",
        "private.pt": "is not open to everyone \\(401\\)",
        "page": "is a web page",
        "busy.pt": "answers 503.*https_proxy",
    }.items():
        with pytest.raises(RefmapError, match=said):
            resolve(f"{services.url}/a/{path}", "model")
    assert len(services.requests("GET", "busy.pt")) == http.TRIES


def test_without_a_network_only_the_name_of_what_is_pinned_is_known(services, tmp_path):
    commit = services.repository("lab/atlas", MODEL)
    address = f"hf://lab/atlas@{commit}"
    key = resolve(address, "model").key
    services.close()
    assert resolve(address, "model").key == key
    with pytest.raises(Unreachable, match="--cache does not have it"):
        bring(address, tmp_path / "f")
    with pytest.raises(Unreachable, match="see whether this machine has a network"):
        resolve("hf://lab/atlas", "model")


# --- Zenodo and buckets ---------------------------------------------------------------------------------------------------


def test_a_record_and_a_file_of_one(services, tmp_path):
    services.record(7, MODEL)
    content, origin = bring("zenodo:7", tmp_path / "f")
    assert contents(content) == MODEL
    assert (origin["revision"], origin["licence"]) == ("7", "cc-by-4.0")
    services.record(8, {"a.zip": zipped({"m/attr.pkl": MODEL["attr.pkl"]}), "b.zip": b"x"})
    content, _ = bring("zenodo:8/a.zip", tmp_path / "g")
    assert contents(content) == {"m/attr.pkl": MODEL["attr.pkl"]}
    with pytest.raises(RefmapError, match="zenodo:8 holds 2 files: name one, as zenodo:8/a.zip"):
        resolve("zenodo:8", "model")


def test_a_file_of_a_record_that_is_not_what_its_checksum_says(services, tmp_path):
    services.record(7, MODEL)
    services.answers["/api/records/7/files/var_names.csv/content"].body = b"g9\n"
    with pytest.raises(RefmapError, match="zenodo:7: var_names.csv is not what it should be \\(md5:"):
        bring("zenodo:7", tmp_path / "f")


def test_a_token_goes_to_its_service_alone(services, tmp_path, monkeypatch):
    elsewhere = Services()
    elsewhere.file("/attr.pkl", MODEL["attr.pkl"])
    services.record(7, {"attr.pkl": MODEL["attr.pkl"]}, token="secret")
    services.answers["/api/records/7"].body = services.answers["/api/records/7"].body.replace(
        f"{services.url}/api/records/7/files/attr.pkl/content".encode(), f"{elsewhere.url}/attr.pkl".encode()
    )
    with pytest.raises(RefmapError, match="set ZENODO_TOKEN"):
        resolve("zenodo:7", "model")
    monkeypatch.setenv("ZENODO_TOKEN", "secret")
    bring("zenodo:7", tmp_path / "f")
    assert [headers.get("Authorization") for headers in elsewhere.requests("GET", "attr.pkl")] == [None]
    elsewhere.close()


def test_a_folder_of_a_public_bucket(services, tmp_path):
    services.bucket("models", {f"scvi/human/{name}": body for name, body in MODEL.items()} | {"scvi/mouse/attr.pkl": b"x"})
    content, _ = bring("s3://models/scvi/human", tmp_path / "f")
    assert contents(content) == MODEL
    with pytest.raises(RefmapError, match="There is nothing at s3://models/none"):
        resolve("s3://models/none", "model")


# --- evil ones ------------------------------------------------------------------------------------------------------------


def tarred(*members):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for member, body in members:
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    return packed.getvalue()


def member(name, kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    ("name", "packed", "said"),
    [
        ("m.zip", zipped({"../out": b"x"}), "leads out of it"),
        ("m.zip", zipped({"/out": b"x"}), "leads out of it"),
        ("m.zip", zipped({f"{number}": b"" for number in range(10_001)}), "far more than a model"),
        ("m.tar.gz", tarred((member("../out"), b"x")), "leads out of it"),
        ("m.tar.gz", tarred((member("attr.pkl", tarfile.SYMTYPE, "/etc/passwd"), b"")), "no file of its own"),
        ("m.tar.gz", tarred((member("attr.pkl", tarfile.LNKTYPE, "/etc/passwd"), b"")), "no file of its own"),
        ("m.tar.gz", tarred((member("attr.pkl", tarfile.CHRTYPE), b"")), "no file of its own"),
        ("m.tar.gz", tarred((member("attr.pkl"), b"\0" * 50_000_000)), "far more than a model"),
    ],
)
def test_an_archive_that_does_harm_is_not_unpacked(services, tmp_path, name, packed, said):
    services.file(f"/{name}", packed)
    with pytest.raises(RefmapError, match=said):
        bring(f"{services.url}/{name}", tmp_path / "a" / "f")
    assert not (tmp_path / "a/out").exists() and not (tmp_path / "out").exists()


def test_a_name_that_leads_out_of_a_repository_is_refused(services):
    services.repository("lab/evil", {"../../attr.pkl": b"x"})
    with pytest.raises(RefmapError, match="leads out of its folder"):
        resolve("hf://lab/evil", "model")
