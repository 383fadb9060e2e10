#!/usr/bin/env python
"""The engine of surgery beside scvi-tools' trainer: by turns in one run, and what each of its means gains by itself.

By default 4,000 cells x 2,000 genes; docs/engine.md shows 20,000 too. Run with the environment `scvi`:

    (. containers/activate scvi && python bench/engine.py [--cells 20000] [--rounds 3])
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import click
from lib.measuring import OURS, ROOT, alternate, part

sys.path.insert(0, str(ROOT / "bin"))

# By what the row's `engine` asks for
ENGINES = {OURS: "auto", "scvi-tools' trainer": "scvi"}
MODELS = {
    "SCVI nb": "SCVI, negative binomial",
    "SCVI zinb": "SCVI, zero-inflated",
    "SCVI poisson": "SCVI, Poisson",
    "SCANVI nb": "SCANVI, negative binomial",
    "SCANVI zinb": "SCANVI, zero-inflated",
}
TRAIN = {"early_stopping": False, "check_val_every_n_epoch": None, "train_size": 1.0}
BRIEFLY = TRAIN | {"max_epochs": 2}


def make_cells(n_cells: int, n_genes: int, depth: int, batches: list[str], seed: int):
    """Counts of cells of 20 mixtures, `depth` a cell."""
    import numpy as np
    from scipy import sparse

    rng = np.random.default_rng(seed)
    profiles = np.random.default_rng(0).gamma(0.3, 1, (20, n_genes))
    profiles /= profiles.sum(axis=1, keepdims=True)
    blocks = []
    for start in range(0, n_cells, 2_000):
        shares = rng.dirichlet(np.full(20, 0.2), min(2_000, n_cells - start))
        sizes = depth * rng.lognormal(0, 0.3, (len(shares), 1))
        blocks.append(sparse.csr_matrix(rng.poisson(shares @ profiles * sizes).astype(np.float32)))
    adata = ad.AnnData(sparse.vstack(blocks, format="csr"))
    adata.obs["batch"] = np.array(batches)[rng.integers(len(batches), size=n_cells)]
    adata.obs["label"] = [f"type {number}" for number in rng.integers(10, size=n_cells)]
    return adata


def make_reference(folder: Path, kind: str, likelihood: str, n_genes: int, depth: int) -> Path:
    import scvi

    adata = make_cells(2_000, n_genes, depth, ["a", "b"], seed=1)
    scvi.settings.seed = 0
    scvi.model.SCVI.setup_anndata(adata, batch_key="batch", labels_key="label")
    model = scvi.model.SCVI(
        adata, n_layers=2, gene_likelihood=likelihood, encode_covariates=True, use_batch_norm="none", use_layer_norm="both"
    )
    model.train(**BRIEFLY, enable_progress_bar=False)
    if kind == "SCANVI":
        model = scvi.model.SCANVI.from_scvi_model(model, unlabeled_category="Unknown")
        model.train(**BRIEFLY, enable_progress_bar=False)
    model.save(str(folder), overwrite=True)
    return folder


def grow(model: Path, query, engine: str):
    """The surgery of a query on a model, which `engine` will train."""
    from refmap.families.base import Settings
    from refmap.families.scvi.surgery import Surgery
    from refmap.reference.inspection import inspect_model

    Surgery.seed(0)
    card = inspect_model(model, "model").to_json()
    return Surgery.prepare(model, query.copy(), card, Settings(engine=engine))


def least(step: Callable[[], object], times: int = 5, rounds: int = 12) -> float:
    """Milliseconds of CPU that a step takes where it is disturbed least."""
    step()
    found = []
    for _round in range(rounds):
        start = time.process_time()
        for _time in range(times):
            step()
        found.append((time.process_time() - start) / times * 1_000)
    return min(found)


def parts(ours, theirs) -> dict[str, tuple[float, float]]:
    """What each part of a step of two surgeries takes, in milliseconds of CPU: by scvi-tools and by the engine."""
    import numpy as np
    import torch

    model, module, trainer = theirs.model, theirs.model.module, ours.trainer(BRIEFLY)
    network, places = trainer.network, np.random.default_rng(0).permutation(model.adata.n_obs)[:128]
    loader = model._make_data_loader(adata=model.adata, indices=places, batch_size=128)
    tensors, cells = next(iter(loader)), trainer.cells[places]

    def inference() -> torch.Tensor:
        return module.inference(**module._get_inference_input(tensors))["z"]

    hidden = torch.randn(128, module.n_hidden).relu().requires_grad_()
    inferred = module.inference(**module._get_inference_input(tensors))
    decoder, sizes = module.decoder, cells.log_size.unsqueeze(1)

    def counted() -> torch.Tensor:
        """The loss of counts by scvi-tools, of the same hidden units: its decoder's last layers and its distribution."""
        decoder.px_decoder.forward = lambda *_: hidden
        try:
            inferred["library"] = sizes
            inferred["z"] = inferred["z"].detach()
            counts = module.generative(**module._get_generative_input(tensors, inferred))["px"]
        finally:
            del decoder.px_decoder.forward
        return -counts.log_prob(tensors["X"]).sum()

    def whole() -> None:
        module(tensors, loss_kwargs={"kl_weight": 0.1})[2].loss.backward()

    theta = network.log_theta(cells.batches, cells.labels)
    return {
        "cells of a minibatch": (least(lambda: next(iter(loader))), least(lambda: trainer.cells[places])),
        "encoder": (
            least(lambda: inference().sum().backward()),
            least(lambda: network.posterior(cells)[0].sum().backward()),
        ),
        "likelihood": (
            least(lambda: counted().backward()),
            least(lambda: network.likelihood(hidden, cells.log_size, theta, cells.counts).sum().backward()),
        ),
        "step without optimiser": (least(whole), least(lambda: trainer.losses(places).loss.backward())),
    }


