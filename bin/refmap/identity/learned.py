"""What a reference says of itself, its own batches taken for queries: the scale of both looks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .cells import LabelledCells
from .certainty import Certainty, Curve, learn_certainty
from .gene_view import hold_out_votes
from .novel import Null, held_out_scores

# Quantiles of the held-out scores that a record holds: the 95 % one is among them.
MOST_KEPT = 1001


@dataclass(frozen=True)
class Learned:
    """What a reference's own batches say, one after another taken for a query.

    null            scores by identity double difference
    certainty       of the gene view; None where it cannot be learned, and `no_certainty` says why
    """

    null: Null
    certainty: Certainty | None
    no_certainty: str | None

    def record(self) -> dict:
        """Return what JSON holds of it, from which :meth:`of_record` makes it again; of many scores 1,001 quantiles."""
        scores = self.null.scores
        if len(scores) > MOST_KEPT:
            scores = np.quantile(scores, np.linspace(0, 1, MOST_KEPT))
        certainty = self.certainty
        return {
            "null": {"scores": scores.tolist(), "n_batches": self.null.n_batches},
            "certainty": certainty
            and {
                "own": [certainty.own.shares.tolist(), certainty.own.right.tolist()],
                "of_any": [certainty.of_any.shares.tolist(), certainty.of_any.right.tolist()],
                "limit": certainty.limit,
                "figures": certainty.figures,
            },
            "no_certainty": self.no_certainty,
        }

    @classmethod
    def of_record(cls, record: dict) -> Learned:
        """Make it of what :meth:`record` returned."""
        null, found = record["null"], record["certainty"]
        own, of_any = (Curve(*map(np.array, found[name])) if found else None for name in ("own", "of_any"))
        certainty = Certainty(own, of_any, found["limit"], found["figures"]) if found else None
        return cls(Null(np.array(null["scores"], dtype=np.float64), null["n_batches"]), certainty, record["no_certainty"])


def learn(reference: LabelledCells, weights: np.ndarray, seed: int, with_null: bool = True) -> Learned:
    """Take the reference's batches for queries in turn: the null of both looks. It takes the longest, and knows no query.

    Without `with_null` that of identity double difference, which takes most of it, is left empty.
    """
    certainty = learn_certainty(hold_out_votes(reference, seed))
    reason = (
        None if certainty else "How certain the gene view is cannot be told: no two parts of the reference could be held out."
    )
    null = held_out_scores(reference, weights, seed) if with_null else Null(np.empty(0), 0)
    return Learned(null, certainty, reason)
