"""Pickles as older versions of pandas, numpy, torch and Python wrote them, opcode by opcode, and what is to be loaded of them."""

from __future__ import annotations

import datetime
import importlib.util
import inspect
import io
import pickle
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from refmap.models.pickles import ALLOWED, allowed_pickle, read_pickle, trusted_pickle
from tensor_pickles import storage_bytes

EPOCH = pd.Index(np.array([3, 1]), name="epoch")


@dataclass(frozen=True)
class Name:
    """A class or function, by a name that this environment need not have."""

    name: str  # "module name", as in a pickle


@dataclass(frozen=True)
class Made:
    """What is made by calling, or by `__new__` if it is `new`, and then given a state."""

    by: Any
    args: tuple = ()
    state: Any = None
    new: bool = False


class _Pickler(pickle._Pickler):
    """Python's own pickler, of the protocol that torch uses."""

    def save(self, value, *args, **kwargs):
        if isinstance(value, Name):
            self.write(pickle.GLOBAL + "{}\n{}\n".format(*value.name.split()).encode())
        elif isinstance(value, Made) and id(value) not in self.memo:
            self.save(value.by)
            self.save(value.args)
            self.write(pickle.NEWOBJ if value.new else pickle.REDUCE)
            if value.state is not None:
                self.save(value.state)
                self.write(pickle.BUILD)
            self.memoize(value)
        elif isinstance(value, np.ndarray):
            self.save(array(value))
        else:
            super().save(value, *args, **kwargs)


def dumps(value: object) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, 2).dump(value)
    return buffer.getvalue()


def new(name: str, state: Any = None) -> Made:
    return Made(Name(name), (), state, new=True)


def dtype(of: np.dtype) -> Made:
    objects = of.hasobject
    state = (3, "|", None, None, None, -1, -1, 63) if objects else (3, of.str[0], None, None, None, -1, -1, 0)
    return Made(Name("numpy dtype"), ("O8" if objects else of.str[1:], False, True), state)


def array(of: np.ndarray, core: str = "core") -> Made:
    numbers = of.ravel().tolist() if of.dtype.hasobject else of.tobytes()
    empty = (Name("numpy ndarray"), (0,), b"b")
    return Made(Name(f"numpy.{core}.multiarray _reconstruct"), empty, (1, of.shape, dtype(of.dtype), False, numbers))


def index(kind: str, **what: Any) -> Made:
    return Made(Name("pandas.core.indexes.base _new_Index"), (Name(kind), what))


def objects(*values: Any) -> np.ndarray:
    return np.array(values, dtype=object)


NUMERIC = "pandas.core.indexes.numeric"
OLD_EPOCH = index(f"{NUMERIC} Int64Index", data=np.array([3, 1]), name="epoch")
CATEGORIES = new(
    "pandas.core.dtypes.dtypes CategoricalDtype",
    {"categories": index("pandas.core.indexes.base Index", data=objects("y", "x"), name=None), "ordered": True},
)
CODES = np.array([1, 0], dtype=np.int8)
# As up to 1.2: the instance's attributes, and a type of texts without any.
OLD_CATEGORICAL = new("pandas.core.arrays.categorical Categorical", {"_codes": CODES, "_dtype": CATEGORIES})
OLD_TEXTS = new(
    "pandas.core.arrays.string_ StringArray",
    {"_ndarray": objects("u", "v"), "_dtype": new("pandas.core.arrays.string_ StringDtype")},
)
OLD_NUMBERS = new("pandas.core.arrays.integer IntegerArray", {"_data": np.array([7, 1]), "_mask": np.array([False, True])})
COLUMNS = index("pandas.core.indexes.base Index", data=objects("elbo", "kl", "name", "kind", "text", "n"), name=None)
DAYS = Made(
    Name("numpy.core.multiarray _reconstruct"),
    (Name("numpy ndarray"), (0,), b"b"),
    (
        1,
        (2,),
        Made(Name("numpy dtype"), ("M8", False, True), (4, "<", None, None, None, -1, -1, 0, ({}, (b"ns", 1, 1, 1)))),
        False,
        np.array(["2020-01-01", "NaT"], dtype="M8[ns]").tobytes(),
    ),
)
BLOCKS = [  # values, places
    (np.array([[1.0, 2.0], [0.5, 0.25]]), slice(0, 2, 1)),
    (objects("a", "b").reshape(1, 2), np.array([2])),
    (OLD_CATEGORICAL, slice(3, 4, 1)),
    (OLD_TEXTS, slice(4, 5, 1)),
    (OLD_NUMBERS, slice(5, 6, 1)),
]
TABLE = pd.DataFrame(
    {
        "elbo": [1.0, 2.0],
        "kl": [0.5, 0.25],
        "name": pd.Series(["a", "b"], EPOCH, dtype=object),
        "kind": pd.Categorical(["x", "y"], pd.Index(["y", "x"], dtype=object), ordered=True),
        "text": pd.Series(["u", "v"], EPOCH, dtype=pd.StringDtype("python")),
        "n": pd.array([7, None], "Int64"),
    },
    index=EPOCH,
).set_axis(pd.Index(["elbo", "kl", "name", "kind", "text", "n"], dtype=object), axis=1)


