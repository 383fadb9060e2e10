"""A saved scPoli as surgery takes it: names as text, embeddings within their limit, and prototypes named by the user."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from ..scarches.loading import Saved
from .novel import NewCellType

if TYPE_CHECKING:
    import torch

# A lookup in an embedding shortens rows that are longer than they may be. Rows that lie on the limit, as many do, are not
# touched for being a rounding error beyond it.
ROUNDING = 1e-6


def as_text(attributes: dict) -> dict:
    """The attributes with samples and labels as text, labels that have a prototype alone, and no cells of the reference."""
    attributes = dict(attributes)
    attributes["conditions_"] = {key: [str(name) for name in names] for key, names in attributes["conditions_"].items()}
    attributes["conditions_combined_"] = [str(name) for name in attributes["conditions_combined_"]]
    mean = attributes["prototypes_labeled_"]["mean"]
    known = list(attributes["cell_types_"].items())[: 0 if mean is None else len(mean)]
    attributes["cell_types_"] = {str(label): list(keys) for label, keys in known}
    clusters = attributes["prototypes_unlabeled_"]["mean"]
    if clusters is not None:  # the library saves a single one without its first dimension
        attributes["prototypes_unlabeled_"] = {"mean": clusters.detach().cpu().reshape(-1, attributes["latent_dim_"])}
    # A cell of each of the reference's samples with all that its obs said, which nothing reads.
    attributes["obs_metadata_"], attributes["share_metadata_"] = pd.DataFrame(), False
    attributes["labeled_indices_"] = []
    return attributes


def labeled_prototypes(attributes: dict) -> dict[str, torch.Tensor]:
    state = attributes["prototypes_labeled_"]
    return {} if state["mean"] is None else {name: state[name].detach().cpu().clone() for name in ("mean", "cov")}


def shorten(saved: Saved) -> None:
    """Shorten the embeddings of a file as each lookup would, so that no lookup changes them later."""
    import torch

    most = saved.attributes["embedding_max_norm_"]
    for i in range(len(saved.attributes["embedding_dims_"])):
        rows = saved.weights[f"embeddings.{i}.weight"]
        if most is not None:
            long = rows.norm(dim=1, keepdim=True) > most * (1 + ROUNDING)
            saved.weights[f"embeddings.{i}.weight"] = torch.where(long, torch.renorm(rows, 2, 0, most), rows)


def shorten_only_new(embedding: torch.nn.Embedding, n_old: int) -> None:
    """Let lookups shorten the rows from `n_old` on, and never one of the reference's."""
    import torch

    def shorten_new(most: float, embedding: torch.nn.Embedding, _: tuple) -> None:
        rows = embedding.weight.data[n_old:]
        if len(rows):
            rows.copy_(torch.renorm(rows, 2, 0, most))

    if embedding.max_norm is not None:
        embedding.register_forward_pre_hook(partial(shorten_new, embedding.max_norm))
        embedding.max_norm = None


def name_prototypes(attributes: dict, kind: NewCellType) -> None:
    """Make a labeled prototype of the mean of unlabeled ones. How far its cells spread is not known."""
    import torch

    unlabeled = attributes["prototypes_unlabeled_"]["mean"]
    mean = unlabeled[list(kind.prototypes)].mean(dim=0, keepdim=True)
    cov = torch.full((1, mean.shape[1], mean.shape[1]), float("nan"))
    state = attributes["prototypes_labeled_"]
    old = [] if state["mean"] is None else [(state["mean"].cpu(), state["cov"].cpu())]
    means, covs = (torch.cat(parts) for parts in zip(*old, (mean, cov)))
    attributes["prototypes_labeled_"] = {"mean": means, "cov": covs}
    attributes["cell_types_"] = attributes["cell_types_"] | {kind.name: [kind.key]}
