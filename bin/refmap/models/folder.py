"""The folder of a model, read inertly."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from ..common.digest import sha256_of
from ..common.errors import RefmapError, brief
from .facts import FACTS, LASTING_FACTS, read_facts, write_facts
from .pickles import Contents, read_pickle, read_torch
from .places import below_of, is_product, locate

# What scvi-tools calls the data that it saves beside a model, behind a prefix that the user may choose.
DATA = ("adata.h5ad", "mdata.h5mu")
# How arrays in zarr may be stored, whether the model's or of data that lie beside it: all of numcodecs' but the one that unpickles.
_CODECS = {
    "adler32", "astype", "base64", "bitround", "blosc", "bz2", "categorize", "crc32", "crc32c", "delta", "fixedscaleoffset",
    "fletcher32", "gzip", "jenkins_lookup3", "json2", "lz4", "lzma", "msgpack2", "packbits", "pcodec", "quantize", "shuffle",
    "vlen-array", "vlen-bytes", "vlen-utf8", "zfpy", "zlib", "zstd",
}  # fmt: skip


def _odd_codecs(path: Path) -> list[str]:
    """What an array of a zarr of format 2 is encoded by beyond `_CODECS`."""
    try:
        array = json.loads(path.read_bytes())
        used = {codec["id"] for codec in [array.get("compressor"), *(array.get("filters") or [])] if codec}
    except (AttributeError, KeyError, TypeError, ValueError):
        return ["something that cannot be read"]
    return sorted(str(codec) for codec in used - _CODECS)


class ModelFolder:
    """A model's files, read inertly and once.

    `path` is None where there is nothing, a folder, or a file such as `model.pt` that is a whole model by itself: the files around
    it are none of the model's, for a workflow may have put it anywhere. It may also be a folder above the model, or a zip or tar
    with it, and the model's files may have a prefix. `shown_as` is the path that the user wrote, for sentences.

    Raises
    ------
    RefmapError
        If there is nothing at `path`, or more than one model, or an archive that cannot be unpacked.
    """

    def __init__(self, path: Path | None, shown_as: str | None = None) -> None:
        self.shown = shown_as or str(path)
        if path is None or not path.exists():
            raise RefmapError(f"There is no model at {self.shown}.")
        self._place = locate(path, self.shown)
        self.shown, self.path, self.file = self._place.shown, self._place.folder, self._place.file
        self._contents: dict[str, Contents] = {}

    def files(self) -> list[str]:
        """The names of the model's files, sorted; what lies beside them of its reference is none of the model's."""
        if self.file:
            return [self.file]
        files = (path for path in self.path.rglob("*") if path.is_file() and not is_product(path, self.path))
        return sorted(path.relative_to(self.path).as_posix() for path in files)

    def has(self, *names: str) -> bool:
        return all((self.path / name).is_file() and self.file in (None, name) for name in names)

    def show(self, name: str) -> str:
        """A file of the model as the user would write it."""
        return self.shown if self.file else below_of(self.shown, self._place.names.get(name, name))

    def contents(self, name: str) -> Contents:
        """The inert contents of a file: `*.pkl` as a plain pickle, any other as one of torch."""
        if name not in self._contents:
            read = read_pickle if name.endswith(".pkl") else read_torch
            self._contents[name] = read(self.path / name, self.show(name))
        return self._contents[name]

    def value(self, name: str, *keys: str) -> Any:
        """The value in a file, and in its dictionaries under `keys`; an empty dictionary where there is none."""
        value = self.contents(name).value if self.has(name) else {}
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return {} if value is None else value

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What `refmap.yaml` beside the model's files says of it, in the terms of `ModelCard`; empty where there is none.

        Raises
        ------
        RefmapError
            If it is no YAML, or holds a key that is no fact, or a fact of another type.
        """
        return read_facts(self.path / FACTS, self.show(FACTS)) if self.has(FACTS) else {}

    def globals(self) -> list[str]:
        """What the pickles read so far would import."""
        return sorted({name for contents in self._contents.values() for name in contents.names})

    def left_out(self) -> list[str]:
        """What the files read so far hold beyond what a mapping needs, and must not be unpickled: a sentence a file."""
        return [
            f"{self.show(name)} holds what no mapping needs and refmap does not load, and which is left out: "
            f"{brief(', '.join(contents.left_out))}."
            for name, contents in self._contents.items()
            if contents.left_out
        ]

    def refusal(self) -> str | None:
        """Why the files read so far must not be unpickled, or those in zarr not be decoded; or None."""
        for name in self.files():
            if name.endswith(".zarray") and (odd := _odd_codecs(self.path / name)):
                return (
                    f"{self.show(name)} is not safe to load: it is encoded by {', '.join(odd)}, which no model needs; "
                    "if you know where the file comes from, allow it with --trust_models."
                )
        for name, contents in self._contents.items():
            if contents.refused:
                wanted = brief(", ".join(contents.refused))
                return (
                    f"{self.show(name)} is not safe to load: unpickling it would run {wanted}, which no model needs; "
                    "if you know where the file comes from, allow it with --trust_models."
                )
        return None

    def verify(self, sha256: str) -> None:
        """Raise `RefmapError` unless the files are those that were inspected, to the byte: loading runs their pickles."""
        if self.sha256() != sha256:
            raise RefmapError(f"The model '{self.shown}' changed after it was inspected: run again with -resume.")

    def sha256(self) -> str:
        """The SHA-256 of the names, sizes and bytes of all the model's files, but not of data saved beside it."""
        return sha256_of(self.path, [name for name in self.files() if not name.endswith(DATA)])


def carry_facts(reference: ModelFolder, updated: Path) -> None:
    """Give an updated model the facts of its reference that surgery leaves as they are, unless it has its own."""
    kept = {name: fact for name, fact in reference.facts.items() if name in LASTING_FACTS}
    if kept:
        write_facts(updated, **(kept | ModelFolder(updated).facts))
