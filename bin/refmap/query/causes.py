"""Why a file cannot be read, and what to do: what it is by its first bytes, and what the file libraries' errors mean."""

from __future__ import annotations

import errno
import gzip
import re
import zipfile
import zlib
from pathlib import Path

from ..common.exhaustion import exhausted

AGAIN = "copy or download it again"
WITH_ANNDATA = "read it with the program that it is for, and write it with anndata as .h5ad"
UNPACKED = "unpack it, and give what is in it"
# By its first bytes: what a file is that is no query, and what to do.
MAGIC = {
    b"version https://git-lfs": ("a pointer of Git LFS and not the file itself", "fetch it with git lfs pull"),
    b"\x1f\x8b": ("compressed with gzip", UNPACKED),
    b"BZh": ("compressed with bzip2", UNPACKED),
    b"\xfd7zXZ": ("compressed with xz", UNPACKED),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", UNPACKED),
    b"PK\x03\x04": ("a zip archive without a zarr store at its top", UNPACKED),
    b"RDX": ("data of R (.RData)", "write it from R as .h5ad, as with the packages zellkonverter or anndataR"),
    b"%%MatrixMarket": ("a Matrix Market table", "give the folder that it lies in, with its barcodes.tsv and features.tsv"),
    b"PAR1": ("a Parquet table", WITH_ANNDATA),
    b"ARROW1": ("a Feather table", WITH_ANNDATA),
    b"CDF": ("a NetCDF file", WITH_ANNDATA),
    b"\x93NUMPY": ("an array of numpy", WITH_ANNDATA),
    b"\x80\x02": ("a pickle of Python", WITH_ANNDATA),
    b"\x80\x03": ("a pickle of Python", WITH_ANNDATA),
    b"\x80\x04": ("a pickle of Python", WITH_ANNDATA),
    b"\x80\x05": ("a pickle of Python", WITH_ANNDATA),
    b"%PDF": ("a PDF", "give the data and not their description"),
}
R_DATA = (b"X\n", b"A\n", b"RDX", b"RDA")
# Of the filters that are neither in HDF5 nor in hdf5plugin.
FILTER = re.compile(r"required filter '?([^'()]*)'? is not registered|can't open (?:plugin )?directory", re.IGNORECASE)
EXPECTED_SIZE = re.compile(r"eof = (\d+).*stored_eof = (\d+)")
CODEC = re.compile(r"codec not available: '?([\w.-]+)|[Uu]nknown codec[^'\w]*'?([\w.-]+)|No codec.*'([\w.-]+)'")


