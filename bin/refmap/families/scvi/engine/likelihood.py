"""The likelihood of counts, with the gradient formed where it is computed.

What a decoder's last layers make of the hidden units of a cell is as long as its genes, and nearly all of its counts are zero. So the
negative log-likelihood is computed as if all were, over a dense block, and corrected where they are not; and its gradient by the
hidden units is formed in the same pass, while the block lies in the processor's cache. Nothing as long as the genes is kept for a
backward pass, and no gradient is formed for weights, all of which are frozen.

The distributions are those of scvi-tools (`scvi.distributions`), its small constants included: the negative binomial and the
zero-inflated one of Lopez et al. 2018 (https://doi.org/10.1038/s41592-018-0229-2), and Poisson's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

if TYPE_CHECKING:
    from .module import Module

KINDS = ("nb", "zinb", "poisson")
# What scvi-tools adds to means and dispersions before it takes their logarithm.
EPS = 1e-8
# Cells that are computed together: fewer make poor use of the matrix product, more of the processor's cache.
CELLS = 128
# Counts below are looked up where what hangs on no mean is the same for all cells.
SMALL = 64
# Of zero inflation's logits: far beyond where one more changes a float, and far below where its exponential is none.
MOST = 80.0


@dataclass
class Counts:
    """The counts of a minibatch that are not zero.

    Attributes
    ----------
    starts
        Where the counts of each cell begin among all, and where those of the last end: int64, cells + 1.
    genes
        The gene of each count, int64.
    values
        The counts, as floats.
    """

    starts: torch.Tensor
    genes: torch.Tensor
    values: torch.Tensor

    @property
    def n_cells(self) -> int:
        return len(self.starts) - 1

    def cells(self, start: int, stop: int) -> Counts:
        """Those of some cells."""
        first, last = int(self.starts[start]), int(self.starts[stop])
        return Counts(self.starts[start : stop + 1] - first, self.genes[first:last], self.values[first:last])

    def places(self, n_genes: int) -> torch.Tensor:
        """The place of each count among all, laid out cell by cell, int64."""
        lengths = self.starts.diff().numpy()  # whose `repeat` takes a third of the time of torch's
        return torch.from_numpy(np.repeat(np.arange(len(lengths)) * n_genes, lengths)).add_(self.genes)

    def sums(self, terms: torch.Tensor) -> torch.Tensor:
        """The sum of each cell's, of something that each count has."""
        return torch.segment_reduce(terms, "sum", offsets=self.starts, unsafe=True)


class Likelihood:
    """The negative log-likelihood of counts, given the hidden units of a decoder of scvi-tools' `VAE`.

    Attributes
    ----------
    learns_theta
        Whether dispersions take part in the gradient: those of new batches, and those that a decoder gives to each cell.
    """

    def __init__(self, module: Module, learns_theta: bool):
        decoder = module.decoder
        self.kind = module.gene_likelihood
        self.n_genes = module.n_input
        self.is_share = not module.use_size_factor_key  # of a cell's size; else the mean is on a scale of its own
        self.scale = decoder.px_scale_decoder[0]
        self.inflation = decoder.px_dropout_decoder if self.kind == "zinb" else None
        self.by_cell = decoder.px_r_decoder if module.dispersion == "gene-cell" and self.kind != "poisson" else None
        self._small: torch.Tensor | None = (
            None  # the constants of small counts, of each gene where these have dispersions of their own
        )
        self.learns_theta = (learns_theta or self.by_cell is not None) and self.kind != "poisson"

    def __call__(
        self, hidden: torch.Tensor, log_size: torch.Tensor, log_theta: torch.Tensor | None, counts: Counts
    ) -> torch.Tensor:
        """That of each cell, without its `constants`.

        Parameters
        ----------
        hidden
            Cells x hidden units.
        log_size
            The logarithm of each cell's size.
        log_theta
            The logarithm of the inverse dispersions: of the genes, or cells x genes; None where there are none, or `hidden` has them.
        counts
            Of the cells.
        """
        return _Likelihood.apply(hidden, log_size, None if self.kind == "poisson" else log_theta, counts, self)

    def constants(self, log_theta: torch.Tensor | None, counts: Counts) -> torch.Tensor:
        """What of each cell's negative log-likelihood takes no part in the gradient; arguments as above."""
        theta = None if log_theta is None or self.learns_theta or self.kind == "poisson" else log_theta.exp()
        if theta is not None and theta.dim() == 2:
            return counts.sums(_constants(counts.values, _at(theta, counts, self.n_genes)))
        if self._small is None:
            small = torch.arange(SMALL, dtype=counts.values.dtype)
            self._small = _constants(small, None if theta is None else theta.unsqueeze(1))
        whole = counts.values.long().clamp_(max=SMALL - 1)
        terms = self._small.view(-1).index_select(0, whole if theta is None else whole + counts.genes * SMALL)
        rest = torch.nonzero(whole != counts.values).flatten()
        terms[rest] = _constants(counts.values[rest], None if theta is None else theta[counts.genes[rest]])
        return counts.sums(terms)


