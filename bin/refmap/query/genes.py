"""Which of the model's genes each column of a query counts for."""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from ..common.errors import RefmapError, listed
from .elements import as_text
from .modalities import ids_beside, only_elsewhere, own_names, places_of
from .peaks import overlapping
from .query import Query

ENSEMBL_VERSION = re.compile(r"(ENS[A-Z]*[GTP]\d{6,})\.\d+")


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


def strip_version(gene: str) -> str:
    """ENSG00000141510.18 -> ENSG00000141510; anything that is no versioned Ensembl id stays as it is."""
    match = ENSEMBL_VERSION.fullmatch(gene)
    return match.group(1) if match else gene


def gene_ids(query: Query, row: dict) -> np.ndarray:
    """The ids of a query's genes as its row of the sheet gives them: without `gene_prefix`, for those that have it."""
    ids = query.gene_ids(row["layer"], row["var_key"])
    prefix = row["gene_prefix"]
    return np.array([gene.removeprefix(prefix) for gene in ids], dtype=object) if prefix else ids


def plain(gene: str) -> str:
    """An id without what writers change of it: spaces around it, Ensembl versions, and the signs in it.

    R writes HLA-A as HLA.A, and a name that starts with a digit, as 7SK, as X7SK.
    """
    changed = re.sub(r"[\W_]+", "-", strip_version(gene.strip()))
    return re.sub(r"^X(?=\d)", "", changed)


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
) -> Resolution:
    """Find the model's gene for each column of a query.

    An id is looked up exactly; else with Ensembl versions stripped; else through the pairs of `table`, in either direction.
    An id that leads to several genes of the model is ambiguous and counts for none. A gene that the model has several times gets
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
    found = np.zeros(len(model_genes), dtype=bool)
    found[target[target >= 0]] = True
    overlap = {str(query_ids[column]): str(model_genes[index]) for column, index in by_range.items()}
    guessed = {str(query_ids[column]): str(model_genes[index]) for column, index in (by_sign | by_case).items()}
    return Resolution(target, found, stripped, translated, ambiguous, guessed, other_case, first, overlap, dict(modalities or {}))


def resolve_query(query: Query, row: dict, card: dict, table: Iterable[tuple[str, str]] | None = None) -> Resolution:
    """Find the model's gene for each column of a query, as :func:`resolve` does.

    A modality that is read beside another is looked for among the model's features of it alone, and what is read first among
    the others: a protein may be called as its gene.
    """
    ids, genes = gene_ids(query, row), card["genes"]
    if not query.beside:
        return resolve(ids, genes, table, card["modalities"])
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
        of_part = resolve(part, list(names[wanted]), table)
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
    return Resolution(target, found, *sums, guessed, other_case, firsts, overlapping, dict(card["modalities"]))


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


def _absent(query: Query, resolution: Resolution) -> list[str]:
    """What is said of modalities that the query lacks, and of cells that only another of its modalities has."""
    held = [name for name in resolution.modalities if name not in resolution.absent]
    has = ""
    if query.multimodal:
        has = f" (of its modalities, {listed(query.container['mod'])}, those are read that are called as the model's)"
    warnings = [
        f"query '{query.shown_as}' has no feature of the model's modality '{name}'{has}: it is masked as missing in all cells, which are "
        f"embedded by {listed(held)} alone."
        for name in resolution.absent
    ]
    for name, cells in only_elsewhere(query).items():
        warnings.append(
            f"query '{query.shown_as}' has {cells:,} cells in its modality '{name}' that '{query.modality}' lacks: they are not mapped; "
            f"a row with modality: {name} maps that modality's cells."
        )
    return warnings


def repeat_warnings(card: dict, resolution: Resolution) -> list[str]:
    """A sentence about genes that the model has several times, if the same values are to stand in each of their places."""
    genes = np.array(card["genes"], dtype=object)
    again = np.flatnonzero((resolution.first != np.arange(len(genes))) & resolution.filled)
    if not len(again):
        return []
    named = listed(sorted(set(genes[again])), 3)
    return [f"the model has {named} more than once: each of these places gets the query's values of that gene."]


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


def overlap_fault(query: Query, row: dict, card: dict, resolution: Resolution, table: list[tuple[str, str]] | None) -> str | None:
    """The sentence that refuses a query with too few of the model's genes, or None.

    It names the columns of var whose values would do better.
    """
    if resolution.overlap >= row["min_gene_overlap"] and resolution.matched:
        return None
    ids = gene_ids(query, row)
    where = f"var column '{row['var_key']}'" if row["var_key"] else "the var index"
    if resolution.matched:
        found = f"has {resolution.shown()}, fewer than min_gene_overlap ({row['min_gene_overlap']:.0%})"
    else:
        found = f"has none of the model's {len(card['genes']):,} genes: {where} has {listed(ids[:3])}, the model has {listed(card['genes'][:3])}"
    better = {
        key: gain
        for key, gain in _gene_columns(query, row, card, table).items()
        if gain > resolution.matched and key != row["var_key"]
    }
    prefix, gain = common_prefix(ids, card["genes"])
    if gain > max([resolution.matched, *better.values()]):
        fix = f"ids start with '{prefix}', which the model's do not: set gene_prefix: '{prefix}' (gives {gain:,} genes)"
    elif resolution.other_case > max([resolution.matched, *better.values()]):
        fix = (
            f"{resolution.other_case:,} are there but for upper and lower case, as those of another species are (Cd4 of the mouse, CD4 of "
            "man): use a model of the same species, or give an id_table"
        )
    elif better:
        fix = "set var_key: " + " or ".join(f"'{key}' (gives {gain:,} genes)" for key, gain in better.items())
    else:
        fix = "set var_key to a column of var with the model's kind of ids, give an id_table, or use a model of the same species and ids"
    return str(query.fault(f"{found}; {fix}."))


def common_prefix(ids: Sequence[str], genes: Sequence[str]) -> tuple[str, int]:
    """What stands before most of the model's genes in a query's ids, up to a sign such as `_`, and how many genes it would give."""
    known, gains = set(genes), Counter()
    for gene in ids:
        for sign in re.finditer(r"[^0-9A-Za-z]+", gene):
            if sign.start() and gene[sign.end() :] in known:
                gains[gene[: sign.end()]] += 1
    return max(gains.items(), key=lambda item: item[1], default=("", 0))


def _gene_columns(query: Query, row: dict, card: dict, table) -> dict[str, int]:
    """How many of the model's genes each text column of var would give, best first."""
    frame = query.gene_frame(row["layer"])
    gains = {}
    for column in frame.columns:
        values = frame[column]
        if not pd.api.types.is_numeric_dtype(values.dtype):
            gains[column] = resolve(as_text(values), card["genes"], table).matched
    return dict(sorted(((key, gain) for key, gain in gains.items() if gain), key=lambda item: -item[1])[:3])