def what_it_is(path: Path) -> tuple[str, str]:
    """What a file is that is neither HDF5 nor zarr, and what to do: two phrases.

    Raises OSError if it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(4096)
    for magic, known in MAGIC.items():
        if start.startswith(magic):
            if magic == b"\x1f\x8b" and _unpacked(path).startswith(R_DATA):
                return "data of R (.rds or .RData)", MAGIC[b"RDX"][1]
            return known
    if not start.strip(b"\0"):
        return "full of zero bytes, as an unfinished copy or download leaves it", AGAIN
    return _text(start) or ("no format that is known here", "give a file that anndata can read")


def _unpacked(path: Path) -> bytes:
    try:
        with gzip.open(path) as file:
            return file.read(16)
    except (OSError, EOFError, zlib.error):
        return b""


def _text(start: bytes) -> tuple[str, str] | None:
    try:
        words = start.decode("utf-8-sig").lstrip()
    except UnicodeDecodeError as error:
        if error.start < len(start) - 4:  # and not a letter that the 4,096 bytes cut
            return None
        words = start[: error.start].decode("utf-8-sig").lstrip()
    if not all(character.isprintable() or character.isspace() for character in words):
        return None
    if re.match(r"<(!doctype )?html", words, re.IGNORECASE):
        return "a web page (HTML), such as one that asks to log in", "download the file itself"
    if words.startswith("<"):
        return "XML, such as the error message of a server", AGAIN
    if words.startswith(("{", "[")):
        return "JSON", "give the data themselves"
    if "/annex/objects/" in words:
        return "a pointer of git-annex and not the file itself", "fetch it with git annex get"
    if any(delimiter in words.splitlines()[0] for delimiter in ",;\t"):
        return "a table of text", "read it with anndata.io.read_csv (cells in rows) and write it as .h5ad"
    return "text", "give the data themselves"


def what_holds(names: list[str]) -> tuple[str, str] | None:
    """What an HDF5 file or a zarr store with these members at its top is, where it is no AnnData; None where that is not known."""
    held = set(names)
    if {"row_attrs", "col_attrs"} & held:
        return "is a loom file without its matrix or its attributes", AGAIN
    if "matrix" in held:
        return "looks like a Cell Ranger .h5 without its barcodes or its features", AGAIN
    if {"assays", "cell.names"} <= held:
        return "is an h5Seurat file", "convert it with SeuratDisk::Convert(…, dest = 'h5ad')"
    if "X" in held and not held & {"obs", "var"}:
        return "has a matrix but no names", "write it with anndata, with obs and var"
    return None


def is_zipped_zarr(path: Path) -> bool:
    """Whether a file is a zip with a zarr store at its top."""
    try:
        with zipfile.ZipFile(path) as archive:
            return bool({".zgroup", "zarr.json"} & set(archive.namelist()))
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def reason(error: BaseException) -> str:
    """The first line of what an error says, or its name."""
    return (
        str(error.args[0] if isinstance(error, KeyError) and error.args else error).strip().splitlines() or [type(error).__name__]
    )[0]


def cause(error: Exception) -> tuple[str, str]:
    """What an error of the file libraries means, and what to do: two phrases. What is of the machine is raised again."""
    if exhausted(error):
        raise error
    said = reason(error)
    number = getattr(error, "errno", None)
    if number in (errno.EACCES, errno.EPERM):
        return "reading it is not permitted", "give the user who runs this the right to read it"
    if number in (errno.EIO, errno.ESTALE, errno.ENODEV):
        return f"the disk or the network that it lies on failed: {said}", "try again when that is mended"
    if number in (errno.EAGAIN, errno.EWOULDBLOCK) or "unable to lock" in said:
        return "another program has it locked", "wait until that program is done with it"
    if "file is already open for write" in said or "consistency flags" in said:
        return (
            "the program that wrote it has not closed it",
            "wait until that program is done; if it was ended, clear the mark with h5clear -s, or write the file anew",
        )
    if size := EXPECTED_SIZE.search(said):
        return f"it is cut off: {int(size[1]):,} of {int(size[2]):,} bytes are there", AGAIN
    if "truncated" in said or "addr overflow" in said:
        return "it is cut off", AGAIN
    if found := FILTER.search(said):
        name = f"'{found[1]}'" if found[1] else "that is not installed here"
        return (
            f"it is compressed by a filter {name}, which neither HDF5 nor hdf5plugin has",
            "write it anew with gzip, as with h5repack -f GZIP=4 where that filter is installed",
        )
    if "filter returned failure" in said:
        return "a compressed block of it cannot be unpacked", f"it is damaged, so {AGAIN}"
    if found := CODEC.search(said):
        name = next(filter(None, found.groups()))
        return f"it is compressed by '{name}', which is not read here", "write it anew with anndata"
    if isinstance(error, KeyError) or "locate attribute" in said or "object 'X' doesn't exist" in said:
        return f"something is missing in it: {said}", "write it anew with anndata"
    if isinstance(error, TypeError) or "dtype" in said or "No conversion path" in said:
        return (
            f"it has a type that is not read here: {said}",
            "convert it, e.g. to float32 or text, and write it anew with anndata",
        )
    return said, f"the file seems damaged, so {AGAIN} or write it anew with anndata"
