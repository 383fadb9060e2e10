"""What families find beside the cells: tables that surgery left, and the pictures of them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import anndata as ad

    from ..query import Query

# The pictures, in the report's order, and what each shows.
PICTURES = {
    "tree.png": "hierarchy of the labels",
    "prototypes.png": "unlabeled prototypes",
    "samples.png": "embeddings of the samples",
    "programs.png": "gene programmes by group",
}


@dataclass
class Mapped:
    """One mapping, done.

    Attributes
    ----------
    embedding
        The query's cells x 0 genes: obsm ``X_emb``, and what the family said of each cell.
    query
        The query, open.
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
    plan: dict
    record: dict
    results: Path
    output: Path
    name: str


def draw_results(mapped: Mapped) -> None:
    """Copy the family's tables to the mapping's folder, and draw those of which there is a picture."""
    from .programs import draw_programs
    from .prototypes import draw_prototypes
    from .samples import draw_samples
    from .tree import draw_tree

    for path in sorted(mapped.results.iterdir()):
        shutil.copyfile(path, mapped.output / path.name)
    for table, draw in {"tree.json": draw_tree, "prototypes.csv": draw_prototypes, "samples.csv": draw_samples}.items():
        if (mapped.results / table).exists():
            draw(mapped)
    if "latent_directions" in mapped.embedding.uns["refmap"]:
        draw_programs(mapped)
