"""What one mapping looks like: its labels by batch, its score where the truth is known, and pictures of the query's cells."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from . import plots
from .cli import read_json, write_json
from .errors import RefmapError
from .folders import MappedFolder
from .query import Query, as_text
from .results import Mapped, draw_results

MOST_CELLS_DRAWN = 50_000
MISSING = "missing"
PREDICTED = "predicted label"
UNCERTAINTY = "uncertainty of the predicted label"


@dataclass
class Cells:
    """The query's cells, all of them and in its order.

    latent         float array (cells x latent dimensions)
    labels_key     the column of labels that is shown and scored, or None for a model that predicts none
    predicted      the model's label of each cell
    uncertainty    that label's
    classes        the labels that the model knows
    columns        the obs columns of the query that are asked for: key -> values
    """

    latent: np.ndarray
    labels_key: str | None = None
    predicted: pd.Series | None = None
    uncertainty: pd.Series | None = None
    classes: list[str] = field(default_factory=list)
    columns: dict[str, pd.Series] = field(default_factory=dict)


def describe_mapping(plan: dict, query: Path, alignment: Path, mapped: MappedFolder, output: Path) -> None:
    """Write the folder `output` of one mapping.

    alignment.json, history.csv   as they came
    mapping.json                  with the score of the predictions, where the row names a `truth_key`
    composition.json              labels by batch
    umap.png, umap.pdf            the cells, coloured by what is known of them
    confusion.csv, confusion.png  where the truth is known and the model predicts: true labels x predicted ones
    and what the family found beside the cells, as tables and pictures: see `refmap.results`

    Raises RefmapError when the query cannot be read, or is not the one that was embedded.
    """
    row = plan["row"]
    record = read_json(mapped.record)
    embedded = ad.read_zarr(mapped.embedding)
    output.mkdir(parents=True)
    with Query(query, row["query"], row["modality"]) as source:
        cells = _read_cells(source, embedded, row)
        draw_results(Mapped(embedded, source, plan, record, mapped.results, output, _name(row)))
    truth = cells.columns.get(row["truth_key"])
    # A model without batches is mapped onto without a look at the query's.
    batches = cells.columns.get(row["batch_key"], pd.Series("all cells", index=range(len(cells.latent))))

    shutil.copyfile(alignment, output / "alignment.json")
    shutil.copyfile(mapped.history, output / "history.csv")
    write_json(output / "composition.json", _composition(*_labels(cells, row), batches))
    record["accuracy"] = None
    if truth is not None and cells.predicted is not None:
        record["accuracy"] = {
            "truth_key": row["truth_key"],
            "labels_key": cells.labels_key,
            **score(truth, cells.predicted, cells.classes),
        }
        confusion = confusion_table(truth, cells.predicted)
        confusion.to_csv(output / "confusion.csv")
        plots.draw_confusion(confusion, _name(row), output / "confusion.png")
    write_json(output / "mapping.json", record)
    _draw(cells, row, record["seed"], output)


def _read_cells(source: Query, embedded: ad.AnnData, row: dict) -> Cells:
    names = np.asarray(embedded.obs_names, dtype=object)
    if len(names) != source.n_obs or not (names == source.obs_names).all():
        raise RefmapError(
            f"The embedding's {len(names)} cells are not those of the query '{row['query']}' ({source.n_obs} cells): "
            "the file changed during the run, so run again with -resume."
        )
    cells = Cells(latent=np.asarray(embedded.obsm["X_emb"], dtype=np.float32))
    for key in dict.fromkeys(key for key in (row["batch_key"], *row["labels_keys"], row["truth_key"]) if key):
        if key != row["batch_key"] or key in source.obs_columns:
            cells.columns[key] = _text(source.obs_column(key))
    for key in row["umap_colors"]:
        # A column that is not there was warned of before anything was trained.
        if key in cells.columns:
            continue
        # What the mapping says of the cells goes before a column of the query that it takes the name of.
        if key in embedded.obs:
            values = embedded.obs[key].reset_index(drop=True)
        elif key in source.obs_columns:
            values = source.obs_column(key)
        else:
            continue
        cells.columns[key] = values if _is_number(values) else _text(values)
    _choose_prediction(cells, embedded, row)
    return cells


def _choose_prediction(cells: Cells, embedded: ad.AnnData, row: dict) -> None:
    """Of several label columns that the model predicts, take the one that knows most of the true labels, else the main one."""
    classes = {
        key.removesuffix("_classes"): [str(name) for name in values]
        for key, values in embedded.uns.items()
        if key.endswith("_classes")
    }
    if not classes:
        return
    truth = cells.columns.get(row["truth_key"], pd.Series(dtype=object))
    main_first = sorted(classes, key=lambda key: list(embedded.obs).index(f"{key}_predicted"))
    key = max(main_first, key=lambda key: int(truth.isin(classes[key]).sum()))
    cells.labels_key, cells.classes = key, classes[key]
    cells.predicted = _text(embedded.obs[f"{key}_predicted"])
    cells.uncertainty = embedded.obs[f"{key}_predicted_uncertainty"].reset_index(drop=True)


def _is_number(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(values.dtype)


def _text(values: pd.Series) -> pd.Series:
    """Return values as str, missing ones as None."""
    names = as_text(values.reset_index(drop=True))
    return pd.Series(np.where(names == "", None, names), dtype=object)


def _name(row: dict) -> str:
    return f"{row['dataset']}/{row['file_id']}"


def _labels(cells: Cells, row: dict) -> tuple[str | None, str | None, pd.Series | None]:
    """Return (where labels come from, their key, the labels): the best that is known, the model's word first."""
    if cells.predicted is not None:
        return "predicted", f"{cells.labels_key}_predicted", cells.predicted
    for source, key in (("labels", next(iter(row["labels_keys"]), None)), ("truth", row["truth_key"])):
        if key:
            return source, key, cells.columns[key]
    return None, None, None


