#!/usr/bin/env python
"""Surgery in strides, which the engine takes where nobody chooses how to train, beside 100 epochs of scvi-tools' trainer.

Of pairs of a reference and a query that bench/trust.yml describes, whose files lie below FOLDER. Run with the environment `scvi`:

    (. containers/activate scvi && OMP_NUM_THREADS=1 python bench/strides.py FOLDER [--seeds 5] [--only ifnb] [--flat 1e-5])
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import click
import numpy as np
import pandas as pd
from lib.measuring import OURS, ROOT
from lib.pairs import BATCH, LABEL, TRUTH, read_pairs

sys.path.insert(0, str(ROOT / "bin"))

# Class and likelihood of the reference by the pair
MODELS = {"pancreas": ("SCANVI", "nb"), "celllines": ("SCVI", "nb"), "ifnb": ("SCVI", "zinb")}
N_GENES, N_NEIGHBORS, REFERENCE_EPOCHS = 2_000, 15, 40
# What is asked of surgery: nothing, but for what the pipeline says where nobody does; and scvi-tools' defaults
DEFAULT = {"max_epochs": 100, "early_stopping": True, "check_val_every_n_epoch": 1, "early_stopping_patience": 45}
WAYS = {
    OURS: ("auto", DEFAULT | {"free": True}),
    "scvi-tools": ("scvi", {"max_epochs": 100, "early_stopping": False, "check_val_every_n_epoch": None}),
}
UNKNOWN = "Unknown"


@dataclass
class Trained:
    """What a surgery came to.

    elbo      the negative one of the held-out tenth, by the same noise each time
    right     share of the cells whose label is that of most of the nearest reference cells
    distance  to these, the mean
    cpu       seconds, all that comes with training among them
    """

    elbo: float
    right: float
    distance: float
    cpu: float
    epochs: int


def reference_of(cells: ad.AnnData, kind: str, likelihood: str, folder: Path) -> np.ndarray:
    """Train a reference into a folder; return the latent of its cells."""
    import scvi

    scvi.settings.seed = 0
    scvi.model.SCVI.setup_anndata(cells, batch_key=BATCH, labels_key=LABEL)
    layers = {"n_layers": 2, "encode_covariates": True, "use_batch_norm": "none", "use_layer_norm": "both"}
    model = scvi.model.SCVI(cells, gene_likelihood=likelihood, **layers)
    model.train(max_epochs=REFERENCE_EPOCHS, enable_progress_bar=False)
    if kind == "SCANVI":
        model = scvi.model.SCANVI.from_scvi_model(model, unlabeled_category=UNKNOWN)
        model.train(max_epochs=REFERENCE_EPOCHS // 2, enable_progress_bar=False)
    model.save(str(folder))
    return model.get_latent_representation()


def map_query(folder: Path, query: ad.AnnData, way: str, seed: int, reference: pd.DataFrame) -> Trained:
    """Map a query; `reference` holds the latent of the reference's cells, by their labels."""
    from refmap.families.base import Settings
    from refmap.families.scvi.engine.splitting import split
    from refmap.families.scvi.surgery import Surgery
    from refmap.reference.inspection import inspect_model
    from sklearn.neighbors import NearestNeighbors

    engine, settings = WAYS[way]
    Surgery.seed(seed)
    card = inspect_model(folder, "model").to_json()
    surgery, grown = (Surgery.prepare(folder, query.copy(), card, Settings(engine=of, seed=seed)) for of in (engine, "auto"))
    Surgery.seed(seed)
    start = time.process_time()
    _history, trained = surgery.train(dict(settings), log=lambda line: None)
    cpu = time.process_time() - start
    grown.model.module.load_state_dict(surgery.model.module.state_dict())
    evaluated = grown.trainer(DEFAULT | {"free": True})
    held_out = split(grown.model.data, evaluated.settings["train_size"], evaluated.settings["batch_size"], seed).validation
    elbo = evaluated._validate(held_out).figures("validation")["elbo_validation"]
    latent = surgery.embed()
    distances, places = NearestNeighbors(n_neighbors=N_NEIGHBORS).fit(reference.to_numpy()).kneighbors(latent)
    votes = pd.DataFrame(reference.index.to_numpy()[places]).mode(axis=1)[0]
    right = float((votes.to_numpy() == query.obs[TRUTH].to_numpy()).mean())
    return Trained(elbo, right, float(distances.mean()), cpu, trained["epochs"])


