"""What bench/trust.py says of mapped pairs, from made ones whose figures are known."""

import sys
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml

BENCH = Path(__file__).resolve().parents[2] / "bench"
sys.path[:0] = [str(BENCH), str(BENCH.parent / "bin")]

from lib.components import look  # noqa: E402
from lib.pairs import read_pairs  # noqa: E402
from lib.trust_tables import Run, rank_of_group, recognised, tables, with_all_types, without_a_type  # noqa: E402
from trust import runs_of  # noqa: E402


def made_run(left_out: str | None, light: str = "green") -> Run:
    """Ten cells: six of type a, all called so, and four of b, of which one is Unknown and three in groups of their own."""
    cells = pd.DataFrame(
        {
            "truth": ["a"] * 6 + ["b"] * 4,
            "label_transferred": ["a"] * 9 + ["Unknown"],
            "label_by_genes": ["a"] * 6 + ["b", "b", "b", "a"],
            "label_label_set": ["a"] * 6 + ["a | b", "b", "(none)", "a"],
            "label_certainty": [0.9] * 6 + [0.9, 0.9, 0.8, 0.4],
            "label_uncertainty": [0.1] * 10,
            "novel_score": [0.0] * 6 + [1.0, 1.0, 1.0, -1.0],
            "reference_distance": np.arange(10.0),
            "novel_group": [None] * 5 + ["novel_1", "novel_2", "novel_2", "novel_2", None],
            "own_cluster": ["cluster_3"] * 5 + ["novel_1", "novel_2", "novel_2", "novel_2", "cluster_4"],
        }
    )
    calibration = {"label_transferred": {"accuracy": 0.6, "ece": 0.3}, "label_by_genes": {"accuracy": 0.9, "ece": 0.02}}
    figures = {"certain": {"value": 0.84}, "groups": {"value": 0.3, "groups": {"novel_2": {}}, "n_smaller": 1, "n_states": 0}}
    lights = {part: {"light": light, "reasons": [f"Of {part}."]} for part in ("labels", "embedding")}
    groups = pd.DataFrame({"group": ["novel_1", "novel_2", "cluster_3", "cluster_4"]})
    return Run("made", left_out, 0, {"calibration": calibration, "trust": lights | {"figures": figures}}, cells, groups)


def test_a_query_whose_types_are_all_known_is_counted_cell_by_cell():
    row = with_all_types(made_run(None))
    assert [row[name] for name in ("cells", "right", "right by genes", "expected")] == [10, 0.6, 0.9, 0.84]
    # Sets: of six cells {a}, of the others {a, b}, {b}, none and {a}, which is b.
    assert row["sets that hold it"] == pytest.approx(8 / 10) and row["labels in a set"] == pytest.approx(10 / 10)
    assert (
        row["`Unknown`"] == 0.1
        and row["novel groups"] == 2
        and row["states"] == 0
        and row["cells in either"] == pytest.approx(0.4)
    )


def test_the_gene_views_f1_is_that_of_each_type():
    # a: six of six found, seven called so; b: three of four found, three called so.
    assert recognised(made_run(None)) == pytest.approx({"a": 12 / 13, "b": 6 / 7})


def test_a_type_that_was_left_out_is_told_by_scores_groups_and_unknown():
    row = without_a_type(made_run("b"), made_run(None))
    assert row["cells"] == 4 and row["F1 if known"] == pytest.approx(6 / 7)
    # Three of the four score above all six others, and one below them; distance ranks all four above; all are as uncertain.
    assert [row[name] for name in ("score", "distance", "uncertainty")] == pytest.approx([0.75, 1.0, 0.5])
    # 1 - certainty: two are as certain as the six, and two less.
    assert row["1 - certainty"] == pytest.approx(0.75)
    assert row["in novel groups"] == 0.75 and row["others in them"] == pytest.approx(1 / 6)
    assert row["`Unknown`"] == 0.25 and row["named, unopposed"] == 0 and row["called"] == "a 0.75"


