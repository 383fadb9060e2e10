"""The second lock: an inspected file is loaded by what imports nothing beyond the allowed names.

Files of any age are loaded by what takes the place of their names today, and without what no mapping needs.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import sys
from types import ModuleType
from typing import Any, BinaryIO

from .names import ALLOWED, LOAD_STORAGE, REPLACED, STORAGES
from .streams import is_storage
from .unneeded import without_unneeded


class _Unpickler(pickle.Unpickler):
    """Loads for real; what old files name is taken from where it is today, and what no mapping needs is not read."""

    def __init__(self, file: BinaryIO, **options: Any) -> None:
        super().__init__(without_unneeded(file)[0], **options)

    def load(self) -> Any:
        return _completed(super().load())

    def find_class(self, module: str, name: str) -> Any:
        *replacements, last = REPLACED.get((module, name), ((module, name),))
        for place in replacements:
            with contextlib.suppress(ImportError, AttributeError):
                return super().find_class(*place)
        return super().find_class(*last)


def _completed(value: Any) -> Any:
    """Give the modules of torch in `value` the settings that their classes got since they were pickled, as they are by default.

    Looked for in containers and in modules that hold others; of those that cannot be made without arguments nothing is known.
    """
    if torch := sys.modules.get("torch"):  # else there is none
        left, seen = [value], set()
        while left:
            one = left.pop()
            if id(one) in seen or not isinstance(one, (dict, list, tuple, torch.nn.Module)):
                continue
            seen.add(id(one))
            if isinstance(one, torch.nn.Module):
                if type(one).__module__.startswith("torch.nn.modules."):
                    with contextlib.suppress(TypeError):
                        vars(one).update(vars(type(one)()) | vars(one))
                left += one.children()
            else:
                left += one.values() if isinstance(one, dict) else one
    return value


class _AllowedUnpickler(_Unpickler):
    """Loads for real, and imports nothing but what is in `ALLOWED`."""

    allowed = ALLOWED

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"it wants {module}.{name}, which it did not when it was inspected")
        return _load_storage if (module, name) == LOAD_STORAGE else super().find_class(module, name)


class _StorageUnpickler(_AllowedUnpickler):
    """Loads a storage for real, and nothing else."""

    allowed = STORAGES


def _load_storage(data: bytes) -> Any:
    """Load the bytes that torch pickles a storage as, to the CPU: what `torch.storage._load_from_bytes` would run."""
    import torch

    if not is_storage(data):
        raise pickle.UnpicklingError("it wants to unpickle bytes that are no storage of torch")
    unpickler = _pickle_module(_StorageUnpickler)
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=False, pickle_module=unpickler)


def _pickle_module(unpickler: type[pickle.Unpickler]) -> ModuleType:
    module = ModuleType("pickle")
    module.Unpickler = unpickler
    module.load = lambda file, **options: unpickler(file, **options).load()
    module.loads = lambda data, **options: unpickler(io.BytesIO(data), **options).load()
    return module


def allowed_pickle() -> ModuleType:
    """A stand-in for the module `pickle` by which an inspected file is loaded (``torch.load(pickle_module=...)``).

    Should a file be read otherwise than it was inspected, or have changed in between, it still gets at nothing else.
    """
    return _pickle_module(_AllowedUnpickler)


def trusted_pickle() -> ModuleType:
    """A stand-in for the module `pickle` by which a file that the user vouched for is loaded: it imports what the file names."""
    return _pickle_module(_Unpickler)
