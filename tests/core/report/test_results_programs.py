"""Bayes factors of gene programmes between groups of cells."""

from __future__ import annotations

from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from refmap.report.results.mapped import Mapped
from refmap.report.results.programs import MOST_PAIRS, compare_programs, draw_programs, probability_of_more


def test_the_probability_is_that_of_drawn_values():
    rng = np.random.default_rng(0)
    means, others = rng.normal(size=(6, 3)), rng.normal(size=(9, 3)) + [0, 1, -3]
    variances, more = rng.uniform(0.1, 2, size=(6, 3)), rng.uniform(0.1, 2, size=(9, 3))
    p = probability_of_more(means, variances, others, more)
    drawn = (
        rng.normal(means, np.sqrt(variances), size=(3000, 6, 3))[:, :, None]
        > rng.normal(others, np.sqrt(more), size=(3000, 9, 3))[:, None]
    )
    np.testing.assert_allclose(p, drawn.mean(axis=(0, 1, 2)), atol=0.02)
    assert p[1] < p[0] < p[2]
    # Two single cells of equal variance 1/2: the probability that a standard normal value is below their difference.
    one = probability_of_more(np.array([[1.0]]), np.array([[0.5]]), np.array([[0.0]]), np.array([[0.5]]))
    assert one[0] == pytest.approx(0.8413447460685429)


def test_many_pairs_are_drawn_and_few_are_all_taken():
    rng = np.random.default_rng(0)
    means, others = rng.normal(size=(300, 2)), rng.normal(size=(400, 2)) - 0.5
    ones = np.ones((400, 2))
    assert 300 * 400 > MOST_PAIRS
    first, again, other = (probability_of_more(means, ones[:300], others, ones, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()
    exact = np.mean([probability_of_more(means[i : i + 50], ones[:50], others, ones) for i in range(0, 300, 50)], axis=0)
    np.testing.assert_allclose(first, exact, atol=0.01)


@pytest.fixture
def cells():
    """90 cells of groups A and B and none, two programmes higher in A, one in B, one switched off."""
    rng = np.random.default_rng(0)
    groups = pd.Series(["A"] * 40 + ["B"] * 40 + [None] * 10, dtype=object)
    means = rng.normal(scale=0.1, size=(90, 4))
    means[:40] += [1, 3, 0, 0]
    means[40:80, 2] += 2
    means[80:] += 100
    programs = pd.DataFrame({"programme": ["little", "much", "other", "off"], "active": [True, True, True, False]})
    return SimpleNamespace(means=means, variances=np.full((90, 4), 0.25), programs=programs, groups=groups)


def test_the_table_has_the_strongest_evidence_first(cells):
    table = compare_programs(cells.means, cells.variances, cells.programs, cells.groups)
    assert list(table) == ["group", "programme", "bayes_factor", "p", "mean_in_group", "mean_in_rest", "active"]
    assert list(zip(table["group"], table["programme"], strict=True)) == [
        *(("A", name) for name in ("much", "other", "little", "off")),
        *(("B", name) for name in ("much", "other", "little", "off")),
    ]
    np.testing.assert_allclose(table["bayes_factor"], np.log(table["p"]) - np.log(1 - table["p"]), rtol=1e-6)
    np.testing.assert_array_equal(table.loc[~table["active"], ["p", "bayes_factor"]], [[0.5, 0], [0.5, 0]])
    factors = table.pivot(index="programme", columns="group", values="bayes_factor")
    np.testing.assert_allclose(factors["A"], -factors["B"], rtol=1e-9)
    assert factors.loc["much", "A"] > 2.3 and factors.loc["other", "B"] > 2.3
    first = table.iloc[0]
    # Cells without a group take no part.
    assert first["mean_in_group"] == pytest.approx(cells.means[:40, 1].mean())
    assert first["mean_in_rest"] == pytest.approx(cells.means[40:80, 1].mean())


def mapping_of(cells, folder, options=None, **row) -> Mapped:
    """A mapping of these cells whose second programme's values have the wrong sign."""
    signs = np.array([1, -1, 1, 0], dtype=np.float32)
    embedding = ad.AnnData(obs=pd.DataFrame(index=[f"c{i}" for i in range(90)]))
    embedding.obsm["X_emb"], embedding.obsm["X_emb_var"] = (cells.means * [1, -1, 1, 1]).astype(np.float32), cells.variances
    embedding.uns["refmap"] = {
        "latent_names": np.array(cells.programs["programme"], dtype=object),
        "latent_directions": signs,
        "latent_active": np.array(cells.programs["active"]),
    }
    columns = {"type": cells.groups, "donor": pd.Series(["d1", "d2"] * 45), "same": pd.Series(["x"] * 90)}
    query = SimpleNamespace(obs_columns=list(columns), obs_column=columns.__getitem__)
    plan = {
        "row": {"labels_keys": [], "truth_key": None, "batch_key": "donor"} | row,
        "options": {"groups": None} | (options or {}),
    }
    folder.mkdir()
    return Mapped(embedding, query, plan, {"seed": 0, "warnings": []}, folder, folder, "lung/donor_1")


@pytest.mark.parametrize(
    ("settings", "groups"),
    [
        ({"options": {"groups": "type"}}, ["A", "B"]),
        ({"labels_keys": ["type"], "truth_key": "donor"}, ["A", "B"]),
        ({"truth_key": "type"}, ["A", "B"]),
        ({"options": {"groups": "donor"}, "labels_keys": ["type"]}, ["d1", "d2"]),
        ({}, ["d1", "d2"]),
    ],
    ids=["option", "labels", "truth", "option first", "batches"],
)
def test_the_groups_are_those_that_the_row_names(settings, groups, cells, tmp_path):
    draw_programs(mapping_of(cells, tmp_path / "m", **settings))
    table = pd.read_csv(tmp_path / "m" / "programs.csv")
    assert list(table["group"].unique()) == groups and len(table) == 8


def test_table_and_picture_are_written(cells, tmp_path):
    from PIL import Image

    draw_programs(mapping_of(cells, tmp_path / "m", options={"groups": "type"}))
    written = pd.read_csv(tmp_path / "m" / "programs.csv")
    means = cells.means.astype(np.float32).astype(float) * [1, 1, 1, 0]
    expected = compare_programs(means, cells.variances, cells.programs, cells.groups)
    pd.testing.assert_frame_equal(written, expected)
    with Image.open(tmp_path / "m" / "programs.png") as picture:
        assert picture.width > 300 and len(picture.convert("RGB").getcolors(maxcolors=1 << 20)) > 20


def test_of_many_groups_the_largest_are_compared(cells, tmp_path, monkeypatch):
    monkeypatch.setattr("refmap.report.results.programs.MOST_GROUPS", 1)
    cells.groups[40] = "A"
    mapped = mapping_of(cells, tmp_path / "m", options={"groups": "type"})
    draw_programs(mapped)
    table = pd.read_csv(tmp_path / "m" / "programs.csv")
    assert list(table["group"]) == ["A"] * 4 and np.isfinite(table["mean_in_rest"]).all()
    assert mapped.record["warnings"] == [
        "'type' has 2 groups: programs.csv compares the 1 largest alone; name another column with the option groups."
    ]


def test_one_group_has_no_rest(cells, tmp_path):
    draw_programs(mapping_of(cells, tmp_path / "m", options={"groups": "same"}))
    assert list((tmp_path / "m").iterdir()) == []
