"""The page to look around in a joint atlas."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np

from ..report import explore

MAPS = {None: "UMAP of the queries alone", "own": "the reference's own UMAP"}


def write_joint_page(joint: ad.AnnData, labels: dict[str, str], whose: str | None, seed: int, path: Path) -> None:
    """Write the page of a joint atlas, coloured by dataset.

    Parameters
    ----------
    joint
        As :func:`refmap.joint.joining.join` made it.
    labels
        What each column of the reference's labels is called in obs. The reference's labels and those that were transferred from
        it are one column of the page.
    whose
        Whose UMAP ``X_umap`` is, as ``map`` of the reference's record says it; None without reference cells.
    """
    is_query = (joint.obs["origin"] == "query").to_numpy()
    shown = {str(name): joint.obs[name] for name in joint.obs if name != "origin"}
    for key, name in labels.items():
        transferred = shown.pop(f"{key}_transferred", None)
        if transferred is not None:
            shown[name] = transferred.astype(object).where(is_query, joint.obs[name].astype(object))
    explore.write_page(
        path,
        f"{joint.uns['refmap']['name']}: {MAPS.get(whose, 'UMAP of the reference')}",
        np.asarray(joint.obsm["X_umap"]),
        joint.obs_names,
        shown,
        datasets="dataset",
        background=None if is_query.all() else "reference",
        shares=[name for name in shown if name.endswith(("_uncertainty", "_pvalue", "_certainty"))],
        seed=seed,
    )
