"""Which of the model's genes each column of a query counts for."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..common.errors import RefmapError
from .gene_names import Translation, all_names, further_names, translate
from .ids import plain, strip_version
from .modalities import ids_beside, own_names, places_of
from .peaks import overlapping
from .query import Query


@dataclass(frozen=True)
class Resolution:
    """For each column of the query, the index of the model's gene it counts for, or -1; and how that came about, in columns."""

    target: np.ndarray  # (query columns,) int32
    found: np.ndarray  # (model genes,) bool
    stripped: int
    translated: int
    ambiguous: int
    guessed: dict[str, str]  # ids of the query that are taken for another of the model
    other_case: int  # genes of the model that the query has in another case, and that are not taken for its own
    first: np.ndarray  # (model genes,) int: whose values each gets: its own, or those of the same gene before it
    overlapping: dict[str, str] = field(default_factory=dict)  # peaks of the query that are taken for one of the model
    modalities: dict[str, int] = field(default_factory=dict)  # how many of the model's genes belong to each of several
    names: Translation = field(default_factory=Translation)  # what was found by other names than the model's

    @property
    def filled(self) -> np.ndarray:
        """Of each of the model's genes, whether the query has it; (model genes,) bool."""
        return self.found[self.first]

    @property
    def matched(self) -> int:
        """Genes of the model that the query has."""
        return int(self.filled.sum())

    @property
    def dropped(self) -> int:
        """Columns of the query that count for no gene of the model."""
        return int((self.target < 0).sum())

    @property
    def summed(self) -> int:
        """Columns of the query that are merged into another."""
        return len(self.target) - self.dropped - int(self.found.sum())

    @property
    def found_by_modality(self) -> dict[str, tuple[int, int]]:
        """For each modality of the model how many of its features the query has, of how many."""
        parts = np.split(self.filled, np.cumsum(list(self.modalities.values()))[:-1])
        return {name: (int(part.sum()), len(part)) for name, part in zip(self.modalities, parts, strict=False)}

    @property
    def absent(self) -> list[str]:
        """Modalities of the model of which the query has nothing, though it has another."""
        return [name for name, (found, of) in self.found_by_modality.items() if of and not found] if self.matched else []

    @property
    def n_wanted(self) -> int:
        """How many genes the query could have: the model's, but for those of absent modalities."""
        return len(self.found) - sum(self.modalities[name] for name in self.absent)

    @property
    def overlap(self) -> float:
        """The share of the model's genes that the query has; of several modalities that it has, the least."""
        shares = [found / of for found, of in self.found_by_modality.values() if found]
        return min(shares, default=self.matched / len(self.found))

    def shown(self, too_few: str = "") -> str:
        """How many genes were found, in words, and `too_few`, a phrase for it."""
        if not self.modalities:
            return f"{self.matched:,} of the model's {len(self.found):,} genes ({self.overlap:.1%}{too_few})"
        held = {name: counts for name, counts in self.found_by_modality.items() if counts[0]}
        parts = [f"{found:,} of {of:,} in '{name}' ({found / of:.1%})" for name, (found, of) in held.items()]
        return f"of the model's features {' and '.join(parts)}{too_few}"


def gene_ids(query: Query, row: dict) -> np.ndarray:
    """The ids of a query's genes as its row of the sheet gives them: without `gene_prefix`, for those that have it."""
    ids = query.gene_ids(row["layer"], row["var_key"])
    prefix = row["gene_prefix"]
    return np.array([gene.removeprefix(prefix) for gene in ids], dtype=object) if prefix else ids


class _Genes:
    """The model's genes by id: exactly, or else with the versions stripped on both sides, or else loosely."""

    def __init__(self, genes: Sequence[str]):
        self.exact: dict[str, int] = {}
        self.stripped: dict[str, set[int]] = defaultdict(set)
        for index, gene in enumerate(genes):
            self.exact.setdefault(gene, index)
            self.stripped[strip_version(gene)].add(self.exact[gene])

    def find(self, gene: str) -> set[int]:
        if gene in self.exact:
            return {self.exact[gene]}
        return self.stripped.get(strip_version(gene), set())


