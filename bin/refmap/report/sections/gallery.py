"""The pictures of the mappings."""

from __future__ import annotations

from html import escape

from ..outcomes import Outcome
from ..results.drawing import PICTURES
from .html import MOST_UNFOLDED, link

# Of all pictures together: a browser must still open the page.
MOST_BYTES = 50_000_000
# The pictures of a mapping, and what each shows; its training is a plot of the page already.
SHOWN = {
    "joint.png": "UMAP with the reference",
    "umap.png": "UMAP",
    "composition.png": "labels by batch",
    "confusion.png": "confusion matrix of the predicted labels",
    "confusion_transferred.png": "confusion matrix of the transferred labels",
    "sankey.png": "true labels and those that cells got",
    "calibration.png": "reliability diagram",
    **PICTURES,
}


def pictures(mapped: list[Outcome]) -> dict | None:
    """Show each query's cells, of as many queries as a browser can open."""
    shown = {outcome.id: [name for name in SHOWN if (outcome.folder / name).exists()] for outcome in mapped}
    drawn = [outcome for outcome in mapped if shown[outcome.id]]
    if not drawn:
        return None
    size, fitting = 0, []
    for outcome in drawn:
        size += sum((outcome.folder / name).stat().st_size for name in shown[outcome.id])
        if size <= MOST_BYTES or not fitting:
            fitting.append(outcome)
    unfolded = " open" if len(drawn) <= MOST_UNFOLDED else ""
    blocks = [
        f"<details{unfolded}><summary><strong>{escape(outcome.name)}</strong>{link(outcome)}</summary>"
        f"{''.join(_image(outcome, name, SHOWN[name]) for name in shown[outcome.id])}</details>"
        for outcome in fitting
    ]
    if len(fitting) < len(drawn):
        blocks.append(
            f"<p>{len(fitting)} of {len(drawn)}, as many as a browser can open. The others: "
            "<code>reference_mapping/qc/dataset~&lt;dataset&gt;/file_id~&lt;file_id&gt;/*.png</code></p>"
        )
    return {
        "section_name": "Pictures",
        "description": "Each query's cells on the UMAP of the reference's, where these are to be had, and on one of their own; "
        "labels by batch, true against given labels where the truth is known, and what else its family of models finds. Batches "
        "that lie apart, or labels that lie scattered, are signs of a mapping that did not work. A page to look around in the cells, "
        "explore.html, lies beside the pictures in reference_mapping/qc, and a link here leads to it from where the run put this page.",
        "plot_type": "html",
        "data": "".join(blocks),
    }


def _image(outcome: Outcome, name: str, what: str) -> str:
    return (
        f'<img src="picture:{outcome.id}/{name}" alt="{what} of {escape(outcome.name)}"'
        ' style="max-width: 100%; background: white; display: block; margin: 0.5em 0">'
    )
