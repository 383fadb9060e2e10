"""Whatever the bytes of a model's files are, inspection gives a card or a sentence that names the model: no traceback, no hang.

A setting lets it search for long: ``REFMAP_FUZZ=100000 pytest tests/core/models/test_damaged_models.py``.
"""

import io
import os
import pickle
import resource
import signal
import zipfile

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refmap.families.scpoli.card import _NEEDED
from refmap.reference.inspection import inspect_model
from tensor_pickles import TensorOf, dumps, storage_bytes

EXAMPLES = int(os.environ.get("REFMAP_FUZZ", 60))
GENES = [f"g{i}" for i in range(5)]
WEIGHTS = {"z_encoder.mean_encoder.weight": np.zeros((3, 4)), "px_r": np.zeros(5), "w": TensorOf(storage_bytes())}
STATE = {"original_key": "donor", "categorical_mapping": np.array(["a", "b"], dtype=object)}
ATTRIBUTES = {
    "registry_": {
        "scvi_version": "1.1.0",
        "model_name": "SCVI",
        "setup_args": {"batch_key": "donor", "layer": None},
        "field_registries": {"batch": {"state_registry": STATE}, "labels": {"state_registry": {"original_key": "_scvi_labels"}}},
    },
    "init_params_": {"non_kwargs": {"n_latent": 3}, "kwargs": {"model_kwargs": {"encode_covariates": True}}},
    "history_": {"elbo": pd.DataFrame({"elbo": [1.5, 2.5]})},
    "train_indices_": np.arange(9),
}
SCPOLI = dict.fromkeys(_NEEDED) | {"prototypes_unlabeled_": {}} | {
    "condition_keys_": ["donor"], "conditions_": {"donor": ["a", "b"]}, "cell_type_keys_": ["type"], "latent_dim_": 3,
    "cell_types_": {"T": ["type"], "B": ["type"]}, "prototypes_labeled_": {"type": {"mean": TensorOf(storage_bytes())}},
    "inject_condition_": ["encoder"], "input_dim_": 5, "recon_loss_": "nb", "hidden_layer_sizes_": [4],
    "obs_metadata_": pd.DataFrame({"d": ["a"]}),
}  # fmt: skip
PLAIN = pickle.dumps(WEIGHTS["px_r"], 2)


def _zip(data):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model/data.pkl", data)
        archive.writestr("model/version", "3\n")
    return buffer.getvalue()


SAVED = {"model_state_dict": WEIGHTS, "var_names": np.array(GENES, dtype=object), "attr_dict": ATTRIBUTES}
REST = {"model_params.pt": _zip(dumps(WEIGHTS)), "var_names.csv": "\n".join(GENES).encode()}
MODELS = {
    "model.pt": {"model.pt": _zip(dumps(SAVED))},
    "three files": {"attr.pkl": dumps(ATTRIBUTES), **REST},
    "scPoli": {"attr.pkl": dumps(SCPOLI), **REST},
}
OTHERS = [
    *(data for files in MODELS.values() for data in files.values()),
    PLAIN,
    bytes(64),
    b"\xff" * 9,
    b"\x80\x04\x95" + b"\xff" * 8,
]


def test_what_is_spoiled_below_is_sound(tmp_path):
    for name, files in MODELS.items():
        card = inspect_model(put(tmp_path / name, files))
        assert (card.fault, card.genes, card.batches) == (None, GENES, ["a", "b"]), name


def put(folder, files):
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


@st.composite
def spoiled(draw):
    """A model, one file of which is cut, flipped or spliced, often several times."""
    files = dict(draw(st.sampled_from(list(MODELS.values()))))
    name = draw(st.sampled_from(sorted(files)))
    data = bytearray(files[name])
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        how = draw(st.sampled_from(["cut", "flip", "set", "insert", "remove", "repeat", "splice"]))
        if how == "cut":
            del data[place:]
        elif how == "flip" and data:
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif how == "set":
            data[place : place + 1] = bytes([draw(st.integers(0, 255))])
        elif how == "insert":
            data[place:place] = draw(st.binary(max_size=9))
        elif how == "remove":
            del data[place : place + draw(st.integers(1, 40))]
        elif how == "repeat":
            data[place:place] = data[place : place + draw(st.integers(1, 200))] * draw(st.integers(1, 20))
        else:
            other = draw(st.sampled_from(OTHERS))
            start = draw(st.integers(0, len(other) - 1))
            data[place : place + draw(st.integers(0, 60))] = other[start : start + draw(st.integers(1, 200))]
    return files | {name: bytes(data)}


@pytest.fixture(scope="module")
def little_memory():
    """A gigabyte beside what there is."""
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 10**9, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(files=spoiled())
def test_a_damaged_model_has_a_card_or_a_sentence(tmp_path_factory, little_memory, files):
    folder = put(tmp_path_factory.getbasetemp() / "spoiled", files)
    for path in folder.iterdir():
        if path.name not in files:
            path.unlink()
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("inspection takes for ever"))
    signal.alarm(60)
    try:
        card = inspect_model(folder, "models/lung")
    finally:
        signal.alarm(0)
    assert card.fault is None or "models/lung" in card.fault
    assert card.fault is None or (len(card.fault) < 3100 and "\n" not in card.fault)
