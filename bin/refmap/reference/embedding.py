"""The embedding that a file of reference cells holds itself, and whether it can be the model's."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
from anndata.io import read_elem

from ..common.errors import AskedFor, RefmapError, listed
from ..families.embedding import NAME as BROUGHT
from ..query.elements import as_text, encoding
from ..query.embedded import numbers_of, read_embedding, size_of
from ..query.genes import resolve
from ..query.query import Query

# What scvi-tools calls the latent of a model's own cells once their counts are dropped (a minified model): behind the name of
# its class, and before 1.0 behind a `_`. `X_latent_qzm` is what users call it before, whatever the model.
MINIFIED = re.compile(r"_?(?!X_)([a-z]+)_latent_qzm")
# Reference cells that lack more of the model's genes than this are those of another reference.
_FEWEST_GENES = 0.9


def fewest_genes(card: dict) -> float:
    """The least share of the model's genes in cells that can be its reference; any will do where any cells are one."""
    return 0.0 if card["any_reference"] else _FEWEST_GENES


def find_embedding(cells: Query, request: dict, card: dict) -> tuple[np.ndarray | None, str, list[str]]:
    """The latent that the file itself holds, where, and what is to be said of it.

    Returns
    -------
    Float32, cells x dimensions, or None where counts are to be embedded; where it lies; warnings.

    Raises
    ------
    AskedFor
        If the row names one that is not there, or that cannot be the model's. What no row names is left aside with a warning.
    """
    obsm = cells.root["obsm"] if "obsm" in cells.root else {}
    if key := request["embedding"]:
        try:
            latent = read_embedding(cells, key, "reference_embedding")
            if card["family"] == BROUGHT:
                return latent, f"obsm['{key}']", []
            _check_size(cells, key, latent, card)
            return latent, f"obsm['{key}']", _doubts(cells, key, request["var_key"], card)
        except RefmapError as error:
            raise AskedFor(str(error)) from error
    minified = list(filter(_class_of, obsm))
    own = [(key, "the latent of a minified model") for key in minified if _class_of(key) == card["minified_as"]]
    warnings = [
        f"obsm '{key}' of reference '{cells.shown_as}' is not used: it is the latent of another class than {card['class_name']}."
        for key in minified
        if _class_of(key) != card["minified_as"]
    ]
    if "X_emb" in obsm and _own(cells, card):
        own.append(("X_emb", "obsm['X_emb'], embedded by this model"))

    for key, source in own:
        try:
            latent = _read(cells, obsm, key, card)
            if doubts := _doubts(cells, key, request["var_key"], card):
                raise RefmapError(" ".join(doubts))
            return latent, source, warnings
        except RefmapError as error:
            warnings.append(f"obsm '{key}' is not used as the embedding of its cells: {error}")
    return None, "", warnings


def own_map(cells: Query) -> tuple[np.ndarray | None, list[str]]:
    """The UMAP that a file of reference cells brings: float32, cells x 2, or None; and what is to be said of one that is none.

    Atlases are published with the map that their users know.
    """
    obsm = cells.obsm()
    if "X_umap" not in obsm:
        return None, []
    try:
        position = numbers_of(cells, obsm["X_umap"], "X_umap")
    except RefmapError as error:
        return None, [f"The UMAP is computed: {error}"]
    if position.shape != (cells.n_obs, 2) or not np.isfinite(position).all():
        said = f"has {size_of(position)} values in obsm 'X_umap', not all of them numbers or not 2 a cell: the UMAP is computed."
        return None, [str(cells.fault(said))]
    return position, []


def read_kept(cells: Query, n_latent: int) -> dict[str, np.ndarray]:
    """What is kept of cells in obsm beside their model and their embedding: float32, cells x columns.

    ``X_umap``, without numbers for those that have no place, and of families that compare cells by it ``X_emb_var``.

    Raises RefmapError if the UMAP is not there, or either of another shape.
    """
    found, obsm = {}, cells.obsm()
    for key, columns in {"X_umap": 2, "X_emb_var": n_latent}.items():
        if key == "X_umap" or key in obsm:
            found[key] = numbers_of(cells, obsm[key], key)
            if found[key].shape != (cells.n_obs, columns):
                raise cells.fault(f"has {size_of(found[key])} values in obsm '{key}', which are not of its cells.")
    return found