def resolve(
    query_ids: Sequence[str],
    model_genes: Sequence[str],
    table: Iterable[tuple[str, str]] | None = None,
    modalities: Mapping[str, int] | None = None,
    others: Mapping[str, Sequence[str]] | None = None,
) -> Resolution:
    """Find the model's gene for each column of a query.

    An id is looked up exactly; else with Ensembl versions stripped; else through the pairs of `table`, in either direction. What
    is then left on both sides is looked up in the same way by the `others`, further names of the columns. An id that leads to several genes of the model is ambiguous and counts for none. A gene that the model has several times gets
    the query's columns of it one by one where it has as many, else the same values in each place. What is left on both sides is
    then matched loosely where one id of the query and one gene of the model are alike: by :func:`plain`, then without regard to
    case. Genes of which most differ by case are another species' (Cd4 of the mouse, CD4 of man), and stay apart. Peaks that are
    called by where they lie are taken for one that they overlap: see :mod:`.peaks`.
    """
    genes = _Genes(model_genes)
    partners = defaultdict(set)
    for one, other in table or ():
        partners[strip_version(one)].add(other)
        partners[strip_version(other)].add(one)

    target = np.full(len(query_ids), -1, dtype=np.int32)
    stripped = translated = ambiguous = 0
    for column, gene in enumerate(query_ids):
        hits = genes.find(gene)
        through_table = not hits
        if through_table:
            hits = set().union(*(genes.find(partner) for partner in partners.get(strip_version(gene), ())))
        if len(hits) == 1:
            (target[column],) = hits
            translated += through_table
            stripped += not through_table and gene not in genes.exact
        ambiguous += len(hits) > 1
    first = np.array([genes.exact[gene] for gene in model_genes], dtype=np.int64)
    for places, columns in _pairs(query_ids, model_genes):
        target[columns], first[places] = places, places
    in_columns = {}
    for name, ids in (others or {}).items():
        if by_name := _by_further(ids, genes, target):
            in_columns[name] = len(set(by_name.values()))
            target[list(by_name)] = list(by_name.values())
    by_sign = _alike(query_ids, genes.exact, target, plain)
    for column, index in by_sign.items():
        target[column] = index
    by_case = _alike(query_ids, genes.exact, target, lambda gene: plain(gene).casefold())
    other_case = len(set(by_case.values()))
    if other_case < len(set(target[target >= 0])):
        for column, index in by_case.items():
            target[column] = index
        other_case = 0
    else:
        by_case = {}
    by_range = _peaks(query_ids, model_genes, target)
    for column, index in by_range.items():
        target[column] = index
    overlap = {str(query_ids[column]): str(model_genes[index]) for column, index in by_range.items()}
    guessed = {str(query_ids[column]): str(model_genes[index]) for column, index in (by_sign | by_case).items()}
    found, named = _counted(target, len(model_genes)), Translation(columns=in_columns)
    return Resolution(
        target, found, stripped, translated, ambiguous, guessed, other_case, first, overlap, dict(modalities or {}), named
    )


def _counted(target: np.ndarray, n_genes: int) -> np.ndarray:
    """Of each of the model's genes, whether a column counts for it."""
    found = np.zeros(n_genes, dtype=bool)
    found[target[target >= 0]] = True
    return found


def resolve_query(query: Query, row: dict, card: dict, table: Iterable[tuple[str, str]] | None = None) -> Resolution:
    """Find the model's gene for each column of a query, as :func:`resolve` does, and then by what else genes are called.

    The further names of a gene are those of the columns of var that tools write them to, and of the index where `var_key` names
    another column; what is then left of genes is translated: see :mod:`.gene_names`. Features of other modalities are not.

    A modality that is read beside another is looked for among the model's features of it alone, and what is read first among
    the others: a protein may be called as its gene.
    """
    ids, genes = gene_ids(query, row), card["genes"]
    further = further_names(query, row)
    if not query.beside:
        of_genes = next(iter(card["modalities"].values()), len(genes))
        found = resolve(ids, genes, table, card["modalities"], further)
        return _by_names(found, all_names(query, row, ids, further), genes[:of_genes], row)
    places = places_of(card["modalities"])
    others = [places.pop(name) for name in query.beside]
    widths = [len(names) for names in ids_beside(query, row["layer"], row["var_key"])]
    parts = np.split(ids, np.cumsum([len(ids) - sum(widths), *widths])[:-1])
    first = np.concatenate([np.arange(0), *places.values()])
    target = np.full(len(ids), -1, dtype=np.int32)
    found, firsts = np.zeros(len(genes), dtype=bool), np.arange(len(genes))
    of_parts, start = [], 0
    for part, wanted in zip(parts, [first, *others], strict=True):
        held, names = set(part), np.array(genes, dtype=object)
        for name, place in own_names(genes, wanted).items():
            if name in held and genes[place] not in held:
                names[place] = name
        of_part = resolve(part, list(names[wanted]), table, others=further if start == 0 else None)
        if start == 0:
            of_part = _by_names(of_part, all_names(query, row, part, further), list(names[wanted]), row)
        counted = of_part.target >= 0
        target[start : start + len(part)][counted] = wanted[of_part.target[counted]]
        found[wanted], firsts[wanted] = of_part.found, wanted[of_part.first]
        of_parts.append(of_part)
        start += len(part)
    sums = [sum(getattr(part, name) for part in of_parts) for name in ("stripped", "translated", "ambiguous")]
    guessed, overlapping = (
        {one: other for part in of_parts for one, other in getattr(part, name).items()} for name in ("guessed", "overlapping")
    )
    other_case = sum(part.other_case for part in of_parts)
    return Resolution(target, found, *sums, guessed, other_case, firsts, overlapping, dict(card["modalities"]), of_parts[0].names)


