"""Which programmes of a query's GMT file a model can learn."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...common.errors import RefmapError
from ..gmt import programs_of


def new_programs(programs: Mapping[str, list[str]], card: dict, least: int) -> tuple[list[str], np.ndarray, list[str]]:
    """Choose the programmes that are new to a model and have at least so many of its genes.

    Returns
    -------
    Their names, bool (programmes x the model's genes), and sentences on those left out.

    Raises
    ------
    RefmapError
        If none has enough genes, and none is known.
    """
    names, members = programs_of(card["genes"], programs)
    known = np.isin(names, card["latent_names"])
    few = (members.sum(axis=1) < least) & ~known
    if few.all():
        raise RefmapError(
            f"No programme of the row's gmt has {least} of the model's genes or more: give one whose genes are named as the "
            "model's, or lower the option min_genes."
        )
    reasons = ((few, f"have fewer than {least} of the model's genes"), (known, "are known to the model"))
    told = [_left_out(np.array(names)[left_out], why) for left_out, why in reasons if left_out.any()]
    kept = ~(few | known)
    return [name for name, keep in zip(names, kept) if keep], members[kept], told


def _left_out(names: np.ndarray, why: str) -> str:
    """Say which programmes of a GMT file were left out. A workflow has staged it under a name that the user did not give."""
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"Programmes of the row's gmt that {why} were left out ({len(names)}): {shown}."
