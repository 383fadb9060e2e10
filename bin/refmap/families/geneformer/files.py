"""The files of a Geneformer: a BERT as Hugging Face's library saves it, and the two dictionaries that its own library keeps apart.

`config.json` has the sizes, `model.safetensors` the weights; `token_dictionary*.pkl` the token of each gene's Ensembl id and of what
is no gene (`<cls>`), `gene_median_dictionary*.pkl` the median of each gene's counts per 10,000 in the cells that have it. All of them
are data: nothing is unpickled.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import numpy as np

from ...common.errors import RefmapError, brief
from ...models.folder import ModelFolder

CONFIG, WEIGHTS = "config.json", "model.safetensors"
TOKENS, MEDIANS = "token_dictionary*.pkl", "gene_median_dictionary*.pkl"
BEGIN, END = "<cls>", "<eos>"


@dataclass
class Vocabulary:
    """What a model reads.

    Attributes
    ----------
    genes
        Ensembl ids in the order of their tokens.
    tokens
        Of the genes: int64, ascending.
    medians
        Of the genes: float64, above 0.
    begin, end
        Tokens that stand before and behind a cell's genes, for a model that has some.
    """

    genes: list[str]
    tokens: np.ndarray
    medians: np.ndarray
    begin: int | None
    end: int | None


def read_config(folder: ModelFolder) -> dict[str, Any]:
    """What `config.json` says. Raises `RefmapError` where it is no JSON of that."""
    try:
        config = json.loads((folder.path / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise RefmapError(f"{folder.show(CONFIG)} is no JSON ({brief(error)}): copy the model again.") from None
    return config if isinstance(config, dict) else {}


def dictionary_file(folder: ModelFolder, pattern: str) -> str:
    """The name of the dictionary of a kind. Raises `RefmapError` where there is none, or are several."""
    found = [name for name in folder.files() if fnmatch(name, pattern)]
    if len(found) != 1:
        how = f"holds {len(found)} of {pattern} ({', '.join(found)})" if found else f"lacks {pattern}"
        raise RefmapError(
            f"{folder.shown} {how}, and a Geneformer is read by one: copy the one that it was trained with from its library's folder "
            "geneformer into the model's."
        )
    return found[0]


def read_vocabulary(folder: ModelFolder) -> Vocabulary:
    """Read the genes that have a token and a median. Raises `RefmapError` where there are none or the files are no dictionaries."""
    token_file, median_file = (dictionary_file(folder, pattern) for pattern in (TOKENS, MEDIANS))
    tokens, medians = _numbers(folder, token_file), _numbers(folder, median_file)
    genes = sorted((gene for gene in tokens if medians.get(gene, 0) > 0 and not gene.startswith("<")), key=tokens.__getitem__)
    if not genes:
        raise RefmapError(f"{folder.show(token_file)} and {median_file} have no gene in common: copy both of one release.")
    special = (int(tokens[name]) if name in tokens else None for name in (BEGIN, END))
    places = np.array([int(tokens[gene]) for gene in genes])
    return Vocabulary(genes, places, np.array([float(medians[gene]) for gene in genes]), *special)


def _numbers(folder: ModelFolder, name: str) -> dict[str, Any]:
    values = folder.value(name)
    numbers = isinstance(values, dict) and all(isinstance(value, (int, float, np.number)) for value in values.values())
    if not numbers or not all(isinstance(key, str) for key in values):
        raise RefmapError(f"{folder.show(name)} is no dictionary of numbers by gene: copy it again.")
    return values
