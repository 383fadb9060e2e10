"""The mappings of scAtlasTb's `DATASETS` YAML, one a file of each dataset."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

import yaml

from ..common.errors import RefmapError, nearest
from .entries import Entry, Fault, plain, show
from .fields import MAPQC_KEYS, REFERENCE_KEYS, TRAIN_KEYS

log = logging.getLogger(__name__)

EXTRA_KEYS = (
    "truth_key",
    "id_table",
    "obs_table",
    "obs_table_key",
    "gene_prefix",
    "orthologs",
    "round_counts",
    "modality",
    "query_embedding",
    "protein_key",
    "gmt",
    "airr",
    "options",
    "one_batch",
    "strategy",
    "engine",
    "correction",
    "min_gene_overlap",
    *REFERENCE_KEYS,
    *MAPQC_KEYS,
)
SETTING_KEYS = ("model", "layer", "var_key", "umap_colors", *EXTRA_KEYS)
MODEL_KEYS = (
    "batch_key",
    "labels_key",
    "categorical_covariate_keys",
    "continuous_covariate_keys",
    "size_factor_key",
    "freeze_dropout",
)
LEVELS = {
    "reference_mapping": SETTING_KEYS,
    "scarches": SETTING_KEYS,
    "model_params": (*MODEL_KEYS, *EXTRA_KEYS),
    "train_kwargs": TRAIN_KEYS,
}
# scAtlasTb's documentation shows its settings both under `scarches` and without it.
SECTIONS = {
    "reference_mapping": ("scarches", "model_params", "train_kwargs", "train_params"),
    "scarches": ("model_params", "train_kwargs", "train_params"),
}
SPELLINGS = {
    "categorical_covariate": "categorical_covariate_keys",
    "continuous_covariate": "continuous_covariate_keys",
    "train_params": "train_kwargs",
}
# scAtlasTb's settings of what a profile (threads) and the pictures' own code (neighbors) decide here.
LEFT_ALONE = ("threads", "neighbors")
_PLACE = {name: level for level in ("train_kwargs", "model_params", "scarches") for name in LEVELS[level]}


class _TextLoader(yaml.SafeLoader):
    """YAML's safe loader that keeps numbers and dates as the text that was written, and notes keys given twice."""

    def __init__(self, stream: str):
        super().__init__(stream)
        self.twice: list[str] = []

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict:
        # Before super() merges `<<`, whose keys may well be given again.
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        first: dict[str, int] = {}
        for key, _ in pairs:
            if isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                if key.value in first:
                    told = f"line {line}: key {show(key.value)} is given twice, first in line {first[key.value]}; keep one."
                    self.twice.append(told)
                first.setdefault(key.value, line)
        return super().construct_mapping(node, deep=deep)


_TextLoader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] in ("bool", "null", "merge")]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _load_yaml(text: str, name: str) -> dict:
    try:
        loader = _TextLoader(text)
        config = loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise RefmapError(f"{name}: line {mark.line + 1} is not YAML that can be read ({error.problem}).") from None
    except yaml.YAMLError as error:
        raise RefmapError(f"{name}: is not YAML that can be read ({' '.join(str(error).split())}).") from None
    except RecursionError:
        raise RefmapError(f"{name}: is not YAML that can be read (it is nested too deeply).") from None
    if not isinstance(config, dict):
        raise RefmapError(f"{name}: {'is empty' if config is None else 'is no mapping'}; list the queries under 'DATASETS'.")
    if loader.twice:
        raise RefmapError("\n".join(f"{name}: {sentence}" for sentence in loader.twice))
    return config


def read_yaml(text: str, name: str, reference: bool, faults: list[Fault]) -> list[Entry]:
    """Read scAtlasTb's configuration: `DATASETS`, and what its `defaults` say of them and of reference mapping."""
    config = _load_yaml(text, name)
    if "DATASETS" not in config:
        raise RefmapError(f"{name}: has no key 'DATASETS'.{nearest('DATASETS', config)}")
    datasets = _mapping(config, "DATASETS", name, faults)
    defaults = _mapping(config, "defaults", name, faults)
    chosen = defaults.get("datasets", list(datasets))
    if not isinstance(chosen, list):
        faults.append(Fault(f"key 'defaults.datasets' is {show(chosen)}, but must be a list of datasets.", name))
        chosen = list(datasets)
    shared = _mapping(defaults, "reference_mapping", name, faults)
    entries: list[Entry] = []
    for dataset in datasets:
        if not isinstance(dataset, str):
            faults.append(Fault(f"the name of a dataset is read as {show(dataset)}; put it in quotes.", name))
        elif dataset not in chosen:
            log.warning("%s: is not mapped, as 'defaults.datasets' leaves it out.", plain(dataset))
        else:
            entries += _dataset_entries(dataset, _mapping(datasets, dataset, name, faults), shared, faults)
    return entries


