"""Architecture surgery on models of scvi-tools (Lotfollahi et al. 2022, https://doi.org/10.1038/s41587-021-01001-7).

The reference grows by what is new in the query (see :mod:`.growth`); everything that it holds is frozen by a gradient
mask, and its hash is taken from its file and again from the grown model after training.
"""

from __future__ import annotations

import hashlib
import inspect
import math
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ...errors import RefmapError
from .growth import Growth, category_sizes, growth_of

if TYPE_CHECKING:
    import anndata as ad
    import mudata

# The encoder of the library size belongs to no category: where a model uses one, scvi-tools trains it whole in surgery.
# The latent does not depend on it.
LIBRARY_ENCODER = "l_encoder"
# Counts its calls and nothing else.
COUNTERS = "num_batches_tracked"
# Below this number of cells a validation set would hold one cell or none.
FEWEST_FOR_VALIDATION = 20


def model_class(name: str) -> type:
    """Return the class of scvi-tools of that name.

    Raises
    ------
    RefmapError
        If this version of scvi-tools has no such class.
    """
    import scvi

    for module in (scvi.model, scvi.external):
        if hasattr(module, name):
            return getattr(module, name)
    raise RefmapError(f"The model is a {name}, which scvi-tools {scvi.__version__} does not have: update the environment.")


def read_saved(folder: Path, kind: type) -> dict:
    """Read a saved model, today's format or that of before 0.15, as ``model_state_dict``, ``var_names``, ``attr_dict``.

    This runs the file's pickle: only a model that passed inspection, a card without a fault, may come here.
    """
    import torch

    with tempfile.TemporaryDirectory() as scratch:
        if not (folder / "model.pt").exists():
            kind.convert_legacy_save(str(folder), scratch, overwrite=True)
            folder = Path(scratch)
        saved = torch.load(folder / "model.pt", map_location="cpu", weights_only=False)
    _complete(saved)
    return saved


def as_mudata(query: ad.AnnData, setup: dict, protein_key: str) -> mudata.MuData:
    """Take an aligned query apart into the modalities of genes and proteins that a totalVI was set up from.

    Parameters
    ----------
    query
        Counts of genes in X, of proteins in ``obsm[protein_key]``, both cells x features.
    setup
        Arguments of the reference's ``setup_mudata``.
    protein_key
        The key of the proteins in obsm.
    """
    import anndata as ad
    import mudata

    proteins = query.obsm[protein_key]
    modalities = {
        setup["modalities"]["rna_layer"]: ad.AnnData(query.X, obs=query.obs.copy(), var=query.var[[]]),
        setup["modalities"]["protein_layer"]: ad.AnnData(
            proteins.to_numpy(), obs=query.obs.copy(), var=pd.DataFrame(index=proteins.columns)
        ),
    }
    for modality, layer in (("rna_layer", setup["rna_layer"]), ("protein_layer", setup["protein_layer"])):
        if layer:
            adata = modalities[setup["modalities"][modality]]
            adata.layers[layer] = adata.X
    # Each obs column may have been registered from a modality or from the whole: it is in all of them.
    result = mudata.MuData(modalities)
    for column in query.obs:
        result.obs[column] = query.obs[column]
    return result


def _complete(saved: dict) -> None:
    """Add what models of older versions lack and today's scvi-tools expects."""
    import torch

    registry = saved["attr_dict"]["registry_"]
    registry.setdefault("setup_method_name", "setup_anndata")
    state = saved["model_state_dict"]
    background = state.get("background_pro_alpha")
    # totalVI up to 1.1: scvi-tools' own conversion of old models fills in zeros as well.
    if background is not None and "log_per_batch_efficiency" not in state:
        state["log_per_batch_efficiency"] = torch.zeros_like(background)


