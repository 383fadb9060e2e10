"""Passes over cells x genes that numba compiles; imported where they are used, as that takes a second or two without a cache."""

from __future__ import annotations

from contextlib import suppress

import numba
import numpy as np

from .likelihood import EPS


# Sums may be made in any order, but what is no number stays none
@numba.njit(fastmath={"reassoc", "contract", "arcp", "nsz"}, error_model="numpy")
def negative_binomial(shares, ratio, grown, theta, starts, genes, values, losses, by_size):
    """The negative log-likelihood of cells by the negative binomial, and its gradient by the logits of their shares.

    With s a gene's share, r = m/t, and x its count, a cell's loss is the sum of t log(1 + r), and of x log(1 + t/m) where there are
    counts. Its slope by log m is b = t r / (1 + r) - x t / (m + t), and that by the logit b - s sum(b).

    Parameters
    ----------
    shares, ratio
        s and r, cells x genes.
    grown
        log(1 + r), cells x genes; becomes the gradient by the logits.
    theta
        t, of all cells (1 x genes) or cells x genes.
    starts, genes, values
        The counts that are not zero, as :class:`.likelihood.Counts` has them.
    losses, by_size
        Given by this: the losses, and sum(b), which is their gradient by the logarithm of the cells' sizes.
    """
    one, eps = ratio.dtype.type(1), ratio.dtype.type(EPS)
    for cell in range(ratio.shape[0]):
        r, by, s, t = ratio[cell], grown[cell], shares[cell], theta[min(cell, theta.shape[0] - 1)]
        loss = total = ratio.dtype.type(0)
        for gene in range(len(r)):
            loss += t[gene] * by[gene]
            by[gene] = t[gene] * (r[gene] / (one + r[gene]))
            total += by[gene]
        for number in range(starts[cell], starts[cell + 1]):
            gene, x = genes[number], values[number]
            mean = r[gene] * (t[gene] + eps)
            inverse = t[gene] / (mean + eps)
            slope = x * mean * inverse / (mean + eps + t[gene])
            loss += x * np.log(one + inverse)
            by[gene] -= slope
            total -= slope
        for gene in range(len(r)):
            by[gene] -= s[gene] * total
        losses[cell], by_size[cell] = loss, total


# Compiled once an environment and not once a process
with suppress(RuntimeError):  # where there is no folder that numba can write to
    negative_binomial.enable_caching()
