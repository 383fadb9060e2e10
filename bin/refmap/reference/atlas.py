"""Bring an atlas into the form that a reference is trained on: as if it were mapped onto itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..common.errors import RefmapError
from ..common.spelling import spell
from ..families import reference_options, trainable
from ..hierarchy import base_parameters
from ..models.card import ModelCard
from ..query.align import align
from ..query.beside import features_of
from ..query.checks import check
from ..query.elements import as_text
from ..query.protein_tables import read_proteins
from ..query.query import Query
from .selection import genes_of_programs, listed_genes, variable_genes
from .tissue import cut_tissue

# How counts are normalised for a reference that wants it, scanpy's usual way but for the genes: a query's total must not
# hang on genes that the reference lacks.
NORMALIZATION = {"target_sum": 1e4, "genes": "model"}


def align_reference(
    atlas: Path, settings: dict, out: Path, airr: Path | None = None, gmt: Path | None = None, genes: Path | None = None
) -> dict:
    """Check an atlas as a query is checked, and write what a reference is trained on as an AnnData zarr.

    Parameters
    ----------
    atlas
        .h5ad, .zarr or .h5mu with counts, cells x genes.
    settings
        The pipeline's parameters ``reference``, ``reference_*``, ``family`` and ``seed``.
    out
        Path of the AnnData zarr: X (cells x distinct gene ids that are trained on) counts or log-normalised values, whichever
        the family wants; obs and obsm under the atlas's own keys.
    airr
        The table of its receptors, which the user calls ``settings['reference_airr']``.
    gmt
        Gene programmes, which the user calls ``settings['reference_gmt']``: for a family that is made of them, its genes are
        chosen among theirs.
    genes
        The genes to train on, one id a line, which the user calls ``settings['reference_genes']``. Without it they are the
        ``settings['reference_n_top_genes']`` that vary most, or all where that is 0 or not there.

    Returns
    -------
    The settings under the names that a family's training takes, and ``warnings``.

    Raises
    ------
    RefmapError
        With all that is wrong with the atlas, a line each.
    """
    settings = base_parameters(settings)
    kind = trainable()[settings["family"]]
    options = reference_options(settings)
    wants = kind.input(options)
    trained = {
        "family": settings["family"],
        "seed": settings["seed"],
        "batch_key": settings["reference_batch_key"],
        "labels_keys": _several(settings["reference_labels_key"]),
        "unlabeled_category": settings["reference_unlabeled_category"],
        "categorical_covariate_keys": _several(settings["reference_categorical_covariate_keys"]),
        "continuous_covariate_keys": _several(settings["reference_continuous_covariate_keys"]),
        "protein_key": settings["reference_protein_key"],
        "n_latent": settings["reference_n_latent"],
        "n_layers": settings["reference_n_layers"],
        "max_epochs": settings["reference_max_epochs"],
        "hidden_labels": settings["reference_hidden_labels"] if kind.hides_labels else 0,
        "options": options,
        "normalization": NORMALIZATION if wants == "lognorm" else None,
        "warnings": [],
    }
    programs = gmt if "reference_gmt" in kind.needs else None
    shown_as = settings["reference"] or "the demo's atlas"
    row = _row(settings, trained, shown_as)
    with Query(atlas, shown_as) as query:
        card = _card(query, row, trained, wants, kind.multimodal)
        if kind.multimodal:
            _add_modality(card, query, row)
            trained["modalities"] = card["modalities"]
        card["receptors"] = "needed" if "reference_airr" in kind.needs else None
        plan = check(atlas, row, card, airr_path=airr, published=False)
        if plan["faults"]:
            raise RefmapError("\n".join(plan["faults"]))
        kept, trained["warnings"] = _choose_genes(query, row, card, settings, programs, genes)
        if len(kept) < (n_genes := next(iter(card["modalities"].values()), len(card["genes"]))):
            print(f"{len(kept):,} of {n_genes:,} genes are trained on")
            card["genes"] = [card["genes"][place] for place in kept]
            if kind.multimodal:
                _add_modality(card, query, row)
                trained["modalities"] = card["modalities"]
        trained["normalization"] = align(query, row, card, plan, out, airr=airr)["normalization"]
        if kind.spatial and settings.get("reference_spatial_key"):
            cut = (settings["reference_spatial_key"], settings["reference_batch_key"], _resolutions(options), settings["seed"])
            trained["partitions"] = cut_tissue(query, *cut, out)
    return trained


def _resolutions(options: dict) -> list[float]:
    try:
        found = [float(part) for part in options["resolutions"].split(",")]
    except ValueError:
        found = []
    if not found or not all(0 < resolution < np.inf for resolution in found):
        raise RefmapError(
            f"resolutions in --reference_options is '{options['resolutions']}': give numbers above 0, parted by commas."
        )
    return found


def _choose_genes(
    query: Query, row: dict, card: dict, settings: dict, gmt: Path | None, genes: Path | None
) -> tuple[np.ndarray, list[str]]:
    """Choose the genes to train on, of the first modality where there are several: places in the card's genes, and warnings."""
    own = card["genes"][: next(iter(card["modalities"].values()), None)]
    if genes:
        return listed_genes(genes, settings["reference_genes"], own)
    n_top = settings.get("reference_n_top_genes") or 0
    if not 0 < n_top < len(own):
        return np.arange(len(own)), []
    candidates = genes_of_programs(gmt, settings["reference_gmt"], own) if gmt else np.arange(len(own))
    return variable_genes(query, row, card, candidates, n_top, settings["seed"]), []


