"""Fully connected layers of scvi-tools whose weights are frozen, all of them one step of autograd's graph.

Of a layer that is given one-hot categories, the columns of these become a table with a row a category, of which each cell takes its
own, and which may be learned. The rest of its weight is a constant. The gradient by inputs and tables is formed by hand: what a layer
has of its own (batch norm, with the reference's statistics) is part of its weight, and what is added is not kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .learned import Learned
    from .module import FCLayers


@dataclass
class OfCells:
    """The categories that cells are of.

    Attributes
    ----------
    rows
        Their rows of a table, cells x one-hots of two categories or more.
    """

    rows: torch.Tensor

    def add(self, x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """The sum of units and of the rows of a table."""
        for rows in self.rows.unbind(1):
            x = x + table.index_select(0, rows)
        return x

    def linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """The sum of a linear layer of units and of the rows of a table."""
        first, *others = self.rows.unbind(1)
        units = (table + bias).index_select(0, first)
        for rows in others:
            units += table.index_select(0, rows)
        return units.addmm_(x, weight)

    def by_table(self, gradient: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """The gradient by the table, of that by the sum."""
        found = torch.zeros_like(table)
        for rows in self.rows.unbind(1):
            found.index_add_(0, rows, gradient)
        return found

    def by_units(self, gradient: torch.Tensor, _n: int) -> torch.Tensor:
        """The gradient by what the table was added to, of that by the sum."""
        return gradient


@dataclass
class EachLabel:
    """All labels for all cells: units are of cells until labels are added, and then of the first label's cells, the next's, …"""

    n_labels: int
    n_cells: int

    def _apart(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(-1, self.n_cells, x.shape[1])

    def linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """The sum of a linear layer of units and of the rows of a table."""
        rows = (table + bias).unsqueeze(1)
        if len(x) == self.n_cells:
            return (x @ weight + rows).flatten(0, 1)
        return torch.baddbmm(rows, self._apart(x), weight.expand(self.n_labels, -1, -1)).flatten(0, 1)

    def by_table(self, gradient: torch.Tensor, _table: torch.Tensor) -> torch.Tensor:
        """The gradient by the table, of that by the sum."""
        return self._apart(gradient).sum(dim=1)

    def by_units(self, gradient: torch.Tensor, n: int) -> torch.Tensor:
        """The gradient by what the table was added to, which had `n` rows, of that by the sum."""
        return gradient if n == len(gradient) else self._apart(gradient).sum(dim=0)


class Layer:
    """One of the layers.

    Attributes
    ----------
    weight, bias
        Of its inputs without categories, transposed; with what batch norm does.
    scale
        What batch norm multiplies with, None without.
    eps
        Of the layer norm, None without.
    is_rectified
        Whether what is negative becomes zero.
    """

    def __init__(self, parts: torch.nn.Sequential, table: torch.Tensor | None, n_inputs: int):
        linear, *others = parts
        by_kind = {type(part): part for part in others if part is not None}
        weight = linear.weight.detach()[:, :n_inputs].T
        bias = weight.new_zeros(weight.shape[1]) if linear.bias is None else linear.bias.detach()
        self.scale = self.eps = None
        if norm := by_kind.get(torch.nn.BatchNorm1d):
            self.scale = norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
            bias = (bias - norm.running_mean) * self.scale + norm.bias.detach()
            weight = weight * self.scale
        if norm := by_kind.get(torch.nn.LayerNorm):
            self.eps = norm.eps
        self.weight, self.bias = weight.contiguous(), bias
        self._dropout = by_kind.get(torch.nn.Dropout)
        self.is_rectified = torch.nn.ReLU in by_kind
        self._table = table if table is None or table.requires_grad else self.scaled(table)
        self.has_table = table is not None

    @property
    def table(self) -> torch.Tensor:
        """The rows of the categories, as batch norm leaves them."""
        return self.scaled(self._table) if self._table.requires_grad else self._table

    def scaled(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows of the table as batch norm leaves them; or the gradient by rows, of that by these."""
        return rows if self.scale is None else rows * self.scale

    @property
    def dropout(self) -> float:
        return self._dropout.p if self._dropout and self._dropout.training else 0.0


