"""What is said of how many of a model's genes a query has: what refuses it, and what is no reason to stop."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..common.errors import listed
from .elements import as_text
from .genes import Resolution, gene_ids, resolve
from .modalities import only_elsewhere
from .names_table import SPECIES
from .query import Query


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
    elif resolution.names.other_species and not row["orthologs"]:
        fix = f"{_of_two_species(resolution)}: {_another_model(resolution)}"
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
    warnings += _absent(query, resolution) + _species(query, row, resolution)
    if resolution.overlap < row["warn_gene_overlap"]:
        found = resolution.shown(f", less than {row['warn_gene_overlap']:.0%}")
        warnings.append(f"query '{query.shown_as}' has {found}: the others are filled with zeros.")
        prefix, gain = common_prefix(gene_ids(query, row), card["genes"])
        if gain > resolution.matched:
            warnings.append(f"query '{query.shown_as}' has {gain:,} of them behind '{prefix}': set gene_prefix: '{prefix}'.")
        elif resolution.other_case:
            warnings.append(
                f"query '{query.shown_as}' has {resolution.other_case:,} of them but for upper and lower case, as those of another species "
                "are (Cd4 of the mouse, CD4 of man): if they are the same genes, give an id_table."
            )
    if resolution.ambiguous:
        warnings.append(
            f"query '{query.shown_as}' has {resolution.ambiguous:,} gene ids that lead to several genes of the model: they are left out."
        )
    return warnings


def _of_two_species(resolution: Resolution) -> str:
    query, model = resolution.names.query, resolution.names.model
    return f"the query's genes look like those of {query.species} ({query.kind}), the model's like those of {model.species} ({model.kind})"


def _another_model(resolution: Resolution) -> str:
    """What to do about it; orthologs are known of some species alone."""
    known = {resolution.names.query.species, resolution.names.model.species} == set(SPECIES)
    orthologs = "set orthologs: true to take genes for their one-to-one orthologs, " if known else ""
    return f"{orthologs}use a model of the query's species, or give an id_table"


def _species(query: Query, row: dict, resolution: Resolution) -> list[str]:
    """What is said of a query of another species than the model's, and of `orthologs` where it has no effect."""
    names, where = resolution.names, f"query '{query.shown_as}'"
    if names.other_species and not row["orthologs"]:
        return [f"{where}: {_of_two_species(resolution)}: {_another_model(resolution)}."]
    if names.other_species and names.found["ortholog"]:
        found = f"{names.found['ortholog']:,} genes were taken for their one-to-one orthologs"
        return [f"{where}: {_of_two_species(resolution)}: {found}, as orthologs says."]
    if row["orthologs"]:
        nothing = (
            "No gene that is missing has one in the query." if names.other_species else "Query and model are of one species."
        )
        return [
            f"{where}: orthologs has no effect. {names.note or (nothing if names.query else 'No gene of the model was missing.')}"
        ]
    return []


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
