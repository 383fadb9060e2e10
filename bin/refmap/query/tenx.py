"""What Cell Ranger writes: .h5 of its second and third version, and folders of a Matrix Market file with tables of names.

Its features are of types, such as genes and antibodies. Several become the modalities of one file, as those of an .h5mu are.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from anndata.io import write_elem

from ..common.errors import listed
from .converted import CsrFile, mark_sparse, write_tables
from .elements import Source, text
from .matrix import Matrix
from .matrix_market import write_market

GENES = "Gene Expression"
# How its types of features are called as modalities; others by their own name.
MODALITIES = {GENES: "rna", "Antibody Capture": "prot", "Peaks": "atac"}
IDS, SYMBOLS, TYPES = "gene_ids", "gene_symbols", "feature_types"
CHUNK_ROWS = 4096


def matrices_in(file: h5py.File) -> list[str]:
    """The groups of an HDF5 file that are Cell Ranger's: `matrix`, or one a genome in its second version."""
    return [
        name
        for name, group in file.items()
        if isinstance(group, h5py.Group) and "barcodes" in group and ("features" in group or "genes" in group)
    ]


def write_h5(source: Source, path: Path, groups: list[str], out: h5py.File) -> None:
    """Write the AnnData of each group, by the name of its genome if there are several.

    Raises RefmapError, or whatever h5py raises, if the file is not as Cell Ranger leaves it.
    """
    with h5py.File(path, "r", locking=False) as file:
        for name in groups:
            group, parent = file[name], out if len(groups) == 1 else out.create_group(name)
            barcodes, var = _strings(group["barcodes"]), _features(group)
            # Its columns are cells: what is stored is cells x genes by the row
            matrix = Matrix(group, f"'{name}'", source, (len(barcodes), len(var)), "csr")
            if _write_tables(parent, barcodes, var):
                for part in ("data", "indices", "indptr"):
                    parent[f"X/{part}"] = h5py.ExternalLink(str(path.resolve()), f"{name}/{part}")
                mark_sparse(parent["X"], "csr", matrix.shape)
            else:
                _part(parent, matrix, var)


def _strings(dataset: h5py.Dataset) -> np.ndarray:
    return np.array([text(value) for value in dataset[...]], dtype=object)


def _features(group: h5py.Group) -> pd.DataFrame:
    if "features" not in group:
        return _var(_strings(group["genes"]), _strings(group["gene_names"]), None)
    features = group["features"]
    types = _strings(features["feature_type"]) if "feature_type" in features else None
    var = _var(_strings(features["id"]), _strings(features["name"]), types)
    if "genome" in features:
        var["genome"] = _strings(features["genome"])
    return var


def _var(ids: np.ndarray, symbols: np.ndarray, types: np.ndarray | None) -> pd.DataFrame:
    types = np.full(len(ids), GENES, dtype=object) if types is None else types
    return pd.DataFrame({SYMBOLS: symbols, TYPES: types}, index=pd.Index(ids, name=IDS, dtype=object), dtype=object)


def _modality(kind: str) -> str:
    return f"mod/{MODALITIES.get(kind, kind.lower().replace(' ', '_'))}"


def _write_tables(parent: h5py.Group, barcodes: np.ndarray, var: pd.DataFrame) -> bool:
    """Make an AnnData that lacks its matrix, or one a type of features in `mod`; whether it is one."""
    obs, types = pd.DataFrame(index=pd.Index(barcodes, dtype=object)), var[TYPES].unique()
    if len(types) < 2:
        write_tables(parent, obs, var)
        return True
    parent.attrs["encoding-type"] = "MuData"
    write_elem(parent, "obs", obs)
    for kind in types:
        write_tables(parent.create_group(_modality(kind)), obs, var[var[TYPES] == kind])
    return False


def _part(parent: h5py.Group, matrix: Matrix, var: pd.DataFrame) -> None:
    """Write the columns of each type of features as the matrix of its modality, by chunks of cells."""
    writers = []
    for kind in var[TYPES].unique():
        columns = np.flatnonzero(var[TYPES] == kind)
        writers.append((columns, CsrFile(parent.create_group(f"{_modality(kind)}/X"), len(columns), matrix.dtype)))
    for _, chunk in matrix.chunks(CHUNK_ROWS):
        for columns, writer in writers:
            writer.append(chunk[:, columns])
    for _, writer in writers:
        writer.close()


# -------------------------------------------------------------------------------------------------------------------- folders


@dataclass(frozen=True)
class Folder:
    """The three files of a matrix's folder."""

    matrix: Path
    barcodes: Path
    features: Path


def find_folder(path: Path, source: Source) -> Folder | None:
    """The files of a folder that holds one matrix of Cell Ranger, whatever stands before their names; None if it holds none.

    Raises RefmapError if it holds several, or no names for one.
    """
    held = sorted(item for item in path.iterdir() if item.is_file())
    matrices = [item for item in held if item.name.removesuffix(".gz").endswith("matrix.mtx")]
    if not matrices:
        return None
    if len(matrices) > 1:
        names = listed([item.name for item in matrices])
        raise source.fault(
            f"is a folder of several matrices, {names}: put each into a folder of its own, with its tables of names."
        )
    before = matrices[0].name.removesuffix(".gz").removesuffix("matrix.mtx")
    found = []
    for kinds in (("barcodes.tsv",), ("features.tsv", "genes.tsv")):
        wanted = [before + kind + packed for kind in kinds for packed in (".gz", "")]
        match = next((item for item in held if item.name in wanted), None)
        if match is None:
            raise source.fault(f"is a folder of {matrices[0].name} without {listed(wanted)}: put this table of names beside it.")
        found.append(match)
    return Folder(matrices[0], *found)


def write_folder(source: Source, folder: Folder, out: h5py.File) -> None:
    """Write the AnnData of a folder.

    Raises RefmapError, or what reading the files raises, if they are damaged or not each other's.
    """
    barcodes = _table(folder.barcodes)[0].to_numpy(object)
    features = _table(folder.features)
    ids = features[0].to_numpy(object)
    symbols, types = (features[column].to_numpy(object) if column in features else None for column in (1, 2))
    var = _var(ids, ids if symbols is None else symbols, types)
    with gzip.open(folder.matrix, "rb") if folder.matrix.name.endswith(".gz") else open(folder.matrix, "rb") as stream:
        write_market(source, stream, folder.matrix.name, (len(barcodes), len(var)), out.create_group("X"))
    if not _write_tables(out, barcodes, var):
        _part(out, Matrix(out["X"], folder.matrix.name, source, (len(barcodes), len(var))), var)
        del out["X"]


def _table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", header=None, dtype=str, keep_default_na=False, quoting=3, compression="infer")