def _constants(values: torch.Tensor, theta: torch.Tensor | None) -> torch.Tensor:
    """What of the negative log-likelihood of counts hangs on no mean."""
    terms = torch.lgamma(values + 1)
    return terms if theta is None else terms + torch.lgamma(theta) - torch.lgamma(values + theta)


def _at(values: torch.Tensor, counts: Counts, n_genes: int, places: torch.Tensor | None = None) -> torch.Tensor:
    """Values of genes, or of cells x genes, where there are counts."""
    if values.dim() == 1:
        return values.index_select(0, counts.genes)
    return values.reshape(-1).index_select(0, counts.places(n_genes) if places is None else places)


class _Likelihood(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, log_size, log_theta, counts: Counts, of: Likelihood) -> torch.Tensor:
        needs_hidden, needs_size, needs_theta = ctx.needs_input_grad[:3]
        n_cells = len(hidden)
        losses, by_size = hidden.new_empty(n_cells), hidden.new_empty(n_cells)
        by_hidden = torch.empty_like(hidden) if needs_hidden else None
        by_theta = hidden.new_empty(n_cells, of.n_genes) if needs_theta else None
        for start in range(0, n_cells, CELLS):
            stop = min(start + CELLS, n_cells)
            rows = slice(start, stop)
            theta = log_theta if log_theta is None or log_theta.dim() == 1 else log_theta[rows]
            block = _Block(of, hidden[rows], log_size[rows].exp(), theta, counts.cells(start, stop))
            losses[rows] = block.losses
            if needs_hidden:
                by_hidden[rows], by_size[rows] = block.by_hidden(), block.by_size
            if needs_theta:
                by_theta[rows] = block.by_theta
        ctx.save_for_backward(by_hidden, by_size if needs_size else None, by_theta)
        return losses

    @staticmethod
    def backward(ctx, upstream):
        by_hidden, by_size, by_theta = ctx.saved_tensors
        return (
            None if by_hidden is None else by_hidden * upstream.unsqueeze(1),
            None if by_size is None else by_size * upstream,
            None if by_theta is None else by_theta * upstream.unsqueeze(1),
            None,
            None,
        )


