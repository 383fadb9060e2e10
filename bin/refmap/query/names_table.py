"""The table of what genes of man and mouse are called, and what names tell by it: their kind, their species, and the genes they mean.

It is made with the environment, of GENCODE's genes and Ensembl's synonyms and orthologs: see `containers/core/gene_names.py`.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from .ids import plain, strip_version

TABLE = Path(sys.prefix) / "share/refmap/gene_names.parquet"
SPECIES = ("human", "mouse")
# From the surest to the least sure
KINDS = ("id", "symbol", "synonym")
ENSEMBL = re.compile(r"ENS([A-Z]*)G\d{11}")
OF_ENSEMBL = {"": "human", "MUS": "mouse", "RNO": "rat", "MMU": "macaque", "DAR": "zebrafish", "SSC": "pig", "PTR": "chimpanzee"}
# Names are of a species if at least this share of them is its own, and this many times as many as are another's
FEWEST_OWN, FAR_MORE = 0.1, 2


@dataclass(frozen=True)
class Naming:
    """The kind of most of some names (Ensembl ids, symbols, numbers or names), and their species; None where it cannot be told."""

    kind: str
    species: str | None


class Meaning(NamedTuple):
    """The name of a gene that says most, the kind that it is of, and the ids of the genes that it may mean; empty for none."""

    name: str = ""
    kind: str = ""
    genes: frozenset[str] = frozenset()


def form(name: str) -> str:
    """What names are compared by: their letters and digits, without regard to case."""
    return plain(name).casefold()


class NamesTable:
    """What of the table some names are looked up in: of it all, only the rows that are like any of them are held."""

    def __init__(self, names: Iterable[str], path: Path = TABLE):
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        self.form = {name: form(name) for name in set(names) | {""}}
        self.table = pq.read_table(path)
        # As `form` does, but by the column
        forms = pc.replace_substring_regex(pc.utf8_lower(self.table["name"]), r"[^\p{L}\p{N}]+", "-")
        forms = pc.replace_substring_regex(forms, r"^x(\d)", r"\1")
        wanted = pc.is_in(forms, pa.array(set(self.form.values()), pa.large_string()))
        rows = self.table.append_column("form", forms).filter(wanted)
        self.own: dict[str, set[str]] = {species: set() for species in SPECIES}  # ids and symbols, to the letter
        self.genes: dict[tuple[str, str, str], set[str]] = {}  # by species, kind and form
        for species, gene, name, kind, like in zip(
            *(rows[column].to_pylist() for column in ("organism", "gene", "name", "kind", "form")), strict=True
        ):
            self.genes.setdefault((species, kind, like), set()).add(gene)
            if kind != "synonym":
                self.own[species].add(name)

    def naming(self, names: Iterable[str]) -> Naming:
        """The kind and the species of names, by how many of them are ids or current symbols of each."""
        names = {strip_version(name) for name in names if name}
        ids = Counter(found[1] for name in names if (found := ENSEMBL.fullmatch(name)))
        own = Counter({species: len(names & self.own[species]) for species in SPECIES})
        for infix, number in ids.items():
            species = OF_ENSEMBL.get(infix, f"ENS{infix}")
            own[species] = max(own[species], number)
        (first, most), (_, second) = own.most_common(2)
        species = first if most > 0 and most >= FEWEST_OWN * len(names) and most >= FAR_MORE * second else None
        if 2 * ids.total() > len(names):
            return Naming("Ensembl ids", species)
        if 2 * sum(map(str.isdecimal, names)) > len(names):
            return Naming("numbers", species)
        return Naming("symbols" if species else "names", species)

    def meant(self, names: Sequence[str], species: str) -> Meaning:
        """What several names of one gene mean: the surest of them, and of equals the first."""
        for kind in KINDS:
            for name in names:
                if genes := self.genes.get((species, kind, self.form[name])):
                    return Meaning(name, kind, frozenset(genes))
        return Meaning()

    def orthologs(self) -> dict[str, str]:
        """Of genes of either species the only ortholog in the other, by their ids."""
        paired = self.table.select(["gene", "ortholog"]).drop_null()
        return dict(zip(paired["gene"].to_pylist(), paired["ortholog"].to_pylist(), strict=True))