def _by_names(found: Resolution, names: list[tuple[str, ...]], genes: Sequence[str], row: dict) -> Resolution:
    """What was found by the names themselves, and by translating them, of those genes of the model that stand first."""
    columns, told = translate(found.target, names, genes, row["orthologs"])
    target = found.target.copy()
    target[list(columns)] = list(columns.values())
    told = replace(told, columns=found.names.columns)
    return replace(found, target=target, found=_counted(target, len(found.found)), names=told)


def _by_further(ids: Sequence[str], genes: _Genes, target: np.ndarray) -> dict[int, int]:
    """Columns of the query without a gene, and the gene of the model, itself without a column, that one further name of them is."""
    taken = set(target[target >= 0].tolist())
    claims: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for column in np.flatnonzero(target < 0):
        hits = genes.find(ids[column]) - taken
        if len(hits) == 1:
            claims[hits.pop()][strip_version(ids[column])].append(int(column))
    return {
        column: place
        for place, by_name in claims.items()
        if len(by_name) == 1
        for (columns,) in [by_name.values()]
        for column in columns
    }


def _peaks(query_ids: Sequence[str], model_genes: Sequence[str], target: np.ndarray) -> dict[int, int]:
    """Columns of the query without a gene that are peaks, and the peak of the model, itself without a column, that each overlaps."""
    columns = np.flatnonzero(target < 0)
    places = np.setdiff1d(np.arange(len(model_genes)), target)
    shared = overlapping([model_genes[place] for place in places], [query_ids[column] for column in columns])
    return {int(columns[offered]): int(places[wanted]) for offered, wanted in shared.items()}


def _pairs(query_ids: Sequence[str], model_genes: Sequence[str]) -> Iterator[tuple[list[int], list[int]]]:
    """The places of each gene that a model has several times, and its columns in a query that has it as often."""
    often = {gene for gene, count in Counter(model_genes).items() if count > 1}
    places, columns = defaultdict(list), defaultdict(list)
    for ids, found in ((model_genes, places), (query_ids, columns)):
        for index, gene in enumerate(ids):
            if gene in often:
                found[gene].append(index)
    yield from ((places[gene], columns[gene]) for gene in sorted(often) if len(places[gene]) == len(columns[gene]))


def _alike(query_ids: Sequence[str], places: Mapping[str, int], target: np.ndarray, form: Callable[[str], str]) -> dict[int, int]:
    """Columns of the query without a gene, and the one gene of the model, itself without a column, of the same form."""
    taken = set(target[target >= 0].tolist())
    genes, ids = defaultdict(list), defaultdict(list)
    for gene, index in places.items():
        genes[form(gene)].append(index)
    for column in np.flatnonzero(target < 0):
        ids[form(query_ids[column])].append(int(column))
    return {
        column: genes[like][0]
        for like, columns in ids.items()
        if like and len(genes.get(like, ())) == 1 and genes[like][0] not in taken and len({query_ids[c] for c in columns}) == 1
        for column in columns
    }


def read_id_table(path: Path, shown_as: str | None = None) -> list[tuple[str, str]]:
    """Pairs of ids from a CSV or TSV of two columns; a header does no harm, since no gene is called like it.

    Raises RefmapError if it cannot be read or has not two columns.
    """
    shown_as = shown_as or str(path)
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RefmapError(f"id_table '{shown_as}' cannot be read ({error}): give a CSV or TSV of two columns.") from error
    delimiter = "\t" if any("\t" in line for line in lines[:1]) else ","
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter) if any(row)]
    if not rows:
        raise RefmapError(f"id_table '{shown_as}' is empty: give a CSV or TSV of two columns.")
    for number, row in enumerate(rows, 1):
        if len(row) != 2:
            raise RefmapError(f"id_table '{shown_as}' has {len(row)} columns in row {number}: give a CSV or TSV of two columns.")
    return [(one, other) for one, other in rows if one and other]
