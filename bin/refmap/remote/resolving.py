"""What an address leads to just now: its revision, and the files with their sizes and checksums. Nothing of them is fetched."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, replace
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

from ..common.errors import RefmapError, listed, nearest
from ..models.folder import DATA
from ..models.places import tells_model
from . import hub
from .addresses import Address, file_name, parse, safe
from .http import Unreachable, ask, ask_json, token_for

ZENODO, ZENODO_TOKEN = "ZENODO_ENDPOINT", "ZENODO_TOKEN"
# More files than this are no model.
_MOST_FILES = 10_000


@dataclass
class File:
    """A file behind an address: its name below what is fetched, its URL (of a hub its path in the repository), and what the
    service says of it."""

    name: str
    url: str
    size: int | None = None
    checksum: str | None = None
    etag: str | None = None


@dataclass
class Resolved:
    """What an address leads to.

    Attributes
    ----------
    key
        The name of its contents: what has the same key is the same, whoever asked for it and when; '' where nobody can tell.
    revision
        The commit, the record, or what else the service tells versions by.
    licence
        As its card has it.
    files
        Those that are wanted, small ones first; empty if it was not asked what there is, because its contents are known by name.
    """

    address: str
    kind: str
    key: str
    revision: str | None = None
    licence: str | None = None
    files: list[File] = field(default_factory=list)

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, known: dict) -> Resolved:
        return cls(**known | {"files": [File(**file) for file in known["files"]]})


def resolve(text: str, what: str, cells: bool = True) -> Resolved:
    """Ask what an address leads to.

    Parameters
    ----------
    text
        The address.
    what
        `model` or `cells`: a model may be a folder or an archive of one, cells are one file.
    cells
        Whether the cells that were saved with a model are wanted too.

    Raises
    ------
    RefmapError
        If it leads to nothing that can be fetched; :class:`.http.Unreachable` if the service does not answer.
    """
    address = parse(text)
    try:
        revision, licence, files = _ASK[address.kind](address, what)
    except Unreachable:
        if not address.pinned:
            raise
        revision, licence, files = address.revision or address.checksum, None, []
    if odd := [file.name for file in files if not safe(file.name)]:
        raise RefmapError(f"{text} names a file {listed(odd, 1)}, which leads out of its folder: tell who published it.")
    if len(files) > _MOST_FILES:
        raise RefmapError(f"{text} holds {len(files):,} files, far more than a model has: name the folder of the model.")
    if what == "model" and not cells:
        files = [file for file in files if not file.name.endswith(DATA)]
    files.sort(key=lambda file: (file.name.endswith(DATA), file.size or 0, file.name))
    return Resolved(text, address.kind, _key(address, revision, files, what, cells), revision, licence, files)


def _key(address: Address, revision: str | None, files: list[File], what: str, cells: bool) -> str:
    """The name of what an address leads to; '' where the server tells nothing that a change could be seen by."""
    contents = None
    if address.kind != "hf" and not address.checksum:
        contents = [[file.name, file.checksum or file.etag, file.size] for file in files]
        if not all(file.checksum or file.etag for file in files):
            return ""
    same = [address.kind, address.place, address.path, revision, contents, what, cells]
    return hashlib.sha256(json.dumps(same).encode()).hexdigest()


# Each of these returns the revision, the licence and the files.
Answer = tuple[str | None, str | None, list[File]]


def below(files: list[File], path: str, shown: str) -> list[File]:
    """The file of this path, or those of the folder, by their names in it."""
    if not path:
        return files
    if alone := [file for file in files if file.name == path]:
        return [replace(alone[0], name=path.rpartition("/")[2])]
    inside = [file for file in files if file.name.startswith(f"{path}/")]
    if not inside:
        names = [file.name for file in files]
        folders = {name.rpartition("/")[0] for name in names} - {""}
        raise RefmapError(
            f"{shown}: there is no '{path}' in it, but {listed(sorted({*names, *folders}), 5)}.{nearest(path, {*names, *folders})}"
        )
    return [replace(file, name=file.name.removeprefix(f"{path}/")) for file in inside]


def _one_file(files: list[File], what: str, shown: str) -> None:
    if what == "cells" and len(files) != 1:
        raise RefmapError(
            f"{shown} leads to {len(files)} files ({listed([f.name for f in files], 5)}): name the one with the cells."
        )


def _hf(address: Address, what: str) -> Answer:
    commit, licence, found = hub.look(address)
    files = below([File(*facts) for facts in found if facts[0] != ".gitattributes"], address.path, address.text)
    _one_file(files, what, address.text)
    return commit, licence, files


def zenodo_endpoint() -> str:
    """Zenodo, or what speaks like it."""
    return (os.environ.get(ZENODO) or "https://zenodo.org").rstrip("/")


def _zenodo(address: Address, what: str) -> Answer:
    endpoint = zenodo_endpoint()
    url = f"{endpoint}/api/records/{address.place}"
    record = ask_json(url, address.text, token_for(url, endpoint, ZENODO_TOKEN), ZENODO_TOKEN)
    try:
        found = [
            File(file["key"], file["links"]["self"], file["size"], file.get("checksum")) for file in record.get("files") or []
        ]
        licence = (record["metadata"].get("license") or {}).get("id")
        revision = str(record["id"])
    except (AttributeError, KeyError, TypeError):
        raise RefmapError(f"{address.text}: what {endpoint} answers is no record; check ZENODO_ENDPOINT.") from None
    if not found:
        raise RefmapError(
            f"{address.text} holds no files that are open to everyone: set {ZENODO_TOKEN} to a token that has a right to them."
        )
    files = below(found, address.path, address.text)
    if what == "model" and len(files) > 1 and not any(tells_model(file.name) for file in files):
        raise RefmapError(
            f"{address.text} holds {len(files)} files: name one, as {address.text}/{files[0].name}. There are {listed([f.name for f in files], 5)}."
        )
    _one_file(files, what, address.text)
    return revision, licence, files


def _https(address: Address, _what: str) -> Answer:
    # A server need not answer HEAD where it answers GET
    with ask("GET", address.place, address.text, stream=True) as answer:
        headers = answer.headers
        if headers.get("Content-Type", "").startswith("text/html"):
            raise RefmapError(f"{address.text} is a web page: give the address of the file that it offers.")
        size = headers.get("Content-Length", "")
        given = (headers.get("Content-Disposition", "").partition("filename=")[2]).partition(";")[0].strip(' "')
        name = file_name(address.place)
        tells = headers.get("ETag") or (headers.get("Last-Modified") and f"W/{headers['Last-Modified']}")
        file = File(
            given if safe(given) and "/" not in given and "." not in name else name,
            address.place,
            int(size) if size.isdigit() else None,
            address.checksum,
            tells,
        )
    return address.checksum or tells, None, [file]


def _s3(address: Address, what: str) -> Answer:
    custom = os.environ.get("AWS_ENDPOINT_URL_S3")
    bucket = f"{custom.rstrip('/')}/{address.place}" if custom else f"https://{address.place}.s3.amazonaws.com"
    folder, found, more = address.path.rstrip("/"), [], ""
    while more is not None and len(found) <= _MOST_FILES:
        page = f"{bucket}/?list-type=2&prefix={quote(folder)}" + (f"&continuation-token={quote(more, safe='')}" if more else "")
        try:
            listing = ElementTree.fromstring(ask("GET", page, address.text).content)
        except ElementTree.ParseError:
            raise RefmapError(
                f"{address.text}: what {urlsplit(bucket).netloc} answers is no list of files; give the https:// address of the file."
            ) from None
        fields = [
            {field.tag.rpartition("}")[2]: field.text or "" for field in item}
            for item in listing
            if item.tag.endswith("Contents")
        ]
        found += [
            File(item["Key"], f"{bucket}/{quote(item['Key'])}", int(item["Size"]), None, item.get("ETag"))
            for item in fields
            if not item["Key"].endswith("/")
        ]
        more = next((item.text for item in listing if item.tag.endswith("NextContinuationToken")), None)
    if not found:
        raise RefmapError(f"There is nothing at {address.text}: check the bucket and the folder.")
    files = below(found, folder, address.text)
    _one_file(files, what, address.text)
    return None, None, files


_ASK = {"hf": _hf, "zenodo": _zenodo, "https": _https, "s3": _s3}
