"""What the tests of every environment share."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bin"))


@pytest.fixture(scope="session")
def pbmc():
    """700 PBMCs x 765 genes as counts (CSR float32), obs ``bulk_labels`` and ``batch``; copy before changing it."""
    from refmap.demo import pbmc_counts

    return pbmc_counts()
