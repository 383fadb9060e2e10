"""Where the tensors of a reference lie once new batches and covariate categories have been added to it.

scvi-tools' own `load_query_data` grows a reference by the query's new categories. Three things are mended here, because
each of them moves the reference or spoils the query without a word (seen in scvi-tools 1.5.1):

* a grown weight gets its new columns at its END, although the layer lays its input out as [genes | batch | covariate |
  ...]: with a covariate beside the batch, every covariate would read its neighbour's column;
* a covariate with one category has no column at all, so a second category gives the first one a column of random
  numbers: here it is zero, which is what the reference was trained with;
* the columns of the reference's own categories are trained too whenever the query has such cells: here they are not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def category_sizes(registry: dict) -> list[int]:
    """Return the number of batches and of categories of each categorical covariate, in the order of the one-hots."""
    fields = registry["field_registries"]
    batch = fields.get("batch", {}).get("state_registry", {}).get("categorical_mapping", ())
    covariates = fields.get("extra_categorical_covs", {}).get("state_registry", {})
    return [len(batch), *(int(n) for n in covariates.get("n_cats_per_key", ()))]


@dataclass
class Growth:
    """Where one tensor of the reference lies in the same tensor of the grown model.

    Attributes
    ----------
    place
        Index that takes the reference's tensor out of the grown one, values in place and shape unchanged.
    trainable
        Mask of the grown tensor's shape: what surgery may move.
    silent
        Mask of the same shape: columns of a category that had none in the reference, kept at zero.
    """

    place: tuple
    trainable: torch.Tensor
    silent: torch.Tensor | None = None


def _grow_by_size(old: torch.Tensor, new: torch.Tensor) -> Growth:
    """Tensors with one row or column a category, which scvi-tools appends at the end."""
    import torch

    place = tuple(slice(0, n) for n in old.shape)
    trainable = torch.ones(new.shape, dtype=torch.bool)
    trainable[place] = False
    return Growth(place, trainable)


def _grow_by_category(old: torch.Tensor, new: torch.Tensor, old_sizes: list[int], new_sizes: list[int]) -> Growth:
    """Weights of shape (…, [inputs | one-hot | one-hot | …]): each one-hot grows at its own end."""
    import torch

    # scvi-tools gives a covariate of one category no column.
    old_widths, new_widths = ([n if n > 1 else 0 for n in sizes] for sizes in (old_sizes, new_sizes))
    inputs = new.shape[-1] - sum(new_widths)
    columns, silent_columns = list(range(inputs)), []
    trainable = torch.zeros(new.shape, dtype=torch.bool)
    start = inputs
    for size, old_width, new_width in zip(old_sizes, old_widths, new_widths, strict=True):
        columns += range(start, start + old_width)
        if new_width and not old_width:
            silent_columns += range(start, start + size)
        trainable[..., start + size : start + new_width] = True
        start += new_width
    silent = torch.zeros(new.shape, dtype=torch.bool)
    silent[..., silent_columns] = True
    return Growth((..., torch.tensor(columns, dtype=torch.long)), trainable, silent)


def growth_of(module: torch.nn.Module, reference: dict, old_sizes: list[int], new_sizes: list[int]) -> dict[str, Growth]:
    """Work out where each tensor of `reference` lies in `module`, grown from `old_sizes` to `new_sizes` categories."""
    from scvi.nn import FCLayers

    state = module.state_dict()
    by_category = {}
    for prefix, layers in module.named_modules():
        if not isinstance(layers, FCLayers):
            continue
        for end in range(1, len(new_sizes) + 1):
            # Most layers see every one-hot; models with a learned batch embedding see the covariates alone.
            for start in (0, 1):
                sizes = new_sizes[start:end]
                if sizes and list(layers.n_cat_list) == [n if n > 1 else 0 for n in sizes]:
                    by_category[prefix] = (layers, old_sizes[start:end], sizes)
    growths = {}
    for name, old in reference.items():
        if name not in state:
            continue
        new = state[name]
        growths[name] = _grow_by_size(old, new)
        for prefix, (layers, before, after) in by_category.items():
            if not (name.startswith(f"{prefix}.fc_layers.") and name.endswith(".weight")) or new.dim() < 2:
                continue
            widths = [sum(n for n in sizes if n > 1) for sizes in (before, after)]
            layer = int(name.removeprefix(f"{prefix}.fc_layers.Layer ").split(".")[0])
            if layers.inject_into_layer(layer) and new.shape[-1] - old.shape[-1] == widths[1] - widths[0]:
                growths[name] = _grow_by_category(old, new, before, after)
    return growths
