"""The library's network, made without its data, and run on blocks of cells.

The class of scatlasvae 1.0.5.9 wants an AnnData, keeps each of its cells as a matrix of its own, and draws a sample wherever it
encodes. Here it is made with a single made-up cell, which tells it the categories, and is given minibatches of a CSR matrix; what
is taken of a cell is the mean of its posterior.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from ...common.errors import RefmapError
from ..scarches.loading import quietly
from .files import Description, settings_of

if TYPE_CHECKING:
    import pandas as pd
    import torch

# Numbers in a block of expression that is made dense at once: 64 MiB.
BLOCK_NUMBERS = 1 << 24
# What tells settings that the library's files lack, by the weights that they bring about.
_TABNET = "encoder.initial_bn.weight"
_DROPOUT = "px_rna_dropout_decoder.weight"


def make(model: Description, weights: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """A network with room for all batches and labels of `model`, on the GPU if there is one; `weights` tell what its file does not say."""
    import torch

    with quietly():
        import anndata as ad
        import pandas as pd
        from scatlasvae.model import scAtlasVAE
        from scatlasvae.model._primitives import EncoderType

        takes = inspect.signature(scAtlasVAE.__init__).parameters
        settings = {name: value for name, value in model.config.items() if name in takes}
        settings |= settings_of("batch", model.batches, model.batch_sizes) | settings_of("label", model.labels, model.label_sizes)
        settings["rna_dropout"] = "cell" if len(weights.get(_DROPOUT, "many")) == 1 else "gene"
        settings["encoder_type"] = EncoderType.TABNET if _TABNET in weights else EncoderType.SAE
        categories = model.batches | model.labels
        cell = pd.DataFrame({key: pd.Categorical(values[:1], values) for key, values in categories.items()}, index=["cell"])
        genes = pd.DataFrame(index=pd.Index(model.genes, dtype=object))
        network = scAtlasVAE(
            **settings | {"constrain_n_batch": False, "constrain_n_label": False, "mmd_key": None},
            adata=ad.AnnData(sparse.csr_matrix((1, len(genes)), dtype=np.int32), obs=cell, var=genes),
            device="cuda" if torch.cuda.is_available() else "cpu",
        )
    # It refuses a batch column of one batch, of which a reference may well be.
    network.decoder.n_cat_list = [max(n, 2) for n in network.decoder.n_cat_list or ()]
    return network.eval()


@dataclass
class Minibatch:
    """Cells as the network takes them: counts, float32, cells x genes, and the number of each one's category, by column."""

    x: torch.Tensor
    codes: dict[str, torch.Tensor]  # int64; -1 for none


@dataclass
class Cells:
    """The cells of an aligned query or reference, from which minibatches are taken.

    Attributes
    ----------
    x
        CSR, cells x genes.
    codes
        The number of each cell's category, by column of batches or labels; -1 for none.
    """

    x: sparse.csr_matrix
    codes: dict[str, np.ndarray]

    @classmethod
    def of(cls, x: Any, obs: pd.DataFrame, categories: dict[str, list[str]]) -> Cells:
        """A column that obs lacks is one that the network does not look at."""
        import pandas as pd

        codes = {
            key: pd.Index(values).get_indexer(obs[key].astype(str)) if key in obs else np.zeros(len(obs), np.int64)
            for key, values in categories.items()
        }
        return cls(sparse.csr_matrix(x), codes)

    def take(self, network: torch.nn.Module, cells: np.ndarray | slice) -> Minibatch:
        """Some of the cells, where the network is."""
        import torch

        x = torch.from_numpy(self.x[cells].toarray().astype(np.float32, copy=False)).to(network.device)
        return Minibatch(x, {key: torch.from_numpy(codes[cells]).to(network.device) for key, codes in self.codes.items()})


