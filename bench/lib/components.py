"""A mapping without a model: latents of principal components, so that many types can be left out in turn in minutes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from refmap.identity.compare import Comparison, compare
from refmap.identity.expression import identity_weights, moments
from refmap.identity.gene_view import LEAST_DEVIATION
from refmap.identity.groups import NOVEL
from refmap.identity.mapped import EMPTY, SEPARATOR
from refmap.identity.novel import MATCHED
from refmap.identity.pairing import Counted, Pair, pair
from refmap.identity.shift import batch_shifts, center
from refmap.transfer.calibration import calibration_error
from refmap.transfer.labels import UNKNOWN, transfer_labels
from refmap.transfer.neighbors import Index
from refmap.transfer.novelty import distance_scores
from refmap.trust.by_expression import certain, groups, resemblance
from refmap.trust.figures import figure
from refmap.trust.thresholds import FIGURES, read_thresholds
from refmap.trust.verdict import judge
from scipy import sparse

from .pairs import BATCH, LABEL, TRUTH

# Genes that vary most in the reference, and components of them.
N_GENES, N_COMPONENTS = 1500, 20
# Turns of finding the reference cells around the query's, and what each batch is off by beside them.
TURNS = 3
# As the pipeline's default: less certain labels are Unknown.
LEAST_CERTAINTY = 0.8
NO_MODEL = "There is no model."


def look(reference: ad.AnnData, query: ad.AnnData, seed: int, out: Path) -> None:
    """Map a query onto a reference by components of its genes, and look at it as the pipeline does, its labels' light among that.

    Writes to a folder of the files that a mapping has (mapping.json, cells.parquet, groups.csv) what :mod:`lib.trust_tables` reads.
    The genes are drawn from the reference as it is given. What hangs on a model, or on the embedding alone, is not known.
    """
    genes = _variable(reference)
    reference, query = (side[np.asarray(side[:, genes].X.sum(axis=1)).ravel() > 0] for side in (reference, query))
    counts = [sparse.csr_matrix(side[:, genes].X, dtype=np.float32) for side in (reference, query)]
    batches = [side.obs[BATCH].astype(object).reset_index(drop=True) for side in (reference, query)]
    labels = reference.obs[LABEL].astype(object).reset_index(drop=True)
    sides = [Counted(x, genes.to_numpy(dtype=object), np.zeros((x.shape[0], 1)), of) for x, of in zip(counts, batches)]
    latents = _latents(pair(*sides), labels, seed)
    neighbors = Index(latents[0]).search(latents[1])
    given = transfer_labels(labels, neighbors)
    found = compare(pair(*(replace(side, latent=latent) for side, latent in zip(sides, latents))), labels, seed, given.best)
    view, novel = found.view, found.novel
    flagged = novel.table["group"].str.startswith(NOVEL)
    cells = pd.DataFrame(
        {
            TRUTH: query.obs[TRUTH].to_numpy(),
            f"{LABEL}_transferred": np.where(view.latent_certainty >= LEAST_CERTAINTY, given.best, UNKNOWN),
            f"{LABEL}_uncertainty": given.uncertainty,
            f"{LABEL}_certainty": view.latent_certainty,
            f"{LABEL}_by_genes": view.labels,
            f"{LABEL}_label_set": [SEPARATOR.join(view.names[row]) or EMPTY for row in view.sets],
            "reference_distance": distance_scores(neighbors),
            "novel_score": novel.scores,
            "own_cluster": novel.groups,
            "novel_group": np.where(np.isin(novel.groups.astype(str), novel.table.loc[flagged, "group"]), novel.groups, None),
        }
    )
    truth = query.obs[TRUTH].to_numpy(dtype=object)
    calibration = {
        f"{LABEL}_transferred": _figures(given.best, view.latent_certainty, truth),
        f"{LABEL}_by_genes": _figures(view.labels, view.certainty, truth),
    }
    out.mkdir(parents=True, exist_ok=True)
    cells.to_parquet(out / "cells.parquet")
    novel.table.assign(genes=novel.table["genes"].map(" ".join)).to_csv(out / "groups.csv", index=False)
    (out / "mapping.json").write_text(json.dumps({"calibration": calibration, "trust": _trust(found, len(cells))}))


def _variable(reference: ad.AnnData) -> pd.Index:
    """The genes that vary most within the reference's batches, as refmap draws them."""
    import scanpy as sc

    cells = ad.AnnData(sparse.csr_matrix(reference.X), obs=reference.obs[[BATCH]].astype("category"), var=reference.var[[]])
    sc.pp.filter_genes(cells, min_cells=3)
    table = sc.experimental.pp.highly_variable_genes(
        cells, n_top_genes=min(N_GENES, cells.n_vars), batch_key=BATCH, check_values=False, inplace=False
    )
    return cells.var_names[table["highly_variable"].to_numpy(bool)]


