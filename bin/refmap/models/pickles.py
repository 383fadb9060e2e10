"""Reading pickles without running them.

A pickle is a program: unpickling imports what it names and calls it. Here the same program runs on a machine of our own whose
only values are plain data, so that there is nothing it could call: what it names stays a `Named`, what it would construct an
`Inert` record. Only a few constructors are understood (numpy's arrays, torch's tensors by shape, the builtin containers), and
those are decoded by the code below and never by the library that wrote them.

Every name that a file asks for is kept in `Contents.names`; `Contents.refused` are those whose real unpickling is not known
to be harmless.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
import struct
import tarfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from ..common.errors import RefmapError

Global = tuple[str, str]  # module, qualified name


def _pairs(modules: str, names: str) -> set[Global]:
    return {(module, name) for module in modules.split() for name in names.split()}


# What torch's own files name for the numbers of a tensor.
_STORAGES = _pairs(
    "torch",
    "FloatStorage DoubleStorage HalfStorage BFloat16Storage LongStorage IntStorage ShortStorage CharStorage ByteStorage "
    "BoolStorage",
)
# A tensor in a plain pickle: its storage is a file of `torch.save`, as bytes, that this function would unpickle.
_LOAD_STORAGE = ("torch.storage", "_load_from_bytes")

# Types that files name and never call: an array comes of `_reconstruct`, a number of `scalar`, a storage of its id.
_NUMPY_TYPES = _pairs(
    "numpy", "ndarray bool bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 str_"
)
_ACTIVATIONS = _pairs("torch.nn.modules.activation", "ReLU LeakyReLU ELU SELU GELU SiLU Mish Tanh Sigmoid Softplus")

# The names that unpickling may really import and call, with arguments, state and items that an attacker chooses. A pair is
# compared whole: ("numpy", "core.multiarray._reconstruct") is another name than ("numpy.core.multiarray", "_reconstruct").
# The list is closed: nothing in it looks up an attribute by name, imports, opens a file or calls a function that it is given
# other than one that is itself in the list. So whatever is composed of it can fill memory, but not run code of its own.
# That holds as long as numpy and Arrow are not made to take bytes for pointers: every call that could is checked below, and so
# an allowed name may be called by itself alone, and never through an attribute of an instance or by another allowed name.
ALLOWED: frozenset[Global] = frozenset(
    # Plain values: they copy what they are given. Left out: getattr, eval, exec, type, map, object, ...
    _pairs(
        "builtins __builtin__",
        "set frozenset list tuple dict str bytes bytearray int float bool complex slice range xrange",
    )
    # Containers; `defaultdict` calls its factory without arguments, and the factory is one of these names.
    | _pairs("collections", "OrderedDict defaultdict")
    # How protocols 0-2 write bytes. It can only pick one of Python's codecs, and `_bytes` below wants latin-1.
    | _pairs("_codecs", "encode")
    # Arrays. A forged dtype state could make numpy take bytes for pointers, so `_built_dtype` lets only plain ones pass.
    | _pairs("numpy.core.multiarray numpy._core.multiarray", "_reconstruct scalar")
    | _pairs("numpy.core.numeric numpy._core.numeric", "_frombuffer")
    | {("numpy", "dtype")}
    | _NUMPY_TYPES
    # Tables (the training history): constructors that hold arrays, and the helpers that call `cls.__new__` of one of them.
    | _pairs("pandas", "DataFrame Series Index RangeIndex CategoricalIndex Categorical CategoricalDtype StringDtype")
    | _pairs("pandas.core.frame", "DataFrame")
    | _pairs("pandas.core.series", "Series")
    | _pairs("pandas.core.indexes.base", "Index _new_Index")
    | _pairs("pandas.core.indexes.range", "RangeIndex")
    | _pairs("pandas.core.indexes.numeric", "Int64Index UInt64Index Float64Index")
    | _pairs("pandas.core.indexes.category", "CategoricalIndex")
    | _pairs("pandas.core.indexes.multi", "MultiIndex")
    | _pairs("pandas.core.arrays.categorical", "Categorical")
    | _pairs("pandas.core.dtypes.dtypes", "CategoricalDtype")
    | _pairs("pandas.core.arrays.string_", "StringDtype StringArray StringArrayNumpySemantics")
    # Numbers with missing values: two arrays, and a type without arguments.
    | _pairs("pandas.core.arrays.boolean", "BooleanArray BooleanDtype")
    | _pairs("pandas.core.arrays.integer", "IntegerArray Int8Dtype Int16Dtype Int32Dtype Int64Dtype")
    | _pairs("pandas.core.arrays.integer", "UInt8Dtype UInt16Dtype UInt32Dtype UInt64Dtype")
    | _pairs("pandas.core.arrays.floating", "FloatingArray Float32Dtype Float64Dtype")
    | _pairs("pandas.arrays", "StringArray")
    | _pairs("pandas.core.internals.managers", "BlockManager SingleBlockManager")
    | _pairs("pandas.core.internals.blocks", "new_block")
    | _pairs("pandas._libs.internals", "_unpickle_block")
    | _pairs("pandas._libs.arrays", "__pyx_unpickle_NDArrayBacked")
    # How pandas 1.3 wrote a column: `partial(new_block, ndim=...)`. `_partial` and `_built_partial` let pass that form alone.
    | _pairs("functools", "partial")
    # Columns of text where pyarrow is installed. Arrow trusts the buffers that it is given, so `_arrow_texts` checks them.
    | _pairs("pandas.arrays pandas.core.arrays.string_arrow", "ArrowStringArray")
    | _pairs("pyarrow.lib", "type_for_alias py_buffer _restore_array chunked_array")
    # Weights.
    | _pairs("torch._utils", "_rebuild_tensor _rebuild_tensor_v2 _rebuild_parameter")
    | _pairs("torch", "float16 bfloat16 float32 float64 int8 int16 int32 int64 uint8 bool Size device")
    | _STORAGES
    # The one name here that unpickles what it is given. So it is never really called: inspection looks into the bytes
    # (`_Machine.storage`), the second lock loads them by itself (`_load_storage`), and both let them name a storage alone.
    | {_LOAD_STORAGE}
    # Activation functions that a model was given as a setting: modules without parameters or code of the file's.
    | _ACTIVATIONS
)


@dataclass(frozen=True, eq=False)
class Named:
    """A global that a pickle names: a class or function that was never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Inert:
    """What a call, a class or a persistent id of a pickle would have become."""

    made_by: Any
    args: Any
    state: Any = None
    items: list = field(default_factory=list)