def test_a_group_counts_only_where_most_of_its_cells_are_of_the_type():
    assert rank_of_group(made_run("b")) == 2 and rank_of_group(made_run("a")) == 1
    assert rank_of_group(made_run("c")) is None
    # One that is not flagged stands in the table too.
    run = made_run("b")
    run.cells["truth"] = ["a"] * 9 + ["b"]
    assert rank_of_group(run) == 4


def test_the_tables_say_what_is_asked_for_and_why_lights_are_not_green():
    text = tables([made_run(None, "amber"), made_run("b", "red")])
    assert "- made, labels, amber: Of labels." in text and "- made, labels, red" not in text
    assert "Mean AUROC over the 1 left-out types that the gene view knows (F1 of 0.85 or more): score 0.75, distance 1.00" in text
    assert "Calibration error of the labels by genes (aim: 0.05 at most): 1 of 1 queries within it, 0.02 at worst." in text
    assert "whose labels are not green (aim: 10% at most): 1 of 1; embeddings: 1 amber." in text
    assert "Lights of the labels with a type left out: 1 red." in text


def test_types_that_are_seen_are_counted_apart_where_the_genes_know_them():
    runs = [made_run(None), made_run("b")]
    runs[1] = replace(runs[1], cells=pd.concat([runs[1].cells] * 20))
    text = tables(runs)
    assert "(aim: all): of those that the gene view knows 1 of 1 (1 by groups alone); of the others 0 of 0." in text
    runs[0].cells["label_by_genes"] = "a"
    assert "of those that the gene view knows 0 of 0 (0 by groups alone); of the others 1 of 1." in tables(runs)


@pytest.fixture
def described(tmp_path) -> Path:
    """A YAML of two pairs, and the file of both sides of them."""
    obs = pd.DataFrame(
        {"run": ["r", "r", "r", "q", "q"], "type": ["a", "a", "b", "A", "c"]}, index=[f"cell {i}" for i in range(5)]
    )
    cells = ad.AnnData(np.arange(15, dtype=np.float32).reshape(5, 3), obs=obs, var=pd.DataFrame(index=["x", "y", "z"]))
    cells.layers["counts"] = cells.X + 1
    cells.write_h5ad(tmp_path / "cells.h5ad")
    cells[:, ["z", "x"]].copy().write_h5ad(tmp_path / "fewer.h5ad")
    side = {"file": "cells.h5ad", "batch": "run", "labels": "type"}
    pair = {
        "reference": side | {"where": {"run": ["r"]}, "layer": "counts"},
        "query": side | {"file": "fewer.h5ad", "where": {"run": ["q"]}, "rename": {"A": "a", "c": None}},
        "leave_out": ["b", "a"],
        "shared_genes": True,
    }
    defaults = {"seeds": 1, "reference_epochs": 2, "epochs": 1}
    given = {"defaults": defaults, "pairs": {"one": pair, "two": pair | {"leave_out": ["b"], "seeds": 2}}}
    (tmp_path / "pairs.yml").write_text(yaml.safe_dump(given))
    return tmp_path


def test_a_pair_is_read_as_the_yaml_says(described):
    (pair,) = read_pairs(described / "pairs.yml", ("one",))
    reference, query = pair.cells(described)
    assert reference.obs["label"].tolist() == ["a", "a", "b"] and reference.obs["batch"].tolist() == ["r"] * 3
    assert reference.var_names.tolist() == ["x", "z"] and reference.X.tolist() == [[1, 3], [4, 6], [7, 9]]
    assert query.obs["truth"].tolist() == ["a"] and query.obs_names.tolist() == ["cell 3"] and query.X.tolist() == [[11, 9]]


def test_runs_with_nothing_left_out_come_first_and_each_pair_has_its_seeds(described):
    runs = [(pair.name, left_out, seed) for pair, left_out, seed in runs_of(read_pairs(described / "pairs.yml", ()))]
    first = [("one", None, 0), ("two", None, 0), ("one", "b", 0), ("two", "b", 0), ("one", "a", 0)]
    assert runs == [*first, ("two", None, 1), ("two", "b", 1)]


