"""Files over HTTPS: retried, continued where they were cut off, and checked."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3

from ..common.errors import RefmapError, brief

# How often a server is asked again that gives nothing, and for how long it is waited for in seconds: between tries, and for each.
TRIES = 5
PAUSE, LONGEST_PAUSE = 1.0, 60.0
_TIMEOUT = (20, 120)
_CHUNK = 1 << 20
# What a try later may give: a server that is busy or down.
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_LOST = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


class Unreachable(RefmapError):
    """A server that could not be reached, or that did not give all: another time it may."""


class _Bearer(requests.auth.AuthBase):
    """A token for one server, and no other: neither from a file in the home, nor for where that server leads to."""

    def __init__(self, token: str | None) -> None:
        self.token = token

    def __call__(self, request):
        if self.token:
            request.headers["Authorization"] = f"Bearer {self.token}"
        return request


def token_for(url: str, endpoint: str, variable: str) -> str | None:
    """The token that the environment has for a service, if this URL is of that service."""
    return os.environ.get(variable) if urlsplit(url)[:2] == urlsplit(endpoint)[:2] else None


def ask(
    method: str, url: str, shown: str, token: str | None = None, variable: str | None = None, **options: Any
) -> requests.Response:
    """Ask a server, again while it is busy; return its answer, of which nothing was read yet if `stream` is given.

    `shown` is the address as the user wrote it, and `variable` what a token of the service is called, for sentences.

    Raises
    ------
    Unreachable
        If there is no answer.
    RefmapError
        If the answer is that there is no such thing, or that it is not for this user.
    """
    headers = {"Accept-Encoding": "identity"} | options.pop("headers", {})
    for attempt in range(TRIES):
        try:
            answer = requests.request(method, url, headers=headers, auth=_Bearer(token), timeout=_TIMEOUT, **options)
        except _LOST as error:
            cause, pause = f"no answer from {urlsplit(url).netloc}: {type(error).__name__}", None
        except requests.RequestException as error:
            raise RefmapError(f"{shown} cannot be asked for ({brief(type(error).__name__)}): check the address.") from None
        else:
            if url.startswith("https://") and not answer.url.startswith("https://"):
                raise RefmapError(f"{shown} leads on to a place without encryption: give the address of the file itself.")
            if answer.status_code not in _PASSING:
                return _settled(answer, shown, token, variable)
            cause, pause = f"{urlsplit(url).netloc} answers {answer.status_code}", answer.headers.get("Retry-After", "")
            answer.close()
        if attempt + 1 < TRIES:
            time.sleep(min(float(pause) if pause and pause.isdigit() else PAUSE * 2**attempt, LONGEST_PAUSE))
    raise Unreachable(
        f"{shown} cannot be reached ({cause}): see whether this machine has a network; behind a proxy set https_proxy, and what is "
        "named by its commit or checksum is taken from --cache without one."
    )


def _settled(answer: requests.Response, shown: str, token: str | None, variable: str | None) -> requests.Response:
    """An answer that gives what was asked for, or that says the place to go on from (416)."""
    status = answer.status_code
    if status in (401, 403):
        how = (
            f"the token in {variable} has no right to it"
            if token
            else f"set {variable} to a token that has"
            if variable
            else "it is not public"
        )
        raise RefmapError(f"{shown} is not open to everyone ({status}): {how}.")
    if status in (404, 410):
        raise RefmapError(f"There is nothing at {shown} ({status}): check the address.")
    if status >= 400 and status != 416:
        raise RefmapError(f"{shown} is not given ({status} {brief(answer.reason, 60)}): check the address.")
    return answer


def ask_json(url: str, shown: str, token: str | None = None, variable: str | None = None) -> Any:
    """What a service says, as JSON."""
    answer = ask("GET", url, shown, token, variable)
    try:
        return answer.json()
    except ValueError:
        raise RefmapError(
            f"{shown}: what {urlsplit(url).netloc} answers is not JSON; check the address of the service."
        ) from None


def download(
    url: str,
    target: Path,
    shown: str,
    size: int | None = None,
    checksum: str | None = None,
    etag: str | None = None,
    token: str | None = None,
    variable: str | None = None,
) -> str:
    """Download a file; return its SHA-256.

    What lies at `<target>.partial` from an earlier try is gone on with, if there is a strong `etag` or a `checksum` that tells
    that it is of the same file.

    Raises
    ------
    Unreachable
        If the server does not give all of it.
    RefmapError
        If it is not there, or not what it should be.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.partial")
    resumable = bool(checksum or (etag and not etag.startswith("W/")))
    if not resumable:
        partial.unlink(missing_ok=True)
    failures = 0
    while True:
        before = partial.stat().st_size if partial.exists() else 0
        whole = _go_on(url, partial, before, shown, etag, token, variable)
        after = partial.stat().st_size
        if whole and (size is None or after >= size):
            break
        failures = 0 if after > before and resumable else failures + 1
        if failures == TRIES:
            raise Unreachable(
                f"{shown}: {target.name} was cut off {TRIES} times, the last time after {after:,} bytes; try again later."
            )
        if not resumable:
            partial.unlink()
        time.sleep(min(PAUSE * 2**failures, LONGEST_PAUSE))
    found, now = hashes(partial), partial.stat().st_size
    algorithm, _, wanted = (checksum or "").partition(":")
    if checksum and found[algorithm] != wanted:
        partial.unlink()
        raise changed(shown, target.name, f"{algorithm}:{found[algorithm]}", checksum)
    if size is not None and now != size:
        partial.unlink()
        raise changed(shown, target.name, f"{now:,} bytes", f"{size:,}")
    partial.rename(target)
    return found["sha256"]


def changed(shown: str, name: str, found: str, wanted: str) -> RefmapError:
    """A file that is not what it should be."""
    return RefmapError(
        f"{shown}: {name} is not what it should be ({found} instead of {wanted}): it was changed or damaged; check the address, or "
        "ask who published it."
    )


def _go_on(url: str, partial: Path, have: int, shown: str, etag: str | None, token: str | None, variable: str | None) -> bool:
    """Add to a file what is missing of it; whether the server gave all that it said it would."""
    headers = {"Range": f"bytes={have}-"} if have else {}
    if have and etag and not etag.startswith("W/"):
        headers["If-Range"] = etag
    with ask("GET", url, shown, token, variable, stream=True, headers=headers) as answer:
        if answer.status_code == 416:
            return True  # nothing is missing; the size and the checksum say whether that is so
        if etag and answer.headers.get("ETag") not in (None, etag):
            raise Unreachable(f"{shown}: {partial.stem} changed while it was fetched; run again with -resume.")
        added = answer.status_code == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if answer.status_code == 206 and not added:
            raise RefmapError(
                f"{shown}: the server goes on elsewhere than where it was asked to; remove {partial.name}, and try again."
            )
        try:
            with partial.open("ab" if added else "wb") as out:
                for chunk in answer.raw.stream(_CHUNK, decode_content=False):
                    out.write(chunk)
        except (*_LOST, urllib3.exceptions.HTTPError):
            return False
    return True


def hashes(path: Path) -> dict[str, str]:
    """The SHA-256 and the MD5 of a file; Zenodo knows only the latter."""
    digests = {"sha256": hashlib.sha256(), "md5": hashlib.md5(usedforsecurity=False)}
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            for digest in digests.values():
                digest.update(chunk)
    return {name: digest.hexdigest() for name, digest in digests.items()}
