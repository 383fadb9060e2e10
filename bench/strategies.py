#!/usr/bin/env python
"""What the three strategies give for one query of three batches, and what they cost: the table of docs/strategies.md.

The 700 PBMCs that scanpy ships, parted as in the demo: four sevenths are the reference, the others the query. The source names
no donors, so the query's batches are drawn at random, of unequal size, and each is given a technical effect: of each gene, a
share of the counts is kept that is drawn for the batch. Run it in the environment `scvi`:

    (. containers/activate scvi && OMP_NUM_THREADS=1 python bench/strategies.py)
"""

import contextlib
import io
import json
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bin"))

from refmap.common.cli import read_json, write_json  # noqa: E402
from refmap.common.folders import MappedFolder, PreparedFolder  # noqa: E402
from refmap.common.strategies import STRATEGIES  # noqa: E402
from refmap.mapping.mapping import map_query  # noqa: E402
from refmap.query.align import align  # noqa: E402
from refmap.query.checks import check  # noqa: E402
from refmap.query.query import Query  # noqa: E402
from refmap.reference.inspection import inspect_model  # noqa: E402
from refmap.reference.training import embed_reference, train_reference  # noqa: E402
from refmap.sheet.demo import REFERENCE_SHARE, pbmc_counts, stratified  # noqa: E402
from refmap.sheet.sheet import read_sheet  # noqa: E402

SHARES = {"large": 0.7, "medium": 0.2, "small": 0.1}  # of the query's cells
KEPT = (0.2, 1.0)  # the share of a gene's counts that a batch keeps lies between these
NEIGHBORS = 15
INFERENCE = "inference only"


@dataclass
class Case:
    """A reference and the query that is mapped onto it, in a folder of their own."""

    folder: Path
    card: dict
    reference: object  # AnnData of its cells, aligned

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def prepared(self) -> PreparedFolder:
        return PreparedFolder(self.folder / "prepared")


def make_case(folder: Path, family: str, seed: int) -> Case:
    """Train a reference and make the query ready for it."""
    cells = pbmc_counts()
    rng = np.random.default_rng(seed)
    in_reference = stratified(cells.obs["bulk_labels"], REFERENCE_SHARE, rng)
    reference, query = cells[in_reference].copy(), with_batches(cells[~in_reference].copy(), rng)
    settings = {
        "family": family,
        "seed": seed,
        "batch_key": "batch",
        "labels_keys": ["bulk_labels"] if family == "scanvi" else [],
        "unlabeled_category": "Unknown",
        "categorical_covariate_keys": [],
        "continuous_covariate_keys": [],
        "protein_key": None,
        "n_latent": 10,
        "n_layers": 2,
        "max_epochs": 100,
    }
    reference.write_zarr(folder / "reference.zarr")
    train_reference(settings, folder / "reference.zarr", folder / "model", log=lambda line: None)
    query.write_h5ad(folder / "query.h5ad")
    case = Case(folder, inspect_model(folder / "model").to_json(), reference)
    case.prepared.folder.mkdir()
    (folder / "sheet.csv").write_text("dataset,file_id,query,model,batch_key\nbench,query,query.h5ad,model,donor\n")
    (row,) = read_sheet(folder / "sheet.csv", pipeline_defaults())
    row["reference_fault"] = None  # no reference cells are looked for
    plan = check(folder / "query.h5ad", row, case.card)
    assert not plan["faults"], plan["faults"]
    with Query(folder / "query.h5ad") as opened:
        write_json(case.prepared.alignment, align(opened, row, case.card, plan, case.prepared.aligned))
    write_json(case.prepared.plan, plan)
    return case


def pipeline_defaults() -> dict:
    """The defaults of the pipeline's parameters, without what the environment would need to check any."""
    schema = json.loads((ROOT / "nextflow_schema.json").read_text())
    return {name: spec.get("default") for group in schema["$defs"].values() for name, spec in group["properties"].items()}