def manager(name: str, axes: list, blocks: list) -> Made:
    """As up to 1.2, and for columns by themselves in all of pandas 1."""
    today = {"axes": axes, "blocks": [{"values": values, "mgr_locs": places} for values, places in blocks]}
    state = (axes, [values for values, _ in blocks], [axes[0]] * len(blocks), {"0.14.1": today})
    return new(f"pandas.core.internals.managers {name}", state)


def table(managed: Made, attribute: str = "_mgr") -> Made:
    return new("pandas.core.frame DataFrame", {attribute: managed, "_typ": "dataframe", "_metadata": [], "attrs": {}})


def of_blocks(blocks: tuple) -> Made:
    """As since 1.3."""
    return table(Made(Name("pandas.core.internals.managers BlockManager"), (blocks, [COLUMNS, OLD_EPOCH])))


NEW_BLOCK = Name("pandas.core.internals.blocks new_block")
PARTIAL = Made(Name("functools partial"), (NEW_BLOCK,), (NEW_BLOCK, (), {"ndim": 2}, None))
UNPICKLE_BLOCK = Name("pandas._libs.internals _unpickle_block")
NUMBERS = np.array([[1.5, -2.0, 0.25], [4.0, 5.0, 6.0]])


def _backed(kind: str, state: tuple) -> Made:
    """As since 1.3."""
    return Made(Name("pandas._libs.arrays __pyx_unpickle_NDArrayBacked"), (Name(kind), 0xD555CB8, None), state)


