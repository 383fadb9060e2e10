"""What an id of a gene is without what writers change of it."""

from __future__ import annotations

import re

ENSEMBL_VERSION = re.compile(r"(ENS[A-Z]*[GTP]\d{6,})\.\d+")


def strip_version(gene: str) -> str:
    """ENSG00000141510.18 -> ENSG00000141510; anything that is no versioned Ensembl id stays as it is."""
    match = ENSEMBL_VERSION.fullmatch(gene)
    return match.group(1) if match else gene


def plain(gene: str) -> str:
    """An id without what writers change of it: spaces around it, Ensembl versions, and the signs in it.

    R writes HLA-A as HLA.A, and a name that starts with a digit, as 7SK, as X7SK.
    """
    changed = re.sub(r"[\W_]+", "-", strip_version(gene.strip()))
    return re.sub(r"^X(?=\d)", "", changed)
