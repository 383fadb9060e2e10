"""Groups of a query's cells that the reference seems to lack."""

from __future__ import annotations

from html import escape

import pandas as pd

from ...identity.groups import NOVEL
from ..outcomes import Outcome
from .html import folded, many, table

MOST_GROUPS = 20
COLUMNS = ("group", "read as", "what it was called, and what speaks against it", "genes that set it apart")


def groups(mapped: list[Outcome]) -> dict | None:
    """Show of each query the groups that differ from the reference beyond what sets the whole query apart."""
    blocks = [_block(outcome) for outcome in mapped if outcome.unlike_groups]
    if not blocks:
        return None
    return {
        "section_name": "Groups unlike the reference",
        "description": "Clusters of a query's own that differ from the reference cells that they were matched to by more than what the "
        "query's other clusters have in common. Those read as a type may be of one that the reference lacks, or a condition acts on them "
        "alone; those read as a state differ by less than types do, or as the other cells that were matched to their label do. The score is "
        "0 for cells like the reference's and 1 for those as different as two of its types. + are genes that the group has more of, - "
        "less. A label that is named as most like them is one of the reference's that the model did not match them to. All clusters are in "
        "groups.csv of the qc folder, and the cells by obs['novel_group'].",
        "plot_type": "html",
        "data": "".join(blocks),
    }


def _block(outcome: Outcome) -> str:
    found = pd.read_csv(outcome.folder / "groups.csv", dtype={"matched_label": str, "like_label": str}, keep_default_na=False)
    found = found[found["group"].str.startswith(NOVEL)]
    rows = [
        (escape(row.group), row.reading, escape(row.about), escape(row.genes)) for row in found.head(MOST_GROUPS).itertuples()
    ]
    more = f"<p>and {many(len(found) - len(rows), 'more group')}</p>" if len(found) > len(rows) else ""
    return f"<h4>{escape(outcome.name)}</h4>{folded(table(COLUMNS, rows), len(rows), 'group')}{more}"
