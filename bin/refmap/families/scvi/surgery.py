"""Architecture surgery on models of scvi-tools (Lotfollahi et al. 2022, https://doi.org/10.1038/s41587-021-01001-7).

The reference grows by what is new in the query (see :mod:`.growth`); everything that it holds is frozen by a gradient
mask, and its hash is taken from its file and again from the grown model after training.
"""

from __future__ import annotations

import inspect
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ...common.errors import RefmapError
from .. import base
from ..base import SCVI, Decoder, Prediction, Settings
from .decoding import decoder_of
from .grown import Grown, retrained
from .growth import category_sizes, growth_of
from .loading import as_mudata, model_class, read_saved
from .options import chosen_batches
from .proteins import impute, incomplete, mask_missing, read_masks
from .training import check_machine, reading_in_runs, run_training, seed_library, taken_by, training_arguments

if TYPE_CHECKING:
    from collections.abc import Callable

    import anndata as ad

# Cells of those on disk that are embedded at once, in whole minibatches of scvi-tools'.
BLOCK = 1 << 16


@dataclass
class Imputation:
    """What is imputed after surgery.

    Attributes
    ----------
    names, places
        The proteins, and where each is among the model's.
    batches
        The batches of the reference, by code, as measured in which; with each of the model's proteins that was measured there.
    samples
        How many of each cell's latent.
    seed
        Of the mapping.
    """

    names: list[str]
    places: np.ndarray
    batches: dict[int, np.ndarray]
    samples: int
    seed: int


