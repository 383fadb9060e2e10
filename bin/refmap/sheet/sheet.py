"""The list of mappings a user asks for: read from a CSV sheet or from scAtlasTb's `DATASETS` YAML, and checked.

Both forms are first flattened to the same named values, every scalar as the text that was written (`001` stays `001`), and
then go through one model, :class:`Mapping`, so that they cannot come to mean different things. Every fault of every row is
collected before anything is raised.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ..common.errors import RefmapError, nearest
from ..common.strategies import STRATEGIES
from ..families.options import parse_options

log = logging.getLogger(__name__)

QUERY_SUFFIXES = (".h5ad", ".zarr", ".h5mu")
EXPANDED = "$*?[]{}"
# A name becomes part of file names (`<dataset>~<file_id>…`), which file systems limit to 255 bytes.
LONGEST_NAME = 100


# --- what a value must be -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Must:
    """What a value has to be, in the words of the sentence that says it is not."""

    be: str


def _not_boolean(value: Any) -> Any:
    """Keep pydantic from taking `true` for the number 1."""
    if isinstance(value, bool):
        raise ValueError("a boolean is no number")
    return value


def _name(value: str) -> str:
    if not re.fullmatch(r"(?!-)(?!\.{1,2}\Z)[A-Za-z0-9._-]+", value) or len(value) > LONGEST_NAME:
        raise ValueError("not a name")
    return value


def _printable(value: str) -> str:
    if not value.strip() or not value.isprintable():
        raise ValueError("empty, or holds control characters")
    return value


def _query(value: str) -> str:
    """Accept a path or URI that ends as one of the readable formats does; the `?…` of a URI does not count."""
    path = value.split("?")[0] if "://" in value else value
    if not path.rstrip("/").endswith(QUERY_SUFFIXES):
        raise ValueError("not a format that can be read")
    return _path(value)


def _path(value: str) -> str:
    """Accept a path that Nextflow can link to: it leaves these characters to the shell, even where globs are off."""
    if "://" not in value and any(character in EXPANDED for character in value):
        raise ValueError("a shell would expand it")
    return _printable(value)


def _layer(value: str) -> str:
    """Return `X` for X, `raw` for .raw.X, else the layer's name without `layers/`."""
    if value in ("X", "raw", "raw/X"):
        return value.removesuffix("/X")
    layer = value.removeprefix("layers/")
    if layer in ("X", "raw"):
        raise ValueError("would be taken for X or .raw.X")
    return _printable(layer)


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _options(value: Any) -> Any:
    """Accept `name=value;name=value`, or a mapping; each family says which names there are."""
    options = parse_options(value) if isinstance(value, str) else value
    if not isinstance(options, dict) or not all(isinstance(option, (str, bool)) for option in options.values()):
        raise ValueError("no options")
    return {name: json.dumps(option) if isinstance(option, bool) else option for name, option in options.items()}


def _plan(value: dict | None) -> dict | None:
    """Give the numbers in a mapping of plain text their type back; refuse the one argument that would unfreeze the model."""
    if value is None:
        return None
    plan = {key: _typed(text) for key, text in value.items()}
    if plan.get("weight_decay", 0) != 0:
        raise ValueError("weight decay moves frozen parameters")
    return plan


def _typed(text: Any) -> Any:
    if isinstance(text, str) and re.fullmatch(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?", text, re.ASCII):
        return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)
    return text


Number = BeforeValidator(_not_boolean)
Name = Annotated[
    str,
    AfterValidator(_name),
    Must(f"a name of at most {LONGEST_NAME} letters, digits, '.', '_' and '-' that does not start with '-'"),
]
Text = Annotated[str, AfterValidator(_printable)]
TEXT = Must("text on one line")
PATH = Must(
    f"a path without any of {' '.join(EXPANDED)}, which a shell would expand: rename it, or link to it under another name"
)
Link = Annotated[Annotated[str, AfterValidator(_path)] | None, PATH]
Layer = Annotated[str, AfterValidator(_layer)]
LAYER = Must("X, raw or the name of a layer (which cannot itself be X or raw: rename that layer)")
Key = Annotated[Text | None, TEXT]
Keys = Annotated[list[Text], BeforeValidator(_listed), Must("a name or a list of names")]
Flag = Annotated[bool, Must("true or false")]
Choice = Annotated[bool | None, Must("true or false")]
Positive = Annotated[int | None, Number, Field(ge=1), Must("a whole number of 1 or more")]
Fraction = Annotated[float | None, Number, Field(ge=0, le=1, allow_inf_nan=False), Must("a number from 0 to 1")]
Amount = Annotated[float | None, Number, Field(ge=0, allow_inf_nan=False), Must("a number of 0 or more")]


