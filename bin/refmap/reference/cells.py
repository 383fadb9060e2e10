"""The cells of a reference: where they are to be had, which of their labels are wanted, and what their embedding takes."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from ..common.cli import remove, write_json
from ..common.errors import AskedFor, RefmapError, listed, nearest
from ..common.exhaustion import MachineFault, exhaustion
from ..common.folders import ReferenceFolder
from ..common.spelling import spell
from ..common.storage import give_names, given_name, numbered, stored_name, write_zarr
from ..families.embedding import NAME as BROUGHT
from ..models.folder import DATA, ModelFolder
from ..models.hidden import HIDDEN_COLUMN, hidden_among, seen_labels
from ..query.align import align
from ..query.beside import read_beside
from ..query.checks import Check
from ..query.counts import looks_like_counts
from ..query.elements import as_text
from ..query.query import Query, layer_name
from .embedding import fewest_genes, find_embedding, own_map, read_kept
from .products import saved_products, saved_sample

# A column of more values than this holds no categories.
MOST_CATEGORIES = 1000


class ReferenceCells(Query):
    """The cells of a reference, whose batches, labels and covariates are read in the spelling of its model.

    `notes` says of the columns read so far what was taken for what. Those that are `kept` beside the model are stored by refmap,
    under names as it stores them.
    """

    def __init__(self, path: Path, shown_as: str, card: dict, request: dict, kept: bool = False):
        self.card, self.transfer_keys, self.kept = card, request["transfer_keys"], kept
        super().__init__(path, shown_as, called="reference")
        read_beside(self, card, request["protein_key"])
        self.notes: list[str] = []
        self._columns: dict[str, pd.Series] = {}

    @cached_property
    def _known(self) -> dict[str, list[str]]:
        """What the model knows in each column of categories."""
        known: dict[str, list[str]] = {key: [] for key in self.transfer_keys}
        for key, values in {**self.card["labels"], **self.card["categorical_covariates"]}.items():
            known[key] = list(values)
        for key in self.card["labels"]:
            known[key] += [self.card["unlabeled_category"]] if self.card["unlabeled_category"] is not None else []
        if self.card["batch_key"]:
            known[self.card["batch_key"]] = known.get(self.card["batch_key"], []) + self.card["batches"]
        return known

    def _choose(self, modality: str | None):
        """Of several modalities the one that the model's genes were in, if it is there."""
        own = self.card["modality"]
        return super()._choose(own if self.multimodal and own in self.container["mod"] else modality)

    @property
    def obs_columns(self) -> list[str]:
        return [given_name(name) for name in super().obs_columns] if self.kept else super().obs_columns

    def obs_column(self, column: str) -> pd.Series:
        stored = stored_name(column) if self.kept else column
        if column not in self._known:
            return super().obs_column(stored)
        if column not in self._columns:
            spelled = spell(as_text(super().obs_column(stored)), self._known[column])
            self.notes += spelled.notes(f"reference '{self.shown_as}', column '{column}'")
            self._columns[column] = pd.Series(pd.Categorical(np.where(spelled.values == "", None, spelled.values)))
        return self._columns[column]


