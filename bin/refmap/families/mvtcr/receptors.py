"""The receptors of cells as scirpy understands them, and their CDR3s as numbers for a model. Importing this imports scirpy.

The aligned cells hold their chains as a table in ``uns['receptors']``: texts, either the contigs of Cell Ranger (a column ``barcode``)
or AIRR rearrangements (``cell_id``), under the cells' own names.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scirpy

from ..scarches.loading import quietly

if TYPE_CHECKING:
    import anndata as ad

KEY = "receptors"
PAD = "_"
# The library's numbers of the residues.
AA_TO_ID = {residue: number for number, residue in enumerate("_ACDEFGHIKLMNPQRSTVWY+<>")}
# The CDR3s of the primary chains, and what a model of alpha and beta chains takes them from.
CHAINS = {"VJ_1": "alpha", "VDJ_1": "beta"}
ALPHA_BETA, DOUBLET, NONE = "TRA+TRB", "multichain", "no IR"
CLONE = "clone_id"


def read_chains(cells: ad.AnnData) -> ad.AnnData | None:
    """The receptors of all cells of the table, as scirpy has them: chains indexed, and their pairing in obs; None without a table."""
    table = cells.uns.get(KEY)
    if table is None or table.empty:
        return None
    contigs = "barcode" in table
    with tempfile.TemporaryDirectory() as folder, quietly():
        path = Path(folder) / ("contigs.csv" if contigs else "rearrangements.tsv")
        table.to_csv(path, sep="," if contigs else "\t", index=False)
        chains = scirpy.io.read_10x_vdj(path) if contigs else scirpy.io.read_airr(path)
        if not chains.n_obs:
            return None
        scirpy.pp.index_chains(chains)
        scirpy.tl.chain_qc(chains)
    return chains


def annotation(chains: ad.AnnData | None, names: pd.Index) -> pd.DataFrame:
    """What scirpy says of the receptors of the cells called `names`: type, pairing, and clonotypes as it defines them by default.

    A clonotype is one of cells with the same CDR3s, nucleotide by nucleotide, or residue by residue where the table has no
    nucleotides; of two pairs the one with more molecules counts. Its number is the same whichever of the cells are asked for.
    """
    columns = ["receptor_type", "receptor_subtype", "chain_pairing"]
    if chains is None:
        return pd.DataFrame(NONE, index=names, columns=columns).assign(**{CLONE: None}).astype("category")
    with quietly():
        junctions = scirpy.get.airr(chains, "junction", ["VJ_1", "VDJ_1"])
        sequence = "nt" if junctions.notna().any(axis=None) else "aa"
        if (chains.obs["receptor_type"] == NONE).all():
            chains.obs[CLONE] = None
        else:
            scirpy.pp.ir_dist(chains, sequence=sequence, metric="identity")
            scirpy.tl.define_clonotype_clusters(
                chains,
                key_added=CLONE,
                sequence=sequence,
                metric="identity",
                receptor_arms="all",
                dual_ir="primary_only",
                n_jobs=1,
            )
    found = chains.obs[[*columns, CLONE]].astype(object).reindex(names)
    found[columns] = found[columns].fillna(NONE)
    return found.where(found.notna(), None).astype("category")


@dataclass
class Encoded:
    """CDR3s as a model takes them.

    Attributes
    ----------
    residues
        Int64, cells x chains x padding: the number of each residue, padding behind them; all padding of a cell not `known`.
    known
        Bool, a cell: whether it has all the chains that the model takes.
    without
        How many cells have none, by the reason, in words.
    """

    residues: np.ndarray
    known: np.ndarray
    without: dict[str, int]


def encode(chains: ad.AnnData | None, names: pd.Index, aa_to_id: Mapping[str, int], padding: int, beta_only: bool) -> Encoded:
    """Encode the primary CDR3s (junctions: with the residues that frame them) of the cells called `names`."""
    wanted = {chain: arm for chain, arm in CHAINS.items() if arm == "beta" or not beta_only}
    residues = np.full((len(names), len(wanted), padding), aa_to_id[PAD], dtype=np.int64)
    reasons = np.full(len(names), "have no receptor", dtype=object)
    if chains is not None:
        sequences = scirpy.get.airr(chains, "junction_aa", list(wanted)).reindex(names)
        subtype = chains.obs["receptor_subtype"].astype(object).reindex(names)
        for cell, (sequence, kind) in enumerate(zip(sequences.to_numpy(dtype=object), subtype, strict=True)):
            reasons[cell] = _lacking(sequence, kind, aa_to_id, padding)
            if not reasons[cell]:
                for chain, cdr3 in enumerate(sequence):
                    residues[cell, chain, : len(cdr3)] = [aa_to_id[residue] for residue in cdr3]
    known = reasons == ""
    counts = pd.Series(reasons[~known]).value_counts()
    return Encoded(residues, known, {str(reason): int(n) for reason, n in counts.items()})


def _lacking(sequences: np.ndarray, kind: object, aa_to_id: Mapping[str, int], padding: int) -> str:
    """Why a cell's receptor cannot be encoded, in words; empty where it can."""
    if not isinstance(kind, str) or kind == NONE:
        return "have no receptor"
    if kind == DOUBLET:
        return "have more chains than a cell has (multichain)"
    if kind != ALPHA_BETA:
        return "have another receptor than one of alpha and beta chains"
    if not all(isinstance(cdr3, str) for cdr3 in sequences):
        return "have one of the two chains alone"
    if max(map(len, sequences)) > padding:
        return f"have a CDR3 of more than the {padding} residues that the model takes"
    if set("".join(sequences)) - (set(aa_to_id) - {PAD}):
        return "have a CDR3 with letters that are no residue of the model's"
    return ""
