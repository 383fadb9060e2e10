"""What is known of a mapping's cells, from the query, its model and the reference's own cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import anndata as ad
import numpy as np
import pandas as pd

from ..common.cli import read_json
from ..common.errors import RefmapError
from ..common.folders import ReferenceFolder
from ..common.names import NAMES, Names
from ..common.spelling import spell
from ..common.storage import StoredCells, read_zarr
from ..identity.mapped import NOVEL_GROUP
from ..query.elements import as_text, is_number
from ..query.query import Query
from ..transfer.transfer import shared_dimensions


@dataclass
class Labels:
    """Labels that a mapping gave the query's cells.

    made           how: ``predicted`` by the model, or ``transferred`` from the reference's cells
    key            of which column of labels
    values         the label of each cell: categories
    uncertainty    that label's
    classes        the labels that there are
    """

    made: str
    key: str
    values: pd.Series
    uncertainty: pd.Series
    classes: list[str]

    @property
    def name(self) -> str:
        return f"{self.key}_{self.made}"


@dataclass
class Cells:
    """The query's cells, all of them and in its order. What is text is held as categories, missing where there is none.

    names          the names of all of the query's cells
    rows           which of these the cells are: int64; None: all
    latent         float array (cells x latent dimensions)
    shared         of the same, the dimensions that are also the reference's; all of them without its cells
    columns        the obs columns of the query that are asked for: key -> values
    labels         what the mapping says of them, the model's word first; of several columns that one which knows most true labels
    levels         every column of transferred labels: key -> the label of each cell
    best           of each annotation of several levels the label at the finest that is certain: `<annotation>_best` -> labels
    novelty        the p-value of each against the reference's own cells; None without those
    separation     how many times farther the reference's cells are than the query's own; None without those
    second         the label that the genes give each cell, of the column of `labels` that was transferred; None without counts
    certainty      how often such a transferred label is right; None where it is not known
    group          the group of each cell that differs from the reference, missing for cells of no such group; None without counts
    place          cells x 2 in the UMAP of the reference; None without its cells
    """

    names: Names
    latent: np.ndarray
    shared: np.ndarray
    columns: dict[str, pd.Series] = field(default_factory=dict)
    labels: list[Labels] = field(default_factory=list)
    levels: dict[str, pd.Series] = field(default_factory=dict)
    best: dict[str, pd.Series] = field(default_factory=dict)
    novelty: pd.Series | None = None
    separation: pd.Series | None = None
    second: pd.Series | None = None
    certainty: pd.Series | None = None
    group: pd.Series | None = None
    place: np.ndarray | None = None
    rows: np.ndarray | None = None

    def names_of(self, rows: np.ndarray) -> np.ndarray:
        """The names of the cells in some of these rows: object array of str."""
        return self.names.take(rows if self.rows is None else self.rows[rows])

    def some(self, rows: np.ndarray) -> Cells:
        """Those of the cells that a mask of booleans marks."""

        def of(values: pd.Series | None) -> pd.Series | None:
            return None if values is None else values[rows].reset_index(drop=True)

        latent = self.latent[rows]
        return Cells(
            self.names,
            latent,
            latent if self.shared is self.latent else self.shared[rows],
            {key: of(values) for key, values in self.columns.items()},
            [replace(labels, values=of(labels.values), uncertainty=of(labels.uncertainty)) for labels in self.labels],
            {key: of(values) for key, values in self.levels.items()},
            {key: of(values) for key, values in self.best.items()},
            of(self.novelty),
            of(self.separation),
            of(self.second),
            of(self.certainty),
            of(self.group),
            None if self.place is None else self.place[rows],
            np.flatnonzero(rows) if self.rows is None else self.rows[rows],
        )


@dataclass
class Reference:
    """The reference's cells, and the scale that they set (see :mod:`refmap.transfer.calibrate`)."""

    cells: ad.AnnData
    scale: dict

    @classmethod
    def read(cls, folder: ReferenceFolder) -> Reference:
        return cls(read_zarr(folder.cells), read_json(folder.record))

    @property
    def batches(self) -> pd.Series | None:
        key = self.scale["batch_key"]
        return self.cells.obs[key].reset_index(drop=True) if key else None

    def labels(self, key: str) -> pd.Series:
        return self.cells.obs[key].reset_index(drop=True)


