"""The joint atlases: a reference with all queries that were mapped onto it."""

from __future__ import annotations

from html import escape
from urllib.parse import quote

from .html import folded, table


def joint(atlases: list[dict]) -> dict | None:
    """List them, as :func:`refmap.joint.joining.join` described them, with a way to each one's page."""
    if not atlases:
        return None
    rows = [
        (
            escape(one["name"]),
            escape(one["model"]),
            f"{one['n_reference_cells']:,}",
            f"{len(one['mappings']):,}",
            f"{one['n_query_cells']:,}",
            f'<a href="../reference_mapping/joint/{escape(quote(one["name"]))}.html" target="_blank">look around in its cells</a>',
        )
        for one in atlases
    ]
    content = table(("Joint atlas", "Model", "Reference cells", "Mappings", "Query cells", ""), rows)
    return {
        "section_name": "Joint atlases",
        "description": "Of each reference its cells and all queries that were mapped onto it, in one file: latent, labels, "
        "uncertainties, neighbours and UMAP, as reference_mapping/joint/&lt;name&gt;.h5ad and .zarr.",
        "plot_type": "html",
        "data": folded(content, len(rows), "joint atlas"),
    }
