"""Tensors in files of the format safetensors: a JSON of names, types, shapes and places, then bytes; there is nothing to run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from ..common.errors import RefmapError

if TYPE_CHECKING:
    import torch

_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_MOST_HEADER = 100 << 20  # as the library


def shapes(path: Path, shown: str) -> dict[str, tuple[int, ...]]:
    """The shapes of a file's tensors, by name. Raises `RefmapError` where it is damaged."""
    return {name: shape for name, (_, shape, _) in _header(path, shown)[1].items()}


def tensors(path: Path, shown: str) -> dict[str, torch.Tensor]:
    """A file's tensors, by name. Raises `RefmapError` where it is damaged."""
    import torch

    types = {
        **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "BOOL": torch.bool},
        **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8},
    }
    start, entries = _header(path, shown)
    held = {}
    with open(path, "rb") as file:
        for name, (kind, shape, (begin, end)) in entries.items():
            file.seek(start + begin)
            data = bytearray(file.read(end - begin))
            held[name] = (
                torch.frombuffer(data, dtype=types[kind]).reshape(shape) if data else torch.empty(shape, dtype=types[kind])
            )
    return held


def _header(path: Path, shown: str) -> tuple[int, dict[str, tuple[str, tuple[int, ...], tuple[int, int]]]]:
    """Where the tensors' bytes begin; and of each its type, its shape, and where its bytes lie behind that."""
    size = path.stat().st_size
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(size - 8, _MOST_HEADER):
                raise ValueError
            header = json.loads(file.read(length))
        entries = {}
        for name, entry in header.items():
            if name != "__metadata__":
                shape, (begin, end) = tuple(entry["shape"]), entry["data_offsets"]
                whole = all(isinstance(n, int) and n >= 0 for n in (*shape, begin, end)) and 8 + length + end <= size
                if not whole or end - begin != math.prod(shape) * _SIZES[entry["dtype"]]:
                    raise ValueError
                entries[name] = entry["dtype"], shape, (begin, end)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RefmapError(f"{shown} is truncated or no file of safetensors: copy it again from where it came from.") from None
    return 8 + length, entries
