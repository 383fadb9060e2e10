"""Bayes factors of gene programmes between groups of cells."""

from __future__ import annotations

from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from refmap.report.mapped_cells import Reference
from refmap.report.results.mapped import Mapped
from refmap.report.results.programs import (
    MOST_PAIRS,
    Posteriors,
    all_pairs,
    compare_programs,
    compare_with_reference,
    draw_programs,
    pairs_of_labels,
    probability_of_more,
)


def more(means, variances, others, other_variances, seed=0):
    """The probability over the pairs that are taken."""
    pairs = all_pairs(len(means), len(others), seed)
    return probability_of_more(Posteriors(means, variances), Posteriors(others, other_variances), pairs)


def test_the_probability_is_that_of_drawn_values():
    rng = np.random.default_rng(0)
    means, others = rng.normal(size=(6, 3)), rng.normal(size=(9, 3)) + [0, 1, -3]
    variances, theirs = rng.uniform(0.1, 2, size=(6, 3)), rng.uniform(0.1, 2, size=(9, 3))
    p = more(means, variances, others, theirs)
    drawn = (
        rng.normal(means, np.sqrt(variances), size=(3000, 6, 3))[:, :, None]
        > rng.normal(others, np.sqrt(theirs), size=(3000, 9, 3))[:, None]
    )
    np.testing.assert_allclose(p, drawn.mean(axis=(0, 1, 2)), atol=0.02)
    assert p[1] < p[0] < p[2]
    # Two single cells of equal variance 1/2: the probability that a standard normal value is below their difference.
    one = more(np.array([[1.0]]), np.array([[0.5]]), np.array([[0.0]]), np.array([[0.5]]))
    assert one[0] == pytest.approx(0.8413447460685429)


def test_many_pairs_are_drawn_and_few_are_all_taken():
    rng = np.random.default_rng(0)
    means, others = rng.normal(size=(300, 2)), rng.normal(size=(400, 2)) - 0.5
    ones = np.ones((400, 2))
    assert 300 * 400 > MOST_PAIRS
    first, again, other = (more(means, ones[:300], others, ones, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()
    exact = np.mean([more(means[i : i + 50], ones[:50], others, ones) for i in range(0, 300, 50)], axis=0)
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
    table = compare_programs(Posteriors(cells.means, cells.variances), cells.programs, cells.groups)
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


def mapping_of(cells, folder, options=None, reference=None, **row) -> Mapped:
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
    return Mapped(embedding, query, reference, plan, {"seed": 0, "warnings": []}, folder, folder, "lung/donor_1")


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
    expected = compare_programs(Posteriors(means, cells.variances), cells.programs, cells.groups)
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


def reference_of(names, means, variances, labels) -> Reference:
    cells = ad.AnnData(obs=pd.DataFrame({"type": pd.Categorical(labels)}, index=[f"r{i}" for i in range(len(labels))]))
    cells.obsm["X_emb"] = np.asarray(means, dtype=np.float32)
    if variances is not None:
        cells.obsm["X_emb_var"] = np.asarray(variances, dtype=np.float32)
    return Reference(cells, {"keys": ["type"], "latent_names": names, "batch_key": None})


def test_groups_are_compared_with_reference_cells_of_their_labels(cells, tmp_path):
    # The group A is of T and B cells in equal parts; the reference is nearly all B, whose second programme is as high as A's.
    labels = pd.Series(["T", "B"] * 20 + ["T"] * 40 + ["Unknown"] * 10, dtype=object)
    theirs = np.array(["T"] * 10 + ["B"] * 190)
    means = np.zeros((200, 3))
    means[:, 1] = np.where(theirs == "B", -3, 0)  # of a programme that is reversed
    reference = reference_of(["other", "much", "little"], means, np.full((200, 3), 0.25), theirs)
    mapped = mapping_of(cells, tmp_path / "m", options={"groups": "type"}, reference=reference)
    mapped.embedding.obs["type_transferred"] = pd.Categorical(labels)
    draw_programs(mapped)
    table = pd.read_csv(tmp_path / "m" / "programs_reference.csv")
    assert list(table) == ["group", "programme", "bayes_factor", "p", "mean_in_group", "mean_in_reference", "active"]
    # The reference's programmes alone, by their names
    assert sorted(table["programme"]) == sorted(["little", "much", "other"] * 2)
    found = table.set_index(["group", "programme"])
    much, other = found.loc[("A", "much")], found.loc[("B", "other")]
    assert much["mean_in_reference"] == pytest.approx(1.5) and much["mean_in_group"] == pytest.approx(3, abs=0.1)
    expected = 0.5 * (0.5 + 1)  # as much as the B cells have, and more than any T cell has
    assert much["p"] == pytest.approx(expected, abs=0.02)
    assert other["mean_in_group"] == pytest.approx(2, abs=0.1) and other["p"] > 0.95 and other["mean_in_reference"] == 0
    assert (tmp_path / "m" / "programs_reference.png").stat().st_size > 1000
    # Without labels each is compared with all
    cells_of, all_of_them = (
        Posteriors(cells.means[:, :3], cells.variances[:, :3]),
        Posteriors(means[:, [2, 1, 0]] * [1, -1, 1], np.full((200, 3), 0.25)),
    )
    against_all = compare_with_reference(cells_of, all_of_them, cells.programs.iloc[:3], cells.groups)
    assert against_all.set_index(["group", "programme"]).loc[("A", "much"), "mean_in_reference"] == pytest.approx(2.85, abs=0.05)


def test_pairs_are_of_one_label_and_as_many_of_each_cell():
    labels = pd.Series(["T", "B", "T"], dtype=object)
    others = pd.Series(["B", None, "T", "B"], dtype=object)
    first, second = pairs_of_labels(labels, others, seed=0)
    assert (labels.to_numpy()[first] == others.to_numpy()[second]).all() and set(second) == {0, 2, 3}
    counts = np.bincount(first)
    assert (counts == counts[0]).all() and MOST_PAIRS - 3 < len(first) <= MOST_PAIRS


def test_without_the_variance_of_the_reference_there_is_no_comparison_with_it(cells, tmp_path):
    reference = reference_of(["little"], np.zeros((9, 1)), None, ["T"] * 9)
    draw_programs(mapping_of(cells, tmp_path / "m", options={"groups": "type"}, reference=reference))
    assert {path.name for path in (tmp_path / "m").iterdir()} == {"programs.csv", "programs.png"}
