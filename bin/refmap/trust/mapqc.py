"""How far the query's samples lie from the reference's, by mapQC: the share of its control cells that lie too far."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import anndata as ad
import numpy as np
import pandas as pd

from ..transfer.regions import sample
from .figures import figure, plural

# Cells of either side that are looked at: mapQC holds an array of samples x neighbourhoods x query cells.
MOST_QUERY, MOST_REFERENCE = 10_000, 50_000
# A query that mapQC does not warn of has 50 cells a neighbourhood, and 50 times as many as the smallest neighbourhood.
FEWEST_QUERY, CELLS_A_NEIGHBORHOOD, MOST_NEIGHBORHOODS = 500, 50, 100
SMALLEST_K, LARGEST_K, GROWTH = 100, 500, 10
# Samples of the reference without which mapQC refuses, and studies without which it wants none to be told apart.
FEWEST_SAMPLES, FEWEST_STUDIES = 3, 3
# A cell with a higher score lies far from the reference.
FAR = 2
NO_GROUP = "none"


@dataclass
class Samples:
    """What mapQC takes of the cells of a query or of its reference, all in one order.

    latent      float, cells x latent dimensions
    samples     the sample of each cell, missing for none: such cells are left out
    studies     the study of each cell, missing for none; None if there are none, and of a query
    controls    of a query, whether each cell is a control; None if all are, and of a reference
    labels      the label of each cell, missing for none, by which neighbourhoods are spread; None if there are none
    """

    latent: np.ndarray
    samples: pd.Series
    studies: pd.Series | None = None
    controls: np.ndarray | None = None
    labels: pd.Series | None = None


def mapqc(query: Samples, reference: Samples, seed: int) -> dict:
    """Share of the query's control cells that lie far from the reference, by the mapQC score.

    mapQC (Sikkema et al. 2025, doi:10.1101/2025.05.23.655749) draws neighbourhoods around query cells. In each it compares how far
    a query's sample lies from the reference's samples with how far these lie from each other, as a z-score; a cell's score is the
    mean over its neighbourhoods. The reference should hold controls alone, of many samples, and the query some controls: few of
    these should have a score above 2, and more of the cases where a disease changes cells. To be read, not judged.

    Cells are compared across studies where the reference has three of them. At most 10,000 cells of the query and 50,000 of the
    reference are drawn with `seed`, as is each neighbourhood. There is one for every 50 cells of the query, 100 at most, of 100 to
    500 cells by the query's number of cells, which mapQC widens up to tenfold.

    Returns
    -------
    A figure. ``n_cells``: the controls with a score. ``cases`` and ``n_cases``: the same of the query's other cells, None and 0 if
    there are none. ``n_samples``, ``n_reference_samples``, ``n_studies`` (of the reference, None if they are not told apart),
    ``n_neighborhoods`` and ``n_passed``: how many of these had cells of enough samples.
    """
    rng = np.random.default_rng(seed)
    cells = pd.concat([_table(query, "query", MOST_QUERY, rng), _table(reference, "reference", MOST_REFERENCE, rng)])
    of_query = (cells["of"] == "query").to_numpy()
    by_studies = reference.studies is not None and cells.loc[~of_query, "study"].nunique() >= FEWEST_STUDIES
    known = {
        "n_samples": cells.loc[of_query, "sample"].nunique(),
        "n_reference_samples": cells.loc[~of_query, "sample"].nunique(),
        "n_studies": cells.loc[~of_query, "study"].nunique() if by_studies else None,
    }
    if known["n_reference_samples"] < FEWEST_SAMPLES:
        n = known["n_reference_samples"]
        return figure(
            note=f"The reference has cells of {plural(n, 'sample')}, of which mapQC wants {FEWEST_SAMPLES} at least.", **known
        )
    if of_query.sum() < FEWEST_QUERY:
        n = int(of_query.sum())
        return figure(note=f"The query has {plural(n, 'cell')} of samples, too few for mapQC's neighbourhoods.", **known)
    scores, known["n_neighborhoods"], known["n_passed"] = _run(cells, by_studies, seed)
    scored = of_query & ~np.isnan(scores)
    far, control = scores > FAR, cells["control"].to_numpy(dtype=bool)
    controls, cases = scored & control, scored & ~control
    known |= {"n_cells": controls.sum(), "n_cases": cases.sum(), "cases": far[cases].mean() if cases.any() else None}
    if not controls.any():
        note = "mapQC gives no control cell of the query a score: its neighbourhoods have too few cells of one sample."
        return figure(note=note, **known)
    return figure(far[controls].mean(), **known)


def _table(cells: Samples, of: str, most: int, rng: np.random.Generator) -> pd.DataFrame:
    """A row a cell, of those that have a sample, and a study where there are any; `latent` holds its place in the latent space."""
    n = len(cells.latent)
    table = pd.DataFrame(
        {
            "of": of,
            # No sample of the query is one of the reference's, whatever it is called.
            "sample": _text(cells.samples, f"{of} "),
            "study": _text(cells.studies) if cells.studies is not None else np.full(n, of, dtype=object),
            "control": np.ones(n, dtype=bool) if cells.controls is None else cells.controls,
            "label": np.full(n, NO_GROUP, dtype=object) if cells.labels is None else _text(cells.labels, missing=NO_GROUP),
            "latent": list(np.asarray(cells.latent, dtype=np.float32)),
        },
        index=pd.Index([f"{of} {i}" for i in range(n)], dtype=object),
    )
    table = table[table["sample"].notna() & table["study"].notna()]
    return table.iloc[sample(len(table), most, rng)]


def _text(values: pd.Series, before: str = "", missing: str | None = None) -> np.ndarray:
    return np.array([missing if pd.isna(value) else f"{before}{value}" for value in values], dtype=object)


def _run(cells: pd.DataFrame, by_studies: bool, seed: int) -> tuple[np.ndarray, int, int]:
    """The score of each cell, NaN where it has none; how many neighbourhoods were drawn, and how many had cells enough."""
    from mapqc import run_mapqc  # which takes seconds, and few mappings want it

    n = int((cells["of"] == "query").sum())
    n_nhoods = min(MOST_NEIGHBORHOODS, n // CELLS_A_NEIGHBORHOOD)
    k = int(np.clip(n // CELLS_A_NEIGHBORHOOD, SMALLEST_K, LARGEST_K))
    # mapQC indexes columns of text as numpy's, which those of pandas 3 are not.
    with warnings.catch_warnings(), pd.option_context("future.infer_string", False):
        # It says when samples, or cells, are fewer than it likes: the figure tells their numbers.
        warnings.simplefilter("ignore", UserWarning)
        data = ad.AnnData(np.stack(cells["latent"]), obs=cells.drop(columns="latent").astype(object))
        try:
            run_mapqc(
                data,
                adata_emb_loc="X",
                ref_q_key="of",
                q_cat="query",
                r_cat="reference",
                sample_key="sample",
                n_nhoods=n_nhoods,
                k_min=k,
                k_max=GROWTH * k,
                study_key="study" if by_studies else None,
                exclude_same_study=by_studies,
                grouping_key="label",  # without one its neighbourhoods do not follow the seed
                seed=seed,
                verbose=False,
            )
        except IndexError as error:
            # What mapQC fails with where no neighbourhood has ten cells of one of the query's samples.
            if "single positional indexer" not in str(error):
                raise
            return np.full(len(cells), np.nan), n_nhoods, 0
        passed = int((data.obs["mapqc_nhood_filtering"] == "pass").sum())
        return data.obs["mapqc_score"].to_numpy(dtype=float), n_nhoods, passed
