"""The fields of a mapping as a user gives it: what each must be, and what it says."""

from __future__ import annotations

import json
import re
from collections.abc import Container
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from ..common.errors import RefmapError
from ..common.strategies import CORRECTIONS, STRATEGIES
from ..families.base import ENGINES
from ..families.options import parse_options
from ..remote.addresses import FORMS, is_address, parse

# What is in a file decides how it is read; these are the names that data which can be read have.
QUERY_SUFFIXES = (".h5ad", ".zarr", ".h5mu", ".h5", ".hdf5", ".loom", ".zarr.zip")
EXPANDED = "$*?[]{}"
# A name becomes part of file names (`<dataset>~<file_id>…`), which file systems limit to 255 bytes.
LONGEST_NAME = 100


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
    """Accept a path or URI that ends as one of the readable formats does, leads into a zarr store, or may be a folder of Cell Ranger's.

    Of a URI, `?…` does not count.
    """
    path = (value.split("?")[0] if "://" in value else value).lower()
    # A word alone is no path: in scAtlasTb's YAML it names what another of its steps made
    a_folder = "/" in path and "." not in path.rpartition("/")[2]
    if not path.rstrip("/").endswith(QUERY_SUFFIXES) and ".zarr/" not in path and not a_folder:
        raise ValueError("not a format that can be read")
    return _path(value)


def _path(value: str) -> str:
    """Accept a path that Nextflow can link to: it leaves these characters to the shell, even where globs are off."""
    if "://" not in value and any(character in EXPANDED for character in value):
        raise ValueError("a shell would expand it")
    return _printable(value)


