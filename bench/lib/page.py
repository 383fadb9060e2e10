"""docs/performance.md and its picture, from measured rows alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from .measuring import GB, OURS, ROOT, Comparison, Row, compare
from .steps import cells_steps, mapping_steps, reference_steps

ATLAS, CELLS, MAPPING = list(reference_steps("")), list(cells_steps("", "")), list(mapping_steps("", "", scale=True))
FILES = 100
# What a pair of ways was given, by the task
TASKS = {
    "surgery": "`bench/engine.py`: two epochs, 2,000 genes, some 420 values a cell, a model of two hidden layers, and all that comes"
    " before the epochs. Both train the same values of the same model, by the same objective.",
    "alignment": "`bench/files.py`: a sparse .h5ad of 30,000 genes is read, put into the order of 4,000 genes of which it has nine in"
    " ten, and written as zarr; by scvi-tools with `prepare_query_anndata`. What is written is compared, and is the same.",
    "export": "`bench/files.py`: the same file is written as zarr with embedding, labels and their probabilities.",
    "labels": "`bench/labels.py`: 50 neighbours in 30 dimensions, five columns of labels. Neighbours"
    " and labels are compared, and are the same.",
    "UMAP": "`bench/figures.py`: 30 dimensions; with the search for neighbours, and what is compiled as it runs.",
    "iLISI": "`bench/figures.py`: four batches, 90 neighbours; likewise. What JAX compiles is most of scib-metrics' time for so few.",
    "kBET": "`bench/figures.py`: the same, within each of ten labels.",
    "joint atlas": "`bench/joint.py`: a reference and 200 queries are put into one file. refmap looks for all neighbours, says of each cell"
    " what is known of it and draws a page beside; the other way is `anndata.concat`, `scanpy.pp.neighbors` and `write_h5ad`.",
    "a whole mapping": "`bench/mapping.py`: from the query's file to its embedding, labels, pictures and updated model, from the start"
    " of Python to its end: all steps of refmap, with the reference's cells looked at before, beside one script of scvi-tools,"
    " scikit-learn and scanpy with the same model, epochs and early stopping.",
}
# What most of a step's time goes into, and what it holds
LIMITS = {
    "ALIGN_REFERENCE": "reading the counts twice, to choose genes and to write them; those of 30,000 cells are held",
    "TRAIN_REFERENCE": "scvi-tools' trainer: all counts of the chosen genes are held, all weights learned",
    "PREPARE_REFERENCE": "reading the counts; a block of cells is held",
    "EMBED_REFERENCE": "the import of torch, then a product with the first layer",
    "CALIBRATE_REFERENCE": "the neighbours of held-out cells, and a UMAP of 100,000 cells at most",
    "ALIGN_GENES": "reading and writing the counts; a block of cells is held",
    "TRAIN_SURGERY": "the import of torch, then the likelihood of all counts in each epoch",
    "EXPORT_EMBEDDING": "neighbours among the reference's cells; 50,000 cells at most are compared with it by their genes, and drawn;"
    " the query's file, read and written by blocks",
}
LIBRARIES = {"core": ["anndata", "numpy", "scikit-learn", "scanpy", "umap-learn"], "scvi": ["scvi-tools", "torch"]}


def task_of(what: str) -> str:
    return next(task for task in TASKS if what.startswith(task))


def table(head: list[str], rows: Iterable[list[str]], numbers: int) -> str:
    """A table of Markdown whose last so many columns are numbers."""
    rule = ["---"] * (len(head) - numbers) + ["---:"] * numbers
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def seconds(cpu: float) -> str:
    return f"{cpu:,.0f}" if cpu >= 100 else f"{cpu:.1f}" if cpu >= 10 else f"{cpu:.2f}"


def pair(found: Comparison) -> list[str]:
    least, ratio, most = found.ratios
    scaled = f", from {found.of:,}" if found.of else ""
    return [
        found.what, found.library + scaled, f"{found.cells:,}", seconds(found.ours), seconds(found.theirs),
        f"{ratio:.1f} ({least:.1f}-{most:.1f})", f"{found.our_peak / GB:.2f}", f"{found.their_peak / GB:.2f}", str(found.rounds),
    ]  # fmt: skip


def by_step(rows: Iterable[Row]) -> dict[str, dict[int, Row]]:
    """Of each step, in the order of the pipeline, the last row by the number of cells."""
    found: dict[str, dict[int, Row]] = {step: {} for step in (*ATLAS, *CELLS, *MAPPING)}
    for row in rows:
        if row.way == OURS and row.what in found:
            found[row.what][row.cells] = row
    return {step: of for step, of in found.items() if of}


def slope(of: dict[int, Row]) -> float | None:
    """Milliseconds of CPU that one cell more takes, from the two largest sizes that were run alike; None of one size."""
    known = sorted(cells for cells, row in of.items() if row.cpu is not None)
    alike = [cells for cells in known if of[cells].note == of[known[-1]].note][-2:]
    return 1_000 * (of[alike[1]].cpu - of[alike[0]].cpu) / (alike[1] - alike[0]) if len(alike) == 2 else None


def core_hours(steps: dict[str, dict[int, Row]], cells: int) -> tuple[float, float] | None:
    """Those of a reference's cells, once, and of FILES mappings of so many cells; None where a step was not run for them.

    The reference is the one that the query was mapped beside: the largest whose atlas was trained on.
    """
    whole = [n for n in sorted(steps.get(ATLAS[-1], {})) if all(done(steps, step, n) for step in CELLS)]
    if not whole or not all(done(steps, step, cells) for step in MAPPING):
        return None
    once, each = (sum(steps[step][n].cpu for step in names) for names, n in ((CELLS, whole[-1]), (MAPPING, cells)))
    return once / 3600, FILES * each / 3600


def done(steps: dict[str, dict[int, Row]], step: str, cells: int) -> bool:
    """Whether a step was run for so many cells."""
    row = steps.get(step, {}).get(cells)
    return row is not None and row.cpu is not None


def versions() -> str:
    """Of what is compared, from the environments' locks."""
    found = {}
    for env, names in LIBRARIES.items():
        lock = (ROOT / f"containers/{env}/requirements.lock").read_text()
        found |= {name: re.search(rf"^{name}==(\S+)", lock, re.MULTILINE)[1] for name in names}
    return ", ".join(f"{name} {version}" for name, version in found.items())


