"""Inspect the files of models: a plain pickle, or one of `torch.save`."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

from ...common.errors import RefmapError, brief
from .machine import Machine
from .streams import TORCH_MAGIC, TORCH_PICKLES, Bounded
from .unneeded import without_unneeded
from .values import DAMAGED, Contents

_ZIP_START, _ZIP_END, _ZIP64_END = b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06"
_ZIP64_LOCATOR = b"PK\x06\x07"


def _load(machine: Machine, stream: BinaryIO, shown: str) -> Any:
    stream, left_out = without_unneeded(stream)
    machine.left_out += left_out
    try:
        return machine.load(Bounded(stream))
    except DAMAGED as error:
        raise RefmapError(
            f"{shown} is damaged or no pickle at all ({brief(error)}): copy it again from where it came from."
        ) from None


def read_pickle(path: Path, shown: str | None = None) -> Contents:
    """The contents of a file with one pickle (`attr.pkl`). Raises `RefmapError` where it is damaged."""
    machine, shown = Machine(), shown or str(path)
    with open(path, "rb") as stream:
        return machine.contents(_load(machine, stream, shown))


def read_torch(path: Path, shown: str | None = None) -> Contents:
    """The contents of a file of `torch.save`, with its tensors as shapes. Raises `RefmapError` where it is damaged.

    `torch.load` is followed closely in which of several readings of a file it would take, and a file that could be read in
    two ways is refused: what is inspected must be what is loaded.
    """
    path, shown = Path(path), shown or str(path)
    with open(path, "rb") as stream:
        zipped = stream.read(4) == _ZIP_START
        stream.seek(0)
        if zipped:
            return _read_torch_zip(path, shown)
        if tarfile.is_tarfile(stream):
            raise RefmapError(f"{shown} is a tar file, which torch wrote before 2017 and refmap does not read.")
        stream.seek(0)
        machine = Machine()
        value = _load(machine, stream, shown)
        if isinstance(value, int) and value == TORCH_MAGIC:
            _, _, value, _ = [_load(machine, stream, shown) for _ in range(TORCH_PICKLES - 1)]
        return machine.contents(value)


def _read_torch_zip(path: Path, shown: str) -> Contents:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_zip(path, archive, shown)
            (info,) = [m for m in members if m.filename.lower().replace("\\", "/").endswith("data.pkl")]
            data = archive.read(info)
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, NotImplementedError, RuntimeError, struct.error) as error:
        raise RefmapError(
            f"{shown} is truncated or no file of torch.save ({brief(error)}): copy it again from where it came from."
        ) from None
    machine = Machine()
    return machine.contents(_load(machine, io.BytesIO(data), shown))


def _check_zip(path: Path, archive: zipfile.ZipFile, shown: str) -> None:
    """Refuse a zip that torch could read otherwise than Python does, or that is larger inside than outside."""
    size = path.stat().st_size
    with open(path, "rb") as stream:
        stream.seek(max(0, size - 98))
        tail = stream.read()
    start = struct.unpack_from("<I", tail, len(tail) - 6)[0] if tail[-22:-18] == _ZIP_END else None
    if start == 0xFFFFFFFF and tail[:4] == _ZIP64_END:
        start = struct.unpack_from("<Q", tail, 48)[0]
    # Python takes the zip64 record that stands before its locator, torch the one that the locator points to.
    located = len(tail) == 98 and tail[-42:-38] == _ZIP64_LOCATOR
    elsewhere = located and (tail[:4] != _ZIP64_END or struct.unpack_from("<Q", tail, 64)[0] != size - 98)
    names = [member.filename.lower() for member in archive.infolist()]
    if start != archive.start_dir or elsewhere:
        raise RefmapError(f"{shown} has other data before or behind its zip, which torch.save never writes.")
    if sum(member.file_size for member in archive.infolist()) > size:
        raise RefmapError(f"{shown} is compressed or claims more than it holds, which torch.save never writes.")
    if len(set(names)) != len(names) or any(name.endswith("constants.pkl") for name in names):
        raise RefmapError(f"{shown} holds a program (TorchScript) or two members of one name, and not a saved model.")