def _mapping(parent: dict, key: str, where: str, faults: list[Fault]) -> dict:
    """Return the mapping at a key, an empty one for nothing; anything else is a fault."""
    value = parent.get(key)
    if value is None or isinstance(value, dict):
        return value or {}
    faults.append(Fault(f"key {show(key)} is {show(value)}, but must be a mapping of keys to values.", where))
    return {}


def _dataset_entries(dataset: str, content: dict, shared: dict, faults: list[Fault]) -> list[Entry]:
    """Return one entry a file of a dataset; none if it has no input for reference mapping, as other modules' have not."""
    where = plain(dataset)
    inputs = _mapping(content, "input", where, faults)
    for key in [*_misspelt(content), *_misspelt(inputs)]:
        faults.append(Fault(f"unknown key {show(key)}. Did you mean 'reference_mapping'?", where))
    if inputs.get("reference_mapping") is None:
        if "reference_mapping" in content:
            log.warning("%s: is not mapped, as it has no 'reference_mapping' under 'input'.", where)
        return []
    own = _mapping(content, "reference_mapping", where, faults)
    values, labels = _settings(shared | own, where, faults)
    labels = {name: f"key '{_PLACE[name]}.{name}'" for name in _PLACE} | labels | {"query": "the path"}
    return [
        Entry(f"{where}/{plain(file_id)}", {"dataset": dataset, "file_id": file_id} | path | values, labels, dataset)
        for file_id, path in _files(inputs["reference_mapping"], where, faults)
    ]


def _misspelt(keys: Iterable[Any]) -> list[str]:
    """Return the keys that are all but `reference_mapping`; the bar is high, as other modules' keys are theirs."""
    others = [key for key in keys if isinstance(key, str) and key != "reference_mapping"]
    return difflib.get_close_matches("reference_mapping", others, cutoff=0.85)


def _files(given: Any, where: str, faults: list[Fault]) -> list[tuple[str, dict]]:
    """Return (file_id, {"query": path}) from a mapping, a list of paths or one path, whose file_id is its stem."""
    if isinstance(given, str):
        given = [given]
    if isinstance(given, list):
        pairs = [(PurePosixPath(path).stem if isinstance(path, str) else path, path) for path in given]
    elif isinstance(given, dict):
        pairs = list(given.items())
    else:
        pairs = []
    if not pairs:
        faults.append(Fault("'input.reference_mapping' names no file; give it as file_id: path.", where))
    for file_id, _ in pairs:
        if not isinstance(file_id, str):
            faults.append(Fault(f"a file_id is read as {show(file_id)}; put it in quotes.", where))
    return [(file_id, {} if path is None else {"query": path}) for file_id, path in pairs if isinstance(file_id, str)]


def _settings(given: dict, where: str, faults: list[Fault]) -> tuple[dict[str, Any], dict[str, str]]:
    """Flatten a dataset's settings to the fields of :class:`Mapping`; return values, and where each was found."""
    values: dict[str, Any] = {}
    labels: dict[str, str] = {}

    def visit(section: dict, level: str) -> None:
        for key, value in section.items():
            name = SPELLINGS.get(key, key)
            if key in SECTIONS.get(level, ()):
                descend(key, section)
            elif name not in LEVELS[level]:
                if not (level == "reference_mapping" and key in LEFT_ALONE):
                    faults.append(Fault(f"unknown key {show(key)} in '{level}'.{_suggestion(key, level)}", where))
            elif name in values:
                faults.append(Fault(f"{labels[name]} is given a second time as '{level}.{key}'; keep one.", where))
            elif value is not None:
                values[name], labels[name] = value, f"key '{level}.{key}'"

    def descend(key: str, section: dict) -> None:
        level = SPELLINGS.get(key, key)
        if level in seen:
            faults.append(Fault(f"key '{seen[level]}' is given a second time as '{key}'; keep one.", where))
        elif level == "train_kwargs" and section[key] is False:
            values["train"], labels["train"] = False, f"key '{key}'"
        else:
            visit(_mapping(section, key, where, faults), level)
        seen.setdefault(level, key)

    seen: dict[str, str] = {}
    visit(given, "reference_mapping")
    return values, labels


def _suggestion(key: Any, level: str) -> str:
    """Say where a key belongs that stands at another level, else which known one it is most like."""
    if key in _PLACE:
        return f" It belongs in '{_PLACE[key]}'."
    return nearest(key, [*LEVELS[level], *SECTIONS.get(level, ()), *SPELLINGS])
