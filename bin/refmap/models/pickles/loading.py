"""The second lock: an inspected file is loaded by what imports nothing beyond the allowed names."""

from __future__ import annotations

import io
import pickle
from types import ModuleType
from typing import Any

from .names import ALLOWED, LOAD_STORAGE, STORAGES
from .streams import is_storage


class _AllowedUnpickler(pickle.Unpickler):
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