def _composition(source: str | None, key: str | None, labels: pd.Series | None, batches: pd.Series) -> dict:
    """Count the cells of each label, in all and in each batch."""
    if labels is None:
        return {"source": None, "key": None, "total": {}, "batches": {}}
    labels, batches = labels.fillna(MISSING), batches.fillna(MISSING)
    return {
        "source": source,
        "key": key,
        "total": _counts(labels),
        "batches": {batch: _counts(labels[batches == batch]) for batch in sorted(batches.unique())},
    }


def _counts(labels: pd.Series) -> dict[str, int]:
    return {str(label): int(n) for label, n in plots.ranked(labels).items()}


def score(truth: pd.Series, predicted: pd.Series, classes: list[str]) -> dict:
    """Score predictions against the true labels (None where unknown).

    Cells of a type that the model has never seen cannot be right; they are told apart (`n_unknown`) and not scored.
    """
    known = truth.isin(classes)
    scored = int(known.sum())
    return {
        "n_scored": scored,
        "n_unknown": int((truth.notna() & ~known).sum()),
        "accuracy": float((truth[known] == predicted[known]).mean()) if scored else None,
    }


def confusion_table(truth: pd.Series, predicted: pd.Series) -> pd.DataFrame:
    """Count cells by true label (rows, sorted) and predicted label (columns: those of the rows first); missing truth left out."""
    table = pd.crosstab(truth.rename("truth"), predicted.rename("predicted"))
    columns = [*table.index, *(label for label in table.columns if label not in table.index)]
    return table.reindex(columns=columns, fill_value=0)


def _draw(cells: Cells, row: dict, seed: int, output: Path) -> None:
    n = len(cells.latent)
    drawn = np.random.default_rng(seed).permutation(n)[:MOST_CELLS_DRAWN]
    latent = cells.latent[drawn]
    position = plots.umap(latent, seed) if n >= plots.FEWEST_FOR_UMAP else plots.first_two(latent)
    what = _caption(n, len(drawn))
    panels = {title: values.iloc[drawn].reset_index(drop=True) for title, values in _panels(cells, row).items()}
    labels = [title for title in panels if title == PREDICTED or title.startswith(("given label", "true label"))]
    plots.draw_cells(position, panels, labels, [UNCERTAINTY], f"{_name(row)}: {what}", output / "umap")


def _caption(n: int, drawn: int) -> str:
    if n < plots.FEWEST_FOR_UMAP:
        return f"{n} cell{'s' * (n > 1)}, too few for a UMAP: the two latent dimensions that vary most"
    return f"UMAP of {n:,} cells" if drawn == n else f"UMAP of {drawn:,} cells, drawn at random from {n:,}"


def _panels(cells: Cells, row: dict) -> dict[str, pd.Series]:
    """Return what to colour the cells by, title -> values."""
    panels = {}
    if cells.predicted is not None:
        panels[PREDICTED] = cells.predicted
        panels[UNCERTAINTY] = cells.uncertainty
    roles = {row["batch_key"]: "batch", **dict.fromkeys(row["labels_keys"], "given label"), row["truth_key"]: "true label"}
    for key, values in cells.columns.items():
        panels[f"{roles[key]} ({key})" if key in roles else key] = values
    return panels
