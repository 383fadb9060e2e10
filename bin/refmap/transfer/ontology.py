"""Terms of the Cell Ontology for labels, where these are called as a term is.

The table of names is made with the environment, of the Cell Ontology (Diehl et al. 2016, doi:10.1186/s13326-016-0088-7, CC BY 4.0) as
CELLxGENE's ontology guide ships it: see `containers/core/cell_ontology.py`.
"""

from __future__ import annotations

import functools
import re
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

TABLE = Path(sys.prefix) / "share/refmap/cell_ontology.parquet"
# From the surest to the least sure
KINDS = ("name", "synonym")
# DC2 is a plasmacytoid dendritic cell there and a conventional one in atlases, and VIP a neuron of the striatum
ABBREVIATION = re.compile(r"(?=\S*(\S[A-Z]|\d))\S+")
GREEK = {"α": " alpha ", "β": " beta ", "γ": " gamma ", "δ": " delta ", "ε": " epsilon "}
_POSITIVE = re.compile(r"\(\+\)|\+")
# CD4- T, CD8+CD28- and CD4-CD8-; the hyphen of T-cell and of alpha-beta parts words
_NEGATIVE = re.compile(r"\(-\)|(?<=\w)-(?=cd\d|[\s,)]|$)")


def form(name: str) -> str:
    """What names are compared by: their words, without regard to case, Greek letters written out, and signs of markers too."""
    name = unicodedata.normalize("NFKC", name).casefold()
    for letter, word in GREEK.items():
        name = name.replace(letter, word)
    name = _NEGATIVE.sub(" negative ", _POSITIVE.sub(" positive ", name))
    return " ".join(re.split(r"[\s_.,-]+", name)).strip()


class CellOntology:
    """The names of the terms of the Cell Ontology.

    version    that of its release, such as ``v2026-03-26``; None where this environment has no table, and no label has a term
    """

    def __init__(self, path: Path = TABLE):
        self.version: str | None = None
        self._terms: dict[str, dict[str, set[str]]] = {kind: defaultdict(set) for kind in KINDS}
        if not path.is_file():
            return
        names = pd.read_parquet(path)
        self.version = names.attrs["version"]
        for term, name, kind in names[["term", "name", "kind"]].itertuples(index=False):
            if kind != "synonym" or not ABBREVIATION.fullmatch(name):
                self._terms[kind][form(name)].add(term)

    def terms(self, labels: Iterable[str]) -> dict[str, str]:
        """Return the id of each label that is the name of one term, or else an exact synonym of one; the others are left out.

        Synonyms that are abbreviations are no names, as they mean different cells to different people. A label that is no name may be
        one without the s at its end.
        """
        found = {label: self._term(label) for label in labels}
        return {label: term for label, term in found.items() if term}

    def _term(self, label: str) -> str | None:
        called = form(label)
        for name in (called, called.removesuffix("s")):
            for kind in KINDS:
                if terms := self._terms[kind].get(name):
                    return next(iter(terms)) if len(terms) == 1 else None
        return None


@functools.cache
def cell_ontology() -> CellOntology:
    """This environment's, read once a process: it takes as long as the labels of a small query."""
    return CellOntology()


def term_column(labels: pd.Categorical, terms: Mapping[str, str]) -> pd.Categorical:
    """Return the term of each label, none of which is missing, and missing where it has none; the categories are those that there are, sorted."""
    present = np.bincount(labels.codes, minlength=len(labels.categories)) > 0
    of_labels = [terms.get(label) if there else None for label, there in zip(labels.categories, present)]
    return pd.Categorical(np.array(of_labels, dtype=object)).take(labels.codes)