def encode(network: torch.nn.Module, x: sparse.csr_matrix) -> np.ndarray:
    """The mean of each cell's latent posterior: float32, cells x latent dimensions.

    Raises
    ------
    RefmapError
        If a cell has no counts and the model encodes their logarithm.
    """
    import torch

    if network.encode_libsize and (empty := int((np.asarray(x.sum(axis=1)) == 0).sum())):
        raise RefmapError(
            f"{empty:,} cells have no counts of the model's genes, and this scAtlasVAE encodes the logarithm of their sum: remove them."
        )
    latent = np.empty((x.shape[0], network.n_latent), np.float32)
    cells, network = Cells(sparse.csr_matrix(x), {}), network.eval()
    with torch.no_grad():
        for block in _blocks(*x.shape):
            latent[block] = network.encode(cells.take(network, block).x)["q_mu"].cpu().numpy()
    return latent


def classify(network: torch.nn.Module, latent: np.ndarray) -> Iterator[np.ndarray]:
    """The probabilities of each column's labels, cells x labels, of the latent's mean, where the library takes a sample of it."""
    import torch

    with torch.no_grad():
        for head in heads(network):
            yield torch.softmax(head(torch.from_numpy(latent).to(network.device)), dim=1).cpu().numpy()


def heads(network: torch.nn.Module) -> list[torch.nn.Module]:
    """The classifier of each label column."""
    return [network.fc, *(network.additional_fc if network.n_additional_label else ())] if network.n_label else []


@dataclass
class Losses:
    """What a minibatch costs, a value a cell: the negative log-likelihood, the KL divergence, the probability of dropouts, summed
    over genes; and `latent`, a sample of the posterior."""

    reconstruction: torch.Tensor
    kl: torch.Tensor
    gate: torch.Tensor
    latent: torch.Tensor


def losses(network: torch.nn.Module, model: Description, cells: Minibatch) -> Losses:
    """The terms of the library's loss."""
    import torch
    from torch.distributions import Normal, kl_divergence

    encoded = network.encode(cells.x)
    posterior = Normal(encoded["q_mu"], encoded["q_var"].sqrt())
    kl = kl_divergence(posterior, Normal(torch.zeros_like(posterior.mean), torch.ones_like(posterior.mean))).sum(dim=1)
    batches = [cells.codes[key].float().unsqueeze(1) for key in model.batches]
    label = None
    if "" in model.injected:  # that of a query is not known: what the model says of the cell
        label = network.fc(encoded["q_mu"]).argmax(dim=1, keepdim=True).float()
    # A cell without counts has an expected count of 0, whose logarithm is no number.
    total = cells.x.sum(dim=1).clamp(min=1)
    decoded = network.decode(encoded, total, *(batches[:1] or [None]), label, batches[1:] or None)
    return Losses(
        _reconstruction(network, cells.x, decoded), kl, torch.sigmoid(decoded["px_rna_dropout"]).sum(dim=1), encoded["z"]
    )


def _reconstruction(network: torch.nn.Module, x: torch.Tensor, decoded: dict[str, torch.Tensor]) -> torch.Tensor:
    import torch
    from scatlasvae.utils._loss import LossFunction

    mean, rate, dropout = decoded["px_rna_scale"], decoded["px_rna_rate"].exp(), decoded["px_rna_dropout"]
    if network.reconstruction_method == "zinb":
        return LossFunction.zinb_reconstruction_loss(x, mu=mean, theta=rate, gate_logits=dropout)
    if network.reconstruction_method == "nb":
        return LossFunction.nb_reconstruction_loss(x, mu=mean, theta=rate)
    if network.reconstruction_method == "zg":
        return LossFunction.zi_gaussian_reconstruction_loss(x, mean=mean, variance=rate, gate_logits=dropout)
    normalized = torch.log1p(network._normalize_data(x, after=1e4))
    return (normalized - mean).square().sum(dim=1)


def _blocks(n_cells: int, n_genes: int) -> Iterator[slice]:
    size = max(1, BLOCK_NUMBERS // max(n_genes, 1))
    return (slice(start, start + size) for start in range(0, n_cells, size))
