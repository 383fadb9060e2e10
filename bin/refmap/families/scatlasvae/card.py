"""The card of a scAtlasVAE, from its inert file."""

from __future__ import annotations

from ...common.errors import RefmapError, listed
from ...models.card import ModelCard
from ...models.folder import ModelFolder
from ...models.pickles import Tensor
from .files import Description, describe, saved_file

# What models counts; `mse` and `zg` are given whatever the reference was, which the file does not say.
_OF_COUNTS = ("zinb", "nb")


def is_scatlasvae(folder: ModelFolder) -> bool:
    return saved_file(folder) is not None


def scatlasvae_card(folder: ModelFolder) -> ModelCard:
    """Raises `RefmapError` for a model whose parts do not fit each other."""
    name = saved_file(folder)
    weights, model = folder.value(name, "model_state_dict"), describe(folder.value(name), folder)
    _check(folder, name, weights, model)
    card = ModelCard(model=folder.shown, class_name="scAtlasVAE", genes=model.genes)
    card.input = "counts" if model.config["reconstruction_method"] in _OF_COUNTS else "any"
    card.n_latent = _rows(weights, "z_mean_fc.weight")
    card.labels = {key: labels for key, labels in model.labels.items() if labels}
    card.unlabeled_category, card.predicts, card.learns_labels = model.unlabeled, bool(card.labels), False
    card.latent_of_labels = card.predicts
    main, *_more = [*model.batches] or [None]
    if main in model.seen:
        card.batch_key, card.batches = main, model.batches[main]
    card.categorical_covariates = {key: model.batches[key] for key in model.seen if key != main}
    card.warnings = [_about_surgery(folder, model)]
    return card


def _rows(weights: dict, name: str) -> int | None:
    return weights[name].shape[0] if isinstance(weights.get(name), Tensor) else None


def _check(folder: ModelFolder, name: str, weights: dict, model: Description) -> None:
    shown, n_genes = folder.show(name), _rows(weights, "px_rna_rate_decoder.weight")
    if n_genes != len(model.genes):
        raise RefmapError(
            f"{shown} names {len(model.genes)} genes, but the model has {n_genes or 'no weights'}: copy it again, or list its genes in "
            "order as 'genes' in a file refmap.yaml, in one folder with it."
        )
    if len(set(model.genes)) != n_genes:
        twice = next(gene for gene in model.genes if model.genes.count(gene) > 1)
        raise RefmapError(f"{shown} names the gene '{twice}' twice, so its columns cannot be told apart.")
    for number, (key, labels) in enumerate(model.labels.items()):
        n_classes = _rows(weights, f"additional_fc.{number - 1}.weight" if number else "fc.0.weight")
        if (n_classes or 0) != len(labels):
            raise RefmapError(
                f"{shown} names {len(labels)} labels of '{key}', but its classifier tells {n_classes or 'none'} apart: copy it again."
            )


def _about_surgery(folder: ModelFolder, model: Description) -> str:
    if model.batches and not model.fits:
        return (
            f"{folder.shown} names other batches than its decoder was made for, so surgery has nothing to add to and trains nothing: the "
            "query is embedded and labelled by the reference's encoder, which needs no batches."
        )
    if not model.seen:
        return (
            f"{folder.shown} was trained without batches that its decoder sees: surgery has nothing to learn, and the query is embedded "
            "as the reference would."
        )
    return (
        f"{folder.shown} is a scAtlasVAE, whose encoder never sees the batch: surgery learns the query's {listed(model.seen)} for the decoder "
        "alone and cannot move the query in the latent space, whatever its batch effect; max_epochs 0 gives the same embedding and labels."
    )
