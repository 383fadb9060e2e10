"""What the benchmarks make of what they measured, and that the commands which they run are those of the steps."""

import importlib.util
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "bin")]

from lib import made, measuring, page, steps  # noqa: E402
from lib.measuring import GB, OURS, Row, Spent, alternate, compare, part, read_rows, run  # noqa: E402
from resources import requests  # noqa: E402


def rows_of(what: str, way: str, cells: int, *cpu: float, gb: float = 1) -> list[Row]:
    return [
        Row(what, way, cells, number, value, int(gb * GB), machine="a machine", commit="abc", load=2.0)
        for number, value in enumerate(cpu)
    ]


# --- two ways by turns ------------------------------------------------------------------------------------------------------


def test_ratios_are_those_of_a_round_and_medians_those_of_rounds_that_both_have():
    rows = (
        rows_of("UMAP", OURS, 100, 1, 2, 10, gb=1)
        + rows_of("UMAP", "scanpy", 100, 3, 4, gb=2)
        + [Row("UMAP", "scanpy", 100, 2, note="killed")]
    )
    (found,) = compare(rows)
    assert (found.what, found.library, found.cells, found.rounds) == ("UMAP", "scanpy", 100, 2)
    assert (found.ours, found.theirs, found.ratios) == (1.5, 3.5, (2.0, 2.5, 3.0))
    assert (found.our_peak, found.their_peak) == (GB, 2 * GB)


def test_what_is_measured_again_counts_and_what_one_way_alone_did_is_not_compared():
    rows = (
        rows_of("UMAP", OURS, 100, 1)
        + rows_of("UMAP", "scanpy", 100, 3)
        + rows_of("UMAP", "scanpy", 100, 5)
        + rows_of("UMAP", OURS, 200, 1)
    )
    (found,) = compare(rows)
    assert found.cells == 100 and found.ratios == (5, 5, 5)


def test_ways_are_taken_by_turns_and_one_that_fails_is_said_and_not_tried_again(monkeypatch, tmp_path):
    taken = []

    def pretend(env, command):
        taken.append(command)
        if command == "broken":
            raise measuring.Failed("broken\nTraceback\nIt ended with status 1.")
        return Spent(2.0, 3.0, GB, {"some": 1.0} if command == "part" else {})

    monkeypatch.setattr(measuring, "run", pretend)
    monkeypatch.setenv(measuring.ROWS, str(tmp_path / "rows.jsonl"))
    rows = alternate("task", 100, {OURS: ("core", "ours"), "x": ("core", "broken"), "y": ("core", "part")}, 3, of={"y": 20})
    assert taken == ["ours", "broken", "part", "part", "ours", "ours", "part"]
    assert [(row.way, row.round, row.what, row.cpu, row.of, row.note) for row in rows[:3]] == [
        (OURS, 0, "task", 2.0, None, None),
        ("x", 0, "task", None, None, "It ended with status 1."),
        ("y", 0, "some", 1.0, 20, None),  # a part of it, told of a fifth of the cells
    ]
    assert read_rows(tmp_path / "rows.jsonl") == rows and rows[0].machine and rows[0].load is not None


def test_a_command_is_measured_with_its_children_and_what_it_says_of_its_parts(tmp_path):
    script = tmp_path / "held"
    child = f"import sys, time; sys.path.insert(0, {str(ROOT / 'bench')!r}); from lib.measuring import part\nkept = bytearray(200 << 20)\nwith part('busy'):\n    while time.process_time() < 0.4: pass\ntime.sleep(0.2)"
    script.write_text(f'#!/bin/bash\npython3 -c "{child}" & wait $!\n')
    script.chmod(0o755)
    spent = run("core", os.path.relpath(script, ROOT / "bin"))
    assert spent.peak > 200 << 20 and spent.cpu >= 0.4 and 0 < spent.parts["busy"] <= spent.cpu
    script.write_text("#!/bin/bash\necho what is wrong; exit 3\n")
    with pytest.raises(measuring.Failed, match=r"(?s)what is wrong.*status 3"):
        run("core", os.path.relpath(script, ROOT / "bin"))


def test_a_part_outside_of_a_measured_child_is_told_to_nobody(monkeypatch, tmp_path):
    monkeypatch.delenv(measuring.PARTS, raising=False)
    monkeypatch.chdir(tmp_path)
    with part("some"):
        pass
    assert not list(tmp_path.iterdir())


# --- the page ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path) -> tuple[str, str]:
    """A page and its picture: all steps took 1 s for 10 cells and 3 s for 100, but that one is not run for 100."""
    rows = rows_of("UMAP", OURS, 100, 1.0, 1.2) + rows_of("UMAP", "scanpy", 100, 2.0, 1.2)
    for step in (*page.ATLAS, *page.CELLS, *page.MAPPING):
        small, large = rows_of(step, OURS, 10, 1.0, gb=0.5), rows_of(step, OURS, 100, 3.0)
        if step == "TRAIN_SURGERY":
            small, large = ([replace(row, note=note) for row in of] for of, note in ((small, "7 epochs"), (large, "1 epoch")))
        rows += small + ([Row(step, OURS, 100, note="It ended with status 137.")] if step == page.MAPPING[-1] else large)
    rows.append(Row("iLISI", "scib-metrics", 100, note="it is not there"))
    (tmp_path / "images").mkdir()
    page.write_page(rows, [10, 1_000], tmp_path / "page.md", tmp_path / "images/picture.svg")
    return (tmp_path / "page.md").read_text(), (tmp_path / "images/picture.svg").read_text()


