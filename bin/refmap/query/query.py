"""A query dataset on disk: .h5ad, .zarr (format 2 and 3) or .h5mu, told apart by content and read piece by piece.

Metadata are read when asked for; a matrix is only ever read in blocks of rows, so memory does not follow the number of cells.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import zarr
from scipy import sparse

from ..common.errors import RefmapError, listed, nearest
from .causes import is_zipped_zarr, what_holds, what_it_is
from .elements import Frame, Source, as_text, encoding, is_group, members, read_whole, text
from .matrix import Matrix
from .modalities import Beside, ids_beside, matrices_beside


@dataclass
class Proteins:
    """Protein counts of a query: their names, and `rows(start, stop)` -> float array (cells x proteins)."""

    name: str
    names: list[str]
    n_obs: int
    rows: Callable[[int, int], np.ndarray]
    others: tuple[str, ...] = ()  # what else protein_key could name


class Query(Source):
    """A query dataset, open for reading.

    `shown_as` is the path as the user wrote it, for messages: a workflow may have staged the file under another name. `called` is
    what messages call it.
    """

    def __init__(self, path: Path, shown_as: str | None = None, modality: str | None = None, called: str = "query"):
        super().__init__(shown_as or str(path), called)
        self.path = Path(path)
        self.container, self.format = self._open()
        self.root = self._choose(modality)
        self.beside: dict[str, Source] = {}  # by the model's modality that each is: see `beside.read_beside`

    def _open(self) -> tuple[h5py.Group | zarr.Group, str]:
        path = self.path
        with self.reading("its place"):
            if not path.exists():
                raise RefmapError(f"{self.called} file '{self.shown_as}' does not exist.")
            if path.is_dir():
                return self._open_folder(), "zarr"
            if not path.is_file():
                raise self.fault("is neither a file nor a folder: give an .h5ad, .zarr or .h5mu.")
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
                return file, "h5mu" if "mod" in file and "obs" in file else "h5ad"
        if is_zipped_zarr(path):
            with self.reading("its top group"):
                return zarr.open_group(zarr.storage.ZipStore(path, mode="r"), mode="r"), "zarr"
        found, advice = what_it_is(path)
        raise self.fault(f"is neither an HDF5 file (.h5ad, .h5mu) nor a zarr store, but {found}: {advice}.")

    def _open_folder(self) -> zarr.Group:
        path = self.path
        if any((path / name).is_file() for name in (".zgroup", "zarr.json")):
            with self.reading("its top group"):
                return zarr.open_group(path, mode="r")
        held = sorted(item.name for item in path.iterdir())
        if any(name.startswith("matrix.mtx") for name in held):
            raise self.fault("is a folder of Cell Ranger: read it with scanpy.read_10x_mtx and write it as .h5ad.")
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
    def obs_names(self) -> np.ndarray:
        return self.obs.index

    @property
    def n_obs(self) -> int:
        return len(self.obs)

    @cached_property
    def _shared_obs(self) -> Frame | None:
        """Of several modalities: the table of all cells."""
        return Frame(self.container["obs"], self) if self.multimodal else None

    @cached_property
    def obs_columns(self) -> list[str]:
        shared = self._shared_obs.columns if self._shared_obs else []
        return list(dict.fromkeys([*self.obs.columns, *shared]))

    def obs_column(self, column: str) -> pd.Series:
        """A column of obs, in the order of the cells; for .h5mu, of the modality's obs or else of the one they share.

        Raises RefmapError naming the nearest column if there is none.
        """
        if column in self.obs:
            return self.obs[column]
        if column not in self.obs_columns:
            raise self.missing_column(column)
        shared = pd.Series(self._shared_obs[column].array, index=self._shared_obs.index)
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
        return names + (["raw"] if self._raw else [])

    def check_layer(self, layer: str) -> None:
        """Raises RefmapError listing what there is if the layer is not."""
        if layer not in self.layers:
            what = "no X" if layer == "X" else "no raw.X" if layer == "raw" else f"no layer '{layer}'"
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

    # Proteins

    def protein_places(self) -> list[str]:
        """Where proteins may be: the keys of obsm and the modalities."""
        return [*self.obsm(), *self.modality_names()]

    def modality_names(self) -> list[str]:
        return list(self.container["mod"]) if self.multimodal else []

    def obsm(self) -> dict:
        obsm = self.root.get("obsm")
        return dict(members(obsm)) if obsm is not None else {}

    def proteins(self, key: str) -> Proteins:
        """Protein counts.

        `key` is a modality, whose X holds them, or `<modality>/<layer>`; or an obsm key that holds a table, or an array whose
        names lie in uns.

        Raises RefmapError if there are none, or no names for them.
        """
        modalities = self.modality_names()
        modality, _, layer = key.partition("/")
        if key in modalities:
            return self._protein_modality(key, "X")
        found = self.obsm()
        if key not in found and modality in modalities:
            return self._protein_modality(modality, layer.removeprefix("layers/"))
        if found.get(key) is None:
            known = self.protein_places()
            raise self.fault(
                f"has no protein data '{key}' (protein_key): its obsm keys and modalities are {listed(known)}.{nearest(key, known)}"
            )
        elem = found[key]
        if encoding(elem) == "dataframe":
            return self._protein_frame(key, Frame(elem, self), elem)
        if not is_group(elem):
            return Proteins(f"obsm '{key}'", self.feature_names(key, elem.shape[1]), self.n_obs, lambda a, b: _dense(elem[a:b]))
        with self.reading(f"obsm '{key}'"):
            matrix = Matrix(elem, f"obsm '{key}'", self, tuple(elem.attrs.get("shape", (self.n_obs, 0))))
            stored = (
                matrix if matrix.format == "csr" else sparse.vstack([chunk for _, chunk in matrix.chunks(4096)], format="csr")
            )
        read = matrix.rows if stored is matrix else lambda a, b: stored[a:b]
        return Proteins(matrix.name, self.feature_names(key, matrix.shape[1]), self.n_obs, lambda a, b: _dense(read(a, b)))

    def _protein_frame(self, key: str, frame: Frame, elem) -> Proteins:
        def rows(start: int, stop: int) -> np.ndarray:
            return np.column_stack([np.asarray(_numbers(elem[name])[start:stop], dtype=float) for name in frame.columns])

        return Proteins(f"obsm '{key}'", frame.columns, self.n_obs, rows)

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

    def _protein_modality(self, key: str, layer: str) -> Proteins:
        """A layer of a modality in the order of the query's cells; cells that it lacks are all zero."""
        other = Query(self.path, self.shown_as, key)
        if layer not in other.layers:
            raise self.fault(
                f"has no '{layer}' in modality '{key}' (protein_key): set protein_key to '{key}' for its X, or to "
                f"{listed(f'{key}/{name}' for name in other.layers if name != 'X')}.{nearest(layer, other.layers)}"
            )
        matrix = other.matrix(layer)
        order = pd.Index(other.obs_names).get_indexer(self.obs_names)
        in_order = np.array_equal(order, np.arange(self.n_obs))
        # Only a modality stored by the column, or in another order than the counts, must be held whole.
        whole = (
            None
            if in_order and matrix.format != "csc"
            else sparse.vstack([chunk for _, chunk in matrix.chunks(4096)], format="csr")
        )

        def rows(start: int, stop: int) -> np.ndarray:
            if whole is None:
                return _dense(matrix.rows(start, stop))
            taken = order[start:stop]
            values = np.asarray(whole[np.maximum(taken, 0)].toarray(), dtype=float)
            values[taken < 0] = 0
            return values

        where = f"modality '{key}'" + ("" if layer == "X" else f", {layer_name(layer)}")
        others = (f"{key}/{name}" if name != "X" else key for name in other.layers if name != layer)
        return Proteins(where, list(other.gene_ids(layer)), self.n_obs, rows, tuple(others))


def _is_anndata(elem) -> bool:
    return elem is not None and is_group(elem) and "obs" in elem and "var" in elem


def _holds_anndatas(root, folder: str) -> bool:
    """Whether a file is one of several modalities (`mod`) or of SpatialData (`tables`)."""
    if folder == "mod":
        return "mod" in root and "obs" in root and is_group(root["mod"])
    return folder in root and not _is_anndata(root) and is_group(root[folder])


def _numbers(elem):
    """A column of numbers, of which none may be missing, as it is stored."""
    return elem["values"] if is_group(elem) and "values" in elem else elem


def _dense(block) -> np.ndarray:
    return np.asarray(block.toarray() if sparse.issparse(block) else block, dtype=float)


def layer_name(layer: str) -> str:
    """How a layer is called in messages."""
    return {"X": "X", "raw": "raw.X"}.get(layer, f"layers/{layer}")
