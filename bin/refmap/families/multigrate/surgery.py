"""Architecture surgery on Multigrate: each new category gets an embedding, which encoders and decoders are given.

Nothing else moves. Where the model integrates on its batches, each new one also gets the dispersions of the counts' losses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...common.errors import RefmapError
from .. import freezing
from ..base import Settings
from ..scvi import surgery as scvi
from ..scvi.growth import category_sizes, growth_of
from ..scvi.loading import read_saved
from ..scvi.training import check_machine, seed_library
from .loading import grow
from .training import run
from .values import doubts, make_values

if TYPE_CHECKING:
    import anndata as ad
    import pandas as pd

# Cells that are embedded at once.
ROWS = 1024


@dataclass
class MultigrateSurgery(scvi.Surgery):
    """A Multigrate reference grown by a query."""

    @classmethod
    def prepare(cls, path: Path, query: ad.AnnData, card: dict, settings: Settings) -> MultigrateSurgery:
        """See `base.Surgery.prepare`; X (cells x the features of all modalities) holds counts, or whatever the model takes."""
        from multigrate.model import MultiVAE
        from torch import OutOfMemoryError
        from torch.nn import Dropout

        check_machine()
        seed_library(settings.seed)
        saved = read_saved(path, MultiVAE.__name__, card["trusted"])
        reference = {name: tensor.clone() for name, tensor in saved["model_state_dict"].items() if hasattr(tensor, "shape")}
        query.X = make_values(query.X, card["modalities"], card["modality_values"])
        try:
            model = grow(saved, query, card)
        except OutOfMemoryError:  # no fault of the model's: a machine with more memory may do it
            raise
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            raise RefmapError(f"Multigrate could not load '{card['model']}' for this query: {error}") from error
        state = {name: tensor for name, tensor in model.module.state_dict().items() if hasattr(tensor, "shape")}
        if odd := sorted(set(state) ^ set(reference)):
            raise RefmapError(
                f"The weights of '{card['model']}' are not those of the Multigrate that refmap has ('{odd[0]}' is in one of them alone): "
                "it was saved by another version; train it again."
            )
        warnings = doubts(query.X, card["modalities"], model.module.losses, card["modality_values"])
        sizes = category_sizes(model.registry)
        surgery = cls(model, reference, growth_of(model.module, reference, sizes, sizes), warnings=warnings)
        surgery._lay_out()
        surgery._freeze()
        model.module.eval()
        if settings.freeze_dropout:
            for part in model.module.modules():
                if isinstance(part, Dropout):
                    part.p = 0.0
        return surgery

    def _lay_out(self) -> None:
        """Put the reference's values where they belong; a new category starts as the mean of the reference's."""
        state = self.model.module.state_dict()
        for name, growth in self.growths.items():
            old, new = self.reference[name], state[name]
            if grown := [axis for axis in range(old.dim()) if old.shape[axis] != new.shape[axis]]:
                new[...] = old.mean(dim=grown[0], keepdim=True)
            growth.lay_out(old, new)
        self.model.module.load_state_dict(state)

    def _run(self, arguments: dict, log: Callable = print) -> tuple[pd.DataFrame, dict]:
        model, module = self.model, self.model.module
        # The library's loader of equal parts of each batch has no minibatches for few cells; what stands in the file stays.
        group, model.group_column = model.group_column, None
        coefficients = module.loss_coefs
        if module.modality_alignment == "Jeffreys":  # which compares batches of equal sizes alone
            module.loss_coefs = coefficients | {"integ": 0}
        try:
            return run(model, arguments, log)
        finally:
            model.group_column, module.loss_coefs = group, coefficients

    def embed(self) -> np.ndarray:
        """The mean of the joint posterior, of which the library's `get_model_output` gives a sample."""
        import torch

        self.model.is_trained_ = True
        module, means = self.model.module, []
        with torch.inference_mode():
            for tensors in self.model._make_data_loader(adata=self.model.adata, batch_size=ROWS):
                means.append(module.inference(**module._get_inference_input(tensors))["mu"].cpu().numpy())
        return np.concatenate(means).astype(np.float32)

    @staticmethod
    def versions() -> dict[str, str]:
        return freezing.versions("multigrate", "scvi-tools", "torch", "lightning", "anndata", "numpy")
