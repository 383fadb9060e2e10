"""What tells one reference from another by contents, wherever its files lie and however old they are."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ..common.digest import sha256_of_all


def reference_key(
    request: dict, cells: Path | None, airr: Path | None, model: Path | None, card: dict, settings: dict, code: str
) -> str:
    """The SHA-256 of all that the scale of a reference's cells hangs on, as hexadecimal digits.

    Parameters
    ----------
    request, cells, airr, model, card
        As :func:`refmap.reference.cells.prepare_reference` takes them. The files are read whole; of the model, which the card
        tells by its hash, only where its folder may hold the cells.
    settings
        Those of the embedding and of the scale.
    code
        The version of the code.
    """
    files = {"cells": cells, "airr": airr, "model": None if request["reference"] else model}
    contents = {what: sha256_of_all(path) if path and path.exists() else None for what, path in files.items()}
    whole = {"request": request, "card": card, "settings": settings, "code": code, **contents}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
