#!/usr/bin/env python
"""Time and memory that the joint atlas takes by its cells, beside what one does without refmap: concatenate, neighbours, write.

Half of the cells are a reference's, the others those of 200 queries: places in 30 dimensions around those of 100 types in 20
batches, two columns of labels, and all that label transfer and the genes say of each cell. Run with the core environment,
beside which the environment `scarches` has to be, whose scanpy is used:

    python bench/joint.py --cells 20000 --cells 200000 [--cells 2000000] [--plain 200000]
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import anndata as ad
import click
import numpy as np
import pandas as pd
import zarr
from lib.measuring import OURS, ROOT, alternate

sys.path.insert(0, str(ROOT / "bin"))

from refmap.common.folders import MappedFolder, ReferenceFolder  # noqa: E402
from refmap.common.storage import write_zarr  # noqa: E402
from refmap.report.cell_table import CELLS  # noqa: E402

QUERIES, DIMENSIONS, TYPES, BATCHES = 200, 30, 100, 20
KEYS = {"fine": 1, "coarse": 10}  # the label columns, and how many types each label of theirs holds
NUMBERS = ["uncertainty", "certainty", "by_genes_certainty"]
SCORES = ["reference_distance", "novelty_pvalue", "reference_separation", "separation_pvalue", "novel_score"]


class Places:
    """Where types and batches lie."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.types = rng.normal(size=(TYPES, DIMENSIONS)) * 2
        self.batches = rng.normal(size=(BATCHES, DIMENSIONS)) * 0.5

    def draw(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The type, the batch and the latent (float32, cells x dimensions) of `n` cells."""
        kind, batch = rng.integers(0, TYPES, n), rng.integers(0, BATCHES, n)
        latent = self.types[kind] + self.batches[batch]
        latent += rng.normal(size=latent.shape)
        return kind, batch, latent.astype(np.float32)


def labels(kind: np.ndarray, width: int) -> pd.Categorical:
    return pd.Categorical.from_codes(kind // width, categories=[f"type {i}" for i in range(-(-TYPES // width))])


def barcodes(n: int) -> list[str]:
    return [f"AAACCTGAGAAACCAT-{i:07d}" for i in range(n)]


def make_reference(places: Places, n: int, folder: Path) -> None:
    """The cells of a reference and their scale, as far as a joint atlas asks for it."""
    kind, batch, latent = places.draw(n, np.random.default_rng(1))
    obs = pd.DataFrame({key: labels(kind, width) for key, width in KEYS.items()}, index=barcodes(n))
    obs["donor"] = pd.Categorical.from_codes(batch, categories=[f"donor {i}" for i in range(BATCHES)])
    reference = ReferenceFolder(folder)
    folder.mkdir()
    write_zarr(ad.AnnData(obs=obs, obsm={"X_emb": latent, "X_umap": latent[:, :2]}), reference.cells)
    record = {"keys": list(KEYS), "batch_key": "donor", "map": "umap", "n_latent": DIMENSIONS, "latent_names": []}
    reference.record.write_text(json.dumps(record))


def make_query(places: Places, n: int, folder: Path) -> None:
    """What surgery, label transfer and the genes gave for a query: a folder."""
    rng = np.random.default_rng(2)
    kind, _, latent = places.draw(n, rng)
    obs = pd.DataFrame(index=barcodes(n))
    for key, width in KEYS.items():
        obs[f"{key}_transferred"] = obs[f"{key}_by_genes"] = labels(kind, width)
        sets = [f"type {i} | type {i + 1}" for i in range(500)]
        obs[f"{key}_label_set"] = pd.Categorical.from_codes(rng.integers(0, 500, n), categories=sets)
        for name in NUMBERS:
            obs[f"{key}_{name}"] = rng.random(n, dtype=np.float32)
    for score in SCORES:
        obs[score] = rng.random(n, dtype=np.float32)
    mapped = MappedFolder(folder)
    folder.mkdir(parents=True)
    write_zarr(ad.AnnData(obs=obs, obsm={"X_emb": latent, "X_umap_reference": latent[:, :2]}), mapped.embedding)


def make_queries(places: Places, n: int, folder: Path) -> None:
    """What is known of mappings when they are done, as far as a joint atlas asks for it: of each other places, the rest alike."""
    make_query(places, n, folder / "query")
    lights = {part: {"light": "green"} for part in ("labels", "embedding")}
    for number in range(QUERIES):
        name, rng = f"q{number}", np.random.default_rng([3, number])
        mapped, qc = MappedFolder(folder / f"mapped/{number}/labelled"), folder / f"qc/bench~{name}"
        shutil.copytree(folder / "query", mapped.folder)
        zarr.open_group(mapped.embedding, mode="r+")["obsm/X_emb"][:] = places.draw(n, rng)[-1]
        mapped.record.write_text(json.dumps({"id": qc.name}))
        qc.mkdir(parents=True)
        record = {"id": qc.name, "dataset": "bench", "file_id": name, "trust": lights, "parameters": {"batch_key": "donor"}}
        (qc / "mapping.json").write_text(json.dumps(record))
        donors = rng.choice([f"{name} donor {i}" for i in range(3)], n)
        pd.DataFrame({"cell": barcodes(n), "donor": donors}).to_parquet(qc / CELLS, index=False)


def plain(out: Path) -> None:
    """What one does with the same files in this folder without refmap."""
    import scanpy as sc
    from scipy import sparse

    parts = {"reference": ad.read_zarr("reference/cells.zarr")}
    parts |= {path.name: ad.read_zarr(path / "labelled/embedding.zarr") for path in sorted(Path("mapped").iterdir())}
    joint = ad.concat(parts, label="dataset", index_unique="-", join="outer")
    sc.pp.neighbors(joint, use_rep="X_emb")
    for name, values in joint.obsp.items():  # arrays of scipy's, which this anndata cannot write
        joint.obsp[name] = sparse.csr_matrix(values)
    joint.write_h5ad(out)


@click.command(context_settings={"show_default": True})
@click.option("--cells", multiple=True, type=int, default=[20_000], help="Of the reference and all queries; may be given again.")
@click.option("--plain", "most_plain", default=20_000, help="The most cells that it is done without refmap for.")
@click.option("--rounds", default=1, show_default=True, help="How often each is done.")
@click.option("--run-plain", type=click.Path(path_type=Path), hidden=True)
def bench(cells: tuple[int, ...], most_plain: int, rounds: int, run_plain: Path | None) -> None:
    """Print CPU seconds and the most memory of joint atlases."""
    if run_plain:
        return plain(run_plain)
    places = Places()
    for n in cells:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            make_reference(places, n // 2, Path("reference"))
            make_queries(places, n // 2 // QUERIES, Path())
            Path("model.txt").write_text("model\n")
            joined = "join_mappings.py --name x --model model.txt --mapped mapped --qc qc --reference reference --seed 0 --output joint"
            ways = {OURS: ("core", joined)}
            if n <= most_plain:
                ways["anndata, scanpy"] = ("scarches", "../bench/joint.py --run-plain plain.h5ad")
            alternate("joint atlas", n, ways, rounds)
            os.chdir("/")


if __name__ == "__main__":
    bench()
