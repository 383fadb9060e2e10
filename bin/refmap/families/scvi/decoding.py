"""What a model of scvi-tools expects of counts, and what of them enters its encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..base import Decoder


def decoder_of(model: Any, latent: np.ndarray, n_batches: int) -> Decoder | None:
    """The decoder of a model of genes' counts: SCVI, SCANVI and what stands on them, TOTALVI and TOTALANVI of RNA; None of others.

    Parameters
    ----------
    model
        The grown model, with the query as its data.
    latent
        Float32, the query's cells x latent dimensions.
    n_batches
        Of the reference: the first so many of the model's.
    """
    from scvi.module import TOTALVAE, VAE

    module = model.module
    # POISSONVI's module is a VAE too, of peaks.
    if isinstance(module, VAE) and module.gene_likelihood != "normal" and type(model).__name__ != "POISSONVI":
        weights, enters = first_layer(module.z_encoder, module.n_input), entering(module.log_variational)
        return Decoder(_decode(model, latent, "library", _of_vae), n_batches, weights, enters)
    if isinstance(module, TOTALVAE):
        weights = first_layer(module.encoder, module.n_input_genes)
        return Decoder(
            _decode(model, latent, "library_gene", _of_totalvae), n_batches, weights, _enters_totalvae(module.log_variational)
        )
    return None


def _decode(model: Any, latent: np.ndarray, library: str, expected: Callable[[dict], tuple]) -> Callable:
    """`Decoder.decode` of a model.

    Its module calls the size of a cell `library`; `expected` takes from what its decoder gives the shares of the genes and the
    dispersion.
    """

    def decode(cells: np.ndarray, batches: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        import torch

        module = model.module
        tensors = next(iter(model._make_data_loader(adata=model.adata, indices=cells, batch_size=len(cells))))
        with torch.inference_mode():
            inferred = module.inference(**module._get_inference_input(tensors))
            inferred["z"] = torch.as_tensor(latent[cells], device=module.device)
            # On which no share hangs; a cell without counts has none that a distribution could be made of.
            inferred[library] = torch.ones_like(inferred[library])
            given = module._get_generative_input(tensors, inferred)
            if batches is not None:
                codes = given["batch_index"]
                given["batch_index"] = torch.as_tensor(batches).to(codes).reshape(codes.shape)
            # A module moves what it is given to its device, so what it returns lies there.
            shares, dispersion = expected(module.generative(**given))
            # Where the size of a cell is given to the model, what it expects is on a scale of its own.
            shares = shares / shares.sum(dim=-1, keepdim=True)
        return shares.float().cpu().numpy(), None if dispersion is None else dispersion.float().cpu().numpy()

    return decode


def _of_vae(generated: dict) -> tuple:
    counts = generated["px"]
    # A Poisson has no dispersion.
    return counts.get_normalized("scale"), getattr(counts, "theta", None)


def _of_totalvae(generated: dict) -> tuple:
    return generated["px_"]["scale"], generated["px_"]["r"]


def entering(log: bool) -> Callable[[np.ndarray], np.ndarray]:
    """What of counts enters an encoder that takes their logarithm, or them as they are."""
    return np.log1p if log else lambda counts: counts


def _enters_totalvae(log: bool) -> Callable[[np.ndarray], np.ndarray]:
    """Counts by one more than the mean of the cell's, and their logarithm."""

    def enters(counts: np.ndarray) -> np.ndarray:
        values = counts / (1 + counts.mean(axis=1, keepdims=True))
        return np.log1p(values) if log else values

    return enters


def first_layer(encoder: Any, n_genes: int) -> np.ndarray | None:
    """The weights of the genes, which come first among what an encoder is given: hidden units x genes."""
    from torch.nn import Linear

    layer = next((part for part in encoder.modules() if isinstance(part, Linear)), None)
    if layer is None or layer.in_features < n_genes:
        return None
    return layer.weight[:, :n_genes].detach().float().cpu().numpy()