def test_the_page_tells_ratios_steps_and_what_was_not_run(written):
    text, _picture = written
    assert "| UMAP | scanpy | 100 | 1.10 | 1.60 | 1.5 (1.0-2.0) | 1.00 | 1.00 | 2 |" in text
    assert "- **iLISI** of 100 cells by scib-metrics was not measured: it is not there" in text
    first, last = page.MAPPING[0], page.MAPPING[-1]
    assert f"| `{first}` | {page.LIMITS[first]} | 1.00 s, 0.50 GB | 3.00 s, 1.00 GB | not run | 22.22 |" in text
    assert "| 1.00 s, 0.50 GB, 7 epochs | 3.00 s, 1.00 GB, 1 epoch | not run |  |" in text  # which do not compare
    assert f"| `{last}` | {page.LIMITS[last]} | 1.00 s, 0.50 GB | It ended with status 137. | not run |  |" in text
    assert "a machine" in text and "commit abc" in text and "scvi-tools 1." in text


def test_core_hours_are_those_of_the_reference_once_and_of_a_hundred_files(written):
    text, _picture = written
    once, mapping = 3.0 * len(page.CELLS) / 3600, 100 * 1.0 * len(page.MAPPING) / 3600
    assert f"| 10, 7 epochs | 1,000 | {once:.2f} | {mapping:.2f} | {once + mapping:.2f} |" in text
    assert "| 100 | 10,000 |" not in text  # of which a step was not run


def test_the_picture_names_every_step(written):
    names = set(re.findall(r">([A-Z_]{5,})</text>", written[1]))
    assert names == {*page.ATLAS, *page.CELLS, *page.MAPPING} == set(page.LIMITS)


# --- the cells that are made --------------------------------------------------------------------------------------------------


def test_made_cells_are_the_same_in_every_form_and_as_deep_as_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(made, "BLOCK", 70)
    for form in ("h5ad", "zarr", "dense"):
        made.write_cells(tmp_path / form, 200, genes=300, depth=100, form=form)
    cells, same, dense = ad.read_h5ad(tmp_path / "h5ad"), ad.read_zarr(tmp_path / "zarr"), ad.read_h5ad(tmp_path / "dense")
    assert cells.shape == (200, 300) and (cells.X != same.X).nnz == 0 and (cells.X.toarray() == dense.X).all()
    assert 80 < cells.X.sum(axis=1).mean() < 130 and set(cells.obs["donor"]) == {"d1", "d2"}
    # Cells of a type are alike, those of others are not
    of = [(cells.obs["cell_type"] == f"type {i % 2}") & (cells.obs["donor"] == f"d{1 + i // 2}") for i in range(4)]
    profiles = np.corrcoef([dense.X[some.to_numpy()].sum(axis=0) for some in of])
    assert min(profiles[0, 2], profiles[1, 3]) > max(profiles[0, 1], profiles[2, 3])


def test_thinned_cells_are_parts_of_real_ones_with_their_labels(tmp_path, pbmc):
    cells = pbmc[:50].copy()
    cells.write_h5ad(tmp_path / "real.h5ad")
    source = made.Source.read(tmp_path / "real.h5ad", "batch", "bulk_labels")
    made.write_cells(tmp_path / "thin.h5ad", 120, genes=1_000, depth=40, batches=("q",), source=source)
    thin = ad.read_h5ad(tmp_path / "thin.h5ad")
    assert thin.shape == (120, 1_000) and list(thin.var_names[: cells.n_vars]) == list(cells.var_names)
    assert 30 < thin.X.sum(axis=1).mean() < 50 and thin.X[:, cells.n_vars :].nnz == 0
    real, found = cells.X.toarray(), thin.X[:, : cells.n_vars].toarray()
    for row, label, donor in zip(found, thin.obs["cell_type"], thin.obs["donor"]):
        of = np.flatnonzero((row <= real).all(axis=1))
        assert (label, donor.removeprefix("q ")) in set(
            zip(cells.obs["bulk_labels"].iloc[of], cells.obs["batch"].astype(str).iloc[of])
        )


# --- the commands that are measured -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", sorted((ROOT / "bench").glob("*.py")), ids=lambda path: path.stem)
def test_a_benchmark_can_be_read_with_the_code_as_it_is(script, monkeypatch):
    spec = importlib.util.spec_from_file_location(f"bench_{script.stem}", script)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # where dataclasses look for it
    spec.loader.exec_module(module)
    assert any(hasattr(value, "params") for value in vars(module).values())  # a command


def every_step() -> dict[str, tuple[str, str]]:
    return (
        steps.reference_steps("scvi", embedded=True)
        | steps.cells_steps("cells.h5ad", "scvi")
        | steps.mapping_steps("query.h5ad", "scvi", scale=True)
    )


@pytest.mark.parametrize("step", every_step())
def test_a_steps_command_has_the_options_that_it_is_given_and_is_given_those_it_needs(step):
    name, *words = every_step()[step][1].split()
    command = importlib.import_module(name.removesuffix(".py")).__dict__
    (command,) = [value for value in command.values() if hasattr(value, "params")]
    known = {option: parameter for parameter in command.params for option in parameter.opts}
    given = {word for word in words if word.startswith("--")}
    assert given <= known.keys() and {option for option, parameter in known.items() if parameter.required} <= given
    assert (ROOT / "modules" / step.lower() / "main.nf").exists()


def test_what_a_step_asks_for_is_read_from_the_configuration():
    size = {"cells": 1_000, "values": 1_000_000, "all_passes": 10_000, "passes": 10_000, "all_cells": 1_000, "mappings": 1}
    size |= {"bytes": 10_000_000, "all_bytes": 10_000_000}
    memory, time = requests("TRAIN_SURGERY", size)
    assert memory == 3 * GB + 1024 * 1_000 + 48 * 1_000_000 and time == 3600 + 60 + 10
    assert requests("REPORT", size) == (2 * GB, 3600)
    for step in every_step():
        assert min(requests(step, size)) >= 1800
