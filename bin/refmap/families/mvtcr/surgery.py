"""Architecture surgery on an mvTCR: each new batch gets an embedding, or a column of its own, and these alone are trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ...common.errors import RefmapError, brief
from ...models.facts import write_facts
from ...models.pickles import allowed_pickle, trusted_pickle
from .. import devices, freezing
from ..base import Settings, Surgery
from ..scarches.loading import Growth, growth_of, held, hold_batch_norm, lay_out
from .card import FILE, n_conditions
from .network import Cells, Network
from .training import train

if TYPE_CHECKING:
    import anndata as ad
    import torch

EMBEDDED_BY = "embedded_by"
BOTH, RNA, NOTHING = "RNA and receptor", "RNA", "nothing"


class MvtcrSurgery(Surgery):
    """The grown network, the reference's tensors, and the query."""

    def __init__(self, saved: dict, query: ad.AnnData, card: dict, settings: Settings) -> None:
        from .receptors import encode, read_chains

        self.saved, self.query, self.card, self.settings = saved, query, card, settings
        self.warnings: list[str] = []
        self.batches = list(card["batches"])
        if card["batch_key"]:
            batches = query.obs[card["batch_key"]].astype(str)
            self.batches += [batch for batch in dict.fromkeys(batches) if batch not in self.batches]
        self.network = Network(saved, len(self.batches))
        self.reference: dict[str, torch.Tensor] = saved["state_dict"]
        self._grow()
        tcr = self.network.parameters["tcr"]
        self.chains = read_chains(query)
        receptors = encode(
            self.chains, query.obs_names, saved["aa_to_id"], int(tcr["max_tcr_length"]), tcr.get("beta_only", False)
        )
        numbers = pd.Index(self.batches).get_indexer(batches).astype(np.int64) if card["batch_key"] else None
        self.cells = Cells(query.X.tocsr(), receptors, numbers)
        if card["receptors"] == "needed":
            self.placed = receptors.known
        self._report()
        self.device = devices.device_of(self.network.module)

    @classmethod
    def prepare(cls, path: Path, query: ad.AnnData, card: dict, settings: Settings) -> MvtcrSurgery:
        """Load the reference and grow it.

        Raises `RefmapError` where its weights do not fit its settings, or where no cell can be embedded.
        """
        import torch

        unpickler = trusted_pickle() if card["trusted"] else allowed_pickle()
        saved = torch.load(path / FILE, map_location="cpu", weights_only=False, pickle_module=unpickler)
        surgery = cls(saved, query, card, settings)
        if surgery.placed is not None and not surgery.placed.any():
            raise RefmapError(
                f"No cell has a receptor that '{card['model']}' takes, and it embeds no cell without: {_listed(surgery.cells)}."
            )
        return surgery

    def _grow(self) -> None:
        """Lay the reference out in the grown network, start new batches as the mean of the known ones, and freeze all else."""
        module, number = self.network.module, n_conditions(self.saved)
        state = module.state_dict()
        odd = set(state) ^ set(self.reference)
        try:
            if odd:
                raise ValueError(f"there is no counterpart of {', '.join(sorted(odd)[:3])}")
            self.growths: dict[str, Growth] = {
                name: growth_of(tensor.shape, state[name].shape) for name, tensor in self.reference.items()
            }
            grown = [name for name, tensor in self.reference.items() if tensor.shape != state[name].shape]
            lay_out(module, self.reference, self.growths)
        except (IndexError, RuntimeError, ValueError) as error:
            raise RefmapError(f"The weights of '{self.card['model']}' do not fit its settings: {brief(error)}.") from error
        for name in grown:
            old = self.reference[name]
            if self.network.one_hot:  # its columns are the last ones of what the layer takes
                state[name][:, old.shape[1] :] = old[:, -number:].mean(dim=1, keepdim=True).to(state[name])
            else:
                state[name][number:] = old.mean(dim=0).to(state[name])
        for name, parameter in module.named_parameters():
            freezing.mask_gradients(parameter, self.growths[name].trainable)
        hold_batch_norm(module)
        module.eval()

    def _report(self) -> None:
        """Say which cells have no receptor that the model takes."""
        if self.card["receptors"] == "needed":
            fate = "have no embedding: their rows of obsm['X_emb'] hold no numbers (NaN), and labels, figures and pictures leave them out"
        else:
            fate = "are embedded by their RNA alone"
        without = int((~self.cells.receptors.known).sum())
        if without:
            self.warnings.append(f"{without:,} of {len(self.cells):,} cells {fate}: {_listed(self.cells)}.")

    @property
    def parameters_total(self) -> int:
        return sum(parameter.numel() for parameter in self.network.module.parameters())

    @property
    def parameters_trainable(self) -> int:
        """Number of single values that training may move."""
        named = self.network.module.named_parameters()
        return sum(int(self.growths[name].trainable.sum()) for name, parameter in named if parameter.requires_grad)

    @property
    def untrained(self) -> str | None:
        return Surgery.untrained if self.card["batch_key"] else None  # which the card has said

    def batch_size(self, settings: dict) -> int:
        return settings.get("batch_size") or int(self.network.parameters.get("batch_size") or super().batch_size(settings))

    def train(self, settings: dict, log: Callable = print) -> tuple[pd.DataFrame, dict]:
        cells = np.arange(len(self.cells)) if self.placed is None else np.flatnonzero(self.placed)
        defaults = {"batch_size": self.batch_size(settings), "learning_rate": self.network.parameters.get("learning_rate")}
        given = {name: value for name, value in settings.items() if value is not None}
        return train(self.network, self.cells, cells, defaults | given, self.settings, self.warnings, log)

    def embed(self) -> np.ndarray:
        return self.network.embed(self.cells)

    def annotate(self, result: ad.AnnData) -> None:
        """Add what scirpy says of the receptors, and by what each cell is embedded."""
        from .receptors import annotation

        for column, values in annotation(self.chains, result.obs_names).items():
            result.obs[column] = values
        alone = RNA if self.placed is None else NOTHING
        by = np.where(self.cells.receptors.known, BOTH, alone)
        result.obs[EMBEDDED_BY] = pd.Categorical(by, categories=[BOTH, alone])

    def save(self, folder: Path) -> None:
        """Write the file that the library writes, with the grown network, and what it cannot hold beside it."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: tensor.cpu() for name, tensor in self.network.module.state_dict().items()}
        save_model(self.saved | {"state_dict": state, "params_architecture": self.network.parameters}, folder)
        facts = {name: self.card[name] for name in ("genes", "normalization", "batch_key")} | {"batches": self.batches}
        write_facts(folder, **{name: fact for name, fact in facts.items() if fact})

    def frozen_sha256(self) -> str:
        return freezing.sha256(held(self.network.module, self.growths))

    @staticmethod
    def versions() -> dict[str, str]:
        return freezing.versions("mvtcr", "scirpy", "torch", "anndata", "numpy")


def save_model(saved: dict[str, Any], folder: Path) -> None:
    """Write a model as the library's `load_model` reads it."""
    import torch

    torch.save(saved, folder / FILE)


def _listed(cells: Cells) -> str:
    return ", ".join(f"{n:,} {reason}" for reason, n in cells.receptors.without.items())