PERSISTENT_ID, PARTIAL = "persistent id", "functools.partial"


@dataclass(frozen=True)
class Tensor:
    """A tensor of torch: its type's name (`Float`, `Long`, ...) and shape, without its numbers."""

    kind: str
    shape: tuple[int, ...]


@dataclass
class Contents:
    """What one file holds: its value, and the globals that its pickles named, sorted."""

    value: Any
    names: list[str]
    refused: list[str]


class _Refused(Exception):
    """A call of an allowed name in a form that its own library never writes."""


# What damaged or forged contents make the code below raise.
_DAMAGED = (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, struct.error)

# ---------------------------------------------------------------------------------------------------------------- decoding


def _bytes(text: str, encoding: str) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _Refused
    return text.encode("latin-1")


def _dtype(code: Any, *_: Any) -> np.dtype:
    """`numpy.dtype('f8', False, True)`; structured and other unusual types are refused."""
    if not isinstance(code, str) or not re.fullmatch(r"[<>|=]?([?biufcSUOVmM]\d*|[a-z]+\d*)", code):
        raise _Refused
    return np.dtype(code)


def _built_dtype(dtype: np.dtype, state: tuple) -> np.dtype:
    """A dtype with its pickled state: version, byte order, subarray, names, fields, size, alignment, flags."""
    _, order, *structure, size, alignment, flags = state
    plain = structure == [None] * 3 and (size, alignment) in ((-1, -1), (dtype.itemsize, dtype.alignment))
    if dtype.kind in "SU" and structure == [None] * 3:
        plain = size == dtype.itemsize
    honest = flags == dtype.flags or (flags == 0 and not dtype.hasobject)
    if not plain or not honest or order not in ("<", ">", "|", "="):
        raise _Refused
    return dtype.newbyteorder(order)


