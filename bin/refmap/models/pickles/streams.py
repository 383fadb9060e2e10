"""Bytes that hold pickles: reads that never ask for more than there is, and how torch begins its files."""

from __future__ import annotations

import io
import pickle
from typing import Any, BinaryIO


class Bounded:
    """A file whose reads never ask for more than it holds: Python would allocate what a damaged length claims."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        start = stream.tell()
        self.size = stream.seek(0, io.SEEK_END)
        stream.seek(start)
        self.readline, self.tell = stream.readline, stream.tell

    def read(self, count: int) -> bytes:
        return self.stream.read(min(count, self.size - self.tell()))


TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file that torch wrote before 1.6
_TORCH_START = pickle.dumps(TORCH_MAGIC, 2)
TORCH_PICKLES = 5  # the magic number, protocol, machine, the value, the keys of the storages; then the numbers of the tensors


def is_storage(data: Any) -> bool:
    """Whether bytes begin as those that torch pickles a storage as: its format from before 1.6, and no zip."""
    return isinstance(data, bytes) and data.startswith(_TORCH_START)
