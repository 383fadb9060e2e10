"""A mapping's cells in pictures: by themselves, and among those of the reference."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from ..common import layout
from . import explore, plots
from .expression import Expression
from .mapped_cells import Cells, Reference
from .plots import Panel

MOST_CELLS_DRAWN = 50_000
CERTAINTY, GROUP = "certainty of the transferred label", "novel group"
DATASET, NOVELTY, SEPARATION = "dataset", "novelty (p-value)", "separation"
# The column of the page to look around in that says of which dataset a cell is: a name that no query's column has.
WHICH = "reference or query"


@dataclass(frozen=True)
class Coloring:
    """What cells are coloured by.

    is_label    whether the values are labels: these have the same colours in all pictures of a mapping
    is_share    whether they lie between 0 and 1, and their colours with them
    """

    title: str
    values: pd.Series
    is_label: bool = False
    is_share: bool = False


def draw(cells: Cells, around: Reference | None, expression: Expression, row: dict, name: str, seed: int, output: Path) -> None:
    """Write umap.png/.pdf, joint.png/.pdf where there are reference cells, and explore.html to `output`.

    `expression` is of the same cells.
    """
    n = len(cells.latent)
    drawn = np.random.default_rng(seed).permutation(n)[:MOST_CELLS_DRAWN]
    latent = cells.latent[drawn]
    position = layout.umap(latent, seed) if n >= layout.FEWEST_FOR_UMAP else layout.first_two(latent)
    known = [replace(shown, values=_as_text(shown.values.take(drawn))) for shown in colorings(cells, row)]
    made, of_labels = _query_panels(known, position)
    plots.color_alike(of_labels)
    _draw_cells(made, f"{name}: {caption(n, len(drawn))}", output / "umap")
    if around:
        _draw_joint(cells, around, drawn, known, name, seed, output)
        _explore(cells, around, expression, row, cells.place, np.arange(n), name, seed, output)
    else:
        _explore(cells, None, expression, row, position, drawn, name, seed, output)


def caption(n: int, drawn: int) -> str:
    if n < layout.FEWEST_FOR_UMAP:
        return f"{n} cell{'s' * (n > 1)}, too few for a UMAP: the two latent dimensions that vary most"
    return f"UMAP of {n:,} cells" if drawn == n else f"UMAP of {drawn:,} cells, drawn at random from {n:,}"


def colorings(cells: Cells, row: dict) -> list[Coloring]:
    """Return what to colour the query's cells by."""
    found = []
    for labels in cells.labels:
        found.append(Coloring(f"{labels.made} label", labels.values, is_label=True))
        found.append(Coloring(f"uncertainty of the {labels.made} label", labels.uncertainty, is_share=True))
    found += [Coloring(name, values, is_label=True) for name, values in cells.best.items()]
    if cells.second is not None:
        found.append(Coloring("label by the genes", cells.second, is_label=True))
    if cells.certainty is not None:
        found.append(Coloring(CERTAINTY, cells.certainty, is_share=True))
    if cells.group is not None and cells.group.notna().any():
        found.append(Coloring(GROUP, cells.group))
    if cells.novelty is not None:
        found += [Coloring(NOVELTY, cells.novelty, is_share=True), Coloring(SEPARATION, cells.separation)]
    given = {**dict.fromkeys(row["labels_keys"], "given label"), row["truth_key"]: "true label"}
    for key, values in cells.columns.items():
        role = given.get(key, "batch" if key == row["batch_key"] else None)
        found.append(Coloring(f"{role} ({key})" if role else key, values, is_label=key in given))
    # A query may have nothing but its counts
    return found or [Coloring("query", pd.Series("all cells", index=range(len(cells.latent))))]


def _query_panels(
    known: list[Coloring], position: np.ndarray, backdrop: np.ndarray | None = None
) -> tuple[list[Panel], list[Panel]]:
    """Return the panels of the query's cells, and those of them that show labels."""
    made, of_labels = [], []
    for shown in known:
        made.append(Panel(shown.title, shown.values, position, backdrop=backdrop))
        if shown.is_share:
            plots.share_limits(made[-1])
        if shown.is_label:
            of_labels.append(made[-1])
    return made, of_labels


def _draw_joint(
    cells: Cells, around: Reference, drawn: np.ndarray, known: list[Coloring], name: str, seed: int, output: Path
) -> None:
    """Draw the reference's UMAP, and the query's cells in their places there."""
    at = np.asarray(around.cells.obsm["X_umap"])
    some = np.random.default_rng(seed).permutation(np.flatnonzero(np.isfinite(at).all(axis=1)))[:MOST_CELLS_DRAWN]
    place = cells.place[drawn]
    made, of_labels = _query_panels(known, place, at[some])
    shown = [labels.key for labels in cells.labels if labels.made == "transferred"]
    own = [Panel(f"reference ({key})", around.labels(key).iloc[some].reset_index(drop=True), at[some]) for key in shown]
    plots.color_alike([*own, *of_labels])
    # The two together in one random order, so that neither lies on top of the other.
    both = np.concatenate([at[some], place])
    order = np.random.default_rng(seed).permutation(len(both))
    which = pd.Series(np.repeat(["reference", "query"], [len(some), len(place)]), dtype=object)[order].reset_index(drop=True)
    dataset = Panel(DATASET, which, both[order], order=["reference", "query"])
    umap = "own UMAP" if around.scale["map"] == "own" else "UMAP"
    title = f"{name}: {len(place):,} cells on the {umap} of {len(some):,} reference cells"
    _draw_cells([dataset, *own, *made], title, output / "joint")