def _array(shape: tuple, dtype: np.dtype, fortran: bool, data: bytes | list) -> np.ndarray:
    if not isinstance(dtype, np.dtype):
        raise _Refused
    if dtype.hasobject != isinstance(data, list) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise _Refused
    if not isinstance(data, list):
        return np.ndarray(shape, dtype, bytes(data), order="F" if fortran else "C").copy()
    if math.prod(shape) != len(data):
        raise _Refused
    array = np.empty(len(data), dtype=object)
    array[:] = data
    return array.reshape(shape, order="F" if fortran else "C")


def _scalar(dtype: np.dtype, data: Any) -> Any:
    if not isinstance(dtype, np.dtype) or dtype.hasobject:
        raise _Refused
    return np.frombuffer(data, dtype, count=1)[0]


def _tensor(storage: Inert, _offset: int, size: tuple, *_: Any) -> Tensor:
    """From the persistent id of a storage: ('storage', type, key, device, number of elements)."""
    known = isinstance(storage, Inert) and storage.made_by == PERSISTENT_ID
    kind = str(storage.args[1]) if known else "unknown"
    return Tensor(kind.removesuffix("Storage").rpartition(".")[2], tuple(size))


_NEW_INDEX = ("pandas.core.indexes.base", "_new_Index")


def _called_never(*_: Any) -> None:
    raise _Refused


def _without_arguments(function: Named) -> Any:
    """Tables get what they hold as their state."""

    def call(*args: Any) -> Inert:
        if args:
            raise _Refused
        return Inert(function, args)

    return call


def _new_index(index: Any, arguments: Any) -> Inert:
    """`_new_Index` calls `index.__new__` with the arguments: of a dtype, it would make one that nobody checks."""
    if not isinstance(index, Named) or index.module.split(".")[0] != "pandas" or not isinstance(arguments, dict):
        raise _Refused
    return Inert(Named(*_NEW_INDEX), (index, arguments))


_NEW_BLOCK = ("pandas.core.internals.blocks", "new_block")


def _is_new_block(function: Any) -> bool:
    return isinstance(function, Named) and (function.module, function.name) == _NEW_BLOCK


def _partial(function: Any) -> Inert:
    if not _is_new_block(function):
        raise _Refused
    return Inert(PARTIAL, (function,))


def _built_partial(partial: Inert, state: tuple) -> Inert:
    function, args, keywords, attributes = state
    if not _is_new_block(function) or args or attributes or list(keywords) != ["ndim"]:
        raise _Refused
    return partial


def _arrow_texts(data: tuple) -> list[str]:
    """An array of texts from its parts: type, length, missing values, offset, buffers, children, dictionary.

    The buffers are those of the Arrow columnar format: validity bits or None, `length + 1` offsets, UTF-8 bytes.
    """
    kind, length, n_missing, offset, (valid, offsets, text), *rest = data
    width = {"string": "<i4", "large_string": "<i8"}.get(kind.args[0]) if isinstance(kind, Inert) else None
    if width is None or any(rest) or min(length, offset) < 0 or (valid is None and n_missing != 0):
        raise _Refused
    starts = np.frombuffer(offsets, width)[offset : offset + length + 1]
    if valid is not None and 8 * len(valid) < offset + length:
        raise _Refused
    if len(starts) != length + 1 or starts[0] < 0 or starts[-1] > len(text) or (np.diff(starts) < 0).any():
        raise _Refused
    return [bytes(text[start:end]).decode() for start, end in zip(starts[:-1], starts[1:])]


def _arrow_chunks(arrays: list, kind: Any = None) -> list[str]:
    if not all(isinstance(array, list) for array in arrays):
        raise _Refused
    return [text for array in arrays for text in array]


def _arrow_buffer(data: bytes) -> bytes:
    return bytes(memoryview(data))


def _copy(kind: type) -> Any:
    def copy(items: Any = ()) -> Any:
        if not isinstance(items, (list, tuple, set, frozenset, dict)):
            raise _Refused
        return kind(items)

    return copy


def _dictionary(*args: Any) -> dict:
    return dict(args[-1]) if args and isinstance(args[-1], (dict, list)) else {}


