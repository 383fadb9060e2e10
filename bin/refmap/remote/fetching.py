"""What an address leads to, brought here: downloaded, checked, and an archive unpacked."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..common.errors import RefmapError, listed
from ..models.places import is_archive, unpack
from . import hub
from .addresses import parse
from .http import Unreachable, changed, download, hashes, token_for
from .resolving import ZENODO_TOKEN, Resolved, zenodo_endpoint

# What files of cells in an archive are called; a zarr that is a zip is read as it is.
CELLS, ZARR_ZIP = (".h5ad", ".h5mu", ".loom", ".zarr"), ".zarr.zip"


def fetch(resolved: Resolved, what: str, folder: Path, partial: Path | None = None) -> dict:
    """Fetch what an address leads to into `folder`, as the one thing in it: a folder, or a file. Return where it comes from.

    Parameters
    ----------
    resolved
        What there is.
    what
        `model` or `cells`: an archive of a model is unpacked, and of one of cells that with the cells is taken.
    folder
        To be made.
    partial
        A folder in which what was cut off is kept, for this run's next try or another run.

    Raises
    ------
    RefmapError
        If it is not what it should be; :class:`.http.Unreachable` if the service does not give all of it.
    """
    if not resolved.files:
        raise Unreachable(
            f"{resolved.address} cannot be reached, and --cache does not have it: fetch it where there is a network."
        )
    folder.mkdir(parents=True)
    with _workplace(partial, resolved.key, folder) as place:
        found = _hf(resolved, place) if resolved.kind == "hf" else _plain(resolved, place)
        checksums = {name: sha256 for name, (_path, sha256) in found.items()}
        if len(found) == 1:
            ((name, (path, _sha256)),) = found.items()
            if is_archive(path) and what == "model":
                unpack(path, resolved.address, folder / "model")
            elif is_archive(path) and not name.endswith(ZARR_ZIP):
                unpack(path, resolved.address, place / "unpacked")
                cells = _cells_among(place / "unpacked", resolved.address)
                shutil.move(cells, folder / cells.name)
            else:
                shutil.move(path, folder / name)
        else:
            for name, (path, _sha256) in found.items():
                (folder / "model" / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.move(path, folder / "model" / name)
    return {
        "address": resolved.address,
        "revision": resolved.revision,
        "licence": resolved.licence,
        "sha256": checksums,
    }


def _cells_among(folder: Path, shown: str) -> Path:
    """The one file, or zarr, with cells below a folder; what a Mac packs beside a file is none."""
    named = [path for path in sorted(folder.rglob("*")) if path.suffix in CELLS and not path.name.startswith("._")]
    found = [path for path in named if not any(parent in named for parent in path.parents)]
    if len(found) != 1:
        names = f" ({listed([path.relative_to(folder).as_posix() for path in found], 3)})" if found else ""
        raise RefmapError(f"{shown} holds {len(found)} files of cells{names}: give an archive of one, {listed(CELLS)}.")
    return found[0]


@contextmanager
def _workplace(partial: Path | None, key: str, folder: Path) -> Iterator[Path]:
    """A folder to download to: where an earlier try of the same left off, if nobody else is at it; else a new one."""
    own = folder / ".download"
    if partial is None or not key:
        own.mkdir()
        yield own
        shutil.rmtree(own, ignore_errors=True)
        return
    place = partial / key
    place.mkdir(parents=True, exist_ok=True)
    with open(partial / f"{key}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # another run fetches the same, or the file system has no locks
            own.mkdir()
            yield own
            shutil.rmtree(own, ignore_errors=True)
            return
        yield place
        shutil.rmtree(place, ignore_errors=True)
        Path(lock.name).unlink(missing_ok=True)


# Each of these returns where a file is and its SHA-256, by its name.
Found = dict[str, tuple[Path, str]]


def _hf(resolved: Resolved, place: Path) -> Found:
    found = {}
    # Cells come last: what is wrong with a model is known before
    for files in (resolved.files[:-1], resolved.files[-1:]):
        if files:
            hub.fetch(parse(resolved.address), resolved.revision, [file.url for file in files], place)
        for file in files:
            path = place / file.url
            if not path.is_file():
                raise Unreachable(f"{resolved.address}: {file.name} was not given; try again later.")
            found[file.name] = path, hashes(path)["sha256"]
            if file.checksum and file.checksum != f"sha256:{found[file.name][1]}":
                path.unlink()
                raise changed(resolved.address, file.name, f"sha256:{found[file.name][1]}", file.checksum)
    return found


def _plain(resolved: Resolved, place: Path) -> Found:
    found = {}
    for file in resolved.files:
        target = place / file.name
        variable = ZENODO_TOKEN if resolved.kind == "zenodo" else None
        token = token_for(file.url, zenodo_endpoint(), ZENODO_TOKEN) if variable else None
        # What an earlier try fetched whole is looked at once more
        if target.exists():
            target.rename(target.with_name(f"{target.name}.partial"))
        sha256 = download(file.url, target, resolved.address, file.size, file.checksum, file.etag, token, variable)
        found[file.name] = target, sha256
    return found
