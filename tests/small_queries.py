"""Small queries, and the rows and cards that go with them, for tests of what is told of a query before it is mapped."""

from contextlib import nullcontext

import anndata
import numpy as np
import pandas as pd
import pytest
from refmap.models.card import ModelCard
from rows import ROW
from scipy import sparse

MODEL = [f"ENSG{i:011d}" for i in range(12)]


def make_row(**changes):
    return ROW | {"query": "data/q.h5ad", "model": "models/m", "warn_gene_overlap": 0.8} | changes


def make_card(**changes):
    card = ModelCard(
        "models/m", family="scvi", class_name="SCVI", genes=MODEL, batch_key="batch", batches=["r1", "r2"], predicts=True
    )
    return card.to_json() | changes


def make_query(genes, cells=9, seed=0, **obs):
    rng = np.random.default_rng(seed)
    counts = sparse.csr_matrix(rng.poisson(0.7, (cells, len(genes))).astype(np.float32))
    columns = {"donor": ["d1", "d2", "d3"] * (cells // 3)} | obs
    with pytest.warns(UserWarning) if len(set(genes)) < len(genes) else nullcontext():
        return anndata.AnnData(
            counts,
            obs=pd.DataFrame(columns, index=[f"cell{i}" for i in range(cells)]),
            var=pd.DataFrame(index=pd.Index(genes, dtype=object)),
        )