@dataclass
class Surgery:
    """A reference of scvi-tools grown by a query, and what is needed to prove it unmoved.

    Attributes
    ----------
    model
        The grown model, an instance of the reference's class.
    reference
        The reference's tensors by name, as its file holds them.
    growths
        Where each of these lies in the grown model.
    label_key
        Column of the labels that the model predicts, None if it predicts none.
    retrained
        Name of the one part that surgery may train whole, None if there is none.
    warnings
        Sentences for the user.
    """

    model: object
    reference: dict
    growths: dict[str, Growth]
    label_key: str | None = None
    retrained: str | None = None
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def prepare(cls, path: Path, query: ad.AnnData, card: dict, freeze_dropout: bool) -> Surgery:
        """Grow the reference at `path` by the batches and covariate categories that are new in `query`.

        Parameters
        ----------
        path
            Folder of the reference.
        query
            Aligned query: cells x the model's genes in the model's order, obs columns under the model's keys.
        card
            The model's card.
        freeze_dropout
            Whether dropout is off during surgery.

        Raises
        ------
        RefmapError
            If scvi-tools cannot load the model.
        """
        kind = model_class(card["class_name"])
        saved = read_saved(path, kind)
        registry = saved["attr_dict"]["registry_"]
        old_sizes = category_sizes(registry)
        reference = {k: v.clone() for k, v in saved["model_state_dict"].items() if hasattr(v, "shape")}
        if card["layer"]:
            query.layers[card["layer"]] = query.X
        names_key = registry["setup_args"].get("protein_names_uns_key")
        if names_key:
            query.uns[names_key] = np.array(card["proteins"])
        if registry["setup_method_name"] == "setup_mudata":
            query = as_mudata(query, registry["setup_args"], card["protein_key"])
        with tempfile.TemporaryDirectory() as folder:
            import torch

            torch.save(saved, Path(folder) / "model.pt")
            try:
                model = kind.load_query_data(query, folder, freeze_dropout=freeze_dropout, freeze_batchnorm_decoder=True)
            except (RuntimeError, KeyError, ValueError, TypeError) as error:
                raise RefmapError(
                    f"scvi-tools could not load the {card['class_name']} '{card['model']}' for this query: {error}"
                ) from error
        growths = growth_of(model.module, reference, old_sizes, category_sizes(model.registry))
        observed = getattr(model.module, "use_observed_lib_size", True)
        surgery = cls(
            model,
            reference,
            growths,
            label_key=card["labels_key"] if card["predicts"] else None,
            retrained=None if observed else LIBRARY_ENCODER,
        )
        surgery._lay_out()
        surgery._freeze()
        return surgery

    def _lay_out(self) -> None:
        """Put the reference's values where they belong in the grown model."""
        state = self.model.module.state_dict()
        for name, growth in self.growths.items():
            if growth.silent is None:
                continue
            state[name][growth.place] = self.reference[name].to(state[name])
            state[name][growth.silent.to(state[name].device)] = 0
        self.model.module.load_state_dict(state)

    def _freeze(self) -> None:
        """Let gradients through to what the query adds and to nothing else."""
        for name, parameter in self.model.module.named_parameters():
            if self._retrained(name):
                continue
            growth = self.growths.get(name)
            idle = name.split(".")[0] == LIBRARY_ENCODER
            if idle or growth is None or not growth.trainable.any():
                parameter.requires_grad = False
                continue
            parameter.requires_grad = True
            mask = growth.trainable.to(parameter.device)
            parameter.register_hook(lambda gradient, mask=mask: gradient * mask.to(gradient.device))

    @property
    def parameters_total(self) -> int:
        return sum(p.numel() for p in self.model.module.parameters())

    @property
    def parameters_trainable(self) -> int:
        """Number of single values that training may move."""
        return sum(
            parameter.numel() if self._retrained(name) else int(self.growths[name].trainable.sum())
            for name, parameter in self.model.module.named_parameters()
            if parameter.requires_grad
        )

    def reference_sha256(self) -> str:
        """Hash the reference's tensors as its file holds them."""
        return _sha256({name: tensor for name, tensor in self.reference.items() if self._frozen(name)})

    def frozen_sha256(self) -> str:
        """Hash the same tensors as the grown model holds them: equal to :meth:`reference_sha256` if nothing moved."""
        state = self.model.module.state_dict()
        return _sha256({name: state[name][self.growths[name].place] for name in self.reference if self._frozen(name)})

    def _frozen(self, name: str) -> bool:
        return name in self.growths and not self._retrained(name) and not name.endswith(COUNTERS)

    def _retrained(self, name: str) -> bool:
        return name.split(".")[0] == self.retrained

    @property
    def device(self) -> str:
        """``cpu``, or the name of the GPU that the model is on."""
        import torch

        device = next(self.model.module.parameters()).device
        return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type

    def train(self, settings: dict, log=print) -> tuple[pd.DataFrame, dict]:
        """Train what the query added; return the history (a row an epoch) and what to record of the training.

        Raises
        ------
        RefmapError
            If the loss is no longer a number.
        """
        arguments = _training_arguments(type(self.model), settings, self.model.adata.n_obs, self.warnings)
        return run_training(self.model, arguments, log)

    def embed(self) -> np.ndarray:
        """Return the query's latent, float32, cells x latent dimensions."""
        self.model.is_trained_ = True
        return np.asarray(self.model.get_latent_representation(), dtype=np.float32)

    def predict(self) -> pd.DataFrame | None:
        """Return the model's own probabilities of its labels, cells x labels, or None if it has no classifier."""
        if self.label_key is None:
            return None
        probabilities = self.model.predict(soft=True)
        # TOTALANVI and others give (probabilities, attributions).
        return probabilities[0] if isinstance(probabilities, tuple) else probabilities

    def save(self, folder: Path) -> None:
        """Write the grown model: a reference for the next mapping."""
        self.model.save(str(folder), overwrite=True, save_anndata=False)

    @staticmethod
    def seed(seed: int) -> None:
        """Fix every random number generator that scvi-tools uses."""
        import scvi

        scvi.settings.seed = seed

    @staticmethod
    def versions() -> dict[str, str]:
        """Return the versions of the libraries that decide a result."""
        from importlib.metadata import version

        return {name: version(name) for name in ("scvi-tools", "torch", "lightning", "anndata", "numpy")}


