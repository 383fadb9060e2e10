"""Map queries onto models of scvi-tools as the pipeline does."""

from __future__ import annotations

import json
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from refmap.common.cli import write_json
from refmap.common.folders import MappedFolder, PreparedFolder, ReferenceFolder
from refmap.mapping.mapping import map_query
from refmap.query.align import align
from refmap.query.checks import check
from refmap.query.query import Query
from refmap.reference.cells import prepare_reference
from refmap.reference.inspection import inspect_model
from refmap.reference.training import embed_reference
from rows import ROW


class Mapped:
    """What one mapping left behind."""

    def __init__(self, folder: Path):
        mapped = MappedFolder(folder / "mapped")
        self.model, self.aligned = folder / "updated", PreparedFolder(folder / "prepared").aligned
        self.embedding = ad.read_zarr(mapped.embedding)
        self.latent = self.embedding.obsm["X_emb"]
        self.history = pd.read_csv(mapped.history, index_col="epoch")
        self.record = json.loads(mapped.record.read_text())


def prepare(adata, model: Path, folder: Path, row: dict) -> tuple[dict, PreparedFolder]:
    """Check and align `adata` for the model; return its card and the folder that surgery takes."""
    prepared = PreparedFolder(folder)
    folder.mkdir(parents=True)
    query = folder.with_suffix(".h5ad")
    adata.write_h5ad(query)
    card = inspect_model(model, "atlas").to_json()
    plan = check(query, row, card)
    assert plan["faults"] == []
    with Query(query, row["query"]) as opened:
        write_json(prepared.alignment, align(opened, row, card, plan, prepared.aligned))
    write_json(prepared.plan, plan)
    return card, prepared


def prepare_cells(cells: Path | None, model: Path, folder: Path, **request) -> tuple[dict, ReferenceFolder, dict]:
    """Prepare the cells of a model's reference; return what is recorded of them, the folder and the model's card."""
    prepared, card = ReferenceFolder(folder), inspect_model(model, "atlas").to_json()
    prepare_reference(ROW["cells"] | {"reference": cells and cells.name} | request, cells, model, card, prepared)
    return json.loads(prepared.record.read_text()), prepared, card


def embed_cells(cells: Path, model: Path, folder: Path, **request) -> np.ndarray:
    """The latent of the cells of a model's reference, as the pipeline computes it."""
    record, prepared, card = prepare_cells(cells, model, folder, **request)
    assert (record["fault"], record["source"]) == (None, "counts")
    return embed_reference(ad.read_zarr(prepared.aligned), model, card, seed=0)["X_emb"]


def training_of(row: dict) -> dict:
    return {key: row[key] for key in ("train", "seed", "freeze_dropout", "strategy", "engine")}


def map_cells(adata, model: Path, folder: Path, **row) -> Mapped:
    """Check, align and map `adata` onto the model, as the pipeline does."""
    row = ROW | row
    card, prepared = prepare(adata, model, folder / "prepared", row)
    map_query(prepared, training_of(row), card, model, MappedFolder(folder / "mapped"), folder / "updated")
    return Mapped(folder)