# What was pickled, and what it is today.
OLD: dict[str, tuple[Any, Any]] = {
    "whole numbers as index": (OLD_EPOCH, EPOCH),
    "natural numbers as index": (
        index(f"{NUMERIC} UInt64Index", data=np.array([2**63, 1], dtype=np.uint64), name=None),
        pd.Index(np.array([2**63, 1], dtype=np.uint64)),
    ),
    "real numbers as index": (
        index(f"{NUMERIC} Float64Index", data=np.array([2.0, 0.5]), name="share"),
        pd.Index([2.0, 0.5], name="share"),
    ),
    "a range as index": (
        index("pandas.core.indexes.range RangeIndex", name="epoch", start=1, stop=9, step=3),
        pd.RangeIndex(1, 9, 3, name="epoch"),
    ),
    "categories as index": (
        index("pandas.core.indexes.category CategoricalIndex", data=OLD_CATEGORICAL, name="kind"),
        pd.CategoricalIndex(TABLE["kind"].array, name="kind"),
    ),
    "pairs as index": (
        index(
            "pandas.core.indexes.multi MultiIndex",
            levels=[index("pandas.core.indexes.base Index", data=objects("a", "b"), name="x"), OLD_EPOCH],
            codes=[CODES, CODES],
            sortorder=None,
            names=["x", "epoch"],
        ),
        pd.MultiIndex.from_arrays([pd.Index(["b", "a"], dtype=object), EPOCH[::-1]], names=["x", "epoch"]),
    ),
    "a table of 1.0": (table(manager("BlockManager", [COLUMNS, OLD_EPOCH], BLOCKS), "_data"), TABLE),
    "a table of 1.1": (table(manager("BlockManager", [COLUMNS, OLD_EPOCH], BLOCKS)), TABLE),
    "a table of 1.3": (of_blocks(tuple(Made(PARTIAL, block) for block in BLOCKS)), TABLE),
    "a table of 1.5": (of_blocks(tuple(Made(UNPICKLE_BLOCK, (*block, 2)) for block in BLOCKS)), TABLE),
    "a column": (
        new(
            "pandas.core.series Series",
            {
                "_mgr": manager("SingleBlockManager", [OLD_EPOCH], [(np.array([1.0, 2.0]), slice(0, 2, 1))]),
                "_typ": "series",
                "_metadata": ["name"],
                "attrs": {},
                "_name": "elbo",
            },
        ),
        TABLE["elbo"],
    ),
    "categories of 1.2": (OLD_CATEGORICAL, TABLE["kind"].array),
    "categories of 1.5": (
        _backed("pandas.core.arrays.categorical Categorical", (CATEGORIES, CODES, {})),
        TABLE["kind"].array,
    ),
    "the type of texts, of 1.2": (new("pandas.core.arrays.string_ StringDtype"), pd.StringDtype("python")),
    "the type of texts, of 1.3": (
        new("pandas.core.arrays.string_ StringDtype", {"storage": "python"}),
        pd.StringDtype("python"),
    ),
    "the type of texts, of 2": (Made(Name("pandas.core.arrays.string_ StringDtype"), ("python",)), pd.StringDtype("python")),
    "a missing value": (Name("pandas._libs.missing NA"), pd.NA),
    "a missing value of 3": (Name("pandas NA"), pd.NA),
    "no time": (Made(Name("pandas._libs.tslibs.nattype __nat_unpickle"), (None,)), pd.NaT),
    "no time of 3": (Made(Name("pandas._libs.tslibs.nattype _nat_unpickle"), (None,)), pd.NaT),
    "a time": (
        Made(Name("pandas._libs.tslibs.timestamps _unpickle_timestamp"), (1577836800000000000, None, None, 10)),
        pd.Timestamp("2020-01-01"),
    ),
    "a day of Python": (Made(Name("datetime date"), (b"\x07\xe4\x01\x02",)), datetime.date(2020, 1, 2)),
    "days as index": (
        Made(
            Name("pandas.core.indexes.datetimes _new_DatetimeIndex"),
            (Name("pandas.core.indexes.datetimes DatetimeIndex"), {"data": DAYS, "name": "day", "freq": None, "tz": None}),
        ),
        pd.DatetimeIndex(["2020-01-01", None], name="day").as_unit("ns"),
    ),
    "days": (DAYS, np.array(["2020-01-01", "NaT"], dtype="M8[ns]")),
    "truth values of 3": (
        new(
            "pandas.arrays BooleanArray",
            {"_dtype": new("pandas BooleanDtype"), "_data": np.array([True, False]), "_mask": np.array([False, True])},
        ),
        pd.array([True, None], dtype="boolean"),
    ),
    "a range of Python 2": (Made(Name("__builtin__ xrange"), (1, 9, 3)), range(1, 9, 3)),
    "a type of numpy": (Name("numpy bool"), np.bool_),
}
for _core in ("core", "_core"):
    _buffer = (NUMBERS.tobytes(), dtype(NUMBERS.dtype), NUMBERS.shape, "C")
    OLD |= {
        f"an array of numpy.{_core}": (array(NUMBERS, _core), NUMBERS),
        f"texts of numpy.{_core}": (array(objects("a", None), _core), objects("a", None)),
        f"a number of numpy.{_core}": (
            Made(Name(f"numpy.{_core}.multiarray scalar"), (dtype(np.dtype("f4")), np.float32(1.5).tobytes())),
            np.float32(1.5),
        ),
        f"a buffer of numpy.{_core}": (Made(Name(f"numpy.{_core}.numeric _frombuffer"), _buffer), NUMBERS),
    }
# The class of pandas 2.3; the pandas before has no type to say that missing texts are nan.
if "na_value" in inspect.signature(pd.StringDtype).parameters:
    _nan = Made(Name("pandas.core.arrays.string_ StringDtype"), ("python", float("nan")))
    OLD["texts of which nan is missing"] = (
        _backed("pandas.core.arrays.string_ StringArrayNumpySemantics", (_nan, objects("u", float("nan")), {})),
        pd.array(["u", None], pd.StringDtype("python", float("nan"))),
    )

