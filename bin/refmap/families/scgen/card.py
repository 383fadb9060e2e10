"""The card of a scGen model, from its inert files and from `refmap.yaml`: its own files hold sizes and weights alone."""

from __future__ import annotations

from ...models.card import ModelCard
from ...models.folder import ModelFolder
from ..scarches.files import attributes_of, check_genes, has_attributes, start_card
from .response import read_conditions

# Cells of the reference as `map_query_data` of the library wants them, but with their latent in place of their expression.
CORRECTED = "corrected_reference.zarr"

NO_SURGERY = (
    "scGen has no surgery: nothing is trained, and obsm['X_emb'] holds the query as the reference's encoder sees it, with a "
    "batch effect that sets it apart from the reference."
)


def is_scgen(folder: ModelFolder) -> bool:
    return has_attributes(
        folder, "x_dim_", "z_dim_", "hidden_layer_sizes_", "dr_rate_", without=("condition_key_", "condition_keys_", "registry_")
    )


def scgen_card(folder: ModelFolder) -> ModelCard:
    """Raises `RefmapError` for a model that is incomplete."""
    attributes = attributes_of(folder)
    card = start_card(folder, "scGen")
    check_genes(card, folder, attributes["x_dim_"])
    card.input, card.n_latent, card.takes_new_labels = "lognorm", int(attributes["z_dim_"]), True
    card.conditions = {key: list(values) for key, values in read_conditions(folder, card.n_latent).items()}
    card.warnings = [NO_SURGERY]
    lacking = []
    if "normalization" not in folder.facts:
        lacking.append("how its data was normalised (give log-normalised values of the same kind)")
    if not carries_corrected(folder):
        lacking.append("the corrected reference, without which the query is not corrected by its labels")
    if lacking:
        card.warnings.append(f"{folder.shown} lacks {' and '.join(lacking)}.")
    return card


def carries_corrected(folder: ModelFolder) -> bool:
    return folder.has(f"{CORRECTED}/.zgroup")