def _class_of(key: str) -> str | None:
    """The class whose minified models call their latent so, as they write it."""
    named = MINIFIED.fullmatch(key)
    return named[1] if named else None


def _own(cells: Query, card: dict) -> bool:
    """Whether refmap wrote the embedding of these cells, by this very model."""
    return _mapped_by(cells).get("model_sha256") == card["sha256"]


def _mapped_by(cells: Query) -> dict:
    """What refmap wrote down of the model that it embedded these cells by; empty where it did not."""
    try:
        return read_elem(cells.root["uns/refmap"]) if encoding(cells.root["uns/refmap"]) == "dict" else {}
    except KeyError:
        return {}


def _read(cells: Query, obsm, key: str, card: dict) -> np.ndarray:
    """Read an embedding. Raises RefmapError unless it has a row a cell, as many columns as the model's latent, and numbers alone."""
    latent = numbers_of(cells, obsm[key], key)
    _check_size(cells, key, latent, card)
    if not np.isfinite(latent).all():
        raise cells.fault(f"has values in obsm '{key}' that are no numbers: mend it, or name none, and the counts are embedded.")
    return latent


def _check_size(cells: Query, key: str, latent: np.ndarray, card: dict) -> None:
    size = card["n_latent"] or latent.shape[-1]
    if latent.shape != (cells.n_obs, size):
        wanted = (
            f"there are {cells.n_obs:,} cells" if latent.shape[1:] == (size,) else f"the model's latent has {size} dimensions"
        )
        raise cells.fault(
            f"has {size_of(latent)} values in obsm '{key}', but {wanted}: name the embedding that this model gave, "
            "or none, and the counts are embedded."
        )


def _doubts(cells: Query, key: str, var_key: str | None, card: dict) -> list[str]:
    """Compare what the file tells of an embedding with the card; a sentence for each part of it that is not the model's.

    Raises RefmapError where its class is not the model's, or none of its batches, of its labels or of its genes is.
    """
    by = f"{_class_of(key)}".upper() if _class_of(key) not in (None, card["minified_as"]) else None
    if key == "X_emb" and _mapped_by(cells).get("class_name", card["class_name"]) != card["class_name"]:
        by = _mapped_by(cells)["class_name"]
    if by:
        raise cells.fault(
            f"holds in obsm '{key}' the embedding by a {by}, and the model is a {card['class_name']}: name the embedding that this "
            "model gave, or none, and the counts are embedded."
        )
    doubts = []
    if card["batch_key"] in cells.obs_columns:
        doubts += _foreign(cells, "batch", card["batch_key"], card["batches"])
    for column, labels in card["labels"].items():
        if column in cells.obs_columns:
            _foreign(cells, "labels", column, [*labels, card["unlabeled_category"]])
    return doubts + _lacking_genes(cells, var_key, card)


def _foreign(cells: Query, what: str, column: str, known: list[str]) -> list[str]:
    values = Counter(as_text(cells.obs_column(column)))
    del values[""]
    foreign = {value: n for value, n in values.items() if value not in known}
    found = f"has {listed(sorted(foreign), 3)} in {what} column '{column}', which the model does not know"
    if foreign and len(foreign) == len(values):
        raise cells.fault(f"{found}, so its embedding is another model's: give the cells that it was trained on.")
    share = f"{sum(foreign.values()):,} of {sum(values.values()):,} cells"
    return [str(cells.fault(f"{found}, for {share}: make sure that their embedding is this model's."))] if foreign else []


def _lacking_genes(cells: Query, var_key: str | None, card: dict) -> list[str]:
    ids = cells.gene_ids("X", var_key)
    if len(ids) <= (card["n_latent"] or 0):
        return []  # no genes: the file holds the embedding alone, or as its X
    found = resolve(ids, card["genes"]).matched
    has = f"has {found:,} of the model's {len(card['genes']):,} genes"
    if not found:
        raise cells.fault(
            f"{has}, so its embedding is another model's: give the cells that it was trained on, or name the column of var that "
            f"holds ids such as {listed(card['genes'][:3])} with reference_var_key."
        )
    few = found < fewest_genes(card) * len(card["genes"])
    return [str(cells.fault(f"{has}: make sure that its embedding is this model's."))] if few else []