def prepare(folder: Path, data: Path, name: str) -> tuple[ad.AnnData, pd.DataFrame]:
    """Train a pair's reference into a folder; return the query, and the latent of the reference's cells by their labels."""
    [pair] = read_pairs(ROOT / "bench/trust.yml", (name,))
    reference, query = pair.cells(data)
    query = query[:, reference.var_names].copy()
    logs = reference.X.log1p() if hasattr(reference.X, "log1p") else np.log1p(reference.X)
    spread = np.asarray(logs.power(2).mean(axis=0)).ravel() - np.asarray(logs.mean(axis=0)).ravel() ** 2
    genes = np.sort(np.argsort(-spread)[:N_GENES])
    reference, query = reference[:, genes].copy(), query[:, genes].copy()
    latent = reference_of(reference, *MODELS[name], folder)
    query.obs[LABEL] = UNKNOWN
    return query, pd.DataFrame(latent, index=reference.obs[LABEL].to_numpy())


def told(values: list[float], digits: int) -> str:
    """The least and the greatest, and the mean."""
    return f"{min(values):.{digits}f}-{max(values):.{digits}f} ({np.mean(values):.{digits}f})"


@click.command(context_settings={"show_default": True})
@click.argument("data", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--only", multiple=True, type=click.Choice(list(MODELS)), default=list(MODELS), help="A pair; may be given again.")
@click.option("--seeds", default=5, help="Surgeries of each pair by either, whose references are the same.")
@click.option("--stride", type=int, help="Steps of scvi-tools that are made at once, not those of the engine.")
@click.option("--flat", type=float, help="The share by which two epochs must lower the negative ELBO, not that of the engine.")
def main(data: Path | None, only: tuple[str, ...], seeds: int, stride: int | None, flat: float | None) -> None:
    """Print what surgery comes to by either: seconds of CPU, held-out ELBO, labels right, distance to the reference."""
    from refmap.families.scvi.engine import fitting

    if data is None:
        print("strides.py: skipped, as it needs a folder with the data of its pairs")
        return
    fitting.STRIDE = fitting.STRIDE if stride is None else stride
    fitting.FLAT = fitting.FLAT if flat is None else flat
    for name in only:
        with tempfile.TemporaryDirectory() as folder:
            query, reference = prepare(Path(folder) / "model", data, name)
            for way in WAYS:  # what is imported, or done once
                map_query(Path(folder) / "model", query[:200], way, 0, reference)
            found: dict[str, list[Trained]] = {way: [] for way in WAYS}
            for seed in range(seeds):
                for way in list(WAYS)[:: -1 if seed % 2 else 1]:
                    found[way].append(map_query(Path(folder) / "model", query, way, seed, reference))
                    print(name, seed, way, found[way][-1], flush=True)
        print(f"{name}, {' '.join(MODELS[name])}, {query.n_obs:,} cells, {seeds} seeds")
        for way, done in found.items():
            columns = {"labels right": (3, "right"), "distance": (3, "distance"), "epochs": (0, "epochs"), "s of CPU": (1, "cpu")}
            print(
                f"  {way:<12}"
                + "   ".join(f"{what} {told([getattr(one, of) for one in done], n)}" for what, (n, of) in columns.items())
            )
        ours, theirs = (found[way] for way in WAYS)
        pairs = list(zip(ours, theirs, strict=True))
        print("  ELBO above scvi-tools', %", told([100 * (one.elbo / other.elbo - 1) for one, other in pairs], 3))
        print("  scvi-tools' distance by ours", told([other.distance / one.distance for one, other in pairs], 3))
        print("  scvi-tools' CPU by ours", told([other.cpu / one.cpu for one, other in pairs], 1), flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    main()