def prepare_reference(
    request: dict, source: Path | None, model: Path | None, card: dict, folder: ReferenceFolder, airr: Path | None = None
) -> None:
    """Find the cells of a reference and write what their embedding takes, or their embedding where it is to be had.

    Parameters
    ----------
    request
        What a row of the sheet says of them: ``trained`` (whether the run trains the model on them), ``reference`` (path as the
        user wrote it, or None), ``layer`` (None: where the counts are found), ``var_key``, ``embedding`` (a key of obsm, or None:
        counts are embedded by the model), ``batch_key`` (that of cells that bring their embedding, or None), ``protein_key`` (where their proteins or second modality are, or None: as the model's),
        ``airr`` (the table of their receptors, or None), ``transfer_keys``, ``columns`` (further ones of obs to take along) and
        ``origin`` (where `reference` was fetched from, if it is an address).
    source
        Where `request['reference']` lies; None if it does not exist.
    model
        The model's folder, which holds what refmap kept of its cells if it was trained here, and which of these had their labels
        hidden, and in which scvi-tools saves its cells if it is told to.
    card
        The model's card.
    airr
        Where `request['airr']` lies; None if it does not exist.
    folder
        The folder to make: its record says under ``source`` where the cells come from, ``fault`` what is wrong with what the
        row names of them; one of the two is None, or both where there are no cells, and ``warnings`` may say why. What was kept
        of them brings its UMAP, and the scale that they set, under ``saved_scale``. ``map`` says which UMAP there will be: the
        file's ``own`` (obsm ``X_umap``), the one that was ``kept``, or one ``computed``. ``seen_labels`` are the columns whose
        labels the model has seen, but of cells that the obs column `HIDDEN_COLUMN` marks, which is there if there are any.
    """
    folder.folder.mkdir()
    record = {
        "reference": request["reference"],
        "source": None,
        "fault": None,
        "warnings": [],
        "keys": [],
        "seen_labels": seen_labels(card),
        "latent_names": card["latent_names"],
        "input": card["input"],
        "origin": request["origin"],
    }
    if card["fault"]:
        pass  # which all of its mappings stop at
    elif request["reference"]:
        try:
            record |= _prepare(source, request["reference"], model, request, card, folder, airr)
        except RefmapError as error:
            record["fault"] = str(error)
    else:
        record |= _prepare_saved(model, request, card, folder, airr)
    write_json(folder.record, record)


def _prepare_saved(model: Path | None, request: dict, card: dict, folder: ReferenceFolder, airr: Path | None) -> dict:
    """Prepare the cells saved beside a model, the first of them that can be used; return what to record of them.

    No row names them: whatever is wrong with them is a warning, unless it is with something in them that the row names.
    """
    named = [name for name in ("layer", "var_key", "embedding", "protein_key") if request[name]]
    products, scale, warnings = saved_products(model, card)
    for path in [*([products.cells] if products else []), *_saved_cells(model)]:
        kept = bool(products) and path == products.cells
        shown = f"{card['model']}/{path.relative_to(model).as_posix()}"
        try:
            with exhaustion():
                found = _prepare(path, shown, model, request, card, folder, airr, kept)
            if kept and scale:
                found["saved_scale"] = scale
            if kept:
                sample, notes = saved_sample(products, f"{card['model']}/{products.folder.name}")
                warnings += notes
                if sample:
                    shutil.copytree(sample, folder.sample)
            return found | {"warnings": warnings + found["warnings"]}
        except MachineFault:
            raise
        except Exception as error:  # files that nobody vouches for: of libraries that share no base class
            if isinstance(error, AskedFor) or (named and isinstance(error, RefmapError)):
                return {"fault": str(error)}
            found = str(error) if isinstance(error, RefmapError) else f"reference '{shown}' cannot be read ({error!r})."
            warnings.append(f"The cells saved beside the model are not used, and no row asks for them: {found}")
            remove(folder.aligned)
            remove(folder.cells)
    asked = [f"reference_{name}" for name in named] + ["transfer_keys"] * bool(request["transfer_keys"])
    asked += ["mapqc_sample_key"] * bool(request["columns"])
    if asked:
        warnings.append(
            f"There are no reference cells, so {listed(asked)} mean nothing: name the cells of the reference with reference."
        )
    return {"warnings": warnings}


def _saved_cells(model: Path | None) -> list[Path]:
    """The cells that scvi-tools saved beside a model: first under its own name for them, then behind prefixes."""
    files = model.iterdir() if model and model.is_dir() else []
    return sorted((path for path in files if path.name.endswith(DATA)), key=lambda path: (path.name not in DATA, path.name))


