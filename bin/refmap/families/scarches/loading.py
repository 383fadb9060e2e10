"""Load and save models of scArches, safely and quietly, and grow them by a query without moving what they hold.

What the library's own `load_query_data` (scarches 0.6.1) does beside its task is kept away from the model here:

* it unpickles whatever the files hold: here nothing is imported that inspection would not let pass;
* it lets whole tensors train as soon as they grow, so that weight decay, 0.04 unless told otherwise, pulls at the
  reference's own columns: here gradients are masked value by value, and there is no weight decay;
* it normalises by the query's statistics in training and by the reference's in embedding, where a model has batch norm.
"""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ...models.facts import write_facts
from ...models.folder import ModelFolder
from ...models.pickles import allowed_pickle, trusted_pickle
from .files import ATTRIBUTES, WEIGHTS, read_genes

if TYPE_CHECKING:
    import torch


@contextlib.contextmanager
def quietly() -> Iterator[Callable]:
    """Keep what a library prints, and its warnings to programmers, out of the log.

    Gives a context manager, `aloud`, in which what is printed is heard all the same.
    """
    heard = partial(contextlib.redirect_stdout, sys.stdout)
    with contextlib.redirect_stdout(_Nowhere()), contextlib.redirect_stderr(_Nowhere()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield heard


class _Nowhere(io.TextIOBase):
    """Takes any text. It is never closed: the library makes a handler of Python's logging of what is stderr at its import."""

    def write(self, text: str) -> int:
        return len(text)


@dataclass
class Saved:
    """A saved model: its attributes, its weights by name (on the CPU) and its genes in order."""

    attributes: dict[str, Any]
    weights: dict[str, torch.Tensor]
    genes: list[str]

    def as_model(self, adata: Any) -> SimpleNamespace:
        """A stand-in for the loaded model that the library's `load_query_data` takes as `reference_model`.

        Nothing is read from disk again; `adata` is the aligned query, whose genes are the model's.
        """
        return SimpleNamespace(
            _get_public_attributes=lambda: self.attributes,
            model=SimpleNamespace(state_dict=lambda: self.weights),
            adata=adata,
        )


def read_attributes(path: Path, trusted: bool) -> dict[str, Any]:
    """Unpickle `attr.pkl` below `path`.

    This runs a pickle: only a model that passed inspection, a card without a fault, may come here. Unless the user vouched
    for it (`trusted`), it can import no more than inspection lets pass.
    """
    with open(path / ATTRIBUTES, "rb") as stream:
        return (trusted_pickle() if trusted else allowed_pickle()).load(stream)


def read_saved(path: Path, trusted: bool) -> Saved:
    """Read the three files of a model; for `trusted` see :func:`read_attributes`."""
    import torch

    weights = torch.load(path / WEIGHTS, map_location="cpu", weights_only=True)
    return Saved(read_attributes(path, trusted), dict(weights), read_genes(ModelFolder(path)))


def save(model: Any, folder: Path, **facts: Any) -> None:
    """Save a model of the library from the CPU, and beside it what its files cannot hold, of the `facts` that are known."""
    model.is_trained_ = True
    model.model.cpu()
    model.save(str(folder), overwrite=True)
    known = {name: fact for name, fact in facts.items() if fact}
    if known:
        write_facts(folder, **known)


def to_best_device(module: torch.nn.Module) -> None:
    """Move a network to the GPU, where there is one, as the library's trainers will."""
    import torch

    module.to("cuda" if torch.cuda.is_available() else "cpu")


def hold_batch_norm(module: torch.nn.Module) -> None:
    """Let batch norm use the reference's statistics in training as in embedding, and never update them."""
    import torch

    for layer in module.modules():
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
            layer.eval()
            # `train()` of the whole network reaches every layer; this one it leaves as it is.
            layer.train = lambda mode=True, layer=layer: layer


# -------------------------------------------------------------------------------------------------------------------- growth


@dataclass
class Growth:
    """Where one tensor of the reference lies in the same tensor of the grown model.

    Attributes
    ----------
    place
        Index that takes the reference's tensor out of the grown one, shape unchanged.
    trainable
        Mask of the grown tensor's shape: what surgery may move.
    """

    place: tuple[torch.Tensor, ...]
    trainable: torch.Tensor


def growth_of(old: Sequence[int], new: Sequence[int], at: Mapping[int, Sequence[int]] | None = None) -> Growth:
    """Growth from shape `old` to shape `new`; what is new may be trained.

    Parameters
    ----------
    at
        By dimension, the positions of the reference's values in the grown tensor; the first ones where none are given.
    """
    import torch

    positions = [torch.as_tensor((at or {}).get(dim, range(size)), dtype=torch.long) for dim, size in enumerate(old)]
    # An open mesh: the outer product of the positions along each dimension.
    place = tuple(p.reshape([-1 if dim == i else 1 for i in range(len(old))]) for dim, p in enumerate(positions))
    trainable = torch.ones(tuple(new), dtype=torch.bool)
    trainable[place] = False
    return Growth(place, trainable)


def lay_out(module: torch.nn.Module, reference: Mapping[str, torch.Tensor], growths: Mapping[str, Growth]) -> None:
    """Put the reference's values where they belong in the grown network."""
    state = module.state_dict()
    for name, growth in growths.items():
        place = tuple(index.to(state[name].device) for index in growth.place)
        state[name][place] = reference[name].to(state[name])


def held(module: torch.nn.Module, growths: Mapping[str, Growth]) -> dict[str, torch.Tensor]:
    """The reference's tensors as the grown network holds them."""
    state = module.state_dict()
    return {name: state[name].cpu()[growth.place] for name, growth in growths.items()}