class Layers:
    """The layers of a part of a model."""

    def __init__(self, layers: FCLayers, prefix: str, learned: Learned):
        width = sum(layers.n_cat_list)
        self.layers: list[Layer] = []
        self.tables: list[torch.Tensor | None] = []
        for number, parts in enumerate(layers.fc_layers):
            has_table = width > 0 and layers.inject_into_layer(number)
            n_inputs = parts[0].in_features - width * has_table
            name = f"{prefix}.fc_layers.Layer {number}.0.weight"
            self.tables.append(learned.table(name, n_inputs) if has_table else None)
            self.layers.append(Layer(parts, self.tables[-1], n_inputs))

    def start(self, x: torch.Tensor, columns: slice = slice(None)) -> torch.Tensor:
        """What the first layer makes of some of its inputs, without its bias and without categories."""
        return x @ self.layers[0].weight[columns]

    def __call__(self, x: torch.Tensor, categories: OfCells | EachLabel, is_started: bool = False) -> torch.Tensor:
        """The last hidden units.

        Parameters
        ----------
        x
            The inputs without categories; or what the first layer has made of them, its bias included (`is_started`).
        categories
            Of the cells.
        """
        return _Layers.apply(x, self.layers, categories, is_started, *self.tables)


class Heads:
    """Two linear layers, of a mean and of what a variance is made of, as one."""

    def __init__(self, mean: torch.nn.Linear, variance: torch.nn.Linear):
        self.weight = torch.cat([mean.weight.detach(), variance.weight.detach()])
        self.bias = torch.cat([mean.bias.detach(), variance.bias.detach()])

    def __call__(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.nn.functional.linear(hidden, self.weight, self.bias).chunk(2, dim=1)


class _Layers(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, layers: list[Layer], categories, is_started: bool, *_tables) -> torch.Tensor:
        ctx.layers, ctx.categories, ctx.is_started, ctx.n_rows, ctx.dropout = layers, categories, is_started, [], []
        kept = []
        for number, layer in enumerate(layers):
            ctx.n_rows.append(len(x))
            ctx.dropout.append(layer.dropout)
            if number == 0 and is_started:
                x = categories.add(x, layer.table) if layer.has_table else x
            elif layer.has_table:
                x = categories.linear(x, layer.weight, layer.bias, layer.table)
            else:
                x = torch.addmm(layer.bias, x, layer.weight)
            if layer.eps is not None:
                kept.append(x)
                x, mean, inverse = torch.native_layer_norm(x, x.shape[1:], None, None, layer.eps)
                if not inverse.all():  # units beyond float32, of which zeros would hide that training diverged
                    x = x.masked_fill_(inverse == 0, torch.nan)
                kept += [mean, inverse]
            if layer.is_rectified:
                x = x.relu() if layer.eps is None else x.relu_()
            kept.append(x)
            if layer.dropout > 0:
                noise = torch.empty_like(x).bernoulli_(1 - layer.dropout).div_(1 - layer.dropout)
                x = x * noise
                kept.append(noise)
        ctx.save_for_backward(*kept)
        return x

    @staticmethod
    def backward(ctx, gradient):
        kept: Iterator[torch.Tensor] = iter(ctx.saved_tensors[::-1])
        by_tables: list[torch.Tensor | None] = [None] * len(ctx.layers)
        for number, layer in reversed(list(enumerate(ctx.layers))):
            if ctx.dropout[number] > 0:
                gradient = gradient * next(kept)
            units = next(kept)
            if layer.is_rectified:
                gradient = torch.ops.aten.threshold_backward(gradient, units, 0)
            if layer.eps is not None:
                inverse, mean, x = next(kept), next(kept), next(kept)
                gradient = _by_normed(gradient, x, mean, inverse)
            if ctx.needs_input_grad[4 + number]:
                by_tables[number] = layer.scaled(ctx.categories.by_table(gradient, layer.table))
            if number == 0 and not ctx.needs_input_grad[0]:
                gradient = None
                break
            if layer.has_table:
                gradient = ctx.categories.by_units(gradient, ctx.n_rows[number])
            if number or not ctx.is_started:
                gradient = gradient @ layer.weight.T
        return gradient, None, None, None, *by_tables


def _by_normed(gradient: torch.Tensor, x: torch.Tensor, mean: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
    """The gradient by what a layer norm was given, of that by what it makes of it."""
    return torch.ops.aten.native_layer_norm_backward(gradient, x, x.shape[1:], mean, inverse, None, None, (True, False, False))[0]
