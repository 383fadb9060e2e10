"""How well the mappings did where the truth is known: labels apart, batches together, and right labels."""

from __future__ import annotations

from html import escape

from ..outcomes import Outcome
from .html import folded, table

# Which cells, and the key of the measures that are of these.
OF = {"query": "query", "joint": "query and reference"}
MEASURES = {
    "asw_label": "ASW of labels",
    "nmi": "NMI",
    "ari": "ARI",
    "knn_purity": "kNN purity",
    "asw_batch": "ASW of batches",
    "ebm": "EBM",
}
LABELS = ("predicted", "transferred")


def evaluation(mapped: list[Outcome]) -> dict | None:
    """Show the measures of each mapping with a truth, of the query alone and with its reference, and the F1 of its labels."""
    known = [(outcome, of) for outcome in mapped if (of := outcome.record.get("evaluation"))]
    if not known:
        return None
    places = [_of_cells(outcome, cells, of[key]) for outcome, of in known for key, cells in OF.items() if of[key]]
    scores = [_of_labels(outcome, made, of[made]) for outcome, of in known for made in LABELS if of[made]]
    columns = ("", "Cells of", "Cells", "Labels", "Batches", *MEASURES.values())
    content = folded(table(columns, places), len(places), "row")
    if scores:
        of_labels = table(("", "Labels", "Column", "Cells", "F1, mean over labels", "F1, mean over cells"), scores)
        content += folded(of_labels, len(scores), "row")
    return {
        "section_name": "Evaluation",
        "description": "The measures that scArches is evaluated by, where the truth is known. All run from 0 to 1, and 1 is best. True labels "
        "lie apart in the latent space: their average silhouette width (ASW), how clusters agree with them (NMI, ARI), the share "
        "of a cell's neighbours that have its label (kNN purity). Batches lie together: their ASW within labels, and the entropy "
        "of batch mixing around a cell (EBM), which cell types that not all batches have keep below 1. F1 of the labels that cells "
        "got, of the true labels that could be had; Unknown is not right.",
        "plot_type": "html",
        "data": content,
    }


def _of_cells(outcome: Outcome, cells: str, of: dict) -> list[str]:
    sizes = [f"{of[name]:,}" for name in ("n_cells", "n_labels", "n_batches")]
    return [escape(outcome.name), cells, *sizes, *("-" if of[name] is None else f"{of[name]:.3f}" for name in MEASURES)]


def _of_labels(outcome: Outcome, made: str, of: dict) -> list[str]:
    return [
        *(escape(outcome.name), made, escape(of["labels_key"]), f"{of['n_cells']:,}"),
        *(f"{of[name]:.3f}" for name in ("macro", "weighted")),
    ]
