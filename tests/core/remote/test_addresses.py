"""Addresses are read as they are meant, and what is none is refused by a sentence."""

import pytest
from refmap.common.errors import RefmapError
from refmap.remote.addresses import Address, file_name, is_address, parse, safe

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("hf://lab/atlas", ("hf", "lab/atlas", "", None, None)),
        (f"hf://lab/atlas@{COMMIT}/scvi/human", ("hf", "lab/atlas", "scvi/human", COMMIT, None)),
        ("hf://lab/atlas@v1.0", ("hf", "lab/atlas", "", "v1.0", None)),
        ("zenodo:123", ("zenodo", "123", "", None, None)),
        ("zenodo:10.5281/zenodo.123/a model.zip", ("zenodo", "123", "a model.zip", None, None)),
        ("https://host/a.zip?download=1", ("https", "https://host/a.zip?download=1", "", None, None)),
        (f"https://host/a.zip#sha256={'A' * 64}", ("https", "https://host/a.zip", "", None, f"sha256:{'a' * 64}")),
        ("s3://bucket/models/scvi/", ("s3", "bucket", "models/scvi/", None, None)),
    ],
)
def test_an_address_is_read(text, meant):
    assert is_address(text)
    kind, place, path, revision, checksum = meant
    assert parse(text) == Address(text, kind, place, path, revision, checksum)


@pytest.mark.parametrize(
    "text",
    [
        "hf://atlas",
        "hf://lab/atlas/../other",
        "zenodo:HLCA",
        "https://",
        "https://me:secret@host/a",
        "https://host/a#sha256=12",
        "s3://bucket",
    ],
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(RefmapError, match="no address that a model can be fetched from: give hf://"):
        parse(text)


def test_only_what_cannot_change_is_pinned():
    assert parse(f"hf://lab/atlas@{COMMIT}").pinned and parse(f"https://host/a#md5={'0' * 32}").pinned
    assert not any(parse(text).pinned for text in ("hf://lab/atlas", "hf://lab/atlas@v1", "zenodo:1", "https://host/a"))


def test_a_path_is_no_address():
    assert not any(is_address(text) for text in ("models/atlas", "/data/hf/atlas", "gs://bucket/model", "C:/model"))


def test_names_that_lead_out_of_a_folder():
    assert safe("a/b.pt") and not any(safe(name) for name in ("../a", "/a", "a//b", "a\\b", "", "a/..", "a\nb"))
    assert file_name("https://host/x/model%20a.pt?download=1") == "model a.pt" and file_name("https://host/") == "file"
