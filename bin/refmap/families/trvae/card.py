"""The card of a trVAE, from its inert files."""

from __future__ import annotations

from ...models.card import ModelCard
from ...models.folder import ModelFolder
from ..scarches.files import attributes_of, check_genes, has_attributes, input_of, read_conditions, start_card


def is_trvae(folder: ModelFolder) -> bool:
    return has_attributes(folder, "condition_key_", "mmd_on_", "recon_loss_", without=("mask_", "prototypes_labeled_"))


def trvae_card(folder: ModelFolder) -> ModelCard:
    """Raises `RefmapError` for a model that is incomplete, or has no batches."""
    card, attributes = start_card(folder, "trVAE"), attributes_of(folder)
    check_genes(card, folder, attributes.get("input_dim_"))
    read_conditions(card, folder)
    card.input = input_of(attributes["recon_loss_"])
    card.n_latent = int(attributes["latent_dim_"])
    return card