def test_at_most_so_many_cells_of_a_label_are_drawn(described):
    (pair,) = read_pairs(described / "pairs.yml", ("one",))
    reference = type(pair.reference)(**vars(pair.reference) | {"most": 1}).read(described, "label")
    assert sorted(reference.obs["label"]) == ["a", "b"]


def test_halves_of_a_side_hold_each_cell_once_and_a_side_may_be_of_one_batch(described):
    (pair,) = read_pairs(described / "pairs.yml", ("one",))
    side = vars(pair.reference) | {"batch": None, "where": None}
    halves = [type(pair.reference)(**side | {"half": half}).read(described, "label") for half in (0, 1)]
    assert sorted(pd.concat([half.obs for half in halves]).index) == [f"cell {i}" for i in range(5)]
    assert set(pd.concat([half.obs for half in halves])["batch"]) == {"all"}


def test_what_is_not_there_is_named(described):
    with pytest.raises(SystemExit, match="there is no pair 'three'; there are one, two"):
        read_pairs(described / "pairs.yml", ("three",))
    text = (described / "pairs.yml").read_text().replace("- b\n", "- d\n")
    (described / "pairs.yml").write_text(text)
    with pytest.raises(SystemExit, match=r"one: the reference has no 'd' to leave out; it has \['a', 'b'\]"):
        read_pairs(described / "pairs.yml", ("one",))[0].cells(described)


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory) -> dict[str | None, Run]:
    """Four types, of which 20 genes each tell, in two batches of the reference and one of the query, that is off in 30 genes.

    Looked at with all types and without `c`.
    """
    rng = np.random.default_rng(0)
    types, off = np.repeat(list("abcd"), 60), np.exp(rng.normal(0, 0.5, (3, 300)) * (np.arange(300) < 30))

    def cells(batches: list[int], column: str) -> ad.AnnData:
        rate = np.ones((len(types), 300))
        for place, name in enumerate("abcd"):
            rate[types == name, 100 + 20 * place : 120 + 20 * place] = 5
        of = np.resize(batches, len(types))
        obs = pd.DataFrame({"batch": of.astype(str), column: types}, index=[f"cell {i}" for i in range(len(types))])
        return ad.AnnData(
            rng.poisson(rate * off[of]).astype(np.float32), obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(300)])
        )

    reference, query, folder = cells([0, 1], "label"), cells([2], "truth"), tmp_path_factory.mktemp("looked")
    look(reference, query, 0, folder / "all")
    look(reference[reference.obs["label"] != "c"].copy(), query, 0, folder / "lacking")
    return {None: Run.read(folder / "all", "made", None, 0), "c": Run.read(folder / "lacking", "made", "c", 0)}


def test_by_components_a_query_whose_types_are_all_known_is_green(looked_at):
    row = with_all_types(looked_at[None])
    assert row["right"] > 0.98 and row["right by genes"] > 0.98 and row["error of certainty"] < 0.05
    assert row["novel groups"] == 0 and row["labels"] == "green" and row["embedding"] == "grey"


def test_by_components_a_type_that_the_reference_lacks_stands_first(looked_at):
    row = without_a_type(looked_at["c"], looked_at[None])
    assert row["cells"] == 60 and row["F1 if known"] > 0.98 and row["score"] > 0.98 and row["first group"] == 1
    assert row["in novel groups"] == 1 and row["others in them"] == 0 and row["labels"] == "amber"
    assert "c" not in set(looked_at["c"].cells["label_transferred"])


@pytest.mark.parametrize("name", ["trust.yml", "groups.yml"])
def test_the_pairs_that_come_with_it_can_be_read(name):
    pairs = read_pairs(BENCH / name, ())
    assert len(pairs) >= 4 and all(pair.leave_out and not Path(pair.reference.file).is_absolute() for pair in pairs)
    assert all(pair.epochs is None for pair in pairs)  # surgery trains as it does where nobody chooses
