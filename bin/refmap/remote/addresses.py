"""The addresses that a model or its cells may have instead of a path.

hf://org/name[@revision][/folder]   a repository of a model hub, or a folder or file of it
zenodo:<record>[/file]              a record of Zenodo, or a file of it
https://…[#sha256=<hex>]            a file, which may be an archive of a folder
s3://<bucket>/<key>                 a file or folder of a public bucket

Nextflow calls the same scheme by the same rule, in `isAddress` of modules/functions.nf.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from ..common.errors import RefmapError

SCHEMES = ("hf://", "zenodo:", "https://", "http://", "s3://")
FORMS = "hf://org/name[@revision][/folder], zenodo:<record>[/file], https://… (with #sha256=<checksum> it is checked) or s3://bucket/folder"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HF = re.compile(r"hf://(?P<place>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^/@\s]+))?(?:/(?P<path>\S.*?))?/?")
_ZENODO = re.compile(r"zenodo:(?:10\.5281/zenodo\.)?(?P<place>\d+)(?:/(?P<path>\S.*?))?/?")
_S3 = re.compile(r"s3://(?P<place>[a-z0-9][a-z0-9.-]+)/(?P<path>\S.*)")
_CHECKSUM = re.compile(r"(sha256|md5)=([0-9a-fA-F]+)")
_DIGITS = {"sha256": 64, "md5": 32}


@dataclass(frozen=True)
class Address:
    """Where a model or its cells are.

    Attributes
    ----------
    text
        As the user wrote it.
    kind
        hf, zenodo, https or s3.
    place
        The repository, the record, the URL without its fragment, or the bucket.
    path
        What of it: a file or a folder; '' for all.
    revision
        The branch, tag or commit that is asked for.
    checksum
        What the file must have, as `sha256:<hex>`.
    """

    text: str
    kind: str
    place: str
    path: str = ""
    revision: str | None = None
    checksum: str | None = None

    @property
    def pinned(self) -> bool:
        """Whether it can lead to nothing else tomorrow."""
        return bool(self.checksum or (self.revision and _COMMIT.fullmatch(self.revision)))


def is_address(text: str) -> bool:
    return text.startswith(SCHEMES)


def parse(text: str) -> Address:
    """Read an address.

    Raises
    ------
    RefmapError
        If it has none of the forms.
    """
    for kind, form in (("hf", _HF), ("zenodo", _ZENODO), ("s3", _S3)):
        if (found := form.fullmatch(text)) and ".." not in (found["path"] or "").split("/"):
            parts = {name: value for name, value in found.groupdict().items() if value}
            return Address(text, kind, **parts)
    if text.startswith(("https://", "http://")):
        url, _, fragment = text.partition("#")
        wanted = _CHECKSUM.fullmatch(fragment)
        well_formed = not fragment or (wanted and len(wanted[2]) == _DIGITS[wanted[1]])
        parts = urlsplit(url)
        if parts.hostname and parts.username is None and well_formed:
            return Address(text, "https", url, checksum=f"{wanted[1]}:{wanted[2].lower()}" if wanted else None)
    raise RefmapError(f"'{text}' is no address that a model can be fetched from: give {FORMS}.")


def file_name(url: str) -> str:
    """What a file is called by its URL; 'file' where that says nothing."""
    name = unquote(urlsplit(url).path.rstrip("/").rpartition("/")[2])
    return name if safe(name) else "file"


def safe(name: str) -> bool:
    """Whether a name that a server gave lies in the folder that it is put in."""
    parts = name.split("/")
    return name.isprintable() and all(part not in ("", ".", "..") for part in parts) and "\\" not in name and len(name) < 1000
