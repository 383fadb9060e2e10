"""A query whose embedding came along with it, passed on as if it had been mapped."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd

from ..common.cli import read_json, write_json
from ..common.folders import MappedFolder, PreparedFolder
from ..common.storage import write_zarr
from ..query.embedded import read_embedding
from ..query.query import Query
from .mapping import start_record


def pass_on(query: Query, prepared: PreparedFolder, card: dict, mapped: MappedFolder) -> None:
    """Write what surgery would give of a query: its embedding as it is; what only a model has is left open.

    Raises RefmapError if the embedding cannot be read.
    """
    plan, alignment = read_json(prepared.plan), read_json(prepared.alignment)
    row = plan["row"]
    latent = read_embedding(query, row["query_embedding"], "query_embedding")
    mapped.results.mkdir(parents=True)
    pd.DataFrame(index=pd.Index([], name="epoch")).to_csv(mapped.history)
    who = {key: card[key] for key in ("model", "family", "class_name")} | {"model_sha256": card["sha256"]}
    obs = pd.DataFrame(index=np.asarray(query.obs_names, dtype=object))
    write_zarr(ad.AnnData(obs=obs, obsm={"X_emb": latent}, uns={"refmap": who}), mapped.embedding)
    unknown = ("strategy", "train", "hshare", "device", "parameters_total", "parameters_trainable")
    hashes = ("frozen_sha256_before", "frozen_sha256_after")
    write_json(
        mapped.record,
        start_record(plan, alignment, card)
        | {
            "n_cells": query.n_obs,
            "parameters": row | {"options": plan["options"]},
            "surgeries": [],
            "predictions": {},
            "seed": row["seed"],
        }
        | dict.fromkeys([*unknown, *hashes]),
    )
