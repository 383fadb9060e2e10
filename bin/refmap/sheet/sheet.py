"""The list of mappings a user asks for: read from a CSV sheet or from scAtlasTb's `DATASETS` YAML, and checked.

Both forms are first flattened to the same named values, every scalar as the text that was written (`001` stays `001`), and
then go through one model, :class:`.fields.Mapping`, so that they cannot come to mean different things. Every fault of every row is
collected before anything is raised.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..common.errors import RefmapError
from ..families import trainable
from .entries import Entry, Fault, sentences, show
from .fields import (
    COLUMNS,
    FIELDS,
    MAPQC_KEYS,
    REFERENCE_KEYS,
    TRAIN_DEFAULTS,
    TRAIN_KEYS,
    TRAIN_OPTIONS,
    Mapping,
    Must,
    required,
)
from .from_csv import read_csv
from .from_yaml import read_yaml


def read_sheet(path: str | Path, defaults: dict[str, Any], reference: bool = False) -> list[dict]:
    """Return the mappings of a sheet, in its order.

    Parameters
    ----------
    path
        A `.yaml`/`.yml` in scAtlasTb's format, or a `.csv`/`.tsv` with columns among :data:`.fields.COLUMNS`.
    defaults
        The pipeline's parameters; they fill in what a row leaves open, and give the seed and the level of the warning. With
        `free_training`, none of those of training was chosen: rows that choose none either are marked so, as `free`.
    reference
        Whether this run trains a reference: then a row need not name a model.

    Raises
    ------
    RefmapError
        One line a fault, over all rows. A row of a CSV is told by its line in the file, the header being row 1.
    """
    path = Path(path)
    reader = {".yaml": read_yaml, ".yml": read_yaml, ".csv": read_csv, ".tsv": read_csv}.get(path.suffix.lower())
    if reader is None:
        raise RefmapError(f"{path.name}: a sheet is a file that ends in .yaml, .yml, .csv or .tsv; rename it, or give another.")
    faults: list[Fault] = []
    entries = reader(_read_text(path), path.name, reference, faults)
    batches = trained_batches(defaults) if reference else None
    mappings = [_check(entry, reference, batches, defaults["one_batch"], faults) for entry in entries]
    _check_unique(entries, faults)
    if not entries and not faults:
        faults.append(Fault("holds no mapping; give at least one query.", path.name))
    if faults:
        raise RefmapError("\n".join(sentences(faults)))
    return [_row(mapping, defaults) for mapping in mappings]


def bundled(rows: list[dict], most: int) -> list[dict]:
    """Give each row the number of its ``bundle``: up to `most` rows in a row of the sheet that have one model and the same cells.

    The bundles hang on the sheet alone, so that a row that is mended or added leaves those of the others as they were.
    """
    seen: Counter[str] = Counter()
    numbers: dict[tuple[str, int], int] = {}
    result = []
    for row in rows:
        onto = json.dumps([row["model"], row["cells"]], sort_keys=True)
        bundle = (onto, seen[onto] // most)
        seen[onto] += 1
        result.append(row | {"bundle": numbers.setdefault(bundle, len(numbers))})
    return result


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RefmapError(f"{path.name}: is not UTF-8 text; save it as UTF-8.") from None
    except OSError as error:
        raise RefmapError(f"{path}: cannot be read ({error.strerror}); check the path.") from None


def _check(entry: Entry, reference: bool, batches: str | None, one_batch: bool, faults: list[Fault]) -> Mapping | None:
    """Return the checked mapping, or none; what is wrong with it is added to `faults`.

    `batches` names those of the reference that this run trains, if its model has any; `one_batch` is the run's own.
    """
    missing = [name for name in required(reference, entry.values) if name not in entry.values and name not in entry.absent]
    faults += [entry.fault(f"{entry.label(name)} is missing. {FIELDS[name].description}") for name in missing]
    try:
        mapping = Mapping(**entry.values)
    except ValidationError as error:
        wrong = dict.fromkeys(fault["loc"][0] for fault in error.errors() if fault["type"] != "missing")
        faults += [entry.fault(_wrong(entry, name)) for name in wrong]
        return None
    faults += [entry.fault(sentence) for sentence in _contradictions(entry, mapping)]
    one_batch = one_batch if mapping.one_batch is None else mapping.one_batch
    if batches and not (mapping.model or mapping.query_embedding or mapping.batch_key or one_batch):
        faults.append(
            entry.fault(
                f"{entry.label('batch_key')} is missing, and the reference that this run trains has batches, of '{batches}': name the "
                "column of the query's `obs` with its batches, or set one_batch to true."
            )
        )
    return mapping


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
    if mapping.query_embedding:
        yield from _embedding_faults(entry, mapping, unused)
    elif mapping.reference_batch_key:
        yield f"{entry.label('reference_batch_key')} has no effect without query_embedding, as a model knows its own; leave it out."
    told = [name for name in MAPQC_KEYS if getattr(mapping, name)]
    if told and "mapqc_sample_key" not in told:
        yield f"{entry.label(told[0])} has no effect without mapqc_sample_key; name the column of samples too, or leave it out."
    for given, other in (("mapqc_control_key", "mapqc_control"), ("mapqc_control", "mapqc_control_key")):
        if given in told and other not in told:
            yield f"{entry.label(given)} has no effect without {other}; give both, or neither."


def _embedding_faults(entry: Entry, mapping: Mapping, training: list[str]) -> Iterator[str]:
    """What is wrong with a mapping that brings its embedding."""
    given = entry.label("query_embedding")
    if mapping.model:
        yield f"{entry.label('model')} and {given} are both given; leave out the one or the other."
    for name, what in (("reference", "the reference's cells"), ("reference_embedding", "the key of their obsm")):
        if not getattr(mapping, name):
            yield f"{given} needs {what} to be compared with: name {'them' if name == 'reference' else 'it'} as {name}."
    for name in training:
        yield f"{entry.label(name)} has no effect with query_embedding, as nothing is trained; leave it out."


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


def _row(mapping: Mapping, defaults: dict[str, Any]) -> dict:
    """Return the row that the pipeline works with: defaults filled in, the settings of training under `train`."""
    given = mapping.model_dump()

    def value(name: str) -> Any:
        return defaults[name] if given[name] is None else given[name]

    train = {name: value(name) for name in TRAIN_DEFAULTS}
    train |= {name: given[name] for name in TRAIN_OPTIONS if given[name] is not None}
    if defaults.get("free_training") and all(given[name] is None for name in TRAIN_KEYS):
        train["free"] = True
    # What may be several is named so behind the sheet.
    names = {"labels_key": "labels_keys"}
    row = {names.get(name, name): given[name] for name in COLUMNS if name not in ("train", *TRAIN_KEYS, *REFERENCE_KEYS)}
    row["cells"] = _reference_cells(mapping, defaults)
    row |= {name: value(name) for name in ("one_batch", "round_counts", "strategy", "engine", "correction", "min_gene_overlap")}
    row["train"] = train if given["train"] and train["max_epochs"] > 0 and not mapping.query_embedding else None
    if mapping.query_embedding:  # the cells stand for the model, under a name that is no path
        of_cells = [
            f"{name} {given[name]}" for name in ("reference_layer", "reference_var_key", "reference_batch_key") if given[name]
        ]
        row["model"] = ", ".join([f"{mapping.reference_embedding} of {mapping.reference}", *of_cells])
    return row | {name: defaults[name] for name in ("seed", "warn_gene_overlap")}


def _reference_cells(mapping: Mapping, defaults: dict[str, Any]) -> dict:
    """Say where a row's reference cells are; `trained`: they are those that this run trains the model on."""
    trained = mapping.model is None and mapping.reference is None and mapping.query_embedding is None
    known = trained_cells(defaults) if trained else {"trained": False, "reference": mapping.reference}
    return known | {
        "layer": mapping.reference_layer or known.get("layer"),
        "var_key": mapping.reference_var_key or known.get("var_key"),
        "embedding": mapping.reference_embedding,
        "batch_key": mapping.reference_batch_key,
        "protein_key": mapping.reference_protein_key or known.get("protein_key"),
        "airr": mapping.reference_airr or known.get("airr"),
        "transfer_keys": mapping.transfer_keys,
        # Which of their further columns the figures of a mapping take
        "columns": [key for key in (mapping.mapqc_sample_key, mapping.mapqc_study_key) if key],
        "origin": None,  # until an address is followed
    }


def trained_batches(settings: dict[str, Any]) -> str | None:
    """The column with the batches of the reference that a run trains, if its model learns them."""
    kind = trainable().get(settings["family"])  # none of a hierarchy, whose base learns batches
    return settings["reference_batch_key"] if kind is None or "reference_batch_key" in kind.needs else None


def trained_cells(settings: dict[str, Any]) -> dict:
    """Where the cells are that a run trains its reference on, as a row that says nothing else of them has it."""
    return {
        "trained": True,
        "reference": settings["reference"] or "the demo's atlas",
        "layer": settings["reference_layer"],
        "var_key": settings["reference_var_key"],
        "embedding": None,
        "batch_key": None,
        "protein_key": settings["reference_protein_key"],
        "airr": settings["reference_airr"],
        "transfer_keys": [],
        "columns": [],
        "origin": None,
    }
