"""Pairs of a reference and a query whose labels are known, as a YAML describes them."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import yaml

# The columns of obs that the cells get: what they are called in their files is the YAML's to say.
BATCH, LABEL, TRUTH = "batch", "label", "truth"


@dataclass(frozen=True)
class Side:
    """The cells of one side of a pair.

    file       below the folder of the data
    labels     the column of obs with labels; of the query these are only compared with
    batch      the column of obs with batches; null: all cells are of one
    layer      where the counts are: `X`, or a layer
    where      column of obs -> the values of it whose cells are taken; of all columns at once
    rename     label -> what it is called here; null: its cells are left out
    most       so many cells of a label are taken at most, drawn at random; null: all
    half       0 or 1: one random half of what is left, or the other; null: all
    """

    file: str
    labels: str
    batch: str | None = None
    layer: str = "X"
    where: dict | None = None
    rename: dict | None = None
    most: int | None = None
    half: int | None = None

    def read(self, folder: Path, labels_as: str) -> ad.AnnData:
        """Read counts, batches and labels, the latter as obs `labels_as`."""
        cells = ad.read_h5ad(folder / self.file)
        labels = cells.obs[self.labels].astype(object)
        if self.rename:
            labels = labels.map(lambda label: self.rename.get(label, label))
        taken = labels.notna().to_numpy(copy=True)
        for column, values in (self.where or {}).items():
            taken &= cells.obs[column].astype(str).isin([str(value) for value in values]).to_numpy()
        if self.most:
            order = pd.Series(np.random.default_rng(0).permutation(np.flatnonzero(taken)))
            drawn = order.groupby(labels.iloc[order].to_numpy()).head(self.most)
            taken = np.isin(np.arange(cells.n_obs), drawn)
        if self.half is not None:
            taken &= np.random.default_rng(0).integers(0, 2, cells.n_obs) == self.half
        counts = cells.X if self.layer == "X" else cells.layers[self.layer]
        batches = cells.obs[self.batch].astype(str) if self.batch else "all"
        obs = pd.DataFrame({BATCH: batches, labels_as: labels.astype(str)}, index=cells.obs_names)
        return ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=cells.var_names))[taken].copy()


@dataclass(frozen=True)
class Pair:
    """A reference and a query, and the labels that are left out of the reference in turn.

    epochs          those of surgery at most; null: as the pipeline trains where nobody chooses
    shared_genes    whether the reference is cut to the query's genes, as where either file holds a choice of its own
    """

    name: str
    reference: Side
    query: Side
    leave_out: list[str]
    seeds: int
    reference_epochs: int
    epochs: int | None
    shared_genes: bool

    def cells(self, folder: Path) -> tuple[ad.AnnData, ad.AnnData]:
        """Return the cells of the reference, labels in obs `label`, and those of the query, labels in obs `truth`."""
        reference, query = self.reference.read(folder, LABEL), self.query.read(folder, TRUTH)
        unknown = sorted(set(self.leave_out) - set(reference.obs[LABEL]))
        if unknown:
            sys.exit(
                f"{self.name}: the reference has no '{unknown[0]}' to leave out; it has {sorted(set(reference.obs[LABEL]))}."
            )
        if self.shared_genes:
            reference = reference[:, reference.var_names.isin(query.var_names)].copy()
        return reference, query


def read_pairs(path: Path, only: tuple[str, ...]) -> list[Pair]:
    """Read the pairs of a YAML: `defaults` of all, and `pairs` by name; those named in `only`, or all."""
    found = yaml.safe_load(path.read_text())
    unknown = sorted(set(only) - set(found["pairs"]))
    if unknown:
        sys.exit(f"{path}: there is no pair '{unknown[0]}'; there are {', '.join(found['pairs'])}.")
    pairs = []
    for name, given in found["pairs"].items():
        if only and name not in only:
            continue
        given = {"leave_out": [], "epochs": None, "shared_genes": False} | found["defaults"] | given
        sides = {side: Side(**given.pop(side)) for side in ("reference", "query")}
        pairs.append(Pair(name=name, **sides, **given))
    return pairs
