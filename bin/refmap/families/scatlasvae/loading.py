"""Load a scAtlasVAE safely, grow it by a query's batches without moving what it holds, and save it as the library does.

The library's own way (scatlasvae 1.0.5.9) is `partial_load_state_dict`, which gives a tensor that has grown random values
throughout, the reference's own included.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ...common.errors import RefmapError
from ...models.folder import ModelFolder
from ...models.pickles import Named, allowed_pickle, trusted_pickle
from ..scarches.loading import Growth, growth_of
from .files import FILE, Description, describe, saved_file, settings_of

if TYPE_CHECKING:
    import torch

FIRST_LAYER, DISPERSION = "decoder._fclayer.0.weight", "px_rate"
EMBEDDING = "decoder.cat_embedding.{}.weight"


def read_saved(path: Path, trusted: bool) -> tuple[dict[str, Any], Description]:
    """What the file at `path` holds, its tensors on the CPU, and what it says of the model.

    This runs a pickle: only a model that passed inspection, a card without a fault, may come here. Unless the user vouched
    for it (`trusted`), it can import no more than inspection lets pass.
    """
    import torch

    folder = ModelFolder(path)
    name = saved_file(folder)
    model = describe(folder.value(name), folder)
    pickle = trusted_pickle() if trusted else allowed_pickle()
    saved = torch.load(path / name, map_location="cpu", weights_only=False, pickle_module=pickle)
    saved["model_state_dict"] = _without_dummies(dict(saved["model_state_dict"]), model)
    # Such as the class of activation functions, which the inert reading leaves a name.
    model.config |= {name: saved["model_config"][name] for name, value in model.config.items() if isinstance(value, Named)}
    return saved, model


def _without_dummies(weights: dict[str, torch.Tensor], model: Description) -> dict[str, torch.Tensor]:
    """The weights without the category that scatlasvae adds to each column since 1.0.6, for batches that nobody knows.

    Nothing trains it, and what it holds is random.
    """
    sizes = [len(model.batches[key]) if key else model.label_sizes[0] for key in model.injected if model.fits]
    first = weights[FIRST_LAYER]
    if _in_one_hots(model) and first.shape[1] - sum(sizes) - len(sizes) == len(weights["z_mean_fc.bias"]):
        kept = list(range(len(weights["z_mean_fc.bias"])))
        start = len(kept)
        for size in sizes:
            kept += range(start, start + size)
            start += size + 1
        weights[FIRST_LAYER] = first[:, kept]
    for number, size in enumerate(() if _in_one_hots(model) else sizes):
        rows = weights[EMBEDDING.format(number)]
        weights[EMBEDDING.format(number)] = rows[:size] if len(rows) == size + 1 else rows
    return weights


def _in_one_hots(model: Description) -> bool:
    """Whether batches stand in columns of the decoder's first layer, and not in embeddings; and which are known."""
    return model.fits and model.config["batch_embedding"] == "onehot"


def grown(model: Description, obs: pd.DataFrame) -> Description:
    """The model with the categories of a query's batch columns behind the reference's own."""
    batches = dict(model.batches)
    for key in [key for key in model.seen if key in obs]:
        new = dict.fromkeys(obs[key].astype(str))
        batches[key] = [*batches[key], *sorted(set(new) - set(batches[key]))]
    sizes = [len(values) for values in batches.values()] if model.fits else model.batch_sizes
    return replace(model, config=model.config | settings_of("batch", batches, sizes), batches=batches)