class _Block:
    """Some cells of a minibatch, all their genes.

    In what follows m is the mean of a count and t its inverse dispersion. The negative log-likelihood of a zero is
    t log(1 + m/t), and a count x that is none adds x log((t + m) / m), both by the negative binomial.

    Attributes
    ----------
    losses
        Of the cells.
    by_size
        The gradient by the logarithm of the cells' sizes.
    by_logits, by_theta, by_inflation
        That by what the decoder makes means of, by log t, and by the logit of zero inflation, cells x genes; None where nothing asks
        for it.
    """

    by_theta: torch.Tensor | None = None
    by_inflation: torch.Tensor | None = None

    def __init__(self, of: Likelihood, hidden: torch.Tensor, size: torch.Tensor, log_theta: torch.Tensor | None, counts: Counts):
        self.of, self.counts = of, counts
        self.logits = _linear(of.scale, hidden)
        self.shares = torch.softmax(self.logits, dim=1) if of.is_share else functional.softplus(self.logits)
        self.places = counts.places(of.n_genes)
        if of.kind == "poisson" and of.is_share:
            self._shares_of_poisson(size)
            return
        means = self.shares * size.unsqueeze(1)
        if of.kind == "poisson":
            self._poisson(means)
            return
        theta = (_linear(of.by_cell, hidden) if of.by_cell else log_theta).exp()
        self._negative_binomial(means, theta, _linear(of.inflation, hidden) if of.inflation else None)

    def _poisson(self, means: torch.Tensor) -> None:
        x = self.counts.values
        self.losses = means.sum(dim=1) - self.counts.sums(x * means.view(-1).index_select(0, self.places).log())
        means.view(-1).index_add_(0, self.places, x, alpha=-1)
        self._finish(means)

    def _shares_of_poisson(self, size: torch.Tensor) -> None:
        """As shares add up to 1, the means do to the size, and with n all counts of a cell the slope by a gene's logit is n s - x."""
        x, n = self.counts.values, self.counts.sums(self.counts.values)
        logs = self.shares.view(-1).index_select(0, self.places).log_()
        self.losses = size - torch.xlogy(n, size) - self.counts.sums(logs.mul_(x))
        self.by_size = size - n
        self.by_logits = self.shares.mul_(n.unsqueeze(1))
        self.by_logits.view(-1).index_add_(0, self.places, x, alpha=-1)

    def _negative_binomial(self, means: torch.Tensor, theta: torch.Tensor, inflation: torch.Tensor | None) -> None:
        counts, x, places = self.counts, self.counts.values, self.places
        ratio = means.div_(theta + EPS)
        log_grown = torch.log1p(ratio)
        # Where there are counts, log((t + m) / m) is log(1 + t/m)
        t = _at(theta, counts, self.of.n_genes, places)
        mean = ratio.view(-1).index_select(0, places).mul_(t + EPS).add_(EPS)
        both = mean + t
        inverse = t / mean
        at_counts = (mean - EPS).mul_(inverse).mul_(x).div_(both)
        terms = inverse.log1p_().mul_(x)
        if self.of.learns_theta:
            terms += torch.lgamma(t) - torch.lgamma(x + t)
        share = ratio.div_(ratio + 1)  # m / (t + m)
        if inflation is None:
            self.losses = torch.mv(log_grown, theta) if theta.dim() == 1 else (log_grown * theta).sum(dim=1)
            inflated = None  # no zero comes from inflation
        else:
            # With p the chance of inflation, and z the one that a count is zero by itself, a zero costs
            # log(1 - q) - log(p), where q is the chance that an observed zero is one of inflation: p / (p + (1 - p) z)
            logits = inflation.clamp_(min=-MOST)
            of_zero = torch.addcmul(logits, log_grown, theta)
            terms += of_zero.view(-1).index_select(0, places)
            of_zero.view(-1).index_fill_(0, places, math.inf)
            inflated, chance = of_zero.sigmoid_(), logits.sigmoid_()
            self.losses = (inflated / chance).log_().sum(dim=1)
            inflated.view(-1).index_fill_(0, places, 0)
            self.by_inflation = chance.sub_(inflated)
        self.losses += counts.sums(terms)
        if self.of.learns_theta:
            slope = log_grown.sub_(share * (theta / (theta + EPS)))
            if inflated is not None:
                slope.addcmul_(slope, inflated, value=-1)
            slope.view(-1).index_add_(0, places, x / both + torch.digamma(t) - torch.digamma(x + t))
            self.by_theta = slope.mul_(theta)
        by_logm = share.mul_(theta)
        if inflated is not None:
            by_logm.addcmul_(by_logm, inflated, value=-1)
        by_logm.view(-1).index_add_(0, places, at_counts, alpha=-1)
        self._finish(by_logm)

    def _finish(self, by_logm: torch.Tensor) -> None:
        """Make the gradient by sizes and by logits of that by log m, which is used up."""
        self.by_size = by_logm.sum(dim=1)
        if self.of.is_share:
            self.by_logits = by_logm.addcmul_(self.shares, self.by_size.unsqueeze(1), value=-1)
        else:
            # The slope of log softplus is 1 where softplus is all but its argument's exponential
            tiny = torch.finfo(self.shares.dtype).tiny
            self.by_logits = by_logm.mul_(torch.sigmoid(self.logits) / self.shares.clamp(min=tiny))

    def by_hidden(self) -> torch.Tensor:
        """The gradient by the hidden units."""
        gradient = self.by_logits @ self.of.scale.weight
        if self.by_inflation is not None:
            gradient.addmm_(self.by_inflation, self.of.inflation.weight)
        if self.of.by_cell is not None:
            gradient.addmm_(self.by_theta, self.of.by_cell.weight)
        return gradient


def _linear(layer: torch.nn.Linear, hidden: torch.Tensor) -> torch.Tensor:
    return functional.linear(hidden, layer.weight, layer.bias)
