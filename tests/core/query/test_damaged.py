"""Files that are cut off, flipped or spliced at any place are refused with a sentence, or mapped, and never more.

`REFMAP_FUZZ=5000` tries as many of each kind as it says, and other ones each time.
"""

import multiprocessing
import os
import resource
import shutil
import signal
import time
import traceback

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refmap.common.cli import within
from refmap.common.errors import RefmapError
from refmap.common.exhaustion import Exhausted, exhaustion
from refmap.mapping.export import export
from refmap.query.align import align
from refmap.query.checks import check
from refmap.query.query import Query
from refmap.sheet.sheet import read_sheet
from scipy import sparse
from small_queries import MODEL, make_card, make_query, make_row

TRIES = int(os.environ.get("REFMAP_FUZZ", 10))
FUZZ = settings(
    max_examples=TRIES,
    deadline=None,
    database=None,
    derandomize="REFMAP_FUZZ" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
# The first takes the time of the imports.
SECONDS, MEMORY = 120, 1 << 30
# Memory that is not to be had is told as the machine's fault, with what to do.
ACCEPTED = {"done", "refused", "memory", "endless"}
DAMAGES = st.lists(
    st.tuples(st.sampled_from(["cut", "flip", "zero", "splice", "large"]), st.floats(0, 1), st.floats(0, 1), st.integers(0, 255)),
    min_size=1,
    max_size=4,
)


def damaged(content: bytes, damages) -> bytes:
    content = bytearray(content)
    for kind, at, other, value in damages:
        first, second = sorted((int(at * len(content)), int(other * len(content))))
        if kind == "cut":
            del content[second:]
        elif kind == "flip" and first < len(content):
            content[first] ^= value
        elif kind == "zero":
            content[first : first + value] = bytes(len(content[first : first + value]))
        elif kind == "splice":
            content[first : first + value] = content[second : second + value]
        elif kind == "large":
            content[first : first + 8] = b"\xff" * 7 + b"\x7f"
    return bytes(content)


class Worker:
    """A process with little memory that tries files, and is replaced when it crashes or hangs."""

    def __init__(self):
        self.process = None

    def __call__(self, *paths) -> str:
        """What becomes of a query: 'done', 'refused', 'memory', or what went wrong."""
        if self.process is None:
            context = multiprocessing.get_context("spawn")
            self.pipe, other = context.Pipe()
            self.process = context.Process(target=serve, args=(other,), daemon=True)
            self.process.start()
            other.close()
        try:
            self.pipe.send(paths)
            if self.pipe.poll(SECONDS):
                return self.pipe.recv()
            said = "it hangs"
        except EOFError:
            said = "it crashed"
            self.process.join()
            if self.process.exitcode == -signal.SIGXCPU:
                self.process = None
                return "endless"
        self.process.kill()
        self.process.join()
        said, self.process = f"{said}: {self.process.exitcode}", None
        return said


def serve(pipe) -> None:
    """Try what comes through the pipe; the first is whole, so that what is loaded once is no part of the memory that is allowed."""
    allowed = False
    while True:
        path, embedding, folder = pipe.recv()
        said = "done"
        # A query that takes longer is told by CHECK_QUERY, which ends then
        resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + SECONDS // 2, resource.RLIM_INFINITY))
        try:
            with exhaustion():
                go_through(path, embedding, folder)
        except RefmapError:
            said = "refused"
        except Exhausted:
            said = "memory"
        except BaseException:
            said = traceback.format_exc()
        if not allowed:
            held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))
            allowed = True
        pipe.send(said)


@pytest.fixture(scope="module")
def outcome(whole, tmp_path_factory):
    worker = Worker()
    assert worker(whole / "q.h5ad", whole / "embedding.zarr", tmp_path_factory.mktemp("first")) == "done"
    yield worker
    worker.process.kill()


