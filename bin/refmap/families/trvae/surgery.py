"""Architecture surgery on a trVAE of scArches: each new batch gets columns of its own, and these alone are trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base import Settings
from ..scarches.loading import quietly, read_saved
from ..scarches.surgery import ConditionSurgery, with_text_conditions

if TYPE_CHECKING:
    import anndata as ad


class TrvaeSurgery(ConditionSurgery):
    @classmethod
    def prepare(cls, path: Path, query: ad.AnnData, card: dict, settings: Settings) -> TrvaeSurgery:
        saved = read_saved(path, card["trusted"])
        saved.attributes = with_text_conditions(saved.attributes)
        with quietly():
            from scarches.models import TRVAE

            model = TRVAE.load_query_data(query, saved.as_model(query), remove_dropout=settings.freeze_dropout)
        # The library saves the rate without dropout, and a later reference would have lost its own.
        model.dr_rate_ = saved.attributes["dr_rate_"]
        return cls(model, query, card, settings, saved.weights)

    def trainer(self, adata: ad.AnnData, max_epochs: int, arguments: dict) -> Any:
        from scarches.trainers import trVAETrainer

        return trVAETrainer(self.model.model, adata, condition_key=self.card["batch_key"], **arguments)
