"""Architecture surgery on a scPoli: each new sample gets an embedding, and each new label a prototype.

De Donno et al. 2023, https://doi.org/10.1038/s41592-023-02035-2. All else is the reference's and stays as it is, its prototypes
too: labelled cells of the query are drawn to them, and do not move them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..base import Prediction, Settings
from ..freezing import sha256, versions
from ..scarches.loading import Saved, quietly, read_saved
from ..scarches.surgery import ConditionSurgery
from ..scarches.training import run_trainer, shuffled, trainer_arguments
from .loading import as_text, labeled_prototypes, name_prototypes, shorten, shorten_only_new
from .novel import read_new_cell_types
from .prototypes import (
    FEWEST_FOR_CLUSTERS,
    add_labels,
    cluster_prototypes,
    distances,
    label_codes,
    labeled_cells,
    spread,
)
from .training import complete_prototypes, finish, new_trainer, phases, split_groups

if TYPE_CHECKING:
    import anndata as ad
    import torch

# Cells of a batch by which `shot_surgery` compares it with the reference's.
MOST_FOR_SHOT = 1_000

LABELED, UNLABELED = "labeled", "unlabeled"
PROTOTYPE_COLUMNS = [
    *("set", "prototype", "labels_key", "label", "is_new"),
    *("distance", "spread", "relative_distance", "n_cells", "mean_uncertainty"),
]


class ScPoliSurgery(ConditionSurgery):
    """A scPoli grown by a query's samples and labels.

    Attributes
    ----------
    labels
        The labels of each cell as positions among the model's, cells x label columns; -1 for none.
    held_prototypes
        The reference's labeled prototypes as its file holds them, ``mean`` and ``cov``; empty where it has none.
    held_clusters
        Its prototypes without labels, or None.
    n_fixed
        Number of labels whose prototypes training may not move: the reference's, and those that the user named.
    started_from
        By new batch, that of the reference which `shot_surgery` started it as.
    """

    trainer_takes = ("p_prototype_loss",)

    def __init__(self, model: Any, query: ad.AnnData, card: dict, settings: Settings, saved: Saved, n_fixed: int):
        self.held_prototypes = labeled_prototypes(saved.attributes)
        self.held_clusters = saved.attributes["prototypes_unlabeled_"]["mean"]
        self.n_fixed = n_fixed
        self.n_old = [len(conditions) for conditions in saved.attributes["conditions_"].values()]
        self.n_held = len(self.held_prototypes.get("mean", ()))
        self.labels = label_codes(query.obs, model.cell_type_keys_ or [], model.cell_types_)
        self.started_from: dict[str, str] = {}
        self.predictions: dict[str, Prediction] = {}
        super().__init__(model, query, card, settings, saved.weights)
        for embedding, n_old in zip(model.model.embeddings, self.n_old):
            shorten_only_new(embedding, n_old)
        if settings.options.get("shot_surgery"):
            self._shoot()

    @classmethod
    def prepare(cls, path: Path, query: ad.AnnData, card: dict, settings: Settings) -> ScPoliSurgery:
        """Grow the reference by the query's samples and labels.

        Raises
        ------
        RefmapError
            If the option ``new_cell_types`` names a prototype that the model does not have.
        """
        import anndata as ad

        saved = read_saved(path, card["trusted"])
        saved.attributes = as_text(saved.attributes)
        shorten(saved)
        attributes = dict(saved.attributes)
        for kind in read_new_cell_types(settings.options.get("new_cell_types"), card):
            name_prototypes(attributes, kind)
        unlabeled = {card["unlabeled_category"], *(attributes.get("unknown_ct_names_") or ())}
        keys = attributes["cell_type_keys_"] or []
        n_fixed, attributes["cell_types_"] = len(attributes["cell_types_"]), dict(attributes["cell_types_"])
        add_labels(attributes["cell_types_"], query.obs, keys, unlabeled)
        # The library adds a column to the obs that it is given.
        query = ad.AnnData(query.X, obs=query.obs.copy(), var=query.var[[]])
        labeled = labeled_cells(label_codes(query.obs, keys, attributes["cell_types_"]))
        with quietly():
            from scarches.models import scPoli

            grown = Saved(attributes, saved.weights, saved.genes).as_model(query)
            model = scPoli.load_query_data(
                query,
                grown,
                labeled_indices=labeled,
                unknown_ct_names=sorted(unlabeled - {None}),
                remove_dropout=settings.freeze_dropout,
            )
        # The library saves the rate without dropout, and a later reference would have lost its own.
        model.dr_rate_ = attributes["dr_rate_"]
        return cls(model, query, card, settings, saved, n_fixed)

    def _start_batches(self) -> None:
        """A new sample starts as the mean of the reference's, so that nothing hangs on random numbers before training."""
        super()._start_batches()
        for embedding, n_old in zip(self.model.model.embeddings, self.n_old):
            embedding.weight.data[n_old:] = embedding.weight.data[:n_old].mean(dim=0)

    def _shoot(self) -> None:
        """Start each new batch as that of the reference under which its cells are reconstructed best."""
        network, key = self.model.model, self.model.condition_keys_[0]
        codes, combined = network.condition_encoders[key], network.conditions_combined_encoder
        known, new = self.model.conditions_[key][: self.n_old[0]], self.model.conditions_[key][self.n_old[0] :]
        rng = np.random.default_rng(self.settings.seed)
        for batch in new:
            cells = np.flatnonzero(self.query.obs[key] == batch)
            cells = self.query[np.sort(rng.permutation(cells)[:MOST_FOR_SHOT])].copy()
            losses = {
                name: self.model.get_recon_loss(
                    cells,
                    condition_encoders={key: codes | {batch: codes[name]}},
                    conditions_combined_encoder=combined | {batch: combined[name]},
                )
                for name in known
            }
            best = self.started_from[batch] = min(losses, key=losses.get)
            network.embeddings[0].weight.data[codes[batch]] = network.embeddings[0].weight.data[codes[best]]
            if network.theta is not None:
                network.theta.data[:, combined[batch]] = network.theta.data[:, combined[best]]

    # ---------------------------------------------------------------------------------------------------------------- training

    def train(self, settings: dict, log: Callable = print) -> tuple[pd.DataFrame, dict]:
        options, epochs = self.settings.options, int(settings["max_epochs"])
        cells = shuffled(self.query, self.settings.seed)
        labeled = labeled_cells(label_codes(cells.obs, self.model.cell_type_keys_ or [], self.model.cell_types_))
        # Without labels there is nothing that prototypes could do: all epochs are of one kind, and stop early alike.
        pretraining = int(epochs * options["pretraining"]) if labeled else 0
        defaults = phases(pretraining, options["eta"], bool(labeled))
        groups = split_groups(cells.obs, self.model, labeled)
        arguments = trainer_arguments(settings, groups, self.settings.seed, self.warnings, self.trainer_takes, defaults)
        if arguments["use_early_stopping"] and pretraining:
            self.warnings.append(
                f"Early stopping watches the last {epochs - pretraining} of {epochs} epochs alone, in which labeled cells are drawn "
                "to their prototypes: the option 'pretraining' sets where they begin."
            )
        return run_trainer(new_trainer(self.model, cells, labeled, arguments), settings, log)

    # ------------------------------------------------------------------------------------------------------- what was found

    @cached_property
    def latent(self) -> np.ndarray:
        """The means of the latent posterior after training: float32, cells x latent dimensions."""
        self.model.model.eval()
        return np.asarray(self.model.get_latent(self.query, mean=True), dtype=np.float32)

    def embed(self) -> np.ndarray:
        return self.latent

    def predict(self) -> dict[str, Prediction]:
        """The label of the nearest prototype; its uncertainty is the distance from it in the latent space.

        Probabilities are the library's, a softmax of the negative distances: they tell the labels' order and are not calibrated.
        """
        complete_prototypes(self.model.model, self.latent, self.labels, self.n_fixed)
        means = self.model.model.prototypes_labeled["mean"]
        for key in self.model.cell_type_keys_ or []:
            places = self._places(key)
            if places:
                self.predictions[key] = _prediction(places, distances(self.latent, means[list(places.values())]))
        return self.predictions

    def _places(self, key: str) -> dict[str, int]:
        """The labels of a column, and the positions of their prototypes."""
        return {label: i for i, (label, keys) in enumerate(self.model.cell_types_.items()) if key in keys}

    @cached_property
    def clusters(self) -> torch.Tensor | None:
        """The prototypes without labels, clusters x latent dimensions: the query's, or those that the model came with."""
        wanted = self.settings.options.get("unlabeled_prototypes")
        if wanted and self.query.n_obs >= FEWEST_FOR_CLUSTERS:
            return cluster_prototypes(self.latent, self.settings.options["resolution"], self.settings.seed)
        if wanted:
            self.warnings.append(
                f"Too few cells for unlabeled prototypes: the query has {self.query.n_obs}, and it takes {FEWEST_FOR_CLUSTERS}."
            )
        return self.held_clusters

    @cached_property
    def nearest_cluster(self) -> np.ndarray | None:
        """The number of the nearest prototype without a label, a value a cell."""
        return None if self.clusters is None else distances(self.latent, self.clusters).argmin(axis=1)

    def annotate(self, result: ad.AnnData) -> None:
        """Say of each cell which prototype without a label is nearest."""
        if self.clusters is not None:
            numbers = [str(i) for i in range(len(self.clusters))]
            result.obs["unlabeled_prototype"] = pd.Categorical.from_codes(self.nearest_cluster, numbers)

    def write_results(self, folder: Path) -> None:
        """``samples.csv``: the embedding of each sample. ``prototypes.csv``: what each prototype is near to."""
        self.samples().to_csv(folder / "samples.csv", index=False)
        prototypes = self.prototypes()
        if len(prototypes):
            prototypes.to_csv(folder / "prototypes.csv", index=False)

    def samples(self) -> pd.DataFrame:
        """A row a sample: its column and name, whether the query has cells of it and how many, its embedding."""
        tables = []
        for key, embedding in zip(self.model.condition_keys_, self.model.model.embeddings):
            counts = self.query.obs[key].astype(str).value_counts()
            values = embedding.weight.detach().cpu().numpy()
            table = pd.DataFrame({"condition_key": key, "sample": self.model.conditions_[key]})
            table["is_query"] = table["sample"].isin(counts.index)
            table["n_cells"] = table["sample"].map(counts).fillna(0).astype(int)
            table["started_from"] = table["sample"].map(self.started_from)
            tables.append(table.join(pd.DataFrame(values, columns=[f"embedding_{i}" for i in range(values.shape[1])])))
        return pd.concat(tables, ignore_index=True)

    def prototypes(self) -> pd.DataFrame:
        """A row a prototype and label column.

        ``prototype`` is its number; ``label`` its own, or the nearest one for a prototype without, and ``distance`` that
        from this label's prototype; ``spread`` the root mean square distance of the label's own cells from its prototype;
        ``relative_distance`` distance by spread; ``is_new`` whether the label joined in this mapping; ``n_cells`` the query's
        cells that are nearest to this prototype, and ``mean_uncertainty`` of these.
        """
        rows = []
        for key, prediction in self.predictions.items():
            places, state = self._places(key), self.model.model.prototypes_labeled
            means, covariances = (state[what].detach().cpu()[list(places.values())] for what in ("mean", "cov"))
            spreads = spread(covariances)
            for (label, place), wide in zip(places.items(), spreads):
                own = {"label": label, "distance": np.nan, "spread": wide, "is_new": place >= self.n_held}
                rows.append(_row(LABELED, place, key, prediction, prediction.labels == label) | own)
            for i, distance in enumerate([] if self.clusters is None else distances(self.clusters.numpy(), means)):
                best = int(distance.argmin())
                near = {"label": list(places)[best], "distance": distance[best], "spread": spreads[best]}
                rows.append(_row(UNLABELED, i, key, prediction, self.nearest_cluster == i) | near)
        table = pd.DataFrame(rows, columns=PROTOTYPE_COLUMNS)
        table["relative_distance"] = table["distance"] / table["spread"]
        return table

    def _given(self, cells: np.ndarray, batches: np.ndarray | None) -> torch.Tensor | None:
        import torch

        network = self.model.model
        if "decoder" not in network.inject_condition:
            return None
        given = []
        for key, embedding, n_old in zip(self.model.condition_keys_, network.embeddings, self.n_old):
            if batches is None:
                codes = self.query.obs[key].iloc[cells].astype(str).map(network.condition_encoders[key]).to_numpy(dtype=np.int64)
            else:  # of a further column any of the reference's
                codes = batches % n_old
            given.append(embedding(torch.as_tensor(codes, device=embedding.weight.device)))
        return torch.hstack(given)

    def _dispersion(self, batches: np.ndarray) -> np.ndarray:
        """The mean of the reference's combinations of conditions, as its file does not say which of them is of which batch."""
        return self.reference["theta"].mean(dim=1).exp().cpu().numpy()

    # -------------------------------------------------------------------------------------------------------------- files

    def save(self, folder: Path) -> None:
        finish(self.model, self.clusters)
        super().save(folder)

    def reference_sha256(self) -> str:
        return sha256(self.reference | self.held_prototypes)

    def frozen_sha256(self) -> str:
        from ..scarches.loading import held

        state = self.model.model.prototypes_labeled
        prototypes = {name: state[name][: self.n_held] for name in self.held_prototypes}
        return sha256(held(self.model.model, self.growths) | prototypes)

    @staticmethod
    def versions() -> dict[str, str]:
        return versions("scarches", "torch", "anndata", "numpy", "igraph")


def _prediction(places: dict[str, int], distance: np.ndarray) -> Prediction:
    labels = np.array(list(places), dtype=object)
    weights = np.exp(distance.min(axis=1, keepdims=True) - distance)
    probabilities = weights / weights.sum(axis=1, keepdims=True)
    return Prediction(list(places), labels[distance.argmin(axis=1)], distance.min(axis=1), probabilities)


def _row(kind: str, number: int, key: str, prediction: Prediction, mine: np.ndarray) -> dict:
    """What a prototype's row says of the query's cells that are `mine`, its own."""
    uncertainty = prediction.uncertainty[mine].mean() if mine.any() else np.nan
    return {"set": kind, "prototype": number, "labels_key": key, "n_cells": int(mine.sum()), "mean_uncertainty": uncertainty}
