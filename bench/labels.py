#!/usr/bin/env python
"""Label transfer beside `scarches.utils.knn`: CPU seconds for the same cells, and whether neighbours and labels are the same.

Places in 30 dimensions around those of 100 types in 20 batches (as bench/joint.py makes them), five columns of labels, k = 50. By
turns in one run, without the imports. scArches may be timed on some of the query's cells, to which the time of its transfer is in
proportion. Run with the core environment, beside which the environment `scarches` has to be:

    python bench/labels.py [--reference 500000] [--query 100000] [--tried 1000] [--rounds 3]
"""

from __future__ import annotations

import os
import sys
import tempfile
import time

import anndata as ad
import click
import numpy as np
import pandas as pd
from joint import Places, labels
from lib.measuring import OURS, ROOT, alternate, part, tell

KEYS = {f"level_{i}": width for i, width in enumerate((25, 10, 4, 2, 1), 1)}
K = 50


def make(n_reference: int, n_query: int) -> None:
    """Write the latent and the labels of both sides to this folder."""
    places = Places()
    for name, n, seed in (("reference", n_reference, 0), ("query", n_query, 1)):
        kind, _, latent = places.draw(n, np.random.default_rng(seed))
        np.save(f"{name}.npy", latent)
        if name == "reference":
            np.savez("labels.npz", **{key: np.asarray(labels(kind, width), dtype=str) for key, width in KEYS.items()})


def by_refmap(tried: int) -> dict:
    """Neighbours and labels of all cells, of which the first are returned."""
    sys.path.insert(0, str(ROOT / "bin"))
    from refmap.transfer.levels import find_levels, transfer_columns
    from refmap.transfer.neighbors import Index

    reference, query = np.load("reference.npy"), np.load("query.npy")
    own = {key: pd.Series(values.astype(object)) for key, values in np.load("labels.npz").items()}
    with part(f"labels from {len(reference):,} cells"):
        near = Index(reference).search(query, K)
        found = transfer_columns(own, near, find_levels(own))
    return {"indices": near.indices[:tried], **{key: given.best[:tried].astype(str) for key, given in found.items()}}


def by_scarches(tried: int) -> dict:
    """The same of the first cells by scArches, whose labels are text as in most files."""
    from scarches.utils.knn import weighted_knn_trainer, weighted_knn_transfer

    obs = pd.DataFrame({key: values.astype(object) for key, values in np.load("labels.npz").items()})
    obs.index = obs.index.astype(str)
    reference = ad.AnnData(obs=obs, obsm={"X_emb": np.load("reference.npy")})
    whole = np.load("query.npy")
    query = ad.AnnData(obs=pd.DataFrame(index=map(str, range(tried))), obsm={"X_emb": whole[:tried]})
    times = [time.process_time()]
    model = weighted_knn_trainer(reference, "X_emb", K)
    times.append(time.process_time())
    best, _ = weighted_knn_transfer(query, "X_emb", reference.obs, "level_", model)
    fitted, transferred = np.diff([*times, time.process_time()])
    tell(f"labels from {reference.n_obs:,} cells", fitted + transferred * len(whole) / tried)
    indices = model.kneighbors(query.obsm["X_emb"], return_distance=False)
    return {"indices": indices, **{key: best[key].to_numpy(str) for key in KEYS}}


WAYS = {OURS: ("core", by_refmap), "scarches.utils.knn": ("scarches", by_scarches)}


@click.command(context_settings={"show_default": True})
@click.option("--reference", default=500_000, help="Cells of the reference.")
@click.option("--query", default=100_000, help="Cells of the query.")
@click.option("--tried", default=1_000, help="Those of them that scArches is timed on.")
@click.option("--rounds", default=1, help="How often either is timed.")
@click.option("--run-one", hidden=True)
def bench(reference: int, query: int, tried: int, rounds: int, run_one: str | None) -> None:
    """Print what either takes, and how much of what they find is the same; fail where that is not nearly all."""
    tried = min(tried, query)
    if run_one:
        np.savez(f"{run_one}.npz", **WAYS[run_one][1](tried))
        return
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        make(reference, query)
        commands = {way: (env, f"../bench/labels.py --run-one {way} --tried {tried}") for way, (env, _work) in WAYS.items()}
        alternate("labels", query, commands, rounds, of={name: tried for name in WAYS if name != OURS})
        own, other = (np.load(f"{name}.npz") for name in WAYS)
        os.chdir("/")
    same = np.mean([len(set(a) & set(b)) / K for a, b in zip(own["indices"], other["indices"], strict=True)])
    alike = np.mean([(own[key] == other[key]).mean() for key in KEYS])
    print(f"the same neighbours: {same:.5f}; labels: {alike:.5f}")
    sys.exit(bool(min(same, alike) < 0.999))


if __name__ == "__main__":
    bench()
