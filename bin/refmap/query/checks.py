"""What can be told of a mapping before its matrix is read, but for a block of it: all its faults at once, its warnings, and its batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from ..common.errors import RefmapError, listed
from ..common.names import NAMES
from ..common.spelling import spell
from ..common.strategies import refusals
from ..families import by_name
from ..families.gmt import read_gmt
from ..families.options import Option, read_options
from ..models.card import unlabeled
from .beside import read_beside
from .columns import batch_column, batches, name_batches, pair_covariates, pair_labels
from .contents import Contents, fitting_name
from .counts import looks_like_counts
from .elements import as_text
from .embedded import read_embedding
from .genes import Resolution, gene_ids, read_id_table, resolve_query
from .matrix import spans
from .modalities import wanted_layers
from .obs_table import add_obs_table
from .overlap import overlap_fault, overlap_warnings
from .proteins import find_proteins
from .query import Query
from .receptors import find_receptors

# What a mapping adds to the query's obs for each label column that its model predicts.
MADE_OF_PREDICTIONS = ("predicted", "predicted_uncertainty", "predicted_probability")
NOTHING_KNOWN = dict.fromkeys(("format", "n_cells", "n_genes", "n_values", "n_genes_found", "n_model_genes", "n_proteins_found"))


def check(
    path: Path | None,
    row: dict,
    card: dict,
    table_path: Path | None = None,
    gmt_path: Path | None = None,
    airr_path: Path | None = None,
    obs_path: Path | None = None,
    published: bool = True,
) -> dict:
    """Check a mapping by its metadata and a block of its matrix, and return its plan (see :class:`Check`).

    Where the query is not `published` with its mapping, what cannot be is no matter.

    `path` is where the query lies, which the user calls `row['query']`; None if it does not exist. So are `table_path`, `gmt_path`,
    `airr_path` and `obs_path`, of `row['id_table']`, `row['gmt']`, `row['airr']` and `row['obs_table']`.
    """
    if card["fault"]:
        return stopped(row, card["fault"])
    try:
        with Query(path, row["query"], row["modality"]) as query:
            return Check(query, row, card, table_path, gmt_path, airr_path, obs_path).plan(published)
    except RefmapError as error:
        return stopped(row, str(error))


def stopped(row: dict, fault: str) -> dict:
    """The plan of a mapping that nothing more can be told of."""
    nothing = {
        "query": NOTHING_KNOWN,
        "counted": True,
        "batches": {},
        "batch_column": None,
        "covariates": {},
        "options": {},
        "refused": {},
    }
    return {"row": row, **nothing, "faults": [fault], "warnings": []}


class Check:
    """One mapping's checks. Each appends to `faults` or `warnings`; none stops the others."""

    def __init__(
        self,
        query: Query,
        row: dict,
        card: dict,
        table_path: Path | None = None,
        gmt_path: Path | None = None,
        airr_path: Path | None = None,
        obs_path: Path | None = None,
    ):
        self.query, self.row, self.card = query, row, card
        self.table_path, self.gmt_path, self.airr_path, self.obs_path = table_path, gmt_path, airr_path, obs_path
        read_beside(query, card, row["protein_key"])
        self.faults: list[str] = []
        self.warnings: list[str] = list(card["warnings"])
        self.batches: dict[str, dict] = {}
        self.new_levels: dict[str, list[str]] = {}
        self.options: dict[str, object] = {}
        self.gene_programs: dict[str, list[str]] = {}
        self.table: list[tuple[str, str]] | None = None
        self.counted = True
        self.summary = {
            **NOTHING_KNOWN,
            "format": query.format,
            "n_cells": query.n_obs,
            "n_model_genes": len(card["genes"]),
        }

    def plan(self, published: bool = False) -> dict:
        """The JSON of the plan.

        Row, query (its sizes), counted (whether its counts are aligned), batches {value: {cells, name}}, batch_column (of the aligned
        query), covariates {column: {new}}, options (typed, with their defaults), refused {strategy: why it cannot be followed},
        faults, warnings.
        """
        for look in (
            self.cells, self.columns, self.embedding, self.layer, self.genes, self.batch, self.labels, self.truth, self.samples,
            self.categorical, self.learned, self.continuous, self.size_factor, self.proteins, self.receptors, self.programs,
            self.family, self.colors, self.known,
        ):  # fmt: skip
            self._attempt(look)
        if published and not self.faults:
            self.contents()
        plan = {
            "row": self.row,
            "query": self.summary,
            "counted": self.counted,
            "batches": self.batches,
            "batch_column": batch_column(self.query, self.row, self.card),
            "covariates": {column: {"new": levels} for column, levels in self.new_levels.items()},
            "options": self.options,
            "faults": list(dict.fromkeys(self.faults)),
            "warnings": list(dict.fromkeys(self.warnings)),
        }
        return plan | {"refused": refusals(plan, self.card)}

    def _attempt(self, look: Callable[[], None]) -> None:
        try:
            look()
        except RefmapError as error:
            self.faults += str(error).splitlines()

    def _fault(self, found: str) -> None:
        self.faults.append(str(self.query.fault(found)))

    def cells(self) -> None:
        names = self.query.obs_names
        if not len(names):
            self._fault("has no cells.")
        repeated = _repeated(names)
        if len(repeated):
            self._fault(
                f"has {len(repeated):,} duplicate cell names (such as '{repeated[0]}'): make them unique, e.g. with adata.obs_names_make_unique()."
            )

    def columns(self) -> None:
        self.warnings += add_obs_table(self.query, self.row, self.obs_path)

    def embedding(self) -> None:
        """Of a query that brings its embedding whether this can be that of its reference, and whether counts come with it."""
        key, card, query = self.row["query_embedding"], self.card, self.query
        if not key:
            return
        size = read_embedding(query, key, "query_embedding").shape[1]
        if size != card["n_latent"]:
            self._fault(
                f"has {size:,} dimensions in obsm '{key}', and the reference's embedding, {card['model']}, has {card['n_latent']:,}: "
                "both must be by one model, of the same size."
            )
        if why := self._uncounted():
            self.counted = False
            self.warnings += [
                f"The expression of query '{self.row['query']}' is not compared with the reference's: {why}"
            ] * bool(card["genes"])

    def _uncounted(self) -> str | None:
        """Why there are no counts of a query that does without; None where there are."""
        if not self.card["genes"]:
            return "the reference has none"  # which its card warns of
        try:
            matrix = self.query.matrix(self.row["layer"])
            if not looks_like_counts(matrix, self.row["round_counts"]):
                return f"there are no counts in {matrix.name}; name where they are with layer."
            table = read_id_table(self.table_path, self.row["id_table"]) if self.table_path else None
            return overlap_fault(self.query, self.row, self.card, resolve_query(self.query, self.row, self.card, table), table)
        except RefmapError as error:
            return str(error)

    def layer(self) -> None:
        if not self.counted:
            return
        matrices = [self.query.matrix(layer) for layer in wanted_layers(self.query, self.row, self.card)]
        self.summary["n_values"] = sum(matrix.most_values for matrix in matrices)
        for matrix in matrices:
            matrix.try_block()

    def contents(self) -> None:
        """What of the query cannot be published as it is."""
        contents = Contents(self.query)
        contents.walk()
        self.warnings += contents.said.sentences(self.query)
        for key in self.card["labels"]:
            if (new := fitting_name(key)) != key:
                self.warnings.append(
                    f"In the result, the model's labels column '{key}' is called '{new}', as anndata opens no slashes."
                )

    def genes(self) -> None:
        if not self.counted:
            return
        if self.row["id_table"]:
            self._attempt(self._read_table)
        if self.row["layer"] == "raw" and "raw" not in self.query.layers:
            return  # said by `layer`
        ids = gene_ids(self.query, self.row)
        self.summary["n_genes"] = len(ids)
        if not len(ids):
            self._fault("has no genes.")
            return
        resolution = resolve_query(self.query, self.row, self.card, self.table)
        self.summary |= {"n_genes_found": resolution.matched, "n_model_genes": resolution.n_wanted}
        self._overlap(resolution)

    def _read_table(self) -> None:
        if self.table_path is None:
            raise RefmapError(f"id_table '{self.row['id_table']}' does not exist.")
        self.table = read_id_table(self.table_path, self.row["id_table"])

    def _overlap(self, resolution: Resolution) -> None:
        fault = overlap_fault(self.query, self.row, self.card, resolution, self.table)
        if fault:
            self.faults.append(fault)
        else:
            self.warnings += overlap_warnings(self.query, self.row, self.card, resolution)

    def batch(self) -> None:
        row, key = self.row, self.row["batch_key"]
        needless = not self.card["batch_key"] or row["query_embedding"]
        if key and needless and key not in self.query.obs_columns:
            self.warnings.append(
                f"query '{row['query']}' has no obs column '{key}', which batch_key names: all of its cells are taken as one batch."
            )
            key = None
        if not self.card["batch_key"]:
            if key and not row["query_embedding"]:
                self.warnings.append(
                    f"The model was trained without batches: batch_key '{key}' of query '{row['query']}' is not used by surgery."
                )
            return
        if not key:
            if row["one_batch"] or needless:
                self._count_batches(np.full(self.query.n_obs, f"{row['dataset']}.{row['file_id']}", dtype=object))
            else:
                self._fault(
                    f"needs a batch column, as the model has batches of '{self.card['batch_key']}': name it as batch_key, or set one_batch: true."
                )
            return
        found = batches(self.query, key, self.card)
        self.warnings += found.notes(f"query '{row['query']}', batch column '{key}'")
        names = found.values
        missing = int((names == "").sum())
        if missing and not row["one_batch"]:
            named = f" (or {listed(found.missing, 3)}, which says that none is known)" if found.missing else ""
            self._fault(
                f"has {missing:,} of {len(names):,} cells without a value{named} in batch column '{key}': fill them, remove these cells, or set one_batch: true."
            )
        self._count_batches(names if row["one_batch"] else names[names != ""])

    def _count_batches(self, values: np.ndarray) -> None:
        counts = Counter(values)
        unknown = sorted(set(counts) - set(self.card["batches"]))
        if self.card["fixed_batches"] and unknown:
            self._fault(
                f"has {listed(unknown)} in batch column '{self.row['batch_key']}', but surgery on a {self.card['class_name']} takes "
                f"the reference's own batches alone, {listed(self.card['batches'])}: say which of these each cell belongs to, "
                "and give what is new as a categorical covariate of the model."
            )
        names = name_batches(list(counts), self.row, self.card)
        self.batches = {value: {"cells": cells, "name": names[value]} for value, cells in counts.items()}

    def labels(self) -> None:
        given, known = self.row["labels_keys"], self.card["labels"]
        if not given:
            return
        for key in given:
            self.query.obs_column(key)
        if not known:
            self.warnings.append(
                f"The model was trained without labels: surgery learns nothing from labels_key {listed(given)} of query "
                f"'{self.row['query']}'."
            )
            return
        if len(given) > len(known) or len(set(given)) != len(given):
            self._fault(
                f"is given the labels columns {listed(given)} but the model has {listed(known)}: name at most one for each."
            )
            return
        if not self.card["learns_labels"] and not self.card["takes_new_labels"]:
            self.warnings.append(
                f"{self.card['class_name']} makes no use of a query's labels: labels_key {listed(given)} of query "
                f"'{self.row['query']}' is not used."
            )
            return
        if self.row["truth_key"] in given and self.card["predicts"]:
            self.warnings.append(
                f"labels_key and truth_key are both '{self.row['truth_key']}': the accuracy is that on labels which the model was given."
            )
        if self.card["unlabeled_category"] is not None:
            for key, column in pair_labels(given, list(known)).items():
                self._known_labels(column, known[key])

    def _known_labels(self, key: str, known: list[str]) -> None:
        found = spell(as_text(self.query.obs_column(key)), [*known, unlabeled(self.card)])
        labels = found.values
        given = (labels != "") & (labels != self.card["unlabeled_category"])
        unknown = Counter(labels[given & ~np.isin(labels, known)])
        usable = given if self.card["takes_new_labels"] else given & np.isin(labels, known)
        where = f"query '{self.row['query']}', labels column '{key}'"
        self.warnings += found.notes(where)
        if unknown:
            fate = "taken as new" if self.card["takes_new_labels"] else "taken as unlabeled"
            self.warnings.append(
                f"{where}: {sum(unknown.values()):,} cells have labels that the model does not know "
                f"({listed(unknown, 3)}), and are {fate}."
            )
        if not usable.any():
            self.warnings.append(f"{where}: no cell has a label that the model can use, so all are taken as unlabeled.")
        elif usable.all() and self.card["predicts"]:
            self.warnings.append(f"{where}: every cell is labeled, so no prediction is independent of what was given.")

    def truth(self) -> None:
        if key := self.row["truth_key"]:
            known = dict.fromkeys(label for labels in self.card["labels"].values() for label in labels)
            found = spell(as_text(self.query.obs_column(key)), known)
            self.warnings += found.notes(f"query '{self.row['query']}', truth column '{key}'")

    def samples(self) -> None:
        """Whether the columns are there that mapQC is told of."""
        row, query = self.row, self.query
        if not row["mapqc_sample_key"]:
            return
        if not (as_text(query.obs_column(row["mapqc_sample_key"])) != "").any():
            self._fault(
                f"has no cell with a sample in column '{row['mapqc_sample_key']}' (mapqc_sample_key): name another column."
            )
        if key := row["mapqc_control_key"]:
            values = as_text(query.obs_column(key))
            if row["mapqc_control"] not in values:
                self._fault(
                    f"has no cell with '{row['mapqc_control']}' (mapqc_control) in column '{key}': its values are {listed(sorted(set(values) - {''}))}."
                )

    def _covariates(self, option: str, wanted: list[str]) -> dict[str, str]:
        """The query's column for each of the model's covariates; none, with a fault, if they cannot be paired."""
        given = self.row[option]
        if len(given) != len(wanted):
            self._fault(
                f"is given {len(given)} {option} ({listed(given)}) but the model has {len(wanted)} ({listed(wanted)}): name one column for each."
            )
            return {}
        if len(set(given)) != len(given):
            self._fault(f"is given a column twice in {option} ({listed(given)}): name one column for each of {listed(wanted)}.")
            return {}
        return pair_covariates(given, wanted)

    def categorical(self) -> None:
        known = self.card["categorical_covariates"]
        for key, column in self._covariates("categorical_covariate_keys", list(known)).items():
            self._attempt(lambda key=key, column=column: self._levels(column, known[key]))

    def _levels(self, column: str, known: list[str]) -> None:
        found = spell(as_text(self.query.obs_column(column)), known)
        self.warnings += found.notes(f"query '{self.row['query']}', covariate column '{column}'")
        self._complete(column, found.values == "")
        new = sorted(set(found.values) - {"", *known})
        self.new_levels[column] = new
        if new and known:
            self.warnings.append(
                f"query '{self.row['query']}', covariate column '{column}': {listed(new, 3)} "
                f"{'is' if len(new) == 1 else 'are'} new to the model, which knows {listed(known, 3)}, and learned in surgery."
            )

    def learned(self) -> None:
        """Whether a model that learns categories of its covariates alone finds a new one."""
        covariates = self.card["categorical_covariates"]
        learns_batches = self.card["batch_key"] and not self.card["fixed_batches"]
        if covariates and not learns_batches and len(self.new_levels) == len(covariates) and not any(self.new_levels.values()):
            self.warnings.append(
                f"query '{self.row['query']}' has no category of {listed(covariates)} that is new to the model: surgery has nothing "
                "to learn, and its cells are embedded as the reference would."
            )

    def _complete(self, column: str, missing: np.ndarray) -> None:
        if missing.any():
            self._fault(
                f"has {int(missing.sum()):,} of {len(missing):,} cells without a value in covariate column '{column}': fill them or remove these cells."
            )

    def _numeric(self, column: str, positive: bool = False) -> None:
        values = self.query.obs_column(column)
        self._complete(column, values.isna().to_numpy())
        if not pd.api.types.is_numeric_dtype(values.dtype):
            self._fault(
                f"has values in column '{column}' that are not numbers (such as {listed(values.unique(), 3)}): store it as numbers."
            )
            return
        numbers = values.to_numpy(float, na_value=np.nan)
        wrong = np.isinf(numbers)
        if positive:
            wrong |= numbers <= 0
        if wrong.any():
            self._fault(
                f"has {int(wrong.sum()):,} cells whose value in column '{column}' is infinite{' or not above 0' if positive else ''} "
                f"(such as {values[wrong].iloc[0]}): mend these or remove the cells."
            )

    def continuous(self) -> None:
        for column in self._covariates("continuous_covariate_keys", self.card["continuous_covariates"]).values():
            self._attempt(lambda column=column: self._numeric(column))

    def size_factor(self) -> None:
        given, wanted = self.row["size_factor_key"], self.card["size_factor_key"]
        if wanted and not given:
            self._fault(f"needs size factors, as the model was trained with '{wanted}': set size_factor_key.")
        elif given and not wanted:
            self.warnings.append(
                f"The model was trained without size factors: size_factor_key '{given}' of query '{self.row['query']}' is not used."
            )
        elif given:
            self._numeric(given, positive=True)

    def proteins(self) -> None:
        if not self.card["proteins"]:
            return
        _, match = find_proteins(self.query, self.row, self.card)
        self.summary["n_proteins_found"] = len(self.card["proteins"]) - len(match.missing)
        self.warnings += match.warnings

    def receptors(self) -> None:
        self.warnings += find_receptors(self.query, self.row, self.card, self.airr_path).warnings

    def programs(self) -> None:
        row = self.row
        if not row["gmt"]:
            return
        if not self.card["takes_gmt"]:
            self.warnings.append(f"The model learns no gene programmes: gmt '{row['gmt']}' is not used.")
        elif self.gmt_path is None:
            raise RefmapError(f"gmt '{row['gmt']}' does not exist.")
        else:
            self.gene_programs = read_gmt(self.gmt_path, row["gmt"])

    def family(self) -> None:
        """What the model's family takes as options, and what else it cannot do of this mapping."""
        known = {name: Option(**option) for name, option in self.card["options"].items()}
        self.options = read_options(self.row["options"], known, f"{self.card['class_name']} models")
        for name, option in known.items():
            if option.kind == "column" and self.options[name]:
                self.query.obs_column(self.options[name])
        if self.card["family"]:
            self.faults += by_name(self.card["family"]).faults(self.row, self.card, self.options, self.gene_programs)

    def colors(self) -> None:
        keys = list(self.card["labels"])
        if self.card["hierarchy"]:
            keys.append(f"{self.card['hierarchy']['labels_key']}_tree")
        made = [*self.card["adds"], *(f"{key}_{what}" for key in keys for what in MADE_OF_PREDICTIONS)]
        missing = [color for color in self.row["umap_colors"] if color not in [*self.query.obs_columns, *made]]
        if missing:
            self.warnings.append(
                f"query '{self.row['query']}' has no obs column for umap_colors {listed(missing)}: left out of the plots."
            )

    def known(self) -> None:
        """What was found of the model and of its reference cells before the query was looked at."""
        self.faults += self.row.get("known_faults", [])
        self.warnings += self.row.get("known_warnings", [])


def _repeated(names: pd.Index) -> pd.Index:
    """The names that a cell before has. Hashes tell first whether there are any: 8 bytes of each, where its text takes ten times that."""
    blocks = (names[start:stop].to_numpy(object) for start, stop in spans(len(names), NAMES))
    hashes = np.concatenate([np.empty(0, dtype=np.uint64), *(pd.util.hash_array(block, categorize=False) for block in blocks)])
    hashes.sort()
    return names[names.duplicated()] if (hashes[1:] == hashes[:-1]).any() else names[:0]