class Mapping(BaseModel):
    """One mapping as given: a row of the sheet, or one file of a YAML dataset with the dataset's settings."""

    model_config = ConfigDict(extra="forbid")

    dataset: Annotated[Name, Field(description="The dataset the query belongs to; with `file_id` it names the mapping.")]
    file_id: Annotated[Name, Field(description="The query's name, unique within its dataset.")]
    query: Annotated[
        str,
        AfterValidator(_query),
        Must(f"a path or URI that ends in .h5ad, .zarr or .h5mu, without any of {' '.join(EXPANDED)}"),
        Field(description="The query's counts: a path or URI of an .h5ad, .zarr or .h5mu."),
    ]
    model: Annotated[Link, Field(description="The reference model, a folder or file; not needed when this run trains it.")] = None
    batch_key: Annotated[Text, TEXT, Field(description="The column of the query's `obs` that holds its batches.")]
    labels_key: Annotated[
        Keys, Field(description="The column of `obs` with labels that the model is given; several for a model of several.")
    ] = []
    truth_key: Annotated[
        Key, Field(description="The column of `obs` that predictions are scored with; the model never sees it.")
    ] = None
    layer: Annotated[
        Layer,
        LAYER,
        Field(description="Where the counts are: `X`, `raw` (`.raw.X`) or a layer, with or without `layers/`."),
    ] = "X"
    var_key: Annotated[Key, Field(description="The column of `var` with the gene ids; none: its index.")] = None
    id_table: Annotated[Link, Field(description="A CSV or TSV of two columns that translates gene ids.")] = None
    modality: Annotated[Key, Field(description="The modality of an .h5mu that holds the counts; none: `rna`.")] = None
    protein_key: Annotated[
        Key, Field(description="Where the proteins are: a key of `obsm`, or the protein modality of an .h5mu.")
    ] = None
    categorical_covariate_keys: Annotated[
        Keys, Field(description="Columns of `obs` for the model's categorical covariates, in its order.")
    ] = []
    continuous_covariate_keys: Annotated[
        Keys, Field(description="Columns of `obs` for the model's continuous covariates, in its order.")
    ] = []
    gmt: Annotated[Link, Field(description="A GMT file of gene programmes for the model to learn in surgery (expiMap).")] = None
    options: Annotated[
        dict[str, str],
        BeforeValidator(_options),
        Must("options of the model's family: name=value, parted by ';' (in YAML also a mapping of names to values)"),
        Field(description="What the model's family can do beyond that: `name=value;name=value`, see the family's page."),
    ] = {}
    size_factor_key: Annotated[Key, Field(description="The column of `obs` with the cells' size factors.")] = None
    reference: Annotated[
        Link,
        Field(
            description="The model's own cells, whose labels are transferred (.h5ad, .zarr, .h5mu); none: those saved with the "
            "model, or those that this run trains it on."
        ),
    ] = None
    reference_layer: Annotated[
        Layer | None,
        LAYER,
        Field(description="Where the reference cells' counts are; none: `X`."),
    ] = None
    reference_var_key: Annotated[
        Key, Field(description="The column of the reference cells' `var` with the gene ids; none: its index.")
    ] = None
    reference_embedding: Annotated[
        Key, Field(description="The key of the reference cells' `obsm` with their embedding by this model; none: it is computed.")
    ] = None
    transfer_keys: Annotated[
        Keys,
        Field(description="Columns of the reference cells' `obs` whose labels are transferred; none: the model's label columns."),
    ] = []
    one_batch: Annotated[Choice, Field(description="Whether all cells count as one new batch; none: `--one_batch`.")] = None
    strategy: Annotated[
        Literal[STRATEGIES] | None,
        Must(f"one of {', '.join(STRATEGIES)}"),
        Field(description="Whether all batches are mapped in one surgery, or each in its own; none: `--strategy`."),
    ] = None
    freeze_dropout: Annotated[Flag, Field(description="Whether dropout in the frozen layers is off in training.")] = True
    min_gene_overlap: Annotated[
        Fraction, Field(description="The least fraction of the model's genes in the query; none: `--min_gene_overlap`.")
    ] = None
    train: Annotated[
        Flag,
        Field(description="Whether to train; `false` embeds with the model as it is (YAML: `train_kwargs: false`)."),
    ] = True
    max_epochs: Annotated[
        int | None,
        Number,
        Field(ge=0, description="Most epochs of training; 0: as `train: false`, none: `--max_epochs`."),
        Must("a whole number of 0 or more"),
    ] = None
    early_stopping: Annotated[Choice, Field(description="Whether training may stop early; none: `--early_stopping`.")] = None
    check_val_every_n_epoch: Annotated[
        Positive, Field(description="Epochs between validations; none: `--check_val_every_n_epoch`.")
    ] = None
    early_stopping_patience: Annotated[
        Positive, Field(description="Validations without progress before it stops; none: `--early_stopping_patience`.")
    ] = None
    batch_size: Annotated[Positive, Field(description="Cells in a minibatch; none: the model's own.")] = None
    learning_rate: Annotated[
        float | None,
        Number,
        Field(gt=0, allow_inf_nan=False, description="The learning rate; none: the model's own."),
        Must("a number above 0"),
    ] = None
    umap_colors: Annotated[Keys, Field(description="Columns of `obs` that the UMAP pictures are coloured by.")] = []
    train_size: Annotated[
        float | None,
        Number,
        Field(gt=0, le=1, description="The fraction of cells that is trained on."),
        Must("a number above 0 and at most 1"),
    ] = None
    early_stopping_monitor: Annotated[Key, Field(description="The quantity that early stopping watches.")] = None
    early_stopping_min_delta: Annotated[Amount, Field(description="The least change that counts as progress.")] = None
    plan_kwargs: Annotated[
        dict[str, Any] | None,
        AfterValidator(_plan),
        Must("a mapping of the training plan's arguments, in which weight_decay stays 0 lest frozen parameters move"),
        Field(description="Further arguments of the library's training (scvi-tools: of its plan)."),
    ] = None


