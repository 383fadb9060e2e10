"""What several families of scArches let a reference's training be told."""

from __future__ import annotations

from ..options import Option

RECON_LOSS = Option(
    "text", "nb", "Distribution of the data: nb or zinb for counts, mse for log-normalised values.", choices=("nb", "zinb", "mse")
)
DROPOUT = Option("float", 0.05, "Rate of dropout in training.", least=0, most=1)


def n_hidden(default: int) -> Option:
    """The size of the hidden layers, of which each family has its own default."""
    return Option("int", default, "Units of each hidden layer.", least=1)
