"""Gene programmes from a GMT file: https://software.broadinstitute.org/cancer/software/gsea/wiki/index.php/Data_formats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from ..common.errors import RefmapError


def read_gmt(path: Path, shown: str | None = None) -> dict[str, list[str]]:
    """Read the programmes of a GMT file: one a line, its name, a description and its genes, parted by tabs.

    Parameters
    ----------
    path
        The file.
    shown
        The path as the user wrote it, for sentences.

    Returns
    -------
    The genes of each programme, each once, in the file's order.

    Raises
    ------
    RefmapError
        If the file is no text, holds no programme, a line without genes, or two programmes of one name.
    """
    shown = shown or str(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise RefmapError(f"gmt '{shown}' is no text: give a GMT file, uncompressed.") from None
    programs: dict[str, list[str]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, _, genes = [part.strip() for part in (line + "\t\t").split("\t", 2)]
        found = list(dict.fromkeys(gene.strip() for gene in genes.split("\t") if gene.strip()))
        if not name or not found:
            raise RefmapError(
                f"gmt '{shown}' has no programme in line {number}: it must hold a name, a description and genes, parted by tabs."
            )
        if name in programs:
            raise RefmapError(f"gmt '{shown}' has two programmes called '{name}' (the second in line {number}): rename one.")
        programs[name] = found
    if not programs:
        raise RefmapError(f"gmt '{shown}' holds no programme.")
    return programs


def programs_of(genes: Iterable[str], programs: Mapping[str, Iterable[str]]) -> tuple[list[str], np.ndarray]:
    """Find out which of a model's genes belong to which programme.

    Names are compared whatever their case, as the symbols of a gene in man and mouse differ by it alone.

    Returns
    -------
    The names of the programmes, in their order, and an array of bool, programmes x genes.
    """
    genes = [gene.upper() for gene in genes]
    members = [{gene.upper() for gene in program} for program in programs.values()]
    return list(programs), np.array([[gene in program for gene in genes] for program in members], dtype=bool).reshape(
        len(members), len(genes)
    )
