"""Queries as other programs write them: Cell Ranger's .h5 and folders, and loom."""

import gzip

import h5py
import numpy as np
import pytest
import scanpy as sc
from refmap.common.errors import RefmapError
from refmap.query.query import Query
from scipy import sparse

N_CELLS, N_GENES, N_PROTEINS = 50, 25, 5
WIDTH = N_GENES + N_PROTEINS
CELLS = [f"B{i}-1" for i in range(N_CELLS)]
IDS = [f"ENSG{i:011d}" for i in range(WIDTH)]
SYMBOLS = [f"G{i}" for i in range(WIDTH)]
GENES_ALONE = ["Gene Expression"] * WIDTH
WITH_PROTEINS = ["Gene Expression"] * N_GENES + ["Antibody Capture"] * N_PROTEINS


@pytest.fixture(scope="module")
def counts():
    counts = sparse.random(N_CELLS, WIDTH, 0.3, format="csr", random_state=1)
    counts.data = np.ceil(counts.data * 9)
    return counts


def read(query, layer="X", rows=7):
    return sparse.vstack([chunk for _, chunk in query.matrix(layer).chunks(rows)]).toarray()


def texts(values):
    return np.array(values, dtype="S")


def write_h5(path, counts, types=None, genomes=("GRCh38",)):
    """The third version where there are types of features, the second, a group a genome, where there are none."""
    with h5py.File(path, "w") as file:
        for genome in genomes if types is None else ("matrix",):
            group = file.create_group(genome)
            for part, dtype in (("data", np.int32), ("indices", np.int64), ("indptr", np.int64)):
                group[part] = getattr(counts, part).astype(dtype)
            group["shape"], group["barcodes"] = np.array([WIDTH, N_CELLS]), texts(CELLS)
            if types is None:
                group["genes"], group["gene_names"] = texts(IDS), texts(SYMBOLS)
            else:
                features = group.create_group("features")
                for name, values in (("id", IDS), ("name", SYMBOLS), ("feature_type", types), ("genome", genomes * WIDTH)):
                    features[name] = texts(values)
    return path


def write_folder(path, counts, order="cells", types=WITH_PROTEINS, before="", cells_first=False):
    path.mkdir(exist_ok=True)
    entries = counts.tocoo()
    keys = {"cells": (entries.col, entries.row), "genes": (entries.row, entries.col)}
    places = np.lexsort(keys[order]) if order in keys else np.random.default_rng(0).permutation(entries.nnz)
    rows, columns = (entries.row, entries.col) if cells_first else (entries.col, entries.row)
    shape = (N_CELLS, WIDTH) if cells_first else (WIDTH, N_CELLS)
    lines = [f"{rows[k] + 1} {columns[k] + 1} {int(entries.data[k])}" for k in places]
    head = ["%%MatrixMarket matrix coordinate integer general", "%metadata_json: {}", f"{shape[0]} {shape[1]} {entries.nnz}"]
    tables = {
        "matrix.mtx": head + lines,
        "barcodes.tsv": CELLS,
        "features.tsv": [f"{a}\t{b}\t{c}" for a, b, c in zip(IDS, SYMBOLS, types, strict=True)],
    }
    for name, content in tables.items():
        with gzip.open(path / f"{before}{name}.gz", "wt") as file:
            file.write("\n".join(content) + "\n")
    return path


def write_loom(path, counts):
    with h5py.File(path, "w") as file:
        file.create_dataset("matrix", data=counts.T.toarray().astype(np.float32), chunks=(8, 8), compression="gzip")
        file["layers/spliced"] = 2 * counts.T.toarray().astype(np.int32)
        file["row_attrs/Gene"], file["row_attrs/Accession"] = texts(SYMBOLS), texts(IDS)
        file["col_attrs/CellID"], file["col_attrs/donor"] = texts(CELLS), texts(["a", "b"] * 25)
        file["col_attrs/pca"] = np.ones((N_CELLS, 2))
    return path


def test_h5_of_cell_ranger(counts, tmp_path):
    with Query(write_h5(tmp_path / "query", counts, GENES_ALONE)) as query:
        assert (query.format, query.modality, list(query.obs_names)) == ("10x h5", None, CELLS)
        assert list(query.gene_ids()) == IDS and list(query.gene_ids("X", "gene_symbols")) == SYMBOLS
        assert (read(query) == counts.toarray()).all()
    with Query(write_h5(tmp_path / "query", counts)) as query:
        assert list(query.gene_ids("X", "gene_symbols")) == SYMBOLS
        assert (read(query) == counts.toarray()).all()


@pytest.mark.parametrize("types", [GENES_ALONE, WITH_PROTEINS, None])
@pytest.mark.parametrize("write", [write_h5, write_folder])
def test_what_scanpy_reads_is_what_is_read(counts, tmp_path, write, types):
    path = write(tmp_path / "query", counts, **({} if types is None else {"types": types}))
    expected = (sc.read_10x_h5 if write is write_h5 else sc.read_10x_mtx)(path)
    with Query(path) as query:
        assert list(query.obs_names) == list(expected.obs_names)
        assert list(query.gene_ids()) == list(expected.var["gene_ids"])
        assert list(query.gene_ids("X", "gene_symbols")) == list(expected.var_names)
        assert (read(query) == expected.X.toarray()).all()