def growths_of(
    network: torch.nn.Module, reference: dict[str, torch.Tensor], old: Description, new: Description
) -> dict[str, Growth]:
    """Where each tensor of the reference lies in the grown network, which is made to start there.

    A new category starts as the mean of the reference's, so that nothing hangs on random numbers before training.

    Raises
    ------
    RefmapError
        If the reference's weights are not those of the network that its settings make.
    """
    state, growths = network.state_dict(), {}
    if odd := sorted(set(state) ^ set(reference)):
        raise RefmapError(f"The weights of this scAtlasVAE do not fit its settings: they differ in {', '.join(odd[:3])}.")
    for name, tensor in reference.items():
        positions, blocks = _first_layer(tensor, old, new) if name == FIRST_LAYER and _in_one_hots(old) else (None, [])
        if positions is None and tensor.shape != state[name].shape and not _by_batch(name):
            raise RefmapError(
                f"The weights of this scAtlasVAE do not fit its settings: {name} is of {tuple(tensor.shape)} and not {tuple(state[name].shape)}."
            )
        growths[name] = growth_of(tensor.shape, state[name].shape, None if positions is None else {1: positions})
        if name == DISPERSION and tensor.dim() == 2:
            state[name][:, tensor.shape[1] :] = tensor.mean(dim=1, keepdim=True).to(state[name])
        elif name.startswith("decoder.cat_embedding."):
            state[name][len(tensor) :] = tensor.mean(dim=0).to(state[name])
        for columns, held in blocks:
            state[name][:, columns] = tensor[:, held].mean(dim=1, keepdim=True).to(state[name])
    return growths


def _by_batch(name: str) -> bool:
    return name == DISPERSION or name.startswith("decoder.cat_embedding.")


def _first_layer(weight: torch.Tensor, old: Description, new: Description) -> tuple[list[int], list[tuple[slice, slice]]]:
    """Where the columns of the decoder's first layer lie once its one-hots have grown, each at its own end; and each one-hot's
    columns in the grown layer and in the reference's."""

    def width(model: Description, key: str) -> int:
        return len(model.batches[key]) if key else model.label_sizes[0]

    widths = [(width(old, key), width(new, key)) for key in old.injected]
    start = old_start = weight.shape[1] - sum(before for before, _ in widths)
    positions, blocks = list(range(start)), []
    for before, after in widths:
        positions += range(start, start + before)
        blocks.append((slice(start, start + after), slice(old_start, old_start + before)))
        start, old_start = start + after, old_start + before
    return positions, blocks


def save(folder: Path, network: torch.nn.Module, model: Description, counts: dict[str, Counter]) -> None:
    """Write a model into one file as the library does, but for the cells' own categories: it has none of the reference's cells.

    `counts` are the numbers of cells of each category, by column.
    """
    import torch

    def of(what: str, columns: dict[str, list[str]]) -> dict[str, Any]:
        categories = [pd.Categorical([], pd.Index(values, dtype=object)) for values in columns.values()]
        summaries = [{value: counts[key][value] for value in values} for key, values in columns.items()]
        saved = {f"{what}_category": categories, f"{what}_category_summary": summaries}
        first = {name: found[0] if found else None for name, found in saved.items()}
        return first | {f"additional_{name}": found[1:] or None for name, found in saved.items()}

    folder.mkdir(parents=True, exist_ok=True)
    torch.save(
        {
            "model_state_dict": {name: tensor.cpu() for name, tensor in network.state_dict().items()},
            "model_var_index": pd.Index(model.genes, dtype=object),
            "model_config": model.config,
            **of("batch", model.batches),
            **of("label", model.labels),
        },
        folder / FILE,
    )


def counts_of(saved: dict[str, Any], model: Description) -> dict[str, Counter]:
    """The numbers of the reference's cells of each category, by column, as its file has them."""
    counts = {}
    for what, columns in (("batch", model.batches), ("label", model.labels)):
        summaries = [saved.get(f"{what}_category_summary"), *(saved.get(f"additional_{what}_category_summary") or ())]
        for key, summary in zip(columns, summaries):
            counts[key] = Counter({str(value): int(n) for value, n in (summary or {}).items()})
    return counts


def counted(obs: pd.DataFrame, columns: Iterable[str]) -> dict[str, Counter]:
    """The numbers of cells of each category, by column; none for a column that obs lacks."""
    return {key: Counter(obs[key].astype(str) if key in obs else ()) for key in columns}
