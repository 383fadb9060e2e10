"""Genes by any name: which genes of a model a query has under another name than the model's.

Of a gene that is found by no name of its own, what the query and the model call it is looked up in the table of names
(:mod:`.names_table`). A column of the query is taken for a gene of the model where both mean one gene, and no other column and no
other gene of the model may be meant:

1. by ids and current symbols, where a symbol stands for two genes at most;
2. by synonyms, former symbols among them, that mean one gene alone. What a synonym may mean that another column, or another gene of
   the model, has as its id or current symbol, it does not mean.

Columns of one name are taken together, as they are where the model has that very name; others are never summed.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from .elements import as_text
from .ids import strip_version
from .names_table import SPECIES, TABLE, Meaning, NamesTable, Naming
from .query import Query

MOST_SHOWN = 200
# CD99 is called so on X and on Y; what stands for more genes, as Y_RNA, names none
MOST_OF_A_SYMBOL = 2
# Columns of var that tools write names of genes to, but for the signs in them
NAME_COLUMN = re.compile(r"ensembl|(ensembl(gene)?|feature|gene(short)?|hgnc|mgi)?(id|name|symbol)s?", re.IGNORECASE)
GENES = "Gene Expression"  # what Cell Ranger's feature_types calls them


@dataclass
class Translation:
    """Genes of a model that a query has under other names, in figures.

    `query` and `model` are None where nothing was looked up: no gene is missing, no column is left, or there is no table.
    """

    query: Naming | None = None
    model: Naming | None = None
    columns: dict[str, int] = field(default_factory=dict)  # genes that were found in another column of var, by the column
    found: Counter[str] = field(default_factory=Counter)  # by the table, by the way: id_or_symbol, synonym, ortholog
    examples: dict[str, str] = field(default_factory=dict)  # names of the query, and the model's for each
    note: str = ""  # why nothing was looked up

    @property
    def other_species(self) -> bool:
        """Whether query and model are of two species."""
        known = {naming.species for naming in (self.query, self.model) if naming and naming.species}
        return len(known) == 2

    def to_json(self) -> dict:
        """What alignment.json holds of it."""
        return {
            "query": self.query and vars(self.query),
            "model": self.model and vars(self.model),
            "columns": self.columns,
            "found": dict(self.found),
            "examples": dict(list(self.examples.items())[:MOST_SHOWN]),
            "note": self.note,
        }


def further_names(query: Query, row: dict) -> dict[str, np.ndarray]:
    """What else the genes of a query are called, by the column of its var; '' where missing, and of what is no gene."""
    frame, prefix = query.gene_frame(row["layer"]), row["gene_prefix"] or ""
    columns = [name for name in frame.columns if NAME_COLUMN.fullmatch(re.sub(r"[\W_]", "", name)) and name != row["var_key"]]
    texts = {"the index": frame.index} if row["var_key"] else {}
    texts |= {name: as_text(frame[name]) for name in columns if not pd.api.types.is_numeric_dtype(frame[name].dtype)}
    genes = _are_genes(query, row)
    return {name: _of_genes([each.removeprefix(prefix) for each in values], genes) for name, values in texts.items()}


def all_names(query: Query, row: dict, ids: np.ndarray, further: Mapping[str, np.ndarray]) -> list[tuple[str, ...]]:
    """The names of each column of a query, of which it goes by the first; empty of what is no gene, as an antibody called CD20."""
    return list(zip(_of_genes(ids, _are_genes(query, row)), *further.values(), strict=True))


def _are_genes(query: Query, row: dict) -> np.ndarray | bool:
    """Of each column whether it is a gene, as Cell Ranger says; all are where it says nothing."""
    frame = query.gene_frame(row["layer"])
    types = as_text(frame["feature_types"]) if "feature_types" in frame else np.array([], dtype=object)
    return types == GENES if GENES in types else True


def _of_genes(names: Sequence[str], genes: np.ndarray | bool) -> np.ndarray:
    return np.where(genes, np.array(names, dtype=object), "")


def translate(
    target: np.ndarray, names: Sequence[Sequence[str]], model_genes: Sequence[str], orthologs: bool = False, path: Path = TABLE
) -> tuple[dict[int, int], Translation]:
    """Find genes of a model that no column of a query counts for by what else they are called.

    Parameters
    ----------
    target
        (query columns,) int: the place in `model_genes` that each column counts for so far, or -1.
    names
        For each column its names, that which it goes by first; '' where it has none.
    model_genes
        The model's genes; of one that it has several times the first place counts.
    orthologs
        Whether genes of a query of the other species are taken for their one-to-one orthologs.
    path
        The table of names.

    Returns
    -------
    Columns whose target was -1, and the place that each counts for; and what is to be told of it.
    """
    places: dict[str, int] = {}
    for place, gene in enumerate(model_genes):
        places.setdefault(gene, place)
    missing = set(places.values()).difference(target.tolist())
    if not missing or not (target < 0).any():
        return {}, Translation()
    if not path.is_file():
        return {}, Translation(note=f"This environment has no table of gene names ({path}): containers/build core makes it.")
    table = NamesTable([*places, *(name for of in names for name in of)], path)
    told = Translation(_query_naming(table, names), table.naming(places))
    if told.query.species not in SPECIES or told.model.species not in SPECIES:
        told.note = "The table has the genes of man and mouse, and those of query and model were not both recognised as theirs."
        return {}, told
    if told.other_species and not orthologs:
        told.note = "Query and model are of two species, and the row does not say orthologs: true."
        return {}, told
    of_model = {place: table.meant([gene], told.model.species) for gene, place in places.items()}
    of_columns = [table.meant(of, told.query.species) for of in names]
    if told.other_species:
        partners = table.orthologs()
        of_columns = [_in_other_species(meaning, partners) for meaning in of_columns]
    columns, of_query = defaultdict(list), {}
    for column, meaning in enumerate(of_columns):
        called: Hashable = strip_version(meaning.name) if target[column] < 0 else column
        columns[called].append(column)
        of_query[called] = meaning
    free = {called for called, of in columns.items() if target[of[0]] < 0}
    found: dict[Hashable, int] = {}
    for way, known in (("id_or_symbol", _current), ("synonym", _settled)):
        pairs = _pairs(known(of_model, missing - set(found.values())), known(of_query, free - set(found)))
        found |= pairs
        if pairs:
            told.found["ortholog" if told.other_species else way] += len(pairs)
    told.examples = {str(names[columns[called][0]][0]): str(model_genes[place]) for called, place in found.items()}
    return {column: place for called, place in found.items() for column in columns[called]}, told


def _in_other_species(meaning: Meaning, partners: Mapping[str, str]) -> Meaning:
    """The orthologs of the genes that a name may mean; none if one of them has none, as it may be that one which is meant."""
    known = partners.keys() >= meaning.genes
    return meaning._replace(genes=frozenset(partners[gene] for gene in meaning.genes if known))


def _query_naming(table: NamesTable, names: Sequence[Sequence[str]]) -> Naming:
    """That of the names that columns go by, or else of the next ones that tell a species."""
    namings = [table.naming(each) for each in zip(*names, strict=True)]
    return next((naming for naming in namings if naming.species), namings[0])


def _current(meanings: Mapping[Hashable, Meaning], which: set) -> dict[Hashable, frozenset[str]]:
    """The genes that each is by its id or current symbol, if these are few enough."""
    return {
        each: meaning.genes
        for each, meaning in meanings.items()
        if each in which and meaning.kind in ("id", "symbol") and len(meaning.genes) <= MOST_OF_A_SYMBOL
    }


def _settled(meanings: Mapping[Hashable, Meaning], which: set) -> dict[Hashable, frozenset[str]]:
    """The genes that each is by its id or symbol, or the one that its synonym leaves, as no other has it by its id or symbol."""
    held = {gene for genes in _current(meanings, set(meanings)).values() if len(genes) == 1 for gene in genes}
    left = {each: meaning.genes - held for each, meaning in meanings.items() if each in which and meaning.kind == "synonym"}
    return _current(meanings, which) | {each: genes for each, genes in left.items() if len(genes) == 1}


def _pairs(wanted: Mapping[int, frozenset[str]], offered: Mapping[Hashable, frozenset[str]]) -> dict[Hashable, int]:
    """Those offered that share a gene with one wanted, which shares one with no other."""
    by_gene = defaultdict(set)
    for place, genes in wanted.items():
        for gene in genes:
            by_gene[gene].add(place)
    shared = {each: {place for gene in genes for place in by_gene.get(gene, ())} for each, genes in offered.items()}
    claims = Counter(place for places in shared.values() for place in places)
    return {each: place for each, places in shared.items() if len(places) == 1 for place in places if claims[place] == 1}