_CALLS = {
    ("_codecs", "encode"): _bytes,
    ("numpy", "dtype"): _dtype,
    **dict.fromkeys(_NUMPY_TYPES | _STORAGES, _called_never),
    _NEW_INDEX: _new_index,
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
for _table in [*_pairs("pandas pandas.core.frame", "DataFrame"), *_pairs("pandas pandas.core.series", "Series")]:
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
        (_builtins, "range"): range,
        (_builtins, "xrange"): range,
        (_builtins, "complex"): complex,
        (_builtins, "bytes"): lambda data=b"": bytes(memoryview(data)),
        (_builtins, "bytearray"): lambda data=b"", *codec: bytearray(_bytes(data, *codec) if codec else memoryview(data)),
    }
for _core in ("numpy.core", "numpy._core"):
    _CALLS[f"{_core}.multiarray", "scalar"] = _scalar
    _CALLS[f"{_core}.numeric", "_frombuffer"] = lambda data, dtype, shape, order: _array(shape, dtype, order == "F", data)

_RECONSTRUCT = _pairs("numpy.core.multiarray numpy._core.multiarray", "_reconstruct")


def _called(function: Any, args: tuple) -> Any:
    """What a call gives. What a file made itself is never called, but for the `partial` of `_partial`."""
    if isinstance(function, Inert) and function.made_by == PARTIAL:
        return Inert(function, args)
    if not isinstance(function, Named):
        raise _Refused
    decode = _CALLS.get((function.module, function.name))
    return decode(*args) if decode else Inert(function, args)


def _built(target: Any, state: Any) -> Any:
    """What `target` becomes when its pickled state is given to it."""
    if isinstance(target, np.dtype):
        return _built_dtype(target, state)
    if isinstance(target, dict):
        if not isinstance(state, dict) or set(state) - {"_metadata"}:
            raise _Refused
        return target  # its attributes, of which the dictionary of a model's weights has one
    # To change a class, a function or an array that is whole already is never part of a value.
    if not isinstance(target, Inert) or target.state is not None:
        raise _Refused
    target.state = state
    maker = (target.made_by.module, target.made_by.name) if isinstance(target.made_by, Named) else None
    if target.made_by == PARTIAL:
        return _built_partial(target, state)
    if maker in _RECONSTRUCT:
        _, shape, dtype, fortran, data = state
        return _array(shape, dtype, fortran, data)
    return target


def _is_plain_module(module: Inert) -> bool:
    """Whether a module holds settings alone: a function as `forward` or as a hook would be called by the network."""
    settings = module.state.values() if isinstance(module.state, dict) else [module.state]
    empty = (value for value in settings if not isinstance(value, (type(None), bool, int, float, str)))
    return all(isinstance(value, (dict, list, tuple, set)) and not value for value in empty)


# -------------------------------------------------------------------------------------------------------------- the machine

