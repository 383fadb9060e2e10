"""How far a mapping can be trusted: figures on a scale that the reference sets, and two traffic lights with their reasons.

It stands on `transfer`, for neighbours and transferred labels.
"""

from .mapqc import Samples, mapqc
from .measure import QueryCells, ReferenceCells, measure
from .thresholds import FIGURES, Limit, read_thresholds
from .verdict import AMBER, GREEN, GREY, RED, Verdict, judge

__all__ = [
    "AMBER",
    "FIGURES",
    "GREEN",
    "GREY",
    "RED",
    "Limit",
    "QueryCells",
    "ReferenceCells",
    "Samples",
    "Verdict",
    "judge",
    "mapqc",
    "measure",
    "read_thresholds",
]