def go_through(path, embedding, folder) -> None:
    """What the steps of a mapping do with a query."""
    row, card = make_row(), make_card()
    plan = check(path, row, card)
    if plan["faults"]:
        assert all("\n" not in fault for fault in plan["faults"])
        raise RefmapError(plan["faults"][0])
    with Query(path, "q") as query:
        align(query, row, card, plan, folder / "aligned.zarr")
        export(query, row, embedding, folder / "out.zarr")
    anndata.read_zarr(folder / "out.zarr")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A query with something of everything, as .h5ad and .zarr, and an embedding of its cells."""
    folder = tmp_path_factory.mktemp("whole")
    adata = make_query(MODEL, kind=pd.Categorical(["a", "b", "c"] * 3), number=np.arange(9.0))
    adata.layers["dense"] = adata.X.toarray()
    adata.layers["csc"] = sparse.csc_matrix(adata.X)
    adata.obsm["table"] = pd.DataFrame({"x": np.arange(9)}, index=adata.obs_names)
    adata.obsm["X_pca"] = np.zeros((9, 2))
    adata.uns["nested"] = {"text": "hello", "array": np.arange(3), "words": ["a", "b"]}
    adata.raw = adata.copy()
    adata.write_h5ad(folder / "q.h5ad", compression="gzip")
    adata.write_zarr(folder / "q.zarr")
    result = anndata.AnnData(obs=pd.DataFrame(index=adata.obs_names), obsm={"X_emb": np.zeros((9, 2), np.float32)})
    result.write_zarr(folder / "embedding.zarr")
    return folder


def test_a_heap_in_which_hdf5_goes_round_in_circles(whole, tmp_path):
    """An object of no size in the heap of texts; at most one file in some ten thousand that are damaged at random."""
    content = (whole / "q.h5ad").read_bytes()
    heap = content.index(b"GCOL")
    (tmp_path / "q").write_bytes(content[: heap + 16] + bytes(16) + content[heap + 32 :])
    assert not within(5, lambda: check(tmp_path / "q", make_row(), make_card()))
    assert within(5, lambda: check(whole / "q.h5ad", make_row(), make_card()))


@FUZZ
@given(damages=DAMAGES)
def test_h5ad(whole, outcome, tmp_path_factory, damages):
    folder = tmp_path_factory.mktemp("h5ad")
    (folder / "q").write_bytes(damaged((whole / "q.h5ad").read_bytes(), damages))
    assert outcome(folder / "q", whole / "embedding.zarr", folder) in ACCEPTED
    shutil.rmtree(folder)


@FUZZ
@given(damages=DAMAGES, where=st.floats(0, 1, exclude_max=True))
def test_zarr(whole, outcome, tmp_path_factory, damages, where):
    folder = tmp_path_factory.mktemp("zarr")
    shutil.copytree(whole / "q.zarr", folder / "q")
    files = sorted(path for path in (folder / "q").rglob("*") if path.is_file())
    chosen = files[int(where * len(files))]
    chosen.write_bytes(damaged(chosen.read_bytes(), damages))
    assert outcome(folder / "q", whole / "embedding.zarr", folder) in ACCEPTED
    shutil.rmtree(folder)


SHEETS = {
    ".csv": b"dataset,file_id,query,model,batch_key,labels_key\nlung,a,q.h5ad,m,donor,\nlung,b,q.zarr,m,donor,x;y\n",
    ".yaml": b"DATASETS:\n  lung:\n    input: {reference_mapping: {a: q.h5ad}}\n    reference_mapping:\n      model: m\n      model_params: {batch_key: d}\n",
}
DEFAULTS = {"max_epochs": 1, "early_stopping": True, "check_val_every_n_epoch": 5, "early_stopping_patience": 5, "seed": 0} | {
    "one_batch": False, "round_counts": False, "strategy": "joint", "engine": "auto", "correction": "auto",
    "min_gene_overlap": 0.2, "warn_gene_overlap": 0.8,
    "reference": None, "reference_layer": "X", "reference_var_key": None, "reference_airr": None,
}  # fmt: skip


@FUZZ
@given(damages=DAMAGES, suffix=st.sampled_from(sorted(SHEETS)))
def test_sheet(tmp_path_factory, damages, suffix):
    path = tmp_path_factory.getbasetemp() / f"fuzzed{suffix}"
    path.write_bytes(damaged(SHEETS[suffix], damages))
    try:
        read_sheet(path, DEFAULTS)
    except RefmapError as error:
        assert str(error)
