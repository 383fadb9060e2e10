"""An SCVI or a SCANVI in surgery: scvi-tools' loss, as a function of the values that surgery may move and of nothing else.

The parts are those of the model's own :mod:`.module`, in the mode in which surgery left them: batch norm with
the reference's statistics, dropout on or off. What of them is frozen is computed by :mod:`.layers` and :mod:`.likelihood`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from .layers import EachLabel, Heads, Layers, OfCells
from .learned import Learned
from .likelihood import Counts, Likelihood

if TYPE_CHECKING:
    from .module import Module

# A latent that is logistic normal is the mean of so many samples, as scvi-tools has it, of so many cells at a time.
SAMPLES, SAMPLED = 5_000, 128


@dataclass
class Minibatch:
    """Some cells, in the precision of the model.

    Attributes
    ----------
    counts
        Their counts.
    started
        What the frozen part of the encoder's first layer makes of them: cells x hidden units.
    constants
        What of their negative log-likelihoods never changes.
    log_size
        The logarithm of what their expected shares are multiplied with; not looked at where the model infers it.
    batches, labels
        Their codes.
    covariates
        The codes of their categorical covariates, cells x covariates.
    categories
        The rows of a table of categories that are theirs, cells x one-hots of two categories or more.
    continuous
        Their continuous covariates, cells x covariates, of which there may be none.
    """

    counts: Counts
    started: torch.Tensor
    constants: torch.Tensor
    log_size: torch.Tensor
    batches: torch.Tensor
    labels: torch.Tensor
    covariates: torch.Tensor
    categories: torch.Tensor
    continuous: torch.Tensor


@dataclass
class Losses:
    """The loss of a minibatch, and what it is made of, by cell; with labels also their part and the share that is classified right."""

    loss: torch.Tensor
    reconstruction: torch.Tensor
    kl_local: torch.Tensor
    classification: torch.Tensor | None = None
    accuracy: torch.Tensor | None = None


class Network:
    """The loss of scvi-tools' `VAE` and `SCANVAE`.

    Attributes
    ----------
    learned
        What there is to train.
    dtype
        The precision of its values.
    noise
        Draws standard normal numbers of a shape.
    """

    def __init__(self, module: Module, masks: dict[str, torch.Tensor]):
        self.module = module
        self.dtype = module.decoder.px_scale_decoder[0].weight.dtype
        self.learned = learned = Learned(module, masks)
        self.noise: Callable[..., torch.Tensor] = torch.randn
        self.embedding = None
        if module.batch_representation == "embedding":
            self.embedding = learned.whole("_embeddings_dict.batch.weight")
        self.encoder = Layers(module.z_encoder.encoder, "z_encoder.encoder", learned)
        self.heads = Heads(module.z_encoder.mean_encoder, module.z_encoder.var_encoder)
        self.decoder = Layers(module.decoder.px_decoder, "decoder.px_decoder", learned)
        self.dispersions = None
        if module.dispersion in ("gene-batch", "gene-label"):
            self.dispersions = learned.table("px_r")
        is_learned = self.dispersions is not None and self.dispersions.requires_grad
        self.likelihood = Likelihood(module, is_learned)
        if not module.use_observed_lib_size:
            for name, _parameter in module.l_encoder.named_parameters(prefix="l_encoder"):
                learned.whole(name)
        self.is_scanvi = hasattr(module, "encoder_z2_z1")
        if self.is_scanvi:
            self.label_encoder = Layers(module.encoder_z2_z1.encoder, "encoder_z2_z1.encoder", learned)
            self.label_heads = Heads(module.encoder_z2_z1.mean_encoder, module.encoder_z2_z1.var_encoder)
            self.label_decoder = Layers(module.decoder_z1_z2.decoder, "decoder_z1_z2.decoder", learned)
            self.latent_heads = Heads(module.decoder_z1_z2.mean_decoder, module.decoder_z1_z2.var_decoder)

    def start(self, entering: torch.Tensor, continuous: torch.Tensor) -> torch.Tensor:
        """What the frozen part of the encoder's first layer makes of cells.

        `entering` is what it is given of their counts, cells x genes, dense or sparse; `continuous` their continuous covariates.
        """
        n_genes, width = self.module.n_input, continuous.shape[1]
        started = self.encoder.start(entering, slice(n_genes)) + self.encoder.layers[0].bias
        if width and self.module.encode_covariates:
            started += self.encoder.start(continuous, slice(n_genes, n_genes + width))
        return started

    def log_theta(self, batches: torch.Tensor, labels: torch.Tensor) -> torch.Tensor | None:
        """The logarithm of the inverse dispersions: of the genes, or cells x genes; None where the decoder gives them."""
        of = {"gene-batch": batches, "gene-label": labels}
        if self.dispersions is not None:
            return self.dispersions.index_select(0, of[self.module.dispersion])
        return self.module.px_r.detach() if self.module.dispersion == "gene" else None

    def constants(self, counts: Counts, batches: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """What of cells' negative log-likelihoods takes no part in the gradient."""
        with torch.no_grad():
            return self.likelihood.constants(self.log_theta(batches, labels), counts)

    def posterior(self, cells: Minibatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance of the cells' latents, before what makes a logistic normal of a normal."""
        started = cells.started
        if self.embedding is not None and self.module.encode_covariates:
            at = self.module.n_input + cells.continuous.shape[1]
            started = started + self.encoder.start(self._embedded(cells), slice(at, at + self.embedding.shape[1]))
        encoder = self.module.z_encoder
        return _moments(encoder, *self.heads(self.encoder(started, OfCells(cells.categories), is_started=True)))

    def losses(self, cells: Minibatch, kl_weight: float, labelled: Minibatch | None = None, ratio: float = 0) -> Losses:
        """The loss of a minibatch.

        Parameters
        ----------
        kl_weight
            Of the divergence from the prior.
        labelled, ratio
            Of a SCANVI: cells with labels, and the weight of how well these are classified.
        """
        module = self.module
        mean, variance = self.posterior(cells)
        z = module.z_encoder.z_transformation(self._sample(mean, variance))
        log_size, kl_size = cells.log_size, 0
        if not module.use_observed_lib_size:
            log_size, kl_size = self._infer_size(cells)
        hidden = self._decoded(z, cells)
        log_theta = self.log_theta(cells.batches, cells.labels)
        reconstruction = self.likelihood(hidden, log_size, log_theta, cells.counts) + cells.constants
        if not self.is_scanvi:
            kl = _kl(mean, variance)
            loss = (reconstruction + kl_weight * kl + kl_size).mean()
            return Losses(loss, reconstruction, kl + kl_size)
        by_latent, kl = self._by_labels(mean, variance, z)
        reconstruction, kl = reconstruction + by_latent, kl + kl_size
        losses = Losses((reconstruction + kl_weight * kl).mean(), reconstruction, kl)
        if labelled is not None:
            logits = module.classifier(self.posterior(labelled)[0])
            losses.classification = functional.cross_entropy(logits, labelled.labels)
            losses.accuracy = (logits.argmax(dim=1) == labelled.labels).double().mean()
            losses.loss = losses.loss + ratio * losses.classification
        return losses

    def latent(self, cells: Minibatch) -> torch.Tensor:
        """The mean of the cells' latents."""
        mean, variance = self.posterior(cells)
        if self.module.latent_distribution != "ln":
            return mean
        parts = zip(mean.split(SAMPLED), variance.sqrt().split(SAMPLED), strict=True)
        return torch.cat(
            [torch.normal(*(of.expand(SAMPLES, -1, -1) for of in part)).softmax(dim=-1).mean(dim=0) for part in parts]
        )

    def probabilities(self, cells: Minibatch) -> torch.Tensor:
        """Those of a SCANVI's labels, cells x labels, by the mean of the cells' latents."""
        given, classifier = self.posterior(cells)[0], self.module.classifier
        return classifier(given).softmax(dim=1) if classifier.logits else classifier(given)

    def in_batches(self, cells: Minibatch, batches: torch.Tensor) -> Minibatch:
        """The same cells as if they were of other batches."""
        batches = batches.to(cells.batches)
        categories = cells.categories.clone()
        if self.embedding is None and self.module.decoder.px_decoder.n_cat_list[0]:
            categories[:, 0] = batches
        return replace(cells, batches=batches, categories=categories)

    def expected(self, z: torch.Tensor, cells: Minibatch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What is expected of cells with latents `z`: the shares of the genes, and their inverse dispersions, None of a Poisson."""
        decoder, hidden = self.module.decoder, self._decoded(z, cells)
        shares = decoder.px_scale_decoder(hidden)
        if self.module.gene_likelihood == "poisson":
            return shares, None
        log_theta = self.log_theta(cells.batches, cells.labels)
        return shares, (decoder.px_r_decoder(hidden) if log_theta is None else log_theta).exp()

    def _decoded(self, z: torch.Tensor, cells: Minibatch) -> torch.Tensor:
        """The decoder's last hidden units."""
        inputs = [z] + [cells.continuous] * (cells.continuous.shape[1] > 0)
        if self.embedding is not None:
            inputs.append(self._embedded(cells))
        return self.decoder(torch.cat(inputs, dim=1) if len(inputs) > 1 else z, OfCells(cells.categories))

    def _sample(self, mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
        return mean + self.noise(mean.shape, dtype=mean.dtype, device=mean.device) * variance.sqrt()

    def _embedded(self, cells: Minibatch) -> torch.Tensor:
        return functional.embedding(cells.batches, self.embedding)

    def _infer_size(self, cells: Minibatch) -> tuple[torch.Tensor, torch.Tensor]:
        """The logarithm of the cells' sizes, and its divergence from that of their batches; the encoder of it is trained whole."""
        module, n_genes = self.module, self.module.n_input
        dense = cells.started.new_zeros(cells.counts.n_cells, n_genes)
        dense.view(-1)[cells.counts.places(n_genes)] = cells.counts.values
        inputs = [torch.log1p(dense) if module.log_variational else dense]
        categories = cells.covariates.split(1, dim=1)
        if module.encode_covariates:
            inputs += [cells.continuous]
        if self.embedding is None:
            categories = (cells.batches.unsqueeze(1), *categories)
        elif module.encode_covariates:
            inputs.append(self._embedded(cells))
        encoder = module.l_encoder
        hidden = encoder.encoder(torch.cat(inputs, dim=1), *categories)
        mean, variance = _moments(encoder, encoder.mean_encoder(hidden), encoder.var_encoder(hidden))
        size = self._sample(mean, variance)
        prior_mean, prior_variance = (
            values[0, cells.batches].unsqueeze(1) for values in (module.library_log_means, module.library_log_vars)
        )
        return size.squeeze(1), _kl(mean, variance, prior_mean, prior_variance)

    def _by_labels(self, mean: torch.Tensor, variance: torch.Tensor, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What a SCANVI's prior of the latent says, averaged over the labels that a cell may have (Xu et al. 2021)."""
        module, (n_cells, n_latent) = self.module, z.shape
        each, shape = EachLabel(module.n_labels, n_cells), (module.n_labels, n_cells, n_latent)
        means, variances = _moments(module.encoder_z2_z1, *self.label_heads(self.label_encoder(z, each)))
        z2 = self._sample(means, variances)
        z_means, z_logs = self.latent_heads(self.label_decoder(z2, each))
        from_prior = 0.5 * ((z - z_means.view(shape)) ** 2 * (-z_logs).exp().view(shape) + z_logs.view(shape)).sum(dim=2)
        probabilities = module.classifier(z)
        if module.classifier.logits:
            probabilities = probabilities.softmax(dim=1)
        by_label = _kl(means, variances).view(shape[:2])
        kl = (by_label.T * probabilities).sum(dim=1)
        categorical = torch.distributions.Categorical
        kl = kl + torch.distributions.kl_divergence(
            categorical(probs=probabilities, validate_args=False), categorical(probs=module.y_prior.expand(n_cells, -1))
        )
        from_prior = from_prior + 0.5 * n_latent * math.log(2 * math.pi)
        return _log_normal(z, mean, variance) + (from_prior.T * probabilities).sum(dim=1), kl


def _moments(encoder: torch.nn.Module, mean: torch.Tensor, variance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance that an encoder of scvi-tools tells, of what its heads make of its hidden units."""
    return mean, encoder.var_activation(variance) + encoder.var_eps


def _kl(
    mean: torch.Tensor, variance: torch.Tensor, prior_mean: torch.Tensor | float = 0.0, prior_variance: torch.Tensor | float = 1.0
) -> torch.Tensor:
    """The divergence of normal distributions from others, summed over the last dimension."""
    ratio = variance / prior_variance
    return 0.5 * (ratio + (mean - prior_mean) ** 2 / prior_variance - 1 - ratio.log()).sum(dim=-1)


def _log_normal(x: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    """The log-density of normal distributions, summed over the last dimension."""
    return -0.5 * ((x - mean) ** 2 / variance + variance.log() + math.log(2 * math.pi)).sum(dim=-1)
