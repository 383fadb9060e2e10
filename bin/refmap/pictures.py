"""A mapping's cells in pictures: by themselves, and among those of the reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from . import explore, plots
from .mapped_cells import Cells, Reference
from .plots import Panel

MOST_CELLS_DRAWN = 50_000
DATASET, NOVELTY = "dataset", "novelty (p-value)"
SHARES = (NOVELTY,)


def draw(cells: Cells, around: Reference | None, row: dict, name: str, seed: int, output: Path) -> None:
    """Write umap.png/.pdf, joint.png/.pdf where there are reference cells, and explore.html to `output`."""
    n = len(cells.latent)
    drawn = np.random.default_rng(seed).permutation(n)[:MOST_CELLS_DRAWN]
    latent = cells.latent[drawn]
    position = plots.umap(latent, seed) if n >= plots.FEWEST_FOR_UMAP else plots.first_two(latent)
    known = {title: values.iloc[drawn].reset_index(drop=True) for title, values in panels(cells, row).items()}
    plots.draw_cells(_query_panels(known, position), f"{name}: {caption(n, len(drawn))}", output / "umap")
    if around:
        _draw_joint(cells, around, drawn, known, name, seed, output)
        _explore(cells, around, row, cells.place, np.arange(n), name, seed, output)
    else:
        _explore(cells, None, row, position, drawn, name, seed, output)


def caption(n: int, drawn: int) -> str:
    if n < plots.FEWEST_FOR_UMAP:
        return f"{n} cell{'s' * (n > 1)}, too few for a UMAP: the two latent dimensions that vary most"
    return f"UMAP of {n:,} cells" if drawn == n else f"UMAP of {drawn:,} cells, drawn at random from {n:,}"


def panels(cells: Cells, row: dict) -> dict[str, pd.Series]:
    """Return what to colour the query's cells by, title -> values."""
    found = {}
    for labels in cells.labels:
        found[f"{labels.made} label"] = labels.values
        found[f"uncertainty of the {labels.made} label"] = labels.uncertainty
    if cells.novelty is not None:
        found[NOVELTY] = cells.novelty
    roles = {row["batch_key"]: "batch", **dict.fromkeys(row["labels_keys"], "given label"), row["truth_key"]: "true label"}
    for key, values in cells.columns.items():
        found[f"{roles[key]} ({key})" if key in roles else key] = values
    return found


def _is_label(title: str) -> bool:
    return title.endswith(" label") and not title.startswith("uncertainty") or title.startswith(("given label", "true label"))


def _query_panels(known: dict[str, pd.Series], position: np.ndarray, backdrop: np.ndarray | None = None) -> list[Panel]:
    made = [Panel(title, values, position, backdrop=backdrop) for title, values in known.items()]
    plots.color_alike([panel for panel in made if _is_label(panel.name)])
    for panel in made:
        if panel.name.startswith("uncertainty") or panel.name in SHARES:
            plots.share_limits(panel)
    return made


def _draw_joint(
    cells: Cells, around: Reference, drawn: np.ndarray, known: dict[str, pd.Series], name: str, seed: int, output: Path
) -> None:
    """Draw the reference's UMAP, and the query's cells in their places there."""
    at = np.asarray(around.cells.obsm["X_umap"])
    some = np.random.default_rng(seed).permutation(np.flatnonzero(np.isfinite(at).all(axis=1)))[:MOST_CELLS_DRAWN]
    place = cells.place[drawn]
    made = _query_panels(known, place, at[some])
    shown = [labels.key for labels in cells.labels if labels.made == "transferred"]
    own = [Panel(f"reference ({key})", around.labels(key).iloc[some].reset_index(drop=True), at[some]) for key in shown]
    plots.color_alike([*own, *(panel for panel in made if _is_label(panel.name))])
    # The two together in one random order, so that neither lies on top of the other.
    both = np.concatenate([at[some], place])
    order = np.random.default_rng(seed).permutation(len(both))
    which = pd.Series(np.repeat(["reference", "query"], [len(some), len(place)]), dtype=object)[order].reset_index(drop=True)
    dataset = Panel(DATASET, which, both[order], order=["reference", "query"])
    title = f"{name}: {len(place):,} cells on the UMAP of {len(some):,} reference cells"
    plots.draw_cells([dataset, *own, *made], title, output / "joint")


def _explore(
    cells: Cells, around: Reference | None, row: dict, position: np.ndarray, drawn: np.ndarray, name: str, seed: int, output: Path
) -> None:
    """Write the page to look around in. The reference's labels and those that came from them are one column."""
    columns = {}
    for labels in cells.labels:
        columns[labels.key if labels.made == "transferred" else labels.name] = labels.values
        columns[f"{labels.name}_uncertainty"] = labels.uncertainty
    if cells.novelty is not None:
        columns[NOVELTY] = cells.novelty
    columns |= {
        (f"true {key}" if key == row["truth_key"] else key): values for key, values in cells.columns.items() if key not in columns
    }
    shown = cells.labels[-1] if cells.labels else None
    label = shown and (shown.key if shown.made == "transferred" else shown.name)
    given = next(iter(row["labels_keys"]), None) or (row["truth_key"] and f"true {row['truth_key']}")
    frame = pd.DataFrame({title: values.iloc[drawn].to_numpy() for title, values in columns.items()}, index=cells.names[drawn])
    reference = None
    if around:
        keys = around.scale["keys"]
        own = {key: around.labels(key).astype(object).to_numpy() for key in keys}
        if around.batches is not None:
            own.setdefault(around.scale["batch_key"], around.batches.astype(object).to_numpy())
        reference = explore.Cells(np.asarray(around.cells.obsm["X_umap"]), pd.DataFrame(own, index=around.cells.obs_names))
    explore.write_page(
        output / "explore.html",
        name,
        explore.Cells(position, frame),
        reference,
        label=label or (given if given in frame else None),
        uncertainty=shown and f"{shown.name}_uncertainty",
        batch=row["batch_key"] if row["batch_key"] in frame else None,
        shares=SHARES if cells.novelty is not None else (),
        seed=seed,
    )