_ARGUMENT = {
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "LONG4",
    "INT",
    "LONG",
    "BINFLOAT",
    "FLOAT",
    "STRING",
    "BINSTRING",
    "SHORT_BINSTRING",
    "UNICODE",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "BINBYTES",
    "SHORT_BINBYTES",
    "BINBYTES8",
    "BYTEARRAY8",
}
_EMPTY = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_SET": set,
    "EMPTY_TUPLE": tuple,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
    """Runs the opcodes of pickles on plain data. Names accumulate over the pickles that one machine runs.

    `nested` is a machine for bytes within a pickle. It looks into no further bytes: torch nests no deeper, and a file of a few
    bytes could hold pickles in pickles that take forever.
    """

    def __init__(self, nested: bool = False) -> None:
        self.names: set[Global] = set()
        self.odd: set[str] = set()  # allowed names used in a way that is not known to be harmless
        self.modules: list[Inert] = []
        self.nested = nested
        self.storages: dict[bytes, Inert] = {}

    def load(self, stream: BinaryIO | _Bounded) -> Any:
        """The value of one pickle; `stream` is left right behind it. Raises what a damaged pickle makes Python raise."""
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.memo_of: dict[int, int] = {}
        for opcode, argument, _ in pickletools.genops(stream):
            name = opcode.name
            if name in _ARGUMENT:
                self.stack.append(argument)
            elif name in _EMPTY:
                self.stack.append(_EMPTY[name]())
            elif name in _TUPLES:
                self.stack.append(self.take(_TUPLES[name]))
            elif name == "STOP":
                return self.stack.pop()
            elif name not in ("PROTO", "FRAME"):
                getattr(self, name)(argument)
        raise ValueError("no end")

    def take(self, count: int) -> tuple:
        """Pop `count` values."""
        if len(self.stack) < count:
            raise IndexError("an empty stack")
        values = tuple(self.stack[-count:])
        del self.stack[-count:]
        return values

    def marked(self) -> list:
        """Pop what lies above the last mark."""
        values, self.stack = self.stack, self.marks.pop()
        return values

    def named(self, module: Any, name: Any) -> Named:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a name that is no text")
        self.names.add((module, name))
        return Named(module, name)

    def call(self, function: Any, args: Any) -> None:
        """Push what the call would give; a call in a form that no library writes is remembered as odd."""
        if not isinstance(args, tuple):
            raise TypeError("arguments that are no tuple")
        try:
            loads_storage = isinstance(function, Named) and (function.module, function.name) == _LOAD_STORAGE
            value = self.storage(*args) if loads_storage else _called(function, args)
        except (_Refused, *_DAMAGED):
            self.odd.add(f"{self.origin(function)} (with arguments that it is never saved with)")
            value = Inert(function, args)
        self.stack.append(value)

    def storage(self, data: bytes) -> Inert:
        """The storage that torch saved as these bytes. They are looked into once, however often they are given."""
        if self.nested or not _is_storage(data):
            raise _Refused
        if data not in self.storages:
            inner, pickles = _Machine(nested=True), _Bounded(io.BytesIO(data))
            try:
                _, _, _, value, _ = [inner.load(pickles) for _ in range(_TORCH_PICKLES)]
            finally:  # what was named before the bytes turned out to be damaged counts, too
                self.names |= inner.names
                self.odd |= inner.odd
            known = isinstance(value, Inert) and value.made_by == PERSISTENT_ID and value.args[0] == "storage"
            if not known or not inner.names <= _STORAGES:
                raise _Refused
            self.storages[data] = value
        return self.storages[data]

    def MARK(self, _):
        self.marks.append(self.stack)
        self.stack = []

    def POP(self, _):
        if self.stack:
            self.stack.pop()
        else:
            self.marked()

    def POP_MARK(self, _):
        self.marked()

    def DUP(self, _):
        self.stack.append(self.stack[-1])

    def PUT(self, key):
        self.memo[key] = self.stack[-1]
        self.memo_of[id(self.stack[-1])] = key

    BINPUT = LONG_BINPUT = PUT

    def MEMOIZE(self, _):
        self.PUT(len(self.memo))

    def GET(self, key):
        self.stack.append(self.memo[key])

    BINGET = LONG_BINGET = GET

    def TUPLE(self, _):
        values = tuple(self.marked())
        self.stack.append(values)

    def LIST(self, _):
        values = self.marked()
        self.stack.append(values)

    def DICT(self, _):
        values = self.marked()
        self.stack.append(dict(zip(values[::2], values[1::2])))

    def FROZENSET(self, _):
        values = frozenset(self.marked())
        self.stack.append(values)

    def holder(self, kind: type) -> Any:
        """The container on top that items are for, or the list of an `Inert`'s, which is odd: an unpickler would call
        whatever is its attribute `append`, `extend` or `add`, or its class's `__setitem__`."""
        target = self.stack[-1]
        if isinstance(target, Inert):
            self.odd.add(f"{self.origin(target)} (with items that it is never saved with)")
            return target.items
        if not isinstance(target, kind):
            raise TypeError("items of something that holds none")
        return target

    def extend(self, values: list) -> None:
        self.holder(list).extend(values)

    def APPEND(self, _):
        self.extend(list(self.take(1)))

    def APPENDS(self, _):
        self.extend(self.marked())

    def ADDITEMS(self, _):
        values, target = self.marked(), self.holder(set)
        target.extend(values) if isinstance(target, list) else target.update(values)

    def update(self, values: list) -> None:
        pairs, target = zip(values[::2], values[1::2]), self.holder(dict)
        target.extend(pairs) if isinstance(target, list) else target.update(pairs)

    def SETITEM(self, _):
        self.update(list(self.take(2)))

    def SETITEMS(self, _):
        self.update(self.marked())

    def GLOBAL(self, both):
        module, _, name = both.partition(" ")
        self.stack.append(self.named(module, name))

    def STACK_GLOBAL(self, _):
        self.stack.append(self.named(*self.take(2)))

    def INST(self, both):
        module, _, name = both.partition(" ")
        args = tuple(self.marked())
        self.call(self.named(module, name), args)

    def OBJ(self, _):
        function, *args = self.marked()
        self.call(function, tuple(args))

    def REDUCE(self, _):
        self.call(*self.take(2))

    NEWOBJ = REDUCE

    def NEWOBJ_EX(self, _):
        function, args, keywords = self.take(3)
        if keywords:  # nothing that a model holds is made so
            self.odd.add(f"{self.origin(Inert(function, args))} (with keywords)")
        self.call(function, args)

    def BUILD(self, _):
        target, state = self.take(2)
        try:
            value = _built(target, state)
        except (_Refused, *_DAMAGED):
            self.odd.add(f"{self.origin(target)} (with a state that it is never saved with)")
            value = target
        maker = target.made_by if isinstance(target, Inert) else None
        if isinstance(maker, Named) and (maker.module, maker.name) in _ACTIVATIONS:
            self.modules.append(target)
        # The decoded value takes the place of the half-made one, which at this point only the memo can hold as well.
        key = self.memo_of.get(id(target))
        if key is not None and self.memo.get(key) is target:
            self.memo[key] = value
        self.stack.append(value)

    @staticmethod
    def origin(target: Any) -> str:
        if isinstance(target, np.dtype):
            return "numpy.dtype"
        if isinstance(target, dict):
            return "a dictionary"
        while isinstance(target, Inert):
            target = target.made_by
        return str(target)

    def PERSID(self, key):
        self.stack.append(Inert(PERSISTENT_ID, key))

    def BINPERSID(self, _):
        self.stack.append(Inert(PERSISTENT_ID, self.stack.pop()))

    def EXT1(self, code):
        self.stack.append(self.named("copyreg extension", str(code)))

    EXT2 = EXT4 = EXT1

    def contents(self, value: Any) -> Contents:
        # At the end, as what a module was given may be filled later.
        self.odd |= {
            f"{self.origin(m)} (with a state that it is never saved with)" for m in self.modules if not _is_plain_module(m)
        }
        refused = {f"{module}.{name}" for module, name in self.names - ALLOWED}
        # How a name is used matters where the name itself may be.
        refused |= {use for use in self.odd if use.partition(" (")[0] not in refused}
        return Contents(value, sorted(f"{module}.{name}" for module, name in self.names), sorted(refused))


