"""Cells whose labels a reference does not see in its training: which they are, and how they are known afterwards."""

import numpy as np
import pandas as pd
import pytest
from refmap.common.errors import RefmapError
from refmap.models import hidden as module
from refmap.models.folder import ModelFolder
from refmap.models.hidden import HIDDEN, carry_hidden, draw_hidden, hidden_among, hide, seen_labels, write_hidden

SIZES = {"T": 1500, "B": 800, "NK": 90, "pDC": 10, "mast": 9}
NONE = "Unknown"


def atlas(seed=0):
    """Cells of labels from frequent to rare and without one, of three batches of unequal sizes, in random order."""
    rng = np.random.default_rng(seed)
    names = rng.permutation(np.repeat([*SIZES, NONE], [*SIZES.values(), 300]))
    batches = rng.choice(["a", "b", "c"], size=len(names), p=[0.6, 0.3, 0.1])
    obs = pd.DataFrame({"cell_type": pd.Categorical(names), "donor": pd.Categorical(batches)})
    obs.index = [f"c{i}" for i in range(len(obs))]
    return obs


def draw(obs, fraction=0.2, seed=0, keys=("cell_type",)):
    return draw_hidden(obs, list(keys), "donor", NONE, fraction, seed)


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.3, 0.5])
def test_the_fraction_of_each_label_and_batch_is_hidden(fraction):
    obs = atlas()
    hidden = draw(obs, fraction)
    assert hidden.dtype == bool and hidden.shape == (len(obs),)
    n_drawn_from = sum(n for n in SIZES.values() if n >= 10)
    assert hidden.sum() in (np.floor(n_drawn_from * fraction), np.ceil(n_drawn_from * fraction))
    for columns in (["cell_type"], ["cell_type", "donor"]):
        groups = pd.Series(hidden, index=obs.index).groupby([obs[column] for column in columns], observed=True)
        for name, (found, n) in groups.agg(["sum", "size"]).iterrows():
            rare = "mast" in name or NONE in name
            assert found == 0 if rare else np.floor(n * fraction) <= found <= np.ceil(n * fraction), name


def test_labels_keep_half_of_their_cells_at_least_whatever_is_drawn():
    obs = atlas()
    for seed in range(20):
        shown = obs["cell_type"][~draw(obs, 0.5, seed)].value_counts()
        assert all(shown[name] >= n // 2 for name, n in SIZES.items())


def test_another_seed_draws_others_and_the_same_the_same():
    obs = atlas()
    np.testing.assert_array_equal(draw(obs), draw(obs))
    both = (draw(obs) & draw(obs, seed=1)).sum() / draw(obs).sum()
    assert both == pytest.approx(0.2, abs=0.08)  # as two draws that know nothing of each other have in common


def test_chance_has_its_say_within_a_label_and_batch():
    """In the atlas's order neighbours are often cells of one plate; every fifth of these is no random draw."""
    obs = pd.DataFrame({"cell_type": ["T"] * 5000, "donor": ["a"] * 5000})
    gaps = np.diff(np.flatnonzero(draw(obs)))
    assert len(gaps) == 999 and len(set(gaps)) > 10


@pytest.mark.parametrize(("n", "found"), [(1999, 0), (2000, 400)])
def test_nothing_is_hidden_of_a_small_reference(n, found):
    # Cells without a label do not count
    obs = pd.DataFrame({"cell_type": np.repeat(["T", NONE], [n, 500]), "donor": "a"})
    assert draw(obs).sum() == found


def test_nothing_is_hidden_of_a_fraction_of_0():
    assert not draw(atlas(), 0).any()


def test_a_cell_is_hidden_with_the_labels_of_all_columns_unless_one_is_rare():
    obs = atlas()
    fine = obs["cell_type"].astype(str).to_numpy(dtype=object)
    rare = np.flatnonzero(fine == "T")[:9]
    fine[rare] = "T of few"
    obs["fine"] = pd.Categorical(fine)
    without = obs["cell_type"] == NONE
    obs.loc[without, "fine"] = pd.Categorical(["T"] * without.sum(), categories=obs["fine"].cat.categories)
    hidden = draw(obs, 0.5, keys=("cell_type", "fine"))
    assert not hidden[rare].any() and hidden[without].sum() == 150
    before = obs.copy()
    hide(obs, ["cell_type", "fine"], NONE, hidden)
    for key in ("cell_type", "fine"):
        assert (obs[key][hidden] == NONE).all() and obs[key].dtype == "category"
        assert (obs[key][~hidden].astype(str) == before[key][~hidden].astype(str)).all()
    assert obs["donor"].equals(before["donor"])


def test_the_model_says_who_was_hidden_and_the_one_that_surgery_made_of_it(tmp_path):
    model, updated = tmp_path / "model", tmp_path / "updated"
    for folder in (model, updated):
        folder.mkdir()
        (folder / "model.pt").write_bytes(b"weights")
    plain = ModelFolder(model).sha256()
    assert not hidden_among(["a", "b"], ModelFolder(model)).any()
    carry_hidden(ModelFolder(model), updated)
    assert not (updated / HIDDEN).exists()
    write_hidden(model, pd.Index(["b", "é/1"]), 0.2, 0)
    assert ModelFolder(model).sha256() != plain and ModelFolder(model).files() == [HIDDEN, "model.pt"]
    carry_hidden(ModelFolder(model), updated)
    for folder in (model, updated):
        # By name, of whatever cells there are, in whatever order
        assert hidden_among(["é/1", "a", "c", "b"], ModelFolder(folder)).tolist() == [True, False, False, True]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"cells": "b"}', '{"cells": [1]}'])
def test_a_damaged_list_is_a_fault(tmp_path, text):
    (tmp_path / "model.pt").write_bytes(b"weights")
    (tmp_path / HIDDEN).write_text(text)
    with pytest.raises(
        RefmapError, match=f"^models/atlas/{HIDDEN} is damaged: it should list under 'cells' .* copy the model again"
    ):
        hidden_among(["a"], ModelFolder(tmp_path, "models/atlas"))


def test_labels_that_the_model_saw_are_its_own_and_not_those_of_a_hierarchy():
    card = {"labels": {"tree": ["T"], "fine": ["T"]}, "latent_of_labels": True, "hierarchy": None}
    assert seen_labels(card) == ["tree", "fine"]
    assert seen_labels(card | {"hierarchy": {"below": {"labels": {"fine": ["T"]}}}}) == ["fine"]
    assert seen_labels(card | {"latent_of_labels": False}) == []


def test_the_parameter_says_below_which_size_nothing_is_hidden(pytestconfig):
    from refmap.sheet.parameters import load_schema, properties

    said = properties(load_schema(pytestconfig.rootpath / "nextflow_schema.json"))["reference_hidden_labels"]
    assert f"fewer than {module.FEWEST_LABELED:,} labelled cells" in said["description"]
    assert (said["minimum"], said["maximum"], said["default"]) == (0, 0.5, 0.2)
