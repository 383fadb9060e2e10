"""The card of a SCimilarity model, from its inert files.

`encoder.ckpt` is a file of torch with the encoder's weights under `state_dict`, `gene_order.tsv` a symbol a line, `layer_sizes.json`
the shapes of the weights. Each hidden layer `network.<n>` is dropout, a linear layer (1), batch norm (2) and PReLU (3), the last
layer linear.
"""

from __future__ import annotations

import json
import re
from typing import Any

from ...common.errors import RefmapError, brief
from ...models.card import ModelCard
from ...models.folder import ModelFolder
from ...models.pickles import Tensor
from ...models.places import ENCODER as WEIGHTS
from ..frozen import no_surgery

GENES, SIZES, SETTINGS = "gene_order.tsv", "layer_sizes.json", "hyperparameters.json"
_LINEAR = re.compile(r"network\.(\d+)(\.1)?\.weight")


def is_scimilarity(folder: ModelFolder) -> bool:
    return folder.has(WEIGHTS) and (folder.has(GENES) or folder.has(SIZES))


def scimilarity_card(folder: ModelFolder) -> ModelCard:
    """Raises `RefmapError` for a model that is incomplete or put together of several."""
    for name in (GENES, SIZES):
        if not folder.has(name):
            raise RefmapError(f"{folder.shown} lacks {name}, without which no SCimilarity model can be read: copy it again.")
    tensors = folder.value(WEIGHTS, "state_dict")
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items() if isinstance(tensor, Tensor)}
    widths = layer_widths(shapes)
    if len(widths) < 2:
        raise RefmapError(f"{folder.show(WEIGHTS)} holds no encoder of SCimilarity: copy the model again.")
    if _json(folder, SIZES) != shapes:
        raise RefmapError(f"{folder.show(SIZES)} has other sizes than {WEIGHTS}: copy the model again, all files of one release.")
    if folder.has(SETTINGS) and _json(folder, SETTINGS).get("residual"):
        raise RefmapError(
            f"{folder.shown} was trained with residual layers, which refmap does not have: use a model without them."
        )
    genes = _genes(folder)
    if len(genes) != widths[0]:
        raise RefmapError(
            f"{folder.show(GENES)} names {len(genes):,} genes, but the encoder takes {widths[0]:,}: copy the model again, all files of "
            "one release."
        )
    return ModelCard(
        model=folder.shown,
        class_name="SCimilarity",
        genes=genes,
        input="lognorm",
        # As the library does: cells are normalised once they have the model's genes alone.
        normalization={"target_sum": 1e4, "genes": "model"},
        n_latent=widths[-1],
        any_reference=True,
        warnings=[no_surgery("SCimilarity")],
    )


def layer_widths(shapes: dict[str, Any]) -> list[int]:
    """How many numbers go into the first layer and come out of each, from the shapes of the weights by name."""
    linear = {int(found[1]): shape for name, shape in shapes.items() if (found := _LINEAR.fullmatch(name)) and len(shape) == 2}
    layers = [linear[number] for number in sorted(linear)]
    return [layer[1] for layer in layers[:1]] + [layer[0] for layer in layers]


def _genes(folder: ModelFolder) -> list[str]:
    try:
        return [line.strip() for line in (folder.path / GENES).read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError:
        raise RefmapError(f"{folder.show(GENES)} is no text with a gene a line: copy the model again.") from None


def _json(folder: ModelFolder, name: str) -> dict:
    try:
        return json.loads((folder.path / name).read_text(encoding="utf-8"))
    except ValueError as error:
        raise RefmapError(f"{folder.show(name)} is no JSON ({brief(error)}): copy the model again.") from None
