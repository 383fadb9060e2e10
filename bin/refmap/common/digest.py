"""The contents of files as a hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def sha256_of(folder: Path, names: Iterable[str]) -> str:
    """The SHA-256 of the names, sizes and bytes of files in a folder, in the order that they come."""
    digest = hashlib.sha256()
    for name in names:
        path = folder / name
        digest.update(f"{name}\0{path.stat().st_size}\0".encode())
        # What cannot be read can be nothing that anything is loaded from.
        with suppress(PermissionError), open(path, "rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def sha256_of_all(path: Path) -> str:
    """That of a file, wherever it lies, or of all files of a folder."""
    if path.is_file():
        return sha256_of(path.parent, [path.name])
    return sha256_of(path, sorted(item.relative_to(path).as_posix() for item in path.rglob("*") if item.is_file()))