if importlib.util.find_spec("torch"):
    import torch

    _tensor = (Made(Name("torch.storage _load_from_bytes"), (storage_bytes(),)), 0, (3, 4), (4, 1))
    _numbers = torch.arange(12.0).reshape(3, 4)
    _parameter = (Made(Name("torch._utils _rebuild_tensor"), _tensor), True, OrderedDict())
    # As of torch 1.5: newer ones have more kinds of hooks.
    _parts = ("_parameters", "_buffers", "_modules", "_backward_hooks", "_forward_hooks", "_forward_pre_hooks")
    _module = {"training": True} | {name: OrderedDict() for name in _parts}
    OLD |= {
        "a tensor of torch 0.3": (Made(Name("torch._utils _rebuild_tensor"), _tensor), _numbers),
        "a tensor of torch 1": (Made(Name("torch._utils _rebuild_tensor_v2"), (*_tensor, False, OrderedDict())), _numbers),
        "a parameter": (Made(Name("torch._utils _rebuild_parameter"), _parameter), torch.nn.Parameter(_numbers)),
        "a shape": (Made(Name("torch Size"), ((3, 4),)), torch.Size((3, 4))),
        "a device": (Made(Name("torch device"), ("cpu",)), torch.device("cpu")),
        "a type of torch": (Name("torch float16"), torch.float16),
        "an activation": (
            new("torch.nn.modules.activation LeakyReLU", _module | {"negative_slope": 0.5, "inplace": False}),
            torch.nn.LeakyReLU(0.5),
        ),
        # torch 1.12 gave the first a choice of approximations; the second had no `inplace` before 0.4.
        "an activation that has a setting more": (new("torch.nn.modules.activation GELU", _module), torch.nn.GELU()),
        "an activation without one": (new("torch.nn.modules.activation ELU", _module | {"alpha": 0.5}), torch.nn.ELU(0.5)),
        "a function": (Name("torch.nn.functional relu"), torch.nn.functional.relu),
    }


def check_old(name: str, folder: Path) -> set[str]:
    """Both locks take it for what it was, without a warning, and so does what loads for who trusts the file. The names in it."""
    old, today = OLD[name]
    path = folder / "old.pkl"
    path.write_bytes(dumps(old))
    contents = read_pickle(path)
    assert contents.refused == []
    for unpickler in (allowed_pickle(), trusted_pickle()):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loaded = unpickler.loads(path.read_bytes())
        assert type(loaded) is type(today)
        for kind, equal in EQUAL.items():
            if isinstance(today, kind):
                equal(loaded, today)
                break
        else:
            assert loaded is today or loaded == today
    return set(contents.names)


def _equal_arrays(loaded: np.ndarray, today: np.ndarray) -> None:
    assert loaded.dtype == today.dtype
    np.testing.assert_array_equal(loaded, today)


EQUAL = {
    pd.DataFrame: pd.testing.assert_frame_equal,
    pd.Series: pd.testing.assert_series_equal,
    pd.Index: lambda loaded, today: pd.testing.assert_index_equal(loaded, today, exact=True),
    pd.api.extensions.ExtensionArray: pd.testing.assert_extension_array_equal,
    np.ndarray: _equal_arrays,
    np.generic: _equal_arrays,
}
if importlib.util.find_spec("torch"):
    EQUAL |= {
        torch.Tensor: torch.testing.assert_close,
        torch.nn.Module: lambda loaded, today: torch.testing.assert_close(loaded(_numbers - 5), today(_numbers - 5)),
    }


def check_names() -> None:
    """Whatever is allowed is found, under its name or what takes its place, if its package is in this environment."""
    packages = {module.split(".")[0] for module, _ in ALLOWED} - {"__builtin__"}  # Python 2's, which pickle knows
    absent = {package for package in packages if importlib.util.find_spec(package) is None}
    assert absent <= {"torch", "pyarrow"}
    lost = []
    for module, name in sorted(pair for pair in ALLOWED if pair[0].split(".")[0] not in absent):
        for unpickler in (allowed_pickle(), trusted_pickle()):
            try:
                unpickler.loads(dumps(Name(f"{module} {name}")))
            except Exception as error:
                lost.append((module, name, error))
    assert lost == []


def old_attributes(**others: Any) -> bytes:
    """What `attr.pkl` of a model holds, with a table that pandas 1 pickled, and a history of what is not installed."""
    history = Made(Name("pytorch_lightning.loggers.csv_logs CSVLogger"), ("logs",), {"elbo": OLD["a table of 1.1"][0]})
    return dumps({"history_": history, "obs_metadata_": OLD["a table of 1.1"][0], **others})
