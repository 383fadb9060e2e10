"""Train references and map queries as the pipeline does, the alignment in the environment `core` and the rest in this one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from refmap.common.cli import write_json
from refmap.common.errors import RefmapError
from refmap.common.folders import MappedFolder, PreparedFolder, ReferenceFolder
from refmap.mapping.mapping import map_query
from refmap.reference.training import train_reference
from rows import REFERENCE, ROW

HERE = Path(__file__).resolve().parent


@lru_cache
def _aligner() -> subprocess.Popen:
    script = f". '{HERE.parents[1]}/containers/activate' core && exec python '{HERE}/aligner.py'"
    return subprocess.Popen(["bash", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _ask(**asked) -> dict:
    aligner = _aligner()
    print(json.dumps(asked), file=aligner.stdin, flush=True)
    answer = json.loads(aligner.stdout.readline())
    if "error" in answer:
        raise RefmapError(answer["error"])
    return answer


def train(
    family: str,
    cells: ad.AnnData,
    folder: Path,
    gmt: Path | None = None,
    embedding: Path | None = None,
    airr: Path | None = None,
    **settings,
) -> Path:
    """Train a reference of a family on `cells`; `settings` are the pipeline's parameters. Returns the model's folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    atlas, aligned = folder.with_suffix(".h5ad"), folder.with_suffix(".zarr")
    cells.write_h5ad(atlas)
    named = {"family": family, "reference_labels_key": "bulk_labels", "reference_airr": airr and airr.name}
    settings = REFERENCE | named | settings
    answer = _ask(reference=str(atlas), settings=settings, aligned=str(aligned), airr=airr and str(airr))
    train_reference(answer["settings"] | {"gmt": gmt}, aligned, folder, embedding, log=lambda line: None)
    return folder


def prepare_cells(cells: ad.AnnData, model: Path, folder: Path, airr: Path | None = None) -> tuple[dict, dict, Path]:
    """Prepare the cells of a model's reference; return the card, what was found out of the cells, and where they are aligned."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_suffix(".h5ad")
    cells.write_h5ad(path)
    answer = _ask(cells=str(path), model=str(model), folder=str(folder), airr=airr and str(airr))
    return answer["card"], answer["record"], ReferenceFolder(folder).aligned


class Mapped:
    """What one mapping left behind."""

    def __init__(self, folder: Path, card: dict, plan: dict):
        self.card, self.plan = card, plan
        self.folder = MappedFolder(folder / "mapped")
        self.model, self.aligned, self.results = folder / "updated", PreparedFolder(folder).aligned, self.folder.results
        self.embedding = ad.read_zarr(self.folder.embedding)
        self.latent = self.embedding.obsm["X_emb"]
        self.history = pd.read_csv(self.folder.history, index_col="epoch")
        self.record = json.loads(self.folder.record.read_text())


def inspect_and_check(
    adata: ad.AnnData,
    model: Path,
    folder: Path,
    gmt: Path | None = None,
    trust: bool = False,
    airr: Path | None = None,
    **row,
) -> dict:
    """Return the card, the plan and, if there is no fault, the alignment, which leaves `folder`/aligned.zarr."""
    folder.mkdir(parents=True)
    adata.write_h5ad(folder / "query.h5ad")
    return _ask(
        model=str(model),
        query=str(folder / "query.h5ad"),
        row=ROW | {"gmt": gmt and gmt.name, "airr": airr and airr.name} | row,
        aligned=str(folder / "aligned.zarr"),
        gmt=gmt and str(gmt),
        airr=airr and str(airr),
        trust=trust,
    )


def map_cells(
    adata: ad.AnnData,
    model: Path,
    folder: Path,
    gmt: Path | None = None,
    trust: bool = False,
    airr: Path | None = None,
    **row,
) -> Mapped:
    """Check, align and map `adata` onto the model. `row` changes tests/rows.py; its `options` are texts."""
    found = inspect_and_check(adata, model, folder, gmt, trust, airr, **row)
    card, plan = found["card"], found["plan"]
    assert plan["faults"] == []
    prepared = PreparedFolder(folder)
    write_json(prepared.plan, plan)
    write_json(prepared.alignment, found["alignment"])
    if gmt:
        shutil.copyfile(gmt, prepared.gmt)
    training = {key: (ROW | row)[key] for key in ("train", "seed", "freeze_dropout", "strategy", "engine")}
    map_query(prepared, training, card, model, MappedFolder(folder / "mapped"), folder / "updated")
    return Mapped(folder, card, plan)


@lru_cache
def _fresh() -> subprocess.Popen:
    return subprocess.Popen([sys.executable, str(HERE / "fresh.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def start_helpers() -> None:
    """Let the other processes import their libraries while this one does."""
    _aligner(), _fresh()


def in_a_fresh_process(code: str, *arguments: object) -> np.ndarray:
    """Run Python code that saves an array to `sys.argv[1]`, its further arguments being `arguments`; return the array."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "array.npy"
        fresh = _fresh()
        print(json.dumps({"code": code, "arguments": [str(path), *map(str, arguments)]}), file=fresh.stdin, flush=True)
        error = json.loads(fresh.stdout.readline())["error"]
        assert error is None, error
        return np.load(path)
