"""Tensors in a plain pickle: what torch writes, both locks read; what hides in a tensor's bytes, both refuse."""

from __future__ import annotations

import contextlib
import os
import pickle

import pandas as pd
import pytest
import tensor_pickles
import torch
from refmap.models.pickles import Tensor, allowed_pickle, read_pickle
from tensor_pickles import TensorOf, storage_bytes


def test_real_tensors_are_described_and_loaded(tmp_path):
    """torch itself writes what the other tests take for its bytes."""
    attributes = {"mean": torch.arange(12.0).reshape(3, 4)[:, 1:], "cov": torch.ones(2, dtype=torch.bfloat16)}
    path = tmp_path / "attr.pkl"
    path.write_bytes(pickle.dumps(attributes))
    contents = read_pickle(path)
    assert contents.value == {"mean": Tensor("Float", (3, 3)), "cov": Tensor("BFloat16", (2,))}
    assert contents.refused == []
    loaded = allowed_pickle().loads(path.read_bytes())
    assert all(torch.equal(loaded[name], attributes[name]) for name in attributes)
    assert torch.equal(allowed_pickle().loads(tensor_pickles.dumps(TensorOf(storage_bytes()))), torch.arange(12.0).reshape(3, 4))
    # ... and would have loaded these very bytes by itself.
    assert torch.equal(pickle.loads(tensor_pickles.dumps(TensorOf(storage_bytes()))), torch.arange(12.0).reshape(3, 4))


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


@pytest.mark.parametrize("place", tensor_pickles.PLACES)
def test_an_attack_in_the_bytes_of_a_tensor_is_refused_by_the_second_lock(tmp_path, place):
    executed = tmp_path / "executed"
    pickled = tensor_pickles.dumps(TensorOf(tensor_pickles.hide(pickle.dumps(Attack(executed), 2), place)))
    with pytest.raises(pickle.UnpicklingError, match="it wants"):
        allowed_pickle().loads(pickled)
    assert not executed.exists()
    if place in ("the value", "beside the value"):  # what the test rests on: torch runs it
        with contextlib.suppress(AssertionError):
            pickle.loads(pickled)
        assert executed.exists()


@pytest.mark.parametrize("form", tensor_pickles.OTHER_FORMS)
def test_bytes_of_another_form_are_refused_by_the_second_lock(form):
    pickled = tensor_pickles.dumps(TensorOf(tensor_pickles.OTHER_FORMS[form]))
    with pytest.raises((pickle.UnpicklingError, EOFError, AssertionError)):
        allowed_pickle().loads(pickled)


def test_tables_of_samples_are_allowed(tmp_path):
    """A row a pair of samples, and numbers with missing values: what scPoli keeps of the obs that it was given."""
    obs = pd.DataFrame({"batch": ["a", "b"], "chemistry": ["v2", "v3"], "n": pd.array([1, None], "Int64")})
    obs["share"], obs["ill"] = pd.array([0.5, None], "Float64"), pd.array([True, None], "boolean")
    path = tmp_path / "attr.pkl"
    path.write_bytes(pickle.dumps(obs.groupby(["batch", "chemistry"]).first()))
    assert read_pickle(path).refused == []
    assert allowed_pickle().loads(path.read_bytes()).index.tolist() == [("a", "v2"), ("b", "v3")]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "activation", ["ReLU", "LeakyReLU", "ELU", "SELU", "GELU", "SiLU", "Mish", "Tanh", "Sigmoid", "Softplus"]
)
def test_activations_are_allowed(tmp_path, activation, protocol):
    path = tmp_path / "attr.pkl"
    path.write_bytes(pickle.dumps(getattr(torch.nn, activation)(), protocol))
    assert read_pickle(path).refused == []
    assert isinstance(allowed_pickle().loads(path.read_bytes()), getattr(torch.nn, activation))


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_tables_and_state_dicts_are_allowed(tmp_path, protocol):
    table = pd.DataFrame({"elbo": [1.0, 2.0], "name": ["a", "b"], "kind": pd.Categorical(["x", "y"])}, index=["c1", "c2"])
    values = {"table": table, "column": table["elbo"], "index": table.index, "weights": torch.nn.Linear(2, 2).state_dict()}
    path = tmp_path / "attr.pkl"
    path.write_bytes(pickle.dumps(values, protocol))
    assert read_pickle(path).refused == []
    pd.testing.assert_frame_equal(allowed_pickle().loads(path.read_bytes())["table"], table)