FIELDS = Mapping.model_fields
LISTS = ("labels_key", "categorical_covariate_keys", "continuous_covariate_keys", "umap_colors", "transfer_keys")
# Where a row says which cells of the reference speak for their labels. A change of them trains nothing again.
REFERENCE_KEYS = ("reference", "reference_layer", "reference_var_key", "reference_embedding", "transfer_keys")
# Settings of training with a default among the pipeline's parameters, then those that are left to the model's library.
TRAIN_DEFAULTS = ("max_epochs", "early_stopping", "check_val_every_n_epoch", "early_stopping_patience")
YAML_ONLY = (
    "train_size",
    "early_stopping_monitor",
    "early_stopping_min_delta",
    "plan_kwargs",
)
TRAIN_OPTIONS = ("batch_size", "learning_rate", *YAML_ONLY)
TRAIN_KEYS = (*TRAIN_DEFAULTS, *TRAIN_OPTIONS)
COLUMNS = tuple(name for name in FIELDS if name not in YAML_ONLY)

# --- where the keys stand in the YAML -------------------------------------------------------------------------------------

EXTRA_KEYS = (
    "truth_key",
    "id_table",
    "modality",
    "protein_key",
    "gmt",
    "options",
    "one_batch",
    "strategy",
    "min_gene_overlap",
    *REFERENCE_KEYS,
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


@dataclass
class Entry:
    """One mapping before it is checked.

    `where` is what messages call it; `labels` what they call its values; `group` the YAML dataset that it shares its
    settings with, so that one fault in those is told once.
    """

    where: str
    values: dict[str, Any]
    labels: dict[str, str]
    group: str | None = None
    # Required values whose absence was told already, for the whole sheet.
    absent: frozenset[str] = frozenset()

    def fault(self, sentence: str) -> Fault:
        return Fault(sentence, self.where, self.group)

    def label(self, name: str) -> str:
        return self.labels.get(name, f"'{name}'")


@dataclass(frozen=True)
class Fault:
    sentence: str
    where: str
    group: str | None = None


def read_sheet(path: str | Path, defaults: dict[str, Any], reference: bool = False) -> list[dict]:
    """Return the mappings of a sheet, in its order.

    Parameters
    ----------
    path
        A `.yaml`/`.yml` in scAtlasTb's format, or a `.csv`/`.tsv` with columns among :data:`COLUMNS`.
    defaults
        The pipeline's parameters; they fill in what a row leaves open, and give the seed and the level of the warning.
    reference
        Whether this run trains a reference: then a row need not name a model.

    Raises
    ------
    RefmapError
        One line a fault, over all rows. A row of a CSV is told by its line in the file, the header being row 1.
    """
    path = Path(path)
    reader = {".yaml": _read_yaml, ".yml": _read_yaml, ".csv": _read_csv, ".tsv": _read_csv}.get(path.suffix.lower())
    if reader is None:
        raise RefmapError(f"{path.name}: a sheet is a file that ends in .yaml, .yml, .csv or .tsv; rename it, or give another.")
    faults: list[Fault] = []
    entries = reader(_read_text(path), path.name, reference, faults)
    mappings = [_check(entry, reference, faults) for entry in entries]
    _check_unique(entries, faults)
    if not entries and not faults:
        faults.append(Fault("holds no mapping; give at least one query.", path.name))
    if faults:
        raise RefmapError("\n".join(_sentences(faults)))
    return [_row(mapping, defaults) for mapping in mappings]


def bundled(rows: list[dict], most: int) -> list[dict]:
    """Give each row the number of its ``bundle``: up to `most` rows in a row of the sheet that have one model.

    The bundles hang on the sheet alone, so that a row that is mended or added leaves those of the others as they were.
    """
    seen: Counter[str | None] = Counter()
    numbers: dict[tuple[str | None, int], int] = {}
    result = []
    for row in rows:
        bundle = (row["model"], seen[row["model"]] // most)
        seen[row["model"]] += 1
        result.append(row | {"bundle": numbers.setdefault(bundle, len(numbers))})
    return result


def show(value: Any) -> str:
    """Return a value as a message tells it: on one line, and no longer than that can bear."""
    text = json.dumps(value) if isinstance(value, bool) else ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _plain(text: str) -> str:
    """Return a name as a message tells it where it stands for itself."""
    return ascii(text)[1:-1]


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RefmapError(f"{path.name}: is not UTF-8 text; save it as UTF-8.") from None
    except OSError as error:
        raise RefmapError(f"{path}: cannot be read ({error.strerror}); check the path.") from None


# --- the checks that both forms share -------------------------------------------------------------------------------------


def _check(entry: Entry, reference: bool, faults: list[Fault]) -> Mapping | None:
    """Return the checked mapping, or none; what is wrong with it is added to `faults`."""
    missing = [name for name in _required(reference) if name not in entry.values and name not in entry.absent]
    faults += [entry.fault(f"{entry.label(name)} is missing. {FIELDS[name].description}") for name in missing]
    try:
        mapping = Mapping(**entry.values)
    except ValidationError as error:
        wrong = dict.fromkeys(fault["loc"][0] for fault in error.errors() if fault["type"] != "missing")
        faults += [entry.fault(_wrong(entry, name)) for name in wrong]
        return None
    faults += [entry.fault(sentence) for sentence in _contradictions(entry, mapping)]
    return mapping


def _required(reference: bool) -> list[str]:
    return [name for name in FIELDS if FIELDS[name].is_required() or (name == "model" and not reference)]


def _wrong(entry: Entry, name: str) -> str:
    value = entry.values[name]
    must = next(note.be for note in FIELDS[name].metadata if isinstance(note, Must))
    hint = " Put it in quotes if it is a name." if isinstance(value, bool) and must.startswith(("text", "a name")) else ""
    return f"{entry.label(name)} is {show(value)}, but must be {must}.{hint}"


def _contradictions(entry: Entry, mapping: Mapping) -> Iterator[str]:
    unused = [name for name in TRAIN_KEYS if name in entry.values]
    if unused and not mapping.train:
        yield f"{entry.label(unused[0])} has no effect, as 'train' is false; leave it out, or train."
    if mapping.learning_rate is not None and "lr" in (mapping.plan_kwargs or {}):
        yield f"{entry.label('learning_rate')} is given a second time as plan_kwargs.lr; keep one."


def _check_unique(entries: Iterable[Entry], faults: list[Fault]) -> None:
    first: dict[tuple[str, str], str] = {}
    for entry in entries:
        key = (entry.values.get("dataset", ""), entry.values.get("file_id", ""))
        if "" in key:
            continue
        if key in first:
            sentence = f"dataset {show(key[0])} has a file_id {show(key[1])} already: {first[key]}. Give each file its own."
            faults.append(entry.fault(sentence))
        first.setdefault(key, entry.where)


def _sentences(faults: Iterable[Fault]) -> list[str]:
    """Return one line a fault; one that files of a dataset share is told once, as of `lung/donor_1 and 3 more`."""
    alike: dict[tuple, list[Fault]] = {}
    for number, fault in enumerate(faults):
        alike.setdefault((number if fault.group is None else fault.group, fault.sentence), []).append(fault)
    return [f"{first.where}{f' and {len(others)} more' if others else ''}: {first.sentence}" for first, *others in alike.values()]


def _row(mapping: Mapping, defaults: dict[str, Any]) -> dict:
    """Return the row that the pipeline works with: defaults filled in, the settings of training under `train`."""
    given = mapping.model_dump()

    def value(name: str) -> Any:
        return defaults[name] if given[name] is None else given[name]

    train = {name: value(name) for name in TRAIN_DEFAULTS}
    train |= {name: given[name] for name in TRAIN_OPTIONS if given[name] is not None}
    # What may be several is named so behind the sheet.
    names = {"labels_key": "labels_keys"}
    row = {names.get(name, name): given[name] for name in COLUMNS if name not in ("train", *TRAIN_KEYS, *REFERENCE_KEYS)}
    row["cells"] = _reference_cells(mapping, defaults)
    row |= {name: value(name) for name in ("one_batch", "strategy", "min_gene_overlap")}
    row["train"] = train if given["train"] and train["max_epochs"] > 0 else None
    return row | {name: defaults[name] for name in ("seed", "warn_gene_overlap")}


def _reference_cells(mapping: Mapping, defaults: dict[str, Any]) -> dict:
    """Say where a row's reference cells are; `trained`: they are those that this run trains the model on."""
    trained = mapping.model is None and mapping.reference is None
    return {
        "trained": trained,
        "reference": (defaults["reference"] or "the demo's atlas") if trained else mapping.reference,
        "layer": mapping.reference_layer or (defaults["reference_layer"] if trained else "X"),
        "var_key": mapping.reference_var_key or (defaults["reference_var_key"] if trained else None),
        "embedding": mapping.reference_embedding,
        "transfer_keys": mapping.transfer_keys,
    }


# --- CSV ------------------------------------------------------------------------------------------------------------------


def _read_csv(text: str, name: str, reference: bool, faults: list[Fault]) -> list[Entry]:
    """Read a sheet whose first line names the columns; they are parted by tabs if it holds any, else by commas."""
    first_line = text.lstrip().partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if "\t" in first_line else ",", strict=True)
    rows: list[tuple[int, list[str]]] = []
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append((reader.line_num, [cell.strip() for cell in cells]))
    except csv.Error as error:
        raise RefmapError(f"{name}: row {reader.line_num} cannot be read as CSV ({error}); check its quotes.") from None
    if not rows:
        raise RefmapError(f"{name}: is empty; its first line names the columns, each other line is a mapping.")
    header = rows[0][1]
    absent = _check_header(header, name, reference, faults)
    return [_csv_entry(number, header, cells, absent, faults) for number, cells in rows[1:]]


def _check_header(header: list[str], name: str, reference: bool, faults: list[Fault]) -> frozenset[str]:
    """Add the faults of the column names to `faults`; return the required columns that are absent."""
    if len(header) == 1 and ";" in header[0]:
        raise RefmapError(f"{name}: its columns are parted by ';'; save the sheet with commas or tabs.")
    for column in dict.fromkeys(header):
        if column not in COLUMNS:
            faults.append(Fault(f"unknown column {show(column)}.{nearest(column, COLUMNS)}", name))
        elif header.count(column) > 1:
            faults.append(Fault(f"column '{column}' appears {header.count(column)} times; keep one.", name))
    absent = [column for column in _required(reference) if column not in header]
    faults += [Fault(f"column '{column}' is missing. {FIELDS[column].description}", name) for column in absent]
    return frozenset(absent)


def _csv_entry(number: int, header: list[str], cells: list[str], absent: frozenset[str], faults: list[Fault]) -> Entry:
    values: dict[str, Any] = {column: cell for column, cell in zip(header, cells) if cell and column in COLUMNS}
    for column in LISTS:
        if column in values:
            values[column] = [part.strip() for part in values[column].split(";") if part.strip()]
    where = f"row {number} ({_plain(values.get('dataset', '?'))}/{_plain(values.get('file_id', '?'))})"
    entry = Entry(where, values, {column: f"column '{column}'" for column in COLUMNS}, absent=absent)
    if len(cells) > len(header):
        sentence = f"has {len(cells)} cells, but the header has {len(header)}; put a cell that holds a comma in quotes."
        faults.append(entry.fault(sentence))
    return entry


# --- YAML -----------------------------------------------------------------------------------------------------------------


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


def _read_yaml(text: str, name: str, reference: bool, faults: list[Fault]) -> list[Entry]:
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
            log.warning("%s: is not mapped, as 'defaults.datasets' leaves it out.", _plain(dataset))
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
    where = _plain(dataset)
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
        Entry(f"{where}/{_plain(file_id)}", {"dataset": dataset, "file_id": file_id} | path | values, labels, dataset)
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
