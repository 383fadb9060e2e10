"""What the tests of every environment share."""

import sys

import pytest
from runs import ROOT, Run

sys.path.insert(0, str(ROOT / "bin"))


@pytest.fixture(scope="session")
def pbmc():
    """700 PBMCs x 765 genes as counts (CSR float32), obs ``bulk_labels`` and ``batch``; copy before changing it."""
    from refmap.sheet.demo import pbmc_counts

    return pbmc_counts()


@pytest.fixture
def in_one_process(monkeypatch):
    """Commands of two stages do both in this process, as one that is forked from it could not compute with threads."""
    from refmap.common import cli

    def call(work) -> int:
        try:
            work()
        except SystemExit as end:
            return end.code
        return 0

    monkeypatch.setattr(cli, "set_apart", call)
    monkeypatch.setattr(cli.resource, "setrlimit", lambda *_: None)  # it would hold for all tests that follow


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> Run:
    """The demo with a handful of epochs, on this machine, each mapping in tasks of its own."""
    return Run(tmp_path_factory.mktemp("demo"), "-profile", "test", "--mappings_per_task", "1")