def read_cells(source: Query, embedded: StoredCells, row: dict, around: Reference | None) -> Cells:
    """Gather what the mapping and the row's columns say of the query's cells.

    Raises RefmapError when the query is not the one that was embedded.
    """
    names = embedded.names
    if not source.has_cells(names):
        raise RefmapError(
            f"The embedding's {len(names)} cells are not those of the query '{row['query']}' ({source.n_obs} cells): "
            "the file changed during the run, so run again with -resume."
        )
    latent = np.asarray(embedded.obsm["X_emb"], dtype=np.float32)
    dimensions = shared_dimensions(latent.shape[1], embedded.uns, around.scale) if around else np.arange(latent.shape[1])
    # Of millions of cells not twice
    shared = latent if np.array_equal(dimensions, np.arange(latent.shape[1])) else latent[:, dimensions]
    cells = Cells(names, latent, shared)
    for key in dict.fromkeys(key for key in (row["batch_key"], *row["labels_keys"], row["truth_key"]) if key):
        if key != row["batch_key"] or key in source.obs_columns:
            cells.columns[key] = _as_known(source.obs_column(key), embedded)
    for key in row["umap_colors"]:
        # A column that is not there was warned of before anything was trained.
        if key in cells.columns:
            continue
        # What the mapping says of the cells goes before a column of the query that it takes the name of.
        if key in embedded.obs:
            values = embedded.obs[key]
        elif key in source.obs_columns:
            values = source.obs_column(key)
        else:
            continue
        cells.columns[key] = values if is_number(values) else _as_known(values, embedded)
    truth = cells.columns.get(row["truth_key"], pd.Series(dtype=object))
    cells.labels = [made for made in (_predicted(embedded, truth), around and _transferred(embedded, truth, around)) if made]
    if around:
        cells.levels = {key: coded(embedded.obs[f"{key}_transferred"]) for key in around.scale["keys"]}
        finest = [name.removesuffix("_level") for name in embedded.obs if name.endswith("_best_level")]
        cells.best = {name: coded(embedded.obs[name]) for name in finest}
        cells.novelty = embedded.obs["novelty_pvalue"]
        cells.separation = embedded.obs["reference_separation"]
        transferred = next((labels.key for labels in cells.labels if labels.made == "transferred"), None)
        cells.second, cells.group = (
            coded(embedded.obs[name]) if name in embedded.obs else None for name in (f"{transferred}_by_genes", NOVEL_GROUP)
        )
        if f"{transferred}_certainty" in embedded.obs:
            cells.certainty = embedded.obs[f"{transferred}_certainty"]
        cells.place = np.asarray(embedded.obsm["X_umap_reference"])
    return cells


def label_columns(embedded: StoredCells, around: Reference | None) -> list[str]:
    """The columns of obs with labels that the mapping gave the cells: of each, the model's word, else that of the neighbours."""
    predicted = [key.removesuffix("_classes") for key in embedded.uns if key.endswith("_classes")]
    predicted = sorted(predicted, key=lambda key: list(embedded.obs).index(f"{key}_predicted"))
    transferred = [key for key in around.scale["keys"] if key not in predicted] if around else []
    return [*(f"{key}_predicted" for key in predicted), *(f"{key}_transferred" for key in transferred)]


def _predicted(embedded: StoredCells, truth: pd.Series) -> Labels | None:
    """What the model predicts: of several columns the one that knows most of the true labels, else the main one."""
    classes = {
        key.removesuffix("_classes"): [str(name) for name in values]
        for key, values in embedded.uns.items()
        if key.endswith("_classes")
    }
    # The main column comes first.
    key = _most_known(
        {key: classes[key] for key in sorted(classes, key=lambda key: list(embedded.obs).index(f"{key}_predicted"))}, truth
    )
    return key and _made(embedded, "predicted", key, f"{key}_predicted_uncertainty", classes[key])


def _transferred(embedded: StoredCells, truth: pd.Series, around: Reference) -> Labels | None:
    classes = {key: [str(name) for name in embedded.uns[f"{key}_transferred_labels"]] for key in around.scale["keys"]}
    key = _most_known(classes, truth)
    return key and _made(embedded, "transferred", key, f"{key}_uncertainty", classes[key])


def _most_known(classes: dict[str, list[str]], truth: pd.Series) -> str | None:
    """The column of labels that knows most of the true ones, else the first; None where there is no column."""
    return max(classes, key=lambda key: int(truth.isin(classes[key]).sum()), default=None)


def _made(embedded: StoredCells, made: str, key: str, uncertainty: str, classes: list[str]) -> Labels:
    return Labels(made, key, coded(embedded.obs[f"{key}_{made}"]), embedded.obs[uncertainty], classes)


def _as_known(values: pd.Series, embedded: StoredCells) -> pd.Series:
    """The query's values as the labels that there are, in their spelling; missing ones as missing."""
    kinds = [names for key, names in embedded.uns.items() if key.endswith(("_classes", "_transferred_labels"))]
    known = dict.fromkeys(str(name) for names in kinds for name in names)
    return coded(values, lambda texts: spell(texts, known).values)


def coded(values: pd.Series, spelled: Callable[[np.ndarray], np.ndarray] = lambda texts: texts) -> pd.Series:
    """Return values as categories of text, sorted, and missing ones as missing.

    `spelled` takes different texts, '' among them where some are missing, for what is to stand instead, '' for nothing.
    """
    if isinstance(values.dtype, pd.CategoricalDtype):
        texts, codes = as_text(pd.Series(values.cat.categories)), values.cat.codes.to_numpy()
    else:
        numbers, codes = {}, np.empty(len(values), dtype=np.int32)
        for start in range(0, len(values), NAMES):
            places, found = pd.factorize(as_text(values.iloc[start : start + NAMES]))
            codes[start : start + NAMES] = np.array([numbers.setdefault(text, len(numbers)) for text in found], dtype=np.int32)[
                places
            ]
        texts = np.array([*numbers], dtype=object)
    texts = spelled(texts)
    names = sorted({*texts} - {""})
    # The last is for what has no value, whose code is -1
    renumbered = np.append(pd.Index(names, dtype=object).get_indexer(pd.Index(texts, dtype=object)), -1)
    return pd.Series(pd.Categorical.from_codes(renumbered[codes], pd.Index(names, dtype=object)))
