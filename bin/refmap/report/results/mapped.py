"""A mapping that is done, as the pictures of its results take it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import anndata as ad

    from ...query.query import Query
    from ..mapped_cells import Reference


@dataclass
class Mapped:
    """One mapping, done.

    Attributes
    ----------
    embedding
        The query's cells x 0 genes: obsm ``X_emb``, and what the family said of each cell.
    query
        The query, open.
    reference
        The cells of its reference; None where there are none.
    plan, record
        The mapping's plan and mapping.json.
    results
        The folder that the family wrote.
    output
        The folder of the mapping's tables and pictures.
    name
        ``dataset/file_id``, for titles.
    """

    embedding: ad.AnnData
    query: Query
    reference: Reference | None
    plan: dict
    record: dict
    results: Path
    output: Path
    name: str