def _prepare(
    path: Path | None,
    shown: str,
    model: Path | None,
    request: dict,
    card: dict,
    folder: ReferenceFolder,
    airr: Path | None,
    kept: bool = False,
) -> dict:
    """Write the cells in a file; return what to record of them.

    Their UMAP is that of the model's latent space where they are `kept` beside the model.

    Raises RefmapError if they cannot be used, and AskedFor if that is due to something that the row names.
    """
    with ReferenceCells(path, shown, card, request, kept) as cells:
        if not cells.n_obs:
            raise cells.fault("has no cells: give the cells of the reference.")
        keys, warnings = _label_keys(cells, request["transfer_keys"], card)
        obs = pd.DataFrame(index=pd.RangeIndex(cells.n_obs))
        for key in keys:
            obs[key] = _labels(cells, key, card["unlabeled_category"])
        batch_key = card["batch_key"] if card["batch_key"] in cells.obs_columns else None
        if batch_key and batch_key not in keys:
            obs[batch_key] = pd.Categorical(as_text(cells.obs_column(batch_key)))
        hidden = hidden_among(cells.obs_names, ModelFolder(model, card["model"])) if model else np.zeros(cells.n_obs, dtype=bool)
        if hidden.any():
            obs[HIDDEN_COLUMN] = hidden
        for column in request["columns"]:
            _check_column(cells, column, "mapqc_sample_key or mapqc_study_key")
            if column not in obs:
                obs[column] = _labels(cells, column, None)
        latent, source, notes = find_embedding(cells, request, card)
        warnings += notes
        # Beside an embedding that came along counts are for a look at the cells' expression alone
        brought = card["family"] == BROUGHT
        if latent is None or (brought and card["genes"]):
            try:
                warnings += _align(cells, request, card | {"batch_key": None} if brought else card, folder, airr)
            except RefmapError as error:  # which is no news where an embedding would have been taken
                raise type(error)(" ".join([*notes, str(error)])) from error
        if latent is None:
            source = "counts"
        if request["trained"]:  # they are kept beside the model, for a run that asks for other labels
            for column, values in _categories(cells, {*obs.columns, HIDDEN_COLUMN}):
                obs[column] = values
        obsm = {} if latent is None else {"X_emb": latent}
        if kept:
            obsm |= read_kept(cells, latent.shape[1])
        else:
            position, notes = own_map(cells)
            warnings += notes
            if position is not None:
                obsm["X_umap"] = position
        write_zarr(numbered(obs, obsm=obsm), folder.cells)
        give_names(folder.cells, cells.obs_names)
        return {
            "reference": cells.shown_as,
            "source": source,
            "n_cells": cells.n_obs,
            "batch_key": batch_key,
            "keys": keys,
            "map": "kept" if kept else "own" if "X_umap" in obsm else "computed",
            "warnings": [*cells.notes, *_foreign_labels(cells, keys, card), *warnings],
        }


def _label_keys(cells: Query, wanted: list[str], card: dict) -> tuple[list[str], list[str]]:
    """The columns whose labels are transferred: those asked for, else those of the model's own labels that are there."""
    for key in wanted:
        _check_column(cells, key, "transfer_keys")
    keys = list(dict.fromkeys(wanted)) or [key for key in card["labels"] if key in cells.obs_columns]
    if keys:
        return keys, []
    return [], [
        f"No labels are transferred from reference '{cells.shown_as}': name the columns of its obs with transfer_keys, out of "
        f"{listed(cells.obs_columns)}."
    ]


def _check_column(cells: Query, column: str, named_by: str) -> None:
    """Raise AskedFor if obs lacks a column that the row names."""
    if column not in cells.obs_columns:
        raise AskedFor(
            f"reference '{cells.shown_as}' has no obs column '{column}', which {named_by} names: its columns are "
            f"{listed(cells.obs_columns)}.{nearest(column, cells.obs_columns)}"
        )


def _labels(cells: Query, key: str, unlabeled: str | None) -> pd.Categorical:
    """The labels of a column, sorted categories; missing where empty or called as the model calls cells without a label."""
    labels = as_text(cells.obs_column(key))
    return pd.Categorical(np.where((labels == "") | (labels == unlabeled), None, labels))


