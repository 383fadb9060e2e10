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

from ...common.errors import RefmapError

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
    blocks
        For each covariate that has columns: its columns in the grown tensor, and in the reference's. None where the
        tensor does not grow by columns of covariates.
    """

    place: tuple
    trainable: torch.Tensor
    blocks: list[tuple[slice, slice]] | None = None

    def lay_out(self, old: torch.Tensor, new: torch.Tensor) -> None:
        """Put the reference's values where they belong in the grown tensor.

        A new category starts as the mean of the reference's, so that an embedding does not hang on random numbers
        before there is any training, nor where there is none. The only category of a covariate has no column in the
        reference: it gets zeros, which is what it was trained with, and so do those beside it.
        """
        for grown, held in self.blocks or ():
            new[..., grown] = old[..., held].mean(dim=-1, keepdim=True) if held.stop > held.start else 0
        new[self.place] = old.to(new)


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
    columns, blocks = list(range(inputs)), []
    trainable = torch.zeros(new.shape, dtype=torch.bool)
    start = old_start = inputs
    for size, old_width, new_width in zip(old_sizes, old_widths, new_widths, strict=True):
        columns += range(start, start + old_width)
        blocks.append((slice(start, start + new_width), slice(old_start, old_start + old_width)))
        trainable[..., start + size : start + new_width] = True
        start, old_start = start + new_width, old_start + old_width
    return Growth((..., torch.tensor(columns, dtype=torch.long)), trainable, blocks)


def growth_of(module: torch.nn.Module, reference: dict, old_sizes: list[int], new_sizes: list[int]) -> dict[str, Growth]:
    """Work out where each tensor of `reference` lies in `module`, grown from `old_sizes` to `new_sizes` categories.

    Raises
    ------
    RefmapError
        If a layer grew in a way that no one-hot explains: its columns would be read for others.
    """
    state = module.state_dict()
    by_category = {}
    # A module may stand in two places under two names: SysVI's prior holds its encoder.
    for prefix, layers in module.named_modules(remove_duplicate=False):
        if not hasattr(layers, "inject_into_layer"):  # fully connected layers, scvi-tools' or the engine's
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
        if ".fc_layers." in name and old.shape != new.shape and growths[name].blocks is None:
            raise RefmapError(f"The model's layer '{name}' grew in a way that refmap does not know: it cannot be mapped onto.")
    return growths
