"""A model tried before any query is looked at: loaded as training will, grown, trained, saved and loaded again.

What a mapping stands on is seen here once a model, on a few made-up cells: what fails would have failed every mapping onto it,
after its query had been aligned.
"""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Iterable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from ..common.cli import hush_libraries
from ..common.errors import RefmapError, brief
from ..common.exhaustion import MachineFault, exhaustion
from ..families import by_name
from ..families.base import Settings
from ..families.options import defaults as option_defaults
from ..hierarchy import below_hierarchy
from ..models.card import unlabeled
from ..models.folder import ModelFolder
from .surgery import operate

CELLS = 8
# What the made-up cells have in every column that the model was set up with, and no model has.
NEW = "made up by refmap"
# One epoch of one minibatch. A validation set of these cells would be none.
TRAINING = {"max_epochs": 1, "train_size": 1.0, "early_stopping": False}


def try_model(model: Path, card: dict, seed: int = 0) -> dict:
    """Map made-up cells of a new batch onto a model, save it, and map them again onto what was saved.

    Parameters
    ----------
    model
        The model's folder or file.
    card
        Its card, without a fault.

    Returns
    -------
    The card; with a `fault`, one sentence, if the model cannot be mapped onto: by its own fault, the machine's or refmap's.

    Raises
    ------
    MachineFault
        If memory or disk space ran out, which another attempt may have more of.
    """
    hush_libraries()
    try:
        with exhaustion():
            _try(model, card, seed)
    except MachineFault as error:
        if error.status != 1:
            raise
        return card | {"fault": str(error)}
    except RefmapError as error:
        return card | {"fault": str(error)}
    except Exception as error:  # whatever a library raises for a file that it did not write as it is
        traceback.print_exc()
        return card | {"fault": _blamed(error, card)}
    return card


def made_up_query(card: dict, cells: int = CELLS, seed: int = 0) -> ad.AnnData:
    """Cells as an aligned query has them: X float32 CSR, cells x the model's genes; obs and obsm under the model's own keys.

    Batch and covariates are new to the model, where it takes new ones; nothing is labelled.
    """
    rng = np.random.default_rng(seed)
    counts = rng.poisson(1, (cells, len(card["genes"]))).astype(np.float32)
    if card["input"] == "lognorm":
        counts = np.log1p(counts)
    obs = pd.DataFrame(index=pd.Index([f"cell{number}" for number in range(cells)], dtype=object))
    if card["batch_key"]:
        obs[card["batch_key"]] = card["batches"][0] if card["fixed_batches"] else NEW
    for key in card["labels"]:
        obs[key] = unlabeled(card)
    for key in card["categorical_covariates"]:
        obs[key] = NEW
    obs = obs.astype("category")
    for key in card["continuous_covariates"]:
        obs[key] = rng.normal(size=cells)
    if card["size_factor_key"]:
        obs[card["size_factor_key"]] = 1.0
    query = ad.AnnData(
        sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame({"found": True}, index=pd.Index(card["genes"], dtype=object))
    )
    for number, layer in enumerate(card["layers"][1:], 1):
        query.layers[layer] = query.X * (number + 1)
    if card["proteins"]:
        # The last one is missing, as some are in most queries
        proteins = rng.poisson(1, (cells, len(card["proteins"]))).astype(np.float32)
        proteins[:, -1] = 0
        query.obsm[card["protein_key"]] = pd.DataFrame(proteins, index=query.obs_names, columns=card["proteins"])
        query.uns |= dict.fromkeys(("proteins_missing", "proteins_incomplete"), np.array(card["proteins"][-1:], dtype=object))
    if card["receptors"]:
        query.uns["receptors"] = made_up_receptors(query.obs_names, rng)
    return query


def made_up_receptors(cells: Iterable[str], rng: np.random.Generator) -> pd.DataFrame:
    """A pair of chains for each cell, as an aligned query has them: AIRR rearrangements, all texts."""
    rows = []
    for cell in cells:
        for locus, v_call in (("TRA", "TRAV1-2"), ("TRB", "TRBV20-1")):
            cdr3 = f"C{''.join(rng.choice(list('ADEGLNPQRSTY'), 8))}F"
            values = {"cell_id": cell, "productive": "T", "junction_aa": cdr3, "v_call": v_call, "locus": locus, "umi_count": "2"}
            rows.append(values | dict.fromkeys(("junction", "d_call", "j_call", "c_call"), ""))
    return pd.DataFrame(rows, dtype=object)


def _try(model: Path, card: dict, seed: int) -> None:
    """Do the surgery of the made-up cells, which saves the model and opens it again."""

    def read() -> tuple[ad.AnnData, dict]:
        query = made_up_query(card)
        query.obs, model_card = below_hierarchy(query.obs, card)
        return query, model_card

    folder = ModelFolder(model, card["model"])
    folder.verify(card["sha256"])
    settings = Settings(seed=seed, options=option_defaults(card["options"]))
    with tempfile.TemporaryDirectory() as scratch:
        operate("made-up cells", TRAINING, settings, read, folder, Path(scratch) / "grown", None)


def _blamed(error: Exception, card: dict) -> str:
    """One sentence for what a library, or refmap itself, raised."""
    import torch

    model = f"The {card['class_name']} '{card['model']}'"
    if isinstance(error, torch.OutOfMemoryError):
        return f"{model} does not fit into the memory of this GPU ({torch.cuda.get_device_name()}): take a larger one, or none."
    where = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    tried = (
        f"{model} cannot be mapped onto: tried with {CELLS} made-up cells, it ended with {type(error).__name__}: {brief(error)}"
    )
    if Path(__file__).parents[1] in where.parents:
        return f"{tried}. This is a defect of refmap: please report it with the model's class and version ({card['version']})."
    versions = ", ".join(f"{name} {version}" for name, version in by_name(card["family"]).surgery().versions().items())
    return (
        f"{tried} (in {where.name}). It was saved by version {card['version'] or 'unknown'} and is read here by {versions}: "
        "load it where it was made, and save it again from a version nearer to these."
    )
