"""The few constructors that are understood: what a call or a state of a pickle gives, as plain data."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from .names import FUNCTIONS, MISSING, NUMPY_TYPES, STORAGES, pairs
from .values import PARTIAL, PERSISTENT_ID, Inert, Named, Refused, Tensor, hashable

_LONGEST = 10_000_000  # of what a few bytes can claim to hold


def _bytes(text: str, encoding: str) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise Refused
    return text.encode("latin-1")


def _dtype(code: Any, *_: Any) -> np.dtype:
    """`numpy.dtype('f8', False, True)`; structured and other unusual types are refused."""
    if not isinstance(code, str) or not re.fullmatch(r"[<>|=]?([?biufcSUOVmM]\d*|[a-z]+\d*)", code):
        raise Refused
    return np.dtype(code)


def _built_dtype(dtype: np.dtype, state: tuple) -> np.dtype:
    """A dtype with its pickled state: version, byte order, subarray, names, fields, size, alignment, flags.

    That of dates and times has a unit besides, with no other metadata: its name, and how many of it are one.
    """
    if dtype.kind in "mM" and len(state) == 9:
        *state, (metadata, (unit, count, *ones)) = state
        if metadata or ones != [1, 1] or not isinstance(count, int) or not isinstance(unit, bytes):
            raise Refused
        dtype = np.dtype(f"{dtype.kind}8[{count}{unit.decode('ascii')}]")
    _, order, *structure, size, alignment, flags = state
    plain = structure == [None] * 3 and (size, alignment) in ((-1, -1), (dtype.itemsize, dtype.alignment))
    if dtype.kind in "SU" and structure == [None] * 3:
        plain = size == dtype.itemsize
    honest = flags == dtype.flags or (flags == 0 and not dtype.hasobject)
    if not plain or not honest or order not in ("<", ">", "|", "="):
        raise Refused
    return dtype.newbyteorder(order)


def _array(shape: tuple, dtype: np.dtype, fortran: bool, data: bytes | list) -> np.ndarray:
    if not isinstance(dtype, np.dtype):
        raise Refused
    if dtype.hasobject != isinstance(data, list) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise Refused
    # Of nothing, an array may have any length.
    if any(n > len(data) + _LONGEST for n in shape):
        raise Refused
    if not isinstance(data, list):
        return np.ndarray(shape, dtype, bytes(data), order="F" if fortran else "C").copy()
    if math.prod(shape) != len(data):
        raise Refused
    array = np.empty(len(data), dtype=object)
    array[:] = data
    return array.reshape(shape, order="F" if fortran else "C")


def _scalar(dtype: np.dtype, data: Any) -> Any:
    if not isinstance(dtype, np.dtype) or dtype.hasobject:
        raise Refused
    return np.frombuffer(data, dtype, count=1)[0]


def _tensor(storage: Inert, _offset: int, size: tuple, *_: Any) -> Tensor:
    """From the persistent id of a storage: ('storage', type, key, device, number of elements)."""
    known = isinstance(storage, Inert) and storage.made_by == PERSISTENT_ID
    kind = str(storage.args[1]) if known else "unknown"
    return Tensor(kind.removesuffix("Storage").rpartition(".")[2], tuple(size))


def _called_never(*_: Any) -> None:
    raise Refused


def _without_arguments(function: Named) -> Any:
    """Tables get what they hold as their state."""

    def call(*args: Any) -> Inert:
        if args:
            raise Refused
        return Inert(function, args)

    return call


_NEW_INDEX = {("pandas.core.indexes.base", "_new_Index"), ("pandas.core.indexes.datetimes", "_new_DatetimeIndex")}


def _new_index(maker: Named) -> Any:
    """They call `index.__new__` with the arguments: of a dtype, it would make one that nobody checks."""

    def call(index: Any, arguments: Any) -> Inert:
        if not isinstance(index, Named) or index.module.split(".")[0] != "pandas" or not isinstance(arguments, dict):
            raise Refused
        return Inert(maker, (index, arguments))

    return call


_NEW_BLOCK = ("pandas.core.internals.blocks", "new_block")


def _is_new_block(function: Any) -> bool:
    return isinstance(function, Named) and (function.module, function.name) == _NEW_BLOCK


def _partial(function: Any) -> Inert:
    if not _is_new_block(function):
        raise Refused
    return Inert(PARTIAL, (function,))


def _built_partial(partial: Inert, state: tuple) -> Inert:
    function, args, keywords, attributes = state
    if not _is_new_block(function) or args or attributes or list(keywords) != ["ndim"]:
        raise Refused
    return partial


def _arrow_texts(data: tuple) -> list[str]:
    """An array of texts from its parts: type, length, missing values, offset, buffers, children, dictionary.

    The buffers are those of the Arrow columnar format: validity bits or None, `length + 1` offsets, UTF-8 bytes.
    """
    kind, length, n_missing, offset, (valid, offsets, text), *rest = data
    width = {"string": "<i4", "large_string": "<i8"}.get(kind.args[0]) if isinstance(kind, Inert) else None
    if width is None or any(rest) or min(length, offset) < 0 or (valid is None and n_missing != 0):
        raise Refused
    starts = np.frombuffer(offsets, width)[offset : offset + length + 1]
    if valid is not None and 8 * len(valid) < offset + length:
        raise Refused
    if len(starts) != length + 1 or starts[0] < 0 or starts[-1] > len(text) or (np.diff(starts) < 0).any():
        raise Refused
    return [bytes(text[start:end]).decode() for start, end in zip(starts[:-1], starts[1:])]


def _arrow_chunks(arrays: list, kind: Any = None) -> list[str]:
    if not all(isinstance(array, list) for array in arrays):
        raise Refused
    return [text for array in arrays for text in array]


def _arrow_buffer(data: bytes) -> bytes:
    return bytes(memoryview(data))


def _copy(kind: type) -> Any:
    def copy(items: Any = ()) -> Any:
        if not isinstance(items, (list, tuple, set, frozenset, dict)):
            raise Refused
        return kind(hashable(items))

    return copy


def _dictionary(*args: Any) -> dict:
    if not args or not isinstance(args[-1], (dict, list)):
        return {}
    pairs = args[-1].items() if isinstance(args[-1], dict) else args[-1]
    hashable(key for key, _ in pairs)
    return dict(pairs)


def _range(*bounds: Any) -> range:
    """As of cells: what holds more would be written out for ever."""
    numbers = range(*bounds)
    if len(numbers) > _LONGEST:
        raise Refused
    return numbers


_CALLS = {
    ("_codecs", "encode"): _bytes,
    ("numpy", "dtype"): _dtype,
    **dict.fromkeys(NUMPY_TYPES | STORAGES | FUNCTIONS | MISSING, _called_never),
    **{maker: _new_index(Named(*maker)) for maker in _NEW_INDEX},
    ("functools", "partial"): _partial,
    ("collections", "OrderedDict"): _dictionary,
    ("collections", "defaultdict"): _dictionary,
    ("pyarrow.lib", "py_buffer"): _arrow_buffer,
    ("pyarrow.lib", "_restore_array"): _arrow_texts,
    ("pyarrow.lib", "chunked_array"): _arrow_chunks,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    ("torch", "Size"): _copy(tuple),
}
for _table in [*pairs("pandas pandas.core.frame", "DataFrame"), *pairs("pandas pandas.core.series", "Series")]:
    _CALLS[_table] = _without_arguments(Named(*_table))
for _builtins in ("builtins", "__builtin__"):
    # Only copies of what the file itself holds: `bytearray(n)` or `list(range(n))` would allocate what it claims.
    _CALLS |= {
        (_builtins, "set"): _copy(set),
        (_builtins, "frozenset"): _copy(frozenset),
        (_builtins, "list"): _copy(list),
        (_builtins, "tuple"): _copy(tuple),
        (_builtins, "dict"): _dictionary,
        (_builtins, "slice"): slice,
        (_builtins, "range"): _range,
        (_builtins, "complex"): complex,
        (_builtins, "bytes"): lambda data=b"": bytes(memoryview(data)),
        (_builtins, "bytearray"): lambda data=b"", *codec: bytearray(_bytes(data, *codec) if codec else memoryview(data)),
    }
_CALLS["__builtin__", "xrange"] = _range
for _core in ("numpy.core", "numpy._core"):
    _CALLS[f"{_core}.multiarray", "scalar"] = _scalar
    _CALLS[f"{_core}.numeric", "_frombuffer"] = lambda data, dtype, shape, order: _array(shape, dtype, order == "F", data)

_RECONSTRUCT = pairs("numpy.core.multiarray numpy._core.multiarray", "_reconstruct")


def called(function: Any, args: tuple) -> Any:
    """What a call gives. What a file made itself is never called, but for the `partial` of `_partial`."""
    if isinstance(function, Inert) and function.made_by == PARTIAL:
        return Inert(function, args)
    if not isinstance(function, Named):
        raise Refused
    decode = _CALLS.get((function.module, function.name))
    return decode(*args) if decode else Inert(function, args)


def built(target: Any, state: Any) -> Any:
    """What `target` becomes when its pickled state is given to it."""
    if isinstance(target, np.dtype):
        return _built_dtype(target, state)
    if isinstance(target, dict):
        if not isinstance(state, dict) or set(state) - {"_metadata"}:
            raise Refused
        return target  # its attributes, of which the dictionary of a model's weights has one
    # To change a class, a function or an array that is whole already is never part of a value.
    if not isinstance(target, Inert) or target.state is not None:
        raise Refused
    target.state = state
    maker = (target.made_by.module, target.made_by.name) if isinstance(target.made_by, Named) else None
    if target.made_by == PARTIAL:
        return _built_partial(target, state)
    if maker in _RECONSTRUCT:
        _, shape, dtype, fortran, data = state
        return _array(shape, dtype, fortran, data)
    return target


def is_plain_module(module: Inert) -> bool:
    """Whether a module holds settings alone: a function as `forward` or as a hook would be called by the network."""
    settings = module.state.values() if isinstance(module.state, dict) else [module.state]
    empty = (value for value in settings if not isinstance(value, (type(None), bool, int, float, str)))
    return all(isinstance(value, (dict, list, tuple, set)) and not value for value in empty)