@dataclass
class Surgery(Grown):
    """A reference grown by scvi-tools, an instance of its class.

    Attributes
    ----------
    imputation
        The proteins to be imputed, None where there are none.
    engine_reason
        Why the engine does not do it, in a few words.
    """

    imputation: Imputation | None = None
    engine_reason: str | None = None

    @classmethod
    def prepare(cls, path: Path, query: ad.AnnData, card: dict, settings: Settings) -> Grown:
        """Grow the reference at `path` by the batches and covariate categories that are new in `query`.

        Parameters
        ----------
        path
            Folder of the reference.
        query
            Aligned query: cells x the model's genes in the model's order, obs columns under the model's keys. X of a large one is on
            disk.
        card
            The model's card.
        settings
            Of the mapping.

        Raises
        ------
        RefmapError
            If scvi-tools cannot load the model.
        MachineFault
            If scvi-tools could load no model here.
        """
        saved, reason = read_saved(path, card["class_name"], card["trusted"]), "as asked"
        if settings.engine != SCVI:
            from .engine.registry import Unserved
            from .engine.surgery import EngineSurgery

            try:
                return EngineSurgery.of(saved, query, card, settings)
            except Unserved as left:
                reason = str(left)
        check_machine()
        seed_library(settings.seed)
        kind, registry = model_class(card["class_name"]), saved["attr_dict"]["registry_"]
        old_sizes, reference_masks = category_sizes(registry), read_masks(registry)
        reference = {k: v.clone() for k, v in saved["model_state_dict"].items() if hasattr(v, "shape")}
        if card["layer"]:
            query.layers[card["layer"]] = query.X
        names_key = registry["setup_args"].get("protein_names_uns_key")
        if names_key:
            query.uns[names_key] = np.array(card["proteins"])
        missing, lacking = query.uns.get("proteins_missing", ()), incomplete(query)
        if registry["setup_method_name"] == "setup_mudata":
            query = as_mudata(query, registry["setup_args"], card)
        import torch
        from scvi.data.fields import _layer_field

        # POISSONVI would look at 100 cells, to warn of counts that are no fragments, and refuse a query that has fewer.
        _layer_field._check_fragment_counts = lambda _values: True
        with tempfile.TemporaryDirectory() as folder:
            torch.save(saved, Path(folder) / "model.pt")
            try:
                model = kind.load_query_data(query, folder, freeze_dropout=settings.freeze_dropout, freeze_batchnorm_decoder=True)
                # What `load` does for models of older versions, and `load_query_data` forgets: their totalVI has another
                # background of proteins, their scANVI another loss.
                model.module.on_load(model)
            except torch.OutOfMemoryError:  # no fault of the model's: a machine with more memory may do it
                raise
            except (RuntimeError, KeyError, ValueError, TypeError) as error:
                raise RefmapError(
                    f"scvi-tools could not load the {card['class_name']} '{card['model']}' for this query: {error}"
                ) from error
        growths = growth_of(model.module, reference, old_sizes, category_sizes(model.registry))
        surgery = cls(
            model,
            reference,
            growths,
            label_key=next(iter(card["labels"])) if card["predicts"] else None,
            retrained=retrained(model.module),
            n_batches=max(1, len(card["batches"])),
            engine_reason=reason,
        )
        surgery._lay_out()
        surgery._freeze()
        if card["proteins"]:
            measured = mask_missing(model, reference_masks, old_sizes[0], missing)
            if settings.options:
                surgery._plan_imputation(card, lacking, measured, settings)
        return surgery

    def _plan_imputation(self, card: dict, lacking: list[str], measured: dict[int, np.ndarray], settings: Settings) -> None:
        """Settle what is to be imputed; `lacking` are the names of the proteins that the query lacks."""
        wanted = settings.options["impute_proteins"]
        names = {"missing": lacking, "all": card["proteins"], "none": []}[wanted]
        if not names:
            return
        batches = card["batches"] or [None]  # a model without a column of batches has one
        chosen = [batches.index(name) for name in chosen_batches(settings.options["protein_batches"], batches)]
        places = np.array([card["proteins"].index(name) for name in names])
        self.imputation = Imputation(
            list(names), places, {code: measured[code] for code in chosen}, settings.options["protein_samples"], settings.seed
        )

    def train(self, settings: dict, log=print) -> tuple[pd.DataFrame, dict]:
        """Train what the query added; return the history (a row an epoch) and what to record of the training.

        Raises
        ------
        RefmapError
            If the loss is no longer a number.
        """
        self.switch_dropout()
        arguments = training_arguments(taken_by(type(self.model)), settings, self.model.adata.n_obs, self.warnings)
        return self._run(arguments, log)

    def _run(self, arguments: dict, log: Callable = print) -> tuple[pd.DataFrame, dict]:
        log(f"trained by scvi-tools: {self.engine_reason}")
        self._read_in_runs()
        history, trained = run_training(self.model, arguments, log)
        return history, trained | {"engine": "scvi-tools", "engine_reason": self.engine_reason}

    @property
    def is_stored(self) -> bool:
        """Whether the query's counts are left on disk."""
        from ...common.stored_rows import StoredRows

        return isinstance(getattr(self.model.adata, "X", None), StoredRows)

    def _read_in_runs(self) -> None:
        """Let scvi-tools' own trainer take cells as they are quickly read from disk; those with labels only from memory."""
        if not self.is_stored:
            return
        model = self.model
        if not len(getattr(model, "_labeled_indices", ())):
            model._data_splitter_cls = reading_in_runs(model._data_splitter_cls, model.adata.X)
            return
        counts = model.adata.X = model.adata.X.to_memory()
        for name in model.adata.layers:
            model.adata.layers[name] = counts

    def batch_size(self, settings: dict) -> int:
        """Some classes have a default of their own."""
        own = inspect.signature(type(self.model).train).parameters.get("batch_size")
        return settings.get("batch_size") or (own.default if own else base.BATCH_SIZE)

    def embed(self) -> np.ndarray:
        """Return the query's latent, float32, cells x latent dimensions."""
        self.model.is_trained_ = True
        return self._by_blocks(lambda **of: self.model.get_latent_representation(**of))

    def _by_blocks(self, tell: Callable[..., np.ndarray | pd.DataFrame]) -> np.ndarray:
        """What the model tells of all cells, float32: of counts on disk, of some `indices` at a time."""
        if not self.is_stored:
            return np.asarray(tell(), dtype=np.float32)
        n_cells, told = self.model.adata.n_obs, None
        for start in range(0, n_cells, BLOCK):
            block = np.asarray(tell(indices=np.arange(start, min(start + BLOCK, n_cells))), dtype=np.float32)
            if told is None:
                told = np.empty((n_cells, block.shape[1]), dtype=np.float32)
            told[start : start + len(block)] = block
        return told

    def predict(self) -> dict[str, Prediction]:
        """Return the word of the model's classifier, if it has one."""
        if self.label_key is None:
            return {}
        classes: list[str] = []

        def probabilities(**of: np.ndarray) -> pd.DataFrame:
            told = self.model.predict(soft=True, **of)
            # TOTALANVI and others give (probabilities, attributions).
            table = told[0] if isinstance(told, tuple) else told
            classes[:] = table.columns
            return table

        values = self._by_blocks(probabilities)
        return {self.label_key: Prediction.of_probabilities(classes, values)}

    def decoder(self, latent: np.ndarray) -> Decoder | None:
        """What the model expects of the query's counts of genes, if that is what it models."""
        return decoder_of(self.model, latent, self.n_batches)

    def annotate(self, result: ad.AnnData) -> None:
        """Add the imputed proteins, tables of cells x proteins: denoised values, and the probability that a cell is not background."""
        if not self.imputation:
            return
        found = self.imputation
        self.seed(found.seed)
        tables = impute(self.model, found.places, found.batches, found.samples)
        for key, table in zip(("protein_imputed", "protein_foreground_probability"), tables, strict=True):
            result.obsm[key] = pd.DataFrame(table, index=result.obs_names, columns=pd.Index(found.names, dtype=object))

    def save(self, folder: Path) -> None:
        """Write the grown model: a reference for the next mapping."""
        self.model.save(str(folder), overwrite=True, save_anndata=False)