def test_genomes_of_the_second_version_are_chosen_between(counts, tmp_path):
    path = write_h5(tmp_path / "query", counts, genomes=("hg19", "mm10"))
    with pytest.raises(RefmapError, match="set modality to one of 'hg19', 'mm10'"):
        Query(path)
    with Query(path, modality="mm10") as query:
        assert (read(query) == counts.toarray()).all()


@pytest.mark.parametrize("write", [lambda path, counts: write_h5(path, counts, WITH_PROTEINS), write_folder])
def test_antibodies_lie_beside_genes(counts, tmp_path, write):
    with Query(write(tmp_path / "query", counts)) as query:
        assert (query.modality, sorted(query.modality_names())) == ("rna", ["prot", "rna"])
        assert list(query.gene_ids()) == IDS[:N_GENES]
        assert (read(query) == counts.toarray()[:, :N_GENES]).all()
    with Query(tmp_path / "query", modality="prot") as query:
        assert (read(query) == counts.toarray()[:, N_GENES:]).all()


@pytest.mark.parametrize("cells_first", [False, True])
@pytest.mark.parametrize("order", ["cells", "genes", "none"])
def test_folders_in_any_order(counts, tmp_path, order, cells_first):
    with Query(write_folder(tmp_path / "q", counts, order, GENES_ALONE, "GSM1_", cells_first)) as query:
        assert (query.format, list(query.obs_names)) == ("10x folder", CELLS)
        assert (read(query) == counts.toarray()).all()


def test_loom(counts, tmp_path):
    with Query(write_loom(tmp_path / "query", counts)) as query:
        assert (query.format, query.layers, list(query.obs_names)) == ("loom", ["X", "spliced"], CELLS)
        assert list(query.obs_column("donor")) == ["a", "b"] * 25 and list(query.obsm()) == ["pca"]
        assert list(query.gene_ids()) == SYMBOLS and list(query.gene_ids("X", "Accession")) == IDS
        assert (read(query) == counts.toarray()).all() and (read(query, "spliced") == 2 * counts.toarray()).all()


def spoilt(path, **parts):
    """An HDF5 file with other values in some of its parts; None takes one out."""
    with h5py.File(path, "r+") as file:
        for name, values in parts.items():
            del file[name.replace("__", "/")]
            if values is not None:
                file[name.replace("__", "/")] = values
    return path


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


def lines(path, change):
    with gzip.open(path, "rt") as file:
        text = file.read().splitlines()
    with gzip.open(path, "wt") as file:
        file.write("\n".join(change(text)) + "\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: cut(f / "matrix.mtx.gz", 300), "cannot be read at the matrix of its folder"),
        (lambda f: lines(f / "matrix.mtx.gz", lambda text: text[:90]), "is cut off: 87 of 450 values are in matrix.mtx.gz"),
        (lambda f: lines(f / "matrix.mtx.gz", lambda text: [*text[:-1], "3 x"]), "matrix of its folder"),
        (
            lambda f: lines(f / "matrix.mtx.gz", lambda text: [*text[:-1], "31 1 1"]),
            "a line of matrix.mtx.gz is of none of its 30 genes",
        ),
        (lambda f: lines(f / "matrix.mtx.gz", lambda text: ["junk"]), "is no Matrix Market file of counts"),
        (
            lambda f: lines(f / "barcodes.tsv.gz", lambda text: text[:-1]),
            "matrix.mtx.gz is 30 x 50, and there are names for 49 cells",
        ),
        (lambda f: (f / "features.tsv.gz").unlink(), "is a folder of matrix.mtx.gz without 'features.tsv.gz'"),
        (lambda f: (f / "b_matrix.mtx").touch(), "is a folder of several matrices"),
    ],
)
def test_damaged_folders(counts, tmp_path, damage, message):
    damage(write_folder(tmp_path / "query", counts, types=GENES_ALONE))
    with pytest.raises(RefmapError, match=message):
        Query(tmp_path / "query")


def test_damaged_files(counts, tmp_path):
    for made, parts, message in (
        (write_h5(tmp_path / "a", counts, GENES_ALONE), {"matrix__data": None}, "it has no data"),
        (write_h5(tmp_path / "b", counts, GENES_ALONE), {"matrix__indptr": np.arange(9)}, "data, indices and indptr disagree"),
        (write_h5(tmp_path / "c", counts, GENES_ALONE), {"matrix__barcodes": None}, "without its barcodes"),
        (write_loom(tmp_path / "d", counts), {"col_attrs__CellID": None}, "has no names of its cells"),
        (write_loom(tmp_path / "e", counts), {"col_attrs__donor": np.arange(3)}, "'donor' has 3 values for 50 cells"),
        (write_loom(tmp_path / "f", counts), {"layers__spliced": np.ones((2, 2))}, "its layer 'spliced' is"),
    ):
        with pytest.raises(RefmapError, match=message):
            Query(spoilt(made, **parts)).close()
