"""Where zarr writes to: small stores are held in memory as they are written."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numcodecs
import zarr

# What passes between steps is read once: quick matters more than small.
COMPRESSOR = numcodecs.Blosc(cname="lz4", clevel=5, shuffle=numcodecs.Blosc.SHUFFLE)
# Bytes of a store that is held in memory as it is written.
HELD = 32 << 20


def fits(size: int) -> bool:
    """Whether so many bytes are little enough to be held in memory as they are written."""
    return size <= HELD


def is_small(*paths: Path) -> bool:
    """Whether what files and folders hold is little enough for that."""
    return small_files(*paths) is not None


def small_files(*paths: Path) -> list[Path] | None:
    """The files themselves and those in folders, None if they are not small; no more is looked at than tells.

    Folders that a link in a folder leads to, as a workflow leaves of what it did not change, are not followed: they may hold anything.
    """
    found, total = [], 0
    for path in paths:
        for item in (path,) if path.is_file() else path.rglob("*"):
            if item.is_file():  # which a link that leads nowhere is not
                found.append(item)
                total += item.stat().st_size
            if not fits(total) or (item.is_symlink() and item.is_dir()):
                return None
    return found


@contextmanager
def new_store(path: Path, small: bool) -> Iterator[object]:
    """What zarr writes to, of a folder that is new, and there when the block ends; a small one, only if it ends well.

    A small one is held in memory until then. Of each of the hundreds of pieces of a store zarr asks the disk, makes folders and
    writes a temporary file, each time in another thread, and so takes three times as long.
    """
    shutil.rmtree(path, ignore_errors=True)
    if not small:
        yield zarr.storage.LocalStore(path)
        return
    held = {}
    yield zarr.storage.MemoryStore(held)
    _put(held, path)


@contextmanager
def new_anndata(path: Path, small: bool) -> Iterator[zarr.Group]:
    """An AnnData of zarr format 2 to fill, whose metadata are consolidated when the block ends: see :func:`new_store`."""
    with new_store(path, small) as store:
        root = zarr.open_group(store, mode="w", zarr_format=2)
        root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        yield root
        zarr.consolidate_metadata(store)


@contextmanager
def changed_store(path: Path) -> Iterator[object]:
    """What zarr reads from and writes to, of a folder that is there: see :func:`new_store`."""
    files = small_files(path)
    if files is None:
        yield zarr.storage.LocalStore(path)
        return
    from zarr.core.buffer.cpu import Buffer

    held = {file.relative_to(path).as_posix(): Buffer.from_bytes(file.read_bytes()) for file in files}
    yield zarr.storage.MemoryStore(held)
    shutil.rmtree(path)
    _put(held, path)


def _put(held: dict, path: Path) -> None:
    for folder in {(path / name).parent for name in held}:
        folder.mkdir(parents=True, exist_ok=True)
    for name, value in held.items():
        (path / name).write_bytes(value.to_bytes())