def with_batches(query, rng: np.random.Generator):
    """Part the query into batches, each with a technical effect of its own."""
    query.obs["donor"] = pd.Categorical(rng.choice(list(SHARES), size=query.n_obs, p=list(SHARES.values())))
    counts = query.X.toarray().astype(int)
    for batch in SHARES:
        of = (query.obs["donor"] == batch).to_numpy()
        counts[of] = rng.binomial(counts[of], rng.uniform(*KEPT, size=query.n_vars))
    query.X = type(query.X)(counts.astype(np.float32))
    return query


def map_by(case: Case, strategy: str, seed: int) -> dict:
    """Map the query and return the figures of the table."""
    import anndata as ad
    from sklearn.neighbors import KNeighborsClassifier

    row = read_json(case.prepared.plan)["row"]
    train = None if strategy == INFERENCE else row["train"]
    training = {"train": train, "seed": seed, "freeze_dropout": True, "strategy": "joint" if train is None else strategy}
    out = case.folder / f"{strategy}_{seed}"
    mapped, start = MappedFolder(out / "mapped"), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):  # a line an epoch
        map_query(case.prepared, training, case.card, case.model, mapped, out / "updated")
    seconds = time.process_time() - start
    result, record = ad.read_zarr(mapped.embedding), read_json(mapped.record)
    with Query(case.folder / "query.h5ad") as query:
        truth, batch = (query.obs_column(key).astype(str).to_numpy() for key in ("bulk_labels", "donor"))
    latent = result.obsm["X_emb"]
    reference = embed_reference(case.reference.copy(), case.model, case.card, seed)
    labels = KNeighborsClassifier(NEIGHBORS).fit(reference, case.reference.obs["bulk_labels"].astype(str)).predict(latent)
    small = batch == "small"
    figures = {
        "kNN accuracy": (labels == truth).mean(),
        "in the smallest batch": (labels == truth)[small].mean(),
        "mixing": mixing(latent, batch),
        "epochs": (record["train"] or {"epochs": 0})["epochs"],
        "CPU s": seconds,
    }
    if "bulk_labels_predicted" in result.obs:
        figures["model's accuracy"] = (result.obs["bulk_labels_predicted"].astype(str).to_numpy() == truth).mean()
    return figures


def mixing(latent: np.ndarray, batch: np.ndarray) -> float:
    """How often the neighbours of a query's cell are of another batch, by how often they were if batches played no role."""
    from sklearn.neighbors import NearestNeighbors

    neighbors = NearestNeighbors(n_neighbors=NEIGHBORS).fit(latent).kneighbors(return_distance=False)
    others = (batch[neighbors] != batch[:, None]).mean(axis=1)
    share = pd.Series(batch).map(pd.Series(batch).value_counts(normalize=True)).to_numpy()
    return float((others / (1 - share)).mean())


@click.command()
@click.option("--family", "families", multiple=True, default=("scanvi", "scvi"), show_default=True)
@click.option("--seeds", default=3, show_default=True, help="How often all is done, with another seed each time.")
def main(families: tuple[str, ...], seeds: int) -> None:
    """Print the table."""
    warnings.filterwarnings("ignore")
    rows = []
    for family in families:
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as folder:
                case = make_case(Path(folder), family, seed)
                for strategy in (INFERENCE, *STRATEGIES):
                    rows.append({"family": family, "strategy": strategy, "seed": seed, **map_by(case, strategy, seed)})
                    print(
                        {key: value if isinstance(value, str) else round(float(value), 3) for key, value in rows[-1].items()},
                        flush=True,
                    )
    table = pd.DataFrame(rows)
    joint = table[table["strategy"] == "joint"].set_index(["family", "seed"])["CPU s"]
    table["CPU by joint"] = table["CPU s"] / joint.reindex(pd.MultiIndex.from_frame(table[["family", "seed"]])).to_numpy()
    shown = [name for name in table if name not in ("family", "strategy", "seed", "CPU s")]
    print("| model | strategy | " + " | ".join(shown) + " |\n|" + " --- |" * 2 + " ---: |" * len(shown))
    for (family, strategy), group in table.groupby(["family", "strategy"], sort=False):
        cells = [f"{group[name].mean():.2f} ± {group[name].std():.2f}" if group[name].notna().all() else "" for name in shown]
        print(f"| {family} | {strategy} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
