"""How numbers and names travel in the page: little-endian, base64, and where it pays compressed as a browser unpacks it."""

from __future__ import annotations

import base64
import zlib

import numpy as np


def encode(codes: np.ndarray) -> str:
    """Return the base64 of unsigned integers."""
    return base64.b64encode(little_endian(codes)).decode()


def compress(data: bytes) -> str:
    """Return the base64 of the data in the zlib format: `new DecompressionStream("deflate")` unpacks it."""
    return base64.b64encode(zlib.compress(data)).decode()


def little_endian(codes: np.ndarray) -> bytes:
    return codes.astype(codes.dtype.newbyteorder("<")).tobytes()
