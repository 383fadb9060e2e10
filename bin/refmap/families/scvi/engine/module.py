"""The modules of an SCVI and of a SCANVI under scvi-tools' names, which their files hold them by, without scvi-tools.

They hold the weights, for the network of surgery (:mod:`.network`) and the file of the grown model. Their parts are made in the order
in which scvi-tools makes its own, so that the same seed draws the same values for what a query adds.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional

# Of the batch norm of scvi-tools' layers.
MOMENTUM, EPS = 0.01, 0.001
# What scvi-tools adds to the variance of a latent.
VAR_EPS = 1e-4


class FCLayers(nn.Module):
    """Fully connected layers that are given one-hot categories beside their inputs; a covariate of one category has none."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        categories: Sequence[int] = (),
        *,
        n_layers: int,
        n_hidden: int,
        batch_norm: bool,
        layer_norm: bool,
        dropout_rate: float = 0.0,
        injected: bool = True,
    ):
        super().__init__()
        self.n_cat_list = [n if n > 1 else 0 for n in categories]
        self.injected = injected
        widths, layers = [n_in, *[n_hidden] * (n_layers - 1), n_out], OrderedDict()
        for number, (width, n_units) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            layers[f"Layer {number}"] = nn.Sequential(
                nn.Linear(width + sum(self.n_cat_list) * self.inject_into_layer(number), n_units),
                nn.BatchNorm1d(n_units, momentum=MOMENTUM, eps=EPS) if batch_norm else None,
                nn.LayerNorm(n_units, elementwise_affine=False) if layer_norm else None,
                nn.ReLU(),
                nn.Dropout(dropout_rate) if dropout_rate > 0 else None,
            )
        self.fc_layers = nn.Sequential(layers)

    def inject_into_layer(self, number: int) -> bool:
        """Whether a layer is given the categories."""
        return number == 0 or self.injected

    def forward(self, x: torch.Tensor, *codes: torch.Tensor) -> torch.Tensor:
        """The last hidden units; `codes` are the categories of the cells, cells x 1 each."""
        # Codes are given, too, to layers that take none.
        one_hots = [functional.one_hot(of.flatten(), n) for of, n in zip(codes, self.n_cat_list) if n]
        for number, layer in enumerate(self.fc_layers):
            x = torch.cat([x, *one_hots], dim=1) if self.inject_into_layer(number) else x
            for part in layer:
                x = x if part is None else part(x)
        return x


class Encoder(nn.Module):
    """Layers, and the mean and the variance of a normal distribution."""

    def __init__(
        self, n_in: int, n_out: int, *, n_hidden: int, variance: Callable | None = None, softmax: bool = False, **layers
    ):
        super().__init__()
        self.var_eps = VAR_EPS
        self.encoder = FCLayers(n_in, n_hidden, n_hidden=n_hidden, **layers)
        self.mean_encoder = nn.Linear(n_hidden, n_out)
        self.var_encoder = nn.Linear(n_hidden, n_out)
        self.z_transformation = nn.Softmax(dim=-1) if softmax else nn.Identity()
        self.var_activation = variance or torch.exp


class CountsDecoder(nn.Module):
    """Layers, and what they tell of the counts of genes."""

    def __init__(self, n_in: int, n_genes: int, *, n_hidden: int, is_sized: bool, **layers):
        super().__init__()
        self.px_decoder = FCLayers(n_in, n_hidden, n_hidden=n_hidden, **layers)
        shares = nn.Softplus() if is_sized else nn.Softmax(dim=-1)
        self.px_scale_decoder = nn.Sequential(nn.Linear(n_hidden, n_genes), shares)
        self.px_r_decoder = nn.Linear(n_hidden, n_genes)
        self.px_dropout_decoder = nn.Linear(n_hidden, n_genes)


class LatentDecoder(nn.Module):
    """Layers, and the mean and the logarithm of the variance of a latent."""

    def __init__(self, n_latent: int, *, n_hidden: int, **layers):
        super().__init__()
        self.decoder = FCLayers(n_latent, n_hidden, n_hidden=n_hidden, **layers)
        self.mean_decoder = nn.Linear(n_hidden, n_latent)
        self.var_decoder = nn.Linear(n_hidden, n_latent)


class Classifier(nn.Module):
    """What tells a label from a latent: its logits, or its probabilities."""

    def __init__(self, n_latent: int, n_labels: int, *, n_layers: int, n_hidden: int, logits: bool, **layers):
        super().__init__()
        self.logits = logits
        parts, width = [], n_latent
        if n_layers and n_hidden:
            parts, width = [FCLayers(n_latent, n_hidden, n_layers=n_layers, n_hidden=n_hidden, **layers)], n_hidden
        parts.append(nn.Linear(width, n_labels))
        self.classifier = nn.Sequential(*parts, *[nn.Softmax(dim=-1)] * (not logits))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.classifier(z)


