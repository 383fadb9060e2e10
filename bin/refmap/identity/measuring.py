"""What a reference's own batches say of both looks, put into the scale that it sets."""

from __future__ import annotations

from dataclasses import replace

import anndata as ad
import numpy as np

from ..common.cli import read_json, write_json
from ..common.folders import ReferenceFolder
from ..common.storage import read_zarr
from ..models.hidden import HIDDEN_COLUMN
from ..reference.selection import sample_by_group
from .cells import LabelledCells
from .expression import identity_weights
from .learned import Learned, learn
from .pairing import Counted

# A query that has so many of the reference's genes tells its labels apart as well as all of them.
NEARLY_ALL = 0.98
# Cells by which it is seen what a query's genes tell.
MOST_ON_PANEL = 5_000


def main_key(cells: ad.AnnData, keys: list[str]) -> str | None:
    """The column of labels that groups are looked for by: the one with most labels, which sees the finest types; the first of equals."""
    return max(keys, key=lambda key: cells.obs[key].nunique(), default=None)


def measure_reference(scale: ReferenceFolder, seed: int) -> None:
    """Add to the record of a reference with a sample what its batches say: ``expression``, by column of labels.

    That is what :meth:`refmap.identity.learned.Learned.record` returns; of the column that groups are looked for by with the null of
    identity double difference. Columns of one label have none.
    """
    if not scale.sample.exists():
        return
    sample, record = read_zarr(scale.sample), read_json(scale.record)
    searched, found = main_key(sample, record["keys"]), {}
    counted = of_sample(sample, record["batch_key"])
    all_genes = counted.on(np.arange(len(counted.genes)))
    for key in record["keys"]:
        cells = all_genes.labelled(sample.obs[key])
        weights = identity_weights(cells) if len(cells) else np.zeros(0)
        if weights.any() and len(cells.names) > 1:
            found[key] = learn(cells, weights, seed, with_null=key == searched).record()
    write_json(scale.record, record | {"expression": found})


def of_sample(sample: ad.AnnData, batch_key: str | None) -> Counted:
    """The sample as the looks take it."""
    batches = sample.obs[batch_key].astype(object) if batch_key else None
    hidden = sample.obs[HIDDEN_COLUMN].to_numpy(dtype=bool) if HIDDEN_COLUMN in sample.obs else None
    return Counted(sample.X, sample.var_names.to_numpy(), sample.obsm["X_emb"], batches, hidden)


def learned_of(record: dict, key: str) -> Learned | None:
    """What was learned for a column of labels, out of a reference's record."""
    found = record.get("expression", {}).get(key)
    return Learned.of_record(found) if found else None


def on_panel(cells: LabelledCells, n_genes: int, learned: Learned, seed: int) -> Learned:
    """What the reference's batches say of the gene view by the genes of a query alone; `learned` itself where it has nearly all.

    Cells of the reference look the surer, the more genes tell of them, and a query's are no surer than its own genes make them. The
    null of identity double difference stays, which few genes hardly change. 5,000 cells are looked at, as many of each label.

    Parameters
    ----------
    cells
        Of the reference's sample, on the genes that it shares with the query.
    n_genes
        How many genes the sample has.
    """
    if cells.values.shape[1] >= NEARLY_ALL * n_genes:
        return learned
    if len(cells) > MOST_ON_PANEL:
        drawn = np.zeros(len(cells), dtype=bool)
        drawn[sample_by_group(cells.labels, MOST_ON_PANEL, seed)] = True
        cells = cells.part(drawn)
    weights = identity_weights(cells) if len(cells) else np.zeros(0)
    if not weights.any() or len(cells.names) < 2:
        return Learned(learned.null, None, "The query's genes tell none of the reference's labels apart.")
    return replace(learn(cells, weights, seed, with_null=False), null=learned.null)