def _sha256(tensors: dict) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _training_arguments(kind: type, settings: dict, n_cells: int, warnings: list[str]) -> dict:
    """Turn the sheet's ``train`` settings into arguments of ``kind.train``."""
    arguments = dict(settings)
    plan = dict(arguments.pop("plan_kwargs", None) or {})
    # Weight decay would pull at the frozen weights too.
    plan["weight_decay"] = 0.0
    learning_rate = arguments.pop("learning_rate", None)
    if learning_rate is not None:
        plan["lr"] = learning_rate
    # Some classes have a few of the plan's settings as arguments of `train`, whose defaults win over the plan.
    for name in plan.keys() & inspect.signature(kind.train).parameters.keys():
        arguments[name] = plan.pop(name)
    if n_cells < FEWEST_FOR_VALIDATION:
        warnings.append(
            f"With {n_cells} cells there is no validation set: all of them train, for all the epochs, without early stopping."
        )
        for name in [name for name in arguments if name.startswith("early_stopping_")]:
            del arguments[name]
        arguments |= {"train_size": 1.0, "early_stopping": False, "check_val_every_n_epoch": None}
    return arguments | {"plan_kwargs": plan}


def run_training(model, arguments: dict, log=print) -> tuple[pd.DataFrame, dict]:
    """Run ``model.train``: one line an epoch to `log`, no progress bar, nothing written beside it.

    Raises
    ------
    RefmapError
        If the loss is no longer a number.
    """
    from lightning.pytorch.callbacks import Callback

    class LogEpoch(Callback):
        epoch = 0

        def on_train_epoch_start(self, trainer, module):
            self.epoch = trainer.current_epoch + 1

        def on_train_epoch_end(self, trainer, module):
            numbers = {
                key: float(value)
                for key, value in trainer.callback_metrics.items()
                if key in ("train_loss_epoch", "elbo_train", "validation_loss", "elbo_validation")
            }
            if not all(math.isfinite(value) for value in numbers.values()):
                raise _diverged(self.epoch)
            shown = "  ".join(f"{key} {value:.1f}" for key, value in numbers.items())
            log(f"epoch {self.epoch}/{trainer.max_epochs}  {shown}")

    progress = LogEpoch()
    start = time.monotonic()
    # A loaded model carries its reference's history, to which scvi-tools would append.
    model.history_ = None
    try:
        model.train(**arguments, enable_progress_bar=False, callbacks=[progress])
    except ValueError as error:
        # torch's distributions refuse what is no number before any loss is seen.
        if "invalid values" not in str(error):
            raise
        raise _diverged(progress.epoch) from error
    epochs = int(model.trainer.current_epoch)
    history = pd.concat([frame.astype(float) for name, frame in model.history.items() if not name.endswith("_step")], axis=1)
    history.index = history.index.astype(int) + 1
    history.index.name = "epoch"
    return history, {
        "epochs": epochs,
        "max_epochs": int(arguments["max_epochs"]),
        "stopped_early": epochs < int(arguments["max_epochs"]),
        "seconds": round(time.monotonic() - start, 2),
    }


def _diverged(epoch: int) -> RefmapError:
    return RefmapError(
        f"Training diverged in epoch {epoch}: the loss is no longer a number. Lower learning_rate, or look at the query's counts."
    )
