"""Tensors in plain pickles, as torch writes them, and attacks hidden in their bytes; made without torch."""

from __future__ import annotations

import collections
import io
import pickle
import struct
import tarfile
import zipfile

import numpy as np

_KEYS = pickle.dumps(["0"], 2)
_PROTOCOL = pickle.dumps(1001, 2)
_STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x0cNtQ."


def storage_bytes(before: bytes = b"") -> bytes:
    """The bytes that torch pickles a storage of the floats 0 to 11 as, with opcodes in its value's pickle `before` the value."""
    head = [pickle.dumps(0x1950A86A20F9469CFC6C, 2), _PROTOCOL, pickle.dumps({"little_endian": True}, 2)]
    numbers = struct.pack("<q", 12) + np.arange(12, dtype="<f4").tobytes()
    return b"".join([*head, b"\x80\x02", before, _STORAGE, _KEYS, numbers])


def _nested(depth: int) -> bytes:
    """Storages in storages, each of which loads the next fifty times."""
    data = storage_bytes()
    for _ in range(depth):
        calls = b"ctorch.storage\n_load_from_bytes\n(h\x00tR0" * 50
        data = storage_bytes(b"B" + struct.pack("<I", len(data)) + data + b"q\x000" + calls)
    return data


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"), io.BytesIO(b""))
    return buffer.getvalue()


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model/data.pkl", b"\x80\x02" + _STORAGE)
        archive.writestr("model/version", "3\n")
    return buffer.getvalue()


# What stands where a storage's bytes should.
OTHER_FORMS = {
    "a zip": _zip(),
    "a tar": _tar(),
    "nothing": b"",
    "text": "x",
    "cut short": storage_bytes()[:40],
    "no storage": storage_bytes().replace(_STORAGE, b"N."),
    # A name that a pickle may have elsewhere, but no storage needs.
    "another name": storage_bytes(b"ccollections\nOrderedDict\n)R0"),
    # torch nests no deeper; a file of a few kilobytes that did could be looked into for ever.
    "storages in storages": _nested(12),
}

PLACES = ["the value", "beside the value", "the head", "the keys", "the protocol"]


def hide(attack: bytes, place: str) -> bytes:
    """A storage's bytes with a pickle hidden in them; `attack` is of protocol 2."""
    honest = storage_bytes()
    return {
        "the value": honest.replace(b"\x80\x02" + _STORAGE, attack),
        "beside the value": storage_bytes(attack[2:-1] + b"0"),
        "the head": attack + honest,
        "the keys": honest.replace(_KEYS, attack),
        "the protocol": honest.replace(_PROTOCOL, attack),
    }[place]


class _Function:
    """Pickles as the name of a function that this environment need not have."""

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name

    def __call__(self):
        raise AssertionError("only pickled")


class _Storage:
    def __init__(self, data: bytes):
        self.data = data

    def __reduce__(self):
        return _Function("torch.storage", "_load_from_bytes"), (self.data,)


class TensorOf:
    """A tensor of 3 x 4, whose storage are the bytes `data`."""

    def __init__(self, data: bytes):
        self.storage = _Storage(data)

    def __reduce__(self):
        arguments = (self.storage, 0, (3, 4), (4, 1), False, collections.OrderedDict())
        return _Function("torch._utils", "_rebuild_tensor_v2"), arguments


class _Pickler(pickle._Pickler):
    """Python's own pickler, which can be told how a `_Function` is written."""

    def save(self, value, *args, **kwargs):
        if isinstance(value, _Function):
            self.write(f"c{value.module}\n{value.name}\n".encode())
        else:
            super().save(value, *args, **kwargs)


def dumps(value: object) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, 4).dump(value)
    return buffer.getvalue()
