"""Which mappings share tasks."""

from refmap.sheet.sheet import bundled


def rows(*onto: tuple[str, str | None]) -> list[dict]:
    return [{"model": model, "cells": {"reference": cells, "transfer_keys": []}} for model, cells in onto]


def test_a_bundle_has_one_model_and_its_same_cells_and_no_more_rows_than_asked_for():
    a, b, near = ("a", None), ("b", None), ("a", "cells.h5ad")
    found = bundled(rows(a, b, a, near, a, b, a, near), 2)
    assert [row["bundle"] for row in found] == [0, 1, 0, 2, 3, 1, 3, 2]
    assert [row["bundle"] for row in bundled(rows(a, a, b), 1)] == [0, 1, 2]


def test_a_row_that_is_added_leaves_the_bundles_of_the_others():
    before = rows(*[("a", None)] * 5)
    assert bundled(before + rows(("b", None)), 2)[:5] == bundled(before, 2)
