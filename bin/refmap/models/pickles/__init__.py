"""Reading pickles without running them.

A pickle is a program: unpickling imports what it names and calls it. Here the same program runs on a machine of our own whose
only values are plain data, so that there is nothing it could call: what it names stays a `Named`, what it would construct an
`Inert` record. Only a few constructors are understood (numpy's arrays, torch's tensors by shape, the builtin containers), and
those are decoded by the code in `decoding` and never by the library that wrote them.

Every name that a file asks for is kept in `Contents.names`; `Contents.refused` are those whose real unpickling is not known
to be harmless.
"""

from __future__ import annotations

from .files import read_pickle, read_torch
from .loading import allowed_pickle, trusted_pickle
from .names import ALLOWED
from .tables import category_values, index_values
from .values import Contents, Inert, Named, Tensor

__all__ = [
    "ALLOWED",
    "Contents",
    "Inert",
    "Named",
    "Tensor",
    "allowed_pickle",
    "category_values",
    "index_values",
    "read_pickle",
    "read_torch",
    "trusted_pickle",
]
