"""What no mapping needs of a model is neither inspected nor loaded, whatever it is; the rest is as it was."""

import pickle
import zipfile

import numpy as np
import old_pickles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from old_pickles import Made, Name
from refmap.models.pickles import allowed_pickle, read_pickle, read_torch, trusted_pickle, unneeded

REGISTRY = {"field_registries": {}, "setup_args": {"layer": None}}
LOGGER = Made(Name("pytorch_lightning.loggers.csv_logs CSVLogger"), ("logs",), {"history": {"elbo": 1.5}})
DATES = Made(Name("pandas.core.indexes.period _new_PeriodIndex"), (Name("pandas.core.indexes.period PeriodIndex"), {}))
CALL = Made(Name("os system"), ("exit 3",))


def written(folder, value):
    path = folder / "attr.pkl"
    path.write_bytes(value if isinstance(value, bytes) else old_pickles.dumps(value))
    return path


def loaded(path):
    """What both of the unpicklers that load a model make of a file: the same."""
    allowed, trusted = (kind().load(open(path, "rb")) for kind in (allowed_pickle, trusted_pickle))
    assert allowed.keys() == trusted.keys()
    return allowed


@pytest.mark.parametrize("what", [LOGGER, DATES, CALL, [{"x": (CALL,)}]], ids=["a logger", "dates", "a call", "a call within"])
@pytest.mark.parametrize("key", ["history_", "semisupervised_history_", "trainer_", "logger_"])
def test_a_training_is_dropped_from_any_model(tmp_path, key, what):
    path = written(tmp_path, {"condition_key_": "batch", key: what, "latent_dim_": 10})
    contents = read_pickle(path)
    assert contents.refused == [] and contents.names == []
    assert contents.value == loaded(path) == {"condition_key_": "batch", "latent_dim_": 10}
    assert len(contents.left_out) == 1 and contents.left_out[0].startswith(f"{key} (")


@pytest.mark.parametrize("registry", ["registry_", "scvi_setup_dict_"])
def test_whatever_scvi_tools_does_not_read_is_dropped_if_it_is_not_allowed(tmp_path, registry):
    path = written(tmp_path, {registry: REGISTRY, "notes_": CALL, "init_params_": {}, "train_indices_": np.arange(3)})
    contents = read_pickle(path)
    assert contents.refused == [] and contents.left_out == ["notes_ (os.system)"]
    assert set(contents.value) == set(loaded(path)) == {registry, "init_params_", "train_indices_"}


@pytest.mark.parametrize(
    "attributes, wants",
    [
        ({"registry_": {"setup_args": CALL}, "history_": LOGGER}, "os.system"),
        ({"registry_": REGISTRY, "init_params_": CALL}, "os.system"),
        ({"condition_key_": CALL}, "os.system"),
        ({"mask_": LOGGER}, "pytorch_lightning.loggers.csv_logs.CSVLogger"),
        ([{"history_": LOGGER}], "pytorch_lightning.loggers.csv_logs.CSVLogger"),
        ({"a.history": LOGGER}, "pytorch_lightning.loggers.csv_logs.CSVLogger"),
    ],
)
def test_what_a_mapping_reads_is_refused_as_ever(tmp_path, attributes, wants):
    path = written(tmp_path, attributes)
    assert wants in read_pickle(path).refused
    with pytest.raises(pickle.UnpicklingError, match="it wants"):
        loaded(path)


def test_of_a_whole_file_only_what_is_read_can_refuse_it(tmp_path):
    attributes = {"registry_": REGISTRY, "history_": DATES, "x_": CALL}
    saved = {"optimizer": LOGGER, "model_state_dict": {"w": 1}, "attr_dict": attributes}
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("model/data.pkl", old_pickles.dumps(saved))
    contents = read_torch(tmp_path / "model.pt")
    assert contents.refused == []
    assert contents.value == {"model_state_dict": {"w": 1}, "attr_dict": {"registry_": REGISTRY}}
    assert [entry.split()[0] for entry in contents.left_out] == ["optimizer", "history_", "x_"]


def test_what_the_rest_shares_with_a_history_is_kept(tmp_path):
    """pickle writes an object once: what comes later points to where it was written."""
    shared, name = ["elbo", {"deep": ("x", "y")}], "a name"
    values = {"history_": [{"shared": shared, name: shared[1]}, LOGGER], "other_": shared, "third_": shared[1], name: name}
    for again in (values, values | {"trainer_": [values["history_"], shared]}):
        path = written(tmp_path, again)
        assert read_pickle(path).refused == []
        kept = loaded(path)
        assert kept == {"other_": shared, "third_": shared[1], name: name}
        assert kept["other_"][1] is kept["third_"]


def test_what_is_shared_and_not_allowed_is_refused(tmp_path):
    path = written(tmp_path, {"history_": [1, CALL], "condition_key_": [CALL]})
    assert read_pickle(path).refused == ["os.system"]


texts = st.text(max_size=3)
shareable = st.lists(texts, min_size=1) | st.binary() | st.integers() | st.dictionaries(texts, st.floats())
histories = st.recursive(shareable, lambda inner: st.lists(inner) | st.tuples(inner, inner), max_leaves=8)


@settings(deadline=None, max_examples=60)
@given(parts=st.lists(histories, min_size=2, max_size=4), data=st.data(), protocol=st.integers(0, 5))
def test_nothing_else_changes(tmp_path_factory, parts, data, protocol):
    """Every value may stand in several places, in the history and beside it, in any order."""
    some = st.lists(st.sampled_from(parts), max_size=5)
    keys = data.draw(st.permutations(["history_", "a_", "my_trainer_", "b_", "c_"]))
    model = {key: data.draw(some) for key in keys}
    path = tmp_path_factory.getbasetemp() / "attr.pkl"
    path.write_bytes(pickle.dumps(model, protocol))
    assert read_pickle(path).refused == []
    expected = {key: model[key] for key in keys if key in ("a_", "b_", "c_")}
    assert pickle.dumps(loaded(path)) == pickle.dumps(pickle.loads(pickle.dumps(expected, protocol)))


def test_a_pickle_that_is_not_understood_stays_as_it_is(tmp_path, monkeypatch):
    recursive = {"history_": []}
    recursive["history_"].append((recursive["history_"],))
    twice = b"\x80\x02}(X\x08\x00\x00\x00history_cos\nsystem\nq\x00q\x00u."
    for data in (pickle.dumps(recursive, 0), twice, b"\x80\x02}X\x08\x00\x00\x00history_N20s."):
        path = written(tmp_path, data)
        assert read_pickle(path).left_out == []
    assert read_pickle(written(tmp_path, twice)).refused == ["os.system"]
    monkeypatch.setattr(unneeded, "_MOST_OPCODES", 5)
    assert read_pickle(written(tmp_path, {"history_": CALL})).refused == ["os.system"]
