"""Where the files of a model lie below what the user named: under a prefix, in a folder further down, or in an archive."""

from __future__ import annotations

import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ..common.errors import RefmapError, brief
from ..common.folders import ReferenceProducts

# What tells a model, behind a prefix that scvi-tools lets the user choose; and the file that is a whole model by itself.
_WHOLE = "model.pt"
_TELLING = (_WHOLE, "attr.pkl")
# What a model of SCimilarity is told by. Below its folder lie the cells that its searches look through, many times larger than the
# model, and none of it.
ENCODER = "encoder.ckpt"
_PARTS = (*_TELLING, "model_params.pt", "var_names.csv", "adata.h5ad", "mdata.h5mu")
# A model's numbers hardly shrink. What claims more than this many times its own size is not unpacked, nor is a heap of files.
_MOST_TIMES, _MOST_FILES = 100, 10_000
_UNREADABLE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError)


@dataclass
class Place:
    """A model's files: a folder, or one file in it that is all of the model.

    Attributes
    ----------
    shown
        What the user would call it.
    names
        What files that go by another name here are called there.
    kept
        The temporary folders that it lies in, which go when nobody holds it.
    """

    folder: Path
    shown: str
    file: str | None = None
    names: dict[str, str] = field(default_factory=dict)
    kept: list[tempfile.TemporaryDirectory] = field(default_factory=list)


def locate(path: Path, shown: str) -> Place:
    """The one model at `path`. Where there is none that is known by its files' names, the place itself.

    Raises
    ------
    RefmapError
        If there are several models, or if an archive cannot be unpacked or should not be.
    """
    if path.is_dir():
        return _in_folder(path, shown)
    if not is_archive(path):
        whole = path.suffix in (".pt", ".pth") and path.name != _WHOLE and not path.name.endswith(_PARTS[2:])
        return _renamed(path.parent, shown, {path.name: _WHOLE}, file=_WHOLE) if whole else Place(path.parent, shown, path.name)
    kept = tempfile.TemporaryDirectory(prefix="refmap-model-")
    unpack(path, shown, Path(kept.name))
    place = _in_folder(Path(kept.name), shown)
    place.kept.append(kept)
    return place


def below_of(shown: str, name: str) -> str:
    """What the user would call a file or folder below what they named, which may be an address."""
    return shown if name == "." else f"{shown.rstrip('/')}/{name}"


def tells_model(name: str) -> bool:
    """Whether a file of this name is one that a model is told by."""
    return name.endswith(_TELLING) or name == ENCODER


def is_product(path: Path, model: Path) -> bool:
    """Whether a path lies in what is kept beside a model of its reference's cells, which is none of the model's."""
    products = ReferenceProducts.of_model(model).folder
    return path == products or products in path.parents


def _in_folder(folder: Path, shown: str) -> Place:
    here = _prefixes(folder)
    if "" in here:
        return _whole(folder, shown)
    models = [(folder, prefix) for prefix in here] or [
        (below, prefix)
        for below in sorted(p for p in folder.rglob("*") if p.is_dir() and not is_product(p, folder))
        for prefix in _prefixes(below)
    ]
    if not models:
        return Place(folder, shown)
    if len(models) > 1:
        listed = [str(below.relative_to(folder) / prefix) for below, prefix in models]
        more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
        raise RefmapError(
            f"{shown} holds {len(models)} models ({', '.join(listed[:5])}{more}): "
            "name the folder or the model.pt of the one to use."
        )
    ((below, prefix),) = models
    shown = below_of(shown, below.relative_to(folder).as_posix())
    if not prefix:
        return _whole(below, shown)
    others = {path.name: path.name for path in below.iterdir() if path.is_file() and path.name not in _PARTS}
    return _renamed(below, shown, others | {prefix + name: name for name in _PARTS if (below / (prefix + name)).is_file()})


def _prefixes(folder: Path) -> list[str]:
    """The prefixes of the models whose files lie in this very folder."""
    files = [path.name for path in folder.iterdir() if path.is_file()]
    found = {file.removesuffix(name) for file in files for name in _TELLING if file.endswith(name)}
    return sorted(found | {""} if ENCODER in files else found)


def _whole(folder: Path, shown: str) -> Place:
    """A model whose files have no prefix: all below its folder, but those that `ENCODER` stands above."""
    if not (folder / ENCODER).is_file():
        return Place(folder, shown)
    return _renamed(folder, shown, {path.name: path.name for path in folder.iterdir() if path.is_file()})


def _renamed(folder: Path, shown: str, names: dict[str, str], file: str | None = None) -> Place:
    """A folder of links to the files of another, by the names that a model's files have."""
    kept = tempfile.TemporaryDirectory(prefix="refmap-model-")
    for old, new in names.items():
        (Path(kept.name) / new).symlink_to((folder / old).absolute())
    return Place(Path(kept.name), shown, file, {new: old for old, new in names.items()}, [kept])


# -------------------------------------------------------------------------------------------------------------------- archives


def is_archive(path: Path) -> bool:
    """Whether a file is a zip or tar of files, and no zip of torch's own."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return not any(name.lower().endswith("data.pkl") for name in archive.namelist())
        return path.name.endswith((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")) and tarfile.is_tarfile(path)
    except _UNREADABLE:
        return False


def unpack(path: Path, shown: str, folder: Path) -> None:
    """Unpack an archive's files into a folder.

    Raises
    ------
    RefmapError
        If it leads out of the folder, holds links or devices, would unpack to far more than it is, or is damaged.
    """
    most, total, seen = _MOST_TIMES * path.stat().st_size, 0, set()
    try:
        for name, size, stream in _members(path):
            parts = PurePosixPath(name.replace("\\", "/")).parts
            total += size
            if stream is None or not parts or parts[0] == "/" or ".." in parts or ":" in parts[0] or parts in seen:
                raise RefmapError(
                    f"{shown} holds '{brief(name)}', which leads out of it or is no file of its own: pack the model's files alone."
                )
            if total > most or len(seen) == _MOST_FILES:
                raise RefmapError(f"{shown} would unpack to far more than a model is: unpack it by hand, and give the folder.")
            seen.add(parts)
            target = folder.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            with stream, open(target, "xb") as out:
                shutil.copyfileobj(stream, out)
    except _UNREADABLE as error:
        raise RefmapError(f"{shown} cannot be unpacked ({brief(error)}): copy it again, or give the model's folder.") from None


def _members(path: Path) -> Iterator[tuple[str, int, BinaryIO | None]]:
    """Name, size and bytes of an archive's files; no bytes for what is a link or a device."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if not info.is_dir():
                    linked = stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG)
                    yield info.filename, info.file_size, None if linked else archive.open(info)
    else:
        with tarfile.open(path) as archive:
            for member in archive:
                if not member.isdir():
                    yield member.name, member.size, archive.extractfile(member) if member.isreg() else None
