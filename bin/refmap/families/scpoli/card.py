"""The card of a scPoli, from its inert files."""

from __future__ import annotations

from ...common.errors import RefmapError
from ...models.card import ModelCard, texts
from ...models.folder import ModelFolder
from ...models.pickles import Tensor
from ..scarches.files import attributes_of, check_genes, has_attributes, input_of, start_card

# What the constructor is given when scArches 0.6 loads a model.
_NEEDED = {
    "beta_",
    "cell_type_keys_",
    "cell_types_",
    "condition_keys_",
    "conditions_",
    "conditions_combined_",
    "dr_rate_",
    "embedding_dims_",
    "embedding_max_norm_",
    "hidden_layer_sizes_",
    "inject_condition_",
    "input_dim_",
    "latent_dim_",
    "mmd_boundary_",
    "mmd_on_",
    "prototypes_labeled_",
    "prototypes_unlabeled_",
    "recon_loss_",
    "use_bn_",
    "use_ln_",
    "use_mmd_",
}
# What its network can be loaded with; `bernoulli` has a decoder that gives nothing back (scarches 0.6.1).
_LOSSES = ("nb", "zinb", "mse", "poisson")
_UNLABELED = ("Unknown", "unlabeled")


def is_scpoli(folder: ModelFolder) -> bool:
    return has_attributes(folder, "prototypes_labeled_", "prototypes_unlabeled_")


def scpoli_card(folder: ModelFolder) -> ModelCard:
    """Raises `RefmapError` for a model that is incomplete, has no batches, or that scArches 0.6 cannot load."""
    card, attributes = start_card(folder, "scPoli"), attributes_of(folder)
    lacking = sorted(_NEEDED - set(attributes))
    if lacking:
        raise RefmapError(
            f"{folder.shown} was saved by another version of scArches than 0.6 (it lacks {', '.join(lacking[:3])}): "
            "train the reference again with refmap or scArches 0.6."
        )
    check_genes(card, folder, attributes["input_dim_"])
    keys, conditions = texts(attributes["condition_keys_"]), attributes["conditions_"]
    if not keys or not all(conditions.get(key) for key in keys):
        raise RefmapError(f"{folder.shown} was trained without a batch column: train the reference with 'condition_keys'.")
    if attributes["recon_loss_"] not in _LOSSES:
        raise RefmapError(f"{folder.shown} models its data as {attributes['recon_loss_']}; refmap maps {', '.join(_LOSSES)}.")
    card.batch_key, card.batches = keys[0], texts(conditions[keys[0]])
    card.categorical_covariates = {key: texts(conditions[key]) for key in keys[1:]}
    card.input = input_of(attributes["recon_loss_"])
    card.n_latent = int(attributes["latent_dim_"])
    _describe_labels(card, attributes)
    card.surgery_ready = "encoder" in attributes["inject_condition_"]
    if not card.surgery_ready:
        card.warnings.append(
            f"{folder.shown} was trained without 'encoder' in inject_condition: its encoder never sees the batch, so surgery "
            "cannot move the query in the latent space, whatever its batch effect; retrain the reference with it."
        )
    return card


def _describe_labels(card: ModelCard, attributes: dict) -> None:
    """Label columns, labels with a prototype, and the category of cells without a label."""
    means = attributes["prototypes_labeled_"].get("mean")
    n_prototypes = means.shape[0] if isinstance(means, Tensor) else 0
    # Prototypes have the order of the labels; a label that came last and was never trained has none.
    known = list(attributes["cell_types_"].items())[:n_prototypes]
    for key in texts(attributes["cell_type_keys_"]):
        card.labels[key] = [str(label) for label, keys in known if key in texts(keys)]
    if not card.labels:
        return
    unknown = texts(attributes.get("unknown_ct_names_"))
    free = (name for name in _UNLABELED if name not in {str(label) for label, _ in known})
    card.unlabeled_category = unknown[0] if unknown else next(free, "no label")
    card.takes_new_labels, card.predicts, card.latent_of_labels = True, n_prototypes > 0, n_prototypes > 0
    card.adds = ["unlabeled_prototype"]
    unlabeled = attributes["prototypes_unlabeled_"].get("mean")
    card.unlabeled_prototypes = unlabeled.shape[0] if isinstance(unlabeled, Tensor) else 0