@click.command(context_settings={"show_default": True})
@click.option("--cells", default=4_000, help="Of the query.")
@click.option(
    "--model", "models", multiple=True, type=click.Choice(list(MODELS)), default=list(MODELS), help="May be given again."
)
@click.option("--epochs", default=2, help="Of either: the more, the less what comes before the first weighs.")
@click.option("--rounds", default=2, help="How often each is trained by either.")
@click.option("--parts", "with_parts", is_flag=True, help="Tell the parts of a minibatch's step, too.")
@click.option("--run-one", nargs=2, hidden=True)
def main(
    cells: int, models: tuple[str, ...], epochs: int, rounds: int, with_parts: bool, run_one: tuple[str, str] | None
) -> None:
    """Print what the surgery of a query takes by either, by the class and the likelihood of the model."""
    if run_one:
        name, engine = run_one
        surgery = grow(Path(name), ad.read_h5ad("query.h5ad"), engine)
        with part(f"surgery of {MODELS[name]}"):
            surgery.train(TRAIN | {"max_epochs": epochs}, log=lambda line: None)
        return
    n_genes, depth = 2_000, 500
    query = make_cells(cells, n_genes, depth, ["q1", "q2"], seed=2)
    query.obs["label"] = "Unknown"
    print(f"{cells:,} cells x {n_genes:,} genes, {query.X.nnz / cells:.0f} values a cell, {epochs} epochs")
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        query.write_h5ad("query.h5ad")
        for name in models:
            make_reference(Path(name), *name.split(), n_genes, depth)
            ways = {
                way: ("scvi", f"../bench/engine.py --epochs {epochs} --run-one '{name}' {engine}")
                for way, engine in ENGINES.items()
            }
            alternate(name, cells, ways, rounds)
        if with_parts:
            print(f"\n{'ms of CPU of 128 cells':<40}{'scvi-tools':>12}{'engine':>10}{'ratio':>8}")
            for name in [name for name in models if name.startswith("SCVI")]:
                both = [grow(Path(name), query[:6_000], engine) for engine in ENGINES.values()]
                for step, (theirs, ours) in parts(*both).items():
                    print(f"{name + ': ' + step:<40}{theirs:>12.2f}{ours:>10.2f}{theirs / ours:>8.1f}", flush=True)
        os.chdir("/")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    main()
