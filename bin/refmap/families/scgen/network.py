"""scGen's network: made, run in the mode that is meant for use, and fed by blocks of a sparse matrix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..scarches.loading import quietly, to_best_device

if TYPE_CHECKING:
    import torch
    from scipy import sparse

# Numbers of a block of cells that is made dense: 64 MiB of float32.
BLOCK_NUMBERS = 1 << 24


def make(attributes: dict[str, Any]) -> torch.nn.Module:
    """The library's network with random weights, from the attributes that it saves; on the GPU where there is one."""
    with quietly():
        from scarches.models.scgen.vaearith import vaeArith

        network = vaeArith(
            attributes["x_dim_"], list(attributes["hidden_layer_sizes_"]), attributes["z_dim_"], attributes["dr_rate_"]
        )
    to_best_device(network)
    return network


def tensor_of(network: torch.nn.Module, x: np.ndarray | sparse.csr_matrix) -> torch.Tensor:
    """Cells x genes as a dense tensor on the network's device."""
    import torch

    dense = x if isinstance(x, np.ndarray) else x.toarray()
    return torch.from_numpy(np.ascontiguousarray(dense, dtype=np.float32)).to(next(network.parameters()).device)


def encode(network: torch.nn.Module, x: sparse.csr_matrix) -> np.ndarray:
    """The mean of each cell's latent posterior: float32, cells x latent dimensions.

    Batch norm uses the reference's statistics: `map_query_data` of the library (scarches 0.6.1) leaves a model that it
    loads in the mode for training, in which they follow the query and the reference moves.
    """
    import torch

    latent = np.empty((x.shape[0], network.z_dim), np.float32)
    network.eval()
    with torch.no_grad():
        for block in _blocks(*x.shape):
            latent[block] = network.encoder(tensor_of(network, x[block]))[0].cpu().numpy()
    return latent


def decode(network: torch.nn.Module, latent: np.ndarray) -> np.ndarray:
    """What a latent, cells x latent dimensions, decodes to: float32, cells x genes."""
    import torch

    expression = np.empty((len(latent), network.x_dim), np.float32)
    network.eval()
    with torch.no_grad():
        for block in _blocks(*expression.shape):
            expression[block] = network.decoder(tensor_of(network, latent[block])).cpu().numpy()
    return expression


def decode_and_encode(network: torch.nn.Module, latent: np.ndarray, expression: np.ndarray | None = None) -> np.ndarray:
    """The latent of what a latent decodes to, cells x latent dimensions: what scGen calls the corrected latent.

    `expression`, float32 cells x genes, is filled with what it decodes to.
    """
    import torch

    corrected = np.empty_like(latent)
    network.eval()
    with torch.no_grad():
        for block in _blocks(len(latent), network.x_dim):
            decoded = network.decoder(tensor_of(network, latent[block]))
            corrected[block] = network.encoder(decoded)[0].cpu().numpy()
            if expression is not None:
                expression[block] = decoded.cpu().numpy()
    return corrected


def _blocks(n_cells: int, n_genes: int) -> Iterator[slice]:
    size = max(1, BLOCK_NUMBERS // n_genes)
    return (slice(start, start + size) for start in range(0, n_cells, size))
