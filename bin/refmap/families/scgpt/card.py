"""The card of a scGPT, from its inert files.

`vocab.json` has the token of each gene symbol and of what is no gene (`<cls>`), `args.json` the sizes, `best_model.pt` the weights.
"""

from __future__ import annotations

import json
from typing import Any

from ...common.errors import RefmapError, brief
from ...models.card import ModelCard
from ...models.folder import ModelFolder
from ...models.pickles import Tensor
from ..frozen import no_surgery

VOCABULARY, SETTINGS = "vocab.json", "args.json"
WEIGHTS, SAVED_AS = "model.pt", "best_model.pt"  # behind a prefix, as `places` has it, and as the library calls it
SPECIAL = ("<pad>", "<cls>", "<eoc>")
EMBEDDING = "encoder.embedding.weight"


def is_scgpt(folder: ModelFolder) -> bool:
    return folder.has(VOCABULARY, SETTINGS)


def scgpt_card(folder: ModelFolder) -> ModelCard:
    """Raises `RefmapError` for a model that is incomplete, put together of several, or reads other values than bins."""
    if not folder.has(WEIGHTS):
        raise RefmapError(f"{folder.shown} lacks {SAVED_AS}, without which no scGPT can be loaded: copy the model again.")
    settings, tokens = read_json(folder, SETTINGS), read_vocabulary(folder)
    if settings.get("input_emb_style", "continuous") != "continuous":
        raise RefmapError(
            f"{folder.shown} reads values by '{settings['input_emb_style']}', which refmap does not: use a model that reads them as 'continuous'."
        )
    embedding = folder.value(WEIGHTS, EMBEDDING)
    shape = embedding.shape if isinstance(embedding, Tensor) else ()
    if len(shape) != 2 or shape[1] != settings["embsize"] or shape[0] <= max(tokens.values()):
        raise RefmapError(
            f"{folder.show(WEIGHTS)} holds no tokens of {settings['embsize']} numbers for a vocabulary of {len(tokens):,}: copy the model "
            "again, all files of one release."
        )
    return ModelCard(
        model=folder.shown,
        class_name="scGPT",
        genes=genes_of(tokens),
        n_latent=int(settings["embsize"]),
        any_reference=True,
        warnings=[no_surgery("scGPT")],
    )


def read_vocabulary(folder: ModelFolder) -> dict[str, int]:
    """The token of each gene and special word; of words that the file lacks, those behind it, as the library does."""
    tokens = read_json(folder, VOCABULARY)
    if not tokens or not all(isinstance(token, int) for token in tokens.values()):
        raise RefmapError(f"{folder.show(VOCABULARY)} is no dictionary of tokens by gene: copy the model again.")
    for word in SPECIAL:
        tokens.setdefault(word, len(tokens))
    return tokens


def genes_of(tokens: dict[str, int]) -> list[str]:
    """The genes of a vocabulary in the order of their tokens."""
    return sorted((word for word in tokens if not (word.startswith("<") and word.endswith(">"))), key=tokens.__getitem__)


def read_json(folder: ModelFolder, name: str) -> dict[str, Any]:
    """What a file of JSON says. Raises `RefmapError` where it is none, or no dictionary."""
    try:
        value = json.loads((folder.path / name).read_text(encoding="utf-8"))
    except ValueError as error:
        raise RefmapError(f"{folder.show(name)} is no JSON ({brief(error)}): copy the model again.") from None
    if not isinstance(value, dict):
        raise RefmapError(f"{folder.show(name)} is no dictionary: copy the model again.")
    return value
