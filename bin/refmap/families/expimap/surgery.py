"""Architecture surgery on an expiMap of scArches, by new batches and new gene programmes.

What the library (scarches 0.6.1) does wrong when a model already has programmes of earlier queries, and this does not:

* it counts `new_n_ext` from nothing, so that a second query that asks for one programme adds none;
* it appends the new rows of the encoder at its end, although a constrained programme stands before the unconstrained ones:
  each of these would read its neighbour's row;
* it trains the programmes of earlier queries anew;
* the sparsity of unconstrained programmes, and of constrained ones with a soft mask, is not enforced by gradients, so that
  earlier ones shrink however frozen.

The genes that a soft mask lets in start from nothing, and not, as in the library, from random weights that a short training
would not have shrunk. Annealing of that penalty (`alpha_l1_epoch_anneal`) ends in an AttributeError, and is not used.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..base import Settings
from ..gmt import read_gmt
from ..scarches.loading import Growth, growth_of, quietly, read_saved
from ..scarches.surgery import ConditionSurgery, with_text_conditions
from .card import Programs, programs_in
from .programs import new_programs

if TYPE_CHECKING:
    import anndata as ad
    import torch

# Rows of the encoder that give the programmes of queries: the constrained ones first.
_EXPANDED = ("encoder.expand_mean_encoder.", "encoder.expand_var_encoder.")
CONSTRAINED, UNCONSTRAINED = "decoder.L0.ext_L_m.weight", "decoder.L0.ext_L.weight"
# What holds the constrained ones to their genes, in a network without a soft mask.
HARD_MASK = "decoder.L0.ext_L_m.mask"
# The losses in surgery, as in scArches' two tutorials of expiMap: without and with new programmes.
SURGERY = {"alpha_kl": 0.1, "alpha_epoch_anneal": 100}
EXTENSION = {"alpha_kl": 0.22, "alpha_epoch_anneal": 120, "gamma_ext": 0.7, "gamma_epoch_anneal": 50, "beta": 3.0}
TOP_GENES = 10


class ExpimapSurgery(ConditionSurgery):
    """See :class:`ConditionSurgery`.

    Attributes
    ----------
    before, after
        The programmes of the reference, and of the grown model.
    names
        Of the grown model's latent dimensions.
    masks
        Which genes belong to each of its programmes: bool, the reference's and the constrained ones x genes.
    """

    trainer_takes = ("gamma_ext", "gamma_epoch_anneal", "gamma_anneal_each", "beta")

    def __init__(self, before: Programs, after: Programs, names: list[str], masks: np.ndarray, *rest: Any) -> None:
        self.before, self.after, self.names, self.masks = before, after, names, masks
        super().__init__(*rest)
        self.facts["latent_names"] = names

    @classmethod
    def prepare(cls, path: Path, query: ad.AnnData, card: dict, settings: Settings) -> ExpimapSurgery:
        """Raises `RefmapError` where no programme of a GMT file has enough of the model's genes."""
        saved = read_saved(path, card["trusted"])
        attributes = saved.attributes = with_text_conditions(saved.attributes)
        before, warnings = programs_in(attributes), []
        names, members = _new_programs(card, settings, warnings)
        after = replace(
            before,
            constrained=before.constrained + len(names),
            unconstrained=before.unconstrained + settings.options["new_programs"],
        )
        mask = [*(attributes.get("ext_mask_") or []), *members.astype(int).tolist()]
        if names and settings.options["soft_mask"] is not None:
            # The earlier programmes keep to their genes as they are frozen, whichever mask they were trained with.
            saved.attributes = attributes = attributes | {"soft_ext_mask_": True}
            saved.weights = {name: tensor for name, tensor in saved.weights.items() if name != HARD_MASK}
        one_vs_all = after.unconstrained > before.unconstrained
        with quietly():
            from scarches.models import EXPIMAP

            model = EXPIMAP.load_query_data(
                query,
                saved.as_model(query),
                remove_dropout=settings.freeze_dropout,
                n_ext=after.unconstrained,
                n_ext_m=after.constrained,
                ext_mask=mask or None,
                # New unconstrained programmes are kept apart from all others (Hilbert-Schmidt independence criterion).
                use_hsic=one_vs_all,
                hsic_one_vs_all=one_vs_all,
            )
        # The library saves the rate without dropout, and a later reference would have lost its own.
        model.dr_rate_ = attributes["dr_rate_"]
        all_names = _grown_names(card["latent_names"], before, after, names)
        masks = np.array([*attributes["mask_"], *mask], dtype=bool)
        surgery = cls(before, after, all_names, masks, model, query, card, settings, saved.weights)
        surgery.warnings += warnings
        return surgery

    def grow(self, name: str, old: torch.Size, new: torch.Size) -> Growth:
        if name.startswith(_EXPANDED):
            first = range(self.before.constrained)
            then = range(self.after.constrained, self.after.constrained + self.before.unconstrained)
            return growth_of(old, new, {0: [*first, *then]})
        return growth_of(old, new)

    def trainable(self, name: str) -> torch.Tensor:
        import torch

        trainable = super().trainable(name)
        # Also where the reference's own mask is a soft one, which binds no new programme.
        if name == CONSTRAINED and self.settings.options["soft_mask"] is None:
            trainable = trainable & torch.tensor(self.masks[self.after.main :].T)
        return trainable

    def _freeze(self) -> None:
        import torch

        super()._freeze()
        if self.after.constrained > self.before.constrained:
            state = self.model.model.state_dict()[CONSTRAINED]
            new = self.masks[self.after.main + self.before.constrained :].T
            state[:, self.before.constrained :] *= torch.tensor(new).to(state)

    def trainer_defaults(self, max_epochs: int) -> dict[str, Any]:
        chosen = EXTENSION if self.after.unconstrained > self.before.unconstrained else SURGERY
        # What rises over some epochs has risen by the last.
        return {name: min(value, max_epochs) if name.endswith("_anneal") else value for name, value in chosen.items()}

    def trainer(self, adata: ad.AnnData, max_epochs: int, arguments: dict) -> Any:
        from scarches.trainers import expiMapTrainer

        soft = self.settings.options["soft_mask"]
        penalties = {"alpha": None, "alpha_l1": soft if self.after.constrained > self.before.constrained else None}
        trainer = expiMapTrainer(self.model.model, adata, condition_key=self.card["batch_key"], **penalties, **arguments)
        if self.model.use_hsic_:
            _avoid_lone_cells(trainer, self.warnings)
        self._spare_earlier_programs(trainer)
        return trainer

    def _spare_earlier_programs(self, trainer: Any) -> None:
        """Put the programmes of earlier queries back where the sparsity of the new ones shrank them."""
        shrink, state = trainer.apply_prox_ops, self.model.model.state_dict()
        earlier = [(state[name], self.reference[name]) for name in (CONSTRAINED, UNCONSTRAINED) if name in self.reference]

        def apply_prox_ops() -> None:
            shrink()
            for weight, before in earlier:
                weight[:, : before.shape[1]] = before.to(weight)

        trainer.apply_prox_ops = apply_prox_ops

    def directions(self) -> np.ndarray:
        """1 where a higher value of the latent dimension means more of its genes, -1 where less, 0 for one switched off."""
        holder = SimpleNamespace(uns={})
        self.model.latent_directions(method="sum", adata=holder)
        return holder.uns["directions"].astype(np.float32)

    def active(self) -> np.ndarray:
        """Whether each latent dimension has genes that the group lasso did not switch off."""
        return np.asarray(self.model.nonzero_terms(), dtype=bool)

    def variance(self) -> np.ndarray:
        return self.posterior()[1]

    def annotate(self, result: ad.AnnData) -> None:
        """Add obsm ``X_emb_var``, and in uns of ``refmap`` the names, directions and activity of the latent dimensions."""
        result.obsm["X_emb_var"] = self.variance()
        result.uns["refmap"]["latent_names"] = np.array(self.names, dtype=object)
        result.uns["refmap"]["latent_directions"] = self.directions()
        result.uns["refmap"]["latent_active"] = self.active()

    def write_results(self, folder: Path) -> None:
        """Write what each programme is and the genes on which it weighs most, and all genes of those that queries brought.

        The one to `program_genes.csv`, the other, if there are any, to `extension_genes.csv`.
        """
        weights = self._decoder_weights()
        genes = np.array(self.card["genes"], dtype=object)
        heaviest = np.argsort(-np.abs(weights), axis=0, kind="stable")[:TOP_GENES]
        given = [*self.masks.sum(axis=1), *[0] * self.after.unconstrained]
        table = pd.DataFrame(
            {
                "programme": self.names,
                "kind": self.after.kinds,
                "active": self.active(),
                "direction": self.directions().astype(int),
                "n_genes": given,
                "n_weights": (weights != 0).sum(axis=0),
                "top_genes": [" ".join(genes[[i for i in top if weights[i, k]]]) for k, top in enumerate(heaviest.T)],
            }
        )
        table.to_csv(folder / "program_genes.csv", index=False)
        if self.after.n > self.after.main:
            self._extension_genes(weights, genes).to_csv(folder / "extension_genes.csv", index=False)

    def _extension_genes(self, weights: np.ndarray, genes: np.ndarray) -> pd.DataFrame:
        """A row a gene of each programme that a query brought: its weight, the greatest first, and whether it was given."""
        directions, tables = self.directions(), []
        for k in range(self.after.main, self.after.n):
            given = self.masks[k] if k < len(self.masks) else np.zeros(len(genes), dtype=bool)
            order = np.argsort(-np.abs(weights[:, k]), kind="stable")
            order = order[(weights[order, k] != 0) | given[order]]
            # As in the direction of the programme, in which more of it means more of its genes.
            of = {"gene": genes[order], "weight": weights[order, k] * (directions[k] or 1), "given": given[order]}
            tables.append(pd.DataFrame({"programme": self.names[k], "kind": self.after.kinds[k], **of}))
        return pd.concat(tables, ignore_index=True)

    def _decoder_weights(self) -> np.ndarray:
        """The weight of each programme on each gene: genes x latent dimensions."""
        state = self.model.model.state_dict()
        names = ("decoder.L0.expr_L.weight", CONSTRAINED, UNCONSTRAINED)
        return np.concatenate([state[name].cpu().numpy() for name in names if name in state], axis=1)


