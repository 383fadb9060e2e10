"""The one file of a scAtlasVAE, and what it says of the model, read inertly.

`save_to_disk` of the library writes a dictionary: the weights, the genes, the constructor's settings, and the categories of
batches and labels as pandas' categorical arrays with a value for each of the reference's cells.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ...common.errors import RefmapError
from ...models.card import texts
from ...models.folder import ModelFolder
from ...models.pickles import category_values, index_values

FILE = "model.pt"  # as refmap calls it
_ENDINGS = (".pt", ".pth")
_TELLING = {"model_state_dict", "model_config", "batch_category", "label_category"}
# What the constructor takes where a file of an older version does not say.
DEFAULTS = {
    "inject_batch": True,
    "inject_label": False,
    "inject_additional_batch": True,
    "dispersion": "gene-cell",
    "batch_embedding": "embedding",
    "reconstruction_method": "zinb",
    "unlabel_key": "undefined",
    "batch_key": None,
    "label_key": None,
}


@dataclass
class Description:
    """What a file says of its model.

    Attributes
    ----------
    config
        The constructor's settings.
    genes
        In the model's order.
    batches
        The categories of the batch column and, behind it, of the library's additional ones.
    labels
        The labels of each label column, without the category of cells that have none.
    unlabeled
        That category.
    """

    config: dict[str, Any]
    genes: list[str]
    batches: dict[str, list[str]]
    labels: dict[str, list[str]]
    unlabeled: str

    @property
    def batch_sizes(self) -> list[int]:
        """How many categories of each batch column the decoder was made for."""
        return _sizes(self.config, "batch")

    @property
    def label_sizes(self) -> list[int]:
        return [len(labels) for labels in self.labels.values()]

    @property
    def fits(self) -> bool:
        """Whether the decoder was made for the batches that the file names.

        The library makes it for those of a query (1.0.5.9), and what it had learned of the reference's is lost.
        """
        return [len(values) for values in self.batches.values()] == self.batch_sizes

    @property
    def injected(self) -> list[str]:
        """What the decoder's first layer is told beside the latent, in its order: batch columns, and ``""`` for the label."""
        config, (main, *more) = self.config, [*self.batches] or [""]
        first = [main] * bool(main and config["inject_batch"]) + [""] * bool(self.labels and config["inject_label"])
        return first + more * bool(first and config["inject_additional_batch"])

    @property
    def seen(self) -> list[str]:
        """The batch columns whose new categories surgery can learn: the decoder sees them."""
        by_dispersion = list(self.batches)[:1] * (self.config["dispersion"] == "gene-batch")
        return [key for key in self.batches if self.fits and key in {*self.injected, *by_dispersion}]


def _sizes(config: dict, what: str) -> list[int]:
    return [int(n) for n in (config.get(f"n_{what}"), *(config.get(f"n_additional_{what}") or ())) if n]


def settings_of(what: str, keys: Iterable[str], sizes: list[int]) -> dict[str, Any]:
    """The constructor's settings of its columns of a kind, "batch" or "label", and of their numbers of categories."""
    (main, *more), keys = sizes or [0], list(keys)
    return {f"{what}_key": keys if more else (keys or [None])[0], f"n_{what}": main, f"n_additional_{what}": more or None}


def saved_file(folder: ModelFolder) -> str | None:
    """The name of the folder's scAtlasVAE; None where it holds none. Raises `RefmapError` where there are several."""
    files = [name for name in folder.files() if name.endswith(_ENDINGS) and "/" not in name]
    found = [name for name in files if _is_saved(folder.value(name))]
    if len(found) > 1:
        raise RefmapError(f"{folder.shown} holds {len(found)} models of scAtlasVAE ({', '.join(found)}): name the file to use.")
    return found[0] if found else None


def _is_saved(value: Any) -> bool:
    return isinstance(value, dict) and set(value) >= _TELLING


def describe(saved: dict, folder: ModelFolder) -> Description:
    """What an inert file says, with the genes of `refmap.yaml` beside it, where that gives them.

    Raises
    ------
    RefmapError
        If labels cannot be told from cells without one.
    """
    config = DEFAULTS | saved["model_config"]
    batches, labels = (_columns(saved, config, what) for what in ("batch", "label"))
    unlabeled = str(config["unlabel_key"])
    for key, values in labels.items():
        if unlabeled in values[:-1]:
            raise RefmapError(
                f"{folder.shown} has '{unlabeled}', the category of cells without a label, among the labels of '{key}' and not behind "
                "them, so which of the model's classes is which cannot be told: train the reference again."
            )
        labels[key] = [value for value in values if value != unlabeled]
    genes = texts(folder.facts.get("genes") or index_values(saved.get("model_var_index", [])))
    return Description(config, genes, batches, labels, unlabeled)


def _columns(saved: dict, config: dict, what: str) -> dict[str, list[str]]:
    """The batch or label columns and their categories. Older versions kept the keys behind the first by themselves."""
    keys = config[f"{what}_key"]
    keys = [keys] if isinstance(keys, str) else list(keys or [])
    keys += list(config.pop(f"additional_{what}_keys", None) or [])
    config[f"{what}_key"] = keys or None
    arrays = [saved.get(f"{what}_category"), *(saved.get(f"additional_{what}_category") or [])] if keys else []
    return {str(key): texts(category_values(array)) for key, array in zip(keys, arrays, strict=True)}