# ------------------------------------------------------------------------------------------------------------------- files


class _Bounded:
    """A file whose reads never ask for more than it holds: Python would allocate what a damaged length claims."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.size = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        self.readline, self.tell = stream.readline, stream.tell

    def read(self, count: int) -> bytes:
        return self.stream.read(min(count, self.size - self.tell()))


_TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file that torch wrote before 1.6
_TORCH_START = pickle.dumps(_TORCH_MAGIC, 2)
_TORCH_PICKLES = 5  # the magic number, protocol, machine, the value, the keys of the storages; then the numbers of the tensors
_ZIP_START, _ZIP_END, _ZIP64_END = b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06"
_ZIP64_LOCATOR = b"PK\x06\x07"


def _is_storage(data: Any) -> bool:
    """Whether bytes begin as those that torch pickles a storage as: its format from before 1.6, and no zip."""
    return isinstance(data, bytes) and data.startswith(_TORCH_START)


def _load(machine: _Machine, stream: BinaryIO | _Bounded, shown: str) -> Any:
    try:
        return machine.load(stream)
    except _DAMAGED as error:
        raise RefmapError(f"{shown} is damaged or no pickle at all ({error}): copy it again from where it came from.") from None


def read_pickle(path: Path, shown: str | None = None) -> Contents:
    """The contents of a file with one pickle (`attr.pkl`). Raises `RefmapError` where it is damaged."""
    machine, shown = _Machine(), shown or str(path)
    with open(path, "rb") as stream:
        return machine.contents(_load(machine, _Bounded(stream), shown))


def read_torch(path: Path, shown: str | None = None) -> Contents:
    """The contents of a file of `torch.save`, with its tensors as shapes. Raises `RefmapError` where it is damaged.

    `torch.load` is followed closely in which of several readings of a file it would take, and a file that could be read in
    two ways is refused: what is inspected must be what is loaded.
    """
    path, shown = Path(path), shown or str(path)
    with open(path, "rb") as stream:
        zipped = stream.read(4) == _ZIP_START
        stream.seek(0)
        if zipped:
            return _read_torch_zip(path, shown)
        if tarfile.is_tarfile(stream):
            raise RefmapError(f"{shown} is a tar file, which torch wrote before 2017 and refmap does not read.")
        machine, pickles = _Machine(), _Bounded(stream)
        value = _load(machine, pickles, shown)
        if isinstance(value, int) and value == _TORCH_MAGIC:
            _, _, value, _ = [_load(machine, pickles, shown) for _ in range(_TORCH_PICKLES - 1)]
        return machine.contents(value)


def _read_torch_zip(path: Path, shown: str) -> Contents:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_zip(path, archive, shown)
            (info,) = [m for m in members if m.filename.lower().replace("\\", "/").endswith("data.pkl")]
            data = archive.read(info)
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, NotImplementedError, RuntimeError, struct.error) as error:
        raise RefmapError(
            f"{shown} is truncated or no file of torch.save ({error}): copy it again from where it came from."
        ) from None
    machine = _Machine()
    return machine.contents(_load(machine, io.BytesIO(data), shown))


def _check_zip(path: Path, archive: zipfile.ZipFile, shown: str) -> None:
    """Refuse a zip that torch could read otherwise than Python does, or that is larger inside than outside."""
    size = path.stat().st_size
    with open(path, "rb") as stream:
        stream.seek(max(0, size - 98))
        tail = stream.read()
    start = struct.unpack_from("<I", tail, len(tail) - 6)[0] if tail[-22:-18] == _ZIP_END else None
    if start == 0xFFFFFFFF and tail[:4] == _ZIP64_END:
        start = struct.unpack_from("<Q", tail, 48)[0]
    # Python takes the zip64 record that stands before its locator, torch the one that the locator points to.
    located = len(tail) == 98 and tail[-42:-38] == _ZIP64_LOCATOR
    elsewhere = located and (tail[:4] != _ZIP64_END or struct.unpack_from("<Q", tail, 64)[0] != size - 98)
    names = [member.filename.lower() for member in archive.infolist()]
    if start != archive.start_dir or elsewhere:
        raise RefmapError(f"{shown} has other data before or behind its zip, which torch.save never writes.")
    if sum(member.file_size for member in archive.infolist()) > size:
        raise RefmapError(f"{shown} is compressed or claims more than it holds, which torch.save never writes.")
    if len(set(names)) != len(names) or any(name.endswith("constants.pkl") for name in names):
        raise RefmapError(f"{shown} holds a program (TorchScript) or two members of one name, and not a saved model.")


# ------------------------------------------------------------------------------------------------------------ the second lock


class _AllowedUnpickler(pickle.Unpickler):
    """Loads for real, and imports nothing but what is in `ALLOWED`."""

    allowed = ALLOWED

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"it wants {module}.{name}, which it did not when it was inspected")
        return _load_storage if (module, name) == _LOAD_STORAGE else super().find_class(module, name)


class _StorageUnpickler(_AllowedUnpickler):
    """Loads a storage for real, and nothing else."""

    allowed = _STORAGES


def _load_storage(data: bytes) -> Any:
    """Load the bytes that torch pickles a storage as, to the CPU: what `torch.storage._load_from_bytes` would run."""
    import torch

    if not _is_storage(data):
        raise pickle.UnpicklingError("it wants to unpickle bytes that are no storage of torch")
    unpickler = _pickle_module(_StorageUnpickler)
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=False, pickle_module=unpickler)


def _pickle_module(unpickler: type[pickle.Unpickler]) -> ModuleType:
    module = ModuleType("allowed_pickle")
    module.Unpickler = unpickler
    module.load = lambda file, **options: unpickler(file, **options).load()
    module.loads = lambda data, **options: unpickler(io.BytesIO(data), **options).load()
    return module


def allowed_pickle() -> ModuleType:
    """A stand-in for the module `pickle` by which an inspected file is loaded (``torch.load(pickle_module=...)``).

    Should a file be read otherwise than it was inspected, or have changed in between, it still gets at nothing else.
    """
    return _pickle_module(_AllowedUnpickler)
