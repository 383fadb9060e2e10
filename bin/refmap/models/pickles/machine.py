"""The machine that runs the opcodes of pickles on plain data."""

from __future__ import annotations

import io
import pickletools
from typing import Any, BinaryIO

import numpy as np

from .decoding import built, called, is_plain_module
from .names import ACTIVATIONS, ALLOWED, LOAD_STORAGE, STORAGES, Global
from .streams import TORCH_PICKLES, Bounded, is_storage
from .values import DAMAGED, PERSISTENT_ID, Contents, Inert, Named, Refused, check_size, hashable

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


class Machine:
    """Runs the opcodes of pickles on plain data. Names accumulate over the pickles that one machine runs.

    `nested` is a machine for bytes within a pickle. It looks into no further bytes: torch nests no deeper, and a file of a few
    bytes could hold pickles in pickles that take forever.
    """

    def __init__(self, nested: bool = False) -> None:
        self.names: set[Global] = set()
        self.odd: set[str] = set()  # allowed names used in a way that is not known to be harmless
        self.modules: list[Inert] = []
        self.left_out: list[str] = []  # what was taken out before, and is not allowed
        self.nested = nested
        self.storages: dict[bytes, Inert] = {}

    def load(self, stream: BinaryIO | Bounded) -> Any:
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
                check_size(self.stack[-1])
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
            loads_storage = isinstance(function, Named) and (function.module, function.name) == LOAD_STORAGE
            value = self.storage(*args) if loads_storage else called(function, args)
        except (Refused, *DAMAGED):
            self.odd.add(f"{self.origin(function)} (with arguments that it is never saved with)")
            value = Inert(function, args)
        self.stack.append(value)

    def storage(self, data: bytes) -> Inert:
        """The storage that torch saved as these bytes. They are looked into once, however often they are given."""
        if self.nested or not is_storage(data):
            raise Refused
        if data not in self.storages:
            inner, pickles = Machine(nested=True), Bounded(io.BytesIO(data))
            try:
                _, _, _, value, _ = [inner.load(pickles) for _ in range(TORCH_PICKLES)]
            finally:  # what was named before the bytes turned out to be damaged counts, too
                self.names |= inner.names
                self.odd |= inner.odd
            known = isinstance(value, Inert) and value.made_by == PERSISTENT_ID and value.args[0] == "storage"
            if not known or not inner.names <= STORAGES:
                raise Refused
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
        self.stack.append(dict(zip(hashable(values[::2]), values[1::2])))

    def FROZENSET(self, _):
        values = frozenset(hashable(self.marked()))
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
        target.extend(values) if isinstance(target, list) else target.update(hashable(values))

    def update(self, values: list) -> None:
        pairs, target = zip(hashable(values[::2]), values[1::2]), self.holder(dict)
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
            value = built(target, state)
        except (Refused, *DAMAGED):
            self.odd.add(f"{self.origin(target)} (with a state that it is never saved with)")
            value = target
        maker = target.made_by if isinstance(target, Inert) else None
        if isinstance(maker, Named) and (maker.module, maker.name) in ACTIVATIONS:
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
            f"{self.origin(m)} (with a state that it is never saved with)" for m in self.modules if not is_plain_module(m)
        }
        refused = {f"{module}.{name}" for module, name in self.names - ALLOWED}
        # How a name is used matters where the name itself may be.
        refused |= {use for use in self.odd if use.partition(" (")[0] not in refused}
        names = sorted(f"{module}.{name}" for module, name in self.names)
        return Contents(value, names, sorted(refused), self.left_out)
