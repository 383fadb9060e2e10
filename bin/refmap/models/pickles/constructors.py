"""What takes the place of constructors that are no longer called as old pickles call them.

The second lock imports these instead, by the table `REPLACED` in `names`. They are classes, as a pickle may make an object by
its class's `__new__`, and take what the names that they replace were called with, by position alone.
"""

from __future__ import annotations

from typing import Any

import pandas as pd


class StringDtype:
    """Gives a type of text, of Python's strings unless told otherwise: pandas up to 1.2 had no other."""

    def __new__(cls, *args: Any) -> Any:
        return pd.StringDtype(*args or ("python",))
