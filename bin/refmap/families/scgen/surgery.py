"""Map a query onto a scGen reference: no training, the encoder's mean, and the removal of batch effects by label."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ...common.errors import RefmapError, listed
from ...common.storage import write_zarr
from ...models.facts import write_facts
from ...models.folder import ModelFolder
from .. import devices, freezing
from ..base import Settings, Surgery
from ..scarches.files import FILES
from ..scarches.loading import read_saved
from .card import CORRECTED, carries_corrected
from .correction import correct, means_by
from .network import decode, decode_and_encode, encode, make
from .response import CONDITIONS, condition_of, read_conditions, response

if TYPE_CHECKING:
    import anndata as ad
    import torch

CORRECTED_LATENT = "X_emb_scgen_corrected"
CORRECTED_EXPRESSION = "X_scgen_corrected_expression"
STIMULATED_LATENT = "X_emb_scgen_stimulated"
STIMULATED_EXPRESSION = "X_scgen_stimulated_expression"
# In uns['refmap']: the genes of either expression, and what was predicted.
GENES, RESPONSE = "scgen_genes", "scgen_response"


@dataclass
class ScgenSurgery(Surgery):
    """The reference's network, its corrected cells, and the query."""

    path: Path
    network: torch.nn.Module
    reference: dict[str, torch.Tensor]  # its tensors, as they were in its file
    corrected: ad.AnnData | None  # the reference's cells, if the model carries them: see `corrected_reference`
    query: ad.AnnData
    card: dict
    settings: Settings
    warnings: list[str] = field(default_factory=list)
    untrained = None
    parameters_trainable: int = 0

    @classmethod
    def prepare(cls, path: Path, query: ad.AnnData, card: dict, settings: Settings) -> ScgenSurgery:
        """Load the network. Raises `RefmapError` where its weights do not fit its attributes."""
        saved = read_saved(path, card["trusted"])
        network = make(saved.attributes)
        try:
            network.load_state_dict(saved.weights)
        except RuntimeError as error:
            raise RefmapError(f"The weights of '{card['model']}' do not fit its attributes: {error}") from error
        reference = {name: tensor.clone() for name, tensor in saved.weights.items()}
        return cls(path, network, reference, _read_corrected(path, card), query, card, settings)

    @property
    def device(self) -> str:
        return devices.device_of(self.network)

    @property
    def parameters_total(self) -> int:
        return sum(p.numel() for p in self.network.parameters())

    def embed(self) -> np.ndarray:
        """The mean of the latent posterior: float32, cells x latent dimensions."""
        return encode(self.network, self.query.X)

    def annotate(self, result: ad.AnnData) -> None:
        """Add what the query's cells are predicted to be when stimulated, and where their labels move them, as asked for."""
        if self.settings.options["stimulated"] is not None:
            self._stimulate(result)
        self._correct(result)

    def _stimulate(self, result: ad.AnnData) -> None:
        """Add the latent and the expression that the cells are predicted to have in another condition.

        It is what `predict` of the library gives, but with the posterior's mean and the labels' means wherever that draws.
        """
        options = self.settings.options
        key = condition_of(self.card, options)
        means = read_conditions(ModelFolder(self.path), self.card["n_latent"])[key]
        control, stimulated = means[options["control"]], means[options["stimulated"]]
        self._warn_of_labels(control, stimulated)
        delta = response(control, stimulated)
        result.obsm[STIMULATED_LATENT] = result.obsm["X_emb"] + delta
        result.obsm[STIMULATED_EXPRESSION] = decode(self.network, result.obsm[STIMULATED_LATENT])
        named = result.uns.setdefault("refmap", {})
        named[GENES] = np.array(self.card["genes"], dtype=object)
        named[RESPONSE] = {"condition": key, **{name: options[name] for name in ("control", "stimulated")}, "delta": delta}

    def _warn_of_labels(self, control: dict, stimulated: dict) -> None:
        """Say where cell types that only one side has are taken for a part of the response."""
        alone = sorted(set(control) ^ set(stimulated))
        if alone:
            self.warnings.append(
                f"Of the reference's control and stimulated cells only one side has {listed(alone)}: scGen's response takes how "
                "these cells differ from the others for a part of it."
            )

    def _correct(self, result: ad.AnnData) -> None:
        """Add the corrected latent, and the corrected expression where it was asked for, of a query with labels.

        It is what `map_query_data` of the library gives, but with the posterior's mean wherever that draws a sample: the
        same for every seed, and what its samples scatter around.
        """
        if self.corrected is None:
            return
        key, labels = self._labels()
        if (labels == self._unlabeled).all():
            self.warnings.append(
                "The query has no labels, so scGen's removal of batch effects by label was left out: name a column with "
                "labels_key, such as one of another mapping's predictions."
            )
            return
        latent, options = result.obsm["X_emb"], self.settings.options
        anchors = means_by(self.corrected.obsm[CORRECTED_LATENT], self.corrected.obs[key].astype(str).to_numpy())
        correction = correct(latent, labels, self._batches(), self._unlabeled, anchors, options["correct_towards"])
        self._warn(labels, correction.alone, correction.outnumbered)
        expression = np.empty(self.query.shape, np.float32) if options["corrected_expression"] else None
        result.obsm[CORRECTED_LATENT] = decode_and_encode(self.network, latent + correction.shift, expression)
        if expression is not None:
            result.obsm[CORRECTED_EXPRESSION] = expression
            result.uns.setdefault("refmap", {})[GENES] = np.array(self.card["genes"], dtype=object)
        labeled = labels != self._unlabeled
        self._add(labels[labeled], self._batches()[labeled], result.obs_names[labeled], result.obsm[CORRECTED_LATENT][labeled])

    @property
    def _unlabeled(self) -> str:
        return self.card["unlabeled_category"] or "Unknown"

    def _labels(self) -> tuple[str, np.ndarray]:
        """The model's label column, and the query's labels."""
        key = next(iter(self.card["labels"]))
        return key, self.query.obs[key].astype(str).to_numpy()

    def _batches(self) -> np.ndarray:
        key = self.card["batch_key"]
        return self.query.obs[key].astype(str).to_numpy() if key else np.full(self.query.n_obs, "query")

    def _warn(self, labels: np.ndarray, alone: list[str], outnumbered: list[str]) -> None:
        """Say which cells were not moved to the reference."""
        n_unlabeled = int((labels == self._unlabeled).sum())
        if n_unlabeled:
            self.warnings.append(f"{n_unlabeled:,} cells have no label: obsm['{CORRECTED_LATENT}'] leaves them where they are.")
        if alone:
            self.warnings.append(
                f"obsm['{CORRECTED_LATENT}'] leaves the cells of {', '.join(alone)} where they are: neither the reference nor "
                "another batch of the query has these labels."
            )
        if outnumbered:
            self.warnings.append(
                f"Of {', '.join(outnumbered)} the query has more cells in one batch than the reference has, and scGen moves "
                f"the fewer to the more: in obsm['{CORRECTED_LATENT}'] they do not lie where the reference's cells are, unless "
                "the option correct_towards is set to reference."
            )

    def _add(self, labels: np.ndarray, batches: np.ndarray, names: pd.Index, latent: np.ndarray) -> None:
        """Add corrected cells of the query to those of the reference, for the next query."""
        key, old = next(iter(self.card["labels"])), self.corrected
        self.corrected = corrected_reference(
            key,
            np.concatenate([old.obs[key].astype(str), labels]),
            np.concatenate([old.obs["batch"].astype(str), batches]),
            np.concatenate([old.obs_names, names]),
            np.concatenate([old.obsm[CORRECTED_LATENT], latent]),
        )

    def save(self, folder: Path) -> None:
        """Write the model, whose network is the reference's, with the query's cells, batches and labels added."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in (*FILES, CONDITIONS) if self.card["conditions"] else FILES:
            shutil.copyfile(self.path / name, folder / name)
        card = self.card
        facts = {name: card[name] for name in ("normalization", "batch_key", "unlabeled_category")}
        facts |= {"genes": ModelFolder(self.path).facts.get("genes")}  # where they go by other names than in the model's files
        facts |= {"batches": _union(card["batches"], self._batches()) if card["batch_key"] else None, "labels": card["labels"]}
        if self.corrected is not None:
            key = next(iter(card["labels"]))
            facts["labels"] = card["labels"] | {key: _union(card["labels"][key], self.corrected.obs[key].astype(str))}
            write_zarr(self.corrected, folder / CORRECTED)
        write_facts(folder, **{name: fact for name, fact in facts.items() if fact})

    def frozen_sha256(self) -> str:
        return freezing.sha256(self.network.state_dict())

    @staticmethod
    def versions() -> dict[str, str]:
        return freezing.versions("scarches", "torch", "anndata", "numpy")


def corrected_reference(key: str, labels: np.ndarray, batches: np.ndarray, names: np.ndarray, latent: np.ndarray) -> ad.AnnData:
    """The labeled cells of a reference as later queries need them.

    Cells x 0, obs `key` (the label) and ``batch``, obsm ``X_emb_scgen_corrected``. The library's `map_query_data` wants
    their corrected expression, dense, and encodes it anew; its latent is what comes of it, at a hundredth of the size.
    """
    import anndata as ad

    obs = pd.DataFrame({key: pd.Categorical(labels), "batch": pd.Categorical(batches)}, index=pd.Index(names, dtype=object))
    return ad.AnnData(obs=obs, obsm={CORRECTED_LATENT: np.asarray(latent, dtype=np.float32)})


def _read_corrected(path: Path, card: dict) -> ad.AnnData | None:
    import anndata as ad

    if not card["labels"] or not carries_corrected(ModelFolder(path)):
        return None
    corrected, key = ad.read_zarr(path / CORRECTED), next(iter(card["labels"]))
    if key not in corrected.obs or corrected.obsm.get(CORRECTED_LATENT, np.empty((0, 0))).shape[1] != card["n_latent"]:
        raise RefmapError(
            f"{CORRECTED} of '{card['model']}' has not the label column '{key}' or not the model's {card['n_latent']} latent "
            "dimensions: copy the model again."
        )
    return corrected


def _union(known: list[str], more: np.ndarray) -> list[str]:
    return [*known, *sorted(set(more) - set(known))]
