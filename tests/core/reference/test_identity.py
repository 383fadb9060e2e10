"""Under which key what a reference's cells say is kept."""

import os
import shutil

import pytest
from refmap.reference.identity import reference_key

REQUEST = {"trained": False, "reference": "atlas.h5ad", "layer": None, "transfer_keys": ["cell_type"]}


@pytest.fixture
def key(tmp_path):
    (tmp_path / "atlas.h5ad").write_bytes(b"counts")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/adata.h5ad").write_bytes(b"cells")
    (tmp_path / "model/model.pt").write_bytes(b"weights")

    def of(cells="atlas.h5ad", airr=None, model="model", card=None, settings=None, code="1", **request):
        paths = [tmp_path / name if name else None for name in (cells, airr, model)]
        return reference_key(REQUEST | request, *paths, card or {"sha256": "abc"}, settings or {"seed": 0}, code)

    return of


def test_it_follows_contents_and_neither_place_nor_date(key, tmp_path):
    (tmp_path / "other").mkdir()
    shutil.copy(tmp_path / "atlas.h5ad", tmp_path / "other/atlas.h5ad")
    os.utime(tmp_path / "other/atlas.h5ad", (0, 0))
    assert key() == key(cells="other/atlas.h5ad")


def test_it_changes_with_whatever_the_scale_hangs_on(key, tmp_path):
    first = key()
    others = [
        key(code="2"),
        key(settings={"seed": 1}),
        key(card={"sha256": "abd"}),
        key(transfer_keys=["level"]),
        key(airr="model/model.pt"),
        key(cells=None),
    ]
    before = (tmp_path / "atlas.h5ad").stat()
    (tmp_path / "atlas.h5ad").write_bytes(b"Counts")  # of the same size and date
    os.utime(tmp_path / "atlas.h5ad", (before.st_atime, before.st_mtime))
    assert len({first, key(), *others}) == 8


def test_the_folder_of_the_model_counts_where_the_cells_may_lie_in_it(key, tmp_path):
    named, saved = key(), key(reference=None, cells=None)
    (tmp_path / "model/adata.h5ad").write_bytes(b"other")
    assert key() == named and key(reference=None, cells=None) != saved
