"""A made reference, and a query with a type that it lacks."""

import pytest
from made_cells import KNOWN, Made, make


@pytest.fixture(scope="session")
def reference() -> Made:
    """360 cells of four types in three batches that differ a little."""
    return make(KNOWN, 3, 1, 0.2)


@pytest.fixture(scope="session")
def query() -> Made:
    """The four types and a fifth, which the latent puts where type 0 lies, in two batches that differ from the reference."""
    return make({"type 0": 60, "type 1": 50, "type 2": 50, "type 3": 50, "type 4": 30}, 2, 2, 0.5, {"type 4": "type 0"})