def _add_modality(card: dict, query: Query, row: dict) -> None:
    """Put the features that `row` names as proteins beside the card's genes, as a modality of the model."""
    named, own = row["protein_key"], query.modality or "rna"
    if named == own:
        raise query.fault(f"is read as its modality '{own}': set reference_protein_key to another.")
    genes, others = card["genes"], list(dict.fromkeys(features_of(query, named)))
    card["modalities"] = {own: len(genes), named: len(others)}
    taken = set(genes)  # the second CD4 is called as libraries call it that lay modalities beside each other
    card["genes"] = [*genes, *(f"{name}-1" if name in taken else name for name in others)]


def _several(value: str | None) -> list[str]:
    return [part.strip() for part in (value or "").split(";") if part.strip()]


def _row(settings: dict, trained: dict, shown_as: str) -> dict:
    """The atlas as a row of a sheet."""
    return {
        "dataset": "reference",
        "file_id": "reference",
        "query": shown_as,
        "layer": settings["reference_layer"],
        "var_key": settings["reference_var_key"],
        "id_table": None,
        "obs_table": None,
        "modality": None,
        "truth_key": None,
        "mapqc_sample_key": None,
        "size_factor_key": None,
        "one_batch": False,
        "round_counts": False,
        "gene_prefix": None,
        "orthologs": False,
        "query_embedding": None,
        "umap_colors": [],
        "gmt": None,
        "airr": settings["reference_airr"],
        "options": {},
        "min_gene_overlap": 0.0,
        "warn_gene_overlap": 0.0,
        **{key: trained[key] for key in ("batch_key", "labels_keys", "protein_key")},
        **{key: trained[key] for key in ("categorical_covariate_keys", "continuous_covariate_keys")},
    }


def _card(query: Query, row: dict, trained: dict, wants: str, multimodal: bool) -> dict:
    """The card of a model that wants just what the atlas has."""
    labels = {
        key: sorted(set(spell(as_text(query.obs_column(key))).values) - {"", trained["unlabeled_category"]})
        if key in query.obs_columns
        else []
        for key in row["labels_keys"]
    }
    card = ModelCard(
        model=row["query"],
        class_name=trained["family"],
        genes=list(dict.fromkeys(query.gene_ids(row["layer"], row["var_key"]))),
        input=wants,
        normalization=trained["normalization"],
        batch_key=row["batch_key"],
        labels=labels,
        unlabeled_category=trained["unlabeled_category"],
        categorical_covariates={key: [] for key in row["categorical_covariate_keys"]},
        continuous_covariates=row["continuous_covariate_keys"],
        protein_key=None if multimodal else row["protein_key"],
        proteins=list(read_proteins(query, row["protein_key"]).names) if row["protein_key"] and not multimodal else [],
    )
    return card.to_json()