def _draw_cells(panels: list[Panel], title: str, path: Path) -> None:
    plots.draw_cells(panels, title, path)
    # A figure is a ring of objects, which holds the pixels of each panel of many cells: 0.5 GB, until it is seen that none needs it
    if len(panels[0].position) > plots.MOST_VECTOR_DOTS:
        gc.collect()


def _explore(
    cells: Cells,
    around: Reference | None,
    expression: Expression,
    row: dict,
    position: np.ndarray,
    drawn: np.ndarray,
    name: str,
    seed: int,
    output: Path,
) -> None:
    """Write the page to look around in. The reference's labels and those that came from them are one column."""
    shown = cells.labels[-1] if cells.labels else None
    label = shown and (shown.key if shown.made == "transferred" else shown.name)
    given = next(iter(row["labels_keys"]), None) or (row["truth_key"] and f"true {row['truth_key']}")
    columns = _page_columns(cells, row)
    # What is looked at most comes first.
    first = [key for key in (label, shown and f"{shown.name}_uncertainty", row["batch_key"]) if key in columns]
    columns = {key: columns[key] for key in dict.fromkeys([*first, *columns])}
    own, own_names, datasets = {}, np.empty(0, dtype=object), None
    if around:
        own = {key: around.labels(key) for key in around.scale["keys"]}
        if around.batches is not None:
            own.setdefault(around.scale["batch_key"], around.batches)
        at, own_names, datasets = np.asarray(around.cells.obsm["X_umap"]), np.asarray(around.cells.obs_names), WHICH
        position = np.concatenate([at, position])
    # The page asks for those that it shows
    ids = _Behind(own_names, len(own_names), lambda rows: cells.names_of(drawn[rows]), len(drawn))
    frame = {
        key: _Behind(
            _as_text(own[key]) if key in own else None,
            len(own_names),
            (lambda rows, key=key: _as_text(columns[key].take(drawn[rows]))) if key in columns else None,
            len(drawn),
        )
        for key in [*columns, *sorted(own.keys() - columns.keys())]
    }
    if around:
        codes = np.repeat(np.array([0, 1], dtype=np.int8), [len(own_names), len(drawn)])
        frame = {WHICH: pd.Series(pd.Categorical.from_codes(codes, ["reference", "query"]))} | frame
    color = label or (given if given in frame else None)
    notes = [] if color else ["There are no labels to colour the cells by."]
    if len(drawn) < len(cells.latent):
        notes.append(f"Cells: {len(drawn):,} of {len(cells.latent):,} have a place, chosen at random, as in umap.png.")
    stored = f"reference_mapping/dataset~{row['dataset']}/file_id~{row['file_id']}.zarr"
    explore.write_page(
        output / "explore.html",
        name,
        position,
        ids,
        frame,
        datasets=datasets,
        background="reference" if around else None,
        color=color or (row["batch_key"] if row["batch_key"] in frame else None),
        shares=[NOVELTY, CERTAINTY, *(f"{labels.name}_uncertainty" for labels in cells.labels)],
        genes=expression.genes(drawn, len(ids) - len(drawn), [labels.values for labels in cells.labels], stored, seed),
        notes=notes,
        seed=seed,
    )


class _Behind:
    """Values of the query's cells behind those of the reference's, put together for some of them when these are asked for.

    own, n_own    the values of the reference's cells, None for none, and how many cells these are
    read, n       takes rows of the query's cells for their values, None for none, and how many there are
    """

    def __init__(self, own: np.ndarray | pd.Series | None, n_own: int, read: Callable | None, n: int):
        self._own, self._n_own, self._read, self._n = own, n_own, read, n

    def __len__(self) -> int:
        return self._n_own + self._n

    def take(self, rows: np.ndarray) -> pd.Series:
        is_own, found = rows < self._n_own, pd.Series(None, index=range(len(rows)), dtype=object)
        if self._own is not None:
            found[is_own] = np.asarray(self._own, dtype=object)[rows[is_own]]
        if self._read is not None:
            found[~is_own] = np.asarray(self._read(rows[~is_own] - self._n_own), dtype=object)
        return found


def _as_text(values: pd.Series) -> pd.Series:
    """Categories as text; numbers as they are."""
    values = values.reset_index(drop=True)
    return values.astype(object) if isinstance(values.dtype, pd.CategoricalDtype) else values


def _page_columns(cells: Cells, row: dict) -> dict[str, pd.Series]:
    columns = {}
    for labels in cells.labels:
        columns[labels.key if labels.made == "transferred" else labels.name] = labels.values
        columns[f"{labels.name}_uncertainty"] = labels.uncertainty
    columns |= cells.best
    of_expression = {"label by the genes": cells.second, CERTAINTY: cells.certainty, GROUP: cells.group}
    columns |= {name: values for name, values in of_expression.items() if values is not None}
    if cells.novelty is not None:
        columns[NOVELTY] = cells.novelty
        columns[SEPARATION] = cells.separation
    return columns | {
        (f"true {key}" if key == row["truth_key"] else key): values for key, values in cells.columns.items() if key not in columns
    }