def _categories(cells: Query, taken: set[str]) -> Iterator[tuple[str, pd.Categorical]]:
    """The columns of obs beside those `taken` that hold categories."""
    for column in cells.obs_columns:
        try:
            values = None if column in taken else cells.obs_column(column)
        except RefmapError:
            continue  # which nobody asked for
        if values is None or (is_numeric_dtype(values) and not is_bool_dtype(values)):
            continue
        if values.nunique() <= MOST_CATEGORIES:
            yield column, _labels(cells, column, None)


def _foreign_labels(cells: Query, keys: list[str], card: dict) -> list[str]:
    """What is to be said of labels that are transferred, in a column of the model's, and are none of the model's."""
    warnings = []
    for key in filter(card["labels"].get, keys):
        foreign = Counter(as_text(cells.obs_column(key)))
        for known in ("", card["unlabeled_category"], *card["labels"][key]):
            del foreign[known]
        if foreign:
            warnings.append(
                f"reference '{cells.shown_as}', labels column '{key}': {sum(foreign.values()):,} of {cells.n_obs:,} cells have labels "
                f"that the model does not know ({listed(foreign, 3)}): make sure that these are the cells that it was trained on."
            )
    return warnings


def _layer(cells: Query, wanted: str | None, card: dict) -> tuple[str, list[str]]:
    """Where the values are that the model wants, and what is to be said of it.

    The layer that the row names; else that which the model was set up from or, where it holds no counts, X or another that does.
    """
    own = card["layer"] if card["layer"] in cells.layers else "X"
    if wanted or card["input"] != "counts" or _holds_counts(cells, own):
        return wanted or own, []
    others = [layer for layer in cells.layers if layer != own and _holds_counts(cells, layer)]
    if not others:
        return own, []
    return others[0], [
        f"reference '{cells.shown_as}' holds no counts in {layer_name(own)}: those in {layer_name(others[0])} are embedded."
    ]


def _holds_counts(cells: Query, layer: str) -> bool:
    try:
        return looks_like_counts(cells.matrix(layer))
    except RefmapError:
        return False  # which is told if it is read


def _align(cells: Query, request: dict, card: dict, folder: ReferenceFolder, airr: Path | None) -> list[str]:
    """Write the counts under the model's genes and columns, as a query's are; return what is to be said of it."""
    layer, warnings = _layer(cells, request["layer"], card)
    row = {
        "dataset": "reference",
        "file_id": "reference",
        "query": cells.shown_as,
        "layer": layer,
        "var_key": request["var_key"],
        "id_table": None,
        "obs_table": None,
        "modality": None,
        "batch_key": card["batch_key"],
        "labels_keys": [],
        "truth_key": None,
        "mapqc_sample_key": None,
        "one_batch": False,
        "round_counts": False,
        "gene_prefix": None,
        "orthologs": False,
        "query_embedding": None,
        "categorical_covariate_keys": list(card["categorical_covariates"]),
        "continuous_covariate_keys": card["continuous_covariates"],
        "size_factor_key": card["size_factor_key"],
        "protein_key": request["protein_key"] or (card["protein_key"] if card["proteins"] else None),
        "umap_colors": [],
        "gmt": None,
        "airr": request["airr"],
        "options": {},
        "min_gene_overlap": fewest_genes(card),
        "warn_gene_overlap": 1.0,
    }
    columns = {key: ("covariate", values) for key, values in card["categorical_covariates"].items()}
    if card["batch_key"]:
        columns[card["batch_key"]] = ("batch", card["batches"])
    for column, (what, known) in columns.items():
        if foreign := sorted(set(as_text(cells.obs_column(column))) - {"", *known}):
            raise cells.fault(
                f"has {listed(foreign, 3)} in {what} column '{column}', which the model does not know: give the cells "
                "that it was trained on, or name their embedding with reference_embedding."
            )
    # Its batches are the model's own, and keep their names.
    own = card | {"fixed_batches": True, "warnings": []}
    plan = Check(cells, row, own, airr_path=airr).plan()
    if plan["faults"]:
        raise RefmapError(" ".join(plan["faults"]))
    return warnings + align(cells, row, own, plan, folder.aligned, airr=airr)["warnings"]