class Module(nn.Module):
    """That of an SCVI, or with `is_scanvi` of a SCANVI.

    The first arguments are what its data tell; those from `n_hidden` on are its settings, with the defaults of scvi-tools.
    """

    def __init__(
        self,
        n_genes: int,
        n_batch: int,
        n_labels: int,
        n_continuous: int,
        covariates: Sequence[int],
        is_sized: bool,
        is_scanvi: bool,
        logits: bool,
        n_hidden: int = 128,
        n_latent: int = 10,
        n_layers: int = 1,
        dropout_rate: float = 0.1,
        dispersion: str = "gene",
        log_variational: bool = True,
        gene_likelihood: str = "zinb",
        latent_distribution: str = "normal",
        encode_covariates: bool = False,
        deeply_inject_covariates: bool = True,
        batch_representation: str = "one-hot",
        use_batch_norm: str = "both",
        use_layer_norm: str = "none",
        use_observed_lib_size: bool = True,
        var_activation: Callable | None = None,
        batch_embedding_kwargs: dict | None = None,
        linear_classifier: bool = False,
        classifier_parameters: dict | None = None,
    ):
        super().__init__()
        self.n_input, self.n_labels, self.n_hidden, self.n_latent = n_genes, n_labels, n_hidden, n_latent
        self.dispersion, self.gene_likelihood, self.log_variational = dispersion, gene_likelihood, log_variational
        self.latent_distribution, self.encode_covariates = latent_distribution, encode_covariates
        self.batch_representation = batch_representation
        self.use_size_factor_key, self.use_observed_lib_size = is_sized, is_sized or use_observed_lib_size
        if not self.use_observed_lib_size:
            self.register_buffer("library_log_means", torch.zeros(1, n_batch))
            self.register_buffer("library_log_vars", torch.ones(1, n_batch))
        shape = {"gene": (n_genes,), "gene-batch": (n_genes, n_batch), "gene-label": (n_genes, n_labels)}
        if dispersion in shape:
            self.px_r = nn.Parameter(torch.randn(shape[dispersion]))
        categories, width = [n_batch, *covariates], 0
        if batch_representation == "embedding":
            embedding = nn.Embedding(n_batch, **{"embedding_dim": 5} | (batch_embedding_kwargs or {}))
            self._embeddings_dict = nn.ModuleDict({"batch": embedding})
            categories, width = list(covariates), embedding.embedding_dim
        shapes = {"n_layers": n_layers, "n_hidden": n_hidden}
        norms = {
            part: {"batch_norm": use_batch_norm in (part, "both"), "layer_norm": use_layer_norm in (part, "both")}
            for part in ("encoder", "decoder")
        }
        encoder = norms["encoder"] | {"dropout_rate": dropout_rate}
        of_cells = encoder | {
            "n_hidden": n_hidden,
            "categories": categories if encode_covariates else [],
            "injected": deeply_inject_covariates,
            "variance": var_activation,
        }
        n_in = n_genes + (n_continuous + width) * encode_covariates
        self.z_encoder = Encoder(n_in, n_latent, n_layers=n_layers, softmax=latent_distribution == "ln", **of_cells)
        self.l_encoder = Encoder(n_in, 1, n_layers=1, **of_cells)
        self.decoder = CountsDecoder(
            n_latent + n_continuous + width,
            n_genes,
            is_sized=is_sized,
            categories=categories,
            injected=deeply_inject_covariates,
            **shapes,
            **norms["decoder"],
        )
        if is_scanvi:
            depth = {"n_layers": 0, "n_hidden": 0} if linear_classifier else shapes
            of_labels = encoder | depth | {"logits": logits} | (classifier_parameters or {})
            self.classifier = Classifier(n_latent, n_labels, **of_labels)
            self.encoder_z2_z1 = Encoder(n_latent, n_latent, categories=[n_labels], **encoder, **shapes)
            self.decoder_z1_z2 = LatentDecoder(n_latent, categories=[n_labels], **norms["decoder"], **shapes)
            self.y_prior = nn.Parameter(torch.full((1, n_labels), 1 / n_labels), requires_grad=False)


# What of a model's settings the module knows, by their names.
_ARGUMENTS = list(inspect.signature(Module).parameters)
SETTINGS = frozenset(_ARGUMENTS[_ARGUMENTS.index("n_hidden") :])
