#!/usr/bin/env python
"""The figures and pictures of a mapping beside the libraries that are used for them: UMAP by scanpy, iLISI and kBET by scib-metrics.

By turns in one run, each way in a process of its own: CPU seconds without the imports of scanpy and of scib-metrics, but with what
UMAP compiles. Run with the core environment, in which `make setup` of the tests has put scib-metrics; without it, that is said:

    python bench/figures.py [--cells 10000] [--rounds 3]
"""

from __future__ import annotations

import os
import sys
import tempfile
from importlib.util import find_spec

import click
import numpy as np
from joint import Places
from lib.measuring import OURS, ROOT, Row, alternate, part, record

sys.path.insert(0, str(ROOT / "bin"))

SEED = 0


def umap_by_refmap() -> None:
    from refmap.transfer.maps import draw_map

    latent = np.load("latent.npy")
    with part("UMAP"):
        draw_map(latent, SEED)


def umap_by_scanpy() -> None:
    import anndata as ad
    import scanpy as sc

    cells = ad.AnnData(obsm={"X_emb": np.load("latent.npy")})
    with part("UMAP"):
        # Its choice for many cells, pynndescent, hands scanpy 1.12 a matrix of a kind that it cannot read
        sc.pp.neighbors(cells, use_rep="X_emb", transformer="sklearn")
        sc.tl.umap(cells, random_state=SEED)


def mixing_by_refmap() -> None:
    from refmap.trust.mixing import ilisi, kbet

    latent, batches, labels = (np.load(f"{name}.npy") for name in ("latent", "batches", "labels"))
    with part("iLISI"):
        print(ilisi(latent, batches))
    with part("kBET"):
        print(kbet(latent, batches, labels))


def mixing_by_scib() -> None:
    import scib_metrics
    from scib_metrics.nearest_neighbors import pynndescent

    latent, batches, labels = (np.load(f"{name}.npy") for name in ("latent", "batches", "labels"))
    with part("iLISI"):
        print(scib_metrics.ilisi_knn(pynndescent(latent, n_neighbors=90, random_state=SEED), batches))
    with part("kBET"):
        near = pynndescent(latent, n_neighbors=50, random_state=SEED)
        print(scib_metrics.kbet_per_label(near, batches, labels))


WAYS = {
    "UMAP": {OURS: umap_by_refmap, "scanpy": umap_by_scanpy},
    "mixing": {OURS: mixing_by_refmap, "scib-metrics": mixing_by_scib},
}


@click.command(context_settings={"show_default": True})
@click.option("--cells", default=10_000, help="Of the query; of more than 5,000, refmap looks at so many for iLISI and kBET.")
@click.option("--rounds", default=2, help="How often each is done.")
@click.option("--run-one", nargs=2, hidden=True)
def bench(cells: int, rounds: int, run_one: tuple[str, str] | None) -> None:
    """Print what each takes."""
    if run_one:
        task, way = run_one
        return WAYS[task][way]()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for task, ways in WAYS.items():
            most = cells if task == "UMAP" else min(cells, 5_000)
            kind, batch, latent = Places().draw(most, np.random.default_rng(SEED))
            np.save("latent.npy", latent)
            np.save("batches.npy", batch % 4)
            np.save("labels.npy", kind // 10)
            commands = {way: ("core", f"../bench/figures.py --run-one {task} {way}") for way in ways}
            if task == "mixing" and find_spec("scib_metrics") is None:
                del commands["scib-metrics"]
                record(Row("iLISI", "scib-metrics", most, note="scib-metrics is not in the environment"))
            alternate(task, most, commands, rounds)
        os.chdir("/")


if __name__ == "__main__":
    bench()
