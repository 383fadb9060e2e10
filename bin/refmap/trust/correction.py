"""A query that surgery cannot move is moved in the latent space, where it lies apart from its reference.

Surgery moves no query of a model whose encoder never sees the batch, of one without batches, or of none at all. Symphony's correction
(:mod:`refmap.transfer.symphony`) does, and leaves the reference as it is. It can also take for a batch effect what is biology: so it
is done only where the query's batches lie apart, and kept only where that brings them nearer.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass

import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem

from ..common.cli import read_json, write_json
from ..common.folders import MappedFolder, PreparedFolder, ReferenceFolder
from ..common.storage import StoredCells, add_to_zarr, read_zarr, stored_name
from ..common.strategies import AUTO, NONE, SYMPHONY
from ..query.elements import as_text
from ..transfer.regions import FEWEST
from ..transfer.symphony import compress, correct
from ..transfer.transfer import shared_dimensions
from .space import mixing, reference_share
from .thresholds import read_thresholds

# Where the embedding lies as the model gave it, beside the corrected one.
UNCORRECTED = "X_emb_uncorrected"
# Batches of the query, the largest, that are looked at one by one.
MOST_BATCHES = 20


@dataclass(frozen=True)
class Space:
    """A reference's cells, and the shares of them that are expected around cells that lie among them.

    latent      float, cells x dimensions
    batches     of its cells; None if there are none
    seed        of what is drawn
    """

    latent: np.ndarray
    batches: pd.Series | None
    seed: int

    def around(self, query: np.ndarray, batches: np.ndarray) -> dict:
        """How a query lies to it: ``value`` and ``expected`` as :func:`refmap.trust.space.mixing` has them, None where that has none, and
        ``batches``: the value of each of the query's largest batches, of 20 cells at least."""
        found = mixing(query, self.latent, self.batches, self.seed)
        sizes = pd.Series(batches).value_counts()
        names = sizes.index[sizes >= FEWEST][:MOST_BATCHES] if found["value"] is not None else []
        of_each = {
            str(name): round(reference_share(query[batches == name], self.latent, np.random.default_rng(self.seed)), 4)
            for name in names
        }
        return {"value": found["value"], "expected": found["expected"], "batches": of_each}


def correct_mapping(
    mapped: MappedFolder, prepared: PreparedFolder, reference: ReferenceFolder, wanted: str, out: MappedFolder
) -> MappedFolder:
    """Move a query that surgery could not, if that is wanted.

    Parameters
    ----------
    mapped, prepared
        What the mapping gave, and the aligned query with its batches.
    reference
        Its cells, which stay where they are.
    wanted
        ``none``: nothing is done; ``auto``: a query that surgery cannot move is, where one of its batches lies apart from the
        reference by the limit of `mixing` in thresholds.yml, unless that brings it no nearer, or the latent dimensions have names, and
        so a meaning each; ``symphony``: it is moved whatever its model.
    out
        The folder to make where anything is looked at: its record has ``correction``, and where the query was moved obsm of the
        embedding holds it under ``X_emb``, and under ``X_emb_uncorrected`` as it was.

    Returns
    -------
    The folder that holds the mapping from here on: `mapped` or `out`.
    """
    record = read_json(mapped.record)
    scale = read_json(reference.record)
    if wanted == NONE or (wanted == AUTO and (record["surgery_moves"] or scale["latent_names"])):
        return mapped
    embedding, cells = StoredCells(mapped.embedding), read_zarr(reference.cells)
    given, obsm = embedding.obsm["X_emb"], {}
    shared = shared_dimensions(given.shape[1], embedding.uns, scale)
    placed = np.isfinite(given[:, shared]).all(axis=1)
    latent = given[np.ix_(placed, shared)]
    batches = _batches(prepared)[placed]
    key = scale["batch_key"]
    space = Space(cells.obsm["X_emb"], cells.obs[key].reset_index(drop=True) if key else None, record["seed"])
    before = space.around(latent, batches)
    told = {"wanted": wanted, "method": None, "reason": "", "before": before, "after": None, "clusters": None}
    apart = _apart(before)
    if wanted == AUTO and not apart:
        told["reason"] = (
            "No batch of the query lies apart from the reference."
            if before["value"] is not None
            else "The query has too few cells to tell."
        )
    elif len(latent):
        compressed = compress(space.latent, space.seed)
        moved = correct(latent, batches, compressed)
        told |= {"after": space.around(moved, batches), "clusters": len(compressed.sizes)}
        if wanted == AUTO and told["after"]["value"] <= before["value"]:
            told["reason"] = "The correction brought the query no nearer to the reference, and was left."
        else:
            told |= {
                "method": SYMPHONY,
                "reason": f"Apart from the reference: {', '.join(apart)}." if wanted == AUTO else "It was asked for.",
            }
            obsm = {UNCORRECTED: given, "X_emb": _with(given, placed, shared, moved)}
    record["correction"] = told
    shutil.copytree(mapped.folder, out.folder, ignore=lambda folder, names: [mapped.record.name])
    add_to_zarr(out.embedding, obsm=obsm)
    write_json(out.record, record)
    return out


def _batches(prepared: PreparedFolder) -> np.ndarray:
    """The batch of each cell: text; one for all of a query without any."""
    column, obs = read_json(prepared.plan)["batch_column"], read_elem(zarr.open_group(prepared.aligned, mode="r")["obs"])
    return as_text(obs[stored_name(column)]) if column else np.full(len(obs), "all cells", dtype=object)


def _apart(around: dict) -> list[str]:
    """The batches around which there is less of the reference than the limit of `mixing` allows."""
    if not around["expected"]:
        return []
    limit = read_thresholds()["mixing"].amber * around["expected"]
    shares = around["batches"] or {"all cells": around["value"]}
    return [name for name, share in shares.items() if share < limit]


def _with(given: np.ndarray, placed: np.ndarray, shared: np.ndarray, moved: np.ndarray) -> np.ndarray:
    latent = given.copy()
    latent[np.ix_(placed, shared)] = moved
    return latent
