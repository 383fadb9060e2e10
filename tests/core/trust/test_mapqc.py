"""mapQC's figure, beside what its own library says of the same cells."""

from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from mapqc import run_mapqc
from refmap.trust.mapqc import Samples, mapqc

SEED = 3


def made(n, samples, seed, shift=0.0, name="s"):
    """Cells of two types in samples of their own small shifts; those of the last sample are `shift` away."""
    rng = np.random.default_rng(seed)
    of, kind = np.arange(n) % samples, rng.integers(0, 2, n)
    latent = rng.normal(size=(n, 4)) + rng.normal(scale=0.1, size=(samples, 4))[of] + 6 * kind[:, None]
    latent[of == samples - 1, 0] += shift
    names = pd.Series([f"{name}{i}" for i in of], dtype=object)
    labels = pd.Series(np.array(["a", "b"], dtype=object)[kind])
    return Samples(latent.astype(np.float32), names, labels=labels), of


@pytest.fixture(scope="module")
def cells():
    """A query of four samples, the last of which is no control and lies apart; a reference of twelve samples of four studies."""
    query, of = made(600, 4, 1, shift=4)
    reference, of_reference = made(900, 12, 2)
    studies = pd.Series([f"study {i % 4}" for i in of_reference])
    return replace(query, controls=of != 3), replace(reference, studies=studies)


def by_the_library(query, reference, **settings):
    """Share of controls and of cases with a score above 2, as run_mapqc has it of the same cells under names of its own."""
    with pd.option_context("future.infer_string", False):
        n, m = len(query.latent), len(reference.latent)
        obs = pd.DataFrame(
            {
                "ref_or_query": ["q"] * n + ["r"] * m,
                "donor": [f"q{name}" for name in query.samples] + [f"r{name}" for name in reference.samples],
                "dataset": ["the query's"] * n + list(reference.studies),
                "type": [*query.labels, *reference.labels],
            },
            index=[f"cell{i}" for i in range(n + m)],
        )
        data = ad.AnnData(np.concatenate([query.latent, reference.latent]), obs=obs)
        run_mapqc(
            data, "X", "ref_or_query", "q", "r", "donor", 12, 100, 1000, grouping_key="type", seed=SEED, verbose=False, **settings
        )
        scores = data.obs["mapqc_score"].to_numpy(dtype=float)[:n]
    controls, cases = (scores[mask & ~np.isnan(scores)] for mask in (query.controls, ~query.controls))
    return controls, cases, int((data.obs["mapqc_nhood_filtering"] == "pass").sum())


@pytest.mark.filterwarnings("ignore:Your total number of query cells:UserWarning")
def test_the_figure_is_what_the_library_says(cells):
    query, reference = cells
    controls, cases, passed = by_the_library(query, reference, study_key="dataset")
    assert mapqc(query, reference, SEED) == {
        "value": round(float((controls > 2).mean()), 4),
        "expected": None,
        "note": None,
        "n_samples": 4,
        "n_reference_samples": 12,
        "n_studies": 4,
        "n_neighborhoods": 12,
        "n_passed": passed,
        "n_cells": len(controls),
        "n_cases": len(cases),
        "cases": round(float((cases > 2).mean()), 4),
    }
    assert passed == 12 and len(controls) > 200 and len(cases) > 50
    assert (cases > 2).mean() > (controls > 2).mean() + 0.5
    # Other neighbourhoods with another seed, and the same with the same.
    assert mapqc(query, reference, SEED) != mapqc(query, reference, SEED + 1)


@pytest.mark.filterwarnings("ignore:Your total number of query cells:UserWarning")
def test_studies_are_told_apart_only_where_there_are_three(cells):
    query, reference = cells
    controls, _, _ = by_the_library(query, reference, exclude_same_study=False)
    share = round(float((controls > 2).mean()), 4)
    two = reference.studies.replace({"study 2": "study 0", "study 3": "study 1"})
    for studies in (None, two):
        figure = mapqc(query, replace(reference, studies=studies), SEED)
        assert (figure["value"], figure["n_cells"], figure["n_studies"]) == (share, len(controls), None)


def test_cells_without_a_sample_or_study_are_left_out_and_all_are_controls_unless_told(cells):
    query, reference = cells
    samples, studies = reference.samples.copy(), reference.studies.copy()
    samples[samples == "s11"] = None
    studies[reference.samples == "s10"] = None
    figure = mapqc(replace(query, controls=None), replace(reference, samples=samples, studies=studies), SEED)
    assert figure["n_reference_samples"] == 10 and (figure["n_cases"], figure["cases"]) == (0, None)
    kept = (reference.samples != "s11") & (reference.samples != "s10")
    fewer = Samples(
        reference.latent[kept], *(of[kept] for of in (reference.samples, reference.studies)), labels=reference.labels[kept]
    )
    assert mapqc(replace(query, controls=None), fewer, SEED) == figure


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (
            lambda query, reference: (
                query,
                replace(reference, samples=reference.samples.where(reference.samples.isin(["s0", "s1"]))),
            ),
            "The reference has cells of 2 samples, of which mapQC wants 3 at least.",
        ),
        (
            lambda query, reference: (replace(query, samples=query.samples.where(query.samples.index < 499)), reference),
            "The query has 499 cells of samples, too few for mapQC's neighbourhoods.",
        ),
        (
            lambda query, reference: (replace(query, samples=pd.Series([f"{i}" for i in range(600)])), reference),
            "mapQC gives no control cell of the query a score: its neighbourhoods have too few cells of one sample.",
        ),
    ],
    ids=["few samples", "few cells", "small samples"],
)
def test_why_there_is_none(cells, change, note):
    figure = mapqc(*change(*cells), SEED)
    assert (figure["value"], figure["note"]) == (None, note)