def overlap_warnings(query: Query, row: dict, card: dict, resolution: Resolution) -> list[str]:
    """Sentences about genes that are no reason to stop."""
    warnings = []
    if resolution.guessed:
        named = ", ".join(f"'{one}' for '{other}'" for one, other in list(resolution.guessed.items())[:3])
        more = f" and {len(resolution.guessed) - 3:,} more" if len(resolution.guessed) > 3 else ""
        warnings.append(
            f"query '{query.shown_as}' has {len(resolution.guessed):,} gene ids that are spelt as no gene of the model, and are taken for "
            f"the one that they are like: {named}{more}."
        )
    if resolution.overlapping:
        named = ", ".join(f"'{one}' for '{other}'" for one, other in list(resolution.overlapping.items())[:3])
        n_peaks = len(set(resolution.overlapping.values()))
        warnings.append(
            f"query '{query.shown_as}' has {len(resolution.overlapping):,} peaks that are called as no peak of the model and lie over "
            f"{n_peaks:,} of them by half or more: they are taken for these, which is right if both are of one genome assembly: {named}."
        )
    warnings += _absent(query, resolution)
    if resolution.overlap < row["warn_gene_overlap"]:
        found = resolution.shown(f", less than {row['warn_gene_overlap']:.0%}")
        warnings.append(f"query '{query.shown_as}' has {found}: the others are filled with zeros.")
        prefix, gain = common_prefix(gene_ids(query, row), card["genes"])
        if gain > resolution.matched:
            warnings.append(f"query '{query.shown_as}' has {gain:,} of them behind '{prefix}': set gene_prefix: '{prefix}'.")
    if resolution.ambiguous:
        warnings.append(
            f"query '{query.shown_as}' has {resolution.ambiguous:,} gene ids that lead to several genes of the model: they are left out."
        )
    return warnings
