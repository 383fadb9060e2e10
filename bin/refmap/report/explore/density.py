"""Where cells lie, of which there are more than the page draws: a picture of their number by place."""

from __future__ import annotations

import numpy as np

from .packing import compress

# Squares along the longer side.
SIDE = 512


def density(places: np.ndarray, most_code: int) -> dict:
    """Count cells by square.

    Parameters
    ----------
    places
        Cells x 2, whole numbers from 0 to `most_code`.

    Returns
    -------
    ``side``, the squares along either side; ``cells``, how many were counted; ``most`` of one square; ``levels``, the base64 of a
    compressed byte a square, the lowest row first: 0 where there is no cell, else 1 to 255, by the logarithm of their number.
    """
    column, row = (places.astype(np.int64) * SIDE // (most_code + 1)).T
    counts = np.bincount(row * SIDE + column, minlength=SIDE * SIDE)
    most = int(counts.max())
    levels = np.where(counts > 0, 1 + np.round(254 * np.log1p(counts) / np.log1p(most)), 0).clip(0, 255).astype(np.uint8)
    return {"side": SIDE, "cells": len(places), "most": most, "levels": compress(levels.tobytes())}
