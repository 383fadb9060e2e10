"""The pictures of samples and prototypes, from the tables that a scPoli's surgery leaves."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from refmap.report.results.prototypes import draw_prototypes, farthest
from refmap.report.results.samples import draw_samples, embeddings, principal_components


@pytest.fixture
def mapped(tmp_path):
    """A mapping without tables yet."""
    for name in ("results", "output"):
        (tmp_path / name).mkdir()
    return SimpleNamespace(results=tmp_path / "results", output=tmp_path / "output", name="lung/donor_1")


def samples(n=6, dims=4, key="batch"):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"condition_key": key, "sample": [f"s${i}" for i in range(n)]})
    table["is_query"] = [i >= n - 2 for i in range(n)]
    table["n_cells"], table["started_from"] = 10, ""
    values = rng.normal(size=(n, dims)) * np.arange(dims, 0, -1)
    return table.join(pd.DataFrame(values, columns=[f"embedding_{i}" for i in range(dims)]))


def test_principal_components_are_those_of_the_covariance():
    values = embeddings(samples(n=20))
    position, share = principal_components(values)
    variances, axes = np.linalg.eigh(np.cov(values.T))
    expected = (values - values.mean(axis=0)) @ axes[:, [3, 2]]
    np.testing.assert_allclose(np.abs(position), np.abs(expected), atol=1e-9)
    np.testing.assert_allclose(share, variances[[3, 2]] / variances.sum())
    # The sign does not hang on the order of the samples.
    again, _ = principal_components(values[::-1])
    np.testing.assert_allclose(again[::-1], position, atol=1e-9)


def test_equal_or_single_dimensions_have_components():
    position, share = principal_components(np.ones((3, 4)))
    assert position.tolist() == [[0, 0]] * 3 and share.tolist() == [0, 0]
    position, share = principal_components(np.array([[1.0], [2.0], [6.0]]))
    assert position.tolist() == [[-2, 0], [-1, 0], [3, 0]] and share.tolist() == [1, 0]


@pytest.mark.parametrize("names", [["batch"], ["batch", "chemistry"]])
def test_samples_are_drawn_a_panel_a_column(mapped, names):
    table = pd.concat([samples(dims=4 - i, key=name) for i, name in enumerate(names)])
    table.to_csv(mapped.results / "samples.csv", index=False)
    draw_samples(mapped)
    width, height = Image.open(mapped.output / "samples.png").size
    assert (width, height) == (572 * len(names), 495)
    assert embeddings(table[table["condition_key"] == names[-1]]).shape == (6, 5 - len(names))


def test_two_samples_are_no_picture(mapped):
    samples(n=2).to_csv(mapped.results / "samples.csv", index=False)
    draw_samples(mapped)
    assert list(mapped.output.iterdir()) == []


def prototypes(**columns):
    table = pd.DataFrame(
        {
            "set": ["labeled", "unlabeled", "unlabeled", "unlabeled"],
            "prototype": [0, 0, 1, 2],
            "labels_key": "cell_type",
            "label": ["NA", "NA", "B$", "named"],
            "is_new": [False, None, None, None],
            "distance": [None, 1.0, 3.0, 2.0],
            "spread": [1.0, 1.0, 1.0, None],
            "relative_distance": [None, 1.0, 3.0, None],
            "n_cells": [30, 20, 10, 5],
            "mean_uncertainty": [1.0, 1.0, 3.0, 2.0],
        }
    )
    return table.assign(**columns)


def test_prototypes_are_drawn_farthest_on_top(mapped):
    prototypes().to_csv(mapped.results / "prototypes.csv", index=False)
    draw_prototypes(mapped)
    assert Image.open(mapped.output / "prototypes.png").size == (int(6.4 * 110), int((1.2 + 0.22 * 2) * 110))
    assert farthest(prototypes()[1:3]).prototype.tolist() == [0, 1]


def test_without_unlabeled_prototypes_there_is_no_picture(mapped):
    prototypes(set="labeled").to_csv(mapped.results / "prototypes.csv", index=False)
    draw_prototypes(mapped)
    assert list(mapped.output.iterdir()) == []
