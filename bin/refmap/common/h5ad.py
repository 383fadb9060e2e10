"""An AnnData in the other of its two formats, copied by blocks: what is stored alike stays alike."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import zarr

# Bytes that are copied at once.
BLOCK_BYTES = 64 << 20
# Arrays of fewer bytes are not packed, as each would be a chunk of its own.
LEAST_PACKED = 1 << 16


def zarr_to_h5ad(source: Path, out: Path) -> None:
    """Write an AnnData zarr as .h5ad, arrays by blocks: memory follows none of them."""
    with h5py.File(out, "w") as target:
        _copy_group(zarr.open_group(source, mode="r"), target)


def _copy_group(source: zarr.Group, target: h5py.Group) -> None:
    target.attrs.update(dict(source.attrs))
    for name, member in source.members():
        if isinstance(member, zarr.Group):
            _copy_group(member, target.create_group(name))
        else:
            _copy_array(member, target, name)


def _copy_array(source: zarr.Array, target: h5py.Group, name: str) -> None:
    text = source.dtype.kind in "OUT"
    dtype = h5py.string_dtype() if text else source.dtype
    packed = {}
    if source.shape and source.size * (8 if text else source.dtype.itemsize) > LEAST_PACKED:
        packed = {"chunks": True, "compression": "gzip", "compression_opts": 1, "shuffle": True}
    copy = target.create_dataset(name, shape=source.shape, dtype=dtype, **packed)
    if not source.shape:
        copy[()] = source[()]
    else:
        row = max(1, int(np.prod(source.shape[1:])) * (64 if text else source.dtype.itemsize))
        step = max(1, BLOCK_BYTES // row)
        for start in range(0, source.shape[0], step):
            copy[start : start + step] = source[start : start + step]
    copy.attrs.update(dict(source.attrs))