def _new_programs(card: dict, settings: Settings, warnings: list[str]) -> tuple[list[str], np.ndarray]:
    """The programmes of the mapping's GMT file that the model can learn: names, and bool, programmes x genes."""
    if settings.gmt is None:
        return [], np.zeros((0, len(card["genes"])), dtype=bool)
    names, members, left_out = new_programs(read_gmt(settings.gmt), card, settings.options["min_genes"])
    warnings += left_out
    return names, members


def _grown_names(names: list[str], before: Programs, after: Programs, new: list[str]) -> list[str]:
    """The names of the grown model's programmes: new ones at the end of their kind."""
    constrained = before.main + before.constrained
    found = [f"unconstrained_{number}" for number in range(before.unconstrained + 1, after.unconstrained + 1)]
    return [*names[:constrained], *new, *names[constrained:], *found]


def _avoid_lone_cells(trainer: Any, warnings: list[str]) -> None:
    """Choose minibatches of two cells or more.

    The independence criterion of a single cell is 0, and the gradient of its root is not a number (scarches 0.6.1).
    """
    n = min(trainer.n_samples or len(trainer.train_data), len(trainer.train_data))
    if n == 1:
        trainer.beta = None
        warnings.append("With one cell to train on, new programmes are not kept apart from the others.")
        return
    while n % trainer.batch_size == 1 or trainer.batch_size == 1:
        trainer.batch_size += 1
