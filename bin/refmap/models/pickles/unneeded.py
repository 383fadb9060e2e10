"""What no mapping needs of a saved model is taken out of its pickle, before the pickle is inspected or loaded.

A history of training, a trainer or a note can be an object of any library. Neither lock sees it: both read the pickle that is
left, which is another program, without the opcodes that would have made what is dropped. So nothing here has to be trusted:
whatever is left is looked at as if the file had held no more, and a pickle that is not understood stays as it is.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from .names import ALLOWED, Global
from .streams import Bounded
from .values import DAMAGED

# Attributes that tell of the training, by a part of their names.
_OF_TRAINING = ("history", "trainer", "logger")
# What is read of a model of scvi-tools: of the file, and of the model's attributes. What else names something that is not allowed
# is dropped as well. Of a model of scArches nearly every attribute is an argument of its constructor.
_ATTRIBUTES = "attr_dict"
_READ_OF_FILE = {_ATTRIBUTES, "model_state_dict", "var_names"}
_REGISTRIES = {"registry_", "scvi_setup_dict_"}
_READ_OF_ATTRIBUTES = _REGISTRIES | {"init_params_", "is_trained_", "unlabeled_category_"}

_PUTS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_GETS = {"GET", "BINGET", "LONG_BINGET"}
_FILLS = {"APPEND", "APPENDS", "ADDITEMS", "SETITEM", "SETITEMS", "BUILD"}
_EXTENSIONS = {"EXT1", "EXT2", "EXT4"}
_UNKNOWN: Global = ("", "")  # a name that only running the pickle would tell
# A pickle of more opcodes stays as it is: what is remembered of each takes memory.
_MOST_OPCODES = 2_000_000


@dataclass(eq=False, slots=True)
class _Value:
    """A value on the stack: the opcodes from `start` up to `end` make it."""

    start: int
    end: int
    text: str | None = None
    pairs: list[tuple[_Value, _Value, int]] | None = None  # of a dictionary: key, value, and the end of what sets both
    borrowed: bool = False  # taken from the memo
    mark: bool = False

    def add(self, key: _Value, value: _Value, end: int) -> None:
        self.pairs = self.pairs or []
        self.pairs.append((key, value, end))


class _Program:
    """The opcodes of one pickle, and which of them make which value. Raises `ValueError` where that cannot be told."""

    def __init__(self, stream: Bounded) -> None:
        self.start = stream.tell()
        self.places = array("q")
        self.names: dict[int, Global] = {}
        self.memo: dict[int, _Value] = {}
        self.puts: dict[int, int] = {}  # which memo key the opcode fills
        self.gets: dict[int, int] = {}
        self._stack: list[_Value] = []
        self._refused: list[tuple[int, Global]] | None = None
        for opcode, argument, place in pickletools.genops(stream):
            if len(self.places) == _MOST_OPCODES:
                raise ValueError("too long")
            self.places.append(place)
            if opcode.name == "STOP":
                (self.root,) = self._stack
                break
            self._run(opcode, argument, len(self.places) - 1)
        self.places.append(stream.tell())

    def _run(self, opcode: pickletools.OpcodeInfo, argument: object, at: int) -> None:
        name, stack = opcode.name, self._stack
        if name == "MARK":
            stack.append(_Value(at, at + 1, mark=True))
        elif name in _PUTS:
            key = len(self.memo) if name == "MEMOIZE" else argument
            if key in self.memo or stack[-1].mark:
                raise ValueError("a memo that is filled twice")
            self.memo[key], self.puts[at] = stack[-1], key
            stack[-1].end = at + 1
        elif name in _GETS:
            self.gets[at] = argument
            stack.append(_Value(at, at + 1, self.memo[argument].text, borrowed=True))
        else:
            taken = self._take(opcode)
            if name in _FILLS:
                self._fill(name, taken, at)
            elif opcode.stack_after:
                start = taken[0].start if taken else at
                stack.append(_Value(start, at + 1, argument if isinstance(argument, str) else None))
            self._name(name, argument, taken, at)

    def _take(self, opcode: pickletools.OpcodeInfo) -> list[_Value]:
        """The values that an opcode takes from the stack, its mark among them."""
        count, stack = len(opcode.stack_before), self._stack
        if pickletools.stackslice in opcode.stack_before:
            count = len(stack) - self._last_mark() + opcode.stack_before.index(pickletools.markobject)
        elif any(value.mark for value in stack[len(stack) - count :]) or len(opcode.stack_after) > 1:
            raise ValueError("a mark that is taken for a value, or a value that is there twice")
        if count > len(stack):
            raise IndexError("an empty stack")
        taken = stack[len(stack) - count :]
        del stack[len(stack) - count :]
        return taken

    def _last_mark(self) -> int:
        at = len(self._stack) - 1
        while at >= 0 and not self._stack[at].mark:
            at -= 1
        if at < 0:
            raise IndexError("no mark")
        return at

    def _fill(self, name: str, taken: list[_Value], at: int) -> None:
        target, *items = taken
        if target.borrowed or target.mark:
            raise ValueError("a value that is filled where it was not made")
        target.end = at + 1
        if name == "SETITEM":
            target.add(*items, at + 1)
        elif name == "SETITEMS":
            for key, value in zip(items[1::2], items[2::2]):
                target.add(key, value, value.end)
        self._stack.append(target)

    def _name(self, opcode: str, argument: object, taken: list[_Value], at: int) -> None:
        if opcode in ("GLOBAL", "INST"):
            self.names[at] = tuple(argument.split(" ", 1))
        elif opcode == "STACK_GLOBAL":
            module, name = (value.text for value in taken)
            self.names[at] = (module, name) if module and name else _UNKNOWN
        elif opcode in _EXTENSIONS:
            self.names[at] = _UNKNOWN

    def refused(self, start: int, end: int) -> list[str]:
        """What is named there and not allowed."""
        if self._refused is None:
            self._refused = [(at, name) for at, name in self.names.items() if name not in ALLOWED]
        first = bisect_left(self._refused, (start,))
        named = {name for _, name in self._refused[first : bisect_left(self._refused, (end,))]}
        return sorted(".".join(name) if name != _UNKNOWN else "what it does not say" for name in named)

    def without(self, dropped: list[tuple[int, int]], data: bytes) -> bytes:
        """The pickle `data` without these opcodes, but with what the rest takes of them from the memo."""
        left = bytearray(b"\1") * (len(self.places) - 1)
        for start, end in dropped:
            left[start:end] = bytes(end - start)
        out, at = io.BytesIO(), 0
        for value in sorted(self._needed(left), key=lambda value: (value.start, -value.end)):
            if value.start >= at:  # and not within another
                self._write(out, data, at, value.start, left)
                self._write(out, data, value.start, value.end)
                out.write(pickle.POP)
                at = value.end
        self._write(out, data, at, len(left), left)
        return out.getvalue()

    def _needed(self, left: bytearray) -> list[_Value]:
        """The values of the memo that are made by what is not `left` and are taken by what is, or by one another."""
        made = {key for at, key in self.puts.items() if not left[at]}
        keys = [key for at, key in self.gets.items() if left[at] and key in made]
        gets = list(self.gets.items())
        needed: dict[int, _Value] = {}
        looked = 0
        while keys:
            value = self.memo[keys.pop()]
            if id(value) not in needed:
                needed[id(value)] = value
                inner = gets[bisect_left(gets, (value.start,)) : bisect_left(gets, (value.end,))]
                keys += [key for _, key in inner if key in made]
                looked += len(inner)
                if looked > _MOST_OPCODES:  # values in values, made to take for ever
                    raise ValueError("too many values within one another")
        return list(needed.values())

    def _write(self, out: BinaryIO, data: bytes, start: int, end: int, left: bytearray | None = None) -> None:
        for at in range(start, end):
            opcode = data[self.places[at] - self.start : self.places[at + 1] - self.start]
            if opcode[:1] == pickle.MEMOIZE:  # it counts what was remembered before
                opcode = pickle.LONG_BINPUT + struct.pack("<I", self.puts[at])
            if opcode[:1] != pickle.FRAME and (left is None or left[at]):  # a frame counts bytes
                out.write(opcode)


def _unneeded(program: _Program) -> Iterator[tuple[str, int, int, list[str]]]:
    """What to drop: its key, its opcodes, and what it names that is not allowed."""
    root = program.root
    saved = {key.text: value for key, value, _ in root.pairs or ()}
    if _ATTRIBUTES in saved:
        dictionaries = [(root, _READ_OF_FILE), (saved[_ATTRIBUTES], _READ_OF_ATTRIBUTES)]
    else:
        dictionaries = [(root, _READ_OF_ATTRIBUTES if _REGISTRIES & set(saved) else None)]
    for dictionary, read in dictionaries:
        for key, value, end in dictionary.pairs or ():
            if key.text is None or key.text in (read or ()):
                continue
            # Weights may be called anything; the name of an attribute that a model saves ends so.
            of_training = (read or key.text.endswith("_")) and any(part in key.text for part in _OF_TRAINING)
            refused = program.refused(value.start, value.end)
            if of_training or (read and refused):
                yield key.text, key.start, end, refused


def without_unneeded(stream: BinaryIO) -> tuple[BinaryIO, list[str]]:
    """What to read instead of the next pickle of `stream`, and what was dropped that is not allowed, by its key.

    A pickle with others or the numbers of tensors behind it stays as it is: torch wrote it before 1.6, and counts on their order.
    """
    start = stream.tell()
    try:
        program = _Program(Bounded(stream))
        behind = stream.tell()
        dropped = [] if stream.read(1) else list(_unneeded(program))
        stream.seek(start)
        if dropped:
            data = program.without([(a, b) for _, a, b, _ in dropped], stream.read(behind - start))
            return io.BytesIO(data), [f"{key} ({', '.join(refused)})" for key, _, _, refused in dropped if refused]
    except DAMAGED:  # whoever reads it finds that out
        stream.seek(start)
    return stream, []