def _source(value: str) -> str:
    """Accept such a path, or an address that FETCH_MODEL can read."""
    if is_address(value):
        try:
            parse(value)
        except RefmapError:
            raise ValueError("no address") from None
        return _printable(value)
    return _path(value)


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
# What may be fetched
Source = Annotated[Annotated[str, AfterValidator(_source)] | None, Must(f"{PATH.be}; or an address: {FORMS}")]
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
        Must(
            f"a path or URI that ends in {', '.join(QUERY_SUFFIXES[:-1])} or {QUERY_SUFFIXES[-1]}, or that of a folder of Cell Ranger's "
            f"(with a slash behind it), without any of {' '.join(EXPANDED)}; unpack what is packed, and write "
            "other formats with anndata as .h5ad"
        ),
        Field(
            description="The query's counts: a path or URI of an .h5ad, .zarr, .h5mu or .loom, or of an .h5 or a matrix folder of Cell Ranger."
        ),
    ]
    model: Annotated[
        Source,
        Field(
            description="The reference model, a folder or file, or its address; not needed when this run trains it, or with "
            "`query_embedding`."
        ),
    ] = None
    batch_key: Annotated[
        Key,
        Field(
            description="The column of the query's `obs` that holds its batches; not needed for a model without batches, with `one_batch`, or "
            "with `query_embedding`: then all cells are one."
        ),
    ] = None
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
    obs_table: Annotated[
        Link,
        Field(
            description="Columns of the query's cells that its `obs` lacks: a CSV, TSV or Parquet with a row a cell, matched by the cells' names."
        ),
    ] = None
    obs_table_key: Annotated[
        Key, Field(description="The column of `obs_table` with the names of the cells; none: its first.")
    ] = None
    gene_prefix: Annotated[
        Key, Field(description="What stands before each gene id of the query and is taken off, such as `GRCh38_`; none: nothing.")
    ] = None
    orthologs: Annotated[
        Flag,
        Field(
            description="Whether genes of a mouse are taken for their one-to-one orthologs in a model of man, and the other way round."
        ),
    ] = False
    modality: Annotated[
        Key,
        Field(
            description="The modality of an .h5mu that holds the counts, or the path of any AnnData in the file; none: `rna`, or "
            "the only one."
        ),
    ] = None
    query_embedding: Annotated[
        Key,
        Field(
            description="The key of the query's `obsm` with an embedding by a model that refmap does not run, beside that of the "
            "reference's cells, `reference_embedding`, by the same; none: the model embeds the query."
        ),
    ] = None
    protein_key: Annotated[
        Key,
        Field(
            description="Where the proteins are: a key of `obsm`, the protein modality of an .h5mu, or `<modality>/<layer>`; `none`: it has none. For a "
            "model of two modalities, such as Multigrate's, the key of `obsm` or the modality that is the second one, whatever it measures."
        ),
    ] = None
    categorical_covariate_keys: Annotated[
        Keys, Field(description="Columns of `obs` for the model's categorical covariates, in its order.")
    ] = []
    continuous_covariate_keys: Annotated[
        Keys, Field(description="Columns of `obs` for the model's continuous covariates, in its order.")
    ] = []
    gmt: Annotated[Link, Field(description="A GMT file of gene programmes for the model to learn in surgery (expiMap).")] = None
    airr: Annotated[
        Link,
        Field(
            description="The receptors of the query's T cells, for mvTCR: an AIRR rearrangement TSV, or a contig table of Cell Ranger "
            "(`filtered_contig_annotations.csv` or `all_contig_annotations.csv`)."
        ),
    ] = None
    options: Annotated[
        dict[str, str],
        BeforeValidator(_options),
        Must("options of the model's family: name=value, parted by ';' (in YAML also a mapping of names to values)"),
        Field(description="What the model's family can do beyond that: `name=value;name=value`, see the family's page."),
    ] = {}
    size_factor_key: Annotated[Key, Field(description="The column of `obs` with the cells' size factors.")] = None
    reference: Annotated[
        Source,
        Field(
            description="The model's own cells, whose labels are transferred (.h5ad, .zarr, .h5mu), or their address; none: those saved with the "
            "model, or those that this run trains it on."
        ),
    ] = None
    reference_layer: Annotated[
        Layer | None,
        LAYER,
        Field(
            description="Where the reference cells' counts are; none: where the model's were, or wherever else counts are found."
        ),
    ] = None
    reference_var_key: Annotated[
        Key, Field(description="The column of the reference cells' `var` with the gene ids; none: its index.")
    ] = None
    reference_embedding: Annotated[
        Key, Field(description="The key of the reference cells' `obsm` with their embedding by this model; none: it is computed.")
    ] = None
    reference_batch_key: Annotated[
        Key,
        Field(
            description="The column of the reference cells' `obs` with their batches, beside a `query_embedding`; none: they are one. A model "
            "knows its own."
        ),
    ] = None
    reference_protein_key: Annotated[
        Key,
        Field(
            description="Where the reference cells' proteins are, or of a model of two modalities the second one, as `protein_key`; "
            "none: where the model's were."
        ),
    ] = None
    reference_airr: Annotated[
        Link, Field(description="The receptors of the reference cells, for mvTCR: a table as `airr` names.")
    ] = None
    transfer_keys: Annotated[
        Keys,
        Field(description="Columns of the reference cells' `obs` whose labels are transferred; none: the model's label columns."),
    ] = []
    mapqc_sample_key: Annotated[
        Key,
        Field(
            description="The column of the query's and of the reference cells' `obs` with their samples, for mapQC; none: it is not run."
        ),
    ] = None
    mapqc_study_key: Annotated[
        Key,
        Field(
            description="The column of the reference cells' `obs` with their studies, for mapQC, which then compares samples of several."
        ),
    ] = None
    mapqc_control_key: Annotated[
        Key, Field(description="The column of the query's `obs` that tells controls, for mapQC; none: all cells are controls.")
    ] = None
    mapqc_control: Annotated[
        Key, Field(description="What stands in `mapqc_control_key` for controls, the cells that should be like the reference.")
    ] = None
    one_batch: Annotated[Choice, Field(description="Whether all cells count as one new batch; none: `--one_batch`.")] = None
    round_counts: Annotated[
        Choice,
        Field(description="Whether counts that are no whole numbers (SoupX, alevin, RSEM) are rounded; none: `--round_counts`."),
    ] = None
    strategy: Annotated[
        Literal[STRATEGIES] | None,
        Must(f"one of {', '.join(STRATEGIES)}"),
        Field(description="Whether all batches are mapped in one surgery, or each in its own; none: `--strategy`."),
    ] = None
    engine: Annotated[
        Literal[ENGINES] | None,
        Must(f"one of {', '.join(ENGINES)}"),
        Field(description="What trains in surgery on models of scvi-tools; none: `--engine`."),
    ] = None
    correction: Annotated[
        Literal[CORRECTIONS] | None,
        Must(f"one of {', '.join(CORRECTIONS)}"),
        Field(description="Whether a query that surgery cannot move is moved in the latent space; none: `--correction`."),
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
REFERENCE_KEYS = (
    "reference",
    "reference_layer",
    "reference_var_key",
    "reference_embedding",
    "reference_batch_key",
    "reference_protein_key",
    "reference_airr",
    "transfer_keys",
)
# What mapQC is told. It is run where samples are named.
MAPQC_KEYS = ("mapqc_sample_key", "mapqc_study_key", "mapqc_control_key", "mapqc_control")
# Settings of training with a default among the pipeline's parameters, then those that are left to the model's library. Where a user
# has chosen none of either, the row says so (`free`), and what trains may be quicker about it.
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


def required(reference: bool, given: Container[str]) -> list[str]:
    """The fields that a mapping must have: a model unless this run trains one (`reference`), or it is `given` an embedding."""
    model = not reference and "query_embedding" not in given
    return [name for name in FIELDS if FIELDS[name].is_required() or (name == "model" and model)]
