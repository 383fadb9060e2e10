"""What mapQC is given of a mapping: see :mod:`refmap.trust.mapqc`."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .. import trust
from ..query.elements import as_text
from ..query.query import Query
from ..trust.figures import NO_CELLS, figure
from .mapped_cells import Cells, Reference


def query_samples(source: Query, row: dict) -> pd.DataFrame | None:
    """The `sample` of each of the query's cells, None for none, and whether it is a `control`; None where the row names no samples."""
    if not row["mapqc_sample_key"]:
        return None
    samples = as_text(source.obs_column(row["mapqc_sample_key"]))
    key = row["mapqc_control_key"]
    return pd.DataFrame(
        {
            "sample": pd.Series(np.where(samples == "", None, samples), dtype=object),
            "control": as_text(source.obs_column(key)) == row["mapqc_control"] if key else True,
        }
    )


def compare_samples(cells: Cells, samples: pd.DataFrame, around: Reference | None, row: dict, seed: int) -> dict:
    """Return the figure of mapQC; `samples` are of the same cells. The labels that spread its neighbourhoods are transferred ones."""
    if around is None:
        return figure(note=NO_CELLS)
    key = next(iter(cells.levels), None)
    study_key = row["mapqc_study_key"]
    return trust.mapqc(
        trust.Samples(
            cells.shared, samples["sample"], controls=samples["control"].to_numpy(dtype=bool), labels=key and cells.levels[key]
        ),
        trust.Samples(
            np.asarray(around.cells.obsm["X_emb"]),
            around.labels(row["mapqc_sample_key"]),
            around.labels(study_key) if study_key else None,
            labels=key and around.labels(key),
        ),
        seed,
    )
