"""The tables of a family beside its pictures of them."""

from __future__ import annotations

import shutil

from .mapped import Mapped
from .programs import draw_programs
from .prototypes import draw_prototypes
from .samples import draw_samples
from .tree import draw_tree

# The pictures, in the report's order, and what each shows.
PICTURES = {
    "tree.png": "hierarchy of the labels",
    "prototypes.png": "unlabeled prototypes",
    "samples.png": "embeddings of the samples",
    "programs.png": "gene programmes by group",
    "programs_reference.png": "gene programmes by group, against the reference",
}


def draw_results(mapped: Mapped) -> None:
    """Copy the family's tables to the mapping's folder, and draw those of which there is a picture."""
    for path in sorted(mapped.results.iterdir()):
        shutil.copyfile(path, mapped.output / path.name)
    for table, draw in {"tree.json": draw_tree, "prototypes.csv": draw_prototypes, "samples.csv": draw_samples}.items():
        if (mapped.results / table).exists():
            draw(mapped)
    if "latent_directions" in mapped.embedding.uns["refmap"]:
        draw_programs(mapped)