def _latents(both: Pair, labels: pd.Series, seed: int) -> list[np.ndarray]:
    """Components of the reference's genes, by how much they tell its labels apart, and the query's cells among them.

    What sets each batch apart is taken off: of the reference's the median over labels of what its cells differ by from those of all
    batches; of the query's what :func:`batch_shifts` finds by the cells that it lies beside, from its mean at first.
    """
    from sklearn.decomposition import PCA

    known, cells = both.reference.labelled(labels), both.query.cells
    mean, deviation = moments(known.values)
    varies = deviation > LEAST_DEVIATION
    scale = np.divide(np.sqrt(identity_weights(known)), deviation, out=np.zeros(len(mean)), where=varies)
    values, asked = known.values.toarray(), cells.values.toarray()
    off = [
        center(
            np.stack(
                [
                    values[here & (known.labels == label)].mean(axis=0) - values[known.labels == label].mean(axis=0)
                    for label in np.unique(known.labels[here])
                ]
            )
        )
        for here in (known.batches == batch for batch in range(known.n_batches))
    ]
    values = (values - np.stack(off)[known.batches] - mean) * scale
    components = PCA(N_COMPONENTS, svd_solver="randomized", random_state=seed).fit(values)
    placed = components.transform(values).astype(np.float32)
    shifts = np.stack([asked[cells.batches == batch].mean(axis=0) - mean for batch in range(cells.n_batches)])
    for _turn in range(TURNS):
        beside = components.transform((asked - shifts[cells.batches] - mean) * scale).astype(np.float32)
        shifts = batch_shifts(cells, known, Index(placed).search(beside, MATCHED).indices)
    return [placed, beside]


def _figures(called: np.ndarray, certainty: np.ndarray, truth: np.ndarray) -> dict:
    right = called == truth
    return {"accuracy": float(right.mean()), "ece": calibration_error(certainty, right)}


def _trust(found: Comparison, n_cells: int) -> dict:
    """Figures and lights, as the pipeline has them of labels."""
    known = ~np.isnan(found.view.latent_certainty)
    certainty = found.view.latent_certainty[known]
    view = {
        "note": None,
        "held_out": found.learned.certainty.figures,
        "mean_certainty": float(certainty.mean()),
        "certain": float((certainty >= LEAST_CERTAINTY).mean()),
    }
    sizes = pd.Series(found.novel.groups).value_counts()
    told = {
        "views": {LABEL: view},
        "n_cells": n_cells,
        "novel": {
            "note": None,
            "threshold": found.novel.threshold.value,
            "resemblance": found.novel.resemblance,
            "groups": {
                row.group: {
                    "n_cells": int(sizes[row.group]),
                    "label": row.matched_label,
                    "score": row.score,
                    "reading": row.reading,
                }
                for row in found.novel.table.itertuples()
                if row.group.startswith(NOVEL)
            },
        },
    }
    figures = {name: figure(note=NO_MODEL) for name in FIGURES}
    figures |= {"certain": certain(told, None), "groups": groups(told, None), "resemblance": resemblance(told, None)}
    return {part: verdict.to_json() for part, verdict in judge(figures, read_thresholds()).items()} | {"figures": figures}
