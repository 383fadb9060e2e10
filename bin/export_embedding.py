#!/usr/bin/env python
"""Write a query with its embedding, with labels from the reference's cells, and what it looks like."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from refmap.common.cli import INPUT, OUTPUT, command, part, read_json
from refmap.common.folders import MappedFolder, PreparedFolder, ReferenceFolder
from refmap.common.h5ad import zarr_to_h5ad
from refmap.common.strategies import CORRECTIONS
from refmap.identity.mapped import UnknownRule, compare_mapping
from refmap.mapping.export import export, open_once
from refmap.query.matrix import return_freed_memory
from refmap.query.obs_table import add_obs_table
from refmap.query.query import Query
from refmap.report.qc import describe_mapping
from refmap.transfer.transfer import transfer
from refmap.trust.correction import correct_mapping

# Imported where they are used: what several mappings in a task are drawn and laid out by is imported once.
LIBRARIES = (
    "PIL.Image",
    "faiss",
    "igraph",
    "matplotlib.backends.backend_pdf",
    "matplotlib.pyplot",
    "pyarrow.parquet",
    "sklearn.neighbors",
    "umap.umap_",
)
SHARE = click.FloatRange(0, 1)


def add_labels(
    plan: dict,
    prepared: PreparedFolder,
    mapped: MappedFolder,
    reference: ReferenceFolder,
    correction: str,
    unknown: UnknownRule,
    probabilities: bool,
    out: MappedFolder,
) -> None:
    """Write what a mapping gave with the labels of the nearest reference cells, and how unlike the reference each cell is; where the
    counts of both are known, with groups that the reference lacks, second labels, and how certain labels are.

    Before that a query that surgery could not move is moved, where it lies apart from the reference.
    """
    counted = plan.get("counted") is not False and reference.sample.exists()
    with TemporaryDirectory(dir=".") as name:
        scratch = Path(name)
        transferred = MappedFolder(scratch / "transferred") if counted else out
        with part("TRANSFER_LABELS"):
            placed = correct_mapping(mapped, prepared, reference, correction, MappedFolder(scratch / "corrected"))
            transfer(placed, reference, unknown.uncertainty, probabilities, transferred)
        if counted:
            with part("COMPARE_EXPRESSION"):
                compare_mapping(prepared, transferred, reference, unknown, out)


def draw_figures(
    plan: Path,
    query: Path,
    prepared: Path,
    mapped: Path,
    labelled: Path,
    reference: Path | None,
    threshold: float,
    obs_table: Path | None,
    qc: Path,
) -> None:
    """Write how far the mapping is to be trusted, its composition, score and pictures to a folder, beside its records."""
    found = MappedFolder(labelled if reference else mapped)
    around = ReferenceFolder(reference) if reference else None
    describe_mapping(read_json(plan), query, PreparedFolder(prepared), found, around, threshold, qc, obs_table)


@command("EXPORT_EMBEDDING", libraries=lambda options: LIBRARIES, then=("QC_MAPPING", draw_figures))
@click.option("--plan", type=INPUT, required=True, help="The mapping's plan.")
@click.option("--query", type=INPUT, required=True, help="The query, of any format that is read.")
@click.option("--obs-table", type=INPUT, help="Columns of the query's cells: CSV, TSV or Parquet.")
@click.option("--prepared", type=INPUT, required=True, help="The query ready for its model: a folder.")
@click.option("--mapped", type=INPUT, required=True, help="What the mapping gave: a folder.")
@click.option("--reference", type=INPUT, help="The reference's cells, a sample and the scale that they set: a folder.")
@click.option(
    "--correction",
    type=click.Choice(CORRECTIONS),
    default="none",
    help="Whether a query that surgery cannot move is moved first.",
)
@click.option("--unknown-by", type=click.Choice(["certainty", "uncertainty"]), required=True, help="What makes a label Unknown.")
@click.option("--certainty", type=SHARE, required=True, help="The certainty below which a label is Unknown.")
@click.option("--threshold", type=SHARE, required=True, help="The uncertainty above which a label is Unknown.")
@click.option("--probabilities", is_flag=True, help="Keep what each label weighs for each cell.")
@click.option(
    "--labelled",
    type=OUTPUT,
    required=True,
    help="Where there are reference cells, write what the mapping gave with labels here.",
)
@click.option("--output", type=OUTPUT, required=True, help="Write the query with its embedding to this zarr.")
@click.option("--h5ad", type=OUTPUT, help="Write the same to this .h5ad, too.")
@click.option("--qc", type=OUTPUT, required=True, help="Write figures and pictures to this folder.")
def export_embedding(
    plan: Path,
    query: Path,
    obs_table: Path | None,
    prepared: Path,
    mapped: Path,
    reference: Path | None,
    correction: str,
    unknown_by: str,
    certainty: float,
    threshold: float,
    probabilities: bool,
    labelled: Path,
    output: Path,
    h5ad: Path | None,
) -> None:
    """Copy the query as it is and add obsm['X_emb'], predictions, labels and uns['refmap']; then judge and draw the mapping."""
    return_freed_memory()
    planned, found = read_json(plan), MappedFolder(mapped)
    if reference:
        found, given = MappedFolder(labelled), found
        unknown = UnknownRule(unknown_by, certainty, threshold)
        add_labels(
            planned, PreparedFolder(prepared), given, ReferenceFolder(reference), correction, unknown, probabilities, found
        )
    row = planned["row"]
    with Query(query, row["query"], row["modality"]) as opened:
        add_obs_table(opened, row, obs_table)
        for sentence in export(opened, row, found.embedding, output):
            print(sentence, file=sys.stderr)
    if h5ad:
        zarr_to_h5ad(output, h5ad)
        open_once(h5ad)


if __name__ == "__main__":
    export_embedding()
