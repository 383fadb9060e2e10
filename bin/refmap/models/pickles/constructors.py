"""What takes the place of constructors that pandas no longer has in the form in which its old pickles call them.

The second lock imports these instead, by the table `REPLACED` in `names`. They are classes, as pickles make objects by a class's
`__new__`, and take what the names that they replace were called with, by position alone.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from pandas.core.internals import managers


class BlockManager:
    """Gives a manager of a table's blocks, empty if it is to be filled by its state."""

    def __new__(cls, *args: Any) -> Any:
        return managers.BlockManager(*args) if args else managers.BlockManager((), [], verify_integrity=False)


class StringDtype:
    """Gives a type of text, of Python's strings unless told otherwise: pandas up to 1.2 had no other."""

    def __new__(cls, *args: Any) -> Any:
        return pd.StringDtype(*args or ("python",))