def write_page(rows: list[Row], sizes: list[int], page: Path, picture: Path) -> None:
    """Write the page, and the picture that it shows: `sizes` are numbers of cells that steps are told for, run or not."""
    rows = list({(row.what, row.way, row.cells, row.round): row for row in rows}.values())
    steps, pairs = by_step(rows), compare(rows)
    sizes = sorted({*sizes, *(cells for of in steps.values() for cells in of)})
    page.write_text(text(rows, steps, pairs, sizes, picture.relative_to(page.parent)))
    draw(steps, picture)


def text(rows: list[Row], steps: dict, pairs: list[Comparison], sizes: list[int], picture: Path) -> str:
    measured = [row for row in rows if row.cpu is not None]
    loads = sorted(row.load for row in measured if row.load is not None)
    machines, commits = (list(dict.fromkeys(getattr(row, name) for row in measured)) for name in ("machine", "commit"))
    tasks = dict.fromkeys(task_of(found.what) for found in pairs)
    missing = [row for row in rows if row.cpu is None and row.what not in steps]

    def cell(step: str, size: int) -> str:
        row = steps[step].get(size)
        if row is None or row.cpu is None:
            return row.note if row else "not run"
        return f"{seconds(row.cpu)} s, {row.peak / GB:.2f} GB" + f", {row.note}" * bool(row.note)

    def growth(step: str) -> str:
        found = slope(steps[step])
        return "" if found is None else f"{max(found, 0):.2f}"

    costs = [(size, hours) for size in sizes if (hours := core_hours(steps, size))]
    lines = [
        "# Performance",
        "",
        "`make bench` measures all of this, and writes this page and its picture ([bench/performance.py](../bench/performance.py));"
        " it takes an hour or two on two free cores, and `make bench QUICK=1` some minutes for fewer cells. What a step asks for,"
        " and many mappings at once: [scale.md](scale.md). The engine of surgery, part by part: [engine.md](engine.md).",
        "",
        f"Measured on {' and '.join(machines)}; refmap at commit {', '.join(commits)}; {versions()}. No GPU was used. Times are seconds"
        " of CPU on one thread, of all processes together, and memory is the most that a process held, with Python and its libraries."
        + (
            f" While this was measured, {loads[0]:.0f} to {loads[-1]:.0f} processes wanted a core (half of the time more than"
            f" {loads[len(loads) // 2]:.0f}): seconds of CPU grow where caches are shared, so the ratios, which were measured by turns,"
            " say more than the seconds."
            if loads
            else ""
        ),
        "",
        "## Beside the libraries",
        "",
        "Two ways to the same result by turns in one run, each in processes of its own: medians over the rounds, and the ratio of the"
        " library's seconds to refmap's in a round as median (least-greatest). Above 1, refmap takes less. Where no more is said, the"
        " imports are left out of the seconds.",
        "",
        table(
            ["task", "beside", "cells", "refmap, s", "library, s", "ratio", "refmap, GB", "library, GB", "rounds"],
            map(pair, pairs),
            7,
        ),
        "",
        *(f"- **{task}**: {TASKS[task]}" for task in tasks),
        *(f"- **{row.what}** of {row.cells:,} cells by {row.way} was not measured: {row.note}" for row in missing),
        "",
        "## By the cells",
        "",
        "Each step's own command, on made cells of 20 types x 30,000 genes, 800 counts a cell, in an .h5ad. A query is mapped beside the"
        " largest reference whose atlas was trained on, for one epoch, onto a model of 2,000 genes, with the pipeline's defaults; surgery ended"
        " after the epochs that are told, and beyond 100,000 cells it was given one.",
        "",
        f"![Seconds of CPU and memory of each step by the number of cells]({picture})",
        "",
        table(
            ["step", "what limits it", *(f"{size:,} cells" for size in sizes), "ms a cell more"],
            ([f"`{step}`", LIMITS[step], *(cell(step, size) for size in sizes), growth(step)] for step in steps),
            len(sizes) + 1,
        ),
        "",
        "## In a cloud",
        "",
        f"An atlas of {FILES} files that are mapped onto one model, beside its reference's cells, each file in tasks of its own. Small ones"
        " that share tasks (`--mappings_per_task`) pay for the start of Python once, and take less.",
        "",
        table(
            ["cells a file", "cells in all", "the reference, once, core hours", f"{FILES} mappings, core hours", "in all, core hours"],
            (
                [f"{size:,}, {steps['TRAIN_SURGERY'][size].note}", f"{FILES * size:,}", *(f"{hours:.2f}" for hours in (*found, sum(found)))]
                for size, found in costs
            ),
            5,
        )
        if costs
        else "Not every step was run for the same number of cells, so there is no sum.",
        "",
        "The price is *core hours x the price of a core hour*, which differs by provider, region and month: put in yours. Clouds charge for"
        " the time on the clock of the cores that a task asks for, not for seconds of CPU: a step that asks for two cores and keeps one"
        " busy costs twice what stands here, and the start of a machine and of a container comes to each task.",
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def draw(steps: dict[str, dict[int, Row]], picture: Path) -> None:
    """Seconds and memory of each step against cells, both on scales of powers of ten."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.hashsalt": "refmap", "svg.fonttype": "none", "font.size": 9})
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    colors = plt.get_cmap("tab10").colors
    for number, (step, of) in enumerate(steps.items()):
        known = sorted((cells, row) for cells, row in of.items() if row.cpu is not None)
        style = {"color": colors[number % 10], "marker": "o", "markersize": 3, "linestyle": "-" if step in MAPPING else "--"}
        cells = [size for size, _row in known]
        axes[0].plot(cells, [row.cpu for _size, row in known], label=step, **style)
        axes[1].plot(cells, [row.peak / GB for _size, row in known], **style)
    for ax, what in zip(axes, ("seconds of CPU", "GB held at most"), strict=True):
        ax.set(xscale="log", yscale="log", xlabel="cells", ylabel=what)
        ax.xaxis.set_major_formatter("{x:,.0f}")
        ax.yaxis.set_major_formatter("{x:,g}")
        ax.yaxis.set_minor_formatter("{x:g}" if what.startswith("GB") else "")
        ax.grid(which="major", alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8, title="dashed: once a reference")
    figure.savefig(picture, metadata={"Date": None})
    plt.close(figure)
