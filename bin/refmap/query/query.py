"""A query dataset on disk: .h5ad, .zarr (format 2 and 3) or .h5mu, told apart by content and read piece by piece.

Loom files and what Cell Ranger writes are read as the AnnData that is made of them.
Metadata are read when asked for; a matrix is only ever read in blocks of rows, so memory does not follow the number of cells.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import zarr

from ..common.errors import RefmapError, listed, nearest
from ..common.names import Names
from .causes import is_zipped_zarr, what_holds, what_it_is
from .converted import converted
from .elements import Frame, Source, as_text, encoding, is_group, members, read_whole, text
from .loom import is_loom, write_loom
from .matrix import Matrix
from .modalities import Beside, ids_beside, matrices_beside
from .tenx import find_folder, matrices_in, write_folder, write_h5


class Query(Source):
    """A query dataset, open for reading.

    `path` is None where there is nothing. `shown_as` is the path as the user wrote it, for messages: a workflow may have staged the
    file under another name. `called` is what messages call it.
    """

    def __init__(self, path: Path | None, shown_as: str | None = None, modality: str | None = None, called: str = "query"):
        super().__init__(shown_as or str(path), called)
        self.path = path
        self.container, self.format = self._open()
        self.root = self._choose(modality)
        self.added = pd.DataFrame()  # columns of its cells from elsewhere, in their order: see `obs_table.add_obs_table`
        self.beside: dict[str, Source] = {}  # by the model's modality that each is: see `beside.read_beside`

    def _open(self) -> tuple[h5py.Group | zarr.Group, str]:
        path = self.path
        with self.reading("its place"):
            if path is None or not path.exists():
                raise RefmapError(f"{self.called} file '{self.shown_as}' does not exist.")
            if path.is_dir():
                return self._open_folder()
            if not path.is_file():
                raise self.fault(
                    "is neither a file nor a folder: give an .h5ad, .zarr, .h5mu, .loom, or what Cell Ranger writes."
                )
            if path.stat().st_size == 0:
                raise self.fault("is empty (0 bytes): copy it again.")
            with path.open("rb") as file:
                file.read(1)
        if h5py.is_hdf5(path):
            with self.reading("its top group"):
                with suppress(ImportError):  # where only tests read queries
                    import hdf5plugin  # noqa: F401  the filters that it brings are found once it is imported

                # Where only reading is done, a lock protects nothing, and some network disks know none.
                file = h5py.File(path, "r", locking=False)
                if isinstance(file.get("obs"), h5py.Dataset):  # which anndata opens again, and it must be in the same way
                    file.close()
                    file = h5py.File(path, "r")
                if "obs" in file:
                    return file, "h5mu" if "mod" in file else "h5ad"
                if is_loom(file):
                    file.close()
                    return converted(lambda out: write_loom(self, path, out)), "loom"
                if groups := matrices_in(file):
                    file.close()
                    return converted(lambda out: write_h5(self, path, groups, out)), "10x h5"
                return file, "h5ad"
        if is_zipped_zarr(path):
            with self.reading("its top group"):
                return zarr.open_group(zarr.storage.ZipStore(path, mode="r"), mode="r"), "zarr"
        found, advice = what_it_is(path)
        raise self.fault(f"is neither an HDF5 file (.h5ad, .h5mu) nor a zarr store, but {found}: {advice}.")

    def _open_folder(self) -> tuple[h5py.Group | zarr.Group, str]:
        path = self.path
        if any((path / name).is_file() for name in (".zgroup", "zarr.json")):
            with self.reading("its top group"):
                return zarr.open_group(path, mode="r"), "zarr"
        if folder := find_folder(path, self):
            with self.reading("the matrix of its folder"):
                return converted(lambda out: write_folder(self, folder, out)), "10x folder"
        held = sorted(item.name for item in path.iterdir())
        if any(name.startswith("__tiledb") for name in held):
            raise self.fault("is a TileDB-SOMA experiment: write it as .h5ad with tiledbsoma.io.to_h5ad.")
        inside = [name for name in held if (path / name / ".zgroup").is_file() or name.endswith((".h5ad", ".zarr", ".h5mu"))]
        hint = f"name one of the data in it, {listed(inside, 3)}" if inside else "give an .h5ad, .zarr or .h5mu"
        raise self.fault(f"is a folder but no zarr store (no .zgroup or zarr.json in it): {hint}.")

    def _choose(self, modality: str | None) -> h5py.Group | zarr.Group:
        """The group of the AnnData that holds the counts: the file itself, or the one asked for.

        That is a modality of several, a table of SpatialData, or any other group of the file, by its path.
        """
        root = self.container
        with self.reading("its top group"):
            folder = next((name for name in ("mod", "tables") if _holds_anndatas(root, name)), None)
            held = sorted(root[folder]) if folder else []
            if folder == "tables" and not modality and len(held) == 1:
                root = root["tables"][held[0]]
            elif folder and (modality or "rna") in held:
                root = root[folder][modality or "rna"]
            elif modality and _is_anndata(root.get(modality)):
                root = root[modality]
            elif folder:
                wanted = modality or "rna"
                raise self.fault(f"has no modality '{wanted}': set modality to one of {listed(held)}.{nearest(wanted, held)}")
            if not _is_anndata(root):
                if known := what_holds(list(root)):
                    raise self.fault(f"holds no AnnData (no obs or no var in it), but {known[0]}: {known[1]}.")
                inner = [name for name in root if _is_anndata(root.get(name))]
                hint = f"set modality to one of {listed(inner)}" if inner else "write it with anndata"
                raise self.fault(f"holds no AnnData (no obs or no var in it): {hint}.")
        return root

    @property
    def multimodal(self) -> bool:
        return _holds_anndatas(self.container, "mod")

    @property
    def modality(self) -> str | None:
        """The name of the modality that is read, of several."""
        return self.root.name.rsplit("/", 1)[-1] if self.multimodal else None

    def close(self) -> None:
        for other in self.beside.values():
            other.close()
        if "_backed" in self.__dict__ and self._backed.isbacked:  # a file that is open can be opened again in the same way alone
            self._backed.file.close()
        if isinstance(self.container, h5py.File):
            self.container.close()

    def __enter__(self) -> Query:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    # Tables

    @property
    def prehistoric(self) -> bool:
        """Written before anndata 0.7: tables are compound arrays, and categories lie in `uns`."""
        return not is_group(self.root["obs"])

    @cached_property
    def _backed(self) -> anndata.AnnData:
        with self.reading("obs and var"):
            if self.format == "zarr":
                return anndata.read_zarr(self.container)
            return anndata.read_h5ad(self.path, backed="r")

    def _frame(self, key: str) -> Frame:
        return Frame(getattr(self._backed, key) if self.prehistoric else self.root[key], self)

    @cached_property
    def obs(self) -> Frame:
        return self._frame("obs")

    @cached_property
    def var(self) -> Frame:
        return self._frame("var")

    @property
    def obs_names(self) -> pd.Index:
        return self.obs.row_names

    @property
    def n_obs(self) -> int:
        return len(self.obs)

    def has_cells(self, names: Names) -> bool:
        """Whether its cells are called so, in this order."""
        with self.reading("the names of its cells"):
            return self.obs.names.same_as(names)

    @cached_property
    def _shared_obs(self) -> Frame | None:
        """Of several modalities: the table of all cells."""
        return Frame(self.container["obs"], self) if self.multimodal else None

    @cached_property
    def stored_columns(self) -> list[str]:
        """The columns of obs in the file itself."""
        shared = self._shared_obs.columns if self._shared_obs else []
        return list(dict.fromkeys([*self.obs.columns, *shared]))

    @property
    def obs_columns(self) -> list[str]:
        return list(dict.fromkeys([*self.stored_columns, *self.added]))

    def obs_column(self, column: str) -> pd.Series:
        """A column of obs, in the order of the cells: one that was added, else that of the file.

        For .h5mu it is that of the modality's obs, or else of the one they share.

        Raises RefmapError naming the nearest column if there is none.
        """
        if column in self.added:
            return self.added[column]
        if column in self.obs:
            return self.obs[column]
        if column not in self.obs_columns:
            raise self.missing_column(column)
        shared = pd.Series(self._shared_obs[column].array, index=self._shared_obs.row_names)
        return shared.reindex(self.obs_names).reset_index(drop=True)

    def missing_column(self, column: str) -> RefmapError:
        return self.fault(
            f"has no obs column '{column}': its columns are {listed(self.obs_columns)}.{nearest(column, self.obs_columns)}"
        )

    # Matrices

    @cached_property
    def _raw(self):
        """(X, var) of raw as stored elements, or None."""
        raw = self.root.get("raw")
        if raw is not None and is_group(raw) and "X" in raw and "var" in raw:
            return raw["X"], raw["var"]
        if "raw.X" in self.root and "raw.var" in self.root:
            return self.root["raw.X"], self.root["raw.var"]
        return None

    @cached_property
    def layers(self) -> list[str]:
        """What can be asked of :meth:`matrix`: 'X', the layers (slashes may part their names), 'raw'."""
        with self.reading("its layers"):
            names = ["X"] if self.root.get("X") is not None and encoding(self.root["X"]) != "null" else []
            layers = self.root.get("layers")
            names += (
                [name for name, elem in members(layers) if elem is not None] if layers is not None and is_group(layers) else []
            )
            raw = ["raw"] if self._raw else []
        return names + raw

    def check_layer(self, layer: str) -> None:
        """Raises RefmapError listing what there is if the layer is not."""
        if layer not in self.layers:
            what = "no X" if layer == "X" else "no raw.X" if layer == "raw" else f"no layer '{layer}'"
            if not self.layers:
                raise self.fault("holds no matrix at all, neither X nor a layer nor raw: give a query with raw counts.")
            raise self.fault(f"has {what}: set layer to one of {listed(self.layers)}.{nearest(layer, self.layers)}")

    def matrix(self, layer: str = "X") -> Matrix | Beside:
        """The matrix of a layer: 'X', the name of a layer, or 'raw'.

        Raises RefmapError if it is not there, or not of one row a cell and one column a gene.
        """
        matrix = self.own_matrix(layer)
        return matrices_beside(self, matrix, layer) if self.beside else matrix

    def own_matrix(self, layer: str) -> Matrix:
        """That of this modality alone."""
        self.check_layer(layer)
        elem = self._raw[0] if layer == "raw" else self.root["X"] if layer == "X" else self.root["layers"][layer]
        shape = (self.n_obs, len(self.gene_frame(layer)))
        with self.reading(layer_name(layer)):
            matrix = Matrix(elem, layer_name(layer), self, shape)
        if matrix.shape != shape:
            raise self.fault(
                f"is damaged: {matrix.name} is {matrix.shape} but obs and var have {shape} rows: write it anew with anndata."
            )
        return matrix

    def gene_frame(self, layer: str = "X") -> Frame:
        """The `var` that goes with a layer: `raw` has its own."""
        if layer != "raw":
            return self.var
        if not self.prehistoric:
            return Frame(self._raw[1], self)
        return Frame(self._backed.raw.var, self)

    def gene_ids(self, layer: str = "X", var_key: str | None = None) -> np.ndarray:
        """The ids of the genes as an object array of str: the var index, or column `var_key` of var ('' where missing).

        Raises RefmapError naming the nearest column if there is none.
        """
        ids = self._gene_ids(layer, var_key)
        return np.concatenate([ids, *ids_beside(self, layer, var_key)]) if self.beside else ids

    def _gene_ids(self, layer: str, var_key: str | None) -> np.ndarray:
        frame = self.gene_frame(layer)
        if var_key is None:
            return frame.index
        if var_key not in frame:
            where = "raw.var" if layer == "raw" else "var"
            raise self.fault(
                f"has no {where} column '{var_key}' (var_key): its columns are {listed(frame.columns)}.{nearest(var_key, frame.columns)}"
            )
        ids = frame[var_key]
        if pd.api.types.is_float_dtype(ids.dtype) and (ids.dropna() % 1 == 0).all():
            ids = ids.astype("Int64")  # whole numbers become floats where one is missing
        return as_text(ids)

    def modality_names(self) -> list[str]:
        return list(self.container["mod"]) if self.multimodal else []

    def obsm(self) -> dict:
        """The elements of obsm by name."""
        with self.reading("its obsm"):
            obsm = self.root.get("obsm")
            return dict(members(obsm)) if obsm is not None else {}

    def feature_names(self, key: str, width: int) -> list[str]:
        """Names of the columns of an obsm array, from the uns entries that tools write them to."""
        for name in (f"{key}_names", "protein_names", f"{key}_columns"):
            if "uns" in self.root and name in self.root["uns"]:
                names = np.asarray(read_whole(self.root["uns"][name]), dtype=object).ravel()
                if len(names) == width:
                    return [text(value) for value in names]
        raise self.fault(
            f"has no names for the {width} proteins of obsm '{key}': store it as a DataFrame, or put the names in uns['{key}_names']."
        )


def _is_anndata(elem) -> bool:
    return elem is not None and is_group(elem) and "obs" in elem and "var" in elem


def _holds_anndatas(root, folder: str) -> bool:
    """Whether a file is one of several modalities (`mod`) or of SpatialData (`tables`)."""
    if folder == "mod":
        return "mod" in root and "obs" in root and is_group(root["mod"])
    return folder in root and not _is_anndata(root) and is_group(root[folder])


def layer_name(layer: str) -> str:
    """How a layer is called in messages."""
    return {"X": "X", "raw": "raw.X"}.get(layer, f"layers/{layer}")
